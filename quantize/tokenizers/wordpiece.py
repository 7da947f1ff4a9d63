"""WordPiece (BERT's kind) becomes the vocabulary keys of a GGUF file.

llama.cpp marks where words begin instead of where they go on: `##ing` is written `ing`, `go` as
U+2581 and `go`. It normalizes by the two keys the file gets, knows one way to cut words, and reads
no pre-tokenizer's name for these vocabularies; the name is written as published files have it.
Reads `tokenizer.json`, or `vocab.txt` with the settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from edge_runtime.errors import FormatError, UnsupportedError

from ..writers.gguf import Value
from . import pretokenizer
from .added import added_tokens, tokenizer_class
from .files import TokenizerFiles, content
from .special import special_metadata
from .templates import chat_template_metadata
from .tokens import SPACE_MARK, Kind, TokenTable, require_ids, require_vocabulary

_CONTINUES = "##"
_LONGEST_WORD = 100
_IDS_OF_BERT: Mapping[str, tuple[str, int]] = {
    "unk": ("unknown", 100), "cls": ("bos", 101), "sep": ("seperator", 102),
    "pad": ("padding", 0), "mask": ("mask", 103),
}  # fmt: skip
"""Key of each special token in a GGUF file, and the id llama.cpp takes where the key is missing."""


def wordpiece_metadata(
    files: TokenizerFiles, *, vocabulary_tokens: int, pre: str | None
) -> dict[str, Value]:
    """Returns the keys of a WordPiece vocabulary filled up to `vocabulary_tokens`.

    `pre` is the pre-tokenizer's name to write, None to look it up among published ones.
    Raises UnsupportedError for one that marks the insides of words otherwise than BERT's, or whose
    text is not normalized and cut as BERT's is.
    """
    if files.described is None:
        special = _special_of_vocab_txt(files, vocabulary_tokens)
        files = dataclasses.replace(files, described=_of_vocab_txt(files))
    else:
        special = special_metadata(files, limit=vocabulary_tokens)
    described = files.described or {}
    model = described.get("model")
    if not isinstance(model, dict):
        raise FormatError("tokenizer.json has no model.")
    if model.get("continuing_subword_prefix", _CONTINUES) != _CONTINUES:
        raise UnsupportedError(
            "The tokenizer marks the insides of words otherwise than with ##.",
            cause="llama.cpp's WordPiece knows no other mark.",
        )
    _require_bert(described)
    vocabulary = require_vocabulary(model)
    added = added_tokens(files, vocabulary, vocabulary_tokens)
    require_ids((*vocabulary.values(), *added), vocabulary_tokens)
    table = TokenTable(vocabulary_tokens)
    for text, number in vocabulary.items():
        table.put(number, text, Kind.NORMAL)
    for number, token in added.items():
        table.put(number, token.written, token.kind)
    table.texts = [
        text if kind == Kind.CONTROL else _marked(text)
        for text, kind in zip(table.texts, table.kinds, strict=True)
    ]
    if pre is None:
        pre = _published_name(files, described, vocabulary) or "default"
    return {
        **table.metadata(model="bert", pre=pre, scores=False),
        **special,
        **chat_template_metadata(files),
    }


def _of_vocab_txt(files: TokenizerFiles) -> Mapping[str, object]:
    """What a tokenizer.json would say, from `vocab.txt` and the tokenizer's settings."""
    vocabulary = _lines(files)
    special = [text for text in _special_texts(files).values() if text in vocabulary]
    return {
        "added_tokens": [
            {"id": vocabulary[text], "content": text, "special": True, "normalized": False}
            for text in special
        ],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True,
            "handle_chinese_chars": files.settings.get("tokenize_chinese_chars", True),
            "strip_accents": files.settings.get("strip_accents"),
            "lowercase": files.settings.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "vocab": vocabulary},
    }  # fmt: skip


