"""What cannot be converted faithfully is refused before a byte is written, naming the reason."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import EdgeError, FormatError, ModelNotFoundError, UnsupportedError
from quantize import architectures, convert
from quantize.writers import whole_file

st = pytest.importorskip("safetensors.numpy")

HIDDEN, WIDE, VOCABULARY = 32, 64, 12
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": HIDDEN, "intermediate_size": WIDE, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCABULARY,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "bos_token_id": 8, "eos_token_id": 9,
}  # fmt: skip
TOKENIZER = {
    "added_tokens": [{"id": 8, "content": "<s>", "special": True},
                     {"id": 9, "content": "</s>", "special": True}],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    "post_processor": None,
    "model": {"type": "BPE", "merges": ["a b", ["ab", "c"]],
              "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "d": 5, "e": 6, "f": 7}},
}  # fmt: skip


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    at = "model.layers.0."
    dims = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,),
        at + "input_layernorm.weight": (HIDDEN,), at + "post_attention_layernorm.weight": (HIDDEN,),
        at + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        at + "self_attn.k_proj.weight": (HIDDEN // 2, HIDDEN),
        at + "self_attn.v_proj.weight": (HIDDEN // 2, HIDDEN),
        at + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        at + "mlp.gate_proj.weight": (WIDE, HIDDEN), at + "mlp.up_proj.weight": (WIDE, HIDDEN),
        at + "mlp.down_proj.weight": (HIDDEN, WIDE),
    }  # fmt: skip
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in dims.items()}


class Source:
    """A small checkpoint to be spoiled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = copy.deepcopy(CONFIG)
        self.tokenizer = copy.deepcopy(TOKENIZER)
        self.weights = weights()
        self.out = path / "out" / "m.gguf"
        self.out.parent.mkdir()

    def convert(self, level: str = "F16"):
        (self.path / "config.json").write_text(json.dumps(self.config))
        (self.path / "tokenizer.json").write_text(json.dumps(self.tokenizer))
        st.save_file(self.weights, self.path / "model.safetensors")
        return convert(self.path, self.out, level=level)

    def refused(self, kind: type[EdgeError], words: str, level: str = "F16") -> None:
        with pytest.raises(kind, match=words):
            self.convert(level)
        assert not list(self.out.parent.iterdir())


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def test_the_sound_one_converts(source: Source) -> None:
    artifact = source.convert()
    data = artifact.metadata
    assert tuple(data["tokenizer.ggml.tokens"])[-4:] == ("<s>", "</s>", "[PAD0]", "[PAD1]")
    assert tuple(data["tokenizer.ggml.token_type"]) == (1,) * 8 + (3, 3, 5, 5)
    assert tuple(data["tokenizer.ggml.merges"]) == ("a b", "ab c")
    assert data["tokenizer.ggml.pre"] == "gpt-2"
    assert data["tokenizer.ggml.add_bos_token"] is False
    assert (artifact.level, artifact.vocabulary_tokens) == ("F16", VOCABULARY)


def test_a_shipped_head_of_a_tied_model_is_left_out(source: Source) -> None:
    source.weights["lm_head.weight"] = source.weights["model.embed_tokens.weight"] + 1
    assert "output.weight" not in {t.name for t in source.convert().tensors}


def test_tensors_without_meaning_are_dropped_by_name(source: Source) -> None:
    source.weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    assert source.convert().shape.layers == 1


def test_llama3_frequencies_become_a_tensor(source: Source) -> None:
    source.config["rope_scaling"] = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    artifact = source.convert()
    (table,) = (t for t in artifact.tensors if t.name == "rope_freqs.weight")
    data = artifact.path.read_bytes()[table.offset_bytes :][: table.size_bytes]
    assert np.frombuffer(data, np.float32).max() == 8.0


def test_a_tensor_left_over_stops_the_conversion(source: Source) -> None:
    source.weights["model.layers.0.self_attn.q_norm.weight"] = np.ones(16, np.float32)
    source.refused(FormatError, "q_norm.weight has no place")


def test_a_layer_too_many_stops_the_conversion(source: Source) -> None:
    source.weights["model.layers.1.input_layernorm.weight"] = np.ones(HIDDEN, np.float32)
    source.refused(FormatError, "layers.1.input_layernorm.weight has no place")


def test_a_missing_tensor_is_named(source: Source) -> None:
    del source.weights["model.layers.0.mlp.up_proj.weight"]
    source.refused(FormatError, "blk.0.ffn_up.weight")


def test_an_untied_model_needs_its_head(source: Source) -> None:
    source.config["tie_word_embeddings"] = False
    source.refused(FormatError, "becomes output.weight")


def test_another_shape_than_the_config_says_is_named(source: Source) -> None:
    source.weights["model.norm.weight"] = np.ones(HIDDEN + 1, np.float32)
    source.refused(FormatError, r"model.norm.weight has the shape \[33\]")


def test_weights_that_are_no_numbers_leave_no_file(source: Source) -> None:
    source.weights["model.layers.0.mlp.down_proj.weight"][3, 3] = np.nan
    source.refused(FormatError, "down_proj.weight holds values that are no finite")


