"""How sure a difference is: of rates measured in rounds, and of scores on the same tokens.

Intervals hold at 95 %. What was measured side by side is compared pair by pair, so that what met
both alike drops out; two runs of different days are compared by Welch's test. Where the interval
covers "no difference", two levels count as equal.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

from .. import statistics
from ..statistics import Interval
from .rows import Rate

NEED_NOISE_SHARE = 0.01
"""Memory needs closer than this are equal: the interpreter's own memory differs by as much."""
_WIDEST = math.log(1e6)
"""A factor of a million on either side says as little as infinity, which JSON does not have."""

Rounds = Sequence[tuple[int, float]]
"""Numbers of rounds, each with the value measured in it."""
Span = tuple[str, str]
"""When the first and the last of some records were made, ISO 8601 in UTC."""


def mean_and_error(samples: Sequence[float]) -> tuple[float, float]:
    """The mean of at least two samples taken as independent, and its standard error.

    sqrt((mean of squares - square of mean) / (n - 1)), as llama-perplexity has it, summed so that
    nothing is lost where the two are close.
    """
    count, centre = len(samples), statistics.mean(samples)
    apart = [sample - centre for sample in samples]
    # A text may have a hundred thousand tokens: multiplying by map takes half of the time.
    squares = math.fsum(map(operator.mul, apart, apart))
    return centre, math.sqrt(squares / (count - 1) / count)


def mean_interval(samples: Sequence[float]) -> Interval:
    """The t interval of the mean of at least two samples."""
    centre, error = mean_and_error(samples)
    half = statistics.t95(len(samples) - 1) * error
    return Interval(low=centre - half, value=centre, high=centre + half)


def paired_ratio(of: Rounds, to: Rounds) -> Interval | None:
    """The ratio of two rates, from the rounds that have both; None where none has.

    The t interval of the mean logarithm of each round's ratio. One round alone has no spread: its
    ratio is then open to half and double.
    """
    base = dict(to)
    logs = [math.log(rate) - math.log(base[number]) for number, rate in of if number in base]
    if not logs:
        return None
    centre = statistics.mean(logs)
    half = math.log(2) if len(logs) == 1 else _t_half(logs)
    return _around(centre, half)


def welch_ratio(
    of: Sequence[float], to: Sequence[float], *, widen_of: float = 1.0, widen_to: float = 1.0
) -> Interval:
    """The ratio of two means of positive samples from unpaired runs.

    Welch's t interval of the difference of the mean logarithms, its degrees of freedom by Welch
    and Satterthwaite, rounded down; laid around the ratio of the arithmetic means, as the interval
    of a rate is. `widen_of` and `widen_to` multiply the spread of a side that was disturbed. A side
    of one sample has no spread: it is open to half and double, as such a rate is.
    """
    centre = math.log(statistics.mean(of)) - math.log(statistics.mean(to))
    sides = [
        (len(samples), widen * mean_and_error([math.log(sample) for sample in samples])[1])
        for samples, widen in ((of, widen_of), (to, widen_to))
        if len(samples) > 1
    ]
    alone = math.hypot(*(math.log(2) for samples in (of, to) if len(samples) == 1))
    total = math.fsum(error**2 for _, error in sides)
    if total <= 0:
        return _around(centre, alone)
    shares = math.fsum((error**2 / total) ** 2 / (count - 1) for count, error in sides)
    # A hair more, lest 4 come out as 3.9999 and be rounded down to 3.
    freedom = max(1, math.floor(1 / shares + 1e-9))
    return _around(centre, math.hypot(alone, statistics.t95(freedom) * math.sqrt(total)))


def independent_ratio(of: Interval, to: Interval) -> Interval:
    """The ratio of two positive values that know nothing of each other, each with its interval.

    Each side's two distances are put together by their squares, on the logarithmic scale.
    """
    down = math.hypot(math.log(of.value / of.low), math.log(to.high / to.value))
    up = math.hypot(math.log(of.high / of.value), math.log(to.value / to.low))
    centre = math.log(of.value / to.value)
    return exponential(Interval(low=centre - down, value=centre, high=centre + up))


def in_turns(one: Span, other: Span) -> bool:
    """Whether two were measured in turns, not one after the other: their spans have a part alike.

    Rounds of different days have the same numbers, and are no pairs.
    """
    return one[0] <= other[1] and other[0] <= one[1]


def paired_mean_ratio(of: Sequence[float], to: Sequence[float]) -> Interval | None:
    """The ratio of two positive means over the same tokens; None where one is not positive.

    By the delta method: the variance of ln(mean a / mean b) is that of the mean of
    a_i / mean a - b_i / mean b.
    """
    top, bottom = statistics.mean(of), statistics.mean(to)
    if top <= 0 or bottom <= 0:
        return None
    parts = [a / top - b / bottom for a, b in zip(of, to, strict=True)]
    return _around(math.log(top / bottom), _t_half(parts))


def paired_differences(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """The one less the other at each token; both have as many."""
    if len(one) != len(other):
        raise ValueError("scores of unlike texts have no differences")
    return list(map(operator.sub, one, other))


def less_loss(one: Sequence[float], other: Sequence[float]) -> int:
    """Which of two levels loses less, token by token: -1 the one, 1 the other, 0 not resolved."""
    difference = mean_interval(paired_differences(one, other))
    return -1 if difference.high < 0 else int(difference.low > 0)


def faster(one: Rate, other: Rate) -> int:
    """Which of two rates is higher: 1 the one, -1 the other, 0 not resolved.

    By the rounds that both have; where there are fewer than two of these, or they were not measured
    in turns, by whether the intervals overlap.
    """
    shared = {number for number, _ in one.rounds} & {number for number, _ in other.rounds}
    if len(shared) >= 2 and in_turns(one.span, other.span):
        ratio = paired_ratio(one.rounds, other.rounds)
        assert ratio is not None
        return 1 if ratio.low > 1 else -int(ratio.high < 1)
    of, to = one.tokens_per_s, other.tokens_per_s
    return 1 if of.low > to.high else -int(of.high < to.low)


def smaller_need(one: int, other: int) -> int:
    """Which of two needs of memory is smaller: -1 the one, 1 the other, 0 within the noise."""
    if abs(one - other) <= NEED_NOISE_SHARE * max(one, other):
        return 0
    return -1 if one < other else 1


def _t_half(samples: Sequence[float]) -> float:
    return statistics.t95(len(samples) - 1) * mean_and_error(samples)[1]


def _around(centre: float, half: float) -> Interval:
    """The interval of exp(x), x within `half` of the centre; no wider than says anything."""
    half = min(half, _WIDEST)
    return exponential(Interval(low=centre - half, value=centre, high=centre + half))


def exponential(interval: Interval) -> Interval:
    """The interval of exp(x); all three are kept within what a float holds."""
    low, value, high = (
        math.exp(max(min(x, 700.0), -700.0)) for x in (interval.low, interval.value, interval.high)
    )
    return Interval(low=low, value=value, high=high)
