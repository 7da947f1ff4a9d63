"""The registry of families, and what every family owes: a source for every tensor, keys that say
the shape. A new family needs a row in CONFIGS, nothing else here."""

from __future__ import annotations

import contextlib
import json
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.config import class_values
from edge_runtime.artifact.shape import is_rope_table
from edge_runtime.errors import EdgeError, FormatError, UnsupportedError
from quantize import rows
from quantize.architectures import architecture, find, known
from quantize.checkpoint import Checkpoint

SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 512,
}  # fmt: skip
MHA = {**SIZES, "num_key_value_heads": 4}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LONG = {"type": "longrope", "long_factor": [2.0] * 8, "short_factor": [1.0] * 8}
BIASES = {"attention_bias": True, "mlp_bias": True}
GRANITE = {
    "embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22,
    "attention_multiplier": 0.0625,
}  # fmt: skip
DISTIL = {"dim": 64, "hidden_dim": 96, "n_layers": 3, "n_heads": 4, "vocab_size": 320}

# A representative config of every class that can be converted, with all its family may have.
CONFIGS = {
    "LlamaForCausalLM": {**SIZES, **BIASES, "head_dim": 32, "rope_scaling": LLAMA3},
    "LLaMAForCausalLM": {**SIZES, "rope_scaling": {"type": "linear", "factor": 2}},
    "LlamaModel": SIZES,
    "MistralForCausalLM": {**SIZES, "sliding_window": 64, "rope_scaling": YARN},
    "MixtralForCausalLM": {**SIZES, "num_local_experts": 4},
    "Qwen2ForCausalLM": {**SIZES, "rope_scaling": {**YARN, "attention_factor": 1.2}},
    "Qwen2Model": SIZES,
    "Qwen2MoeForCausalLM": {**SIZES, **EXPERTS, "shared_expert_intermediate_size": 48},
    "Qwen3ForCausalLM": {**SIZES, "head_dim": 32, "rope_theta": 1e6},
    "Qwen3Model": SIZES,
    "Qwen3MoeForCausalLM": {**SIZES, **EXPERTS, "head_dim": 32},
    "SmolLM3ForCausalLM": {**SIZES, "tie_word_embeddings": False},
    "GraniteForCausalLM": {**SIZES, **BIASES, **GRANITE},
    "Olmo2ForCausalLM": SIZES,
    "Olmo3ForCausalLM": {**SIZES, "sliding_window": 64},
    "OlmoeForCausalLM": {**MHA, "num_experts": 4, "num_experts_per_tok": 2},
    "GemmaForCausalLM": {**SIZES, "head_dim": 32},
    "Gemma2ForCausalLM": {**SIZES, "head_dim": 32, "sliding_window": 64},
    "Gemma3ForCausalLM": {**SIZES, "head_dim": 32, "sliding_window": 64},
    "Gemma3ForConditionalGeneration": {
        "model_type": "gemma3", "text_config": {**SIZES, "head_dim": 32, "sliding_window": 64},
    },
    "PhiForCausalLM": MHA,
    "Phi3ForCausalLM": {
        **SIZES, "rope_scaling": LONG, "original_max_position_embeddings": 128,
        "sliding_window": 64,
    },
    "StableLmForCausalLM": {**SIZES, "use_qkv_bias": True, "qk_layernorm": True},
    "GPT2LMHeadModel": {
        "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128, "vocab_size": 320,
        "tie_word_embeddings": False,
    },
    "Starcoder2ForCausalLM": {**SIZES, "tie_word_embeddings": False},
    "GPTNeoXForCausalLM": {**MHA, "rotary_pct": 0.5},
    "BertModel": {**MHA, "type_vocab_size": 2},
    "BertForMaskedLM": {**MHA, "type_vocab_size": 2},
    "DistilBertModel": DISTIL,
    "DistilBertForMaskedLM": DISTIL,
}  # fmt: skip


def config_of(class_name):
    return {"architectures": [class_name], **CONFIGS[class_name]}


def opened(tmp_path, config, **files):
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return Checkpoint(path=tmp_path, config=config, tensors=MappingProxyType({}))


def keys_of(tmp_path, config, **files):
    """The family's keys for a config, as a dict."""
    checkpoint = opened(tmp_path, config, **files)
    return dict(find(config).metadata(checkpoint, class_values(config)[1]))


def targets_of(family, shape):
    """Every GGUF tensor that a family's names lead to in a model of this many layers."""
    found = set()
    for target in family.names.values():
        for one in (target,) if isinstance(target, str) else target:
            found.update(one.replace("{layer}", str(i)) for i in range(shape.layers))
    return found


def test_every_class_that_can_be_converted_has_a_row_here():
    assert set(CONFIGS) == set(known())


