"""How a figure and its uncertainty are written in the page: the shortest form that is honest."""

from __future__ import annotations

from collections.abc import Callable

from ...comparison.rows import Estimate
from ...statistics import Interval
from ...units import format_rate
from ..energy import three_digits
from ..sustained import SYMMETRIC_LIMIT

NO_FIGURE = "\N{EN DASH}"


def interval_words(interval: Interval, words: Callable[[float], str]) -> str:
    """`± 0.4`, or the bounds where the interval is wide."""
    if interval.is_hopeless:
        return "too noisy"
    if interval.relative_half_width > SYMMETRIC_LIMIT:
        return _from_to(words(interval.low), words(interval.high))
    return f"± {_like(words(interval.value), words((interval.high - interval.low) / 2))}"


def _from_to(low: str, high: str) -> str:
    """`104 to 735 ms`: a unit that both bounds have is said once."""
    unit = high.partition(" ")[2]
    return f"{low.removesuffix(f' {unit}') if unit else low} to {high}"


def _like(value: str, error: str) -> str:
    """An error with no more decimals than the value it belongs to, and never rounded to zero."""
    decimals = len(value.partition(".")[2])
    fits = "e" not in error and len(error.partition(".")[2]) <= decimals
    if fits or " " in value or "e" in value:
        return error
    return f"{max(float(error), 10.0**-decimals):.{decimals}f}"


def bounds_words(interval: Interval) -> str:
    """The bounds of a rate's interval: `11.2 to 12.4`."""
    if interval.is_hopeless:
        return "too noisy"
    return f"{format_rate(interval.low)} to {format_rate(interval.high)}"


def ratio_words(ratio: Interval) -> str:
    """A times sign and a ratio to the baseline, with its interval."""
    if ratio.is_hopeless:
        return "ratio too noisy"
    if ratio.relative_half_width > SYMMETRIC_LIMIT:
        spread = f"({ratio.low:.2f} to {ratio.high:.2f})"
    else:
        spread = interval_words(ratio, lambda value: f"{value:.2f}")
    return f"\N{MULTIPLICATION SIGN} {ratio.value:.2f} {spread}"


def estimate_words(estimate: Estimate) -> tuple[str, str]:
    """A value, and its standard error with the digits that the value has."""
    value = three_digits(estimate.value)
    return value, f"± {_like(value, three_digits(estimate.standard_error))}"


def share_words(share: float) -> str:
    """A share in per cent, with a digit more where it is nearly whole."""
    return f"{100 * share:.2f} %" if share > 0.99 else f"{100 * share:.1f} %"


def perplexity_words(value: float) -> str:
    """A perplexity, or its error, with as many decimals as are worth reading."""
    if value >= 1e6:
        return f"{value:.3g}"
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}"
