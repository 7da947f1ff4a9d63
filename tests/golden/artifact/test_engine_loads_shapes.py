"""llama.cpp loads what our metadata and tensors describe, with the cache we predict."""

from __future__ import annotations

import pytest

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.ggml import GGML_TYPES
from edge_runtime.artifact.layout import FAMILIES

pytestmark = pytest.mark.engine

SMALL = {
    "hidden_size": 256,
    "intermediate_size": 320,
    "num_hidden_layers": 7,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 320,
    "max_position_embeddings": 8192,
}
GEMMA = {**SMALL, "head_dim": 64, "sliding_window": 512}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 2048,
}  # fmt: skip
CONFIGS: dict[str, dict[str, object]] = {
    "llama": {**SMALL, "model_type": "llama", "rope_scaling": LLAMA3},
    "biased llama": {**SMALL, "model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "wide llama": {**SMALL, "model_type": "llama", "head_dim": 64},
    "yarn": {
        **SMALL,
        "model_type": "qwen2",
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 2048,
            "rope_theta": 1e6,
        },
    },
    "mixtral": {**SMALL, "model_type": "mixtral"},
    "qwen2moe": {
        **SMALL,
        "model_type": "qwen2_moe",
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 96,
        "shared_expert_intermediate_size": 192,
    },
    "qwen3": {**SMALL, "model_type": "qwen3", "head_dim": 64, "tie_word_embeddings": True},
    "qwen3moe": {
        **SMALL,
        "model_type": "qwen3_moe",
        "head_dim": 64,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 96,
    },
    "gemma": {**GEMMA, "model_type": "gemma"},
    "gemma2": {**GEMMA, "model_type": "gemma2"},
    "gemma2 with its own pattern": {
        **GEMMA,
        "model_type": "gemma2",
        "layer_types": ["full_attention"] + ["sliding_attention"] * 6,
    },
    "gemma3": {**GEMMA, "model_type": "gemma3_text"},
    "gemma3 without windows": {**GEMMA, "model_type": "gemma3_text", "sliding_window_pattern": 1},
    "phi2": {**SMALL, "model_type": "phi"},
    "phi3": {**SMALL, "model_type": "phi3", "sliding_window": 512},
    "phi3 long": {
        **SMALL,
        "model_type": "phi3",
        "original_max_position_embeddings": 2048,
        "rope_scaling": {
            "type": "longrope",
            "long_factor": [1.5] * 16,
            "short_factor": [1.0] * 16,
        },
    },
    "smollm3": {**SMALL, "model_type": "smollm3"},
    "stablelm": {**SMALL, "model_type": "stablelm"},
    "stablelm with head norms": {
        **SMALL,
        "model_type": "stablelm",
        "qk_layernorm": True,
        "use_parallel_residual": True,
        "use_qkv_bias": True,
    },
    "olmo2": {**SMALL, "model_type": "olmo2"},
    "olmo2 with windows": {**SMALL, "model_type": "olmo2", "sliding_window": 512},
    "olmoe": {**SMALL, "model_type": "olmoe", "num_key_value_heads": 8},
    "granite": {**SMALL, "model_type": "granite"},
    "starcoder2": {**SMALL, "model_type": "starcoder2"},
    "gpt2": {"model_type": "gpt2", "n_embd": 256, "n_layer": 3, "n_head": 8, "vocab_size": 320},
    "gptneox": {**SMALL, "model_type": "gpt_neox"},
    "bert": {**SMALL, "model_type": "bert"},
    "bert without token types": {
        "model_type": "distilbert",
        "dim": 256,
        "n_layers": 3,
        "n_heads": 8,
        "hidden_dim": 320,
        "vocab_size": 320,
    },
}

CONTEXTS = (
    {"tokens": 512, "micro_batch": 512, "swa_full": False, "type_k": "f16", "type_v": "f16"},
    {"tokens": 5000, "micro_batch": 512, "swa_full": False, "type_k": "q8_0", "type_v": "q4_0"},
    {"tokens": 5000, "micro_batch": 100, "swa_full": False, "type_k": "f16", "type_v": "f16"},
    {"tokens": 1500, "micro_batch": 512, "swa_full": True, "type_k": "f16", "type_v": "f16"},
)


def test_every_family_is_tried():
    tried = {ModelShape.from_config(c, name="x").architecture for c in CONFIGS.values()}
    assert tried == set(FAMILIES)


@pytest.mark.parametrize("name", CONFIGS)
def test_llama_cpp_loads_it_and_allocates_the_cache_we_predict(ask_llama, name):
    shape = ModelShape.from_config(CONFIGS[name], name=name)
    asked = [
        {**c, **{key: GGML_TYPES[c[key].upper()].id for key in ("type_k", "type_v")}}
        for c in CONTEXTS
    ]
    answers = ask_llama(shape, contexts=asked)["kv"]
    for context, answer in zip(CONTEXTS, answers, strict=True):
        assert "error" not in answer, f"{name} {context}: {answer['error']}"
        assert answer["elements"] == sum(tensor.elements for tensor in shape.tensors)
        ours = shape.kv_bytes(
            context["tokens"],
            context["type_k"],
            context["type_v"],
            micro_batch_tokens=context["micro_batch"],
            swa_full=context["swa_full"],
        )
        # The log gives each buffer to two decimals.
        assert ours / 2**20 == pytest.approx(answer["mib"], abs=0.006 * answer["buffers"])
