"""Power monitors of NVIDIA Jetson modules: the INA3221's rails, and the INA238 of a Thor carrier.

It knows which rail is a module's input, which rails of a module without one lie side by side, and
which lie inside others. A rail it does not know is not read: whether it lies inside another cannot
be told from its reading.

One chip watches three rails. `in7` and `curr4` are sums over its channels of shunt voltages and
currents, whatever the rails' voltages, so they are nobody's power and are never read. The kernel's
driver gives millivolts and milliamperes (Documentation/hwmon/ina3221.rst), the older one of
NVIDIA's own kernel (L4T, `iio:device*`) gives milliwatts, counting its channels from 0.

Rails: NVIDIA's Jetson Linux developer guide; which lie side by side: the power trees collected in
energymon's jetson/JetsonPowerRails.md. VIN_SYS_5V0 of the AGX Orin is the supply of its I/O and not
the module's (jetson_stats #344); it feeds VDDQ_VDD2_1V8AO, which is therefore no addend.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...basis import Unavailable
from ...energy import Refusal, Scope, SensorInfo
from . import METER_REMEDY, Found, SensorGapError
from .integrate import Integrated
from .sysfs import Tree

POLL_S = 0.05
_PART_POLL_S = 0.2
"""Each reading is a talk on a slow bus: the rails inside the total are looked at less often."""
_TOTALS = ("VDD_IN", "POM_5V_IN")
_SIDE_BY_SIDE = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)
_BESIDE = (
    "VDD_MUX", "VDD_5V_IO_SYS", "VDD_5V0_IO_SYS", "VDD_3V3_SYS", "VDD_3V3_IO", "VDD_3V3_IO_SLP",
    "VDD_3V3_SYS_M2", "VDD_1V8_IO", "VDD_M2_IN",
)  # fmt: skip
"""Of the carrier of a TX1 or TX2: beside the module's input and so no part of it."""
_INSIDE = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
_INPUT = "VIN"
"""The carrier's input as Thor's INA238 sees it (jetson_stats #900); other boards have that chip at
other places."""
_THORS_OWN = "VDD_CPU_SOC_MSS"

_POWER_ON_UPDATE_S = 0.0066
"""Three channels, one sample, 1.1 ms each for bus and shunt: how the chip wakes up (data sheet)."""
_INA3221_SHUNT_LSB_UV = 40.0
_INA238_SHUNT_LSB_UV = 5.0
_LEAST_POLLS = 40
"""2 s at 20 Hz: the shortest window that is honest."""
_MOST_MV = 100_000
_MOST_MA = 1_000_000
_MOST_MW = 1_000_000
_MODULE_COVERS = ("cpu:*", "dram:*", "gpu:*", "system")
_CARRIER = "the carrier board, with its fan, drives and USB devices, is not covered"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rail:
    """Where one rail is read. `factor` makes watts of the product of the files' numbers.

    `files` are one of power, or one of voltage and one of current; `most` bounds each of them.
    `lsb_a` is what its current is counted in, None where the shunt is not told.
    """

    label: str
    files: tuple[str, ...]
    most: tuple[int, ...]
    factor: float
    voltage: str
    lsb_a: float | None
    update_s: float

    def read_w(self, tree: Tree) -> float:
        """The power in watts. Raises SensorGapError."""
        product = 1
        for path, most in zip(self.files, self.most, strict=True):
            number = tree.number(path)
            if abs(number) > most:
                shown = f"{tree.shown(path)} holds {number}"
                raise SensorGapError(f"{shown}, which no rail can have")
            product *= number
        return product * self.factor

    def step_w(self, tree: Tree) -> float:
        """The smallest change of its power in watts; that of the file's unit where none is told."""
        if self.lsb_a is None:
            return 1e-3
        return max(1e-6, self.lsb_a * abs(tree.number(self.voltage)) * 1e-3)


class _Rails:
    """The sum of some rails as one PowerSensor."""

    def __init__(
        self, tree: Tree, rails: Sequence[_Rail], info: SensorInfo, *, feeds: bool
    ) -> None:
        self.info = info
        self._tree = tree
        self._rails = tuple(rails)
        self._feeds = feeds

    def read_w(self) -> float:
        """The present power in watts. Raises SensorGapError when one of the rails is not read."""
        watts = sum(rail.read_w(self._tree) for rail in self._rails)
        if self._feeds and watts <= 0:
            raise SensorGapError(f"{self.info.id} reads {watts:g} W, yet it feeds this machine")
        return watts

    def close(self) -> None:
        """Nothing is held open."""


