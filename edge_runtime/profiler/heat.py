"""Watches temperatures, the clock and throttling while a model works, and lets it cool first.

The gauge is read about once a second by the parent of the measured process; it keeps what it reads
and never raises. Whether the device was cool when it began is decided by rules that are stated
here, and where no temperature can be read the answer is `unknown`, never `cool`.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from .. import statistics
from ..basis import Unavailable
from ..heat import Heat, Start, ThrottleEvent, Zone
from ..timeline import Series
from ..units import NS_PER_S, format_duration
from .energy.discovery import sensor_root
from .energy.sysfs import Tree
from .gpu_heat import GpuHeatLog, GpuHeats
from .temperature import find_thermometers
from .thermal import ThrottleFiles, ThrottleState, clock_paths, evidence_between, mean_clock_hz

PERIOD_S = 1.0
STEADY_S = 10.0
"""How long the temperature is watched before it is called steady."""
STEADY_KELVIN = 0.5
"""Steady is a temperature whose mean over the last half of `STEADY_S` lies this close to that over
the half before. Single readings would not do: an idle processor's jump by a degree or two."""
MARGIN_KELVIN = 15.0
"""A device is cool only this far below where it begins to slow down: a burst has room to be one."""
ASSUMED_TRIP_CELSIUS = 85.0
"""Stands in where no thermometer says where the system slows down: most do from 80 to 100 degrees.
Words that rest on it say so."""
BLIND_WAIT_S = 10.0
"""How long is waited where there is no thermometer to tell when to stop."""
MOST_EVENTS = 2000
_FIRMWARE_PERIOD_S = 5.0
"""vcgencmd is a process of its own each time: it must not become a load."""
_TIMEOUT_S = 2.0
_NOT_OBSERVABLE = Unavailable(
    reason="not observable: this machine offers no throttle counter, no firmware bits and no"
    " cooling device of a processor",
    remedy="In a virtual machine or a container, measure on the host itself.",
)


