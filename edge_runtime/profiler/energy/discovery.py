"""The honest search for energy sensors: every kind is looked for, every refusal kept.

It knows which kinds there are on which system and where each would show itself, and nothing of how
one is read. What a search or a first reading raises becomes a refusal with the error's name: no
sensor may cost a measurement.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...basis import Unavailable
from ...energy import Battery, Refusal, SensorInfo
from . import METER_REMEDY, Discovery, EnergySensor, Found, SensorBreakError, SensorGapError
from .cover import headline
from .sysfs import Tree

ROOT_VARIABLE = "EDGE_SENSOR_ROOT"
"""Names a folder to read sensors below instead of `/`: for tests, and where a container has the
host's /sys mounted at another place."""

_ON_METAL = "Measure on the machine itself."
_MADE_UP = "the battery shown to a guest is made up by its host"
_PROCESSOR = ("rapl", "perf")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """One kind of sensor: how it is searched for, and what shows that it is present.

    `guest` says why a virtual machine's cannot be believed; empty where it can.
    """

    name: str
    find: Callable[[Tree], Found]
    is_present: Callable[[Tree], bool]
    guest: str = ""


def sensor_root() -> Path:
    """The folder that stands for `/` when sensors are read."""
    return Path(os.environ.get(ROOT_VARIABLE) or "/")


def discover(root: Path | None = None, *, system: str = sys.platform) -> Discovery:
    """Looks for every kind of energy sensor of this system, and reads each found once.

    Writes nothing and never raises. `root` stands in for the file system's root, by default that of
    EDGE_SENSOR_ROOT or `/`. The caller closes what it is given.
    """
    root = sensor_root() if root is None else root
    if not root.is_dir():
        why = Unavailable(
            reason=f"{ROOT_VARIABLE} names {root}, which is no folder",
            remedy=f"unset {ROOT_VARIABLE}",
        )
        return Discovery(sensors=(), headline=(), refusals=(Refusal(name="sensor root", why=why),))
    tree = Tree(root)
    is_guest = system == "linux" and tree.is_virtual()
    sensors: list[EnergySensor] = []
    present: list[Refusal] = []
    absent: list[Refusal] = []
    for kind in _kinds(system):
        shown = kind.is_present(tree)
        found = _for_guest(kind) if is_guest and shown and kind.guest else _search(kind, tree)
        kept, failed = _tried(found.sensors, sensors)
        sensors += kept
        # What was found and would not be read is present, whatever its signs say. A processor's
        # counters are never the guest's, whatever its kernel lists.
        present += failed
        counts = (shown or kept) and not (is_guest and kind.name in _PROCESSOR)
        (present if counts else absent).extend(found.refusals)
    refusals = tuple(_with_remedy(refusal) for refusal in (*present, *absent))
    if root != Path("/"):
        sensors = [_Relocated(sensor, f"read below {root}") for sensor in sensors]
    return Discovery(
        sensors=tuple(sensors),
        headline=headline([sensor.info for sensor in sensors]),
        refusals=refusals,
        battery=None if is_guest else _battery_capacity(tree, system),
    )


def _for_guest(kind: _Kind) -> Found:
    """The refusal of what a virtual machine shows and cannot be believed."""
    why = Unavailable(reason=f"virtual machine: {kind.guest}", remedy=_ON_METAL)
    return Found(refusals=(Refusal(name=kind.name, why=why),))


def _search(kind: _Kind, tree: Tree) -> Found:
    """What one kind has to offer."""
    try:
        return kind.find(tree)
    except Exception as error:  # a driver or a vendor's library may raise anything at all
        return Found(refusals=(_surprise(kind.name, "the search for it failed", error),))


def _tried(
    found: Sequence[EnergySensor], others: Sequence[EnergySensor]
) -> tuple[list[EnergySensor], list[Refusal]]:
    """Those that gave a first reading, closing the others, and why those did not."""
    kept: list[EnergySensor] = []
    refusals: list[Refusal] = []
    taken = {sensor.info.id for sensor in others}
    for sensor in found:
        refusal = _first_reading(sensor)
        if refusal is None and sensor.info.id in taken:
            why = Unavailable(reason="another sensor has the same name", remedy=METER_REMEDY)
            refusal = Refusal(name=sensor.info.id, why=why)
        if refusal is None:
            taken.add(sensor.info.id)
            kept.append(sensor)
        else:
            with contextlib.suppress(Exception):  # a driver may raise anything, and nothing is lost
                sensor.close()
            refusals.append(refusal)
    return kept, refusals