def find(tree: Tree, *, clock: Callable[[], int] = time.perf_counter_ns) -> Found:
    """The module's power, or its carrier's, and the rails inside it; or why there is none.

    Rails are read only beside a total they are part of. Never raises.
    """
    rails, odd = _rails(tree)
    # A chip is met by its driver and by its class: a name stands for one rail.
    by_label = {rail.label: rail for rail in rails}
    if not rails:
        reasons = odd or ("no INA3221 power monitor: not a Jetson",)
        return Found(refusals=tuple(map(_refusal, reasons)))
    total = next((label for label in _TOTALS if label in by_label), None)
    summed = (total,) if total else _side_by_side(by_label)
    sensors: list[Integrated] = []
    refusals = [_refusal(reason) for reason in odd]
    wanted: list[tuple[tuple[str, ...], Scope]] = []
    if _INPUT in by_label:
        wanted.append(((_INPUT,), Scope.BOARD))
    if summed:
        wanted.append((summed, Scope.MODULE))
    if not wanted:
        return Found(refusals=(*refusals, _unknown(tuple(by_label))))
    for labels, scope in wanted:
        _try(tree, [by_label[label] for label in labels], scope, clock, sensors, refusals)
    if sensors:
        taken = {labels[0] for labels, _ in wanted if len(labels) == 1}
        for label, rail in by_label.items():
            if label not in taken and label not in _BESIDE:
                _try(tree, [rail], Scope.CHIP, clock, sensors, refusals)
    return Found(sensors=tuple(sensors), refusals=tuple(refusals))


def _try(
    tree: Tree,
    rails: list[_Rail],
    scope: Scope,
    clock: Callable[[], int],
    sensors: list[Integrated],
    refusals: list[Refusal],
) -> None:
    """Adds a sensor of these rails that gave a first reading, or why it did not."""
    name = "ina3221:" + "+".join(rail.label for rail in rails)
    try:
        sensor = _Rails(tree, rails, _info(tree, name, rails, scope), feeds=scope is not Scope.CHIP)
        sensor.read_w()
    except SensorGapError as error:
        why = Unavailable(reason=str(error), remedy=_remedy(error))
        refusals.append(Refusal(name=name, why=why))
        return
    sensors.append(Integrated(sensor, clock=clock))


def _info(tree: Tree, name: str, rails: list[_Rail], scope: Scope) -> SensorInfo:
    update_s = max(rail.update_s for rail in rails)
    poll_s = max(_PART_POLL_S if scope is Scope.CHIP else POLL_S, update_s)
    labels = [rail.label for rail in rails]
    notes: list[str] = []
    if scope is Scope.MODULE:
        notes.append(_CARRIER)
    if len(rails) > 1:
        notes.append(f"this module has no rail of its total: the sum of {', '.join(labels)}")
    if "VIN_SYS_5V0" in labels:
        notes.append("VIN_SYS_5V0 supplies the I/O and is not the module's total")
    if labels[0] in _INSIDE:
        notes.append(f"lies inside {_INSIDE[labels[0]]}")
    if labels == [_INPUT]:
        notes.append("the input of the carrier board, with all that hangs on it")
    if any(rail.lsb_a is None for rail in rails):
        notes.append("the shunt is not told: the true step is larger than the files' unit")
    return SensorInfo(
        id=name,
        source=f"power monitor of rail {' + '.join(labels)}",
        scope=scope,
        covers=_MODULE_COVERS if scope is not Scope.CHIP else _part(labels[0]),
        method="power",
        update_s=update_s,
        # Rails are rounded apart from each other, so their roundings add as squares.
        step=math.hypot(*(rail.step_w(tree) for rail in rails)),
        poll_s=poll_s,
        window_s=max(2.0, _LEAST_POLLS * poll_s),
        gain="unknown: the shunt's tolerance is not told",
        notes=tuple(notes),
    )


def _part(label: str) -> tuple[str, ...]:
    """What a rail feeds, as a piece of it: no rail feeds the whole of a chip and nothing else."""
    path = f"{_INSIDE[label]}/{label}" if label in _INSIDE else label
    kinds = {"CPU": "cpu:0", "GPU": "gpu:integrated", "DDR": "dram:0"}
    fed = [part for word, part in kinds.items() if word in label and label not in _INSIDE]
    return tuple(f"{part}/{path}" for part in fed or ["system"])


