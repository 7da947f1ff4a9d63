"""A model's vocabulary through the `tokenizers` library: text to ids, ids to bytes, ends of texts.

Bytes of single tokens come from the tokenizer's own decoder: byte-level stand-ins, or pieces with
a mark for the space and bytes in angle brackets. It refuses a model without a tokenizer by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...artifact.onnx.folder import MAX_SIDE_BYTES, side_file
from ...errors import EngineMissingError, FormatError, UnsupportedError, UsageError
from ...units import format_bytes
from . import configs

_MAX_TEXT_BYTES = 1 << 30
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"
_END_TEXTS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "<|eom_id|>", "<|end_of_turn|>", "<EOT>", "<|EOT|>", "</s>",
)  # fmt: skip
"""Special tokens that end a turn in every family that has them, whatever its configs forget."""


def _byte_alphabet() -> dict[str, int]:
    """The byte each printable stand-in of a byte-level vocabulary means (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(256, 512))
    return {chr(b) if b in printable else chr(next(spare)): b for b in range(256)}


class Vocabulary:
    """The tokenizer beside one model, or none."""

    def __init__(self, model: Path, *, empty: bool) -> None:
        path = None if empty else side_file(model, "tokenizer.json")
        self._tokenizer: Any = None
        self._texts = {name: configs.special_text(model, name) for name in ("bos", "eos")}
        self._pieces: dict[int, bytes] = {}
        self._special: frozenset[int] = frozenset()
        self._added: Mapping[int, str] = {}
        self._kind = ""
        if path is not None:
            self._load(path)
        self._ends = self._end_tokens(configs.end_ids(model))

    @property
    def is_empty(self) -> bool:
        """Whether there is no tokenizer."""
        return self._tokenizer is None

    @property
    def tokens(self) -> int:
        """How many tokens the tokenizer knows, 0 without one."""
        return 0 if self._tokenizer is None else int(self._tokenizer.get_vocab_size())

    def _load(self, path: Path) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise EngineMissingError(
                "Text needs the tokenizers library.",
                cause=f"{error}.",
                way_out="pip install tokenizers",
            ) from error
        if path.stat().st_size > MAX_SIDE_BYTES:
            raise FormatError(f"{path.name} is larger than {format_bytes(MAX_SIDE_BYTES)}.")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
            # Lengths are ours to check; a tokenizer.json may carry a training run's cuts.
            tokenizer.no_truncation()
            tokenizer.no_padding()
            added = tokenizer.get_added_tokens_decoder()
        except Exception as error:  # the library raises bare Exception for whatever it dislikes
            raise FormatError(
                f"{path.name} is no tokenizer.",
                cause=f"{error}.",
                way_out="Download it again.",
            ) from error
        self._tokenizer = tokenizer
        self._added = {number: token.content for number, token in added.items()}
        self._special = frozenset(number for number, token in added.items() if token.special)
        self._kind = _decoder_kind(tokenizer.decoder)
        self._alphabet = _byte_alphabet()

    def ends(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        return token in self._ends

    def end_tokens(self) -> tuple[int, ...]:
        """Every token that ends a turn."""
        return tuple(sorted(self._ends))

    def _end_tokens(self, stated: tuple[int, ...]) -> frozenset[int]:
        found = set(stated)
        if self._tokenizer is not None:
            by_text = {text: number for number, text in self._added.items()}
            texts = [text for text in _END_TEXTS if by_text.get(text) in self._special]
            texts.append(self._texts["eos"])
            ids = (self._tokenizer.token_to_id(text) for text in texts if text)
            found |= {number for number in ids if number is not None}
        return frozenset(found)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text. Raises UnsupportedError when the model has no tokenizer."""
        tokenizer = self._needed()
        # A lone surrogate has no UTF-8.
        text = text.encode("utf-8", "replace").decode("utf-8")
        if len(text) > _MAX_TEXT_BYTES:
            raise UsageError("The text is longer than 1 GiB.", way_out="Give a shorter one.")
        tokenizer.encode_special_tokens = not parse_special
        ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special).ids
        return ids

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, special tokens left out."""
        text: str = self._needed().decode(list(tokens), skip_special_tokens=True)
        return text

    def piece(self, token: int) -> bytes:
        """The bytes of one token, empty for special tokens and without a tokenizer."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

    def _read_piece(self, token: int) -> bytes:
        if self._tokenizer is None or token in self._special:
            return b""
        if token in self._added:
            return self._added[token].encode()
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if self._kind == "bytes":
            values = [self._alphabet.get(char) for char in text]
            if None not in values:
                return bytes(value for value in values if value is not None)
            return str(text).encode()
        if self._kind == "pieces":
            match = _BYTE.fullmatch(text)
            if match:
                return bytes((int(match[1], 16),))
            return str(text).replace(_SPACE, " ").encode()
        decoded: str = self._tokenizer.decode([token], skip_special_tokens=True)
        return decoded.encode()

    def special_text(self, name: str) -> str:
        """The text of the `bos` or `eos` token; empty when the configs name none."""
        return self._texts[name]

    def _needed(self) -> Any:
        if self._tokenizer is None:
            raise UnsupportedError(
                "This model has no vocabulary: text cannot become tokens, nor tokens text.",
                cause="There is no tokenizer.json beside it.",
                way_out="Give token ids, or put the model's tokenizer.json beside it.",
            )
        return self._tokenizer


def _decoder_kind(decoder: Any) -> str:
    """`bytes` for byte-level stand-ins, `pieces` for marked spaces, "" for any other decoder."""
    described = {} if decoder is None else json.loads(decoder.__getstate__())
    steps = described.get("decoders", [described])
    kinds = {step.get("type") for step in steps}
    if "ByteLevel" in kinds:
        return "bytes"
    if kinds & {"Metaspace", "ByteFallback"}:
        return "pieces"
    return ""
