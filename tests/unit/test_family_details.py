"""Where families differ from each other: rows put in order, added to or turned, names, odd keys.

What they owe alike is in test_architectures. Expected values are worked out here with numpy, or are
those of the published models.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from edge_runtime.artifact import ModelShape, TensorShape
from edge_runtime.artifact.config import class_values
from edge_runtime.artifact.keys import rope_table
from edge_runtime.errors import FormatError, UnsupportedError
from quantize.architectures import find
from quantize.assembly import assemble
from quantize.checkpoint import Checkpoint
from quantize.matching import Assigned, Names
from quantize.safetensors import SourceTensor

SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 4096,
}  # fmt: skip
FACTORS = {"long_factor": [2.0, 3.5] * 4, "short_factor": [1.0, 1.25] * 4}
GEMMAS = ("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM")


def config_of(class_name: str, **config: object) -> dict[str, object]:
    return {"architectures": [class_name], **SIZES, **config}


def keys_of(path: Path, config: dict[str, object], **files: object) -> dict[str, object]:
    """The family's keys for a config and tokenizer files, as a dict."""
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    checkpoint = Checkpoint(path=path, config=config, tensors=MappingProxyType({}))
    return dict(find(config).metadata(checkpoint, class_values(config)[1]))


def changed(path: Path, config: dict[str, object], target: str, source: np.ndarray) -> np.ndarray:
    """A tensor as the family's change makes it from a stored one, in float32."""
    shape = ModelShape.from_config(config, name="x")
    dims = next(t.dims for t in shape.tensors if t.name == target)
    file = path / "stored.bin"
    file.write_bytes(struct.pack("<Q", 0) + source.tobytes())
    dtype = {"float32": "F32", "float16": "F16"}[source.dtype.name]
    part = SourceTensor(
        name="s", dtype=dtype, dims=source.shape, path=file, offset_bytes=8, size_bytes=0
    )
    whole = assemble(
        TensorShape(name=target, dims=dims),
        (Assigned(source=part),),
        find(config).change(target, shape),
    )
    data = b"".join(whole.encoded(rows, "F32").tobytes() for rows in whole.slabs)
    return np.frombuffer(data, "<f4").reshape(dims[::-1])


def random(*dims: int, kind: type = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(dims)).normal(size=dims).astype(kind)


def test_gptneox_has_all_queries_before_all_keys_before_all_values(tmp_path):
    config = config_of("GPTNeoXForCausalLM", num_key_value_heads=4)
    weight, bias = random(4, 3, 16, 64), random(4, 3, 16)  # head; query, key, value; row
    wanted = np.concatenate([weight[:, part].reshape(64, 64) for part in range(3)])
    found = changed(tmp_path, config, "blk.2.attn_qkv.weight", weight.reshape(192, 64))
    np.testing.assert_array_equal(found, wanted)
    wanted = np.concatenate([bias[:, part].ravel() for part in range(3)])
    found = changed(tmp_path, config, "blk.2.attn_qkv.bias", bias.ravel())
    np.testing.assert_array_equal(found, wanted)
    dense = random(64, 64)
    found = changed(tmp_path, config, "blk.2.attn_output.weight", dense)
    np.testing.assert_array_equal(found, dense)


@pytest.mark.parametrize(
    ("target", "turned"),
    [
        ("blk.0.attn_qkv.weight", True),
        ("blk.6.attn_output.weight", True),
        ("blk.0.ffn_up.weight", True),
        ("blk.0.ffn_down.weight", True),
        ("token_embd.weight", False),
        ("position_embd.weight", False),
        ("blk.0.attn_norm.weight", False),
        ("blk.0.ffn_up.bias", False),
    ],
)
def test_gpt2_turns_the_matrices_of_its_layers_only(tmp_path, target, turned):
    config = {
        "architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_layer": 7, "n_head": 4,
        "n_positions": 128, "vocab_size": 320,
    }  # fmt: skip
    shape = ModelShape.from_config(config, name="x")
    dims = next(t.dims for t in shape.tensors if t.name == target)
    source = random(*(dims if turned else dims[::-1]))
    found = changed(tmp_path, config, target, source)
    np.testing.assert_array_equal(found, source.T if turned else source)


