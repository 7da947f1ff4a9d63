"""Apple Silicon: joules as zeus-apple-silicon reads them, or watts as the tool macmon writes them.

Both read a private interface of macOS (IOReport's "Energy Model") whose values are the vendor's
estimate and no measurement of current: every sensor here is marked as modelled. Which channels
there are, and whether they advance, changes with chip and macOS, so nothing is believed that stands
still while a processor works.

Sources: the documentation of zeus-apple-silicon 1.1 (cumulative millijoules, a channel that is
missing is None) and of macmon 0.8 (`pipe`: a JSON object per line, watts); macmon #17 and #76 for
CPU channels that stay at 0 or stall.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ...basis import Unavailable
from ...energy import Refusal, Scope, SensorInfo
from ...units import NS_PER_S
from . import METER_REMEDY, EnergySensor, Found, SensorBreakError, SensorGapError
from .integrate import LONGEST_GAP_PERIODS, Integrated
from .sysfs import Tree

_INTERVAL_S = 0.5
_UPDATE_S = 0.1
_WINDOW_S = 10.0
_STALL_UPDATES = 20
_MOVE_WITHIN_S = 0.5
_FIRST_LINE_S = 5.0
_MOST_LINE_BYTES = 64 * 1024
_MOST_JSON_W = 1e9
_GAIN = "a model of Apple's, made for comparing code on one device, not devices"
_INSTALL = "brew install macmon   (or: pip install 'edge-runtime[apple]')"

_CHIP = {"cpu": "CPU", "gpu": "GPU", "ane": "Neural Engine", "dram": "DRAM"}
_COUNTED = {"cpu": "cpu_total_mj", "gpu": "gpu_mj", "ane": "ane_mj", "dram": "dram_mj"}
_WRITTEN = {"cpu": "cpu_power", "gpu": "gpu_power", "ane": "ane_power", "dram": "ram_power"}
_SYSTEM = "sys_power"
_WORKING = frozenset(("cpu", "dram"))
"""Channels that cannot rest while a program runs that reads them."""


class LineSource(Protocol):
    """Something that gives lines of text until it ends or is closed."""

    def __iter__(self) -> Iterator[str]:
        """The lines as they come."""

    def close(self) -> None:
        """Ends it, and with it the iteration."""


def find(
    tree: Tree,
    *,
    zeus: Any = None,
    lines: LineSource | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
    system: str = sys.platform,
) -> Found:
    """Looks for what tells of Apple's energy model here. Never raises.

    `zeus` stands in for the module zeus_apple_silicon and `lines` for macmon's output; `tree` is
    not asked, for macOS has no files of this. macmon runs until the last sensor is closed.
    """
    del tree
    if system != "darwin":
        return _refused("apple", "no Apple Silicon: not macOS", "")
    counted = _from_zeus(zeus, clock)
    written = _from_macmon(lines, clock, chips=not counted.sensors)
    sensors = (*counted.sensors, *written.sensors)
    refusals = (*counted.refusals, *written.refusals)
    if not (sensors or refusals):
        reason = "neither macmon nor zeus-apple-silicon is installed, and macOS shows no energy"
        return _refused("apple", reason, _INSTALL)
    return Found(sensors=sensors, refusals=refusals)


def _refused(name: str, reason: str, remedy: str = METER_REMEDY) -> Found:
    return Found(refusals=(Refusal(name=name, why=Unavailable(reason=reason, remedy=remedy)),))


def _info(part: str, *, counter: bool, way: str) -> SensorInfo:
    whole = part == "system"
    title = "whole system" if whole else _CHIP[part]
    return SensorInfo(
        id=f"apple:{part}",
        source=f"Apple {title}, estimated by the vendor's model, {way}",
        scope=Scope.DEVICE if whole else Scope.CHIP,
        covers=("cpu:*", "dram:*", "gpu:*", "ane:*", "system") if whole else (f"{part}:0",),
        method="counter" if counter else "power",
        update_s=_UPDATE_S if counter else _INTERVAL_S,
        step=0.001,
        poll_s=_INTERVAL_S,
        window_s=_WINDOW_S,
        gain=_GAIN,
        modelled=True,
    )


def _from_zeus(module: Any, clock: Callable[[], int]) -> Found:
    """A counter for each channel of this chip; nothing at all where the package is not there."""
    if module is None:
        try:
            module = importlib.import_module("zeus_apple_silicon")
        except ImportError:
            return Found()
    try:
        monitor = module.AppleEnergyMonitor()
        first = monitor.get_cumulative_energy()
    except Exception as error:  # the extension passes on whatever the private interface raised
        return _refused("apple", f"zeus-apple-silicon: {error}", "brew install macmon")
    sensors: list[EnergySensor] = []
    refusals: list[Refusal] = []
    for part, field in _COUNTED.items():
        if getattr(first, field, None) is None:
            continue
        counter = _Counter(monitor, part, field, clock)
        if part == "cpu" and not _advances(counter, clock):
            reason = f"the CPU counter stands still while the CPU works, for {_MOVE_WITHIN_S:g} s"
            refusals += _refused("apple:cpu", reason).refusals
        else:
            sensors.append(counter)
    if not (sensors or refusals):
        return _refused("apple", "zeus-apple-silicon finds no energy channel of this chip")
    return Found(sensors=tuple(sensors), refusals=tuple(refusals))


def _advances(counter: _Counter, clock: Callable[[], int]) -> bool:
    """Whether a counter moves while this process keeps the CPU busy by asking."""
    until = clock() + int(_MOVE_WITHIN_S * NS_PER_S)
    first: float | None = None
    while clock() < until:
        try:
            joules = counter.read()
        except (SensorGapError, SensorBreakError):
            continue
        if first is not None and joules > first:
            return True
        first = joules if first is None else first
    return False


class _Counter:
    """One channel's cumulative joules."""

    def __init__(self, monitor: Any, part: str, field: str, clock: Callable[[], int]) -> None:
        self.info = _info(part, counter=True, way="IOReport through zeus-apple-silicon")
        self._monitor = monitor
        self._field = field
        self._clock = clock
        self._must_move = part in _WORKING
        self._last: int | None = None
        self._moved_ns = clock()

    def read(self) -> float:
        """Joules from an arbitrary origin. Raises SensorGapError and SensorBreakError."""
        now = self._clock()
        try:
            millijoules = getattr(self._monitor.get_cumulative_energy(), self._field)
        except Exception as error:  # the extension passes on whatever the private interface raised
            raise SensorGapError(f"{self.info.id}: {error}") from error
        if millijoules is None:
            raise SensorGapError(f"{self.info.id}: the channel gives no value")
        last, self._last = self._last, millijoules
        if last is None or millijoules != last:
            self._moved_ns = now
        if last is not None and millijoules < last:
            raise SensorBreakError(f"{self.info.id} fell by {(last - millijoules) / 1000:g} J")
        stood_s = (now - self._moved_ns) / NS_PER_S
        if self._must_move and stood_s > _STALL_UPDATES * _UPDATE_S:
            raise SensorGapError(f"counter stalled: {self.info.id} stood for {stood_s:.1f} s")
        return float(millijoules) / 1000

    def close(self) -> None:
        """Nothing is held open."""


