"""Synthetic artifacts of every family and level load in llama.cpp and compute finite numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

import quantize
from edge_runtime.artifact import LEVELS, Artifact, ModelShape
from edge_runtime.artifact.layout import FAMILIES
from quantize import QuantizeOptions, requantize, synthesize

pytestmark = pytest.mark.engine

SIZES = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 640,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
}  # fmt: skip
EXPERTS = {
    "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 512, "decoder_sparse_step": 1, "norm_topk_prob": True,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}  # fmt: skip
LONGROPE = {
    "type": "longrope", "long_factor": [1.5] * 32, "short_factor": [1.0] * 32
}  # fmt: skip
CONFIGS = {
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "llama-3": {"architectures": ["LlamaForCausalLM"], "rope_scaling": LLAMA3, "head_dim": 64},
    "mistral": {"architectures": ["MistralForCausalLM"], "head_dim": 64},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True},
    "qwen2moe": {"architectures": ["Qwen2MoeForCausalLM"], **EXPERTS},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 128},
    "qwen3moe": {"architectures": ["Qwen3MoeForCausalLM"], "head_dim": 64, **EXPERTS},
    "gemma": {"architectures": ["GemmaForCausalLM"], "head_dim": 128},
    "gemma2": {"architectures": ["Gemma2ForCausalLM"], "head_dim": 128},
    "gemma3": {"architectures": ["Gemma3ForCausalLM"], "head_dim": 128, "sliding_window": 512},
    "phi2": {"architectures": ["PhiForCausalLM"], "partial_rotary_factor": 0.5},
    "phi3": {"architectures": ["Phi3ForCausalLM"]},
    "phi3-longrope": {
        "architectures": ["Phi3ForCausalLM"],
        "rope_scaling": LONGROPE,
        "original_max_position_embeddings": 512,
    },
    "smollm3": {"architectures": ["SmolLM3ForCausalLM"]},
    "stablelm": {"architectures": ["StableLmForCausalLM"], "use_qkv_bias": True},
    "olmo2": {"architectures": ["Olmo2ForCausalLM"]},
    "olmoe": {"architectures": ["OlmoeForCausalLM"], "num_key_value_heads": 4, **EXPERTS},
    "granite": {
        "architectures": ["GraniteForCausalLM"], "embedding_multiplier": 12.0,
        "attention_multiplier": 0.0156, "residual_multiplier": 0.22, "logits_scaling": 8.0,
    },
    "starcoder2": {"architectures": ["Starcoder2ForCausalLM"]},
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"], "n_embd": 256, "n_layer": 2, "n_head": 4,
        "n_positions": 1024, "n_ctx": 1024,
    },
    "gptneox": {"architectures": ["GPTNeoXForCausalLM"], "rotary_pct": 0.25},
}  # fmt: skip


def shape_of(name: str, **changes: object) -> ModelShape:
    return ModelShape.from_config({**SIZES, **CONFIGS[name], **changes}, name=name)


LLAMA = {"architectures": ["LlamaForCausalLM"]}
TOKENS = [(37 * i) % 600 for i in range(600)]


def test_every_family_is_tried() -> None:
    decoders = {name for name, family in FAMILIES.items() if not family.encoder}
    assert {shape_of(name).architecture for name in CONFIGS} == decoders


@pytest.mark.parametrize("level", ["Q4_K_M", pytest.param("F16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CONFIGS)
def test_families_decode_to_finite_logits(engine, tmp_path: Path, name: str, level: str) -> None:
    artifact = synthesize(shape_of(name), level, tmp_path / "s.gguf")
    answer = engine(artifact.path, tokens=TOKENS, steps=8)
    assert answer["finite"]
    assert answer["spread"] > 1e-3  # not all the same either
    assert answer["vocabulary"] == artifact.vocabulary_tokens == 640


@pytest.mark.parametrize("level", LEVELS)
def test_levels_decode_to_finite_logits(engine, tmp_path: Path, level: str) -> None:
    artifact = synthesize(shape_of("llama"), level, tmp_path / "s.gguf")
    answer = engine(artifact.path, tokens=TOKENS, steps=8)
    assert answer["finite"]
    assert answer["spread"] > 1e-3


@pytest.mark.parametrize("level", ["Q8_0", "MXFP4_MOE", "Q4_K_M", "IQ4_XS"])
def test_experts_decode_to_finite_logits(engine, tmp_path: Path, level: str) -> None:
    artifact = synthesize(shape_of("qwen3moe"), level, tmp_path / "s.gguf")
    assert engine(artifact.path, tokens=TOKENS, steps=8)["finite"]


def test_rows_that_are_no_multiple_of_256_run_too(engine, tmp_path: Path) -> None:
    shape = shape_of("qwen2", hidden_size=224, intermediate_size=608, num_attention_heads=7,
                     num_key_value_heads=1)  # fmt: skip
    for level in ("Q4_K_M", "Q6_K", "IQ4_XS", "Q4_0", "Q2_K"):
        artifact = synthesize(shape, level, tmp_path / "s.gguf")
        assert engine(artifact.path, tokens=TOKENS[:64], steps=2)["finite"], level


DISTINCT = ("gemma3", "phi3", "qwen3moe", "gpt2", "olmo2", "starcoder2")
"""Families whose tensors differ most; the others are tried with -m slow."""


USUAL = ("F32", "BF16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_L", "Q2_K", "TQ2_0")


def table(artifact) -> list:
    # The quantizer leaves out dims of 1 at the end, which converted files have.
    return [
        (t.name, t.dims[:1] if t.dims[1:] == (1,) else t.dims, t.type.name, t.size_bytes)
        for t in artifact.tensors
    ]


@pytest.fixture(scope="module")
def full(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return quantize.convert(checkpoint, tmp_path_factory.mktemp("full") / "full.gguf")


@pytest.mark.parametrize(
    "level",
    [
        name if name in USUAL else pytest.param(name, marks=pytest.mark.slow)
        for name, level in LEVELS.items()
        if not level.needs_imatrix
    ],
)
def test_tensor_table_is_that_of_the_really_quantized_file(
    full: Artifact, tmp_path: Path, level: str
) -> None:
    real = requantize(full.path, tmp_path / "real.gguf", level)
    synthetic = synthesize(full.shape, level, tmp_path / "synthetic.gguf")
    assert table(synthetic) == table(real)
    assert synthetic.decode_bytes == real.decode_bytes


@pytest.mark.parametrize(
    "level",
    [
        "Q4_K_M",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("Q3_K_L", "IQ4_XS", "Q5_0", "Q2_K")),
    ],
)
@pytest.mark.parametrize(
    "name",
    [name if name in DISTINCT else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS],
)
def test_the_quantizer_gives_every_family_the_same_types(
    tmp_path: Path, name: str, level: str
) -> None:
    shape = shape_of(name, num_hidden_layers=4, n_layer=4)
    full = synthesize(shape, "F16", tmp_path / "full.gguf")
    real = requantize(full.path, tmp_path / "real.gguf", level, options=QuantizeOptions(threads=1))
    synthetic = synthesize(shape, level, tmp_path / "synthetic.gguf")
    assert table(synthetic) == table(real)