@pytest.mark.parametrize("class_name", GEMMAS)
def test_gemma_adds_one_to_norms_and_to_nothing_else(tmp_path, class_name):
    config = config_of(class_name, head_dim=16)
    shape = ModelShape.from_config(config, name="x")
    norms = {t.name.split(".")[-2] for t in shape.tensors if len(t.dims) == 1}
    assert {"attn_norm", "ffn_norm", "output_norm"} <= norms
    for tensor in shape.tensors:
        change = find(config).change(tensor.name, shape)
        assert (change is not None and change.offset == 1.0) == (len(tensor.dims) == 1)
    stored = random(64)
    found = changed(tmp_path, config, "blk.0.ffn_norm.weight", stored)
    np.testing.assert_array_equal(found, stored + np.float32(1))


def test_one_is_added_to_half_floats_in_half_floats(tmp_path):
    # As llama.cpp's converter does, so that both write the same bytes.
    stored = random(64, kind=np.float16)
    config = config_of("GemmaForCausalLM", head_dim=16)
    found = changed(tmp_path, config, "output_norm.weight", stored)
    np.testing.assert_array_equal(found, (stored + np.float16(1)).astype(np.float32))
    assert (found != stored.astype(np.float32) + np.float32(1)).any()


@pytest.mark.parametrize("text_model", ["model.", "language_model.model.", "model.language_model."])
def test_gemma3_is_found_alone_and_within_a_model_that_sees(text_model):
    names = Names(find({"architectures": ["Gemma3ForConditionalGeneration"]}))
    assert names.targets(f"{text_model}embed_tokens.weight")[0] == ("token_embd.weight",)
    layer = f"{text_model}layers.11."
    assert names.targets(f"{layer}self_attn.k_norm.weight")[0] == ("blk.11.attn_k_norm.weight",)
    assert names.targets(f"{layer}pre_feedforward_layernorm.weight")[0] == (
        "blk.11.ffn_norm.weight",
    )


@pytest.mark.parametrize(
    "name",
    [
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "model.vision_tower.vision_model.head.probe",
        "multi_modal_projector.mm_soft_emb_norm.weight",
        "model.multi_modal_projector.mm_input_projection_weight",
    ],
)
def test_gemma3_drops_what_sees(name):
    names = Names(find({"architectures": ["Gemma3ForConditionalGeneration"]}))
    assert names.drops(name)
    assert not names.drops("language_model.model.layers.0.self_attn.q_proj.weight")


def test_gemma_has_no_output_matrix_of_its_own():
    for class_name in GEMMAS[:2]:
        assert Names(find({"architectures": [class_name]})).drops("lm_head.weight")
    assert not Names(find({"architectures": [GEMMAS[2]]})).drops("lm_head.weight")


def test_gemma3_states_its_windowed_layers_only_where_a_loader_would_guess_others(tmp_path):
    config = config_of("Gemma3ForCausalLM", sliding_window=512, head_dim=16)
    keys = keys_of(tmp_path, config)
    assert keys["gemma3.attention.sliding_window"] == 512
    assert keys["gemma3.rope.freq_base"] == 1_000_000.0
    assert keys["gemma3.rope.freq_base_swa"] == 10_000.0
    assert "gemma3.attention.sliding_window_pattern" not in keys
    own = ["full_attention", "sliding_attention", *["full_attention"] * 5]
    keys = keys_of(tmp_path, {**config, "layer_types": own})
    assert keys["gemma3.attention.sliding_window_pattern"] == (False, True, *[False] * 5)
    keys = keys_of(tmp_path, {**config, "sliding_window_pattern": 1})
    assert "gemma3.attention.sliding_window" not in keys


def test_gemma3_reads_both_spellings_of_two_bases_and_a_stretch(tmp_path):
    old = {
        "rope_theta": 5e5, "rope_local_base_freq": 7e3,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }  # fmt: skip
    new = {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 7e3},
        }
    }
    found = [keys_of(tmp_path, config_of("Gemma3ForCausalLM", **s)) for s in (old, new)]
    assert found[0] == found[1]
    assert found[0]["gemma3.rope.scaling.factor"] == 8.0
    assert found[0]["gemma3.rope.freq_base_swa"] == 7e3


@pytest.mark.parametrize(
    ("tokenizer", "stated"),
    [({"model": {"byte_fallback": True}}, True), ({"model": {"byte_fallback": False}}, False)],
)
def test_gemma3_has_no_space_before_a_text_of_sentencepiece(tmp_path, tokenizer, stated):
    keys = keys_of(tmp_path, config_of("Gemma3ForCausalLM"), tokenizer=tokenizer)
    assert ("tokenizer.ggml.add_space_prefix" in keys) == stated
    assert keys.get("tokenizer.ggml.add_space_prefix") in (None, False)


