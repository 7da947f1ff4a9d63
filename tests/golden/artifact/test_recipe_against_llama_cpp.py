"""The recipe is llama.cpp's own: its quantizer, asked in a dry run, must choose the same types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import profiles
from edge_runtime.artifact import LEVELS, ModelShape, types_for
from edge_runtime.errors import UnsupportedError

pytestmark = pytest.mark.engine

# What the catalogue has no model of: experts by the four and the eight, the special 70B rule, rows
# that fit no block at all, biases everywhere, depths where an eighth of the layers is none.
CONFIGS: dict[str, dict[str, object]] = {
    "mixtral": {"model_type": "mixtral"},
    "odd mixtral": {
        "model_type": "mixtral", "hidden_size": 896, "intermediate_size": 1000,
        "num_attention_heads": 14, "num_key_value_heads": 2, "num_hidden_layers": 9,
    },
    "four experts": {
        "model_type": "mixtral", "hidden_size": 1024, "intermediate_size": 2048,
        "num_attention_heads": 16, "num_key_value_heads": 8, "num_hidden_layers": 17,
        "num_local_experts": 4,
    },
    "qwen2moe": {"model_type": "qwen2_moe"},
    "pythia": {
        "model_type": "gpt_neox", "hidden_size": 768, "num_attention_heads": 12,
        "num_hidden_layers": 12, "intermediate_size": 3072,
    },
    "llama 70b": {
        "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
        "num_attention_heads": 64, "num_key_value_heads": 8, "num_hidden_layers": 80,
    },
    "llama 65b": {
        "model_type": "llama", "hidden_size": 8192, "intermediate_size": 22016,
        "num_attention_heads": 64, "num_hidden_layers": 80,
    },
    "qwen 72b": {
        "model_type": "qwen2", "hidden_size": 8192, "intermediate_size": 29568,
        "num_attention_heads": 64, "num_key_value_heads": 8, "num_hidden_layers": 80,
    },
    "three layers": {"model_type": "llama", "num_hidden_layers": 3},
    "stories 260k": {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 172,
        "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 5,
        "vocab_size": 512,
    },
    "no block fits": {
        "model_type": "llama", "hidden_size": 72, "intermediate_size": 100,
        "num_attention_heads": 6, "num_key_value_heads": 1, "num_hidden_layers": 40,
        "vocab_size": 500, "attention_bias": True, "mlp_bias": True,
    },
    "stablelm 12b": {
        "model_type": "stablelm", "hidden_size": 5120, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 8, "qk_layernorm": True,
        "use_parallel_residual": True, "intermediate_size": 13824,
    },
    "gpt2 xl": {"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25},
    "bert": {"model_type": "bert"},
    "narrow bert": {"model_type": "bert", "hidden_size": 384, "intermediate_size": 1536},
    "starcoder2 7b": {
        "model_type": "starcoder2", "hidden_size": 4608, "num_attention_heads": 36,
        "num_key_value_heads": 4, "intermediate_size": 18432, "num_hidden_layers": 32,
    },
}  # fmt: skip

SAMPLE = (
    "narrow bert",
    "gemma-3-1b",
    "llama-3.2-1b",
    "no block fits",
    "odd mixtral",
    "phi-2",
    "phi-4-mini",
    "qwen2.5-0.5b",
    "qwen2.5-7b",
    "qwen2moe",
    "smollm2-135m",
)


def catalogue() -> dict[str, Mapping[str, Any]]:
    return {**{name: entry.config for name, entry in profiles.models().items()}, **CONFIGS}


def check(ask_llama, name: str) -> None:
    shape = ModelShape.from_config(catalogue()[name], name=name)
    wanted = [(level.name, level.ftype) for level in LEVELS.values()]
    answers = ask_llama(shape, levels=wanted)["plans"]
    for level in LEVELS.values():
        answer = answers[level.name]
        if "no tensor type fallback" in answer:
            with pytest.raises(UnsupportedError, match=level.name):
                types_for(shape, level)
            continue
        assert isinstance(answer, dict), f"{name} {level.name}: {answer}"
        ours = {tensor: kind.name for tensor, kind in types_for(shape, level).items()}
        assert ours == answer["types"], f"{name} at {level.name}"
        assert shape.weight_bytes(level.name) / 2**20 == pytest.approx(answer["mib"], abs=0.006)


@pytest.mark.parametrize("name", SAMPLE)
def test_every_tensor_gets_the_type_llama_cpp_chooses(ask_llama, name):
    check(ask_llama, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(catalogue().keys() - set(SAMPLE)))
def test_every_shape_at_every_level(ask_llama, name):
    check(ask_llama, name)


def test_the_order_of_tensors_is_the_quantizers(ask_llama):
    shape = ModelShape.from_config(catalogue()["llama-3.2-1b"], name="any")
    answer = ask_llama(shape, levels=[("Q4_K_M", LEVELS["Q4_K_M"].ftype)])["plans"]["Q4_K_M"]
    assert list(answer["types"]) == [tensor.name for tensor in shape.tensors]
