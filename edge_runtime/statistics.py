"""Statistics derived from raw samples: pure arithmetic, the standard library only.

Everything here is recomputed from the record whenever it is shown; nothing here is ever saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95 % quantiles of Student's t by degrees of freedom (NIST e-Handbook, 1.3.6.7.2).
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_T95_LIMIT = 1.960
HOPELESS_FACTOR = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with the bounds it lies between, at 95 % confidence unless its user says otherwise.

    `low <= value <= high`; all three share one unit, named where the interval is held.
    """

    low: float
    value: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """The interval with every bound multiplied by a positive factor."""
        return Interval(low=self.low * factor, value=self.value * factor, high=self.high * factor)

    def inverse(self) -> Interval:
        """The interval of 1/x: seconds per token from tokens per second. Bounds are positive."""
        return Interval(low=1 / self.high, value=1 / self.value, high=1 / self.low)

    @property
    def relative_half_width(self) -> float:
        """Half the width over the value: 0.02 reads "within 2 %"; infinite for a value of zero."""
        return (self.high - self.low) / 2 / self.value if self.value else math.inf

    @property
    def is_hopeless(self) -> bool:
        """Whether its ends lie so far apart, by a factor of 100, that they say nothing."""
        return self.high > HOPELESS_FACTOR * self.low


def t95(degrees_of_freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t distribution; infinite below one degree."""
    if degrees_of_freedom < 1:
        return math.inf
    if degrees_of_freedom <= len(_T95):
        return _T95[degrees_of_freedom - 1]
    # First term of the Cornish-Fisher expansion in 1/df: within 0.001 of the table from 30 on.
    return _T95_LIMIT + (_T95_LIMIT**3 + _T95_LIMIT) / (4 * degrees_of_freedom)


def mean(samples: Sequence[float]) -> float:
    """The arithmetic mean of at least one sample."""
    return math.fsum(samples) / len(samples)


def stddev(samples: Sequence[float]) -> float:
    """The sample standard deviation (n - 1); 0 for a single sample, whose spread is unknown."""
    if len(samples) < 2:
        return 0.0
    centre = mean(samples)
    return math.sqrt(math.fsum((x - centre) ** 2 for x in samples) / (len(samples) - 1))


def median(samples: Sequence[float]) -> float:
    """The median of at least one sample."""
    return percentile(samples, 50)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The percentile by linear interpolation between order statistics (Hyndman-Fan type 7)."""
    ordered = sorted(samples)
    rank = (len(ordered) - 1) * percent / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def confidence_interval(samples: Sequence[float], *, widen: float = 1.0) -> Interval | None:
    """The 95 % confidence interval of the mean of positive samples, or None below two samples.

    By Student's t on the logarithms, laid around the arithmetic mean: rates vary by factors, and a
    rate's interval must not reach zero. Where the spread is small it equals the ordinary interval.
    `widen` multiplies its width (on the logarithmic scale).
    """
    if len(samples) < 2:
        return None
    centre = mean(samples)
    spread = stddev([math.log(sample) for sample in samples])
    # Two samples of a noisy machine can ask for more than a float holds; a factor of a million
    # on either side says as little.
    half = min(widen * t95(len(samples) - 1) * spread / math.sqrt(len(samples)), math.log(1e6))
    return Interval(low=centre * math.exp(-half), value=centre, high=centre * math.exp(half))


def rate_interval(samples: Sequence[float], *, disturbed: bool) -> Interval | None:
    """The 95 % interval of a mean rate over repetitions, twice as wide when they were disturbed.

    A single repetition has no spread: its interval is then open to half and double, which can
    support no verdict near a limit, and that is the truth of one sample. None without any.
    """
    if not samples:
        return None
    interval = confidence_interval(samples, widen=2.0 if disturbed else 1.0)
    if interval is None:
        only = samples[0]
        return Interval(low=only / 2, value=only, high=only * 2)
    return interval


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderInterval:
    """A percentile and the two samples it lies between, at 95 % confidence.

    A bound is None where no sample can be one: too few were taken to say how far that side reaches.
    """

    low: float | None
    value: float
    high: float | None


def percentile_interval(samples: Sequence[float], percent: float) -> OrderInterval:
    """A percentile of at least one sample, with its distribution-free 95 % interval.

    By the binomial distribution of how many samples lie below the true percentile (Conover,
    Practical Nonparametric Statistics, 3.2): nothing is assumed of the samples' distribution, only
    that they are independent. At most 2.5 % lie outside on either side. With few samples an outer
    percentile is likely to lie beyond the last of them, and interpolating would stay below that:
    the value is then the bound itself.
    """
    ordered = sorted(samples)
    below, above = order_ranks(len(ordered), percent / 100)
    value = percentile(ordered, percent)
    low = None if below is None else ordered[below - 1]
    high = None if above is None else ordered[above - 1]
    value = value if low is None else max(value, low)
    value = value if high is None else min(value, high)
    return OrderInterval(low=low, value=value, high=high)


def order_ranks(count: int, share: float) -> tuple[int | None, int | None]:
    """Ranks, from 1, of the samples that enclose the quantile `share` with 95 % confidence.

    The lower is the largest r with P(B < r) <= 2.5 %, the upper the smallest r with
    P(B < r) >= 97.5 %, where B is binomial: how many of `count` samples lie below the quantile.
    """
    tail = 0.025
    if not 0 < share < 1:
        raise ValueError("a quantile lies strictly between 0 and 1")
    deviation = math.sqrt(count * share * (1 - share))
    # What lies beyond twelve deviations is below 1e-30, and sums of 1e5 terms need not be taken.
    number = max(0, math.floor(count * share - 12 * deviation - 12))
    density = math.exp(
        math.lgamma(count + 1) - math.lgamma(number + 1) - math.lgamma(count - number + 1)
        + number * math.log(share) + (count - number) * math.log1p(-share)
    )  # fmt: skip
    less = 0.0  # P(B < number)
    lower: int | None = None
    upper: int | None = None
    while number <= count and upper is None:
        if number >= 1 and less <= tail:
            lower = number
        if number >= 1 and less >= 1 - tail:
            upper = number
        less += density
        density *= (count - number) / (number + 1) * share / (1 - share)
        number += 1
    return lower, upper
