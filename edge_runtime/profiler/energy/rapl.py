"""The energy counters of x86 processors, read through powercap: RAPL of Intel and of AMD.

Knows which domains lie inside which, when two zones show one counter, and how a counter wraps. What
it refuses to know: which domains make up a headline, and a counter in a virtual machine, where it
would be that of the whole socket.

A domain's zones are found by their `name` files alone; the numbers in the folders' names move from
boot to boot. Layout and units: Linux Documentation/power/powercap; permission: CVE-2020-8694.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ...basis import Unavailable
from ...energy import Refusal, Scope, SensorInfo
from ...units import NS_PER_S
from . import Found, SensorBreakError, SensorGapError
from .sysfs import Tree

_HOME = "sys/class/powercap"
# Zones stand side by side in the class, and once more inside their parents.
_PATTERNS = ("*rapl*:*", "*rapl*/*rapl*:*", "*rapl*/*/*rapl*:*")
_PACKAGE = re.compile(r"package-(\d{1,6})(?:-die-\d{1,6})?")
_KINDS = ("package", "dram", "psys", "core", "uncore")
_PREFERRED = "intel-rapl"

_MOST_W = 1000.0
"""No domain draws more: a fall of the counter that would need it is a reset and no wrap."""
UPDATE_S = 0.001
_COUNTS = 2**32 - 1
"""The hardware counts in 32 bits, whatever a count is worth."""
_NEAR = 1e-4
_UPDATE_UJ = int(_MOST_W * 1e6 * UPDATE_S)
"""Two dies may show one counter an update apart. So near stand two counters that are taken to be
one: an update's energy, but no more than that share of their value, which chance would not reach.
"""
_LOOKS, _LOOK_AGAIN_S = 3, 0.005
"""Counting one counter twice doubles the figure: two dies are taken for two only when they are seen
apart each time, and not when one was looked at while the other was being brought up to date."""
GAIN = "unknown: neither Intel nor AMD states one"
PSYS_COVERS = ("cpu:*", "dram:*", "gpu:*", "system")
"""A charger's monitor feeds it, behind which a discrete GPU hangs too: never added to another."""
PSYS_NOTES = ("what the platform's counter takes in is the maker's choice",)


def find(tree: Tree, *, clock: Callable[[], int] = time.perf_counter_ns) -> Found:
    """Looks for RAPL counters below the tree's root. Reads each once, writes nothing.

    A refusal is given for each domain that cannot be read or that repeats another, and for RAPL as
    a whole where there is none.
    """
    zones, strange = _zones(tree)
    if not zones and not strange:
        return Found(refusals=(_absent(tree),))
    if tree.is_virtual():
        reason = "virtual machine: its RAPL counters would be those of the whole socket"
        return Found(refusals=(_refusal(reason, "Measure on the machine itself."),))
    sensors: list[Rapl] = []
    twins: list[Refusal] = []
    failed: list[tuple[str, SensorGapError]] = []
    notes = _notes(tree)
    for domain in sorted({zone.domain for zone in zones}, key=_rank):
        candidates = _controls([zone for zone in zones if zone.domain == domain])
        for n, members in enumerate(candidates):
            try:
                sensor = Rapl(tree, members, clock, notes.get(domain[0], ()))
            except SensorGapError as error:
                failed.append((members[0].label, error))
                continue
            sensors.append(sensor)
            twins += _mirrors(sensor, members)
            twins += [_twin(zone, members[0]) for other in candidates[n + 1 :] for zone in other]
            break
    return Found(sensors=tuple(sensors), refusals=(*_failures(tree, failed), *strange, *twins))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Zone:
    """A powercap zone of a known domain: its kind, and the package it belongs to (-1: psys).

    `label` is the zone's name, and for what lies inside a package also that package's.
    """

    folder: str
    control: str
    label: str
    kind: str
    package: int

    @property
    def domain(self) -> tuple[str, int]:
        return self.kind, self.package


