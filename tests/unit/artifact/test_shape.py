"""Shapes: published parameter counts, sizes of weights and caches, refusals of absurd configs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import profiles
from edge_runtime.artifact import LEVELS, ModelShape, types_for
from edge_runtime.errors import EdgeError, FormatError, UnsupportedError, UsageError

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
}


def shape_of(config=None, **changes):
    merged = {**(LLAMA if config is None else config), **changes}
    return ModelShape.from_config(
        {key: value for key, value in merged.items() if value != "absent"}, name="model"
    )


@pytest.mark.parametrize("name", profiles.models())
def test_parameters_are_the_published_count(name):
    entry = profiles.models()[name]
    shape = ModelShape.from_config(entry.config, name=entry.name)
    assert shape.parameters == entry.parameters
    assert shape.name == entry.name


# Counts of the whole checkpoint, as their model cards or papers state them.
@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ({"model_type": "mixtral"}, 46_702_792_704),  # Mixtral 8x7B, safetensors total
        (
            {"model_type": "qwen2_moe", "vocab_size": 151936},
            14_315_784_192,  # Qwen1.5-MoE-A2.7B, safetensors total
        ),
        (
            {
                "model_type": "gpt_neox",
                "hidden_size": 2048,
                "intermediate_size": 8192,
                "num_hidden_layers": 16,
                "num_attention_heads": 8,
                "vocab_size": 50304,
            },
            1_011_781_632,  # Pythia 1B, table of its paper
        ),
        (
            {"model_type": "bert"},
            109_482_240 - 768 * 769,  # BERT base uncased, less the pooler, which files leave out
        ),
        ({"model_type": "distilbert"}, 66_362_880),  # DistilBERT base uncased
    ],
)
def test_parameters_of_families_without_a_catalogue_entry(config, parameters):
    assert ModelShape.from_config(config, name="x").parameters == parameters


def test_active_parameters_leave_out_the_experts_not_routed_to():
    shape = ModelShape.from_config({"model_type": "mixtral"}, name="Mixtral 8x7B")
    assert round(shape.active_parameters / 1e9, 1) == 12.9  # as its paper states
    dense = shape_of()
    assert dense.active_parameters == dense.parameters


@pytest.mark.parametrize("name", profiles.models())
def test_transformers_5_spells_the_same_shape(name):
    config = dict(profiles.models()[name].config)
    rope = dict(config.pop("rope_scaling", {}))
    if "type" in rope:
        rope["rope_type"] = rope.pop("type")
    local = config.pop("rope_local_base_freq", None)
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in config:
            rope[key] = config.pop(key)
    if config["model_type"] == "gemma3_text":
        sliding = {"rope_type": "default", "rope_theta": local or 10000.0}
        rope.setdefault("rope_theta", 1000000.0)
        config["rope_parameters"] = {"full_attention": rope, "sliding_attention": sliding}
    elif config["model_type"] != "gpt2":
        config["rope_parameters"] = {"rope_type": "default", **rope}
    old = ModelShape.from_config(profiles.models()[name].config, name="x")
    assert ModelShape.from_config(config, name="x") == old


def test_a_multimodal_config_is_read_for_its_text():
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {**text, "sliding_window": 1024},
        "vision_config": {"hidden_size": 1152},
    }
    assert ModelShape.from_config(config, name="x").architecture == "gemma3"
    assert ModelShape.from_config(config, name="x").parameters == 3_880_263_168


def test_windowed_layers_are_those_llama_cpp_windows():
    config = profiles.models()
    gemma2 = ModelShape.from_config(config["gemma-2-2b"].config, name="x")
    assert gemma2.sliding_layers[:4] == (True, False, True, False)
    gemma3 = ModelShape.from_config(config["gemma-3-1b"].config, name="x")
    assert gemma3.sliding_layers[:7] == (True,) * 5 + (False, True)
    phi3 = ModelShape.from_config(config["phi-3-mini-4k"].config, name="x")
    assert phi3.sliding_window == 2047
    assert phi3.sliding_layers == ()
    mistral = ModelShape.from_config({"model_type": "mistral", "sliding_window": 4096}, name="x")
    assert mistral.sliding_window is None


def test_layer_types_of_a_config_decide():
    kinds = ["full_attention", "sliding_attention"] * 13
    shape = ModelShape.from_config({"model_type": "gemma3_text", "layer_types": kinds}, name="x")
    assert shape.sliding_layers == (False, True) * 13


def test_kv_cache_of_a_plain_model():
    shape = shape_of()
    row = 8 * 64
    assert shape.kv_bytes_per_token() == 16 * 2 * row * 2
    assert shape.kv_bytes(4096) == 4096 * 16 * 2 * row * 2
    assert shape.kv_bytes(4097) == shape.kv_bytes(4352)
    assert shape.kv_bytes(1) == shape.kv_bytes(256)
    assert shape.kv_bytes_per_token("q8_0", "q8_0") == 16 * 2 * row // 32 * 34
    assert shape.kv_bytes_per_token("q8_0", "q4_0") == 16 * row // 32 * (34 + 18)
    assert shape.kv_bytes_per_token("f32", "f32") == 2 * shape.kv_bytes_per_token()


def test_windowed_layers_hold_only_their_window_and_a_batch():
    shape = ModelShape.from_config(profiles.models()["gemma-3-1b"].config, name="x")
    cell = 2 * 256 * 2
    windowed, full = sum(shape.sliding_layers), 26 - sum(shape.sliding_layers)
    assert (windowed, full) == (22, 4)
    assert shape.kv_bytes(32768) == cell * (4 * 32768 + 22 * 1024)
    assert shape.kv_bytes(32768, micro_batch_tokens=128) == cell * (4 * 32768 + 22 * 768)
    assert shape.kv_bytes(32768, swa_full=True) == cell * 26 * 32768
    assert shape.kv_bytes(300) == cell * 26 * 512


@given(st.integers(1, 200_000), st.integers(1, 4096))
def test_a_longer_context_never_takes_less(tokens, more):
    shape = ModelShape.from_config(profiles.models()["gemma-3-1b"].config, name="x")
    assert shape.kv_bytes(tokens) <= shape.kv_bytes(tokens + more)
    assert shape.kv_bytes(tokens) <= shape.kv_bytes(tokens, swa_full=True)


def test_caches_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="holds nothing"):
        shape_of().kv_bytes(0)
    with pytest.raises(UnsupportedError, match="q3"):
        shape_of().kv_bytes(512, "q3")
    narrow = shape_of(head_dim=40)
    with pytest.raises(UsageError, match="40 wide"):
        narrow.kv_bytes(512, "q8_0", "q8_0")


def test_weights_at_a_level_are_the_sum_of_their_tensors():
    shape = shape_of()
    types = types_for(shape, LEVELS["Q4_K_M"])
    by_hand = sum(
        math.prod(t.dims) // types[t.name].block_elements * types[t.name].block_bytes
        for t in shape.tensors
    )
    assert shape.weight_bytes("q4_k_m") == by_hand
    assert shape.weight_bytes("F32") == 4 * sum(t.elements for t in shape.tensors)


def test_levels_are_listed_largest_first_for_a_7b_model():
    shape = ModelShape.from_config(profiles.models()["llama-2-7b"].config, name="x")
    # Without experts MXFP4_MOE is Q8_0: its place in the list is that of models with them.
    sizes = [shape.weight_bytes(name) for name in LEVELS if name != "MXFP4_MOE"]
    assert sizes == sorted(sizes, reverse=True)


def test_decoding_reads_one_row_of_an_untied_embedding():
    tied, untied = shape_of(), shape_of(tie_word_embeddings=False)
    assert tied.decode_bytes("F16") == tied.weight_bytes("F16")
    table = 2 * 2048 * 128256
    assert untied.weight_bytes("F16") == tied.weight_bytes("F16") + table
    assert untied.decode_bytes("F16") == tied.decode_bytes("F16") + 2 * 2048


def test_decoding_reads_the_routed_experts_only():
    shape = ModelShape.from_config({"model_type": "mixtral"}, name="x")
    experts = 32 * 8 * 3 * 4096 * 14336 * 2
    table = 2 * 4096 * 32000
    assert shape.decode_bytes("F16") == shape.weight_bytes("F16") - experts * 6 // 8 - table + 8192


def test_an_encoder_keeps_no_cache_and_decodes_nothing():
    shape = ModelShape.from_config({"model_type": "bert"}, name="x")
    assert shape.encoder
    assert shape.kv_bytes(512) == shape.kv_bytes_per_token() == 0
    assert shape.decode_bytes("Q8_0") == 0
    assert shape.weight_bytes("F32") == 4 * shape.parameters
    assert not ModelShape.from_config({"model_type": "gpt2"}, name="x").encoder


def test_positions_in_a_table_end_with_it():
    shape = ModelShape.from_config({"model_type": "gpt2"}, name="x")
    assert shape.position_rows == 1024
    assert ModelShape.from_config({"model_type": "llama"}, name="x").position_rows is None


def test_truncation_keeps_the_ends_and_says_what_it_was_cut_from():
    shape = ModelShape.from_config(profiles.models()["gemma-3-1b"].config, name="x")
    cut = shape.truncated(7)
    assert (cut.layers, cut.layers_of_model) == (7, 26)
    assert cut.sliding_layers == shape.sliding_layers[:7]
    per_layer = sum(t.elements for t in shape.tensors if t.name.startswith("blk.0."))
    assert shape.parameters - cut.parameters == 19 * per_layer
    assert cut.truncated(3).layers_of_model == 26
    assert shape.truncated(26) == shape
    for layers in (0, -1, 27):
        with pytest.raises(UsageError, match="cannot be cut"):
            shape.truncated(layers)


def test_a_null_takes_the_derived_value():
    assert shape_of(num_key_value_heads=None).kv_heads == 32
    assert shape_of(head_dim=None).head_dim == 64
    assert shape_of(head_dim="absent", hidden_size=4096).head_dim == 128


def test_an_absent_key_takes_the_class_default():
    shape = ModelShape.from_config({"architectures": ["MistralForCausalLM"]}, name="x")
    assert (shape.kv_heads, shape.intermediate, shape.layers) == (8, 14336, 32)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"]}, "Qwen3"),
        ({"model_type": "mamba"}, "'mamba'"),
        ({"model_type": "roberta", "architectures": ["RobertaModel"]}, "'RobertaModel'"),
        ({"model_type": "x" * 10_000}, "not supported"),
    ],
)
def test_an_unknown_architecture_is_named(config, said):
    with pytest.raises(UnsupportedError, match=said) as caught:
        ModelShape.from_config(config, name="x")
    assert "llama" in caught.value.way_out
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("config", [{}, {"hidden_size": 64}, {"architectures": []}])
def test_a_config_of_no_model_says_so(config):
    with pytest.raises(FormatError, match="names no model"):
        ModelShape.from_config(config, name="x")


@pytest.mark.parametrize(
    "key",
    [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
    ],
)
@pytest.mark.parametrize("value", [-1, 0, 2**40, 1.5, "64", True, [64], {}, math.nan, math.inf])
def test_an_absurd_count_is_refused_by_its_key(key, value):
    with pytest.raises(FormatError, match=key):
        shape_of(**{key: value})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"rope_theta": math.inf}, "rope_theta"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"num_key_value_heads": 5}, "num_key_value_heads"),
        ({"num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": None}, "hidden_size"),
        ({"rope_scaling": 7}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": -8}}, "factor"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        (
            {"rope_scaling": {"rope_type": "llama3", "low_freq_factor": 4.0}},
            "low_freq_factor",
        ),
    ],
)
def test_an_impossible_value_is_refused_by_its_key(changes, said):
    with pytest.raises(FormatError, match=said):
        shape_of(**changes)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "qwen2", "head_dim": 96}, "head_dim"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias"),
        ({"model_type": "olmo2", "tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"model_type": "gemma2", "tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"model_type": "starcoder2", "use_bias": False}, "use_bias"),
        ({"model_type": "phi", "qk_layernorm": True}, "qk_layernorm"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"model_type": "qwen2_moe", "decoder_sparse_step": 2}, "decoder_sparse_step"),
        ({**LLAMA, "rope_scaling": {"type": "longrope"}}, "longrope"),
        ({"model_type": "gemma3_text", "hidden_activation": "relu"}, "hidden_activation"),
        ({"model_type": "phi3", "hidden_act": "gelu"}, "hidden_act"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "position_embedding"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "scale_attn"),
        ({"model_type": "smollm3", "no_rope_layer_interval": 3}, "no_rope_layer"),
        ({"model_type": "smollm3", "no_rope_layers": [1] * 36}, "no_rope_layer"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused_by_its_key(config, said):
    with pytest.raises(UnsupportedError, match=said):
        ModelShape.from_config(config, name="x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(sorted(profiles.models())),
    st.dictionaries(
        st.sampled_from(
            sorted(
                {key for entry in profiles.models().values() for key in entry.config}
                | {"text_config", "rope_parameters", "rope_scaling", "layer_types", "architectures"}
            )
        ),
        JSON,
        min_size=1,
        max_size=3,
    ),
)
def test_any_json_under_any_key_makes_a_shape_or_an_error_of_ours(name, changes):
    try:
        shape = ModelShape.from_config({**profiles.models()[name].config, **changes}, name="x")
    except EdgeError:
        return
    assert shape.parameters > 0
    assert shape.kv_bytes(512) > 0