def _first_reading(sensor: EnergySensor) -> Refusal | None:
    """Reads once. None when joules came, else why they did not."""
    try:
        sensor.read()
    except (SensorGapError, SensorBreakError) as error:
        return Refusal(name=sensor.info.id, why=Unavailable(reason=str(error), remedy=METER_REMEDY))
    except Exception as error:  # a driver or a vendor's library may raise anything at all
        return _surprise(sensor.info.id, "its first reading failed", error)
    return None


def _surprise(name: str, what: str, error: Exception) -> Refusal:
    words = f"{what}: {type(error).__name__}: {error}".rstrip(": ")
    return Refusal(name=name, why=Unavailable(reason=words, remedy=METER_REMEDY))


def _with_remedy(refusal: Refusal) -> Refusal:
    """A meter helps where nothing else does."""
    if refusal.why.remedy:
        return refusal
    return replace(refusal, why=replace(refusal.why, remedy=METER_REMEDY))


class _Relocated:
    """A sensor that says below which root it is read."""

    def __init__(self, sensor: EnergySensor, note: str) -> None:
        notes = sensor.info.notes
        self.info: SensorInfo = replace(
            sensor.info, notes=notes if note in notes else (*notes, note)
        )
        self._sensor = sensor

    def read(self) -> float:
        """The sensor's own reading."""
        return self._sensor.read()

    def close(self) -> None:
        """Closes the sensor."""
        self._sensor.close()


def _kinds(system: str) -> tuple[_Kind, ...]:
    """The kinds of sensors a system can have, the likeliest first."""
    nvidia = _Kind(name="nvidia", find=_nvidia, is_present=_has_nvidia)
    if system == "darwin":
        return (_Kind(name="apple", find=_apple, is_present=lambda _: True),)
    if system != "linux":
        unread = Found(refusals=(_elsewhere(system),))
        other = _Kind(name="system", find=lambda _: unread, is_present=lambda _: False)
        return (other, nvidia)
    events = "sys/bus/event_source/devices/power/events/energy-*"
    meters = tuple(
        f"sys/class/hwmon/hwmon*/{name}"
        for name in ("energy*_input", "power*_input", "power*_average")
    )
    gauges = tuple(
        f"sys/class/power_supply/*/{name}_now" for name in ("energy", "power", "charge", "current")
    )
    return (
        _Kind(
            name="rapl", find=_rapl, is_present=_has("sys/class/powercap/*rapl*"),
        ),
        _Kind(name="perf", find=_perf, is_present=_has(events)),
        _Kind(name="hwmon", find=_hwmon, is_present=_has(*meters)),
        _Kind(name="ina3221", find=_ina3221, is_present=_has("sys/bus/i2c/drivers/ina3221*/*/*")),
        _Kind(name="pmic", find=_pmic, is_present=_is_raspberry_pi),
        _Kind(name="battery", find=_battery, is_present=_has(*gauges), guest=_MADE_UP),
        nvidia,
    )  # fmt: skip


def _has(*patterns: str) -> Callable[[Tree], bool]:
    return lambda tree: any(tree.glob(pattern) for pattern in patterns)


def _has_nvidia(tree: Tree) -> bool:
    from .nvml import driver_is_present

    return driver_is_present(tree)


def _is_raspberry_pi(tree: Tree) -> bool:
    return "raspberrypi" in tree.word("proc/device-tree/compatible")


def _rapl(tree: Tree) -> Found:
    from .rapl import find

    return find(tree)


def _perf(tree: Tree) -> Found:
    from .perf import find

    return find(tree)


def _hwmon(tree: Tree) -> Found:
    from .hwmon import find

    return find(tree)


def _ina3221(tree: Tree) -> Found:
    from .ina3221 import find

    return find(tree)


def _pmic(tree: Tree) -> Found:
    from .pmic import find

    return find(tree)


def _battery(tree: Tree) -> Found:
    from .battery import find

    return find(tree)


def _nvidia(tree: Tree) -> Found:
    from .nvidia import find

    return find(tree)


def _apple(tree: Tree) -> Found:
    from .apple import find

    return find(tree, system="darwin")


def _battery_capacity(tree: Tree, system: str) -> Battery | None:
    """The battery's capacity, None where there is none or nothing tells."""
    if system != "linux":
        return None
    try:
        from .battery import capacity

        return capacity(tree)
    except Exception:  # a made-up gauge may hold anything, and no capacity is an answer too
        return None


def _elsewhere(system: str) -> Refusal:
    what = {"win32": "Windows' energy meters (EMI)"}.get(system, f"energy sensors on {system}")
    why = Unavailable(reason=f"this version cannot read {what} yet", remedy=METER_REMEDY)
    return Refusal(name="system", why=why)
