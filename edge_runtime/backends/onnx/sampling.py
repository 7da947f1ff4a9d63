"""Choosing a token from logits, in numpy, without a Python loop over the vocabulary.

The filters come in the order `Sampling` states. Only tokens that can pass them are ever sorted: a
bound found in one pass leaves a few dozen of a vocabulary of any size. After an evaluation all
caches hold weights, and what costs is each other piece of code that is called: the few tokens that
are left are sorted and weighed in plain Python. It knows no engine and refuses grammars.
"""

from __future__ import annotations

import bisect
import math
import operator
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BackendError, UnsupportedError
from .. import Sampling
from ..generation import check_sampling

if TYPE_CHECKING:
    from .session import OnnxSession

_GROUP = 64
_DRAWS = 64
_LIKELY = 1e-3
"""Tokens with less of the best one's probability than this seldom matter."""
_FEW = 512
"""More candidates than these are sorted in numpy first."""


def largest(logits: Any, count: int) -> tuple[list[int], list[float]]:
    """The ids of the `count` largest logits, and their values, largest first.

    Of equals the smaller id comes first. Nothing is given where logits are no numbers.

    The vocabulary is cut into groups. At least `count` groups have a maximum that is no smaller
    than the `count`-th largest of those maxima, so all of the wanted ones are at or above it: only
    those few are sorted.
    """
    groups = len(logits) // _GROUP
    if count < groups:
        # Groups of every `groups`-th token: maxima over long rows are one pass of vector code.
        maxima = np.maximum.reduce(logits[: groups * _GROUP].reshape(_GROUP, groups))
    else:
        maxima = logits.copy()
    if math.isnan(maxima.max()):
        return [], []
    place = max(len(maxima) - count, 0)
    maxima.partition(place)
    ids = (logits >= maxima[place]).nonzero()[0]
    if len(ids) > _FEW:
        ids = ids[(-logits[ids]).argsort(kind="stable")[:count]]
    pairs = zip(ids.tolist(), logits[ids].tolist(), strict=True)
    ordered = sorted(pairs, key=operator.itemgetter(1), reverse=True)[:count]  # stable, too
    return [token for token, _ in ordered], [value for _, value in ordered]


