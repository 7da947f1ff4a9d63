"""Choosing a token from logits, in numpy, without a Python loop over the vocabulary.

The filters come in the order `Sampling` states. Only tokens that can pass them are ever sorted: a
bound found in one pass leaves a few hundred of a vocabulary of any size. It knows no engine and
refuses grammars.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BackendError, UnsupportedError
from .. import Sampling
from ..generation import check_sampling

if TYPE_CHECKING:
    from .session import OnnxSession

_GROUP = 64


def largest(logits: Any, count: int) -> Any:
    """The ids of the `count` largest logits, largest first; among equals the smaller id first.

    The vocabulary is cut into groups. At least `count` groups have a maximum that is no smaller
    than the `count`-th largest of those maxima, so all of the wanted ones are at or above it: only
    those few are sorted.
    """
    groups = len(logits) // _GROUP
    if count >= groups:
        return np.argsort(-logits, kind="stable")[:count]
    # Groups of every `groups`-th token: maxima over long rows are one pass of vector instructions.
    maxima = np.maximum.reduce(logits[: groups * _GROUP].reshape(_GROUP, groups))
    maxima.partition(groups - count)
    candidates = (logits >= maxima[groups - count]).nonzero()[0]
    return candidates[(-logits[candidates]).argsort(kind="stable")[:count]]


class NumpySampler:
    """Samples from a session's latest logits; penalties count the tokens it chose itself."""

    def __init__(self, session: OnnxSession, sampling: Sampling) -> None:
        check_sampling(sampling)
        if sampling.grammar is not None or sampling.json_schema is not None:
            raise UnsupportedError(
                "The ONNX backend knows no grammars.",
                cause="ONNX Runtime has no sampler of its own to bind to one.",
                way_out="Run the same model as GGUF, or ask for the form in the prompt and check "
                "the answer.",
            )
        self._session = session
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(sampling.seed))
        self._banned = (
            np.array(session.end_tokens(), np.int64) if sampling.ignore_eos else np.array([], int)
        )
        penalized = (
            sampling.repeat_penalty != 1.0
            or sampling.frequency_penalty != 0.0
            or sampling.presence_penalty != 0.0
        )
        kept = sampling.penalty_last_tokens if penalized else 0
        self._recent: deque[int] = deque()
        self._kept = kept
        self._counts: dict[int, int] = {}

    def sample(self) -> int:
        """Chooses the next token and accepts it."""
        logits = self._session.logits_view()
        if self._banned.size or self._counts:
            logits = self._penalized(logits.copy())
        if self._sampling.temperature == 0.0:
            token = int(logits.argmax())
            if not logits[token] > -np.inf:
                self._refuse()
        else:
            token = self._drawn(logits)
        if self._kept:
            self._remember(token)
        return token

    def close(self) -> None:
        """Does nothing: there is nothing to free."""

    def _remember(self, token: int) -> None:
        if len(self._recent) == self._kept:
            oldest = self._recent.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        self._recent.append(token)
        self._counts[token] = self._counts.get(token, 0) + 1

    def _penalized(self, logits: Any) -> Any:
        logits[self._banned] = -np.inf
        if self._counts:
            sampling = self._sampling
            tokens = np.fromiter(self._counts, np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            values = logits[tokens]
            # Away from the likely end for either sign, as llama.cpp and transformers do.
            repeat = sampling.repeat_penalty
            values = np.where(values <= 0, values * repeat, values / repeat)
            values -= counts * sampling.frequency_penalty + sampling.presence_penalty
            logits[tokens] = values
        return logits

    def _drawn(self, logits: Any) -> int:
        sampling = self._sampling
        if 0 < sampling.top_k < len(logits):
            ids, values = self._first(logits)
        else:
            ids, values = self._nucleus(logits)
        weights = np.exp(values / sampling.temperature).cumsum()
        chosen = int(weights.searchsorted(self._random.random() * weights[-1], side="right"))
        return int(ids[min(chosen, len(weights) - 1)])

    def _first(self, logits: Any) -> tuple[Any, Any]:
        """The ids that pass top-k, top-p and min-p, and their logits below the best one's."""
        sampling = self._sampling
        ids = largest(logits, sampling.top_k)
        values = logits[ids].astype(np.float64)
        if not (len(values) and math.isfinite(values[0])):
            self._refuse()
        values -= values[0]
        if sampling.top_p < 1.0:
            mass = np.exp(values).cumsum()
            values = values[: int(mass.searchsorted(sampling.top_p * mass[-1])) + 1]
        if sampling.min_p > 0.0:
            values = values[values >= math.log(sampling.min_p)]
        return ids, values

    def _nucleus(self, logits: Any) -> tuple[Any, Any]:
        """The same for a whole vocabulary, in the order of their ids.

        All tokens with less than (1 - p) / vocabulary of the mass have together less than 1 - p:
        none of them is among those that make up p, and none needs sorting.
        """
        sampling = self._sampling
        best = logits.max()
        if not np.isfinite(best):
            self._refuse()
        shares = np.exp(logits - best)
        mass = float(shares.sum(dtype=np.float64))
        least = max((1.0 - sampling.top_p) * mass / len(logits), sampling.min_p)
        ids = (shares >= least).nonzero()[0]
        if sampling.top_p < 1.0:
            kept = shares[ids]
            ordered = np.sort(kept)[::-1]
            last = int(ordered.cumsum(dtype=np.float64).searchsorted(sampling.top_p * mass))
            ids = ids[kept >= ordered[min(last, len(ordered) - 1)]]
        return ids, logits[ids].astype(np.float64) - best

    def _refuse(self) -> None:
        raise BackendError(
            "The model gave no finite logits.",
            cause="Its numbers overflowed, or every token was forbidden.",
            way_out="Try another level or another execution provider.",
        )
