"""Energy and power that drivers show as hardware monitors: AMD sockets, graphics cards, servers.

A monitor is known by its `name` file; its number moves from boot to boot. Only names in the table
below are read. Most monitors (memory modules, disks, fans) have no energy at all, and one that has
but is not known is refused, for nobody can say what its joules would be the joules of.

Units are the kernel's: microjoules and microwatts (Linux Documentation/hwmon/sysfs-interface.rst).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...basis import Unavailable
from ...energy import Refusal, Scope, SensorInfo
from . import METER_REMEDY, EnergySensor, Found, SensorBreakError, SensorGapError, rapl
from .integrate import Integrated
from .sysfs import Tree

_HOME = "sys/class/hwmon"
_METERS = ("energy*_input", "power*_input", "power*_average")
_SOCKET = re.compile(r"Esocket([0-9]{1,4})")
_MICRO = 1e-6

# amdgpu's power is the firmware's own account; its interval is not stated anywhere.
_GPU_UPDATE_S, _GPU_POLL_S, _GPU_WINDOW_S = 0.1, 0.1, 5.0
# A server's meter states its averaging interval; this is used where it does not.
_SERVER_UPDATE_S = 1.0
_SAMPLES = 20
"""So many readings make a window of a power sensor."""


def find(tree: Tree, *, clock: Callable[[], int] = time.perf_counter_ns) -> Found:
    """Looks for hardware monitors of energy or power whose scope is known. Reads each once.

    A socket that powercap counts already is refused: it would be the same counter twice.
    """
    folders = tree.glob(f"{_HOME}/hwmon*")
    counted = frozenset(part for sensor in rapl.find(tree).sensors for part in sensor.info.covers)
    sensors: list[EnergySensor] = []
    refusals: list[Refusal] = []
    for folder in folders:
        for reading in _readings(tree, folder):
            if isinstance(reading, Refusal):
                refusals.append(reading)
                continue
            if reading.is_socket and (tree.is_virtual() or reading.info.covers[0] in counted):
                refusals.append(_not_ours(reading, tree))
                continue
            try:
                sensors.append(_sensor(tree, reading, clock))
            except SensorGapError as error:
                refusals.append(_unreadable(tree, reading, error))
    if not sensors and not refusals:
        refusals.append(_refusal("no hwmon sensor of energy or power", METER_REMEDY))
    return Found(sensors=_by_id(sensors), refusals=tuple(refusals))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One file of a monitor that tells microjoules or microwatts, and what they are of."""

    info: SensorInfo
    path: str
    is_socket: bool = False


class Counted:
    """A monitor's energy counter, which its driver has widened so that it does not wrap."""

    def __init__(self, tree: Tree, reading: Reading) -> None:
        self.info = reading.info
        self._tree = tree
        self._path = reading.path
        self._last = self._peek()
        self._counted = 0

    def read(self) -> float:
        """Joules since the sensor was made. Raises SensorGapError and SensorBreakError."""
        value = self._peek()
        step, self._last = value - self._last, value
        if step < 0:
            raise SensorBreakError(
                f"{self._tree.shown(self._path)} fell by {-step * _MICRO:.6g} J: it was reset"
            )
        self._counted += step
        return self._counted * _MICRO

    def close(self) -> None:
        """Nothing is held open."""

    def _peek(self) -> int:
        value = self._tree.number(self._path)
        if value < 0:
            raise SensorGapError(f"{self._tree.shown(self._path)} holds {value}: energy below zero")
        return value


class Powered:
    """A monitor's present power."""

    def __init__(self, tree: Tree, reading: Reading) -> None:
        self.info = reading.info
        self._tree = tree
        self._path = reading.path

    def read_w(self) -> float:
        """The power in watts. Raises SensorGapError, also for 0: what is switched on takes some."""
        value = self._tree.number(self._path)
        if value == 0:
            raise SensorGapError(f"{self._tree.shown(self._path)} reads 0 W, yet it is switched on")
        return value * _MICRO

    def close(self) -> None:
        """Nothing is held open."""


def _sensor(tree: Tree, reading: Reading, clock: Callable[[], int]) -> EnergySensor:
    """The sensor of a reading that can be taken. Raises SensorGapError where it cannot."""
    if reading.info.method == "counter":
        return Counted(tree, reading)
    powered = Powered(tree, reading)
    powered.read_w()
    return Integrated(powered, clock=clock)


def _readings(tree: Tree, folder: str) -> Iterator[Reading | Refusal]:
    """What a monitor has to read, or why what it has is not read."""
    name = tree.word(f"{folder}/name")
    if name in {"amd_energy", "zenergy"}:
        yield from _sockets(tree, folder, name)
    elif name == "amdgpu":
        yield from _amdgpu(tree, folder)
    elif name in {"i915", "xe"}:
        yield from _intel_gpu(tree, folder, name)
    elif name == "power_meter":
        yield from _server(tree, folder)
    # Batteries, chargers and INA chips show themselves here too, and are read where they belong.
    elif not (tree.exists(f"{folder}/device/type") or name.startswith("ina")):
        meters = [path for meter in _METERS for path in tree.glob(f"{folder}/{meter}")]
        if meters:
            yield _refusal(
                f"{tree.shown(meters[0])} belongs to {name[:40]!r}: of what it tells the energy or "
                "power is not known here",
                METER_REMEDY,
            )


