"""A shape comes back from its own metadata and tensors; rotary tables are what they must be."""

from __future__ import annotations

import struct

import pytest

import profiles
from edge_runtime.artifact import ModelShape, ValueType
from edge_runtime.artifact.keys import SEGMENTS_KEY, metadata_of, rope_table
from edge_runtime.errors import FormatError, UnsupportedError

FAMILY_CONFIGS = {
    "mixtral": {"model_type": "mixtral"},
    "qwen2moe": {"model_type": "qwen2_moe"},
    "pythia": {"model_type": "gpt_neox"},
    "no parallel residual": {"model_type": "gpt_neox", "use_parallel_residual": False},
    "stablelm 12b": {
        "model_type": "stablelm", "qk_layernorm": True, "use_parallel_residual": True,
        "use_qkv_bias": True,
    },
    "olmo3": {"model_type": "olmo2", "sliding_window": 4096},
    "own pattern": {
        "model_type": "gemma2", "layer_types": ["full_attention", "sliding_attention"] * 13,
    },
    "no windows": {"model_type": "gemma3_text", "sliding_window_pattern": 1},
    "yarn": {
        "model_type": "qwen2",
        "rope_scaling": {
            "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768,
            "beta_fast": 32, "beta_slow": 1, "attention_factor": 1.1, "extrapolation_factor": 1.0,
        },
    },
    "odd theta": {"model_type": "gemma", "rope_theta": 1234.5},
    "bert": {"model_type": "bert"},
    "bert without token types": {"model_type": "distilbert"},
    "biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
}  # fmt: skip


def configs():
    return {**{n: e.config for n, e in profiles.models().items()}, **FAMILY_CONFIGS}


def stored(shape):
    """The metadata as a reader finds it: float32 where the file has float32."""
    metadata = {"general.architecture": shape.architecture, "general.name": shape.name}
    for key, kind, value in metadata_of(shape):
        narrow = kind is ValueType.FLOAT32
        metadata[key] = struct.unpack("<f", struct.pack("<f", value))[0] if narrow else value
    return metadata


@pytest.mark.parametrize("name", configs())
def test_a_shape_comes_back_from_its_own_header(name):
    shape = ModelShape.from_config(configs()[name], name=name)
    assert ModelShape.from_gguf(stored(shape), shape.tensors) == shape


@pytest.mark.parametrize("name", configs())
def test_keys_are_unique_and_of_the_architecture(name):
    shape = ModelShape.from_config(configs()[name], name=name)
    keys = [pair.key for pair in metadata_of(shape)]
    assert len(set(keys)) == len(keys)
    others = {key for key in keys if not key.startswith(f"{shape.architecture}.")}
    assert others == ({SEGMENTS_KEY} if shape.encoder else set())


def test_a_truncated_shape_states_its_own_layers():
    shape = ModelShape.from_config(configs()["gemma-3-1b"], name="x").truncated(5)
    metadata = {pair.key: pair.value for pair in metadata_of(shape)}
    assert metadata["gemma3.block_count"] == 5
    back = ModelShape.from_gguf(
        {**stored(shape), "edge_runtime.layers_of_model": 26}, shape.tensors
    )
    assert back == shape


def test_counts_given_per_layer_must_agree():
    shape = ModelShape.from_config(configs()["llama-3.2-1b"], name="x")
    same = {**stored(shape), "llama.attention.head_count_kv": (8,) * 16}
    assert ModelShape.from_gguf(same, shape.tensors) == shape
    other = {**stored(shape), "llama.attention.head_count_kv": (8,) * 15 + (4,)}
    with pytest.raises(FormatError, match="differs from layer to layer"):
        ModelShape.from_gguf(other, shape.tensors)


@pytest.mark.parametrize(
    "key", ["block_count", "embedding_length", "feed_forward_length", "attention.head_count"]
)
@pytest.mark.parametrize("value", [None, 0, -1, 2**40, "16", True, 1.5, ()])
def test_a_key_that_cannot_be_is_named(key, value):
    shape = ModelShape.from_config(configs()["llama-3.2-1b"], name="x")
    with pytest.raises(FormatError, match=key):
        ModelShape.from_gguf({**stored(shape), f"llama.{key}": value}, shape.tensors)


def test_a_header_without_an_architecture_is_no_model():
    with pytest.raises(FormatError, match="architecture"):
        ModelShape.from_gguf({}, ())
    with pytest.raises(UnsupportedError, match="'clip'"):
        ModelShape.from_gguf({"general.architecture": "clip"}, ())


def test_llama_3_factors_leave_short_waves_alone_and_stretch_long_ones():
    shape = ModelShape.from_config(configs()["llama-3.2-1b"], name="x")
    factors = rope_table(shape, "rope_freqs.weight")
    assert len(factors) == 32
    assert factors[0] == 1.0
    assert factors[-1] == 32.0
    assert list(factors) == sorted(factors)
    assert any(1.0 < factor < 32.0 for factor in factors)


def test_long_context_factors_are_the_configs():
    config = configs()["phi-4-mini"]
    shape = ModelShape.from_config(config, name="x")
    scaling = config["rope_scaling"]
    assert list(rope_table(shape, "rope_factors_long.weight")) == scaling["long_factor"]
    assert list(rope_table(shape, "rope_factors_short.weight")) == scaling["short_factor"]
    # sqrt(1 + ln(131072 / 4096) / ln(4096)), the rule of Microsoft's modelling code
    assert shape.rope_scaling.attention_factor == pytest.approx(1.1902380, abs=1e-6)


def test_unknown_factors_stretch_nothing():
    shape = ModelShape.from_config(configs()["llama-3.2-1b"], name="x")
    back = ModelShape.from_gguf(stored(shape), shape.tensors)
    assert rope_table(back, "rope_freqs.weight") == (1.0,) * 32


def test_a_wrong_number_of_long_context_factors_is_refused():
    config = dict(configs()["phi-4-mini"])
    config["rope_scaling"] = {**config["rope_scaling"], "short_factor": [1.0]}
    with pytest.raises(FormatError, match="factors instead of 48"):
        ModelShape.from_config(config, name="x")
