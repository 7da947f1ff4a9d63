"""A live tree of fake sensors: what the kernel would show, with joules that really advance.

    python benchmarks/sensor_tree.py DIR --cpu-watts 15 --dram-watts 2 --idle-watts 5 --follow-cpu
    EDGE_SENSOR_ROOT=DIR edge profile

Stands in for hardware in tests and demonstrations: nothing in it is measured. It holds an Intel
package with a core domain inside and a dram domain beside it, a temperature that warms and cools
with the package's power, clocks, a throttle counter and a battery. Every file is replaced by
renaming, so that no reader ever sees half a number; it is kept up to date until the program ends.
DIR is best in memory (/dev/shm): on a disk, a file replaced may wait for others' writing.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

RANGE_UJ, QUANTUM_UJ = 262_143_328_850, 61
"""A counter's largest value and what one more count is, microjoules: seen on Intel packages."""
_COUNTERS = tuple(
    Path("sys/class/powercap") / f"intel-rapl:{zone}" / "energy_uj" for zone in ("0", "0:0", "0:1")
)
_ZONE = Path("sys/class/thermal/thermal_zone0")
_CPUS = Path("sys/devices/system/cpu")
_SUPPLY = Path("sys/class/power_supply")
_CPUINFO = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: fake\nflags\t\t: fpu sse2"
_CORE_SHARE = 0.8
_ROOM_CELSIUS, _CELSIUS_PER_W, _WARMING_S, _TRIP_CELSIUS = 30.0, 3.0, 20.0, 95.0
_SLOW_HZ, _FAST_HZ = 1.2e9, 3.6e9
_GAUGE_S = 2.0
_SCREEN_W = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watts:
    """The power of the package (cores included) and of the memory beside it."""

    package: float
    dram: float


Power = Callable[[float], Watts]
"""The power at so many seconds since the tree began."""


def steady(package: float, dram: float) -> Power:
    """The same power always: joules are watts times seconds."""
    return lambda _: Watts(package=package, dram=dram)


def between(idle: Watts, busy: Watts, share: Callable[[], float]) -> Power:
    """Idle power, busy power, or a mixture of both as `share` says at each moment."""

    def power(_: float) -> Watts:
        part = min(1.0, max(0.0, share()))
        return Watts(
            package=idle.package + part * (busy.package - idle.package),
            dram=idle.dram + part * (busy.dram - idle.dram),
        )

    return power


