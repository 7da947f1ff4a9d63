"""How tokens are cut into evaluations when the logits after many of them are wanted.

What bounds a cut is how many tokens an engine takes at once and how much memory their logits may
take. It knows numbers only; every backend cuts the same way.
"""

from __future__ import annotations

from ..errors import BackendError, UsageError

LOGITS_BYTES = 256 << 20
"""How much memory the logits of one evaluation may take: 441 rows for 152,000 tokens.

An engine that computes them in memory of its own holds them twice.
"""
_LEAST_ROWS = 16


def most_rows(vocabulary_tokens: int, batch_tokens: int) -> int:
    """The logits of how many tokens one evaluation may give, at most a batch's."""
    return min(batch_tokens, max(_LEAST_ROWS, LOGITS_BYTES // (4 * vocabulary_tokens)))


def length(left: int, ahead: int, *, batch_tokens: int, rows: int) -> int:
    """How many of the `left` tokens that remain are evaluated next.

    The logits of the first `ahead` of them are not wanted. No more than a batch is evaluated at
    once, and of no more than `rows` tokens logits are taken.
    """
    return min(left, batch_tokens, ahead + rows)


def check_first(first: int, count: int) -> None:
    """Raises UsageError unless `first` is a position among `count` tokens, or just after them."""
    if not 0 <= first <= count:
        raise UsageError(
            f"Logits are wanted from token {first} on.", cause=f"There are {count} tokens."
        )


def check_unmoved(position: int, expected: int) -> None:
    """Raises BackendError when a session was used for something else between two blocks."""
    if position != expected:
        raise BackendError(
            "The session was used otherwise while its logits were being read.",
            cause=f"Its context holds {position} tokens instead of {expected}.",
            way_out="Read all blocks before anything else is evaluated.",
        )
