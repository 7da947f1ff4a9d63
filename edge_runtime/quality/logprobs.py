"""From logits to log-probabilities, for many positions at once.

A block is float32 of shape (rows, vocabulary): one row of logits for each position. What is asked
of it is worked out a few rows at a time, in memory that stays in a core's cache, by as many threads
as may work; nothing as large as the block is ever made. It knows numbers, and neither tokens' texts
nor where a block came from.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..errors import BackendError

_PIECE_NUMBERS = 1 << 16
"""How many logits a thread works on at a time: with its scratch memory 512 KiB."""
_NUMBERS_PER_THREAD = 1 << 18
"""Starting a thread takes about as long as working on this many."""
_MOST_THREADS = 8


def log_normalizers(block: Any) -> Any:
    """The logarithm of the sum of exponentials of each row: float64 of shape (rows,).

    A logit less its row's is the token's log-probability. The largest logit of a row is taken off
    before its exponentials are formed, so that none overflows. Those are float32, added
    pairwise and the largest last: the result is off by less than 1e-6 for a vocabulary of 150,000.
    Raises BackendError where logits are no numbers.
    """
    found = np.empty(len(block), np.float64)

    def span(start: int, stop: int) -> None:
        step = max(1, _PIECE_NUMBERS // block.shape[1])
        memory = np.empty((min(step, stop - start), block.shape[1]), np.float32)
        # What is no number, or infinite, becomes a result that is not finite: looked at below.
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(start, stop, step):
                logits = block[first : min(first + step, stop)]
                scratch = memory[: len(logits)]
                best = logits.argmax(axis=1)[:, None]
                most = np.take_along_axis(logits, best, axis=1)
                np.subtract(logits, most, out=scratch)
                np.exp(scratch, out=scratch)
                # Beside the 1 of the largest, float32 would lose what little the others may be.
                np.put_along_axis(scratch, best, 0.0, axis=1)
                others = scratch.sum(axis=1).astype(np.float64)
                found[first : first + len(logits)] = np.log1p(others) + most[:, 0]

    in_spans(block, span)
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found))[0])
        raise BackendError(
            "The model's outputs are no numbers.",
            cause=f"Row {row} of {len(block)} holds a logit that is not finite.",
            way_out="The file is damaged, or its numbers are too large for this engine: make the "
            "artifact again, or choose another level.",
        )
    return found


def log_probabilities(block: Any, normalizers: Any, targets: Any) -> Any:
    """The log-probability of one token of each row, in nats: float64 of shape (rows,).

    `targets` are the token ids. Raises BackendError where a model gives such a token no probability
    at all, because no mean could be taken with it.
    """
    chosen = np.asarray(targets, np.int64)
    found = block[np.arange(len(block)), chosen].astype(np.float64) - normalizers
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found))[0])
        raise BackendError(
            "The model rules out a token that the text has.",
            cause=f"It gives the token {int(chosen[row])} a probability of exactly 0.",
            way_out="Score it on another text.",
        )
    # Rounding may put a certain token's probability a last bit above 1.
    return np.minimum(found, 0.0)


def likeliest(block: Any) -> Any:
    """The token with the largest logit of each row, the first of equals: of shape (rows,)."""
    found = np.empty(len(block), np.intp)
    in_spans(block, lambda start, stop: np.argmax(block[start:stop], axis=1, out=found[start:stop]))
    return found


def in_spans(block: Any, work: Callable[[int, int], object]) -> None:
    """Calls `work` with the bounds of spans that make up the block's rows, a thread for each.

    numpy lets go of the interpreter while it computes.
    """
    rows = len(block)
    threads = min(_threads(), rows, max(1, block.size // _NUMBERS_PER_THREAD))
    if threads < 2:
        work(0, rows)
        return
    bounds = [rows * index // threads for index in range(threads + 1)]
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work, *span) for span in itertools.pairwise(bounds[1:])]
        work(bounds[0], bounds[1])
        for done in others:
            done.result()


def _threads() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(usable or 1, _MOST_THREADS)
