"""Tokenizer files of every kind a checkpoint may have, made up: no vocabulary of a real model.

Each function returns file name -> content. The vocabularies hold the 256 bytes, a few dozen pieces
merged from them, and special tokens, so that any text has tokens and a file stays small.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence

Files = dict[str, bytes]

WORDS = (
    "the", "he", "in", "er", "an", "re", "on", "at", "en", "nd", "and", "ing", "to", "or", "of",
    "is", "it", "was", "run", "small", "model", "12", "34", "00",
)  # fmt: skip
"""What merges build up to, each from left to right."""

CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"

_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"


def _byte_level(use_regex: bool = True, prefix: bool = False) -> dict:
    return {
        "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True,
        "use_regex": use_regex,
    }  # fmt: skip


def _split(digits: str) -> dict:
    pattern = {"Regex": f"{_CONTRACTIONS}|{_LETTERS}|{digits}|{_TAIL}"}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]}


PRE_TOKENIZERS = {
    "gpt-2": _byte_level(),
    "qwen2": _split(r"\p{N}"),
    "llama-bpe": _split(r"\p{N}{1,3}"),
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level()],
    },
}
"""llama.cpp's name of a split -> the `pre_tokenizer` of tokenizer.json that splits that way."""


def byte_alphabet() -> list[str]:
    """The printable stand-ins of byte-level BPE for the 256 bytes, in byte order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _merges(space: str) -> list[tuple[str, str]]:
    """Pairs that build WORDS, and each with a space before it."""
    pairs: dict[tuple[str, str], None] = {}
    for word in (*WORDS, *(space + word for word in WORDS)):
        for end in range(1, len(word)):
            pairs[word[:end], word[end]] = None
    return list(pairs)


def added(token: str, token_id: int, *, special: bool = True, normalized: bool = False) -> dict:
    """An entry of `added_tokens`."""
    return {
        "id": token_id, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": normalized, "special": special,
    }  # fmt: skip


def _template(first: str, first_id: int) -> dict:
    return {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": first, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [
            {"SpecialToken": {"id": first, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {first: {"id": first, "ids": [first_id], "tokens": [first]}},
    }


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def byte_level(
    pre: str,
    *,
    specials: Sequence[str] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    words: Sequence[tuple[str, bool]] = (("<think>", False), ("    ", True)),
    bos: str | None = None,
    eos: str = "<|endoftext|>",
    specials_first: bool = False,
    adds_bos: bool = False,
    merges_as_text: bool = False,
    config: Mapping[str, object] | None = None,
    files: Mapping[str, object] | None = None,
) -> Files:
    """Byte-level BPE: tokenizer.json and tokenizer_config.json.

    `words` are added tokens that are not special, each with its `normalized` flag. `config` and
    `files` add to tokenizer_config.json, and files beside it.
    """
    pairs = _merges(byte_alphabet()[ord(" ")])
    plain = [*byte_alphabet(), *dict.fromkeys(a + b for a, b in pairs)]
    if specials_first:
        plain = [*specials, *plain]
    vocabulary = {token: i for i, token in enumerate(plain)}
    extra = [token for token in specials if token not in vocabulary]
    extra += [word for word, _ in words if word not in vocabulary]
    ids = {**vocabulary, **{token: len(plain) + i for i, token in enumerate(extra)}}
    pieces = [added(token, ids[token]) for token in specials]
    pieces += [added(w, ids[w], special=False, normalized=flag) for w, flag in words]
    post: dict = {**_byte_level(), "trim_offsets": False}
    if adds_bos:
        assert bos is not None
        post = {"type": "Sequence", "processors": [post, _template(bos, ids[bos])]}
    described = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": sorted(pieces, key=lambda piece: piece["id"]),
        "normalizer": None, "pre_tokenizer": PRE_TOKENIZERS[pre], "post_processor": post,
        "decoder": _byte_level(),
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": pre == "llama-bpe", "vocab": vocabulary,
            "merges": [f"{a} {b}" if merges_as_text else [a, b] for a, b in pairs],
        },
    }  # fmt: skip
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos,
        "chat_template": CHAT, **(config or {}),
    }  # fmt: skip
    return {
        "tokenizer.json": _json(described),
        "tokenizer_config.json": _json({k: v for k, v in told.items() if v is not None}),
        **{name: _json(value) for name, value in (files or {}).items()},
    }


NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(*fields: tuple[int, object]) -> bytes:
    """A protobuf message of numbered fields: integers, floats, texts and nested messages."""
    out = b""
    for number, value in fields:
        if isinstance(value, float):
            out += _varint(number << 3 | 5) + struct.pack("<f", value)
        elif isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            data = value.encode() if isinstance(value, str) else bytes(value)  # type: ignore[call-overload]
            out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def sentencepiece_pieces(first: Sequence[str]) -> list[tuple[str, float, int]]:
    """Pieces of a BPE model: control tokens, bytes, merged words by rank, single characters."""
    types = {"<unk>": UNKNOWN, "<unused0>": UNUSED, "\n\n": USER, "<2mass>": USER}
    pieces = [(token, 0.0, types.get(token, CONTROL)) for token in first]
    pieces += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    merged = list(dict.fromkeys(a + b for a, b in _merges("▁")))
    characters = sorted({c for token in merged for c in token})
    pieces += [(token, -float(i), NORMAL) for i, token in enumerate([*merged, *characters])]
    return pieces


def sentencepiece(
    *,
    first: Sequence[str] = ("<unk>", "<s>", "</s>"),
    config: Mapping[str, object] | None = None,
    files: Mapping[str, object] | None = None,
) -> Files:
    """A SentencePiece BPE model with byte fallback: tokenizer.model and tokenizer_config.json."""
    pieces = sentencepiece_pieces(first)
    at = {token: i for i, (token, _, _) in enumerate(pieces)}
    trainer = [(3, 2), (4, len(pieces)), (35, 1), (40, at["<unk>"])]
    for number, names in ((41, ("<s>", "<bos>")), (42, ("</s>", "<eos>")), (43, ("<pad>",))):
        found = [at[name] for name in names if name in at]
        if found:
            trainer.append((number, found[0]))
    model = message(
        *((1, message((1, text), (2, score), (3, kind))) for text, score, kind in pieces),
        (2, message(*trainer)),
        (3, message((1, "identity"), (3, 1), (4, 0), (5, 1))),
    )
    told = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False, **(config or {}),
    }  # fmt: skip
    return {
        "tokenizer.model": model,
        "tokenizer_config.json": _json(told),
        **{name: _json(value) for name, value in (files or {}).items()},
    }


def byte_fallback() -> Files:
    """The same kind of tokenizer as tokenizer.json alone."""
    pairs = _merges("▁")
    tokens = [text for text, _, _ in sentencepiece_pieces(("<unk>", "<s>", "</s>"))]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    described = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(token, i) for i, token in enumerate(tokens[:3])],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None, "post_processor": _template("<s>", 1),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "byte_fallback": True,
            "ignore_merges": False, "vocab": vocabulary, "merges": [f"{a} {b}" for a, b in pairs],
        },
    }  # fmt: skip
    told = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False,
    }  # fmt: skip
    return {"tokenizer.json": _json(described), "tokenizer_config.json": _json(told)}


def wordpiece() -> Files:
    """WordPiece, lower-casing: tokenizer.json, tokenizer_config.json and vocab.txt."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    characters = [chr(c) for c in range(0x21, 0x7F) if not chr(c).isupper()]
    tokens = [*special, *characters, *("##" + c for c in characters), *WORDS]
    tokens += ["##" + word for word in WORDS]
    tokens = list(dict.fromkeys(tokens))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    ends = {t: {"id": t, "ids": [vocabulary[t]], "tokens": [t]} for t in ("[CLS]", "[SEP]")}
    text, end = {"Sequence": {"id": "A", "type_id": 0}}, {"id": "[SEP]", "type_id": 0}
    single = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, text, {"SpecialToken": end}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": end}]
    described = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(token, vocabulary[token]) for token in special],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
            "strip_accents": None, "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ends,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary,
        },
    }  # fmt: skip
    names = ("pad", "unk", "cls", "sep", "mask")
    told = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        **{f"{name}_token": token for name, token in zip(names, special, strict=True)},
    }
    return {
        "tokenizer.json": _json(described),
        "tokenizer_config.json": _json(told),
        "vocab.txt": "\n".join(tokens).encode() + b"\n",
    }