def _sockets(tree: Tree, folder: str, name: str) -> Iterator[Reading]:
    for label in tree.glob(f"{folder}/energy*_label"):
        match = _SOCKET.fullmatch(tree.word(label))
        if match is None:
            continue  # a core's counter: inside its socket's
        info = SensorInfo(
            id=f"hwmon:{name}-socket-{int(match[1])}",
            source=f"RAPL socket {int(match[1])} (hwmon, {name})",
            scope=Scope.CHIP,
            covers=(f"cpu:{int(match[1])}",),
            method="counter",
            update_s=rapl.UPDATE_S,
            # The usual count of AMD's counter, 1/2^16 J.
            step=2.0**-16,
            poll_s=0.1,
            window_s=1.0,
            gain=rapl.GAIN,
        )
        yield Reading(info=info, path=label.replace("_label", "_input"), is_socket=True)


def _amdgpu(tree: Tree, folder: str) -> Iterator[Reading]:
    # Newer chips tell the present power only, older ones an average only.
    paths = [f"{folder}/power1_{which}" for which in ("average", "input")]
    path = next((path for path in paths if tree.exists(path)), None)
    if path is None:
        return
    address = _address(tree, folder)
    is_card = _is_card(tree, folder)
    info = SensorInfo(
        id=f"hwmon:amdgpu-{address}",
        source=f"AMD {'GPU' if is_card else 'processor with GPU'} {address} (hwmon, amdgpu)",
        scope=Scope.CHIP,
        covers=(f"gpu:{address}",) if is_card else ("cpu:0",),
        method="power",
        update_s=_GPU_UPDATE_S,
        step=1.0,
        poll_s=_GPU_POLL_S,
        window_s=_GPU_WINDOW_S,
        notes=() if is_card else ("processor and graphics are one chip, and read as one",),
    )
    yield Reading(info=info, path=path)


def _is_card(tree: Tree, folder: str) -> bool:
    """Whether this is a graphics card; with a processor's own graphics the power is the chip's.

    That is how the driver documents it (Linux Documentation/gpu/amdgpu/thermal.rst). It lets the
    power of cards be capped, and of all processors only that of Van Gogh, whose limits it labels by
    their speed (amdgpu_pm.c: hwmon_attributes_visible, power1_label).
    """
    limits = {tree.word(f"{folder}/power{n}_label") for n in (1, 2)}
    return tree.exists(f"{folder}/power1_cap") and not limits & {"slowPPT", "fastPPT"}


def _intel_gpu(tree: Tree, folder: str, name: str) -> Iterator[Reading]:
    labelled = {tree.word(path): path for path in tree.glob(f"{folder}/energy*_label")}
    card = labelled.get("card") or labelled.get("pkg")
    path = card.replace("_label", "_input") if card else f"{folder}/energy1_input"
    if not tree.exists(path):
        return
    address = _address(tree, folder)
    info = SensorInfo(
        id=f"hwmon:{name}-{address}",
        source=f"Intel GPU {address} (hwmon, {name})",
        scope=Scope.BOARD if "card" in labelled else Scope.CHIP,
        covers=(f"gpu:{address}",),
        method="counter",
        update_s=rapl.UPDATE_S,
        step=_MICRO,
        poll_s=0.1,
        window_s=1.0,
    )
    yield Reading(info=info, path=path)


def _server(tree: Tree, folder: str) -> Iterator[Reading]:
    """ACPI's power meter: what the whole machine draws (Documentation/hwmon/acpi_power_meter)."""
    path = f"{folder}/power1_average"
    if not tree.exists(path):
        return
    interval_ms = tree.word(f"{folder}/power1_average_interval")
    stated = re.fullmatch(r"[0-9]{1,7}", interval_ms) is not None and int(interval_ms) > 0
    update_s = int(interval_ms) / 1000 if stated else _SERVER_UPDATE_S
    accuracy = tree.word(f"{folder}/power1_accuracy")
    info = SensorInfo(
        id=f"hwmon:power_meter-{_address(tree, folder)}",
        source="the machine's own power meter (hwmon, ACPI)",
        scope=Scope.DEVICE,
        covers=("cpu:*", "dram:*", "gpu:*", "system"),
        method="power",
        update_s=update_s,
        step=1.0,
        poll_s=min(max(update_s, 0.1), 5.0),
        window_s=_SAMPLES * max(update_s, 0.1),
        gain=f"the meter states {accuracy[:20]}" if accuracy else "unknown",
    )
    yield Reading(info=info, path=path)


def _address(tree: Tree, folder: str) -> str:
    """The bus address of the monitor's device, which stays; else its number, which may not."""
    device = tree.root / folder / "device"
    return device.readlink().name if device.is_symlink() else folder.rpartition("/")[2]


def _by_id(sensors: list[EnergySensor]) -> tuple[EnergySensor, ...]:
    return tuple(sorted(sensors, key=lambda sensor: sensor.info.id))


def _refusal(reason: str, remedy: str) -> Refusal:
    return Refusal(name="hwmon", why=Unavailable(reason=reason, remedy=remedy))


def _not_ours(reading: Reading, tree: Tree) -> Refusal:
    if tree.is_virtual():
        return _refusal(
            f"virtual machine: {reading.info.source} would be that of the whole socket",
            "Measure on the machine itself.",
        )
    return _refusal(
        f"{reading.info.source} is the same counter that powercap gives: it is counted once",
        "None is needed.",
    )


def _unreadable(tree: Tree, reading: Reading, error: SensorGapError) -> Refusal:
    if isinstance(error.__cause__, PermissionError):
        return _refusal(
            f"permission denied: {error}",
            f"Until the next boot: sudo chmod a+r {tree.shown(reading.path)}",
        )
    return _refusal(f"{reading.info.source} cannot be read: {error}", "See: sudo dmesg | tail")
