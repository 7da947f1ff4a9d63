"""What is kept of a distribution over a vocabulary so that others can be held against it later.

Of each distribution the `top` most likely tokens are kept with their log-probabilities in 16 bits,
how much probability is left beside them, and `drawn` tokens drawn from the rest by their
probability: what an estimate of the rest without bias needs. Or all of it, in float32. Knows
arrays, and neither files nor models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BackendError
from .logprobs import in_spans, likeliest

DEFAULT_TOP, DEFAULT_DRAWN = 224, 32
"""Tokens kept, and drawn from all others, where nothing else is asked for."""
MOST_VOCABULARY = 1 << 24
"""No vocabulary is larger; a file that claims one is not believed."""

ROUNDING = 1e-3
"""By how much a log-probability that was rounded may exceed 0."""

_LEVELS = 0xFFFF
_DEEPEST = 32.0
"""Nats below the likeliest token from which a kept one's probability no longer matters (1e-14)."""
_GROUPS_PER_TOKEN = 16
_PIECE_NUMBERS = 1 << 16
"""Logits worked on at a time: they stay in a core's cache."""
_RUN = 64
"""Probabilities added up at a time when drawing: few sums to search, few tokens within one."""
_BELOW_ONE = 1.0 - 2.0**-40

Doubles = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ids = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReferenceRows:
    """The reference's distributions at some scored positions, one in each row.

    `best` is the likeliest token, `target_log_p` the log-probability of the one that really
    follows. Of a compact reference, `ids` (rows, top) have `log_p`, all others together
    `rest_log_p` and those drawn from them, `drawn_ids` (rows, drawn), `drawn_log_p`. Of an exact
    one `log_p` is (rows, vocabulary) and `ids` is None.
    """

    best: Ids
    target_log_p: Doubles
    log_p: Doubles | Singles
    ids: Ids | None = None
    rest_log_p: Doubles | None = None
    drawn_ids: Ids | None = None
    drawn_log_p: Doubles | None = None


def kept(
    vocabulary_tokens: int, *, top: int | None = DEFAULT_TOP, drawn: int = DEFAULT_DRAWN
) -> tuple[int, int]:
    """How many tokens are kept and drawn: the whole vocabulary and none where `top` is None.

    That is also the answer where keeping all takes no more room than was asked for.
    """
    if top is None or top >= vocabulary_tokens:
        return vocabulary_tokens, 0
    exact = row_type(vocabulary_tokens, vocabulary_tokens, 0)
    compact = row_type(vocabulary_tokens, top, drawn)
    return (vocabulary_tokens, 0) if exact.itemsize <= compact.itemsize else (top, drawn)


def row_type(vocabulary_tokens: int, top: int, drawn: int) -> np.dtype[np.void]:
    """The bytes of one distribution: little-endian, no gaps."""
    one = [("best", "<u4"), ("target_log_p", "<f4")]
    if top == vocabulary_tokens:
        return np.dtype([*one, ("log_p", "<f4", (top,))])
    ids = "<u2" if vocabulary_tokens <= _LEVELS + 1 else "<u4"
    return np.dtype(
        [
            *one,
            ("high", "<f4"),
            ("step", "<f4"),
            ("rest_log_p", "<f4"),
            ("ids", ids, (top,)),
            ("below", "<u2", (top,)),
            ("drawn_ids", ids, (drawn,)),
            ("drawn_log_p", "<f4", (drawn,)),
        ]
    )


