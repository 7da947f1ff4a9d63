"""What every energy sensor promises, checked on each kind with the same tests."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sensor_rigs import RIGS, Rig

from edge_runtime.energy import SensorInfo
from edge_runtime.profiler.energy import EnergySensor, SensorBreakError, SensorGapError


@pytest.fixture(params=RIGS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    rig = RIGS[request.param](tmp_path)
    yield rig
    for sensor in (rig.sensor, *rig.others):
        sensor.close()


def is_counter(rig: Rig) -> bool:
    return rig.sensor.info.method == "counter"


def test_it_fulfils_the_protocol(rig: Rig) -> None:
    assert isinstance(rig.sensor, EnergySensor)
    assert isinstance(rig.sensor.info, SensorInfo)


def test_what_it_says_of_itself_can_be_relied_on(rig: Rig) -> None:
    for sensor in (rig.sensor, *rig.others):
        info = sensor.info
        assert re.fullmatch(r"[a-z0-9]+:[A-Za-z0-9_.:+-]+", info.id)
        assert info.source.isprintable()
        assert info.covers
        for part in info.covers:
            assert re.fullmatch(r"system|[a-z]+:(\*|[A-Za-z0-9_.:-]+)|[a-z]+(:\w+)?/\S+", part)
        assert len(set(info.covers)) == len(info.covers)
        assert 0 < info.update_s <= info.window_s
        assert info.step > 0
        assert 0.02 <= info.poll_s <= info.window_s / 2
        assert info.gain
        assert all(note for note in info.notes)
    ids = [sensor.info.id for sensor in (rig.sensor, *rig.others)]
    assert len(set(ids)) == len(ids)


def test_what_it_says_of_itself_does_not_change(rig: Rig) -> None:
    before = rig.sensor.info
    rig.watch(10)
    assert rig.sensor.info == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        rig.sensor.info.id = "other"  # type: ignore[misc]


def test_joules_are_watts_times_seconds_and_never_fall(rig: Rig) -> None:
    begin = rig.sensor.read()
    joules = rig.watch(60)
    assert [begin, *joules] == sorted([begin, *joules])
    polled_s = len(joules) * rig.sensor.info.poll_s
    assert joules[-1] - begin == pytest.approx(rig.watts * polled_s, rel=0.01)
    half = joules[len(joules) // 2]
    assert (half - begin) + (joules[-1] - half) == pytest.approx(joules[-1] - begin)


def test_it_can_be_read_at_any_moment(rig: Rig) -> None:
    # Boundaries of windows fall where they will: twice at one moment, or soon after a poll.
    begin = rig.sensor.read()
    assert rig.sensor.read() >= begin
    poll_s = rig.sensor.info.poll_s
    last, passed = begin, 0.0
    for n in range(200):
        share = (n * 7 % 10 + 1) / 10
        rig.work(share * poll_s)
        passed += share * poll_s
        joules = rig.sensor.read()
        assert joules >= last
        last = joules
    assert last - begin == pytest.approx(rig.watts * passed, rel=0.02)


def test_a_failed_reading_is_a_gap_in_words_that_the_sum_survives(rig: Rig) -> None:
    begin = rig.sensor.read()
    rig.watch(5)
    rig.fail()
    rig.work(rig.sensor.info.poll_s)
    with pytest.raises(SensorGapError, match=r"\w+"):
        rig.sensor.read()
    rig.heal()
    rig.work(rig.sensor.info.poll_s)
    joules = rig.sensor.read()
    seconds = (round(5 / rig.sensor.info.poll_s) + 2) * rig.sensor.info.poll_s
    assert joules - begin == pytest.approx(rig.watts * seconds, rel=0.02)


def test_it_fails_as_often_as_it_must_and_recovers(rig: Rig) -> None:
    rig.sensor.read()
    rig.fail()
    for _ in range(20):
        rig.work(rig.sensor.info.poll_s)
        with pytest.raises(SensorGapError):
            rig.sensor.read()
    rig.heal()
    rig.work(rig.sensor.info.poll_s)
    if not is_counter(rig):
        with pytest.raises(SensorBreakError):
            rig.sensor.read()
    begin = rig.sensor.read()
    joules = rig.watch(5)
    seconds = len(joules) * rig.sensor.info.poll_s
    assert joules[-1] - begin == pytest.approx(rig.watts * seconds, rel=0.02)


def test_silence_costs_a_counter_nothing_and_breaks_the_thread_of_a_power_sensor(rig: Rig) -> None:
    begin = rig.sensor.read()
    rig.work(30)
    if is_counter(rig):
        assert rig.sensor.read() - begin == pytest.approx(rig.watts * 30, rel=0.01)
        return
    with pytest.raises(SensorBreakError, match=r"\w+"):
        rig.sensor.read()
    again = rig.sensor.read()
    joules = rig.watch(5)
    seconds = len(joules) * rig.sensor.info.poll_s
    assert joules[-1] - again == pytest.approx(rig.watts * seconds, rel=0.02)


def test_a_reset_of_a_counter_breaks_the_thread_once(rig: Rig) -> None:
    if not is_counter(rig):
        pytest.skip("watts have no origin")
    rig.sensor.read()
    rig.watch(5)
    rig.reset()
    rig.work(0.1)
    with pytest.raises(SensorBreakError, match=r"\w+"):
        rig.sensor.read()
    begin = rig.sensor.read()
    joules = rig.watch(5)
    seconds = len(joules) * rig.sensor.info.poll_s
    assert joules == sorted(joules)
    assert joules[-1] - begin == pytest.approx(rig.watts * seconds, rel=0.02)


def test_it_may_be_closed_twice_and_after_a_failure(rig: Rig) -> None:
    rig.fail()
    rig.work(rig.sensor.info.poll_s)
    with pytest.raises(SensorGapError):
        rig.sensor.read()
    for sensor in (rig.sensor, *rig.others):
        sensor.close()
        sensor.close()


def test_closing_one_twice_leaves_the_others_alone(rig: Rig) -> None:
    rig.sensor.close()
    rig.sensor.close()
    rig.work(rig.sensor.info.poll_s)
    for sensor in rig.others:
        assert sensor.read() >= 0