class SensorTree:
    """Keeps a tree of fake sensors up to date from entering the context until leaving it.

    Power is integrated by trapezoid every `period_s`, which is how often the counters move.
    `counter_uj` is where they begin: close to RANGE_UJ they wrap. A battery that is `discharging`
    is a sensor of the whole device; one on mains only has a capacity. `longest_gap_s` is how long
    the counters stood still at most, known on leaving: they lag behind by no more.
    """

    def __init__(
        self,
        folder: Path,
        power: Power,
        *,
        period_s: float = 0.01,
        counter_uj: int = 1_000_000,
        cpus: int = 2,
        full_wh: float = 50.0,
        discharging: bool = False,
    ) -> None:
        self.folder = folder
        self.started_ns = 0
        self.longest_gap_s = 0.0
        self._power = power
        self._period_s = period_s
        self._counter_uj = counter_uj
        self._cpus = cpus
        self._full_wh = full_wh
        self._discharging = discharging
        self._joules = Watts(package=0.0, dram=0.0)
        self._celsius = _ROOM_CELSIUS
        self._throttled = 0
        self._names: dict[Path, tuple[str, str]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._advance, name="sensor tree", daemon=True)

    def __enter__(self) -> Self:
        """Writes the tree and begins to advance it."""
        self.started_ns = time.perf_counter_ns()
        self._write_constants()
        self._write_joules()
        self._write_slow(self._power(0.0))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the advance; the files stay as they are."""
        self._stop.set()
        self._thread.join()

    def _advance(self) -> None:
        at, watts = self.started_ns, self._power(0.0)
        drawn, gauged = at, at
        due = self._period_s
        while not self._stop.wait(max(0.0, due - (time.perf_counter_ns() - self.started_ns) / 1e9)):
            now = time.perf_counter_ns()
            passed_s = (now - at) / 1e9
            self.longest_gap_s = max(self.longest_gap_s, passed_s)
            after = self._power((now - self.started_ns) / 1e9)
            self._joules = Watts(
                package=self._joules.package + passed_s * (watts.package + after.package) / 2,
                dram=self._joules.dram + passed_s * (watts.dram + after.dram) / 2,
            )
            self._warm(after, passed_s)
            at, watts = now, after
            self._write_joules()
            if now - drawn >= 1e8:
                self._write_slow(watts)
                drawn = now
            if now - gauged >= _GAUGE_S * 1e9:
                self._write_gauge(watts)
                gauged = now
            # On an absolute schedule; what a busy machine made it miss is not caught up.
            due = max(due + self._period_s, (now - self.started_ns) / 1e9)
        self.longest_gap_s = max(self.longest_gap_s, (time.perf_counter_ns() - at) / 1e9)

    def _warm(self, watts: Watts, passed_s: float) -> None:
        """Lets the temperature approach that which the power would hold."""
        held = _ROOM_CELSIUS + _CELSIUS_PER_W * watts.package
        before = self._celsius
        self._celsius += (held - before) * -math.expm1(-passed_s / _WARMING_S)
        self._throttled += before < _TRIP_CELSIUS <= self._celsius

    def _write_constants(self) -> None:
        for counter, name in zip(_COUNTERS, ("package-0", "core", "dram"), strict=True):
            self._write(counter.with_name("name"), name)
            self._write(counter.with_name("max_energy_range_uj"), str(RANGE_UJ))
        self._write(_ZONE / "type", "x86_pkg_temp")
        self._write(_ZONE / "trip_point_0_type", "passive")
        self._write(_ZONE / "trip_point_0_temp", str(round(1000 * _TRIP_CELSIUS)))
        for cpu in range(self._cpus):
            clocks = _CPUS / f"cpu{cpu}" / "cpufreq"
            self._write(clocks / "cpuinfo_min_freq", str(round(_SLOW_HZ / 1000)))
            self._write(clocks / "cpuinfo_max_freq", str(round(_FAST_HZ / 1000)))
        # No flag "hypervisor": this is what a machine of its own would say.
        self._write(Path("proc/cpuinfo"), _CPUINFO)
        self._write(_SUPPLY / "AC" / "type", "Mains")
        self._write(_SUPPLY / "AC" / "online", "0" if self._discharging else "1")
        battery = _SUPPLY / "BAT0"
        self._write(battery / "type", "Battery")
        self._write(battery / "present", "1")
        self._write(battery / "status", "Discharging" if self._discharging else "Not charging")
        self._write(battery / "energy_full_design", str(round(1.2e6 * self._full_wh)))
        self._write(battery / "energy_full", str(round(1e6 * self._full_wh)))
        self._write(battery / "voltage_now", "11400000")
        self._write_gauge(self._power(0.0))

    def _write_joules(self) -> None:
        shares = (self._joules.package, _CORE_SHARE * self._joules.package, self._joules.dram)
        for path, joules in zip(_COUNTERS, shares, strict=True):
            self._write(path, str((self._counter_uj + int(1e6 * joules)) % (RANGE_UJ + QUANTUM_UJ)))

    def _write_slow(self, watts: Watts) -> None:
        """The temperature, the clocks (they fall with heat) and the throttle counters."""
        self._write(_ZONE / "temp", str(round(1000 * self._celsius)))
        hot = self._celsius >= _TRIP_CELSIUS
        wanted = _SLOW_HZ + min(1.0, watts.package / 15.0) * (_FAST_HZ - _SLOW_HZ)
        hertz = min(wanted, 0.6 * _FAST_HZ) if hot else wanted
        for cpu in range(self._cpus):
            of_cpu = _CPUS / f"cpu{cpu}"
            self._write(of_cpu / "cpufreq" / "scaling_cur_freq", str(round(hertz / 1000)))
            for name in ("core_throttle_count", "package_throttle_count"):
                self._write(of_cpu / "thermal_throttle" / name, str(self._throttled))

    def _write_gauge(self, watts: Watts) -> None:
        """The battery as a laptop's gauge shows it: every two seconds, screen included."""
        drawn_w = watts.package + watts.dram + _SCREEN_W if self._discharging else 0.0
        passed_s = (time.perf_counter_ns() - self.started_ns) / 1e9
        used_wh = self._joules.package + self._joules.dram + _SCREEN_W * passed_s
        left_wh = 0.9 * self._full_wh - (used_wh / 3600 if self._discharging else 0.0)
        battery = _SUPPLY / "BAT0"
        self._write(battery / "power_now", str(round(1e6 * drawn_w)))
        self._write(battery / "energy_now", str(round(1e6 * max(0.0, left_wh))))
        self._write(battery / "capacity", str(round(100 * max(0.0, left_wh) / self._full_wh)))

    def _write(self, path: Path, text: str) -> None:
        names = self._names.get(path)
        if names is None:
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            names = self._names[path] = (str(target.with_name(f".{target.name}.new")), str(target))
        # Written several hundred times a second beside what is measured: as cheaply as it goes.
        waiting = os.open(names[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(waiting, f"{text}\n".encode())
        finally:
            os.close(waiting)
        os.replace(*names)  # noqa: PTH105 - a Path would cost more than the renaming


class MachineLoad:
    """The share of this machine's CPU time in use, over the last fifth of a second (Linux)."""

    def __init__(self) -> None:
        self._before = self._times()
        self._asked = time.perf_counter()
        self._share = 0.0

    def __call__(self) -> float:
        """The share, 0 to 1."""
        now = time.perf_counter()
        if now - self._asked >= 0.2:
            used, total = self._times()
            if total > self._before[1]:
                self._share = (used - self._before[0]) / (total - self._before[1])
            self._before, self._asked = (used, total), now
        return self._share

    @staticmethod
    def _times() -> tuple[int, int]:
        ticks = [int(w) for w in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu-watts", type=float, default=15.0, help="package while busy")
    parser.add_argument("--dram-watts", type=float, default=2.0, help="memory while busy")
    parser.add_argument("--idle-watts", type=float, default=5.0, help="package while idle")
    parser.add_argument("--dram-idle-watts", type=float, default=0.5, help="memory while idle")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--busy-file", type=Path, help="busy while this file exists; else always")
    when.add_argument("--follow-cpu", action="store_true", help="as busy as this machine is")
    parser.add_argument("--discharging", action="store_true", help="on battery")
    parser.add_argument("--full-wh", type=float, default=50.0, help="the battery's capacity")
    parser.add_argument("--period", type=float, default=0.01, help="how often counters move, s")
    given = parser.parse_args()
    idle = Watts(package=given.idle_watts, dram=given.dram_idle_watts)
    busy = Watts(package=given.cpu_watts, dram=given.dram_watts)
    share: Callable[[], float]
    if given.follow_cpu:
        share = MachineLoad()
    elif given.busy_file is not None:
        share = given.busy_file.exists
    else:
        share = partial(float, 1)
    tree = SensorTree(
        given.folder,
        between(idle, busy, share),
        period_s=given.period,
        full_wh=given.full_wh,
        discharging=given.discharging,
    )
    with tree:
        print(f"fake sensors below {given.folder}; Ctrl-C ends them", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