@pytest.mark.parametrize("class_name", CONFIGS)
def test_every_tensor_has_a_source_and_every_name_a_tensor(class_name):
    config = config_of(class_name)
    shape = ModelShape.from_config(config, name="x")
    targets = targets_of(find(config), shape)
    wanted = {tensor.name for tensor in shape.tensors if not is_rope_table(tensor.name)}
    assert wanted <= targets
    families = [name for name in CONFIGS if find(config_of(name)).gguf == shape.architecture]
    somewhere = set()
    for name in families:
        other = ModelShape.from_config(config_of(name), name="x")
        somewhere |= {tensor.name for tensor in other.tensors}
    # Names are shared among families, of which some have no biases.
    assert {name for name in targets - somewhere if not name.endswith(".bias")} <= {"output.weight"}


@pytest.mark.parametrize("class_name", CONFIGS)
def test_the_keys_of_a_family_say_the_shape_of_the_config(class_name, tmp_path):
    config = config_of(class_name)
    shape = ModelShape.from_config(config, name="x")
    family = find(config)
    assert family.gguf == shape.architecture
    keys = keys_of(tmp_path, config)
    assert all(key.startswith((f"{family.gguf}.", "tokenizer.ggml.")) for key in keys)
    header = {"general.architecture": family.gguf, "general.name": "x", **keys}
    assert ModelShape.from_gguf(header, shape.tensors) == shape


@pytest.mark.parametrize("class_name", CONFIGS)
def test_changes_keep_every_row(class_name):
    config = config_of(class_name)
    shape = ModelShape.from_config(config, name="x")
    for tensor in shape.tensors:
        change = find(config).change(tensor.name, shape)
        if change is None or change.order is None:
            continue
        count = tensor.elements // (tensor.dims[0] if len(tensor.dims) > 1 else 1)
        assert sorted(change.order) == list(range(count))
        if change.group_rows > 1:
            np.testing.assert_array_equal(
                change.order // change.group_rows, np.arange(count) // change.group_rows
            )


def test_rotary_pairs_come_side_by_side():
    shape = ModelShape.from_config(config_of("LlamaForCausalLM"), name="x")
    queries = rows.interleaved("blk.0.attn_q.weight", shape)
    keys = rows.interleaved("blk.0.attn_k.bias", shape)
    assert queries is not None
    assert keys is not None
    assert queries.order is not None
    assert keys.order is not None
    assert queries.order[:4].tolist() == [0, 16, 1, 17]
    assert queries.order[32:34].tolist() == [32, 48]
    assert (len(queries.order), len(keys.order)) == (4 * 32, 2 * 32)
    assert rows.interleaved("blk.0.attn_q_norm.weight", shape) is None
    assert rows.interleaved("blk.0.attn_v.weight", shape) is None


