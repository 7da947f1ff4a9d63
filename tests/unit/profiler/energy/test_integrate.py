"""Watts become joules by trapezoid, and never over a silence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.energy import Scope, SensorInfo
from edge_runtime.profiler.energy import (
    EnergySensor,
    PowerSensor,
    SensorBreakError,
    SensorGapError,
)
from edge_runtime.profiler.energy.integrate import LONGEST_GAP_PERIODS, MOST_W, Integrated

MS = 1_000_000
S = 1_000_000_000
INFO = SensorInfo(
    id="rail:VDD_IN", source="a rail", scope=Scope.MODULE, covers=("cpu:*",), method="power",
    update_s=0.01, step=0.1, poll_s=0.05, window_s=2.0,
)  # fmt: skip


class Rail:
    """Power as a function of the clock's seconds; a reading takes some time."""

    def __init__(self, watts: Callable[[float], float], takes_ns: int = 0) -> None:
        self.info = INFO
        self.now = 0
        self.closed = 0
        self._watts = watts
        self.takes_ns = takes_ns

    def clock(self) -> int:
        return self.now

    def read_w(self) -> float:
        # The hardware looks in the middle of the call.
        watts = self._watts((self.now + self.takes_ns // 2) / S)
        self.now += self.takes_ns
        return watts

    def close(self) -> None:
        self.closed += 1


def integrated(rail: Rail) -> Integrated:
    return Integrated(rail, clock=rail.clock)


def read_at(rail: Rail, sensor: Integrated, stamps_ns: list[int]) -> list[float]:
    joules = []
    for stamp in stamps_ns:
        rail.now = stamp
        joules.append(sensor.read())
    return joules


gaps = st.lists(st.integers(1 * MS, 150 * MS), min_size=1, max_size=60)


@given(start=st.floats(0, 500), slope=st.floats(0, 20), gaps=gaps)
def test_linear_power_is_integrated_exactly_whenever_it_is_read(
    start: float, slope: float, gaps: list[int]
) -> None:
    rail = Rail(lambda t: start + slope * t)
    at, stamps = 0, [0]
    for gap in gaps:
        at += gap
        stamps.append(at)
    joules = read_at(rail, integrated(rail), stamps)
    seconds = at / S
    assert joules[0] == 0
    assert joules[-1] == pytest.approx(start * seconds + slope * seconds**2 / 2, rel=1e-9, abs=1e-9)


@given(
    gaps=gaps,
    powers=st.lists(st.floats(0, 1000), min_size=61, max_size=61),
    cut=st.integers(0, 60),
)
def test_the_parts_of_a_time_add_up_to_the_whole_and_never_fall(
    gaps: list[int], powers: list[float], cut: int
) -> None:
    rail = Rail(lambda _: powers[0])
    sensor = integrated(rail)
    at, joules, steps = 0, [sensor.read()], []
    for gap, (before, after) in zip(gaps, pairwise(powers), strict=False):
        at += gap
        rail.now = at
        rail._watts = lambda _, w=after: w  # type: ignore[misc]
        joules.append(sensor.read())
        steps.append((before + after) / 2 * gap / S)
    cut = min(cut, len(gaps))
    assert joules == sorted(joules)
    assert joules[-1] == pytest.approx(sum(steps[:cut]) + sum(steps[cut:]))
    assert joules[cut] == pytest.approx(sum(steps[:cut]))


@given(phase=st.integers(0, 49))
def test_where_the_polls_fall_does_not_matter(phase: int) -> None:
    rail = Rail(lambda t: 10 + 2 * t)
    stamps = [*range(S + phase * MS, 3 * S, 50 * MS)]
    joules = read_at(rail, integrated(rail), stamps)
    a, b = stamps[0] / S, stamps[-1] / S
    assert joules[-1] == pytest.approx(10 * (b - a) + b**2 - a**2, rel=1e-9)


def test_a_slow_reading_counts_where_its_middle_is() -> None:
    rail = Rail(lambda t: 100 * t, takes_ns=40 * MS)
    sensor = integrated(rail)
    sensor.read()
    rail.takes_ns = 0
    joules = read_at(rail, sensor, [n * 100 * MS for n in range(1, 11)])
    # From 0.02 s to 1 s of a power that rises by 100 W each second.
    assert joules[-1] == pytest.approx(50 * (1.0**2 - 0.02**2), rel=1e-9)


def test_a_gap_of_three_periods_is_joined_and_a_longer_one_breaks_the_thread_once() -> None:
    rail = Rail(lambda _: 10.0)
    sensor = integrated(rail)
    longest = round(LONGEST_GAP_PERIODS * INFO.poll_s * S)
    assert read_at(rail, sensor, [0, longest]) == [0.0, pytest.approx(1.5)]
    rail.now += longest + 1
    with pytest.raises(SensorBreakError, match=r"nothing was read for 0\.15 s"):
        sensor.read()
    joules = sensor.read()
    rail.now += 50 * MS
    assert sensor.read() - joules == pytest.approx(0.5), "the silence was filled in"


@pytest.mark.parametrize(
    "watts", [-0.2, -1000.0, float("nan"), float("inf"), MOST_W * 1.01, 31960.0]
)
def test_power_that_cannot_be_is_a_gap_and_never_counted(watts: float) -> None:
    said = [10.0, watts, 10.0]
    rail = Rail(lambda _: said.pop(0))
    sensor = integrated(rail)
    sensor.read()
    rail.now = 50 * MS
    with pytest.raises(SensorGapError, match=r"rail:VDD_IN reads"):
        sensor.read()
    rail.now = 100 * MS
    assert sensor.read() == pytest.approx(1.0), "the gap is short enough to be joined"


def test_a_break_of_the_power_sensor_itself_is_not_joined_over() -> None:
    said: list[float | Exception] = [10.0, SensorBreakError("on mains meanwhile"), 10.0, 10.0]

    def watts(_: float) -> float:
        answer = said.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    rail = Rail(watts)
    sensor = integrated(rail)
    sensor.read()
    rail.now = 50 * MS
    with pytest.raises(SensorBreakError, match="mains"):
        sensor.read()
    assert read_at(rail, sensor, [100 * MS, 150 * MS]) == [0.0, pytest.approx(0.5)]


def test_noise_around_zero_is_no_power() -> None:
    rail = Rail(lambda _: -INFO.step)
    assert read_at(rail, integrated(rail), [0, 50 * MS]) == [0.0, 0.0]


def test_a_clock_that_goes_backwards_breaks_the_thread() -> None:
    rail = Rail(lambda _: 10.0)
    sensor = integrated(rail)
    read_at(rail, sensor, [S])
    rail.now = 0
    with pytest.raises(SensorBreakError, match="backwards"):
        sensor.read()
    rail.now = 50 * MS
    assert sensor.read() == pytest.approx(0.5)


def test_it_is_an_energy_sensor_that_closes_the_power_sensor() -> None:
    rail = Rail(lambda _: 1.0)
    assert isinstance(rail, PowerSensor)
    sensor = integrated(rail)
    assert isinstance(sensor, EnergySensor)
    assert sensor.info is rail.info
    sensor.close()
    assert rail.closed == 1