def test_gemma1_ends_turns_with_its_own_token(tmp_path):
    keys = keys_of(tmp_path, config_of("GemmaForCausalLM"))
    assert keys["tokenizer.ggml.eot_token_id"] == 107
    assert keys["tokenizer.ggml.add_space_prefix"] is False
    assert "tokenizer.ggml.eot_token_id" not in keys_of(tmp_path, config_of("Gemma2ForCausalLM"))


@pytest.mark.parametrize(
    ("kind", "factor"),
    [
        ({"type": "longrope"}, math.sqrt(1.5)),  # sqrt(1 + ln 16 / ln 256)
        ({"type": "su"}, math.sqrt(1.5)),
        ({"type": "yarn"}, math.sqrt(1.5)),  # which transformers takes for longrope
        ({"type": "longrope", "rope_type": "yarn"}, 0.1 * math.log(16) + 1),
    ],
)
def test_phi3_scales_attention_in_long_contexts(tmp_path, kind, factor):
    config = config_of(
        "Phi3ForCausalLM",
        rope_scaling={**kind, **FACTORS},
        original_max_position_embeddings=256,
        sliding_window=2047,
    )
    keys = keys_of(tmp_path, config)
    stored = np.float32(keys["phi3.rope.scaling.attn_factor"])
    assert stored == np.float32(factor)
    assert keys["phi3.rope.scaling.original_context_length"] == 256
    assert keys["phi3.attention.sliding_window"] == 2047
    assert "phi3.rope.scaling.type" not in keys
    shape = ModelShape.from_config(config, name="x")
    assert rope_table(shape, "rope_factors_long.weight") == tuple(FACTORS["long_factor"])
    assert rope_table(shape, "rope_factors_short.weight") == tuple(FACTORS["short_factor"])


def test_phi4_mini_rotates_three_quarters_of_a_head(tmp_path):
    # Of the published config: heads of 128, 96 of whose dimensions rotate; no window is 0.
    config = config_of(
        "Phi3ForCausalLM",
        hidden_size=3072,
        num_attention_heads=24,
        num_key_value_heads=8,
        partial_rotary_factor=0.75,
        rope_scaling={"type": "longrope", "long_factor": [1.0] * 48, "short_factor": [1.0] * 48},
        max_position_embeddings=131072,
        sliding_window=None,
        tie_word_embeddings=True,
    )
    keys = keys_of(tmp_path, config)
    assert keys["phi3.rope.dimension_count"] == 96
    assert keys["phi3.attention.sliding_window"] == 0


@pytest.mark.parametrize(
    ("class_name", "spelling", "key", "value"),
    [
        ("PhiForCausalLM", {"rope_theta": 5e4}, "phi2.rope.freq_base", 5e4),
        ("PhiForCausalLM", {}, "phi2.rope.freq_base", None),
        ("GPTNeoXForCausalLM", {"rotary_emb_base": 25_000}, "gptneox.rope.freq_base", 25_000),
        ("GPTNeoXForCausalLM", {"rotary_pct": 0.5}, "gptneox.rope.dimension_count", 8),
        (
            "GPTNeoXForCausalLM",
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 1.0}},
            "gptneox.rope.dimension_count",
            16,
        ),
        ("StableLmForCausalLM", {}, "stablelm.rope.dimension_count", 4),
        ("StableLmForCausalLM", {"rope_theta": 10_000}, "stablelm.rope.freq_base", None),
        ("Gemma2ForCausalLM", {"rope_theta": 2e4}, "gemma2.rope.freq_base", 2e4),
    ],
)
def test_rotary_settings_are_stated_where_a_loader_would_not_guess_them(
    tmp_path, class_name, spelling, key, value
):
    config = config_of(class_name, **spelling)
    assert keys_of(tmp_path, config).get(key) == value


@pytest.mark.parametrize(("stated", "wanted"), [({}, 256), ({"n_inner": 160}, 160)])
def test_gpt2_says_how_wide_its_feed_forward_is(tmp_path, stated, wanted):
    config = {"architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_head": 4, **stated}
    assert keys_of(tmp_path, config)["gpt2.feed_forward_length"] == wanted


