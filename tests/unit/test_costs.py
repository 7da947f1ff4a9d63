"""Costs of records and statements: figures by hand, bounds, and what is missing."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from edge_runtime.basis import Unavailable
from edge_runtime.codec import to_jsonable
from edge_runtime.costs import CostReport, cost_report
from edge_runtime.costs.device import DeviceCost
from edge_runtime.costs.stated import ProjectedRates, Stated
from edge_runtime.economics import Bound, Origin, Quantity, stated
from edge_runtime.economics import found as found_rate
from edge_runtime.energy import Battery, Scope
from edge_runtime.errors import UsageError
from edge_runtime.measurement import Measurement, Run
from edge_runtime.report.cost import amount, render_cost
from edge_runtime.statistics import Interval
from tests.energy_records import power, recorded, run, sensor, series

DEVICE = replace(
    recorded(series(power, until_s=40, info=sensor("battery:BAT0", scope=Scope.DEVICE))),
    battery=Battery(id="BAT0", full_wh=15.0, design_wh=20.0, status="Discharging"),
)
"""0.24 J for a prompt token at 50 tok/s, 0.7 J for a generated one at 10 tok/s; 2 W idle; 15 Wh."""
CHIP = recorded()
"""The same by a sensor of the processor alone, without a battery."""
NO_ENERGY = replace(
    CHIP, energy=Unavailable(reason="no powercap: virtual machine", remedy="Use the machine.")
)


def report(*measurements: Measurement, **said: object) -> CostReport:
    base = Stated(reading_tokens_per_s=5.0, reading_name="slow-reading")
    return cost_report(measurements, replace(base, **said), tool_version="1")  # type: ignore[arg-type]


def device(*measurements: Measurement, **said: object) -> DeviceCost:
    (found,) = report(*measurements, **said).devices
    return found


def value(figure: object) -> float:
    assert isinstance(figure, Quantity), figure
    assert figure.low <= figure.value <= figure.high
    return figure.value


def reason(figure: object) -> str:
    assert isinstance(figure, Unavailable), figure
    return figure.reason


def test_a_measured_device_costs_its_electricity_and_its_hardware() -> None:
    found = device(
        DEVICE, price_per_kwh=0.30, hardware_price=1095.0, hardware_years=3.0, tokens_per_day=50_000
    )
    assert value(found.electricity) == pytest.approx(0.7e6 / 3.6e6 * 0.30)
    assert value(found.hardware) == pytest.approx(20.0)
    assert value(found.together) == pytest.approx(20.0 + 0.7 / 3.6 * 0.30)
    assert value(found.per_day) == pytest.approx(1 + 0.035 * 0.30 / 3.6)
    assert isinstance(found.electricity, Quantity)
    assert [g.basis for g in found.electricity.rests_on] == [Origin.MEASURED, Origin.STATED]
    assert "battery:BAT0" in found.electricity.rests_on[0].source


def test_the_interval_of_the_measurement_reaches_the_money() -> None:
    # Two repetitions that differ: 0.6 and 0.8 J/token.
    def watts(t: float) -> float:
        return 6.0 if 10 <= t < 20 else 8.0 if 20 <= t < 30 else 2.0

    one = recorded(
        series(watts, until_s=40, info=sensor("b", scope=Scope.DEVICE)),
        runs=tuple(run(start, 0, 10, prompt=0, steps=100) for start in (10, 20)),
    )
    found = device(one, price_per_kwh=0.36)
    joules, money = found.generated_j_per_token, found.electricity
    assert isinstance(joules, Quantity)
    assert isinstance(money, Quantity)
    assert joules.high > 1.2 * joules.low
    assert (money.low, money.high) == pytest.approx((0.1 * joules.low, 0.1 * joules.high))


def test_prompts_cost_energy_and_time() -> None:
    found = device(DEVICE, price_per_kwh=0.36, input_per_output=10.0)
    assert value(found.generated_j_per_token) == pytest.approx(0.7)
    assert value(found.j_per_token) == pytest.approx(0.7 + 2.4)
    assert value(found.electricity) == pytest.approx(0.31)
    # 0.1 s for the token, 0.2 s for ten prompt tokens.
    assert value(found.most_tokens_per_day) == pytest.approx(86_400 / 0.3)


def test_prompts_nobody_measured_leave_a_least_energy_and_a_most_of_tokens() -> None:
    only_decode = replace(
        DEVICE, runs=tuple(run(start, 0, 4, prompt=0, steps=40) for start in (14, 22))
    )
    told = report(only_decode, price_per_kwh=0.36, input_per_output=10.0)
    (found,) = told.devices
    for figure, bound in (
        (found.j_per_token, Bound.AT_LEAST),
        (found.electricity, Bound.AT_LEAST),
        (found.most_tokens_per_day, Bound.AT_MOST),
    ):
        assert isinstance(figure, Quantity)
        assert figure.bound is bound
    assert any("the energy of the prompts is not in it" in note for note in told.notes)
    # A day's cost of at least so much a token for at most so many is no figure.
    mixed = device(
        only_decode, price_per_kwh=0.36, input_per_output=10.0, hardware_price=1.0,
        hardware_years=1.0, hours_per_day=2.0,
    )  # fmt: skip
    assert "at least" in reason(mixed.per_day)


def test_a_sensor_of_the_chip_gives_bounds_in_the_right_direction() -> None:
    found = device(
        CHIP, price_per_kwh=0.30, hardware_price=1.0, hardware_years=1.0, api_price_out=1.0,
        battery=stated(54_000, "J", "battery"),
    )  # fmt: skip
    bounds = {
        "electricity": (found.electricity, Bound.AT_LEAST),
        "percent": (found.battery.percent, Bound.AT_LEAST),
        "hours": (found.battery.generating_h, Bound.AT_MOST),
        "reading": (found.battery.reading_h, Bound.AT_MOST),
        "break-even": (found.break_even_tokens_per_day, Bound.AT_LEAST),
        "rate": (found.most_tokens_per_day, Bound.NONE),
    }
    for name, (figure, bound) in bounds.items():
        assert isinstance(figure, Quantity), name
        assert figure.bound is bound, name


def test_energy_that_was_not_measured_is_said_to_be_missing_with_the_remedy() -> None:
    found = device(NO_ENERGY, price_per_kwh=0.30)
    for figure in (found.generated_j_per_token, found.electricity, found.battery.percent):
        assert reason(figure) == "no powercap: virtual machine"
    assert isinstance(found.electricity, Unavailable)
    assert "Use the machine. Or state it: --watts" in found.electricity.remedy
    assert value(found.tokens_per_s) == pytest.approx(10.0)


def test_stated_watts_and_the_measured_rate_make_an_energy() -> None:
    found = device(NO_ENERGY, price_per_kwh=0.36, watts=5.0, input_per_output=10.0)
    assert value(found.generated_j_per_token) == pytest.approx(0.5)
    # Prompt tokens came at 50 tok/s: 0.1 J each.
    assert value(found.electricity) == pytest.approx(0.15)
    assert isinstance(found.electricity, Quantity)
    assert {g.basis for g in found.electricity.rests_on} == {Origin.STATED, Origin.MEASURED}


def test_the_battery_is_the_records_unless_one_is_stated() -> None:
    found = device(DEVICE).battery
    assert value(found.percent) == pytest.approx(100 * 700 / 54_000)
    assert value(found.generating_h) == pytest.approx(15 / 7)
    # Read at half its rate: 3.5 W and half of 2 W idle.
    assert value(found.reading_h) == pytest.approx(15 / 4.5)
    stated_one = device(DEVICE, battery=stated(108_000, "J", "battery")).battery
    assert value(stated_one.generating_h) == pytest.approx(30 / 7)


def test_hours_of_reading_are_a_most_where_idling_is_not_known() -> None:
    said = {"watts": 5.0, "tokens_per_s": 10.0, "battery": stated(54_000, "J", "battery")}
    unknown = device(**said).battery.reading_h
    assert isinstance(unknown, Quantity)
    assert unknown.bound is Bound.AT_MOST
    assert unknown.value == pytest.approx(6.0)
    slow = device(**{**said, "tokens_per_s": 4.0}).battery.reading_h
    assert isinstance(slow, Quantity)
    assert slow.bound is Bound.NONE, "read at 5 tok/s it never idles"
    told = device(**said, idle_w=1.0).battery.reading_h
    assert isinstance(told, Quantity)
    assert told.bound is Bound.NONE
    assert told.value == pytest.approx(5.0)


def test_the_rate_is_that_of_the_emptiest_context_then_of_the_longest_run() -> None:
    def of(seconds: float, depth: int, steps: int) -> Measurement:
        workload = replace(NO_ENERGY.workload, depth_tokens=depth, generate_tokens=steps)
        runs = (run(0, 0, seconds, prompt=0, steps=steps),) * 2
        return replace(NO_ENERGY, workload=workload, runs=runs)

    records = [of(10, 4096, 20), of(2, 0, 10), of(5, 0, 50)]
    assert value(device(*records).tokens_per_s) == pytest.approx(10.0)


def test_each_model_of_the_records_has_its_own_cost() -> None:
    other = replace(DEVICE, artifact=replace(DEVICE.artifact, fingerprint="other", level="Q8_0"))
    assert [one.name for one in report(DEVICE, other).devices] == ["tiny Q4_K_M", "tiny Q8_0"]


# Break-even


def test_the_device_breaks_even_where_its_day_costs_what_the_api_takes() -> None:
    found = device(
        watts=5.0, tokens_per_s=50.0, price_per_kwh=0.36, hardware_price=365.0, hardware_years=1.0,
        api_price_out=1.01,
    )  # fmt: skip
    # 0.1 J/token are 0.01 a million; 1 a day over the other 1.00.
    assert value(found.break_even_tokens_per_day) == pytest.approx(1e6)


def test_what_never_breaks_even_says_why() -> None:
    base = {
        "tokens_per_s": 10.0,
        "price_per_kwh": 0.36,
        "hardware_price": 365.0,
        "hardware_years": 1.0,
    }
    slow = device(**base, j_per_token=0.1, api_price_out=1.01)
    words = reason(slow.break_even_tokens_per_day)
    assert words.startswith("never")
    assert "1,000,000" in words
    assert "864,000" in words
    hungry = device(**base, j_per_token=20.0, api_price_out=1.01)
    assert "electricity alone" in reason(hungry.break_even_tokens_per_day)
    assert reason(device(**base, j_per_token=0.1).break_even_tokens_per_day).startswith("no API")


def ranging(low: float, value: float, high: float) -> Quantity:
    return found_rate(Interval(low=low, value=value, high=high), "", "")


def test_ranges_say_how_sure_they_are() -> None:
    words = "Ranges follow from the 95 % intervals of what was measured."
    assert words in report(DEVICE).notes
    assert words not in report(watts=5.0, tokens_per_s=10.0, price_per_kwh=0.3).notes


def test_more_tokens_a_day_than_the_device_generates_are_refused_with_its_limit() -> None:
    found = device(tokens_per_s=1.0, hardware_price=1.0, hardware_years=1.0, tokens_per_day=100_000)
    assert "at most 86,400 tokens a day" in reason(found.hardware)
    rates = ProjectedRates(
        name="phone",
        tokens_per_s=ranging(0.8, 1.0, 1.25),
        prompt_tokens_per_s=Unavailable(reason="none"),
    )
    perhaps = device(
        projected=rates, hardware_price=1.0, hardware_years=1.0, tokens_per_day=100_000
    )
    assert value(perhaps.tokens_per_day) == 100_000, "the upper end of its rate makes so many"


# Elsewhere


def test_the_405b_service_as_a_report() -> None:
    found = report(
        gpu_tokens_per_s=30.0, gpu_streams=10, gpus=8, gpu_price_per_h=3.49, api_price_in=2.8,
        api_price_out=2.8, input_per_output=10.0,
    ).rented  # fmt: skip
    assert found is not None
    assert value(found.tokens_per_day) == 285_120_000
    assert round(value(found.api_per_day), 2) == 798.34
    assert round(value(found.per_day), 2) == 670.08
    # From 670.08 / 30.8 millions on.
    assert value(found.break_even_tokens_per_day) == pytest.approx(670.08 / 30.8 * 1e6)


def test_operations_alone_give_a_bound_until_a_utilization_is_stated() -> None:
    said = {"parameters": 8 * 222e9, "flop_per_s": 312e12, "gpu_price_per_h": 2.2659}
    found = report(**said).rented
    assert found is not None
    assert round(value(found.per_thousand), 5) == 0.00717
    assert isinstance(found.per_million, Quantity)
    assert found.per_million.bound is Bound.AT_LEAST
    assert Origin.ASSUMED in {ground.basis for ground in found.per_million.rests_on}
    used = report(**said, utilization=0.5).rented
    assert used is not None
    assert isinstance(used.per_million, Quantity)
    assert used.per_million.bound is Bound.NONE
    assert used.per_million.value == pytest.approx(2 * found.per_million.value)


def test_a_rented_gpu_that_waits_costs_what_it_costs() -> None:
    found = report(gpu_price_per_h=0.6, gpu_tokens_per_s=2500.0, api_price_out=0.05).rented
    assert found is not None
    assert round(value(found.per_million), 3) == 0.067
    assert value(found.per_year) == pytest.approx(5256)
    assert reason(found.break_even_tokens_per_day).startswith("never")


def test_a_missing_price_leaves_its_figures_out_and_says_how_to_add_it() -> None:
    no_price = report(gpu_tokens_per_s=2500.0).rented
    assert no_price is not None
    assert isinstance(no_price.per_million, Unavailable)
    assert "--gpu-price" in no_price.per_million.remedy
    assert value(no_price.generated_per_day) == 216e6
    no_input = report(api_price_out=1.0, input_per_output=3.0).api
    assert no_input is not None
    assert isinstance(no_input.per_million, Unavailable)
    assert "--api-price-in" in no_input.per_million.remedy
    no_electricity = device(watts=5.0, tokens_per_s=10.0)
    assert isinstance(no_electricity.electricity, Unavailable)
    assert "--kwh-price" in no_electricity.electricity.remedy
    assert report(watts=5.0).api is None


def test_training_takes_six_operations_for_each_parameter_and_token() -> None:
    found = report(
        parameters=175e9, training_tokens=500e9, flop_per_s=312e12, gpu_price_per_h=2.2659,
        utilization=1.0,
    ).training  # fmt: skip
    assert found is not None
    assert value(found.flop) == 5.25e23
    assert value(found.cost) == pytest.approx(1_059_113, rel=1e-5)
    least = report(parameters=1e9, training_tokens=1e9, flop_per_s=1e12).training
    assert least is not None
    assert isinstance(least.gpu_h, Quantity)
    assert least.gpu_h.bound is Bound.AT_LEAST, "no utilization is stated"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"tokens_per_day": 1.0, "hours_per_day": 1.0}, "--hours-per-day"),
        ({"watts": 5.0, "j_per_token": 1.0}, "--watts"),
        ({"watts": 5.0, "idle_w": 5.0}, "no less than"),
        ({"j_per_token": 0.1, "tokens_per_s": 10.0, "idle_w": 2.0}, "no less than"),
        (
            {"gpu_tokens_per_s": 1e6, "parameters": 8e9, "flop_per_s": 312e12},
            "physically impossible",
        ),
        (
            {"gpu_tokens_per_s": 1e3, "gpu_streams": 99, "parameters": 8e9, "flop_per_s": 312e12},
            "physically impossible",
        ),
    ],
)
def test_statements_that_contradict_one_another_are_refused(
    said: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        report(**said)


@pytest.mark.parametrize("said", [{"idle_w": 50.0}, {"watts": 1.0}, {"j_per_token": 0.01}])
def test_a_statement_that_contradicts_the_record_is_refused(said: dict[str, object]) -> None:
    """It idles at 2 W and generates at 7."""
    with pytest.raises(UsageError, match="no less than"):
        report(DEVICE, **said)


def test_the_report_has_a_json_form_in_which_every_figure_has_unit_and_grounds() -> None:
    told = report(DEVICE, price_per_kwh=0.3, gpu_price_per_h=1.0, gpu_tokens_per_s=10.0)
    document = json.loads(json.dumps(to_jsonable(told), allow_nan=False))
    electricity = document["devices"][0]["electricity"]
    assert electricity["unit"] == "USD per million generated tokens"
    assert electricity["rests_on"][0]["basis"] == "measured"
    assert document["rented"]["per_year"]["unit"] == "USD per year"
    assert document["devices"][0]["hardware"]["remedy"]


@pytest.mark.parametrize(
    "runs",
    [
        (Run(started_ns=0, prefilled_ns=1, prefill_tokens=1 << 60, token_ns=(2, 3, 4)),),
        (Run(started_ns=0, prefilled_ns=1 << 62, prefill_tokens=1, token_ns=(1 << 63,)),),
        (run(0, 1, 1, prompt=0, steps=1), run(2, 1, 1e9, prompt=0, steps=1)),
    ],
)
def test_a_strangers_record_of_absurd_rates_makes_no_defect(runs: tuple[Run, ...]) -> None:
    absurd = recorded(runs=runs)
    told = report(
        absurd, price_per_kwh=0.3, watts=5.0, input_per_output=10.0, hours_per_day=2.0,
        hardware_price=900.0, hardware_years=3.0, api_price_in=0.1, api_price_out=0.4,
        battery=stated(54_000, "J", "battery"),
    )  # fmt: skip
    json.dumps(to_jsonable(told), allow_nan=False)
    Console(file=io.StringIO(), width=80).print(render_cost(told, explain=True))


def test_projected_rates_stand_in_where_nothing_ran() -> None:
    rate = found_rate(Interval(low=8.0, value=10.0, high=12.5), "tok/s", "rate")
    rates = ProjectedRates(
        name="some-model Q4_K_M on Some Phone",
        tokens_per_s=replace(rate, basis=Origin.PROJECTED),
        prompt_tokens_per_s=Unavailable(reason="no prefill rate is projected"),
    )
    told = device(projected=rates, watts=5.0, price_per_kwh=0.36)
    assert told.name == "some-model Q4_K_M on Some Phone"
    joules = told.generated_j_per_token
    assert isinstance(joules, Quantity)
    assert (joules.low, joules.value, joules.high) == pytest.approx((0.4, 0.5, 0.625))
    # 5 W for 3 h whatever the rate; and for 2 h a day.
    battery = stated(54_000, "J", "battery")
    used = device(
        projected=rates, watts=5.0, price_per_kwh=0.36, battery=battery, hours_per_day=2.0,
        hardware_price=365.0, hardware_years=1.0,
    )  # fmt: skip
    for figure, right in ((used.battery.generating_h, 3.0), (used.per_day, 1.0036)):
        assert isinstance(figure, Quantity)
        assert (figure.low, figure.high) == pytest.approx((right, right))
    # What is stated counts for more than what is projected.
    assert value(device(projected=rates, tokens_per_s=20.0).tokens_per_s) == 20.0


def test_random_weights_are_named_as_the_ground() -> None:
    random = replace(DEVICE, artifact=replace(DEVICE.artifact, synthetic=True))
    found = device(random, price_per_kwh=0.36).electricity
    assert isinstance(found, Quantity)
    assert Origin.SYNTHETIC in {ground.basis for ground in found.rests_on}


# As a page


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_page_keeps_to_its_width_and_loses_no_word(width: int) -> None:
    told = report(
        CHIP, NO_ENERGY, price_per_kwh=0.3, hardware_price=900.0, hardware_years=3.0,
        hours_per_day=2.0, input_per_output=3.0, api_price_in=0.1, api_price_out=0.4,
        gpu_price_per_h=0.6, gpu_tokens_per_s=2500.0, parameters=8e9, training_tokens=1e12,
    )  # fmt: skip
    pages = []
    for columns in (width, 10_000):
        page = io.StringIO()
        Console(file=page, width=columns).print(render_cost(told, explain=True))
        pages.append(page.getvalue())
    assert max(map(len, pages[0].splitlines())) <= width
    assert pages[0].split() == pages[1].split()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5256.0, "5,256"), (798.336, "798.34"), (30.8, "30.80"), (0.0071657, "0.00717"),
        (0.0666667, "0.0667"), (285_120_000.0, "285,120,000"), (1234.56, "1,234.56"),
        (5.25e23, "5.250e+23"), (1e-12, "1.00e-12"),
    ],
)  # fmt: skip
def test_amounts_are_worded_as_money_is(value: float, words: str) -> None:
    assert amount(value) == words
