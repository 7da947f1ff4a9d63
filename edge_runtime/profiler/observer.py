"""What the parent watches while the child works: energy sensors, and gauges such as temperatures.

Sensors are read here and not in the measured process, at their own slow rate and at every boundary
between windows, when nothing is being timed. Each reading is stamped in the middle of the time it
took. A failing sensor leaves a gap or a break in its series and never an exception.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from ..energy import Energy, EnergySeries, SeriesBreak
from ..units import NS_PER_S
from .energy import EnergySensor, SensorBreakError, SensorGapError
from .ticker import Ticker


class Gauge(Protocol):
    """Something looked at now and then that keeps its own readings."""

    period_s: float

    def sample(self) -> None:
        """Takes a reading. Never raises."""


class Observer:
    """Reads sensors and gauges in a thread between entering and leaving the context.

    One ticker runs at the shortest period of all; what has a longer one is read at the tick nearest
    to its own time, so that the ticker's jitter is everybody's.
    """

    def __init__(
        self,
        sensors: Sequence[EnergySensor],
        gauges: Sequence[Gauge] = (),
        *,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        periods = [s.info.poll_s for s in sensors] + [g.period_s for g in gauges]
        tick_s = min(periods, default=0.0)
        self._tracks = [
            _Track(sensor, clock, _Turn(sensor.info.poll_s, tick_s)) for sensor in sensors
        ]
        self._gauges = [(gauge, _Turn(gauge.period_s, tick_s)) for gauge in gauges]
        self._clock = clock
        self._lock = threading.Lock()
        self._ticker = Ticker(self._tick, period_s=tick_s) if periods else None

    def __enter__(self) -> Self:
        """Takes the first readings and starts watching."""
        self.mark()
        if self._ticker is not None:
            try:
                self._ticker.__enter__()
            except RuntimeError:
                # No thread can be had any more: what is left are the readings at the boundaries.
                self._ticker = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops watching. There is one last reading of everything."""
        if self._ticker is not None:
            self._ticker.__exit__(kind, error, trace)
        self.mark()

    def mark(self) -> None:
        """Reads everything now: a boundary between windows, where nothing is being timed."""
        with self._lock:
            for track in self._tracks:
                track.read()
            for gauge, turn in self._gauges:
                turn.take(self._clock())
                gauge.sample()

    def energy(self, headline: tuple[str, ...]) -> Energy:
        """The series so far; complete once the context is left."""
        with self._lock:
            series = tuple(track.series() for track in self._tracks)
        return Energy(
            series=series,
            headline=headline,
            sampler_share=self._ticker.cpu_share if self._ticker else None,
            lateness_p90_ns=self._ticker.lateness_p90_ns if self._ticker else None,
        )

    def _tick(self) -> bytes:
        with self._lock:
            for track in self._tracks:
                if track.turn.is_due(self._clock()):
                    track.read()
            for gauge, turn in self._gauges:
                now = self._clock()
                if turn.is_due(now):
                    turn.take(now)
                    gauge.sample()
        return b""


class _Turn:
    """When something of one period is read by a ticker of a shorter one."""

    def __init__(self, period_s: float, tick_s: float) -> None:
        # Half a tick early is as good as half a tick late, and a tick comes earlier by a fifth.
        self._least_ns = (period_s - tick_s / 2) * NS_PER_S
        self._taken_ns: int | None = None

    def is_due(self, now: int) -> bool:
        """Whether no later tick is nearer to the end of its period."""
        return self._taken_ns is None or now - self._taken_ns >= self._least_ns

    def take(self, now: int) -> None:
        """Begins the next period."""
        self._taken_ns = now


class _Track:
    """One sensor and what it has said."""

    def __init__(self, sensor: EnergySensor, clock: Callable[[], int], turn: _Turn) -> None:
        self.turn = turn
        self._sensor = sensor
        self._clock = clock
        self._stamps: list[int] = []
        self._joules: list[float] = []
        self._breaks: list[SeriesBreak] = []
        self._is_whole = False
        self._failures = 0
        self._last_failure = ""

    def read(self) -> None:
        """Takes a reading, or notes why there is none."""
        before = self._clock()
        self.turn.take(before)
        try:
            if self._read_joules() is None:
                # What a new origin counts from should be as near to the loss as can be.
                self._read_joules()
        except (SensorGapError, OSError, ValueError) as error:
            self._fail(str(error))
        except Exception as error:  # a vendor's library may raise anything: it costs one reading
            self._fail(f"{type(error).__name__}: {error}")

    def _read_joules(self) -> float | None:
        """One reading with its stamp, or None when the thread was lost."""
        before = self._clock()
        try:
            joules = self._sensor.read()
        except SensorBreakError as error:
            # Before the first reading there is nothing that could not be compared.
            if self._is_whole:
                self._breaks.append(SeriesBreak(noticed_ns=before, reason=str(error)))
            self._is_whole = False
            return None
        self._stamps.append((before + self._clock()) // 2)
        self._joules.append(joules)
        self._is_whole = True
        return joules

    def _fail(self, words: str) -> None:
        self._failures += 1
        self._last_failure = words

    def series(self) -> EnergySeries:
        """What it has said so far."""
        return EnergySeries(
            sensor=self._sensor.info,
            stamps_ns=tuple(self._stamps),
            joules=tuple(self._joules),
            breaks=tuple(self._breaks),
            failures=self._failures,
            last_failure=self._last_failure,
        )
