"""The same counters of x86 processors through perf events, for where powercap may not be read.

The kernel widens the counters to 64 bits, so nothing wraps. An event is opened on the one CPU of
each package (on some processors, of each die) that the `cpumask` names. A domain that powercap
gives is refused here: it would be the same counter twice. Values: perf_event_open(2), and the
event's own `.scale` file.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import platform
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from ...basis import Unavailable
from ...energy import Refusal, Scope, SensorInfo
from . import Found, SensorBreakError, SensorGapError, rapl
from .sysfs import Tree

_PMU = "sys/bus/event_source/devices/power"
_PARANOID = "proc/sys/kernel/perf_event_paranoid"
_EVENT = re.compile(r"event=(0x[0-9a-fA-F]{1,4})")
_SMALL = re.compile(r"[0-9]{1,9}")
_DOMAINS = {"pkg": "package", "ram": "dram", "psys": "psys"}

# linux/perf_event.h: the first published size of the attributes, and close-on-exec.
_ATTR_BYTES = 64
_CLOSE_ON_EXEC = 8
# The call's number by machine: arch/x86/entry/syscalls, asm-generic/unistd.h.
_CALL = {"x86_64": 298, "aarch64": 241}
_COUNT_BYTES = 8
# The most that a kernel for x86 can be built for (arch/x86/Kconfig, NR_CPUS).
_MOST_CPUS = 8192


class Count(Protocol):
    """An open event: a 64-bit count that only grows."""

    def read(self) -> int:
        """The count. Raises OSError."""

    def close(self) -> None:
        """Closes the event."""


Opener = Callable[[int, int, int], Count]
"""Opens an event by PMU type, event number and CPU. Raises OSError."""


def find(tree: Tree, *, opener: Opener | None = None) -> Found:
    """Looks for the energy events of the perf PMU `power`. Opens those that nothing else gives.

    `opener` stands in for the kernel's perf_event_open in tests.
    """
    kind = tree.word(f"{_PMU}/type")
    if not _SMALL.fullmatch(kind):
        return Found(refusals=(_absent(tree),))
    if tree.is_virtual():
        reason = "virtual machine: perf's energy events would be those of the whole socket"
        return Found(refusals=(_refusal(reason, "Measure on the machine itself."),))
    opener = opener or open_event
    taken = {
        part: sensor.info.id for sensor in rapl.find(tree).sensors for part in sensor.info.covers
    }
    sensors: list[Perf] = []
    refusals: list[Refusal] = []
    denied: list[str] = []
    cpus = _cpus(tree)
    for event, domain in _DOMAINS.items():
        if not tree.exists(f"{_PMU}/events/energy-{event}"):
            continue
        for package, members in sorted(cpus.items()):
            if domain == "psys" and package != min(cpus):
                continue  # one count for the whole platform, shown to every package
            info = _info(domain, package)
            other = taken.get(info.covers[0])
            if other is not None:
                reason = f"energy-{event}: {other} is the same counter, read through powercap"
                refusals.append(_refusal(reason, "None is needed."))
                continue
            try:
                sensors.append(_opened(tree, event, info, int(kind), members, opener))
            except PermissionError:
                denied.append(f"energy-{event}")
                break  # what one package denies, all do
            except (SensorGapError, OSError) as error:
                refusals.append(_cannot(event, package, error))
    if denied:
        refusals.insert(0, _denied(tree, denied))
    if not sensors and not refusals:
        refusals.append(_refusal(f"{tree.shown(_PMU)} offers no package", "See: perf list power"))
    return Found(sensors=tuple(sensors), refusals=tuple(refusals))


class Perf:
    """One domain of one package: its count, or the counts of its dies, as joules."""

    def __init__(self, info: SensorInfo, counts: Sequence[Count], joules_per_count: float) -> None:
        self.info = info
        self._counts = tuple(counts)
        self._joules_per_count = joules_per_count
        self._first = self._last = [count.read() for count in self._counts]
        self._before = 0

    def read(self) -> float:
        """Joules since the sensor was made. Raises SensorGapError and SensorBreakError."""
        try:
            values = [count.read() for count in self._counts]
        except OSError as error:
            raise SensorGapError(f"{self.info.id}: {error.strerror or error}") from error
        last, self._last = self._last, values
        if any(value < then for value, then in zip(values, last, strict=True)):
            self._before += sum(last) - sum(self._first)
            self._first = values
            raise SensorBreakError(f"{self.info.id} fell, which a 64-bit count does only if reset")
        return (self._before + sum(values) - sum(self._first)) * self._joules_per_count

    def close(self) -> None:
        """Closes the events."""
        for count in self._counts:
            count.close()


class _Event:
    """A perf event of the kernel, by its file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> int:
        data = os.read(self._descriptor, _COUNT_BYTES) if self._descriptor >= 0 else b""
        if len(data) != _COUNT_BYTES:
            raise OSError(errno.EIO, "the event gives no count")
        return int.from_bytes(data, "little")

    def close(self) -> None:
        # A number given back may be another file's by now: it is never closed twice.
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def open_event(kind: int, event: int, cpu: int) -> Count:
    """Opens an event on a CPU, of all that runs there. Raises OSError in the kernel's words."""
    number = _CALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    attributes = struct.pack("=IIQ", kind, _ATTR_BYTES, event).ljust(_ATTR_BYTES, b"\0")
    buffer = ctypes.create_string_buffer(attributes, _ATTR_BYTES)
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    everyone, alone = -1, -1
    descriptor = call(
        ctypes.c_long(number),
        buffer,
        ctypes.c_int(everyone),
        ctypes.c_int(cpu),
        ctypes.c_int(alone),
        ctypes.c_ulong(_CLOSE_ON_EXEC),
    )
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return _Event(descriptor)