class Rapl:
    """One domain: the counter of its zone, or of the zones of its dies, as joules.

    Dies that stood at one value at the start are counted once for as long as they go on together:
    on some AMD processors each die's zone shows the package's only counter.
    """

    def __init__(
        self,
        tree: Tree,
        zones: Sequence[_Zone],
        clock: Callable[[], int],
        notes: tuple[str, ...] = (),
    ) -> None:
        self._counted_uj = 0
        self._moved = False
        self.mirrored = False
        for attempt in range(_LOOKS if len(zones) > 1 else 1):
            if attempt:
                time.sleep(_LOOK_AGAIN_S)
            self._counters = [_Counter(tree, zone.folder, clock) for zone in zones]
            first = self._counters[0].energy_uj
            self._near_uj = min(_UPDATE_UJ, int(_NEAR * first))
            self.mirrored = len(zones) > 1 and all(
                abs(counter.energy_uj - first) <= self._near_uj for counter in self._counters
            )
            if self.mirrored:
                break
        if len(zones) > 1:
            names = " and ".join(zone.label for zone in zones)
            how = "stood at one value at first and count once" if self.mirrored else "are summed"
            notes = (*notes, f"the counters of {names} {how}")
        self.info = _info(zones[0], max(c.step_uj for c in self._counters) / 1e6, notes)

    def read(self) -> float:
        """Joules since the sensor was made.

        Raises SensorGapError when a zone cannot be read, SensorBreakError when one was reset.
        """
        # Every zone is read before anything is counted: a failure leaves all of them as they were.
        values, apart = self._values()
        broken: SensorBreakError | None = None
        steps: list[int] = []
        for counter, value in zip(self._counters, values, strict=True):
            try:
                steps.append(counter.advance(value))
            except SensorBreakError as error:
                broken = error
        if apart:
            self.mirrored = False
            if self._moved:
                broken = SensorBreakError("the dies' counters moved apart: they are two after all")
        if broken is not None:
            raise broken
        self._moved = self._moved or any(steps)
        self._counted_uj += steps[0] if self.mirrored else sum(steps)
        return self._counted_uj / 1e6

    def close(self) -> None:
        """Nothing is held open."""

    def _values(self) -> tuple[list[int], bool]:
        """All zones' counters, and whether those that were one are so no more."""
        for attempt in range(_LOOKS):
            if attempt:
                time.sleep(_LOOK_AGAIN_S)
            values = [counter.peek() for counter in self._counters]
            if not self.mirrored or self._one(values, self._counters[0].peek()):
                return values, False
        return values, True

    def _one(self, values: list[int], again: int) -> bool:
        # A second reading of the first counter ends the span in which all others were read: what
        # shows the same counter can only lie within it.
        modulus = self._counters[0].modulus_uj or max(*values, again) + 1
        near, passed = self._near_uj, (again - values[0]) % modulus
        return all((value - values[0] + near) % modulus <= passed + 2 * near for value in values)


class _Counter:
    """One zone's counter: what it showed last, and what it has counted since."""

    def __init__(self, tree: Tree, folder: str, clock: Callable[[], int]) -> None:
        self._tree = tree
        self._path = f"{folder}/energy_uj"
        self._clock = clock
        try:
            range_uj = tree.number(f"{folder}/max_energy_range_uj")
        except SensorGapError:
            range_uj = 0
        # One count more than the greatest value is zero again.
        self.step_uj = max(1.0, range_uj / _COUNTS)
        self.modulus_uj = range_uj + round(self.step_uj) if range_uj > 0 else None
        self.energy_uj = self.peek()
        self._read_ns = clock()

    def peek(self) -> int:
        """The counter in microjoules, counting nothing. Raises SensorGapError."""
        value = self._tree.number(self._path)
        if value < 0 or (self.modulus_uj is not None and value >= self.modulus_uj):
            raise SensorGapError(f"{self._tree.shown(self._path)} holds {value}, out of its range")
        return value

    def advance(self, value: int) -> int:
        """Microjoules since the last value. Raises SensorBreakError when that cannot be known."""
        now = self._clock()
        step = value - self.energy_uj
        passed_s = (now - self._read_ns) / NS_PER_S
        self.energy_uj, self._read_ns = value, now
        if step >= 0:
            return step
        possible_uj = _MOST_W * 1e6 * (passed_s + UPDATE_S)
        if self.modulus_uj is not None and self.modulus_uj + step <= possible_uj:
            return self.modulus_uj + step
        raise SensorBreakError(
            f"{self._tree.shown(self._path)} fell by {-step / 1e6:.6g} J within {passed_s:.3g} s: "
            "it was reset, for a wrap would have taken longer"
        )


def _zones(tree: Tree) -> tuple[list[_Zone], list[Refusal]]:
    folders: dict[str, str] = {}
    for pattern in _PATTERNS:
        for folder in tree.glob(f"{_HOME}/{pattern}"):
            if tree.exists(f"{folder}/energy_uj"):
                folders.setdefault(folder.rpartition("/")[2], folder)
    zones: list[_Zone] = []
    strange: list[Refusal] = []
    names = {zone_id: tree.word(f"{folder}/name") for zone_id, folder in folders.items()}
    for zone_id, folder in folders.items():
        name = names[zone_id]
        parent = names.get(zone_id.rpartition(":")[0], "")
        package = _PACKAGE.fullmatch(name) or _PACKAGE.fullmatch(parent)
        kind = "package" if _PACKAGE.fullmatch(name) else name
        if kind == "psys" or (kind in _KINDS and package is not None):
            number = int(package[1]) if package is not None and kind != "psys" else -1
            label = name if kind in {"package", "psys"} else f"{name} of {parent}"
            control = zone_id.partition(":")[0]
            zones.append(
                _Zone(folder=folder, control=control, label=label, kind=kind, package=number)
            )
        else:
            reason = f"{tree.shown(folder)} is named {name[:40]!r}, which is no known domain"
            strange.append(_refusal(reason, "It is left out; nothing else depends on it."))
    return zones, strange


