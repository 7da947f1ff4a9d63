"""From how many tokens a day on owning or renting is cheaper than paying for each token."""

from __future__ import annotations

from .. import economics
from ..basis import Unavailable
from ..economics import Bound, Quantity
from .stated import MaybeQuantity, Stated, derived, said_quantity


def break_even(
    fixed_per_day: MaybeQuantity,
    own_per_million: MaybeQuantity | None,
    api_per_million: MaybeQuantity,
    most_per_day: MaybeQuantity,
) -> MaybeQuantity:
    """Generated tokens a day from which what has a price for each day beats the API.

    `own_per_million` is what its tokens cost besides, None for nothing. Unavailable where the API
    is always cheaper, and where `most_per_day` are not enough to reach the point.
    """
    for one in (api_per_million, fixed_per_day, own_per_million):
        if isinstance(one, Unavailable):
            return one
    inputs = {"fixed_per_day": fixed_per_day, "other_per_million": api_per_million}
    words = "1e6 x cost per day / API price per million"
    if isinstance(own_per_million, Quantity) and isinstance(api_per_million, Quantity):
        if own_per_million.low >= api_per_million.value:
            return Unavailable(reason="never: its electricity alone costs as much as the API")
        # A least cost just below the API's may as well be above it.
        margin = 1.0 if own_per_million.bound is Bound.NONE else economics.NUDGE
        if own_per_million.high * margin >= api_per_million.value:
            return Unavailable(
                reason="not known: its electricity alone may cost as much as the API",
                remedy="Measure longer: edge profile MODEL --budget 5m",
            )
        inputs["own_per_million"] = own_per_million
        words = "1e6 x cost per day / (API price - electricity, per million)"
    formula = economics.break_even_tokens_per_day if "own_per_million" in inputs else _without_own
    point = derived(formula, "generated tokens per day", words, **inputs)
    if (
        isinstance(point, Quantity)
        and isinstance(most_per_day, Quantity)
        and point.low > most_per_day.high
    ):
        return Unavailable(
            reason=f"never: it would take {point.value:,.0f} generated tokens a day, and"
            f" {most_per_day.value:,.0f} are the most it generates"
        )
    return point


def _without_own(fixed_per_day: float, other_per_million: float) -> float:
    return economics.break_even_tokens_per_day(fixed_per_day, 0.0, other_per_million)


def tokens_stated(said: Stated) -> MaybeQuantity:
    """The generated tokens a day that are stated."""
    return said_quantity(
        said.tokens_per_day,
        "generated tokens per day",
        "tokens per day",
        otherwise="how much it is used is not stated",
        example="--tokens-per-day 100000, or --hours-per-day 2",
    )


def of_a_day(per_million: MaybeQuantity, used: MaybeQuantity, currency: str) -> MaybeQuantity:
    """What the tokens of a day cost, at a cost for a million."""
    return derived(
        economics.price_of_tokens,
        f"{currency} per day",
        "tokens per day / 1e6 x cost of a million",
        tokens=used,
        price_per_million=per_million,
    )
