"""Batches of the engine over memory of our own, and the logits of many tokens as rows of its own.

It knows the engine's batches and no session.
"""

from __future__ import annotations

import ctypes
from typing import Any

from ...errors import BackendError


def batch_over(
    lib: Any,
    tokens: ctypes.Array[ctypes.c_int32],
    wanted: ctypes.Array[ctypes.c_int8] | None = None,
) -> Any:
    """A batch whose tokens lie in this memory; positions are the engine's default.

    So are the outputs, which is the last token's logits, unless `wanted` marks others.
    """
    pointer = ctypes.cast(tokens, ctypes.POINTER(ctypes.c_int32))
    marks = None if wanted is None else ctypes.cast(wanted, ctypes.POINTER(ctypes.c_int8))
    return lib.llama_batch(n_tokens=len(tokens), token=pointer, logits=marks)


class RowBatch:
    """A batch of up to `tokens` tokens at the positions that follow those held."""

    def __init__(self, lib: Any, tokens: int) -> None:
        self._lib = lib
        self._tokens: Any = (ctypes.c_int32 * tokens)()
        self._wanted: Any = (ctypes.c_int8 * tokens)()
        self._batch = batch_over(lib, self._tokens, self._wanted)

    def filled(self, tokens: list[int], wanted: int) -> Any:
        """The batch with these tokens, the last `wanted` of which give logits."""
        count = len(tokens)
        self._tokens[:count] = tokens
        self._wanted[:count] = [0] * (count - wanted) + [1] * wanted
        self._batch.n_tokens = count
        return self._batch

    def rows(self, context: int, count: int, vocabulary_tokens: int) -> memoryview[float]:
        """The logits just computed: the engine's own float32 of (count, vocabulary_tokens)."""
        pointer = self._lib.llama_get_logits(context)
        if not pointer:
            raise BackendError("llama.cpp gave no logits.")
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        memory = (ctypes.c_float * (count * vocabulary_tokens)).from_address(address or 0)
        return memoryview(memory).cast("B").cast("f", (count, vocabulary_tokens))