def _opened(
    tree: Tree, event: str, info: SensorInfo, kind: int, cpus: Sequence[int], opener: Opener
) -> Perf:
    """The sensor of a domain. Raises SensorGapError or OSError and leaves nothing open."""
    path = f"{_PMU}/events/energy-{event}"
    match = _EVENT.fullmatch(tree.word(path))
    if match is None:
        raise SensorGapError(
            f"{tree.shown(path)} holds {tree.word(path)[:40]!r}, which is no event"
        )
    scale, unit = _scale(tree.word(f"{path}.scale")), tree.word(f"{path}.unit")
    if scale is None or unit != "Joules":
        raise SensorGapError(f"{tree.shown(path)} has no scale in joules")
    counts: list[Count] = []
    try:
        for cpu in cpus:
            counts.append(opener(kind, int(match[1], 16), cpu))  # noqa: PERF401 -- kept to close
        return Perf(info, counts, scale)
    except OSError:
        for count in counts:
            count.close()
        raise


def _scale(text: str) -> float | None:
    try:
        scale = float(text)
    except ValueError:
        return None
    return scale if math.isfinite(scale) and scale > 0 else None


def _cpus(tree: Tree) -> dict[int, list[int]]:
    """The CPUs on which events are to be opened, by package: one each, or one for each die."""
    packages: dict[int, list[int]] = {}
    for cpu in _listed(tree.word(f"{_PMU}/cpumask")):
        name = tree.word(f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", "0")
        packages.setdefault(int(name) if _SMALL.fullmatch(name) else 0, []).append(cpu)
    return packages


def _listed(mask: str) -> Iterator[int]:
    """The numbers of a list such as `0,18` or `0-3`; nothing of one that is malformed."""
    for part in mask.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part.strip())
        if match is not None:
            first, last = int(match[1]), int(match[2] or match[1])
            yield from range(first, min(last + 1, _MOST_CPUS))


def _info(domain: str, package: int) -> SensorInfo:
    name = domain if domain == "psys" else f"{domain}-{package}"
    covers = {
        "package": (f"cpu:{package}",),
        "dram": (f"dram:{package}",),
        "psys": rapl.PSYS_COVERS,
    }[domain]
    return SensorInfo(
        id=f"perf:{name}",
        source=f"RAPL {name} (perf events)",
        scope=Scope.BOARD if domain == "psys" else Scope.CHIP,
        covers=covers,
        method="counter",
        update_s=rapl.UPDATE_S,
        # The scale is finer than the counter behind it, whose usual count is 1/2^14 J.
        step=2.0**-14,
        poll_s=0.1,
        window_s=1.0,
        gain=rapl.GAIN,
        notes=rapl.PSYS_NOTES if domain == "psys" else (),
    )


def _refusal(reason: str, remedy: str) -> Refusal:
    return Refusal(name="perf", why=Unavailable(reason=reason, remedy=remedy))


def _absent(tree: Tree) -> Refusal:
    if tree.is_virtual():
        remedy = "Measure on the machine itself: a guest is not shown the energy counters."
        return _refusal("no perf energy events: virtual machine", remedy)
    if "CPU implementer" in tree.word("proc/cpuinfo"):
        return _refusal("no perf energy events: Arm processors have none", "")
    reason = "no perf energy events: this kernel or processor offers none"
    return _refusal(reason, "Try: sudo modprobe rapl")


def _denied(tree: Tree, events: Sequence[str]) -> Refusal:
    level = tree.word(_PARANOID, "unknown")
    return _refusal(
        f"permission denied: perf event {', '.join(events)} (perf_event_paranoid is {level})",
        "Until the next boot: sudo sysctl kernel.perf_event_paranoid=0",
    )


def _cannot(event: str, package: int, error: SensorGapError | OSError) -> Refusal:
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _refusal(
        f"perf event energy-{event} of package {package} cannot be opened: {words}",
        f"See whether perf can: sudo perf stat -a -e power/energy-{event}/ sleep 1",
    )