def _from_macmon(lines: LineSource | None, clock: Callable[[], int], *, chips: bool) -> Found:
    """Power sensors of what macmon writes; nothing at all where it is not installed.

    Without `chips` only the whole system's: the chip's parts are counted already.
    """
    if lines is None:
        path = shutil.which("macmon")
        if path is None:
            return Found()
        try:
            lines = _Macmon(path)
        except OSError as error:
            return _refused("apple", f"macmon cannot be started: {error.strerror or error}")
    pipe = Pipe(lines, clock)
    try:
        first = pipe.first()
        sensors, refusals = _written(pipe, first, clock, chips=chips)
    except SensorGapError as error:
        return _refused("apple", str(error), "macmon pipe -s 1   # must write one line of JSON")
    finally:
        pipe.release()
    return Found(sensors=sensors, refusals=refusals)


def _written(
    pipe: Pipe, first: dict[str, float], clock: Callable[[], int], *, chips: bool
) -> tuple[tuple[EnergySensor, ...], tuple[Refusal, ...]]:
    sensors: list[EnergySensor] = []
    refusals: list[Refusal] = []
    parts = sum(first.get(_WRITTEN[part], 0.0) for part in ("cpu", "gpu", "ane"))
    # Where the system's power is not told, macmon writes the sum of the parts in its place.
    if first.get(_SYSTEM, 0.0) > first.get("all_power", parts):
        sensors.append(_sensor(pipe, "system", _SYSTEM, clock))
    else:
        reason = "macmon tells no power of the whole system beyond the chip's"
        refusals += _refused("apple:system", reason).refusals
    for part, field in _WRITTEN.items() if chips else ():
        if part == "cpu" and first.get(field) == 0.0:
            reason = "the CPU's power stands at 0 W, which no CPU at work takes"
            refusals += _refused("apple:cpu", reason).refusals
        elif field in first:
            sensors.append(_sensor(pipe, part, field, clock))
    return tuple(sensors), tuple(refusals)