def test_other_families_are_refused_by_name(source: Source) -> None:
    source.config["architectures"] = ["Qwen2ForCausalLM"]
    source.refused(UnsupportedError, r"Qwen2ForCausalLM cannot be converted yet.*LlamaForCausalLM")
    source.config["architectures"] = 5
    source.refused(UnsupportedError, "config.json leaves out")


def test_levels_that_need_an_importance_matrix_are_refused_first(source: Source) -> None:
    source.refused(UnsupportedError, "IQ2_XS needs an importance matrix", "IQ2_XS")


def test_a_missing_tokenizer_is_said(source: Source) -> None:
    source.convert()
    (source.path / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json"):
        convert(source.path, source.out)


def test_no_room_is_said_before_the_intermediate_file(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_file, "SPARE_BYTES", 2**60)
    source.refused(EdgeError, "no room", "Q4_K_M")


def spoil(tokenizer: dict, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        tokenizer = tokenizer[parent]
    tokenizer[last] = value


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model.type", "Unigram", "tokenizer is Unigram"),
        ("model.byte_fallback", True, "SentencePiece"),
        ("model.end_of_word_suffix", "</w>", "end_of_word_suffix"),
        ("model.ignore_merges", True, "ignore_merges to true"),
        ("normalizer", {"type": "Lowercase"}, "Lowercase"),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}, "NFKC"),
        ("pre_tokenizer", None, "pre_tokenizer is null"),
        ("pre_tokenizer.add_prefix_space", True, r"add_prefix_space is true, not false"),
        ("pre_tokenizer", {"type": "Whitespace"}, "nearest is"),
        ("added_tokens", [{"id": 9, "content": "</s>", "rstrip": True}], "sets rstrip"),
        ("post_processor", {"type": "BertProcessing"}, "BertProcessing"),
        (
            "post_processor",
            {"type": "TemplateProcessing",
             "single": [{"SpecialToken": {"id": "</s>"}}, {"Sequence": {"id": "A"}}]},
            "only the bos token",
        ),
    ],
)  # fmt: skip
def test_tokenizers_llama_cpp_would_read_differently(
    source: Source, path: str, value: object, words: str
) -> None:
    spoil(source.tokenizer, path, value)
    source.refused(UnsupportedError, words)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model", None, "no model"), ("model.vocab", [], "no vocabulary"),
        ("model.vocab.a", "x", "no id"), ("model.vocab.a", 1, "no id of its own"),
        ("model.vocab.a", 12, "from 1 to 12"), ("model.vocab.a", -1, "from -1"),
        ("model.merges", None, "no list of merges"), ("model.merges", ["ab"], "no pair"),
        ("model.merges", [["a", "f"]], "no known token"), ("model.merges", [3], "no pair"),
        ("added_tokens", 3, "no list"), ("added_tokens", [{"id": 8}], "without id or text"),
        ("added_tokens", [{"id": 8, "content": "a"}], "one text under two ids"),
        ("post_processor", {"type": "TemplateProcessing", "single": 3}, "template is none"),
    ],
)  # fmt: skip
def test_tokenizers_that_contradict_themselves(
    source: Source, path: str, value: object, words: str
) -> None:
    spoil(source.tokenizer, path, value)
    source.refused(FormatError, words)


def test_a_difference_in_a_pattern_is_located(source: Source) -> None:
    known = json.loads((Path(architectures.__file__).parents[1] / "pretokenizers.json").read_text())
    pre = next(row["pre_tokenizer"] for row in known["known"] if row["name"] == "qwen2")
    pattern = pre["pretokenizers"][0]["pattern"]["Regex"]
    pre["pretokenizers"][0]["pattern"]["Regex"] = pattern.replace(r"\p{N}|", r"\p{N}{1,2}|")
    source.tokenizer["pre_tokenizer"] = pre
    source.refused(UnsupportedError, r"pretokenizers\[0\]\.pattern\.Regex is '.*from character")


def test_special_tokens_come_from_the_tokenizers_own_words_first(source: Source) -> None:
    (source.path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "<s>"}, "add_bos_token": True, "chat_template": [
            {"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]})
    )  # fmt: skip
    data = source.convert().metadata
    assert (data["tokenizer.ggml.eos_token_id"], data["tokenizer.ggml.bos_token_id"]) == (8, 8)
    assert data["tokenizer.ggml.add_bos_token"] is True
    assert data["tokenizer.chat_template"] == "one"
    assert data["tokenizer.chat_template.tool_use"] == "two"


def test_no_end_token_is_refused(source: Source) -> None:
    del source.config["eos_token_id"]
    source.refused(FormatError, "no end-of-text token")


def test_a_family_that_lacks_a_part_or_comes_twice_fails_at_once() -> None:
    with pytest.raises(TypeError, match="lacks dropped, names, transform"):
        architectures.architecture("NewForCausalLM")(type("New", (), {}))
    parts = {"names": {}, "dropped": (), "transform": lambda *_: None}
    with pytest.raises(TypeError, match="two families"):
        architectures.architecture("LlamaForCausalLM")(type("New", (), parts))
