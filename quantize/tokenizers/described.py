"""A SentencePiece BPE model as a `tokenizer.json`, for checkpoints that have no such file.

Engines beside llama.cpp read that file only. A BPE model joins the two neighbours whose union has
the best score, so the list of its merges is all ways to split its pieces, best union first. What a
tokenizer.json would not do as the model does is left without one. Knows nothing of tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from .files import TokenizerFiles, content, section
from .sentencepiece import SentencePieceModel, read_model
from .tokens import Kind

_BPE = 2
_SPACE = "▁"


def described_by(files: TokenizerFiles) -> bytes | None:
    """Returns a tokenizer.json for a checkpoint's `tokenizer.model`; None for one that is no BPE.

    Raises FormatError for a model that is damaged.
    """
    data = files.checkpoint.data("tokenizer.model")
    if data is None:
        return None
    model = read_model(data)
    if model.model_type != _BPE or model.whitespace_as_suffix or model.rewrites_text:
        return None
    return json.dumps(_described(files, model), ensure_ascii=False).encode("utf-8", "replace")


def _described(files: TokenizerFiles, model: SentencePieceModel) -> dict[str, object]:
    vocabulary = {piece.text: number for number, piece in enumerate(model.pieces)}
    unknown = next((p.text for p in model.pieces if p.kind == Kind.UNKNOWN), None)
    leading = files.settings.get("add_prefix_space")
    if not isinstance(leading, bool):
        leading = model.leading_space
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepended = {"type": "Prepend", "prepend": _SPACE}
    decoders: list[dict[str, object]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if leading:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_added(files, model, vocabulary, leading=leading)),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [prepended, spaces] if leading else [spaces],
        },
        "pre_tokenizer": None,
        "post_processor": _post_processor(files, vocabulary),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": _merges(model, vocabulary),
        },
    }


def _merges(model: SentencePieceModel, vocabulary: dict[str, int]) -> list[list[str]]:
    """Every way to split a piece into two, by the score of the whole; ties in a fixed order."""
    normal = {piece.text: piece.score for piece in model.pieces if piece.kind == Kind.NORMAL}
    found = [
        (-score, at, len(text) - at, vocabulary[text], text)
        for text, score in normal.items()
        for at in range(1, len(text))
        if text[:at] in normal and text[at:] in normal
    ]
    return [[text[:at], text[at:]] for _, at, _, _, text in sorted(found)]


def _added(
    files: TokenizerFiles,
    model: SentencePieceModel,
    vocabulary: dict[str, int],
    *,
    leading: bool,
) -> Iterator[dict[str, object]]:
    special: dict[int, tuple[str, bool]] = {
        number: (piece.text, piece.kind != Kind.USER_DEFINED)
        for number, piece in enumerate(model.pieces)
        if piece.kind in (Kind.UNKNOWN, Kind.CONTROL, Kind.USER_DEFINED)
    }
    for text, older in (files.checkpoint.json("added_tokens.json") or {}).items():
        if type(older) is int and older >= len(vocabulary):
            special[older] = (text, False)
    listed = section(files.settings, "added_tokens_decoder", of="tokenizer_config.json")
    for digits, entry in listed.items():
        stated = content(entry)
        if stated is not None and isinstance(entry, dict) and str(digits).isdecimal():
            special[int(digits)] = (stated, bool(entry.get("special")))
    for number, (text, is_special) in sorted(special.items()):
        # Runs of spaces are found where spaces have been replaced; but a normalizer that puts a
        # space in front of a text would put one in front of the token as well.
        found_replaced = _SPACE in text and not leading and not is_special
        yield {
            "id": number,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": found_replaced,
            "special": is_special,
        }


def _post_processor(files: TokenizerFiles, vocabulary: dict[str, int]) -> dict[str, object] | None:
    """What is put around a text: the first token unless settings say no, the last if they do."""
    before = _around(files, "bos_token", vocabulary, usual=True)
    after = _around(files, "eos_token", vocabulary, usual=False)
    if not before and not after:
        return None

    def special(name: str, part: int) -> dict[str, object]:
        return {"SpecialToken": {"id": name, "type_id": part}}

    def text(name: str, part: int) -> list[dict[str, object]]:
        sequence: dict[str, object] = {"Sequence": {"id": name, "type_id": part}}
        return [*(special(n, part) for n in before), sequence, *(special(n, part) for n in after)]

    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": [*text("A", 0), *text("B", 1)],
        "special_tokens": {
            name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]}
            for name in (*before, *after)
        },
    }


def _around(
    files: TokenizerFiles, key: str, vocabulary: dict[str, int], *, usual: bool
) -> tuple[str, ...]:
    asked = files.settings.get(f"add_{key}")
    if not (asked if isinstance(asked, bool) else usual):
        return ()
    name = content(files.settings.get(key)) or {"bos_token": "<s>", "eos_token": "</s>"}[key]
    return (name,) if name in vocabulary else ()