class ThermalGauge:
    """Temperatures, the mean clock and throttle evidence of this machine over time."""

    period_s = PERIOD_S

    def __init__(
        self,
        root: Path | None = None,
        *,
        clock: Callable[[], int] = time.perf_counter_ns,
        vcgencmd: Callable[[], str] | None = None,
        gpus: GpuHeats | None = None,
    ) -> None:
        root = sensor_root() if root is None else root
        tree = Tree(root)
        self._tree = tree
        self._clock = clock
        self._thermometers = find_thermometers(tree)
        self._clocks = clock_paths(tree)
        self._throttle = ThrottleFiles(tree, vcgencmd or _firmware(root, clock))
        self._gpus = gpus or GpuHeats(tree)
        self._gpu_log = GpuHeatLog()
        self._celsius: tuple[list[tuple[int, float]], ...] = tuple([] for _ in self._thermometers)
        self._clock_hz: list[tuple[int, float]] = []
        self._events: list[ThrottleEvent] = []
        self._state: ThrottleState | None = None
        self._observable = False
        self._lock = threading.Lock()

    @property
    def sees_anything(self) -> bool:
        """Whether there is anything here worth looking at again."""
        return bool(
            self._thermometers
            or self._clocks
            or self._gpus.any_there
            or self._throttle.state().observable
        )

    def sample(self) -> None:
        """Reads everything once."""
        with self._lock:
            for thermometer, kept in zip(self._thermometers, self._celsius, strict=True):
                before = self._clock()
                celsius = thermometer.read(self._tree)
                if celsius is not None:
                    kept.append(((before + self._clock()) // 2, celsius))
            hertz = mean_clock_hz(self._tree, self._clocks)
            if hertz is not None:
                self._clock_hz.append((self._clock(), hertz))
            self._look_for_throttling()

    def settle(self, limit_s: float, *, sleep: Callable[[float], None] = time.sleep) -> Start:
        """Waits until the device is cool and its temperature steady, at most `limit_s`.

        Steady: the last five seconds within 0.5 degrees of the five before, in the mean. Cool: at
        least 15 degrees below where the first thermometer's system slows down, and nothing
        throttled. Without a thermometer it waits 10 seconds at most. With a limit of 0 it only
        looks, and cannot say whether it is steady.
        """
        start = self._settled(limit_s, sleep)
        if self._tree.root == Path("/"):
            return start
        return replace(start, words=f"{start.words} (read below {self._tree.root})")

    def _settled(self, limit_s: float, sleep: Callable[[float], None]) -> Start:
        began = self._clock()
        if self._leading() is None:
            waited = min(limit_s, BLIND_WAIT_S)
            if waited:
                sleep(waited)
            return _unknown(waited, self._throttling_now())
        if not limit_s:
            return self._judge([(began, self._leading())], None)
        recent: list[tuple[int, float | None]] = []
        while True:
            now = self._clock()
            recent = [(t, c) for t, c in recent if now - t <= (STEADY_S + PERIOD_S) * NS_PER_S]
            recent.append((now, self._leading()))
            waited = (now - began) / NS_PER_S
            start = self._judge(recent, waited)
            if start.kind == "cool" or waited >= limit_s:
                return start
            sleep(min(PERIOD_S, limit_s - waited))

    def heat(self, start: Start) -> Heat:
        """The record of what was seen so far."""
        with self._lock:
            zones = tuple(
                Zone(celsius=_series(t.name, kept), trip_celsius=t.trip_celsius)
                for t, kept in zip(self._thermometers, self._celsius, strict=True)
                if kept
            )
            log = self._gpu_log
            zones += tuple(
                Zone(celsius=_series(name, kept), trip_celsius=log.trips.get(name))
                for name, kept in log.celsius.items()
            )
            return Heat(
                zones=zones,
                clock_hz=_series("CPU clock", self._clock_hz) if self._clock_hz else None,
                throttle=tuple(self._events)
                if self._observable or self._events
                else _NOT_OBSERVABLE,
                start=start,
            )

    def close(self) -> None:
        """Lets go of what it holds open; what was seen stays."""
        self._gpus.close()

    def _leading(self) -> float | None:
        return self._thermometers[0].read(self._tree) if self._thermometers else None

    def _throttling_now(self) -> tuple[str, ...]:
        return self._throttle.state().now

    def _judge(self, recent: Sequence[tuple[int, float | None]], waited: float | None) -> Start:
        """The state of the device by its latest readings; `waited` is None where it only looked."""
        celsius, leading = recent[-1][1], self._thermometers[0]
        slowed = self._throttling_now()
        if celsius is None:
            return _unknown(waited or 0.0, slowed)
        limit = leading.trip_celsius
        trip = ASSUMED_TRIP_CELSIUS if limit is None else limit
        words = f"{leading.name} at {celsius:.1f} °C, {_below(celsius, trip)}"
        if limit is None:
            words += " (assumed: it states none)"
        steady = _is_steady(recent)
        if waited is not None:
            words += f", {'steady' if steady else 'still changing'}"
            words += f" after {format_duration(waited)}"
        if slowed:
            words += f"; {'; '.join(slowed)}"
        cool = trip - celsius >= MARGIN_KELVIN and not slowed and (steady or waited is None)
        return Start(
            kind="cool" if cool else "hot", words=words, celsius=celsius, waited_s=waited or 0.0
        )

    def _look_for_throttling(self) -> None:
        state = self._throttle.state()
        now = self._clock()
        news = self._gpu_log.add(now, self._gpus.readings())
        self._observable = self._observable or state.observable or self._gpu_log.observable
        if self._state is None:
            found = tuple(f"at the start: {words}" for words in state.now)
        else:
            found = evidence_between(self._state, state)
        self._state = state
        found = (*found, *news)
        for words in found[: MOST_EVENTS - len(self._events)]:
            self._events.append(ThrottleEvent(seen_ns=now, evidence=words))


def _below(celsius: float, trip: float) -> str:
    return (
        f"{trip - celsius:.0f} degrees below its limit of {trip:.0f} °C"
        if celsius < trip
        else f"not below its limit of {trip:.0f} °C"
    )


def _unknown(waited: float, slowed: tuple[str, ...]) -> Start:
    words = "no temperature can be read here"
    if waited:
        words += f": left alone for {format_duration(waited)}"
    if slowed:
        return Start(kind="hot", words=f"{words}; {'; '.join(slowed)}", waited_s=waited)
    return Start(kind="unknown", words=words, waited_s=waited)


def _is_steady(recent: Sequence[tuple[int, float | None]]) -> bool:
    """Whether readings span the time asked for and the means of their halves agree."""
    if recent[-1][0] - recent[0][0] < STEADY_S * NS_PER_S:
        return False
    values = [celsius for _, celsius in recent if celsius is not None]
    half = len(values) // 2
    if len(values) < len(recent) or not half:
        return False
    return abs(statistics.mean(values[-half:]) - statistics.mean(values[:half])) < STEADY_KELVIN


def _series(name: str, kept: list[tuple[int, float]]) -> Series:
    return Series(
        name=name, stamps_ns=tuple(t for t, _ in kept), values=tuple(value for _, value in kept)
    )


def _firmware(root: Path, clock: Callable[[], int]) -> Callable[[], str] | None:
    """What asks a Raspberry Pi's firmware, at most every five seconds; None where nothing can."""
    program = shutil.which("vcgencmd") if root == Path("/") else None
    if program is None:
        return None
    said: list[tuple[int, str]] = []

    def ask() -> str:
        now = clock()
        if not said or now - said[0][0] >= _FIRMWARE_PERIOD_S * NS_PER_S:
            said[:] = [(now, _run(program))]
        return said[0][1]

    return ask


def _run(program: str) -> str:
    try:
        return subprocess.run(
            [program, "get_throttled"], capture_output=True, text=True, timeout=_TIMEOUT_S,
            check=False,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
