"""Byte-level BPE vocabularies: tokens, types, merges, special tokens, templates."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path

import pytest
from conftest import byte_alphabet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.artifact.config_values import ConfigValues
from edge_runtime.errors import (
    EdgeError,
    FormatError,
    ModelNotFoundError,
    UnsupportedError,
    UsageError,
)
from quantize.checkpoint import Checkpoint
from quantize.tokenizers import Vocabulary, vocabulary_metadata, vocabulary_size

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LETTERS = byte_alphabet()
WORDS = ("he", "ll", "hell", "hello")
NORMAL, CONTROL, USER, UNUSED = 1, 3, 4, 5


def entry(number: int, text: str, *, special: bool = False, **flags: bool) -> dict:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special}
    return {"id": number, "content": text, "special": special, **plain, **flags}


def described() -> dict:
    """256 letters, four merged words (ids 256 to 259), two special tokens (260, 261)."""
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [entry(260, "<s>", special=True), entry(261, "</s>", special=True)],
        "pre_tokenizer": BYTES, "post_processor": BYTES, "decoder": BYTES,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate([*LETTERS, *WORDS])},
            "merges": ["h e", "l l", "he ll", "hell o"],
        },
    }  # fmt: skip


def keys(
    path: Path,
    tokenizer: dict | None = None,
    config: dict | None = None,
    *,
    tokens: int = 264,
    pre: str | None = None,
    rules: Vocabulary = Vocabulary.BYTE_LEVEL,
    files: dict | None = None,
    **stated: object,
) -> dict:
    """The keys without their prefix, arrays as lists, of files written to `path`."""
    if tokenizer is not None:
        (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    if stated:
        (path / "tokenizer_config.json").write_text(json.dumps(stated))
    for name, content in (files or {}).items():
        target = path / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(content if isinstance(content, str) else json.dumps(content))
    config = {"model_type": "llama", "tokenizer_class": "PreTrainedTokenizerFast", **(config or {})}
    (path / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint(path=path, config=config, tensors={})
    found = vocabulary_metadata(
        checkpoint, ConfigValues(config), rules, vocabulary_tokens=tokens, pre=pre
    )
    return {
        key.removeprefix("tokenizer.").removeprefix("ggml."): list(value.items)
        if hasattr(value, "items")
        else value
        for key, value in found.items()
    }


def test_tokens_types_and_merges(tmp_path):
    found = keys(tmp_path, described())
    assert found["model"] == "gpt2"
    assert found["pre"] == "gpt-2"
    assert found["tokens"] == [*LETTERS, *WORDS, "<s>", "</s>", "[PAD262]", "[PAD263]"]
    assert found["token_type"] == [NORMAL] * 260 + [CONTROL] * 2 + [UNUSED] * 2
    assert found["merges"] == ["h e", "l l", "he ll", "hell o"]
    assert (found["add_bos_token"], found["add_eos_token"]) == (False, False)
    assert "bos_token_id" not in found


def test_merges_in_pairs_are_spelled_as_texts_and_keep_their_spaces(tmp_path):
    tokenizer = described()
    model = tokenizer["model"]
    model["vocab"] = {**model["vocab"], " ": 260, " h": 261}
    tokenizer["added_tokens"] = []
    model["merges"] = [["h", "e"], [" ", "h"]]
    assert keys(tmp_path, tokenizer)["merges"] == ["h e", "Ġ h"]


def test_what_looks_special_is_control_and_text_tokens_have_plain_spaces(tmp_path):
    tokenizer = described()
    texts = ["<|im_end|>", "a▁b", "<unused3>", "<pad>", "<think>"]
    tokenizer["added_tokens"] += [entry(262 + i, text) for i, text in enumerate(texts)]
    found = keys(tmp_path, tokenizer, tokens=267)
    assert found["tokens"][262:] == ["<|im_end|>", "a b", "<unused3>", "<pad>", "<think>"]
    assert found["token_type"][262:] == [CONTROL, USER, CONTROL, CONTROL, USER]


def test_added_tokens_of_letters_keep_their_own_text(tmp_path):
    # Decoding the letter as a byte would make U+FFFD of each, one text under two ids.
    tokenizer = described()
    tokenizer["model"]["vocab"] |= {"õ!": 260, "÷!": 261}
    tokenizer["added_tokens"] = [
        entry(260, "õ!", normalized=False),
        entry(261, "÷!", normalized=False),
    ]
    assert keys(tmp_path, tokenizer)["tokens"][260:262] == ["õ!", "÷!"]


def test_tokens_only_the_settings_name_take_the_next_ids(tmp_path):
    found = keys(
        tmp_path, described(), pad_token="<|new|>", bos_token="<s>",
        additional_special_tokens=["<a>", "</s>"],
    )  # fmt: skip
    assert found["tokens"][262:] == ["<|new|>", "<a>"]
    assert found["token_type"][262:] == [CONTROL, CONTROL]
    assert found["bos_token_id"] == 260
    assert "padding_token_id" not in found  # only tokenizer.json gives ids to texts


def test_the_settings_list_of_added_tokens_counts_after_tokenizer_json(tmp_path):
    decoder = {
        "261": entry(0, "</s>"),
        "99": entry(0, "<late>"),
        "98": entry(0, "<early>", special=True),
    }
    for one in decoder.values():
        del one["id"]
    found = keys(tmp_path, described(), added_tokens_decoder=decoder, eos_token="</s>")
    assert found["tokens"][260:] == ["<s>", "</s>", "<early>", "<late>"]
    assert found["token_type"][260:] == [CONTROL, CONTROL, CONTROL, USER]


def test_older_files_of_added_tokens(tmp_path):
    files = {
        "special_tokens_map.json": {"pad_token": "<|pad|>"},
        "added_tokens.json": {"extra": 262, "<|pad|>": 263},
    }
    found = keys(tmp_path, described(), files=files, eos_token="</s>")
    assert found["tokens"][262:] == ["extra", "<|pad|>"]
    assert found["token_type"][262:] == [USER, CONTROL]


def test_a_class_brings_its_special_tokens_where_they_fit(tmp_path):
    stated = {"tokenizer_class": "GPT2Tokenizer"}
    assert keys(tmp_path, described(), **stated)["tokens"][262] == "<|endoftext|>"
    assert len(keys(tmp_path, described(), tokens=262, **stated)["tokens"]) == 262


def test_vocab_json_and_merges_txt(tmp_path):
    model = described()["model"]
    files = {
        "vocab.json": model["vocab"],
        "merges.txt": "#version: 0.2\nh e\nl l\n\nhe ll\nhell o\n",
        "added_tokens.json": {"<x>": 260},
    }
    found = keys(tmp_path, None, {"eos_token_id": 3}, files=files, eos_token="<x>")
    assert found["merges"] == ["h e", "l l", "he ll", "hell o"]
    assert found["tokens"][260] == "<x>"
    assert found["eos_token_id"] == 3
    assert found["pre"] == "gpt-2"


def template(single: list, pair: list) -> dict:
    def piece(name: str) -> dict:
        kind = "Sequence" if len(name) == 1 else "SpecialToken"
        return {kind: {"id": name, "type_id": 0}}

    return {
        "type": "TemplateProcessing",
        "single": [piece(name) for name in single],
        "pair": [piece(name) for name in pair],
        "special_tokens": {},
    }


def ends(found: dict) -> dict:
    names = ("bos", "eos", "eot", "seperator")
    return {
        **{name: found[f"{name}_token_id"] for name in names if f"{name}_token_id" in found},
        **{key: value for key, value in found.items() if key.startswith("add_")},
    }


# Worked out with llama.cpp's own converter on the same files.
@pytest.mark.parametrize(
    ("processor", "stated", "expected"),
    [
        (
            template(["<s>", "A"], ["<s>", "A", "<s>", "B"]),
            {"bos_token": "<s>", "eos_token": "</s>"},
            {"bos": 260, "eos": 261, "add_bos_token": True, "add_sep_token": False},
        ),
        (
            template(["<s>", "A", "</s>"], ["<s>", "A", "<x>", "B", "</s>"]),
            {"eos_token": {"content": "<x>"}},
            {"bos": 260, "eos": 261, "eot": 262, "add_bos_token": True, "add_eos_token": True,
             "add_sep_token": False},
        ),
        (
            {"type": "Sequence", "processors": [
                BYTES, template(["<s>", "A"], ["<s>", "A", "<x>", "</s>", "B"])]},
            {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "<x>",
             "add_bos_token": False, "add_eos_token": True},
            {"bos": 260, "eos": 261, "seperator": 262, "add_bos_token": True,
             "add_eos_token": False, "add_sep_token": True},
        ),
        (
            template(["<s>", "A"], ["<s>", "A", "</s>", "B"]),
            {"eos_token": "</s>", "cls_token": "<x>"},
            {"bos": 262, "eos": 261, "seperator": 261, "add_bos_token": False,
             "add_sep_token": True},
        ),
        (
            {"type": "RobertaProcessing", "sep": ["<x>", 262], "cls": ["<s>", 260]},
            {"bos_token": "<s>", "eos_token": "</s>"},
            {"bos": 260, "eos": 261, "seperator": 262, "add_bos_token": True,
             "add_eos_token": True, "add_sep_token": True},
        ),
        (BYTES, {"eos_token": "</s>", "add_bos_token": True},
         {"eos": 261, "add_bos_token": False, "add_eos_token": False}),
        (None, {"eos_token": "</s>", "add_bos_token": True}, {"eos": 261, "add_bos_token": True}),
        (None, {"eos_token": "</s>"}, {"eos": 261}),
    ],
)  # fmt: skip
def test_special_tokens_and_ends(tmp_path, processor, stated, expected):
    tokenizer = described()
    tokenizer["added_tokens"].append(entry(262, "<x>", special=True))
    tokenizer["post_processor"] = processor
    assert ends(keys(tmp_path, tokenizer, **stated)) == expected


def test_ids_of_the_config_count_last_and_never_as_lists(tmp_path):
    config = {
        "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": -1,
        "text_config": {"sep_token_id": 9, "bos_token_id": 8},
    }  # fmt: skip
    found = keys(tmp_path, described(), config, bos_token="<s>", eos_token="unknown")
    assert ends(found) == {
        "bos": 260,
        "seperator": 9,
        "add_bos_token": False,
        "add_eos_token": False,
    }
    assert "padding_token_id" not in found


def test_chat_templates(tmp_path):
    named = [{"name": "default", "template": "D"}, {"name": "tool-use", "template": "T"}]
    expected = {
        "chat_template": "D",
        "chat_template.tool_use": "T",
        "chat_templates": ["tool_use"],
    }
    found = keys(tmp_path, described(), chat_template=named)
    assert {key: value for key, value in found.items() if "chat" in key} == expected
    files = {"chat_template.jinja": "J", "additional_chat_templates/rag.jinja": "R"}
    assert keys(tmp_path, described(), files=files, chat_template="C")["chat_template"] == "C"
    found = keys(tmp_path, described(), files=files, eos_token="</s>")
    assert {key: value for key, value in found.items() if "chat" in key} == {
        "chat_template": "J",
        "chat_template.rag": "R",
        "chat_templates": ["rag"],
    }


def spoil(tokenizer: dict, what: str) -> None:
    model = tokenizer["model"]
    if what == "twice":
        tokenizer["added_tokens"] += [entry(262, "a▁b"), entry(263, "a b")]
    elif what == "id":
        model["vocab"]["he"] = 0
    elif what == "far":
        model["vocab"]["hello"] = 5000
    elif what == "merge":
        model["merges"].append("q q")
    elif what == "no merges":
        model["merges"] = []
    elif what == "surrogate":
        tokenizer["added_tokens"].append(entry(262, "\ud800"))


@pytest.mark.parametrize("what", ["twice", "id", "far", "merge", "no merges", "surrogate"])
def test_a_tokenizer_that_contradicts_itself_is_refused(tmp_path, what):
    tokenizer = described()
    spoil(tokenizer, what)
    with pytest.raises(FormatError):
        keys(tmp_path, tokenizer)


def test_no_tokenizer_and_other_kinds(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json"):
        keys(tmp_path)
    unigram = {"model": {"type": "Unigram", "vocab": []}}
    with pytest.raises(UnsupportedError, match="Unigram"):
        keys(tmp_path, unigram)
    with pytest.raises(UnsupportedError, match="BPE"):
        keys(tmp_path, described(), rules=Vocabulary.WORDPIECE)


def test_tokens_that_take_spaces_beside_them_are_converted(tmp_path):
    # Published models have them (Phi-3, Phi-4), and llama.cpp knows which.
    tokenizer = described()
    tokenizer["added_tokens"].append(entry(262, "<|end|>", special=True, rstrip=True))
    assert keys(tmp_path, tokenizer)["tokens"][262] == "<|end|>"


def test_a_token_that_must_be_a_word_of_its_own_is_refused(tmp_path):
    tokenizer = described()
    tokenizer["added_tokens"].append(entry(262, "word", single_word=True))
    with pytest.raises(UnsupportedError, match="word of its own"):
        keys(tmp_path, tokenizer)


def test_two_tokens_before_every_text_are_refused(tmp_path):
    tokenizer = described()
    tokenizer["post_processor"] = template(["<s>", "</s>", "A"], [])
    with pytest.raises(UnsupportedError, match="2 special tokens first"):
        keys(tmp_path, tokenizer, bos_token="<s>")


def test_pre_tokenizer_by_behaviour_or_by_name(tmp_path):
    tokenizer = described()
    digits = {"type": "Digits", "individual_digits": True}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, BYTES]}
    assert keys(tmp_path, tokenizer)["pre"] == "smollm"
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "q"}, "behavior": "Isolated", "invert": False},
        BYTES]}  # fmt: skip
    with pytest.raises(UnsupportedError, match="--pre NAME") as refused:
        keys(tmp_path, tokenizer)
    assert "nearest is gpt-2" in refused.value.cause
    assert keys(tmp_path, tokenizer, pre="qwen2")["pre"] == "qwen2"
    with pytest.raises(UsageError, match="qwen2"):
        keys(tmp_path, tokenizer, pre="qwen-2")


def test_ignored_merges_must_agree(tmp_path):
    tokenizer = described()
    tokenizer["model"]["ignore_merges"] = True
    with pytest.raises(UnsupportedError, match="ignore_merges"):
        keys(tmp_path, tokenizer)


def test_a_name_that_begins_texts_by_default_says_when_the_files_do_not(tmp_path):
    tokenizer = described()
    tokenizer["post_processor"] = None
    tokenizer["model"]["ignore_merges"] = True
    pattern = (
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
        "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{**split, "invert": False}, {**BYTES, "use_regex": False}],
    }
    found = keys(tmp_path, tokenizer)
    assert (found["pre"], found["add_bos_token"]) == ("llama-bpe", False)


def test_a_normalizer_that_changes_every_text_is_refused(tmp_path):
    tokenizer = described()
    tokenizer["normalizer"] = {"type": "NFC"}
    assert keys(tmp_path, tokenizer)["pre"] == "gpt-2"
    tokenizer["normalizer"] = {"type": "Lowercase"}
    with pytest.raises(UnsupportedError, match="normalizes"):
        keys(tmp_path, tokenizer)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}),
    ],
)
def test_what_the_tokenizers_library_dies_of_is_a_sentence(tmp_path, part, value):
    with pytest.raises(FormatError, match="a normalizer or pre_tokenizer that is none"):
        keys(tmp_path, {**described(), part: value})


def test_vocabulary_size(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(described()))
    checkpoint = Checkpoint(path=tmp_path, config={}, tensors={})
    assert vocabulary_size(checkpoint, Vocabulary.SENTENCEPIECE_FIRST) == 262
    (tmp_path / "tokenizer.model").write_bytes(b"")
    assert vocabulary_size(checkpoint, Vocabulary.SENTENCEPIECE_FIRST) is None


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.text(max_size=3),
    st.floats(allow_nan=False), st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from(["type", "id", "content"]), st.text(max_size=3), max_size=2),
)  # fmt: skip


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Every place in nested JSON, the 260 tokens of the vocabulary but one."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path] if len(path) > 1 else []
    for key, item in list(inner)[: 1 if path[-1:] == ("vocab",) else None]:
        here = (*path, key)
        found += places(item, here) if isinstance(item, dict | list) else [here]
    return found


WHOLE = described() | {
    "post_processor": {
        "type": "Sequence",
        "processors": [BYTES, template(["<s>", "A"], ["<s>", "A", "</s>", "B"])],
    },
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
}
STATED = {
    "bos_token": "<s>", "eos_token": {"content": "</s>"}, "additional_special_tokens": ["<s>"],
    "added_tokens_decoder": {"260": entry(260, "<s>")}, "tokenizer_class": "GPT2Tokenizer",
    "chat_template": [{"name": "default", "template": "D"}], "add_bos_token": True,
}  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_value_anywhere_converts_or_is_refused_in_words(tmp_path, data):
    both = {"described": copy.deepcopy(WHOLE), "stated": copy.deepcopy(STATED)}
    for _ in range(data.draw(st.integers(1, 2))):
        where = data.draw(st.sampled_from(places(both)))
        target = both
        for key in where[:-1]:
            target = target[key]
        target[where[-1]] = data.draw(ODD)
    with contextlib.suppress(EdgeError):
        keys(tmp_path, both["described"], **both["stated"])
