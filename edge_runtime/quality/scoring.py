"""Passages through a session: how likely each scored token is, and how far from the reference.

One passage after the other is read from an empty context. The logits of its scored positions come
in blocks, and of each block little is kept: one number for each position and kind. Whose tokens
they are, and where the reference lies, others decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..backends import Session
from ..errors import BackendError
from ..scores import Divergence, Samples
from .divergence import diverge
from .logprobs import log_normalizers, log_probabilities
from .reference import Reference, ReferenceWriter, scored_tokens
from .text import Passage

_KINDS = ("kl", "kl_least", "agrees", "p_change", "reference_nll")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The numbers of all scored tokens, in order."""

    nll: Samples
    divergence: Divergence | None


def score_passages(
    session: Session,
    passages: Sequence[Passage],
    *,
    reference: Reference | None = None,
    writer: ReferenceWriter | None = None,
    on_block: Callable[[int], None] | None = None,
) -> Scored:
    """Scores passages, against a reference if there is one, or into one.

    `on_block` is told how many passages are done, after each block of logits and at the beginning.
    Raises BackendError for logits that are no numbers, and whatever the session and the reference
    raise.
    """
    total = scored_tokens(passages)
    nll = np.empty(total, np.float32)
    diverged = {kind: np.empty(total, np.float32) for kind in _KINDS} if reference else {}
    done = 0
    tell = on_block or (lambda _: None)
    tell(0)
    for number, passage in enumerate(passages):
        session.reset()
        targets = np.array(passage.tokens[passage.first + 1 :], np.int64)
        end = done + len(targets)
        # The last token is only ever a target: what follows it is in no text.
        for view in session.all_logits(passage.tokens[:-1], first=passage.first):
            block = np.asarray(view)
            rows = slice(done, done + len(block))
            wanted, targets = targets[: len(block)], targets[len(block) :]
            normalizers = log_normalizers(block)
            nll[rows] = -log_probabilities(block, normalizers, wanted)
            if writer is not None:
                writer.add(block, normalizers, wanted)
            if reference is not None:
                kept = reference.rows(done, len(block))
                found = diverge(kept, block, normalizers, wanted)
                for kind, numbers in diverged.items():
                    numbers[rows] = getattr(found, kind)
            done += len(block)
            tell(number + (done == end))
        if done != end:
            raise BackendError(
                "The engine did not give the logits of every position.",
                cause=f"{end - done} are missing from passage {number}.",
            )
    return Scored(
        nll=_samples(nll),
        divergence=Divergence(**{kind: _samples(array) for kind, array in diverged.items()})
        if reference
        else None,
    )


def _samples(numbers: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Samples:
    return Samples.of(numbers.tolist())
