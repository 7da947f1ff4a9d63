"""What else the machine did while a measurement ran, and when that puts the speeds in doubt.

Two readings of the machine's CPU time, around the timed runs, less the process's own. A reading
the system does not offer stays None. Nothing is corrected: a disturbed measurement is flagged in
words and its interval widened by the record itself.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ..measurement import Noise
from ..units import NS_PER_MS, NS_PER_S, format_duration
from . import thermal
from .energy.discovery import sensor_root

FOREIGN_LIMIT = 0.05
"""Above this share of all CPU time, other processes take cache and bandwidth one can measure."""
STEAL_LIMIT = 0.02
"""A hypervisor that takes 2 % takes it in slices of milliseconds: whole tokens wait for it."""
FREQUENCY_DROP_LIMIT = 0.10
"""A clock 10 % lower at the end than at the start means the first runs are not the last ones."""
LATENESS_LIMIT_NS = 20 * NS_PER_MS
"""A sleeping thread that wakes this late on a machine of free cores shows a crowded scheduler."""
SAMPLER_LIMIT = 0.01
"""The instruments may cost at most 1 % of one core before they disturb what they watch."""
SHORTEST_WINDOW_NS = 200 * NS_PER_MS
"""The kernel counts CPU time in ticks of 10 ms: below twenty of them a share means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTimes:
    """Seconds of all processors since the boot: busy (without steal), stolen or None, and total."""

    busy_s: float
    steal_s: float | None
    total_s: float


def cpu_times(root: Path = Path("/")) -> CpuTimes | None:
    """The machine's CPU time so far, or None when the system does not tell."""
    if sys.platform != "linux":
        return _psutil_cpu_times()
    try:
        with (root / "proc/stat").open() as file:
            fields = file.readline().split()
        ticks = [int(field) for field in fields[1:9]]
    except (OSError, ValueError):
        return None
    if not fields or fields[0] != "cpu" or len(ticks) < 8:
        return None
    # proc(5): user nice system idle iowait irq softirq steal; guest time is inside user already.
    user, nice, system, idle, iowait, irq, softirq, steal = (
        t / os.sysconf("SC_CLK_TCK") for t in ticks
    )
    busy = user + nice + system + irq + softirq
    return CpuTimes(busy_s=busy, steal_s=steal, total_s=busy + idle + iowait + steal)


def _psutil_cpu_times() -> CpuTimes | None:
    try:
        import psutil
    except ImportError:
        return None
    times = psutil.cpu_times()
    total = sum(times)
    return CpuTimes(busy_s=total - times.idle, steal_s=None, total_s=total)


def load_average() -> float | None:
    """The one-minute load average, or None where there is none."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


class NoiseMeter:
    """Watches the machine from its creation; `start` and `stop` enclose the timed runs."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root or Path("/")
        self._heat_root = root or sensor_root()
        self._load_average = load_average()
        self._before: _Snapshot | None = None
        self._after: _Snapshot | None = None

    def start(self) -> None:
        """Takes the first reading, after the warm-up: clocks are up and caches are warm."""
        self._before = _Snapshot.take(self._root, self._heat_root)

    def stop(self) -> None:
        """Takes the second reading."""
        self._after = _Snapshot.take(self._root, self._heat_root)

    def noise(
        self,
        *,
        lateness_p90_ns: int | None,
        sampler_share: float | None,
        heat_disturbs: bool = True,
    ) -> Noise:
        """The record with its flags. Without both readings every reading is None.

        A falling clock and throttling are flagged only where `heat_disturbs`: a run that is kept up
        until the device is hot is made to see them.
        """
        before, after = self._before, self._after
        steal = foreign = None
        throttled = None
        if before is not None and after is not None:
            steal, foreign = _shares(before, after)
            throttled = thermal.throttled_between(before.throttle, after.throttle)
        start_hz = before.frequency_hz if before else None
        end_hz = after.frequency_hz if after else None
        return Noise(
            load_average=self._load_average,
            steal_share=steal,
            foreign_share=foreign,
            frequency_hz_start=start_hz,
            frequency_hz_end=end_hz,
            throttled=throttled,
            lateness_p90_ns=lateness_p90_ns,
            sampler_share=sampler_share,
            flags=_flags(steal, foreign, lateness_p90_ns)
            + (_heat_flags((start_hz, end_hz), throttled) if heat_disturbs else ())
            + _sampler_flags(sampler_share),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    taken_ns: int
    own_s: float
    cpu: CpuTimes | None
    frequency_hz: float | None
    throttle: thermal.ThrottleState

    @classmethod
    def take(cls, root: Path, heat_root: Path) -> _Snapshot:
        return cls(
            frequency_hz=thermal.frequency_hz(heat_root),
            throttle=thermal.throttle_state(heat_root),
            cpu=cpu_times(root),
            own_s=time.process_time(),
            taken_ns=time.perf_counter_ns(),
        )


def _shares(before: _Snapshot, after: _Snapshot) -> tuple[float | None, float | None]:
    """Steal and foreign shares of all CPU time between two snapshots."""
    if before.cpu is None or after.cpu is None:
        return None, None
    total = after.cpu.total_s - before.cpu.total_s
    if after.taken_ns - before.taken_ns < SHORTEST_WINDOW_NS or total <= 0:
        return None, None
    steal = None
    if before.cpu.steal_s is not None and after.cpu.steal_s is not None:
        steal = max(0.0, after.cpu.steal_s - before.cpu.steal_s) / total
    busy = after.cpu.busy_s - before.cpu.busy_s
    foreign = max(0.0, busy - (after.own_s - before.own_s)) / total
    return steal, min(1.0, foreign)


def _flags(steal: float | None, foreign: float | None, lateness_ns: int | None) -> tuple[str, ...]:
    flags = []
    if foreign is not None and foreign > FOREIGN_LIMIT:
        flags.append(f"other processes used {foreign:.0%} of the CPU")
    if steal is not None and steal > STEAL_LIMIT:
        flags.append(f"the hypervisor took {steal:.0%} of the CPU away")
    if lateness_ns is not None and lateness_ns > LATENESS_LIMIT_NS:
        flags.append(f"the sampler woke {format_duration(lateness_ns / NS_PER_S)} late (P90)")
    return tuple(flags)


def _heat_flags(
    frequencies: tuple[float | None, float | None], throttled: bool | None
) -> tuple[str, ...]:
    flags = []
    start, end = frequencies
    if start and end and end < start * (1 - FREQUENCY_DROP_LIMIT):
        flags.append(f"the CPU clock fell from {start / 1e9:.2f} to {end / 1e9:.2f} GHz")
    if throttled:
        flags.append("the CPU was throttled")
    return tuple(flags)


def _sampler_flags(share: float | None) -> tuple[str, ...]:
    if share is not None and share > SAMPLER_LIMIT:
        return (f"the sampler itself used {share:.1%} of one core",)
    return ()
