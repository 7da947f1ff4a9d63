"""From a prediction's deviation to an interval that holds what it promises, on unseen devices too.

The deviation is widened by the factor that leave-one-device-out found to be needed; the shape of
the tails is Student's t with four degrees of freedom, as rows and devices scatter. Pure arithmetic.
"""

from __future__ import annotations

import math

from ..errors import UsageError
from ..statistics import Interval

CALIBRATED_AT = 0.80
"""The confidence at which the widening is found; others follow from the shape of the tails."""

_NORMAL_AT_80 = 1.2815515655446004


def deviations(confidence: float) -> float:
    """How many standard deviations an interval reaches to either side at a confidence.

    1.28 at 80 %, as for a normal distribution; elsewhere in proportion to the quantiles of
    Student's t with four degrees of freedom, which have a closed form. Raises UsageError outside 0
    to 1.
    """
    if not 0 < confidence < 1:
        raise UsageError(
            f"A confidence lies between 0 and 1, not at {confidence:g}.",
            way_out="Give 0.8 for intervals that hold the truth four times out of five.",
        )
    return _NORMAL_AT_80 * _t4(confidence) / _t4(CALIBRATED_AT)


def rate_interval(
    log_seconds: float,
    deviation: float,
    *,
    widening: float,
    confidence: float,
    ceiling: float | None = None,
) -> Interval:
    """Tokens per second from the logarithm of the seconds; none of the three above a ceiling."""
    half = widening * deviation * deviations(confidence)
    rates = [math.exp(-log_seconds + offset) for offset in (-half, 0.0, half)]
    low, value, high = rates if ceiling is None else (min(rate, ceiling) for rate in rates)
    return Interval(low=low, value=value, high=high)


def _t4(confidence: float) -> float:
    """The two-sided quantile of Student's t with four degrees of freedom (Shaw 2006, section 2)."""
    tail = (1 - confidence) / 2
    alpha = 4 * tail * (1 - tail)
    root = math.cos(math.acos(math.sqrt(alpha)) / 3) / math.sqrt(alpha)
    return 2 * math.sqrt(root - 1)