def test_two_families_for_a_class_fail_at_once():
    family = type(find({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(TypeError, match="LlamaForCausalLM has two families"):
        architecture("LlamaForCausalLM")(family)


def test_a_family_that_lacks_a_part_fails_at_once():
    class Half:
        gguf = "llama"
        names = MappingProxyType({})

    with pytest.raises(TypeError, match="Half lacks change, dropped, metadata"):
        architecture("HalfForCausalLM")(Half)
    assert "HalfForCausalLM" not in known()


def test_an_unknown_class_is_refused_with_the_nearest_known_one():
    with pytest.raises(UnsupportedError) as refused:
        find({"architectures": ["LlamaForCausaLM"]})
    assert "LlamaForCausalLM" in refused.value.cause
    for config in ({}, {"architectures": None}, {"architectures": [3]}, {"architectures": "x"}):
        with pytest.raises(UnsupportedError, match=r"config\.json leaves out"):
            find(config)


@pytest.mark.parametrize("spelling", ["num_experts", "num_local_experts"])
def test_both_spellings_of_the_number_of_experts_count(spelling, tmp_path):
    config = config_of("Qwen3MoeForCausalLM")
    config[spelling] = config.pop("num_experts")
    assert ModelShape.from_config(config, name="x").experts == 4
    assert keys_of(tmp_path, config)["qwen3moe.expert_count"] == 4


def test_both_spellings_of_rotary_settings_give_the_same_keys(tmp_path):
    old = config_of("Qwen2ForCausalLM") | {"rope_theta": 1e6}
    new = {key: value for key, value in old.items() if not key.startswith("rope")}
    new["rope_parameters"] = {"rope_theta": 1e6, **old["rope_scaling"]}
    keys = keys_of(tmp_path, old)
    assert keys["qwen2.rope.freq_base"] == 1e6
    assert keys["qwen2.rope.scaling.type"] == "yarn"
    assert keys["qwen2.rope.scaling.yarn_attn_factor"] == 1.2
    assert keys["qwen2.rope.scaling.original_context_length"] == 128
    assert keys_of(tmp_path, new) == keys


def test_the_width_of_heads_is_stated_where_the_config_class_knows_it(tmp_path):
    assert keys_of(tmp_path, config_of("LlamaModel"))["llama.attention.key_length"] == 16
    assert "llama.attention.key_length" not in keys_of(tmp_path, config_of("MistralForCausalLM"))
    assert keys_of(tmp_path, config_of("Qwen3Model"))["qwen3.attention.value_length"] == 128
    granite = keys_of(tmp_path, config_of("GraniteForCausalLM") | {"head_dim": 16})
    assert "granite.attention.key_length" not in granite


def test_what_llamas_relatives_say_of_their_tokens(tmp_path):
    plain = config_of("MistralForCausalLM")
    assert not any(key.startswith("tokenizer.") for key in keys_of(tmp_path, plain))
    code = keys_of(tmp_path, plain | {"vocab_size": 32016})
    assert code["tokenizer.ggml.eot_token_id"] == 32010
    granite = keys_of(tmp_path, plain | {"vocab_size": 49152})
    assert granite["tokenizer.ggml.add_bos_token"] is False
    named = keys_of(
        tmp_path,
        plain | {"vocab_size": 32016},
        tokenizer={"added_tokens": [{"id": 7, "content": "<end>"}]},
        tokenizer_config={"eot_token": {"content": "<end>"}, "add_prefix_space": False},
    )
    assert named["tokenizer.ggml.eot_token_id"] == 7
    assert named["tokenizer.ggml.add_space_prefix"] is False


MODULES = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]


@pytest.mark.parametrize(
    ("stated", "number"),
    [
        ({"pooling_mode_mean_tokens": True}, 1),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, 2),
        ({"pooling_mode_lasttoken": True}, 3),
        ({"pooling_mode": "lasttoken"}, 3),
    ],
)
def test_the_pooling_of_an_embedding_model_is_kept(stated, number, tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(stated))
    keys = keys_of(tmp_path, config_of("Qwen3Model"), modules=MODULES)
    assert keys["qwen3.pooling_type"] == number


@pytest.mark.parametrize(
    ("modules", "error", "said"),
    [
        (MODULES, UnsupportedError, "pooling"),
        ([{"type": "Pooling", "path": "../elsewhere"}], FormatError, "elsewhere"),
        ([{"type": "Pooling", "path": "/etc"}], FormatError, "elsewhere"),
        ([{"type": "Pooling", "path": "absent"}], FormatError, "no config.json"),
    ],
)
def test_a_pooling_that_cannot_be_read_is_refused(modules, error, said, tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(error, match=said):
        keys_of(tmp_path, config_of("Qwen2Model"), modules=modules)
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(FormatError, match=r"modules\.json"):
        keys_of(tmp_path, config_of("Qwen2Model"))


def test_llama_3_tables_are_those_its_own_code_computes():
    config = config_of("LlamaForCausalLM") | {
        "head_dim": 64, "rope_theta": 500000.0, "max_position_embeddings": 131072,
        "rope_scaling": {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192},
    }  # fmt: skip
    scaling = ModelShape.from_config(config, name="x").rope_scaling
    assert scaling is not None
    single = np.float32
    found = []
    for i in range(0, 64, 2):
        frequency = single(1) / single(500000.0 ** (i / 64))
        wavelength = single(2 * np.pi) * (single(1) / frequency)
        smooth = (single(8192) * (single(1) / wavelength) - single(1)) / single(3)
        scaled = single(1) / ((single(1) - smooth) / single(32) + smooth)
        far = wavelength > 8192
        found.append(single(1) if wavelength < 2048 else single(32) if far else scaled)
    assert any(1 < value < 32 for value in found)
    np.testing.assert_array_equal(np.float32(scaling.factors), np.float32(found))


@pytest.mark.parametrize("class_name", ["Qwen2ForCausalLM", "SmolLM3ForCausalLM"])
def test_tables_that_a_loader_does_not_take_are_refused(class_name):
    with pytest.raises(UnsupportedError, match="llama3"):
        ModelShape.from_config({**config_of(class_name), "rope_scaling": LLAMA3}, name="x")


@pytest.mark.parametrize(
    ("class_name", "changes", "said"),
    [
        ("LlamaForCausalLM", {"hidden_act": "gelu"}, "SiLU"),
        ("Qwen3MoeForCausalLM", {"hidden_act": "relu"}, "SiLU"),
        ("OlmoeForCausalLM", {"clip_qkv": 8.0}, "clip_qkv"),
        ("OlmoeForCausalLM", {"num_key_value_heads": 2}, "grouped queries"),
        ("SmolLM3ForCausalLM", {"no_rope_layer_interval": 2}, "every fourth"),
        ("Qwen3ForCausalLM", {"attention_bias": True}, "attention_bias"),
        ("Olmo2ForCausalLM", {"attention_bias": True}, "attention_bias"),
        ("Qwen2ForCausalLM", {"head_dim": 32}, "head_dim"),
        ("Olmo2ForCausalLM", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("Qwen3MoeForCausalLM", {"mlp_only_layers": [0]}, "experts in every layer"),
        ("LlamaForCausalLM", {"rope_scaling": {"rope_type": "longrope"}}, "longrope"),
    ],
)
def test_what_llama_cpp_would_run_otherwise_is_refused(class_name, changes, said):
    config = {**config_of(class_name), **changes}
    with pytest.raises(UnsupportedError) as refused:
        ModelShape.from_config(config, name="x")
    assert said in f"{refused.value.fact} {refused.value.cause}"


@pytest.mark.parametrize(
    ("class_name", "changes", "said"),
    [
        ("LlamaForCausalLM", {"head_dim": 15, "rope_scaling": None}, "pairs"),
        ("GPTNeoXForCausalLM", {"rotary_pct": 0.1875}, "pairs"),
        ("LlamaForCausalLM", {"num_attention_heads": 4096, "head_dim": 16384}, "heads"),
    ],
)
def test_heads_that_cannot_be_are_refused_before_tables_are_made(class_name, changes, said):
    with pytest.raises(FormatError) as refused:
        ModelShape.from_config({**config_of(class_name), **changes}, name="x")
    assert said in f"{refused.value.fact} {refused.value.cause}"


def test_embedding_models_have_the_names_without_a_model_in_front():
    for class_name in ("LlamaModel", "Qwen2Model", "Qwen3Model"):
        family = find(config_of(class_name))
        assert family.names["embed_tokens.weight"] == "token_embd.weight"
        name = "layers.{layer}.self_attn.q_proj.weight"
        assert family.names[name] == family.names[f"model.{name}"] == "blk.{layer}.attn_q.weight"
        # Their checkpoints end with the last norm, whatever the config says of ties.
        config = config_of(class_name) | {"tie_word_embeddings": False}
        assert ModelShape.from_config(config, name="x").tied_embeddings


def test_fused_experts_are_gate_above_up():
    names = find(config_of("Qwen2MoeForCausalLM")).names
    halves = ("blk.{layer}.ffn_gate_exps.weight", "blk.{layer}.ffn_up_exps.weight")
    assert names["model.layers.{layer}.mlp.experts.gate_up_proj"] == halves
    one = "model.layers.{layer}.mlp.experts.{expert}"
    assert (names[f"{one}.gate_proj.weight"], names[f"{one}.up_proj.weight"]) == halves


def test_olmo_3_says_which_layers_have_a_window(tmp_path):
    keys = keys_of(tmp_path, config_of("Olmo3ForCausalLM") | {"num_hidden_layers": 4})
    assert keys["olmo2.attention.sliding_window"] == 64
    assert keys["olmo2.attention.sliding_window_pattern"] == (True, True, True, False)
    plain = keys_of(tmp_path, config_of("Olmo2ForCausalLM"))
    assert not any("sliding" in key for key in plain)


KEYS = sorted(
    {key for config in CONFIGS.values() for key in config}
    | {"architectures", "eot_token_id", "hidden_act", "is_causal", "layer_norm_eps", "layer_types"}
    | {"no_rope_layers", "rms_norm_eps", "rope_parameters", "text_config", "tie_word_embeddings"}
)
NUMBERS = st.one_of(st.integers(-(2**64), 2**64), st.floats(), st.integers(-1, 5))
ROPE_KEYS = (*LLAMA3, *LONG, "attention_factor", "full_attention", "rope_theta", "beta_fast")
JUNK = st.one_of(
    NUMBERS,
    st.sampled_from([None, True, False, "x", "", [], [None], {}, {"a": 1}, ["sliding_attention"]]),
    st.dictionaries(
        st.sampled_from(ROPE_KEYS),
        st.one_of(NUMBERS, st.sampled_from(["llama3", "yarn", "linear", "longrope", "su", {}])),
    ),
)


@given(class_name=st.sampled_from(sorted(CONFIGS)), key=st.sampled_from(KEYS), value=JUNK)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_value_of_a_config_fails_without_a_sentence(tmp_path_factory, class_name, key, value):
    config = {**config_of(class_name), key: value}
    with contextlib.suppress(EdgeError):
        shape = ModelShape.from_config(config, name="x")
        keys_of(tmp_path_factory.getbasetemp(), config)
        for tensor in shape.tensors[:40]:
            find(config).change(tensor.name, shape)
