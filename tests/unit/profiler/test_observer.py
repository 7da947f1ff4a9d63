"""Sensors are read at their own rate, stamped where they were, and bring nothing down."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from types import TracebackType
from typing import Self

import pytest

from edge_runtime.energy import Scope, SensorInfo
from edge_runtime.profiler import observer as observer_module
from edge_runtime.profiler.energy import SensorBreakError, SensorGapError
from edge_runtime.profiler.observer import Observer

MS = 1_000_000
S = 1_000_000_000


class HandTicker:
    """Stands in for the thread: the test makes the ticks."""

    made: list[HandTicker]
    cpu_share: float | None = 0.001
    lateness_p90_ns: int | None = 77

    def __init__(self, read: Callable[[], bytes], *, period_s: float) -> None:
        self.tick = read
        self.period_s = period_s
        self.running = False
        HandTicker.made.append(self)

    def __enter__(self) -> Self:
        self.running = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.running = False


@pytest.fixture
def tickers(monkeypatch: pytest.MonkeyPatch) -> list[HandTicker]:
    HandTicker.made = []
    monkeypatch.setattr(observer_module, "Ticker", HandTicker)
    return HandTicker.made


class Clock:
    def __init__(self) -> None:
        self.now = S

    def __call__(self) -> int:
        return self.now


def info(poll_s: float, id_: str = "a") -> SensorInfo:
    return SensorInfo(
        id=id_, source="a script", scope=Scope.CHIP, covers=("cpu:0",), method="counter",
        update_s=0.001, step=6e-5, poll_s=poll_s, window_s=1.0,
    )  # fmt: skip


class Sensor:
    """Answers what the script says, one thing per reading: joules or an error."""

    def __init__(
        self,
        answers: Iterator[float | Exception],
        poll_s: float = 0.05,
        takes_ns: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self.info = info(poll_s)
        self.reads = 0
        self._answers = answers
        self._takes_ns = takes_ns
        self._clock = clock

    def read(self) -> float:
        self.reads += 1
        if self._clock is not None:
            self._clock.now += self._takes_ns
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        pass


class Gauge:
    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self.samples = 0

    def sample(self) -> None:
        self.samples += 1


def run_ticks(ticker: HandTicker, clock: Clock, seconds: float) -> None:
    """Ticks on an absolute schedule, each moved by up to a fifth of the period."""
    jitter = random.Random(1)
    start, period = clock.now, round(ticker.period_s * S)
    for k in range(1, round(seconds / ticker.period_s) + 1):
        clock.now = start + round((k + 0.4 * (jitter.random() - 0.5)) * period)
        ticker.tick()


@pytest.mark.parametrize("poll_s", [0.05, 0.1, 0.5, 1.0])
def test_each_sensor_is_read_once_in_its_period(tickers: list[HandTicker], poll_s: float) -> None:
    clock = Clock()
    quick, slow = Sensor(iter(map(float, count())), 0.05), Sensor(iter(map(float, count())), poll_s)
    watching = Observer([quick, slow], clock=clock)
    with watching:
        run_ticks(tickers[0], clock, 60.0)
    assert tickers[0].period_s == 0.05
    assert quick.reads == pytest.approx(60 / 0.05, abs=3)
    assert slow.reads == pytest.approx(60 / poll_s, rel=0.03, abs=3)
    stamps = watching.energy(()).series[1].stamps_ns
    between = [(b - a) / S for a, b in pairwise(stamps[:-1])]
    assert max(between) < poll_s + 0.05
    assert min(between[1:]) > poll_s - 0.05
    assert len(set(between)) > 10, "readings walk in step with the clock: no jitter is left"


def test_a_boundary_reads_everything_and_begins_the_period_anew(tickers: list[HandTicker]) -> None:
    clock = Clock()
    sensor, gauge = Sensor(iter(map(float, count())), 1.0), Gauge(1.0)
    quick = Sensor(iter(map(float, count())), 0.05)
    with Observer([sensor, quick], [gauge], clock=clock) as watching:
        assert (sensor.reads, gauge.samples) == (1, 1), "nothing was read at the very start"
        clock.now += 900 * MS
        watching.mark()
        assert (sensor.reads, gauge.samples) == (2, 2)
        clock.now += 900 * MS
        tickers[0].tick()
        assert (sensor.reads, gauge.samples) == (2, 2)
        clock.now += 100 * MS
        tickers[0].tick()
        assert (sensor.reads, gauge.samples) == (3, 3)
    assert (sensor.reads, gauge.samples) == (4, 4), "nothing was read at the very end"
    assert not tickers[0].running


def test_a_stamp_lies_in_the_middle_of_the_reading(tickers: list[HandTicker]) -> None:
    clock = Clock()
    with Observer([Sensor(iter([1.0, 2.0]), takes_ns=10 * MS, clock=clock)], clock=clock) as seen:
        pass
    (series,) = seen.energy(()).series
    assert series.stamps_ns == (S + 5 * MS, S + 15 * MS)
    assert series.joules == (1.0, 2.0)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SensorGapError("energy_uj: Input/output error"), "energy_uj: Input/output error"),
        (OSError(2, "No such file or directory"), "No such file"),
        (ValueError("no number"), "no number"),
        (ZeroDivisionError("by nothing"), "ZeroDivisionError: by nothing"),
    ],
)
def test_a_failed_reading_leaves_a_gap_and_its_words(
    tickers: list[HandTicker], error: Exception, words: str
) -> None:
    clock = Clock()
    with Observer([Sensor(iter([1.0, error, 3.0, 4.0]))], clock=clock) as seen:
        clock.now += 50 * MS
        tickers[0].tick()
        clock.now += 50 * MS
        tickers[0].tick()
    (series,) = seen.energy(()).series
    assert series.joules == (1.0, 3.0, 4.0)
    assert series.failures == 1
    assert words in series.last_failure
    assert series.breaks == ()


def test_a_lost_thread_is_a_break_with_a_new_reading_right_behind_it(
    tickers: list[HandTicker],
) -> None:
    clock = Clock()
    answers: list[float | Exception] = [5.0, SensorBreakError("it was reset"), 0.5, 0.6]
    with Observer([Sensor(iter(answers))], clock=clock) as seen:
        clock.now += 50 * MS
        tickers[0].tick()
        clock.now += 50 * MS
    (series,) = seen.energy(()).series
    assert series.joules == (5.0, 0.5, 0.6)
    assert [(b.noticed_ns, b.reason) for b in series.breaks] == [(S + 50 * MS, "it was reset")]
    assert series.stamps_ns[0] < series.breaks[0].noticed_ns <= series.stamps_ns[1]
    assert series.failures == 0


def test_a_break_before_the_first_reading_is_none(tickers: list[HandTicker]) -> None:
    # A power sensor that discovery read long before the run begins has nothing to lose yet.
    with Observer([Sensor(iter([SensorBreakError("silence"), 0.0, 1.0]))], clock=Clock()) as seen:
        pass
    (series,) = seen.energy(()).series
    assert series.breaks == ()
    assert series.joules == (0.0, 1.0)


def test_a_sensor_that_breaks_for_ever_leaves_one_break(tickers: list[HandTicker]) -> None:
    def answers() -> Iterator[float | Exception]:
        yield 1.0
        while True:
            yield SensorBreakError("again")

    clock = Clock()
    with Observer([Sensor(answers())], clock=clock) as seen:
        run_ticks(tickers[0], clock, 5.0)
    (series,) = seen.energy(()).series
    assert len(series.breaks) == 1
    assert series.joules == (1.0,)


def test_the_record_names_the_headline_and_what_the_readings_cost(
    tickers: list[HandTicker],
) -> None:
    with Observer([Sensor(iter([1.0, 2.0]))], clock=Clock()) as seen:
        pass
    energy = seen.energy(("a",))
    assert energy.headline == ("a",)
    assert energy.sampler_share == 0.001
    assert energy.lateness_p90_ns == 77


def test_with_nothing_to_watch_no_thread_is_started(tickers: list[HandTicker]) -> None:
    with Observer(()) as watching:
        watching.mark()
    assert tickers == []
    assert watching.energy(()).series == ()


def test_where_no_thread_can_be_had_the_boundaries_are_still_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Observer([Sensor(iter([1.0, 2.0, 3.0]))]) as watching:
        watching.mark()
    energy = watching.energy(())
    assert energy.series[0].joules == (1.0, 2.0, 3.0)
    assert energy.sampler_share is None


def test_the_thread_and_the_boundaries_never_read_a_sensor_at_once() -> None:
    inside = threading.Lock()
    clashes: list[str] = []

    class Careful(Sensor):
        def read(self) -> float:
            if not inside.acquire(blocking=False):
                clashes.append("two at once")
                return 0.0
            try:
                time.sleep(0.002)
                return super().read()
            finally:
                inside.release()

    sensor = Careful(iter(map(float, count())), 0.005)
    with Observer([sensor]) as watching:
        for _ in range(30):
            watching.mark()
    energy = watching.energy(())
    assert clashes == []
    (series,) = energy.series
    assert sensor.reads == len(series.stamps_ns) >= 32
    assert list(series.stamps_ns) == sorted(series.stamps_ns)
    assert energy.sampler_share is not None


def test_a_thread_is_gone_when_the_context_is_left_by_an_error() -> None:
    def interrupted() -> None:
        with Observer([Sensor(iter(map(float, count())), 0.01)]):
            assert any(thread.name == "edge-ticker" for thread in threading.enumerate())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(thread.name == "edge-ticker" for thread in threading.enumerate())