def _controls(zones: list[_Zone]) -> list[list[_Zone]]:
    """The zones of one domain by the way they are read, the usual way first."""
    controls = sorted({zone.control for zone in zones}, key=lambda c: (c != _PREFERRED, c))
    return [
        sorted((z for z in zones if z.control == control), key=lambda z: (z.label, z.folder))
        for control in controls
    ]


def _rank(domain: tuple[str, int]) -> tuple[int, int]:
    return _KINDS.index(domain[0]), domain[1]


def _info(zone: _Zone, step_j: float, notes: tuple[str, ...]) -> SensorInfo:
    n = zone.package
    covers = {
        "package": (f"cpu:{n}",),
        "core": (f"cpu:{n}/core",),
        "uncore": (f"cpu:{n}/uncore",),
        "dram": (f"dram:{n}",),
        "psys": PSYS_COVERS,
    }[zone.kind]
    name = zone.kind if zone.kind == "psys" else f"{zone.kind}-{n}"
    return SensorInfo(
        id=f"rapl:{name}",
        source=f"RAPL {name} (powercap, {zone.control})",
        scope=Scope.BOARD if zone.kind == "psys" else Scope.CHIP,
        covers=covers,
        method="counter",
        update_s=UPDATE_S,
        step=step_j,
        poll_s=0.1,
        window_s=1.0,
        gain=GAIN,
        notes=notes,
    )


def _notes(tree: Tree) -> dict[str, tuple[str, ...]]:
    """What is known to be odd about a kind of domain on this make of processor."""
    notes: dict[str, tuple[str, ...]] = {"psys": PSYS_NOTES}
    if "AuthenticAMD" in tree.word("proc/cpuinfo"):
        notes["core"] = ("AMD's core counter reads far less than all cores draw",)
        notes["package"] = ("AMD counts no memory modules",)
    return notes


def _refusal(reason: str, remedy: str) -> Refusal:
    return Refusal(name="rapl", why=Unavailable(reason=reason, remedy=remedy))


def _absent(tree: Tree) -> Refusal:
    if tree.is_virtual():
        return _refusal(
            "no powercap: virtual machine",
            "Measure on the machine itself: a guest is not shown the energy counters.",
        )
    # A container's runtime covers the folder that the links of the class lead to.
    if any(not tree.exists(path) for path in tree.glob(f"{_HOME}/*rapl*")):
        return _refusal(
            "the container hides the RAPL counters of this machine",
            "Show them and tell where: docker run -v /sys:/host/sys:ro -e EDGE_SENSOR_ROOT=/host",
        )
    if "CPU implementer" in tree.word("proc/cpuinfo"):
        return _refusal("no powercap: Arm processors have no such counter", "")
    return _refusal(
        "no powercap: this kernel or processor offers no energy counter",
        "Try: sudo modprobe intel_rapl_msr",
    )


def _failures(tree: Tree, failed: list[tuple[str, SensorGapError]]) -> Iterator[Refusal]:
    denied = [item for item in failed if isinstance(item[1].__cause__, PermissionError)]
    if denied:
        names = ", ".join(dict.fromkeys(name for name, _ in denied))
        yield _refusal(
            f"permission denied: {denied[0][1]} ({names})",
            f"Until the next boot: sudo chmod a+r {tree.shown(_HOME)}/*rapl*/energy_uj",
        )
    for name, error in failed:
        if (name, error) not in denied:
            yield _refusal(f"RAPL {name} cannot be read: {error}", "See: sudo dmesg | grep -i rapl")


def _mirrors(sensor: Rapl, zones: Sequence[_Zone]) -> Iterator[Refusal]:
    if sensor.mirrored:
        for zone in zones[1:]:
            yield _refusal(
                f"{zone.label} shows the same value as {zones[0].label}: it is counted once",
                "None is needed: should the two move apart, both are counted from then on.",
            )


def _twin(zone: _Zone, kept: _Zone) -> Refusal:
    return _refusal(
        f"{zone.label} of {zone.control} repeats that of {kept.control}: it is counted once",
        "None is needed.",
    )