def _sensor(pipe: Pipe, part: str, field: str, clock: Callable[[], int]) -> EnergySensor:
    pipe.hold()
    return Integrated(_Written(pipe, part, field), clock=clock)


class _Written:
    """One field of macmon's lines."""

    def __init__(self, pipe: Pipe, part: str, field: str) -> None:
        self.info = _info(part, counter=False, way=f"macmon's {field}")
        self._pipe = pipe
        self._part = part
        self._field = field
        self._is_held = True

    def read_w(self) -> float:
        """The power of the last interval in watts. Raises SensorGapError."""
        watts = self._pipe.latest().get(self._field)
        if watts is None:
            raise SensorGapError(f"macmon's last line has no {self._field}")
        if watts == 0.0 and self._part in {"cpu", "system"}:
            raise SensorGapError(f"macmon's {self._field} is 0 W, which nothing at work takes")
        return watts

    def close(self) -> None:
        """Lets go of macmon, once: others hold it too."""
        if self._is_held:
            self._is_held = False
            self._pipe.release()


class Pipe:
    """The last line of macmon, read by a thread for as long as anybody holds it."""

    def __init__(self, lines: LineSource, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._lines = lines
        self._clock = clock
        self._holders = 1
        self._latest: tuple[int, dict[str, float]] | None = None
        self._fault = ""
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._pump, name="macmon", daemon=True)
        self._thread.start()

    def first(self) -> dict[str, float]:
        """Waits for the first line. Raises SensorGapError when none comes, or no good one."""
        self._news.wait(_FIRST_LINE_S)
        return self.latest()

    def latest(self) -> dict[str, float]:
        """Watts by field of the last good line. Raises SensorGapError when it is old or missing."""
        if self._latest is None:
            raise SensorGapError(self._fault or f"macmon wrote nothing for {_FIRST_LINE_S:g} s")
        taken_ns, fields = self._latest
        age_s = (self._clock() - taken_ns) / NS_PER_S
        if age_s > LONGEST_GAP_PERIODS * _INTERVAL_S:
            words = self._fault or "it is silent"
            raise SensorGapError(f"macmon's last reading is {age_s:.1f} s old: {words}")
        return fields

    def hold(self) -> None:
        """Counts one more holder."""
        self._holders += 1

    def release(self) -> None:
        """Ends macmon after its last holder."""
        self._holders -= 1
        if self._holders == 0:
            self._lines.close()
            self._thread.join(timeout=_FIRST_LINE_S)

    def _pump(self) -> None:
        try:
            for line in self._lines:
                try:
                    self._latest = (self._clock(), watts_of(line))
                except ValueError as error:
                    self._fault = str(error)
                self._news.set()
            self._fault = self._fault or "it ended"
        except (OSError, ValueError) as error:
            # The pipe was closed underneath while it was read.
            self._fault = f"it ended: {error}"
        finally:
            self._news.set()


def watts_of(line: str) -> dict[str, float]:
    """The powers in a line of `macmon pipe`, watts by field. Raises ValueError for another line."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"macmon wrote {line.strip()[:60]!r}, which is no JSON") from error
    entries = told.items() if isinstance(told, dict) else ()
    wanted = {*_WRITTEN.values(), _SYSTEM, "all_power"}
    # A whole number in JSON may be too long for a float, and `true` is one too.
    fields = {
        name: float(max(min(watts, _MOST_JSON_W), -_MOST_JSON_W))
        for name, watts in entries
        if name in wanted and type(watts) in {int, float}
    }
    for name, watts in fields.items():
        if not math.isfinite(watts) or watts < 0:
            raise ValueError(f"macmon's {name} is {watts:g} W")
    if not fields:
        raise ValueError(f"macmon wrote {line.strip()[:60]!r}, which tells no power")
    return fields


class _Macmon:
    """The program itself, kept running: starting it takes longer than reading."""

    def __init__(self, path: str) -> None:
        milliseconds = str(round(_INTERVAL_S * 1000))
        self._process = subprocess.Popen(
            [path, "pipe", "-i", milliseconds],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __iter__(self) -> Iterator[str]:
        """Its lines until it ends."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while line := output.readline(_MOST_LINE_BYTES):
                yield line.decode(errors="replace")

    def close(self) -> None:
        """Ends it, kindly and then surely."""
        with contextlib.suppress(OSError):
            self._process.terminate()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
