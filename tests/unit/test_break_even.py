"""From how many tokens a day on something is the cheaper: never, perhaps, or from so many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_runtime.basis import Unavailable
from edge_runtime.costs.break_even import break_even
from edge_runtime.economics import Bound, Quantity, found, stated
from edge_runtime.statistics import Interval


def ranging(low: float, value: float, high: float) -> Quantity:
    return found(Interval(low=low, value=value, high=high), "", "")


def reason(figure: object) -> str:
    assert isinstance(figure, Unavailable), figure
    return figure.reason


@pytest.mark.parametrize("bound", [Bound.NONE, Bound.AT_LEAST])
def test_electricity_just_below_the_api_has_a_far_break_even_or_none(bound: Bound) -> None:
    """0.6 a million against 0.6003: exactly known it breaks even late, as a least cost perhaps."""
    api, fixed = stated(0.6003, "USD", "API"), stated(0.001, "USD", "day")
    own = replace(stated(0.6, "USD", "electricity"), bound=bound)
    point = break_even(fixed, own, api, Unavailable(reason="no rate"))
    if bound is Bound.NONE:
        assert isinstance(point, Quantity)
        assert point.value == pytest.approx(0.001 / 0.0003 * 1e6)
    else:
        assert reason(point).startswith("not known")


def test_what_may_break_even_is_not_called_never() -> None:
    fixed, api, unknown = stated(0.1, "", ""), stated(0.6, "", ""), Unavailable(reason="no rate")
    assert reason(break_even(fixed, ranging(0.5, 0.55, 0.7), api, unknown)).startswith("not known")
    assert reason(break_even(fixed, ranging(0.6, 0.65, 0.7), api, unknown)).startswith("never")
    # From 200,000 a day on.
    own, most = stated(0.1, "", ""), ranging(1e5, 1.9e5, 2.1e5)
    point = break_even(fixed, own, api, most)
    assert isinstance(point, Quantity)
    assert point.value == pytest.approx(2e5)
    assert reason(break_even(fixed, own, api, stated(1.9e5, "", ""))).startswith("never")
