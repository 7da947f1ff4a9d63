"""What llama.cpp computes otherwise than a config says is told, and only that."""

from __future__ import annotations

import pytest

from edge_runtime.artifact.departures import departures

SIZES = {
    "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
    "max_position_embeddings": 8192,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "qwen3_moe", "norm_topk_prob": False}, "always normalizes"),
        ({"model_type": "qwen3_moe"}, "norm_topk_prob is false"),
        ({"model_type": "qwen2_moe", "norm_topk_prob": True}, "never normalizes"),
        ({"model_type": "mistral", "sliding_window": 4096}, "beyond 4096 tokens"),
        ({"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": True}, "beyond 32"),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 224, "head_dim": 256}, "root of 256"),
        (
            {"model_type": "llama", "rope_scaling": {"type": "yarn", "factor": 4.0,
                                                     "attention_factor": 1.5}},
            "computes with 1.13863",
        ),
        (
            {"model_type": "qwen3", "rope_parameters": {"rope_type": "yarn", "factor": 4.0,
                                                        "beta_fast": 16}},
            "beta_fast is 16",
        ),
    ],
)  # fmt: skip
def test_a_departure_is_told(config: dict[str, object], words: str) -> None:
    (sentence,) = departures({**SIZES, **config})
    assert words in sentence


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama"},
        {"model_type": "qwen3_moe", "norm_topk_prob": True},
        {"model_type": "qwen2_moe"},
        {"model_type": "olmoe", "norm_topk_prob": False},
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "mistral", "sliding_window": 8192},
        {"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": False},
        {"model_type": "gemma2", "query_pre_attn_scalar": 256, "head_dim": 256},
        {"model_type": "gemma2", "query_pre_attn_scalar": 144, "head_dim": 128,
         "num_hidden_layers": 46, "hidden_size": 4608, "num_attention_heads": 32},
        {"model_type": "llama", "rope_scaling": {"type": "yarn", "factor": 4.0, "beta_slow": 1}},
        {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}},
    ],
)  # fmt: skip
def test_a_model_that_runs_as_stated_is_not_talked_about(config: dict[str, object]) -> None:
    assert departures({**SIZES, **config}) == ()
