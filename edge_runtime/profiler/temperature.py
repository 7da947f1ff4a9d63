"""The thermometers of a machine: which of them tell how hot the computing parts are, and reading.

Linux only, from sysfs below an injectable root. Kept are those of processors, of the chip they are
on, of GPUs, of boards, skins and batteries. Left out by name are radios, storage, cameras, chargers
and power converters, which do not slow a model down, and zones that are no thermometers: Intel's
`INT3400` stands at a constant 20 degrees, a Jetson's `PMIC-Die` at 100, and a Snapdragon's `soc` is
the battery's state of charge. hwmon chips stand in where no zone is a processor's; a GPU that has
one is always read.

A reading of exactly 0, at or below -30 or above 150 degrees is no temperature: that is what a
sensor without power or without calibration says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .energy import SensorGapError
from .energy.sysfs import Tree

COLDEST_CELSIUS = -30.0
HOTTEST_CELSIUS = 150.0
MOST_THERMOMETERS = 32
"""A phone's chip has a zone for each of its cores and more: the first of them say it all."""

_MOST_TRIPS = 64
_PROCESSOR = re.compile(
    r"cpu|pkg|soc|core|cluster|tj|tctl|tdie|b0d4|apss|package|big|little", re.ASCII | re.IGNORECASE
)
_GPU = re.compile(r"gpu|npu|i915", re.ASCII | re.IGNORECASE)
_ELSEWHERE = re.compile(
    r"wifi|wlan|wmt|modem|mdm|radio|(^|[-_])pa\d*($|[-_])|nvme|ssd|emmc|ufs|camera|flash|charg|chg|usb"
    r"|int3400|pmic|(^|[-_])pm[a-z]?\d|fan|bcl|vbat|ibat|vph|^soc$",
    re.ASCII | re.IGNORECASE,
)
_PROCESSOR_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal")
_GPU_CHIPS = ("amdgpu", "nouveau", "xe", "i915")
_BEST_LABELS = ("package", "tdie", "tctl", "junction", "edge")
"""What stands for the whole chip, the best first: a Threadripper's Tctl has an offset."""
_SLOWED_AT_CRITICAL = ("coretemp", "k10temp")
"""Chips whose critical temperature is where the processor slows itself, by their kernel drivers'
documentation (Documentation/hwmon); elsewhere it is where the system shuts down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thermometer:
    """One temperature: its file below the root, and where the system begins to slow down.

    `rank` is 0 for a processor or the chip it is on, 1 for a GPU, 2 for what is around them.
    """

    name: str
    path: str
    rank: int
    trip_celsius: float | None = None

    def read(self, tree: Tree) -> float | None:
        """Degrees Celsius now; None when there is no reading that can be a temperature."""
        return plausible_celsius(tree, self.path)


def plausible_celsius(tree: Tree, path: str) -> float | None:
    """A file of millidegrees as degrees Celsius, or None when that is no temperature."""
    try:
        celsius = tree.number(path) / 1000
    except (SensorGapError, OSError):
        return None
    if celsius == 0 or not COLDEST_CELSIUS < celsius <= HOTTEST_CELSIUS:
        return None
    return celsius


def find_thermometers(tree: Tree) -> tuple[Thermometer, ...]:
    """The thermometers that give a temperature now, processors first, at most 32 of them."""
    zones = _zones(tree)
    chips = _chips(tree)
    if any(zone.rank == 0 for zone in zones):
        trips = [c.trip_celsius for c in chips if c.rank == 0 and c.trip_celsius is not None]
        chips = [chip for chip in chips if chip.rank == 1]
        zones = [_with_trip(zone, min(trips, default=None)) for zone in zones]
    found = sorted((*zones, *chips), key=lambda thermometer: thermometer.rank)
    return tuple(found[:MOST_THERMOMETERS])


def _zones(tree: Tree) -> list[Thermometer]:
    found: list[Thermometer] = []
    names: set[str] = set()
    for path in tree.glob("sys/class/thermal/thermal_zone*/temp"):
        folder = path.rpartition("/")[0]
        kind = _name(tree, f"{folder}/type")
        if not kind or _ELSEWHERE.search(kind) or plausible_celsius(tree, path) is None:
            continue
        name = kind if kind not in names else f"{kind} ({folder.rpartition('/')[2]})"
        names.add(name)
        found.append(
            Thermometer(
                name=name, path=path, rank=_rank(kind), trip_celsius=_passive_trip(tree, folder)
            )
        )
    return found


def _passive_trip(tree: Tree, folder: str) -> float | None:
    """The lowest trip point at which the system slows its devices down."""
    trips = []
    for path in tree.glob(f"{folder}/trip_point_*_temp")[:_MOST_TRIPS]:
        if tree.word(f"{path.removesuffix('temp')}type") == "passive":
            celsius = plausible_celsius(tree, path)
            if celsius is not None and celsius > 0:
                trips.append(celsius)
    return min(trips, default=None)


def _with_trip(zone: Thermometer, trip: float | None) -> Thermometer:
    """An Intel package's zone has no trip point of its own; its chip says where it slows down."""
    if trip is None or zone.trip_celsius is not None or zone.name.partition(" ")[0] != _PACKAGE:
        return zone
    return Thermometer(name=zone.name, path=zone.path, rank=zone.rank, trip_celsius=trip)


_PACKAGE = "x86_pkg_temp"


def _chips(tree: Tree) -> list[Thermometer]:
    found: list[Thermometer] = []
    for path in tree.glob("sys/class/hwmon/hwmon*/name"):
        chip = _name(tree, path)
        if chip not in _PROCESSOR_CHIPS and chip not in _GPU_CHIPS:
            continue
        folder = path.rpartition("/")[0]
        readings = [
            (_name(tree, f"{file.removesuffix('input')}label"), file)
            for file in tree.glob(f"{folder}/temp*_input")
            if plausible_celsius(tree, file) is not None
        ]
        for label, file in _best(readings):
            trip = None
            if chip in _SLOWED_AT_CRITICAL:
                trip = plausible_celsius(tree, f"{file.removesuffix('input')}crit")
            found.append(
                Thermometer(
                    name=f"{chip} {label}".strip(),
                    path=file,
                    rank=0 if chip in _PROCESSOR_CHIPS else 1,
                    trip_celsius=trip,
                )
            )
    return found


def _best(readings: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that stand for the whole chip, or all where none does."""
    for label in _BEST_LABELS:
        chosen = [reading for reading in readings if reading[0].lower().startswith(label)]
        if chosen:
            return chosen
    return readings


def _rank(kind: str) -> int:
    if _GPU.search(kind):
        return 1
    return 0 if _PROCESSOR.search(kind) else 2


def _name(tree: Tree, path: str) -> str:
    """A driver's name for something, without what cannot be printed."""
    return "".join(c for c in tree.word(path)[:60] if c.isprintable())
