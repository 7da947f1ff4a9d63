"""SentencePiece models (`tokenizer.model`): a bounds-checked reader, and their vocabulary keys.

Reads the protocol buffer itself (fields as in
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto); every length is
checked before it is believed. llama.cpp joins pieces by score, which is what SentencePiece's BPE
does and its unigram models do not.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edge_runtime.errors import FormatError, UnsupportedError

from ..writers.gguf import Value
from .files import TokenizerFiles, added_entries, section
from .special import special_metadata
from .templates import chat_template_metadata
from .tokens import MAX_TOKENS, AddedToken, Kind, TokenTable

_BPE = 2
_PAD_SCORE = -10_000.0
_ADDED_SCORE = -1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One piece of a SentencePiece model; its type as the file numbers it."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencePieceModel:
    """What a `tokenizer.model` holds that a vocabulary needs."""

    pieces: tuple[Piece, ...]
    model_type: int
    whitespace_as_suffix: bool
    rewrites_text: bool
    """Whether it replaces characters, by a table of its own, or leaves out repeated spaces."""
    leading_space: bool
    """Whether a text is taken as if it began with a space."""


def read_model(data: bytes) -> SentencePieceModel:
    """Reads a serialized SentencePiece model. Raises FormatError when it is none or is cut off."""
    pieces: list[Piece] = []
    model_type, as_suffix = 1, False
    rewrites, leading = _normalizer(b"")
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_piece(_bytes(value)))
            if len(pieces) > MAX_TOKENS:
                raise _damaged("It holds too many pieces.")
        elif number == 2:
            for inner, item in _fields(_bytes(value)):
                if inner == 3:
                    model_type = _number(item)
                elif inner == 24:
                    as_suffix = _number(item) != 0
        elif number == 3:
            rewrites, leading = _normalizer(_bytes(value))
    if not pieces:
        raise _damaged("It holds no pieces.")
    return SentencePieceModel(
        pieces=tuple(pieces),
        model_type=model_type,
        whitespace_as_suffix=as_suffix,
        rewrites_text=rewrites,
        leading_space=leading,
    )


def _normalizer(data: bytes) -> tuple[bool, bool]:
    """Whether text is rewritten, and whether a space is put before it; both are unless denied."""
    replaces, shortens, leading = False, True, True
    for number, value in _fields(data):
        if number == 2:
            replaces = bool(value)
        elif number == 3:
            leading = _number(value) != 0
        elif number == 4:
            shortens = _number(value) != 0
    return replaces or shortens, leading


def sentencepiece_metadata(
    files: TokenizerFiles, *, vocabulary_tokens: int, every_file: bool, forced: bool
) -> dict[str, Value]:
    """Returns the keys of a `tokenizer.model`'s vocabulary filled up to `vocabulary_tokens`.

    `every_file`: added tokens count from tokenizer.json too, and only their flag makes them
    special, as for Phi-3. `forced`: a model llama.cpp does not run as SentencePiece does is taken
    all the same; otherwise UnsupportedError.
    """
    model = read_model(files.checkpoint.data("tokenizer.model") or b"")
    if not forced and (model.model_type != _BPE or model.whitespace_as_suffix):
        kind = {1: "a unigram", 3: "a word", 4: "a character"}.get(model.model_type, "another")
        what = (
            "puts spaces at the ends of words" if model.model_type == _BPE else f"is {kind} model"
        )
        raise UnsupportedError(
            f"The SentencePiece model in tokenizer.model {what}.",
            cause="llama.cpp would join pieces as a BPE model does, and make other tokens of many "
            "texts.",
            way_out="To convert it all the same: --pre default",
        )
    table = TokenTable(vocabulary_tokens, score=_PAD_SCORE)
    for number, piece in enumerate(model.pieces[:vocabulary_tokens]):
        carried = Kind(piece.kind) if piece.kind in _KINDS else Kind.NORMAL
        table.put(number, piece.text, carried, piece.score)
    # Rows beyond the model's are no place for a token: such entries are left out, as ever.
    for number, text in _older_added(files):
        if number < vocabulary_tokens:
            table.put(number, text, Kind.USER_DEFINED, _ADDED_SCORE)
    for number, token in _added(files, every_file=every_file):
        if number >= vocabulary_tokens:
            continue
        if every_file:
            by_flag = Kind.CONTROL if token.special else Kind.USER_DEFINED
            table.put(number, token.text, by_flag, _ADDED_SCORE)
        else:
            table.put(number, token.written, token.kind, _ADDED_SCORE)
    return {
        **table.metadata(model="llama", pre="default", scores=True),
        **special_metadata(files, limit=vocabulary_tokens),
        **chat_template_metadata(files),
    }


_KINDS = frozenset({Kind.UNKNOWN, Kind.CONTROL, Kind.UNUSED, Kind.BYTE})
"""Types that llama.cpp's converter carries over; pieces a user defined it leaves normal."""


def _older_added(files: TokenizerFiles) -> Iterator[tuple[int, str]]:
    for text, number in (files.checkpoint.json("added_tokens.json") or {}).items():
        if type(number) is not int or number < 0:
            raise FormatError(f"added_tokens.json has no id for {text[:40]!r}.")
        yield number, text


def _added(files: TokenizerFiles, *, every_file: bool) -> Iterator[tuple[int, AddedToken]]:
    name = "tokenizer_config.json"
    entries: Iterable[tuple[object, object]] = section(
        files.settings, "added_tokens_decoder", of=name
    ).items()
    if every_file:
        entries = [*entries, *added_entries(files.described or {})]
    for key, entry in entries:
        text = entry.get("content") if isinstance(entry, dict) else None
        digits = str(key)
        if not isinstance(entry, dict) or not isinstance(text, str) or not digits.isdecimal():
            raise FormatError(
                f"The tokenizer lists an added token under {digits[:20]!r} that is none."
            )
        if len(digits) < 10:
            yield int(digits), AddedToken(text=text, special=bool(entry.get("special")))


def _piece(data: bytes) -> Piece:
    text, score, kind = b"", 0.0, int(Kind.NORMAL)
    for number, value in _fields(data):
        if number == 1:
            text = _bytes(value)
        elif number == 2:
            score = struct.unpack("<f", _bytes(value, 4))[0]
        elif number == 3:
            kind = _number(value)
    if not math.isfinite(score):
        raise _damaged("A piece has no finite score.")
    try:
        return Piece(text=text.decode("utf-8"), score=score, kind=kind)
    except UnicodeDecodeError as error:
        raise _damaged("A piece is no UTF-8 text.") from error


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields the fields of a message: numbers as int, all others as their bytes."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _damaged(f"Byte {at} begins a field of no known kind.")
        if size > end - at:
            raise _damaged(f"The field at byte {at} claims {size} bytes of {end - at}.")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if at >= len(data):
            raise _damaged("It ends within a number.")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _damaged(f"The number at byte {at} has no end.")


def _bytes(value: int | bytes, size: int | None = None) -> bytes:
    if not isinstance(value, bytes) or (size is not None and len(value) != size):
        raise _damaged("A field is of another kind than it must be.")
    return value


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise _damaged("A field is of another kind than it must be.")
    return value


def _damaged(cause: str) -> FormatError:
    return FormatError(
        "tokenizer.model is no SentencePiece model, or is damaged.",
        cause=cause,
        way_out="Download it again.",
    )