def pack(
    block: Singles,
    log_normalizers: Doubles,
    targets: Ids,
    kind: np.dtype[np.void],
    *,
    draw_at: Doubles,
) -> npt.NDArray[np.void]:
    """Packs the distributions of a block of logits (rows, vocabulary), one in each row.

    `log_normalizers` are float64: the logarithm of the sum of exponentials of each row. `draw_at`
    is one number in [0, 1) for each row, at random: the tokens drawn lie evenly spaced from there
    in the cumulated probability of the rest, so that a mean over them is right on average.
    Raises BackendError where logits are no numbers.
    """
    if not np.isfinite(log_normalizers).all():
        raise not_numbers()
    rows = np.zeros(len(block), kind)
    places = np.arange(len(block))
    rows["best"] = best = likeliest(block)
    rows["target_log_p"] = block[places, targets] - log_normalizers
    if "ids" not in (kind.names or ()):
        np.subtract(block, log_normalizers[:, None], out=rows["log_p"], casting="same_kind")
        return rows
    top, drawn = (kind[name].shape[0] for name in ("ids", "drawn_ids"))
    ids, chosen = np.empty((len(block), top), np.intp), np.empty((len(block), drawn), np.intp)
    shares = np.empty(len(block))
    highest = block[places, best]

    def span(start: int, stop: int) -> None:
        step = max(1, _PIECE_NUMBERS // block.shape[1])
        padded = -(-block.shape[1] // _RUN) * _RUN
        memory = np.zeros((min(step, stop - start), padded), np.float32)
        for first in range(start, stop, step):
            part = slice(first, min(first + step, stop))
            weights = memory[: part.stop - first]
            found = weights[:, : block.shape[1]]
            ids[part] = _largest(block[part], top)
            np.subtract(block[part], highest[part, None], out=found)
            np.exp(found, out=found)
            np.put_along_axis(found, ids[part], 0.0, axis=1)
            shares[part], chosen[part] = _draw(weights, drawn, draw_at[part])

    in_spans(block, span)
    _pack_top(rows, ids, np.take_along_axis(block, ids, axis=1) - log_normalizers[:, None])
    with np.errstate(divide="ignore"):  # where nothing is left, its logarithm is -inf
        rows["rest_log_p"] = np.log(shares) + highest - log_normalizers
    rows["drawn_ids"] = chosen
    rows["drawn_log_p"] = np.take_along_axis(block, chosen, axis=1) - log_normalizers[:, None]
    return rows


def unpack(rows: npt.NDArray[np.void]) -> ReferenceRows:
    """The distributions that `pack` packed; an exact one's probabilities are not copied."""
    best, target = rows["best"], rows["target_log_p"].astype(np.float64)
    if "ids" not in (rows.dtype.names or ()):
        return ReferenceRows(best=best, target_log_p=target, log_p=rows["log_p"])
    depth = rows["step"].astype(np.float64)[:, None] * rows["below"]
    log_p = rows["high"].astype(np.float64)[:, None] - depth
    # The deepest stands for all that lies deeper, down to what is ruled out.
    log_p[depth > _DEEPEST - 1e-4] = -np.inf
    return ReferenceRows(
        best=best,
        target_log_p=target,
        log_p=log_p,
        ids=rows["ids"],
        rest_log_p=rows["rest_log_p"].astype(np.float64),
        drawn_ids=rows["drawn_ids"],
        drawn_log_p=rows["drawn_log_p"].astype(np.float64),
    )


def sound(rows: npt.NDArray[np.void], vocabulary_tokens: int) -> bool:
    """Whether packed rows name tokens there are, and probabilities that are some."""
    names = rows.dtype.names or ()
    ids = [rows[name] for name in ("best", "ids", "drawn_ids") if name in names]
    if any(array.size and array.max() >= vocabulary_tokens for array in ids):
        return False
    # NaN is neither.
    logs = [rows[n] for n in ("high", "rest_log_p", "drawn_log_p", "log_p") if n in names]
    below_one = all(bool((array <= ROUNDING).all()) for array in (rows["target_log_p"], *logs))
    steps = rows["step"] if "step" in names else np.zeros(1)
    return below_one and bool(((steps >= 0) & (steps <= _DEEPEST)).all())


def not_numbers() -> BackendError:
    """The error for logits that are infinite, or none at all."""
    return BackendError(
        "The engine gave logits that are no numbers.",
        cause="The model overflows the engine's arithmetic, or its file is damaged.",
        way_out="Check the file, or take another level of the model.",
    )


def _pack_top(rows: npt.NDArray[np.void], ids: Ids, log_p: Doubles) -> None:
    rows["ids"] = ids
    rows["high"] = log_p.max(axis=1)
    high = rows["high"].astype(np.float64)
    rows["step"] = (high - np.maximum(log_p.min(axis=1), high - _DEEPEST)).clip(0) / _LEVELS
    step = rows["step"].astype(np.float64)
    step[step == 0] = 1.0
    # Counted in the steps and from the height that are stored: their own rounding costs nothing.
    below = np.rint((high[:, None] - log_p) / step[:, None])
    rows["below"] = np.clip(below, 0, _LEVELS)


def _largest(logits: Singles, count: int) -> npt.NDArray[np.intp]:
    """Where the `count` largest numbers of each row are, in no order.

    The count-th largest of the maxima of disjoint groups is a bound that at least `count` numbers
    reach and, with many more groups than that, hardly more do: nothing is ordered but those.
    """
    size = logits.shape[1]
    groups = _GROUPS_PER_TOKEN * count
    deep = size // groups
    if deep < 2:
        return np.argpartition(logits, size - count, axis=1)[:, size - count :]
    even = logits[:, : deep * groups].reshape(len(logits), deep, groups).max(axis=1)
    maxima = np.concatenate((even, logits[:, deep * groups :]), axis=1)
    place = maxima.shape[1] - count
    bounds = np.partition(maxima, place, axis=1)[:, place]
    found = np.empty((len(logits), count), np.intp)
    for row, (numbers, bound) in enumerate(zip(logits, bounds, strict=True)):
        candidates = np.flatnonzero(numbers >= bound)
        if len(candidates) > count:
            among = np.argpartition(numbers[candidates], len(candidates) - count)
            candidates = candidates[among[len(candidates) - count :]]
        found[row] = candidates
    return found


def _draw(weights: Singles, count: int, draw_at: Doubles) -> tuple[Doubles, npt.NDArray[np.intp]]:
    """The sum of each row's weights, and `count` places drawn by weight, evenly spaced in it.

    The number of weights in a row is a multiple of `_RUN`. Where all are 0, so are the places.
    """
    runs = weights.reshape(len(weights), -1, _RUN)
    ends = np.cumsum(runs @ np.ones(_RUN, np.float32), axis=1, dtype=np.float64)
    totals = ends[:, -1]
    points = (np.arange(count) + draw_at[:, None]) / count * (totals * _BELOW_ONE)[:, None]
    rows = np.arange(len(weights))[:, None]
    run = np.empty(points.shape, np.intp)
    for row, (row_ends, row_points) in enumerate(zip(ends, points, strict=True)):
        run[row] = np.searchsorted(row_ends, row_points, side="right")
    run[totals <= 0] = 0
    within = np.cumsum(runs[rows, run], axis=2, dtype=np.float64)
    starts = np.where(run > 0, ends[rows, run - 1], 0.0)
    # The two sums differ in their last digits: the end of a run is never passed.
    points = np.minimum(points - starts, within[:, :, -1] * _BELOW_ONE)
    places = run * _RUN + (within <= points[:, :, None]).sum(axis=2)
    places[totals <= 0] = 0
    return totals, places