def _rails(tree: Tree) -> tuple[list[_Rail], tuple[str, ...]]:
    """All rails that have a name, and what was found beside them that has none."""
    found: list[_Rail] = []
    odd: list[str] = []
    inputs: list[str] = []
    by_driver = tree.glob("sys/bus/i2c/drivers/ina*/*/hwmon/hwmon*")
    for folder in (*by_driver, *tree.glob("sys/class/hwmon/hwmon*")):
        chip = tree.word(f"{folder}/name") or _driver(folder)
        if chip.startswith("ina3221"):
            rails = _hwmon_rails(tree, folder)
            odd += [] if rails else ["an INA3221 is here, but its rails have no names"]
            found += rails
        elif chip == "ina238":
            inputs.append(folder)
    for folder in tree.glob("sys/bus/i2c/drivers/ina3221*/*/iio:device*"):
        found += _iio_rails(tree, folder)
    is_thor = "Thor" in tree.word("proc/device-tree/model") or any(
        rail.label == _THORS_OWN for rail in found
    )
    for folder in inputs:
        label = _label(tree.word(f"{folder}/in1_label"))
        if label == _INPUT or (is_thor and not label):
            found.append(_input_rail(tree, folder))
        else:
            odd.append("an INA238 is here, but what it watches is not known")
    return found, tuple(dict.fromkeys(odd))


def _driver(folder: str) -> str:
    parts = folder.split("/")
    return parts[4] if parts[:4] == ["sys", "bus", "i2c", "drivers"] else ""


def _hwmon_rails(tree: Tree, folder: str) -> list[_Rail]:
    """The rails of one chip by the kernel's driver: millivolts times milliamperes."""
    rails = []
    for n in (1, 2, 3):
        label = _label(tree.word(f"{folder}/in{n}_label"))
        if not label:
            continue
        shunt_uohm = _number(tree, f"{folder}/shunt{n}_resistor", least=1, most=10**9)
        rails.append(
            _Rail(
                label=label,
                files=(f"{folder}/in{n}_input", f"{folder}/curr{n}_input"),
                most=(_MOST_MV, _MOST_MA),
                factor=1e-6,
                voltage=f"{folder}/in{n}_input",
                lsb_a=None if shunt_uohm is None else _INA3221_SHUNT_LSB_UV / shunt_uohm,
                update_s=_update_s(tree, folder),
            )
        )
    return rails


def _iio_rails(tree: Tree, folder: str) -> list[_Rail]:
    """The rails of one chip by the driver of NVIDIA's older kernels: milliwatts."""
    rails = []
    for n in range(3):
        label = _label(tree.word(f"{folder}/rail_name_{n}"))
        if not label:
            continue
        rails.append(
            _Rail(
                label=label,
                files=(f"{folder}/in_power{n}_input",),
                most=(_MOST_MW,),
                factor=1e-3,
                voltage=f"{folder}/in_voltage{n}_input",
                lsb_a=None,
                update_s=_POWER_ON_UPDATE_S,
            )
        )
    return rails


def _input_rail(tree: Tree, folder: str) -> _Rail:
    """The input of a Thor's carrier: microwatts."""
    shunt_uohm = _number(tree, f"{folder}/shunt_resistor", least=1, most=10**9)
    return _Rail(
        label=_INPUT,
        files=(f"{folder}/power1_input",),
        most=(_MOST_MW * 1000,),
        factor=1e-6,
        voltage=f"{folder}/in1_input",
        lsb_a=None if shunt_uohm is None else _INA238_SHUNT_LSB_UV / shunt_uohm,
        update_s=_update_s(tree, folder),
    )


def _label(text: str) -> str:
    """A rail's name, safe to print; empty for a channel that is not connected or has no name."""
    label = re.sub(r"[^A-Za-z0-9_.+-]+", "_", text.strip("\0 "))[:40].strip("_")
    return "" if re.fullmatch(r"NC\d*", label, re.IGNORECASE) else label


def _update_s(tree: Tree, folder: str) -> float:
    interval_ms = _number(tree, f"{folder}/update_interval", least=1, most=10_000)
    return _POWER_ON_UPDATE_S if interval_ms is None else interval_ms / 1000


def _number(tree: Tree, path: str, *, least: int, most: int) -> int | None:
    try:
        number = tree.number(path)
    except SensorGapError:
        return None
    return number if least <= number <= most else None


def _side_by_side(by_label: dict[str, _Rail]) -> tuple[str, ...]:
    """The rails that together are a module without one of its total; none unless all are here."""
    return next((rails for rails in _SIDE_BY_SIDE if all(label in by_label for label in rails)), ())


def _refusal(reason: str) -> Refusal:
    return Refusal(name="ina3221", why=Unavailable(reason=reason, remedy=METER_REMEDY))


def _unknown(labels: tuple[str, ...]) -> Refusal:
    names = ", ".join(sorted(labels)[:8])
    return _refusal(f"which of the rails {names} make up this board is not known")


def _remedy(error: SensorGapError) -> str:
    denied = error.__cause__
    if isinstance(denied, PermissionError) and denied.filename:
        return f"sudo chmod a+r {denied.filename}"
    return METER_REMEDY
