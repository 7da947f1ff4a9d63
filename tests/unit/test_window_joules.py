"""Joules within stretches of time: exact where they can be told, refused where they cannot."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.basis import Unavailable
from edge_runtime.energy import EnergySeries, SeriesBreak
from edge_runtime.window_joules import Span, WindowJoules, joules_within
from tests.energy_records import S, sensor, series

STEADY = series(lambda _: 10.0, until_s=60)
POWER = sensor("ina:VDD_IN", method="power", poll_s=0.05, update_s=0.05, window_s=2.0)


def found(
    given_series: EnergySeries, *spans: tuple[float, float], working: bool = True
) -> WindowJoules:
    joules = joules_within(given_series, ns(spans), working=working)
    assert isinstance(joules, WindowJoules), joules
    return joules


def refused(given_series: EnergySeries, *spans: tuple[float, float], working: bool = True) -> str:
    joules = joules_within(given_series, ns(spans), working=working)
    assert isinstance(joules, Unavailable), joules
    return joules.reason


def ns(spans: Sequence[tuple[float, float]]) -> tuple[Span, ...]:
    return tuple((round(a * S), round(b * S)) for a, b in spans)


def test_steady_power_gives_watts_times_seconds_also_between_readings() -> None:
    joules = found(STEADY, (1.03, 4.57), (10.0, 11.0))
    assert joules.joules == pytest.approx((35.4, 10.0))
    assert joules.total_j == pytest.approx(45.4)
    assert joules.duration_s == pytest.approx(4.54)
    assert joules.samples == 35 + 11


def test_the_uncertainty_is_that_of_the_formula() -> None:
    # On the readings themselves: two edges, each P x update / sqrt(12) and step / sqrt(12), and
    # what old values smear into the span, P x update / sqrt(12).
    info = sensor(update_s=0.1, step=0.5)
    on_time = found(replace(STEADY, sensor=info), (10.0, 20.0))
    assert on_time.instrument_u_j == pytest.approx(
        math.sqrt((3 * (10 * 0.1) ** 2 + 2 * 0.5**2) / 12)
    )
    # In the middle between two readings 1 J apart: a step of power there hides a quarter of it.
    between = found(replace(STEADY, sensor=sensor(update_s=0.0)), (10.05, 20.0))
    assert between.instrument_u_j == pytest.approx(0.25 / math.sqrt(3))
    # A power sensor's rounding is the same at every reading: it adds up over the window.
    rounded = replace(series(lambda _: 10.0, until_s=60, period_s=0.05),
                      sensor=replace(POWER, update_s=0.0, step=0.1))  # fmt: skip
    u = math.hypot(0.1 * 10, 10 * 0.05) / math.sqrt(12)
    assert found(rounded, (10.0, 20.0)).instrument_u_j == pytest.approx(u)


@pytest.mark.parametrize("before_w", [30.0, 90.0, 480.0])
@pytest.mark.parametrize("phase_s", [0.01, 0.05, 0.09])
def test_what_a_slow_sensor_smears_into_every_span_is_within_its_uncertainty(
    before_w: float, phase_s: float
) -> None:
    # Ten times 0.6 s at 300 W, by a counter that moves every 100 ms: each begins with old joules.
    spans = tuple((1 + 1.037 * k, 1.6 + 1.037 * k) for k in range(10))

    def drawn_j(t: float) -> float:
        busy_s = sum(min(max(t - a, 0), b - a) for a, b in spans)
        return before_w * (t - busy_s) + 300 * busy_s

    moments = sorted({k / 10 + 0.03 for k in range(120)} | {t for span in spans for t in span})
    old = replace(
        STEADY,
        sensor=sensor(update_s=0.1, step=0.001),
        stamps_ns=tuple(round(t * S) for t in moments),
        joules=tuple(drawn_j(math.floor((t - phase_s) * 10) / 10 + phase_s) for t in moments),
    )
    joules = found(old, *spans)
    assert abs(joules.total_j - 1800) < 1.96 * joules.instrument_u_j < 0.15 * 1800


def test_corners_cut_between_readings_are_within_the_uncertainty_however_many_there_are() -> None:
    # Forty times 50 ms at 18 W, then 300 ms at 12 W; read every 97 ms, wherever that falls.
    spans = tuple((1 + 0.35 * k, 1.05 + 0.35 * k) for k in range(40))

    def drawn_j(t: float) -> float:
        return 12 * t + 6 * sum(min(max(t - a, 0), b - a) for a, b in spans)

    moments = [0.097 * k for k in range(200)]
    cut = replace(STEADY, stamps_ns=tuple(round(t * S) for t in moments),
                  joules=tuple(drawn_j(t) for t in moments))  # fmt: skip
    joules = found(cut, *spans)
    assert 2 < abs(joules.total_j - 36) < 1.96 * joules.instrument_u_j < 24


def test_spans_that_overlap_are_no_runs_one_after_another() -> None:
    assert "overlaps" in refused(STEADY, (1, 5), (4, 9))


def test_joules_that_fall_are_no_energy_of_a_power_sensor_either() -> None:
    wild = (0.0, 1e200, 1e200, 5.0, 5.0, 10.0)
    stamps = tuple(k * S for k in range(6))
    hostile = replace(STEADY, sensor=replace(POWER, poll_s=1e6), stamps_ns=stamps, joules=wild)
    assert "jumped" in refused(hostile, (0, 1), (2, 3), (4, 5))
    hostile = replace(hostile, joules=(*wild[1:4], 5.0, 5.0, 10.0))
    assert "backwards" in refused(hostile, (0, 3), (4, 5))


@given(
    watts=st.lists(st.floats(0.1, 500), min_size=40, max_size=40),
    cuts=st.lists(st.integers(1, 3_999_999_999), min_size=1, max_size=6, unique=True),
)
def test_the_parts_of_a_window_add_up_to_it(watts: list[float], cuts: list[int]) -> None:
    info = sensor(window_s=0.0, update_s=0.0)
    one = series(lambda t: watts[int(t * 10)], until_s=4, info=info)
    edges = [0, *sorted(cuts), 4 * S]
    parts = joules_within(one, tuple(itertools.pairwise(edges)), working=True)
    whole = joules_within(one, ((0, 4 * S),), working=True)
    assert isinstance(parts, WindowJoules)
    assert isinstance(whole, WindowJoules)
    assert parts.total_j == pytest.approx(whole.total_j, rel=1e-9)
    assert whole.total_j == pytest.approx(math.fsum(watts) * 0.1, rel=1e-9)


@given(begin=st.floats(0, 30), length=st.floats(2, 29), phase=st.floats(0, 0.09))
def test_when_the_readings_fall_does_not_matter_at_steady_power(
    begin: float, length: float, phase: float
) -> None:
    shift = round(phase * S)
    moved = replace(
        STEADY,
        stamps_ns=(0, *(t + shift for t in STEADY.stamps_ns[1:])),
        joules=(100.0, *(j + 10 * phase for j in STEADY.joules[1:])),
    )
    assert found(moved, (begin, begin + length)).total_j == pytest.approx(10 * length, abs=1e-6)


def test_nothing_is_extrapolated() -> None:
    assert "first reading came too late" in refused(
        replace(STEADY, stamps_ns=STEADY.stamps_ns[20:], joules=STEADY.joules[20:]), (1, 5)
    )
    gone = replace(STEADY, stamps_ns=STEADY.stamps_ns[:40], joules=STEADY.joules[:40],
                   failures=9, last_failure="energy_uj: No such file")  # fmt: skip
    assert refused(gone, (2, 6)) == (
        "it stopped giving readings before the end: energy_uj: No such file"
    )
    assert refused(replace(STEADY, stamps_ns=(), joules=()), (1, 5)) == "it gave no reading"


def test_a_counter_survives_a_gap_and_a_power_sensor_does_not() -> None:
    keep = [i for i in range(len(STEADY.stamps_ns)) if not 30 < i < 45]
    gap = replace(
        STEADY,
        stamps_ns=tuple(STEADY.stamps_ns[i] for i in keep),
        joules=tuple(STEADY.joules[i] for i in keep),
    )
    assert found(gap, (1, 10)).total_j == pytest.approx(90)
    assert "was not read for 1.50 s" in refused(
        replace(gap, sensor=replace(POWER, poll_s=0.1)), (1, 10)
    )
    # Three of its periods are what a busy machine does to a schedule.
    late = replace(gap, sensor=replace(POWER, poll_s=0.5))
    assert found(late, (1, 10)).total_j == pytest.approx(90)


def test_a_break_spoils_only_the_windows_it_lies_in() -> None:
    broken = replace(STEADY, breaks=(SeriesBreak(noticed_ns=5 * S + 1, reason="reset to 0"),))
    assert refused(broken, (1, 6)) == "it lost its thread: reset to 0"
    # Between the reading before it and the one after it: the window need not contain it.
    assert refused(broken, (3, 5.0999)) == "it lost its thread: reset to 0"
    assert found(broken, (1, 4.9)).total_j == pytest.approx(39)
    assert found(broken, (6, 9)).total_j == pytest.approx(30)


def test_a_counter_never_runs_backwards() -> None:
    fell = replace(STEADY, joules=tuple(j - 5 * (i > 30) for i, j in enumerate(STEADY.joules)))
    assert refused(fell, (1, 5)) == "its joules ran backwards"
    assert found(fell, (4, 9)).total_j == pytest.approx(50)


def test_a_counter_that_leaps_is_no_phantom_of_megajoules() -> None:
    leapt = replace(STEADY, joules=tuple(j + 2e5 * (i > 30) for i, j in enumerate(STEADY.joules)))
    assert refused(leapt, (1, 5)) == "its joules jumped by 2e+05 J within 100 ms"
    assert found(leapt, (4, 9)).total_j == pytest.approx(50)
    # A counter that moves once a second may do so in a step, between two readings a moment apart.
    info = sensor(update_s=1.0)
    steps = tuple(10_000.0 * (i // 10) for i in range(len(STEADY.joules)))
    assert found(replace(STEADY, joules=steps, sensor=info), (4, 9)).total_j == pytest.approx(5e4)
    # A counter slower than it claims to be moves in steps that were drawn since the step before.
    slower = tuple(200.0 * (i // 10) for i in range(len(STEADY.joules)))
    stamps = tuple(
        t - (99_000_000 if i % 10 == 0 and i else 0) for i, t in enumerate(STEADY.stamps_ns)
    )
    assert found(
        replace(STEADY, joules=slower, stamps_ns=stamps), (4, 9), working=False
    ).total_j == pytest.approx(1000, rel=0.05)


def test_a_window_shorter_than_the_sensor_resolves_is_refused_and_repetition_counts() -> None:
    assert "below sensor resolution: 600 ms is shorter" in refused(STEADY, (1, 1.6))
    assert found(STEADY, (1, 1.6), (2, 2.6)).total_j == pytest.approx(12)


def test_a_power_sensor_needs_twenty_samples() -> None:
    slow = series(lambda _: 3.0, until_s=60, period_s=1.0)
    slow = replace(slow, sensor=replace(POWER, poll_s=1.0))
    assert "15 samples, at least 20" in refused(slow, (1, 15))
    assert found(slow, (1, 20)).samples == 20


def test_a_counter_that_stands_still_while_the_model_runs_has_stalled() -> None:
    stuck = series(lambda t: 0.0 if 20 < t < 25 else 10.0, until_s=60)
    assert refused(stuck, (15, 30)) == (
        "counter stalled: it stood still for 5.00 s while the model ran"
    )
    # Idling or before the window it may stand still.
    assert found(stuck, (15, 30), working=False).total_j == pytest.approx(100)
    assert found(stuck, (25, 30)).total_j == pytest.approx(50)
    # Twenty updates are its right.
    slow = replace(stuck, sensor=sensor(update_s=0.25))
    assert found(slow, (15, 30)).total_j == pytest.approx(100)
    # Some updates of this kernel may be slow; a second of ten readings alike is no update.
    hesitant = series(lambda t: 0.0 if 20 < t < 20.6 else 10.0, until_s=60)
    assert found(hesitant, (15, 30)).total_j == pytest.approx(144)
    assert found(hesitant, (15, 30)).instrument_u_j > found(stuck, (30, 45)).instrument_u_j * 5
    # Short runs hide it no better than long ones.
    runs = [(20 + i * 0.5, 20.3 + i * 0.5) for i in range(10)]
    assert "counter stalled: it stood still for 3.00 s" in refused(stuck, (10, 20), *runs, (26, 30))


def test_a_sensor_that_never_advanced_measured_no_zero() -> None:
    dead = series(lambda _: 0.0, until_s=60)
    assert "stalled" in refused(dead, (10, 20))
    assert "did not advance" in refused(dead, (10, 20), working=False)
    assert "did not advance" in refused(replace(dead, sensor=replace(POWER, poll_s=1.0)), (5, 50))


@pytest.mark.parametrize(
    "changes",
    [
        {"joules": STEADY.joules[:-1]},
        {"stamps_ns": STEADY.stamps_ns[::-1]},
        {"stamps_ns": tuple(t * 10**300 for t in STEADY.stamps_ns)},
        {"joules": STEADY.joules[::-1]},
        {"joules": tuple(j * 1e300 for j in STEADY.joules)},
        {"sensor": sensor(update_s=1e300)},
        {"sensor": sensor(step=1e300)},
    ],
)
def test_nonsense_is_refused_and_never_raises(changes: dict[str, object]) -> None:
    assert refused(replace(STEADY, **changes), (1, 5))  # type: ignore[arg-type]