def _lines(files: TokenizerFiles) -> dict[str, int]:
    """The tokens of `vocab.txt`, one a line; of two equal ones the last counts."""
    lines = (files.checkpoint.text("vocab.txt") or "").replace("\r\n", "\n").split("\n")
    if not lines[-1]:
        lines.pop()
    return {text: number for number, text in enumerate(lines)}


def _special_texts(files: TokenizerFiles) -> dict[str, str]:
    return {
        name: content(files.settings.get(f"{name}_token")) or f"[{name.upper()}]"
        for name in _IDS_OF_BERT
    }


def _special_of_vocab_txt(files: TokenizerFiles, limit: int) -> dict[str, Value]:
    """What config.json says, and what llama.cpp would take to be as in BERT's own though it is not.

    Nothing else is written, as published files made from a `vocab.txt` have it.
    """
    found = special_metadata(files, limit=limit)
    vocabulary = _lines(files)
    for name, text in _special_texts(files).items():
        key, usual = _IDS_OF_BERT[name]
        if vocabulary.get(text, usual) != usual:
            found.setdefault(f"tokenizer.ggml.{key}_token_id", vocabulary[text])
    for key, setting in (("lowercase", "do_lower_case"), ("strip_accents", "strip_accents")):
        if files.settings.get(setting) is False:
            found[f"tokenizer.ggml.normalizer.{key}"] = False
    return found


def _marked(text: str) -> str:
    return text.removeprefix(_CONTINUES) if text.startswith(_CONTINUES) else SPACE_MARK + text


def _require_bert(described: Mapping[str, object]) -> None:
    normalizer, splitter = described.get("normalizer"), described.get("pre_tokenizer")
    kind = splitter.get("type") if isinstance(splitter, dict) else splitter
    if kind != "BertPreTokenizer":
        raise UnsupportedError(
            f"The tokenizer cuts words otherwise than BERT's ({str(kind)[:40]}).",
            cause="llama.cpp's WordPiece knows one way.",
        )
    if isinstance(normalizer, dict) and normalizer.get("handle_chinese_chars") is False:
        raise UnsupportedError(
            "The tokenizer leaves Chinese characters together (handle_chinese_chars is false).",
            cause="llama.cpp's WordPiece makes each a word of its own.",
        )


def _published_name(
    files: TokenizerFiles, described: Mapping[str, object], vocabulary: Mapping[str, int]
) -> str | None:
    """The name published files have for a tokenizer that gives these ids for the probe."""
    normalizer = described.get("normalizer")
    if tokenizer_class(files) == "BertTokenizer" and isinstance(normalizer, dict):
        # Its class replaces the file's flags by the settings', or by its own defaults.
        normalizer = {
            **normalizer,
            "lowercase": files.settings.get("do_lower_case", True),
            "strip_accents": files.settings.get("strip_accents"),
        }
    pipeline = pretokenizer.Pipeline(normalizer, described.get("pre_tokenizer"))
    unknown = vocabulary.get("[UNK]", 0)
    ids = [vocabulary[text] for text in ("[CLS]",) if text in vocabulary]
    for word in pipeline.pieces(pipeline.normalized(pretokenizer.facts().probe)):
        ids += _word_ids(word, vocabulary, unknown)
    ids += [vocabulary[text] for text in ("[SEP]",) if text in vocabulary]
    return pretokenizer.name_of_ids(ids)


def _word_ids(word: str, vocabulary: Mapping[str, int], unknown: int) -> list[int]:
    """The longest pieces from the left on; the unknown token where nothing fits."""
    found: list[int] = []
    at = 0
    while at < len(word):
        mark = _CONTINUES if at else ""
        end = next(
            (end for end in range(len(word), at, -1) if mark + word[at:end] in vocabulary), None
        )
        if end is None or len(word) > _LONGEST_WORD:
            return [unknown]
        found.append(vocabulary[mark + word[at:end]])
        at = end
    return found