def _place(weights: Any, at: float) -> tuple[int, float]:
    """The index at this share of the weights' sum, and how far into that one's own weight it lies.

    Both shares are in [0, 1). An index without weight is never given.
    """
    sums = weights.cumsum(dtype=np.float64)
    goal = at * sums[-1]
    # Rounding may lead to the sum itself; the first index that reaches it is the last with weight.
    index = int(min(sums.searchsorted(goal, side="right"), sums.searchsorted(sums[-1])))
    before = float(sums[index - 1]) if index else 0.0
    width = float(sums[index]) - before
    return index, min((goal - before) / width, 1.0) if width > 0.0 else 0.0


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
            np.array(session.end_tokens(), np.int64)
            if sampling.ignore_eos
            else np.array([], np.int64)
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
        self._draws: list[float] = []
        self._grid: Any = None

    def sample(self) -> int:
        """Chooses the next token and accepts it."""
        logits = self._session.logits_view()
        changed = self._changed()
        if changed is None:
            token = self._chosen(logits)
        else:
            # In place, and put back: a copy of the vocabulary's logits costs more than the choice.
            before = logits[changed]
            try:
                self._penalize(logits)
                token = self._chosen(logits)
            finally:
                logits[changed] = before
        if self._kept:
            self._remember(token)
        return token

    def _changed(self) -> Any:
        """The ids whose logits are not taken as they are; None when all are."""
        if not self._counts:
            return self._banned if self._banned.size else None
        return np.concatenate([self._banned, self._penalized()])

    def _penalized(self) -> Any:
        return np.fromiter(self._counts, np.int64, len(self._counts))

    def _chosen(self, logits: Any) -> int:
        if self._sampling.temperature != 0.0:
            return self._drawn(logits)
        token = int(logits.argmax())
        if not logits[token] > -np.inf:
            self._refuse()
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

    def _penalize(self, logits: Any) -> None:
        if self._counts:
            sampling = self._sampling
            tokens = self._penalized()
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            values = logits[tokens]
            # Away from the likely end for either sign, as llama.cpp and transformers do.
            repeat = sampling.repeat_penalty
            values = np.where(values <= 0, values * repeat, values / repeat)
            values -= counts * sampling.frequency_penalty + sampling.presence_penalty
            logits[tokens] = values
        logits[self._banned] = -np.inf

    def _drawn(self, logits: Any) -> int:
        sampling = self._sampling
        if 0 < sampling.top_k < len(logits):
            return self._among_first(logits)
        if sampling.top_p < 1.0 or sampling.min_p > 0.0:
            return self._among_nucleus(logits)
        return self._among_all(logits)

    def _draw(self) -> float:
        """The next random number in [0, 1); many are made at once."""
        if not self._draws:
            self._draws = self._random.random(_DRAWS)[::-1].tolist()
        return self._draws.pop()

    def _among_first(self, logits: Any) -> int:
        """Draws among the tokens that pass top-k, and of those top-p and min-p."""
        sampling, exp = self._sampling, math.exp
        ids, values = largest(logits, sampling.top_k)
        best = values[0] if values else math.nan
        if not math.isfinite(best):
            self._refuse()
        shares = [exp(value - best) for value in values]
        enough = sampling.top_p * sum(shares) if sampling.top_p < 1.0 else math.inf
        seen, total = 0.0, 0.0
        sums = []
        for value, share in zip(values, shares, strict=True):
            if share < sampling.min_p:
                break
            total += exp((value - best) / sampling.temperature)
            sums.append(total)
            seen += share
            if seen >= enough:
                break
        # Never the sum itself: where the last ones have no share at all, the first that reaches it.
        chosen = bisect.bisect_right(sums, self._draw() * total)
        return ids[min(chosen, bisect.bisect_left(sums, total))]

    def _among_nucleus(self, logits: Any) -> int:
        """Draws among a whole vocabulary's tokens that pass top-p and min-p.

        All tokens with less than (1 - p) / vocabulary of the mass have together less than 1 - p:
        none of them is among those that make up p, and none needs sorting.
        """
        sampling = self._sampling
        shares, _ = self._shares(logits, 1.0)
        mass = float(shares.sum())
        least = max((1.0 - sampling.top_p) * mass / len(logits), sampling.min_p)
        # Mostly the first of these bounds leaves more than p already, and few tokens.
        for bound in (max(_LIKELY, least), least):
            ids = (shares >= bound).nonzero()[0]
            kept = shares[ids]
            if float(kept.sum()) >= sampling.top_p * mass:
                break
        if sampling.top_p < 1.0:
            ordered = np.sort(kept)[::-1]
            last = int(ordered.cumsum(dtype=np.float64).searchsorted(sampling.top_p * mass))
            passes = kept >= ordered[min(last, len(ordered) - 1)]
            ids = ids[passes]
        values = logits[ids]
        values -= values.max()
        weights = np.exp(values / np.float32(sampling.temperature))
        chosen, _ = _place(weights, self._draw())
        return int(ids[chosen])

    def _among_all(self, logits: Any) -> int:
        """Draws among all tokens: first a column of the grid they lie in, then one in it."""
        _, grid = self._shares(logits, 1.0 / self._sampling.temperature)
        column, rest = _place(grid.sum(axis=0), self._draw())
        row, _ = _place(grid[:, column], rest)
        return int(row * grid.shape[1] + column)

    def _shares(self, logits: Any, power: float) -> tuple[Any, Any]:
        """Each token's probability over the best one's, to a power; and the same as a grid.

        The memory is used again by the next call. The grid has `_GROUP` rows and ends with zeros.
        """
        if self._grid is None:
            self._grid = np.zeros((_GROUP, -(-len(logits) // _GROUP)), np.float32)
        shares = self._grid.reshape(-1)[: len(logits)]
        best = logits.max()
        if not np.isfinite(best):
            self._refuse()
        np.subtract(logits, best, out=shares)
        if power != 1.0:
            np.multiply(shares, np.float32(power), out=shares)
        np.exp(shares, out=shares)
        return shares, self._grid

    def _refuse(self) -> None:
        raise BackendError(
            "The model gave no finite logits.",
            cause="Its numbers overflowed, or every token was forbidden.",
            way_out="Try another level or another execution provider.",
        )
