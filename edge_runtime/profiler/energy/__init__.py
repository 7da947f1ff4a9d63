"""Energy: the protocol a sensor fulfils, and the honest search for one.

A sensor is one physical counter of joules. This version carries no reader yet: `discover` looks
where each kind of sensor would be and says, for each, why it gives no reading here. What cannot be
read is `Unavailable`; it is never zero joules, and it is never estimated from a data sheet.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from ...measurement import Unavailable


class Scope(StrEnum):
    """What a sensor's joules are the joules of. Scopes nest: they are listed, never summed."""

    CHIP = "chip"
    MODULE = "module"
    BOARD = "board"
    DEVICE = "device"


@runtime_checkable
class EnergySensor(Protocol):
    """One physical energy counter.

    `id` names it (`rapl:package-0`); `covers` lists what lies inside its reading (`cpu`, `dram`).
    """

    id: str
    scope: Scope
    covers: frozenset[str]

    def read(self) -> float:
        """Joules since an arbitrary origin, never falling: wrapping is already dealt with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A kind of sensor that was looked for and gives no reading, and why."""

    name: str
    why: Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What was found: sensors that can be read, and every kind that cannot."""

    sensors: tuple[EnergySensor, ...]
    refusals: tuple[Refusal, ...]

    def unavailable(self) -> Unavailable:
        """The one reason to show where a reading is missing: that of the first kind looked for.

        Refusals are ordered so that a sensor that is present comes before one that is not.
        """
        return self.refusals[0].why


_NO_READER = "this version has no reader for it yet"


def discover(root: Path = Path("/"), *, system: str = sys.platform) -> Discovery:
    """Looks for every kind of energy sensor of this system. Reads directories only, writes nothing.

    `root` stands in for the file system's root in tests.
    """
    found = list(_linux(root)) if system == "linux" else [_elsewhere(system)]
    present = [refusal for is_present, refusal in found if is_present]
    absent = [refusal for is_present, refusal in found if not is_present]
    return Discovery(sensors=(), refusals=(*present, *absent))


def _linux(root: Path) -> Iterator[tuple[bool, Refusal]]:
    yield _powercap(root)
    yield _hwmon(root)
    yield _battery(root)
    yield _nvidia(root)


def _powercap(root: Path) -> tuple[bool, Refusal]:
    home = root / "sys/class/powercap"
    zones = sorted(home.glob("*rapl*/energy_uj"))
    if not zones:
        virtual = _is_virtual(root)
        reason = "no powercap: " + (
            "virtual machine" if virtual else "this kernel or processor offers no energy counter"
        )
        remedy = (
            "Measure on the machine itself: a guest is not shown the energy counters."
            if virtual
            else "Try: sudo modprobe intel_rapl_common"
        )
        return False, Refusal(name="rapl", why=Unavailable(reason=reason, remedy=remedy))
    if not any(os.access(zone, os.R_OK) for zone in zones):
        why = Unavailable(
            reason=f"a RAPL counter is present but only root may read it, and {_NO_READER}",
            remedy=f"Nothing helps before a reader lands; then: sudo chmod a+r {zones[0]}",
        )
    else:
        why = Unavailable(
            reason=f"a RAPL counter is present but {_NO_READER}",
            remedy="Use a wall or USB power meter meanwhile.",
        )
    return True, Refusal(name="rapl", why=why)


def _hwmon(root: Path) -> tuple[bool, Refusal]:
    meters = [
        path
        for pattern in ("energy*_input", "power*_input", "power*_average", "curr*_input")
        for path in (root / "sys/class/hwmon").glob(f"hwmon*/{pattern}")
    ]
    return _plain(
        "hwmon", bool(meters), "a board power sensor (hwmon)", "no hwmon power or energy sensor"
    )


def _battery(root: Path) -> tuple[bool, Refusal]:
    gauges = [
        path
        for name in ("energy_now", "power_now", "charge_now", "current_now")
        for path in (root / "sys/class/power_supply").glob(f"*/{name}")
    ]
    return _plain("battery", bool(gauges), "a battery gauge", "no battery")


def _nvidia(root: Path) -> tuple[bool, Refusal]:
    present = (root / "proc/driver/nvidia/version").exists()
    return _plain("nvml", present, "an NVIDIA GPU", "no NVIDIA driver")


def _plain(name: str, present: bool, what: str, absent: str) -> tuple[bool, Refusal]:
    reason = f"{what} is present but {_NO_READER}" if present else absent
    remedy = "Use a wall or USB power meter meanwhile."
    return present, Refusal(name=name, why=Unavailable(reason=reason, remedy=remedy))


def _elsewhere(system: str) -> tuple[bool, Refusal]:
    what = {"darwin": "IOReport energy counters", "win32": "Windows energy meters (EMI)"}
    kind = what.get(system, f"energy sensors on {system}")
    return False, Refusal(
        name="system",
        why=Unavailable(
            reason=f"this version cannot read {kind} yet",
            remedy="Use a wall or USB power meter meanwhile.",
        ),
    )


def _is_virtual(root: Path) -> bool:
    try:
        return " hypervisor" in (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return False
