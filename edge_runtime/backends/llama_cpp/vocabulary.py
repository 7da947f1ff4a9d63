"""A model's vocabulary: text to token ids, token ids to bytes, and which tokens end a text.

It refuses a model without a vocabulary by name, because the engine would abort the process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from ...errors import BackendError, UnsupportedError, UsageError

_MAX_TEXT_BYTES = 2**30


class Vocabulary:
    """The engine's vocabulary of one loaded model; valid as long as the model is loaded."""

    def __init__(self, bindings: Any, pointer: Any) -> None:
        self._lib = bindings
        self.pointer = pointer
        self.tokens: int = bindings.llama_vocab_n_tokens(pointer)
        self.is_empty: bool = bindings.llama_vocab_type(pointer) == bindings.LLAMA_VOCAB_TYPE_NONE
        self._pieces: dict[int, bytes] = {}
        self._buffer = ctypes.create_string_buffer(256)
        self._end_tokens: tuple[int, ...] | None = None

    def ends(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        return bool(self._lib.llama_vocab_is_eog(self.pointer, token))

    def end_tokens(self) -> tuple[int, ...]:
        """Every token that ends a turn, found by asking once for each."""
        if self._end_tokens is None:
            self._end_tokens = tuple(token for token in range(self.tokens) if self.ends(token))
        return self._end_tokens

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text. Raises UnsupportedError when the model has no vocabulary."""
        self._need_vocabulary()
        # A lone surrogate has no UTF-8; invalid UTF-8 would end the process inside the engine.
        data = text.encode("utf-8", "replace")
        if len(data) > _MAX_TEXT_BYTES:
            raise UsageError("The text is longer than 1 GiB.", way_out="Give a shorter one.")
        room = len(data) + 16
        for _ in range(2):
            ids = (ctypes.c_int32 * room)()
            count = self._lib.llama_tokenize(
                self.pointer, data, len(data), ids, room, add_special, parse_special
            )
            if count >= 0:
                return ids[:count]
            room = -count
        raise BackendError("llama.cpp could not tokenize the text.")

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, special tokens left out; bytes that are no text as U+FFFD."""
        self._need_vocabulary()
        ids = (ctypes.c_int32 * max(len(tokens), 1))(*tokens)
        room = 16 * len(tokens) + 64
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            count = self._lib.llama_detokenize(
                self.pointer, ids, len(tokens), buffer, room, True, False
            )
            if count >= 0:
                return buffer.raw[:count].decode("utf-8", "replace")
            room = -count
        raise BackendError("llama.cpp could not turn the tokens into text.")

    def piece(self, token: int) -> bytes:
        """The bytes of one token, empty for special tokens and without a vocabulary."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = b"" if self.is_empty else self._read_piece(token, special=False)
            self._pieces[token] = piece
        return piece

    def special_text(self, name: str) -> str:
        """The text of the `bos` or `eos` token; empty when the vocabulary has none."""
        token = getattr(self._lib, f"llama_vocab_{name}")(self.pointer)
        if self.is_empty or token < 0:
            return ""
        return self._read_piece(token, special=True).decode("utf-8", "replace")

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        buffer = self._buffer
        count = self._lib.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, special)
        if count < 0:
            buffer = self._buffer = ctypes.create_string_buffer(-count)
            count = self._lib.llama_token_to_piece(
                self.pointer, token, buffer, len(buffer), 0, special
            )
        return buffer.raw[: max(count, 0)]

    def _need_vocabulary(self) -> None:
        if self.is_empty:
            raise UnsupportedError(
                "This model has no vocabulary: text cannot become tokens, nor tokens text.",
                cause="It was made to be timed, not to be read.",
                way_out="Give token ids, or open a model with a tokenizer.",
            )