def test_phi2_adds_no_token_before_a_text_unless_its_tokenizer_says_so(tmp_path):
    config = config_of("PhiForCausalLM")
    assert keys_of(tmp_path, config)["tokenizer.ggml.add_bos_token"] is False
    stated = {"add_bos_token": True}
    assert "tokenizer.ggml.add_bos_token" not in keys_of(tmp_path, config, tokenizer_config=stated)


@pytest.mark.parametrize(
    ("class_name", "name", "target"),
    [
        ("GPT2LMHeadModel", "transformer.h.3.mlp.c_fc.bias", "blk.3.ffn_up.bias"),
        ("GPT2LMHeadModel", "h.3.attn.c_proj.weight", "blk.3.attn_output.weight"),
        ("GPT2LMHeadModel", "wpe.weight", "position_embd.weight"),
        ("BertModel", "embeddings.LayerNorm.gamma", "token_embd_norm.weight"),
        ("BertModel", "encoder.layer.9.output.dense.weight", "blk.9.ffn_down.weight"),
        (
            "BertForMaskedLM",
            "bert.encoder.layer.9.attention.output.LayerNorm.beta",
            "blk.9.attn_output_norm.bias",
        ),
        ("BertForMaskedLM", "bert.embeddings.token_type_embeddings.weight", "token_types.weight"),
        (
            "DistilBertForMaskedLM",
            "distilbert.transformer.layer.1.sa_layer_norm.weight",
            "blk.1.attn_output_norm.weight",
        ),
        ("DistilBertModel", "transformer.layer.1.ffn.lin2.bias", "blk.1.ffn_down.bias"),
    ],
)
def test_names_are_known_with_the_models_prefix_and_without(class_name, name, target):
    names = Names(find({"architectures": [class_name]}))
    assert names.targets(name)[0] == (target,)
    assert not names.drops(name)


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("GPT2LMHeadModel", "h.3.attn.bias"),
        ("GPT2LMHeadModel", "transformer.h.3.attn.masked_bias"),
        ("GPTNeoXForCausalLM", "gpt_neox.layers.0.attention.bias"),
        ("GPTNeoXForCausalLM", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"),
        ("BertModel", "pooler.dense.weight"),
        ("BertModel", "embeddings.position_ids"),
        ("BertForMaskedLM", "bert.pooler.dense.bias"),
        ("BertForMaskedLM", "cls.predictions.transform.LayerNorm.gamma"),
        ("BertForMaskedLM", "cls.seq_relationship.bias"),
        ("DistilBertForMaskedLM", "vocab_projector.bias"),
    ],
)
def test_buffers_and_heads_are_dropped_by_name(class_name, name):
    assert Names(find({"architectures": [class_name]})).drops(name)


def test_a_bert_that_sorts_texts_is_refused():
    with pytest.raises(UnsupportedError, match="BertForSequenceClassification"):
        find({"architectures": ["BertForSequenceClassification"], "model_type": "bert"})


@pytest.mark.parametrize(
    ("stated", "labels"),
    [
        ({}, None),
        ({"id2label": {"0": "LABEL_0"}}, ("LABEL_0",)),  # as the BGE models have it
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, None),
        ({"id2label": {"10": "k", "2": "c", "0": "a"}}, ("a", "c", "k")),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
    ],
)
def test_the_labels_of_an_encoders_config_are_kept(tmp_path, stated, labels):
    keys = keys_of(tmp_path, {"architectures": ["BertModel"], **stated})
    assert keys.get("bert.classifier.output_labels") == labels


@pytest.mark.parametrize("stated", [["a"], {"x": "a"}, {"0": 1}, {"0" * 5000: "a", "1": "b"}])
def test_labels_that_are_none_are_refused(tmp_path, stated):
    with pytest.raises(FormatError, match="id2label"):
        keys_of(tmp_path, {"architectures": ["BertModel"], "id2label": stated})


@pytest.mark.parametrize(
    ("config", "types"),
    [
        ({"architectures": ["BertModel"]}, 2),
        ({"architectures": ["BertModel"], "type_vocab_size": 1}, 1),
        ({"architectures": ["DistilBertModel"]}, 1),
    ],
)
def test_an_encoder_says_so_and_how_many_kinds_of_input_it_tells_apart(tmp_path, config, types):
    keys = keys_of(tmp_path, config)
    assert keys["bert.attention.causal"] is False
    assert keys["tokenizer.ggml.token_type_count"] == types
    assert np.float32(keys["bert.attention.layer_norm_epsilon"]) == np.float32(1e-12)
    assert "bert.pooling_type" not in keys
