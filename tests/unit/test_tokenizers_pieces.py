"""SentencePiece models, their tokenizer.json twins, and WordPiece: what becomes of the files."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.artifact.config_values import ConfigValues
from edge_runtime.errors import EdgeError, FormatError, UnsupportedError, UsageError
from quantize.checkpoint import Checkpoint
from quantize.tokenizers import Vocabulary, vocabulary_metadata
from quantize.tokenizers.sentencepiece import read_model

DATA = Path(__file__).parents[1] / "data"
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: str, score: float, kind: int | None = None) -> bytes:
    body = field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
    return field(1, body + (field(3, kind) if kind is not None else b""))


PIECES = [
    ("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<0x0A>", 0.0, BYTE),
    ("▁", -3.5, None), ("a", -2.0, NORMAL), ("▁a", -1.0, NORMAL), ("user", 0.0, USER),
    ("old", 0.0, UNUSED),
]  # fmt: skip


def model(model_type: int = 2, **more: int) -> bytes:
    trainer = field(3, model_type) + (field(24, 1) if more.get("suffix") else b"")
    return b"".join(piece(*p) for p in PIECES) + field(2, trainer) + field(3, field(1, b"x"))


def keys(path: Path, rules: Vocabulary, tokens: int, pre: str | None = None, **files) -> dict:
    names = {"settings": "tokenizer_config.json", "tokenizer": "tokenizer.json",
             "added": "added_tokens.json"}  # fmt: skip
    for name, content in files.items():
        if isinstance(content, bytes):
            (path / "tokenizer.model").write_bytes(content)
        else:
            (path / names[name]).write_text(json.dumps(content))
    config = {"model_type": "llama", "tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "config.json").write_text(json.dumps(config))
    found = vocabulary_metadata(
        Checkpoint(path=path, config=config, tensors={}),
        ConfigValues(config),
        rules,
        vocabulary_tokens=tokens,
        pre=pre,
    )
    return {
        key.removeprefix("tokenizer.ggml."): list(value.items) if hasattr(value, "items") else value
        for key, value in found.items()
    }


SPM, PHI3 = Vocabulary.SENTENCEPIECE_FIRST, Vocabulary.PHI3


def test_reads_what_sentencepiece_wrote():
    found = read_model((DATA / "tiny_sentencepiece.model").read_bytes())
    assert found.model_type == 2
    assert len(found.pieces) == 600
    assert [p.text for p in found.pieces[:4]] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert [p.kind for p in found.pieces[:4]] == [UNKNOWN, CONTROL, CONTROL, BYTE]
    assert found.pieces[545].text == "▁"


def test_pieces_types_scores_and_rows_without_a_piece(tmp_path):
    found = keys(tmp_path, SPM, 11, model=model())
    assert (found["model"], found["pre"]) == ("llama", "default")
    assert found["tokens"] == [text for text, _, _ in PIECES] + ["[PAD9]", "[PAD10]"]
    assert found["token_type"] == [
        UNKNOWN, CONTROL, CONTROL, BYTE, NORMAL, NORMAL, NORMAL, NORMAL, UNUSED, UNUSED, UNUSED,
    ]  # fmt: skip
    assert found["scores"][4:7] == [-3.5, -2.0, -1.0]
    assert found["scores"][9:] == [-10_000.0, -10_000.0]


def test_added_tokens_of_a_sentencepiece_model(tmp_path):
    decoder = {
        "1": {"content": "<s>", "special": True},
        "10": {"content": "a▁b", "special": False},
        "11": {"content": "<|im_end|>"},
        "99": {"content": "no row"},
    }
    found = keys(
        tmp_path, SPM, 12, model=model(), added={"<x>": 9, "<far>": 50},
        settings={"added_tokens_decoder": decoder, "bos_token": "<s>"},
    )  # fmt: skip
    assert found["tokens"][9:] == ["<x>", "a b", "<|im_end|>"]
    assert found["token_type"][9:] == [USER, USER, CONTROL]
    assert found["scores"][1] == -1000.0


def test_phi3_takes_added_tokens_from_every_file_and_only_their_flag(tmp_path):
    tokenizer = {"added_tokens": [
        {"id": 9, "content": "<|end|>", "special": True, "rstrip": True},
        {"id": 10, "content": "<|x|>▁", "special": False},
    ]}  # fmt: skip
    found = keys(tmp_path, PHI3, 11, model=model(), tokenizer=tokenizer, settings={})
    assert found["tokens"][9:] == ["<|end|>", "<|x|>▁"]
    assert found["token_type"][9:] == [CONTROL, USER]


@pytest.mark.parametrize("data", [model(1), model(suffix=1)])
def test_models_llama_cpp_runs_otherwise_are_refused_but_on_demand(tmp_path, data):
    with pytest.raises(UnsupportedError, match="--pre default"):
        keys(tmp_path, SPM, 11, model=data)
    assert keys(tmp_path, SPM, 11, pre="default")["tokens"][5] == "a"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x0a", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0b", b"\x0a\x05\x0a",
        field(1, b"\x0a\x02\xff\xff"), field(1, b"\x15\x00\x00"), field(2, field(3, 2)),
        piece("a", float("nan")), field(1, 7), model()[:-1],
    ],
)  # fmt: skip
def test_damaged_models_are_refused(data):
    with pytest.raises(FormatError, match=r"tokenizer\.model"):
        read_model(data)


@given(st.binary(max_size=80), st.integers(0, 200))
def test_any_bytes_are_read_or_refused_in_words(data, at):
    whole = model()
    for bytes_ in (data, whole[:at] + data, whole[:at] + data + whole[at + len(data) :]):
        with contextlib.suppress(EdgeError):
            read_model(bytes_)


def byte_fallback(**changes: object) -> dict:
    vocabulary = {"<unk>": 0, "<s>": 1, "<0x41>": 2, "▁": 3, "a": 4, "b": 5, "ab": 6, "▁ab": 7}
    return {
        "added_tokens": [
            {"id": 1, "content": "<s>", "special": True, "normalized": False},
            {"id": 8, "content": "▁▁", "special": False, "normalized": False},
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "model": {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>",
                  "vocab": vocabulary, "merges": [["a", "b"], "▁ ab"]},
        **changes,
    }  # fmt: skip


def test_scores_of_a_bpe_with_bytes_are_ranks_of_merges(tmp_path):
    found = keys(tmp_path, SPM, 10, tokenizer=byte_fallback(), settings={"bos_token": "<s>"})
    assert found["tokens"][6:] == ["ab", "▁ab", "  ", "[PAD9]"]
    assert found["token_type"] == [
        UNKNOWN, CONTROL, BYTE, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, USER, UNUSED,
    ]  # fmt: skip
    assert found["scores"][4:8] == [-2.0, -2.0, 0.0, -1.0]
    assert found["bos_token_id"] == 1
    assert "add_space_prefix" not in found


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "leading"),
    [
        (None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}, None),
        (None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}, False),
        ({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, None, False),
    ],
)
def test_leading_space(tmp_path, normalizer, pre_tokenizer, leading):
    tokenizer = byte_fallback(normalizer=normalizer, pre_tokenizer=pre_tokenizer)
    assert keys(tmp_path, SPM, 10, tokenizer=tokenizer).get("add_space_prefix") is leading


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": None},
        {"pre_tokenizer": {"type": "ByteLevel"}},
    ],
)
def test_bpe_with_bytes_that_is_not_sentencepieces_is_refused(tmp_path, change):
    with pytest.raises(UnsupportedError, match="SentencePiece"):
        keys(tmp_path, SPM, 10, tokenizer=byte_fallback(**change))


def wordpiece(**changes: object) -> dict:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "go": 4, "##ing": 5, "##": 6}
    return {
        "added_tokens": [{"id": i, "content": text, "special": True, "normalized": False}
                         for text, i in list(vocabulary.items())[:4]],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "vocab": vocabulary},
        **changes,
    }  # fmt: skip


def test_wordpiece_marks_where_words_begin(tmp_path):
    found = keys(tmp_path, Vocabulary.WORDPIECE, 8, tokenizer=wordpiece(),
                 settings={"cls_token": "[CLS]", "sep_token": "[SEP]"})  # fmt: skip
    assert found["model"] == "bert"
    assert found["pre"] == "default"
    assert found["tokens"] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁go", "ing", "", "▁[PAD7]"]
    assert found["token_type"] == [CONTROL] * 4 + [NORMAL] * 3 + [UNUSED]
    assert found["normalizer.lowercase"] is True
    assert "normalizer.strip_accents" not in found
    assert (found["bos_token_id"], found["eos_token_id"], found["seperator_token_id"]) == (2, 3, 3)


def test_wordpiece_takes_the_names_of_published_files(tmp_path):
    rules = Vocabulary.WORDPIECE
    assert keys(tmp_path, rules, 8, "bert-bge", tokenizer=wordpiece())["pre"] == "bert-bge"
    with pytest.raises(UsageError, match="bert-bge"):
        keys(tmp_path, rules, 8, "bert-bg")


def test_wordpiece_of_a_vocab_txt(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\r\n[CLS]\n[SEP]\ngo\n##ing\n[UNK]\n")
    found = keys(tmp_path, Vocabulary.WORDPIECE, 7, settings={"pad_token": "[PAD]"})
    assert found["model"] == "bert"
    assert found["tokens"] == ["[PAD]", "[CLS]", "[SEP]", "▁go", "ing", "[UNK]", "▁[PAD6]"]
    assert found["token_type"] == [CONTROL] * 3 + [NORMAL] * 2 + [CONTROL, UNUSED]
    # Ids that are not those of BERT's own vocabulary, which llama.cpp takes for missing ones.
    assert (found["bos_token_id"], found["seperator_token_id"]) == (1, 2)
    assert found["unknown_token_id"] == 5
    assert not {"padding_token_id", "mask_token_id", "normalizer.lowercase"} & found.keys()


def test_the_settings_of_a_vocab_txt(tmp_path):
    (tmp_path / "vocab.txt").write_text("<pad>\n[CLS]\n[SEP]\n[UNK]\ngo")
    rules = Vocabulary.WORDPIECE
    cased = {"do_lower_case": False, "pad_token": {"content": "<pad>"}}
    found = keys(tmp_path, rules, 5, settings=cased)
    assert found["normalizer.lowercase"] is False
    assert found["token_type"] == [CONTROL] * 4 + [NORMAL]
    with pytest.raises(UnsupportedError, match="Chinese"):
        keys(tmp_path, rules, 5, settings={"tokenize_chinese_chars": False})
    with pytest.raises(UnsupportedError, match="WordPiece"):
        keys(tmp_path, SPM, 5, settings={})
    (tmp_path / "vocab.txt").write_text("")
    with pytest.raises(FormatError, match="vocabulary"):
        keys(tmp_path, rules, 5, settings={})


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"normalizer": {"type": "BertNormalizer", "handle_chinese_chars": False}},
        {"model": {**wordpiece()["model"], "continuing_subword_prefix": "@@"}},
    ],
)
def test_wordpiece_llama_cpp_runs_otherwise_is_refused(tmp_path, change):
    with pytest.raises(UnsupportedError):
        keys(tmp_path, Vocabulary.WORDPIECE, 8, tokenizer=wordpiece(**change))
