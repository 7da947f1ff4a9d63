"""The `genai_config.json` of a folder: how onnxruntime-genai finds inputs, sizes and tokens.

Its keys are those onnxruntime-genai 0.18 reads. Knows no weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from edge_runtime.artifact import ModelShape

_TYPES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "granite": "granite",
    "olmo2": "llama",
    "olmoe": "llama",
    "qwen2moe": "qwen2",
    "qwen3moe": "qwen3",
    "gpt2": "llama",
}
"""What onnxruntime-genai calls a decoder with these inputs, or the nearest it has a name for."""


_SEARCH: Mapping[str, object] = MappingProxyType(
    {
        "diversity_penalty": 0.0,
        "do_sample": False,
        "early_stopping": True,
        "length_penalty": 1.0,
        "max_length": 0,
        "min_length": 0,
        "no_repeat_ngram_size": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
    }
)
"""How onnxruntime-genai chooses tokens when nobody says."""


def genai_config(
    shape: ModelShape, config: Mapping[str, object], generation: Mapping[str, object]
) -> bytes:
    """Returns the file for a shape; tokens and habits are those of the checkpoint's two configs."""
    inner = config.get("text_config")
    sources = (generation, config, inner if isinstance(inner, Mapping) else {})

    def tokens(key: str) -> list[int]:
        for source in sources:
            stated = source.get(key)
            listed = stated if isinstance(stated, list) else [stated]
            if found := [n for n in listed if type(n) is int and 0 <= n < shape.vocabulary_tokens]:
                return found
        return []

    ends = tokens("eos_token_id") or [0]
    beginning = tokens("bos_token_id") or [0]
    filling = tokens("pad_token_id") or ends
    model: dict[str, object] = {
        "bos_token_id": beginning[0],
        "context_length": shape.context_tokens,
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": "model.onnx",
            "head_size": shape.head_dim,
            "hidden_size": shape.hidden,
            "inputs": {
                "input_ids": "input_ids",
                "attention_mask": "attention_mask",
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {
                "logits": "logits",
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
            },
            "num_attention_heads": shape.heads,
            "num_hidden_layers": shape.layers,
            "num_key_value_heads": shape.kv_heads,
        },
        "eos_token_id": ends if len(ends) > 1 else ends[0],
        "pad_token_id": filling[0],
        "type": _TYPES[shape.architecture],
        "vocab_size": shape.vocabulary_tokens,
    }
    search = {**_SEARCH, "max_length": shape.context_tokens, **_habits(generation)}
    return json.dumps({"model": model, "search": search}, indent=4).encode() + b"\n"


def _habits(generation: Mapping[str, object]) -> dict[str, object]:
    """How a checkpoint wants its tokens chosen; what cannot be meant is left out."""
    found: dict[str, object] = {}
    if isinstance(generation.get("do_sample"), bool):
        found["do_sample"] = generation["do_sample"]
    top_k = generation.get("top_k")
    if type(top_k) is int and 0 < top_k < 2**31:
        found["top_k"] = top_k
    for key, most in (("temperature", 100.0), ("top_p", 1.0), ("repetition_penalty", 100.0)):
        value = generation.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most:
            found[key] = float(value)
    return found
