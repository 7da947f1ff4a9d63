"""The formulas of cost against published accounts, worked out by hand, and how intervals travel."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import economics
from edge_runtime.economics import Bound, Origin, Quantity, derive, found, stated
from edge_runtime.statistics import Interval

# Published accounts, to their last digit.


def test_the_account_of_a_405b_service() -> None:
    # 30 tok/s x 10 streams x 86,400 s = 25,920,000 generated; 11 with ten prompt tokens for each.
    tokens = economics.served_tokens_per_day(30, streams=10, input_per_output=10)
    assert tokens == 285_120_000
    assert round(economics.price_of_tokens(tokens, 2.8), 2) == 798.34
    assert round(economics.rental_per_day(3.49, gpus=8), 2) == 670.08
    # The same by way of a generated token: 2.8 + 10 x 2.8 a million, for 25.92 millions.
    per_million = economics.api_per_million(2.8, 2.8, input_per_output=10)
    assert per_million == pytest.approx(30.8)
    assert round(economics.price_of_tokens(25_920_000, per_million), 2) == 798.34


def test_the_account_of_eight_experts_of_222_billion() -> None:
    # 2 x 1.776e12 x 1000 / 312e12 = 11.3846 s of an hour that costs 2.2659.
    rate = economics.compute_tokens_per_s(8 * 222e9, 312e12)
    assert 1000 / rate == pytest.approx(11.384_615, rel=1e-6)
    for_a_thousand = economics.rental_per_million(2.2659, rate) / 1000
    assert round(for_a_thousand, 5) == 0.00717
    assert for_a_thousand == pytest.approx(2.2659 / 3600 * 2 * 8 * 222e9 * 1000 / 312e12)


def test_the_account_of_an_a10() -> None:
    assert round(economics.rental_per_million(0.6, 2500), 3) == 0.067
    assert economics.rental_per_year(0.6) == pytest.approx(5256)


def test_several_gpus_and_prompts_share_what_there_is() -> None:
    assert economics.compute_tokens_per_s(1e9, 2e12, 0.5, 4, 9) == pytest.approx(200)
    assert economics.rental_per_year(0.6, 2) == pytest.approx(2 * 5256)
    assert economics.rental_per_million(3.6, 1000, 8) == pytest.approx(8)


def test_the_account_of_training_gpt_3() -> None:
    # 175e9 parameters on 500e9 tokens at 312 TFLOP/s and 2.2659 an hour: about 1.05 millions.
    flop = economics.training_flop(175e9, 500e9)
    assert flop == 5.25e23
    hours = economics.training_gpu_h(flop, 312e12)
    assert hours == pytest.approx(467_414.5, abs=0.1)
    assert hours * 2.2659 == pytest.approx(1.059e6, rel=1e-3)
    assert economics.training_gpu_h(flop, 312e12, 0.5) == pytest.approx(2 * hours)


# By hand


def test_the_price_of_electricity() -> None:
    # 0.36 J a token are 0.1 kWh a million.
    assert economics.electricity_per_million(0.36, 0.30) == pytest.approx(0.03)
    assert economics.joules_per_token(5, 10) == 0.5
    assert economics.joules_with_prompt(0.5, 0.05, 10) == pytest.approx(1.0)


def test_the_share_of_hardware() -> None:
    # 1095 for 3 years is 1 a day.
    assert economics.hardware_per_day(1095, 3) == pytest.approx(1.0)
    assert economics.hardware_per_million(1095, 3, 50_000) == pytest.approx(20.0)


def test_tokens_in_hours_leave_time_for_prompts() -> None:
    assert economics.tokens_in_hours(10) == 864_000
    assert economics.tokens_in_hours(10, 2) == 72_000
    # A tenth of a second for the token, as much for ten prompt tokens at 100 a second.
    assert economics.tokens_in_hours(10, 2, 10, 100) == pytest.approx(36_000)


def test_break_even_is_where_both_cost_the_same() -> None:
    tokens = economics.break_even_tokens_per_day(1.0, 0.1, 0.6)
    assert tokens == pytest.approx(2_000_000)
    own = 1.0 + economics.price_of_tokens(tokens, 0.1)
    assert own == pytest.approx(economics.price_of_tokens(tokens, 0.6))
    with pytest.raises(ValueError, match="never breaks even"):
        economics.break_even_tokens_per_day(1.0, 0.6, 0.6)


def test_the_battery_while_reading() -> None:
    # 15 Wh at 0.5 J and 10 tok/s: 5 W for 3 h; 1000 tokens take 500 of 54,000 J.
    assert economics.battery_h(54_000, 0.5, 10) == pytest.approx(3.0)
    assert economics.battery_percent(0.5, 54_000) == pytest.approx(0.9259, abs=1e-4)
    # Read at 5 tok/s it works half the time: 2.5 W; and 1 W idle in the other half: 3 W.
    assert economics.battery_h(54_000, 0.5, 10, 5) == pytest.approx(6.0)
    assert economics.battery_h(54_000, 0.5, 10, 5, 1.0) == pytest.approx(5.0)
    # Who reads faster than it generates leaves it no time to idle in.
    assert economics.battery_h(54_000, 0.5, 10, 20, 1.0) == pytest.approx(3.0)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "formula",
    [
        economics.flop_per_token,
        lambda x: economics.training_flop(8e9, x),
        lambda x: economics.training_gpu_h(1e20, 1e12, x),
        lambda x: economics.compute_tokens_per_s(8e9, x),
        economics.served_tokens_per_day,
        lambda x: economics.price_of_tokens(1, x),
        economics.api_per_million,
        economics.rental_per_day,
        lambda x: economics.rental_per_million(1, x),
        lambda x: economics.joules_per_token(5, x),
        lambda x: economics.electricity_per_million(x, 1),
        lambda x: economics.hardware_per_day(1, x),
        lambda x: economics.hardware_per_million(1, 1, x),
        economics.tokens_in_hours,
        lambda x: economics.break_even_tokens_per_day(x, 0, 1),
        lambda x: economics.battery_percent(1, x),
        lambda x: economics.battery_h(x, 1, 1),
    ],
)
def test_what_is_no_positive_number_is_refused(formula: object, wrong: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        formula(wrong)  # type: ignore[operator]


# Intervals and grounds


def known(low: float, value: float, high: float, bound: Bound = Bound.NONE) -> Quantity:
    interval = Interval(low=low, value=value, high=high)
    return found(interval, "J/token", "J/token", source="battery", bound=bound)


def test_an_interval_travels_through_a_formula_with_its_grounds() -> None:
    price = stated(0.3, "USD/kWh", "price")
    cost = derive(
        economics.electricity_per_million, "USD", "J x price",
        j_per_token=known(0.9, 1.0, 1.2), price_per_kwh=price,
    )  # fmt: skip
    assert (cost.low, cost.value, cost.high) == pytest.approx((0.075, 1 / 12, 0.1))
    assert cost.basis is Origin.DERIVED
    assert [(g.name, g.basis) for g in cost.rests_on] == [
        ("J/token", Origin.MEASURED),
        ("price", Origin.STATED),
    ]
    twice = derive(lambda a, b: a + b, "USD", "", a=cost, b=cost)
    assert twice.rests_on == cost.rests_on, "a ground stands there once"


def test_what_falls_as_its_ground_rises_has_its_ends_exchanged() -> None:
    hours = derive(
        economics.battery_h, "h", "", battery_j=stated(54_000, "J", "battery"),
        j_per_token=known(0.4, 0.5, 0.6), tokens_per_s=stated(10, "tok/s", "rate"),
    )  # fmt: skip
    assert (hours.low, hours.value, hours.high) == pytest.approx((2.5, 3.0, 3.75))


def test_a_bound_stays_one_and_turns_where_the_formula_falls() -> None:
    least = known(0.5, 0.5, 0.5, Bound.AT_LEAST)
    battery, rate = stated(54_000, "J", "battery"), stated(10, "tok/s", "rate")
    share = derive(economics.battery_percent, "%", "", j_per_token=least, battery_j=battery)
    hours = derive(
        economics.battery_h, "h", "", battery_j=battery, j_per_token=least, tokens_per_s=rate
    )
    assert share.bound is Bound.AT_LEAST
    assert hours.bound is Bound.AT_MOST
    with pytest.raises(economics.OpposedBoundsError):
        derive(lambda a, b: a * b, "", "", a=share, b=hours)


amounts = st.floats(1e-6, 1e6)


@given(st.tuples(amounts, amounts, amounts), st.tuples(amounts, amounts), st.floats(0, 1))
def test_no_true_value_within_the_grounds_leaves_the_interval(
    joules: tuple[float, float, float], price: tuple[float, float], share: float
) -> None:
    low, value, high = sorted(joules)
    cheap, dear = sorted(price)
    cost = derive(
        economics.electricity_per_million, "USD", "",
        j_per_token=known(low, value, high),
        price_per_kwh=found(Interval(low=cheap, value=cheap, high=dear), "USD", "price"),
    )  # fmt: skip
    truth = economics.electricity_per_million(
        low + share * (high - low), cheap + (1 - share) * (dear - cheap)
    )
    assert cost.low <= cost.value <= cost.high
    assert cost.low * (1 - 1e-9) <= truth <= cost.high * (1 + 1e-9)
