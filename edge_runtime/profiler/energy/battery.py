"""The battery of a Linux machine as a power meter of everything it feeds, and its capacity.

It knows the files of /sys/class/power_supply (Documentation/ABI/testing/sysfs-class-power: µWh, µW,
µAh, µA, µV) and the ways they lie: a sign that differs from driver to driver, milliamperes where
microamperes belong, a supply that is a mouse's. It refuses a battery that is not the only source of
power: on mains the reading is the charger's business.

Power is integrated, although `energy_now` and `charge_now` look like counters. A gauge moves those
in steps of some milliwatt-hours (10 mWh are 36 J) or of whole percents, and corrects them when it
learns, so that an answer of a model is lost in one step; its power changes every few seconds by
single milliwatts. The stock serves as the witness: where it jumps by what the power cannot explain,
the gauge was recalibrated or the battery charged, and the series breaks.

Sign: negative while discharging by the ABI of 2020, positive on most ACPI machines until kernel
commit 234f7155 of May 2025. So `status` decides, the magnitude counts, the raw sign goes to notes.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence

from ...basis import Unavailable
from ...energy import Battery, Refusal, Scope, SensorInfo
from ...units import NS_PER_S
from . import METER_REMEDY, Found, SensorBreakError, SensorGapError
from .gauge import Scale, is_plausible_w, plausible_v, plausible_wh, scale_of
from .integrate import Integrated
from .sysfs import Tree

POLL_S = 1.0
UPDATE_S = 2.0
"""How often gauges refresh differs and is told nowhere; ACPI's are asked at most once a second."""
WINDOW_S = 100 * UPDATE_S
_STEP_A = 1e-3
_STEP_W = 1e-3
"""ACPI's _BST counts milliamperes or milliwatts; the kernel writes them with three more zeros."""
_JUMP_SHARE = 0.03
"""Of the capacity. Coarse gauges move by whole percents, which is no recalibration."""
_AGREEING = 3.0
"""Power and current times voltage are smoothed apart; by a unit they differ a thousandfold."""
_MOST_MICRO = 10**10
_CLASS = "sys/class/power_supply"
_IDLE = ("Full", "Not charging", "Unknown")
_UNPLUG = "Unplug the power supply, wait a minute, and measure again."


def find(tree: Tree, *, clock: Callable[[], int] = time.perf_counter_ns) -> Found:
    """One sensor for all batteries that feed the machine, or why there is none. Never raises."""
    gauges = _gauges(tree)
    if not gauges:
        return Found(refusals=(_refusal("battery", _no_battery(tree), METER_REMEDY),))
    name = "battery:" + "+".join(gauge.name for gauge in gauges)
    mains = _on_mains(tree, gauges)
    if mains:
        return Found(refusals=(_refusal(name, f"on mains power: {mains}", _UNPLUG),))
    for gauge in gauges:
        if gauge.status() == "Discharging":
            chosen = gauge.choose()
            if isinstance(chosen, Unavailable):
                return Found(refusals=(Refusal(name=name, why=chosen),))
    sensor = _Batteries(gauges, _info(name, gauges), clock)
    try:
        sensor.read_w()
    except (SensorGapError, SensorBreakError) as error:
        return Found(refusals=(_refusal(name, str(error), METER_REMEDY),))
    return Found(sensors=(Integrated(sensor, clock=clock),))


def capacity(tree: Tree) -> Battery | None:
    """What all batteries together hold, also on mains; None where the machine has no battery.

    Of a battery that tells ampere-hours, watt-hours are those at its design voltage, or at the
    present one where that is all there is. One battery that does not tell leaves the sum unknown.
    """
    gauges = _gauges(tree)
    if not gauges:
        return None
    statuses = [gauge.status() or "Unknown" for gauge in gauges]
    joint = next((word for word in ("Discharging", "Charging") if word in statuses), statuses[0])
    return Battery(
        id="+".join(gauge.name for gauge in gauges),
        full_wh=_sum([gauge.wh("full") for gauge in gauges]),
        design_wh=_sum([gauge.wh("full_design") for gauge in gauges]),
        status=joint,
    )


class _Gauge:
    """One battery's files."""

    def __init__(self, tree: Tree, folder: str) -> None:
        self._tree = tree
        self._folder = folder
        self.name = _printable(folder.rsplit("/", 1)[1])
        # Settled once: the voltage sags under load, and what a battery holds does not.
        self._nominal_v = self._volts()
        self.full_wh = self.wh("full") or self.wh("full_design")
        self._by_power = True
        self._scale: Scale | None = None
        self.notes: tuple[str, ...] = ()

    def status(self) -> str:
        """Its own word; empty where it cannot be read."""
        return _printable(self._tree.word(f"{self._folder}/status"))

    def wh(self, what: str) -> float | None:
        """Watt-hours `full`, `full_design` or `now`; None where the files do not tell.

        A stock of nearly nothing is a reading, a capacity of nearly nothing a wrong unit.
        """
        wh = self._micro(f"energy_{what}")
        if wh is None:
            ah, volts = self._micro(f"charge_{what}"), self._nominal_v
            wh = None if ah is None or volts is None else ah * volts
        return wh if what == "now" else plausible_wh(wh)

    def choose(self) -> Scale | Unavailable:
        """Settles which file gives the power and in which unit, once, and writes it to notes."""
        if self._scale is not None:
            return self._scale
        judged: dict[bool, tuple[float, Scale | Unavailable]] = {}
        failures: list[str] = []
        for by_power in (True, False):
            try:
                raw_w = self._raw_w(by_power=by_power)
            except SensorGapError as error:
                failures.append(str(error))
                continue
            judged[by_power] = (raw_w, scale_of(raw_w, self.full_wh, self._what(by_power=by_power)))
        if not judged:
            reason = f"{self.name} tells no power: {'; '.join(failures)}"
            return Unavailable(reason=reason, remedy=METER_REMEDY)
        chosen = self._believed(judged)
        if isinstance(chosen, Unavailable):
            return chosen
        self._by_power, (raw_w, scale) = chosen, judged[chosen]
        assert isinstance(scale, Scale)
        self._scale = scale
        sign = "negative" if raw_w < 0 else "positive"
        self.notes = tuple(
            note
            for note in (
                scale.evidence,
                f"{self.name}: the raw sign while discharging is {sign}; the magnitude is used",
            )
            if note
        )
        return scale

    def read_w(self) -> float:
        """The power it gives, in watts. Raises SensorGapError."""
        scale = self.choose()
        if isinstance(scale, Unavailable):
            raise SensorGapError(scale.reason)
        watts = abs(self._raw_w(by_power=self._by_power)) * scale.factor
        if not is_plausible_w(watts, self.full_wh):
            raise SensorGapError(f"{self.name} reads {watts:.3g} W, which it cannot be giving")
        return watts

    def step_w(self) -> float:
        """The smallest change of its power, watts."""
        if self._scale is None or self._by_power:
            return _STEP_W
        return _STEP_A * (plausible_v(self._micro("voltage_now")) or 1.0)

    def _believed(
        self, judged: dict[bool, tuple[float, Scale | Unavailable]]
    ) -> bool | Unavailable:
        """Which of the two to go by: True is power_now. They must agree, or one be impossible."""
        good = {key: item for key, item in judged.items() if isinstance(item[1], Scale)}
        if not good:
            first = next(iter(judged.values()))[1]
            assert isinstance(first, Unavailable)
            return first
        as_they_stand = [key for key, (_, scale) in good.items() if scale == Scale()]
        if len(good) == 1 or len(as_they_stand) == 1:
            return (as_they_stand or list(good))[0]
        powers = [abs(raw_w) for raw_w, _ in good.values()]
        if max(powers) <= _AGREEING * min(powers):
            return True
        reason = (
            f"{self._what(by_power=True)} says {powers[0]:.3g} W, {self._what(by_power=False)}"
            f" {powers[1]:.3g} W"
        )
        return Unavailable(reason=reason, remedy=METER_REMEDY)

    def _raw_w(self, *, by_power: bool) -> float:
        """Watts with the driver's sign, taking its numbers for the units of the ABI."""
        if by_power:
            return self._number("power_now") * 1e-6
        volts = self._number("voltage_now") * 1e-6
        if plausible_v(volts) is None:
            raise SensorGapError(f"{self.name} has voltage_now at {volts:.3g} V if in microvolts")
        return self._number("current_now") * 1e-6 * volts

    def _what(self, *, by_power: bool) -> str:
        return f"{self.name} {'power_now' if by_power else 'current_now x voltage_now'}"

    def _number(self, file: str) -> int:
        number = self._tree.number(f"{self._folder}/{file}")
        if abs(number) > _MOST_MICRO:
            shown = self._tree.shown(f"{self._folder}/{file}")
            raise SensorGapError(f"{shown} holds {number}, out of range")
        return number

    def _micro(self, file: str) -> float | None:
        try:
            return self._number(file) * 1e-6
        except SensorGapError:
            return None

    def _volts(self) -> float | None:
        """The design voltage, which ACPI drivers give as the least one; else the present one."""
        design = plausible_v(self._micro("voltage_min_design"))
        return design or plausible_v(self._micro("voltage_now"))


class _Batteries:
    """The power of all batteries that feed the machine, as one PowerSensor."""

    def __init__(
        self, gauges: Sequence[_Gauge], info: SensorInfo, clock: Callable[[], int]
    ) -> None:
        self.info = info
        self._gauges = tuple(gauges)
        self._clock = clock
        self._last: tuple[int, float] | None = None
        self._mains = ""

    def read_w(self) -> float:
        """The present power in watts.

        Raises SensorGapError while one of them charges or none gives power, and SensorBreakError,
        once, when they give it again, or what they hold jumped by more than the power explains.
        """
        watts, giving = 0.0, 0
        for gauge in self._gauges:
            status = gauge.status()
            if status == "Discharging":
                watts += gauge.read_w()
                giving += 1
            elif status not in _IDLE:
                if not status:
                    raise SensorGapError(f"{gauge.name} tells no status any more")
                self._mains = f"{gauge.name} is {status}: on mains power"
                raise SensorGapError(self._mains)
        if not giving:
            self._mains = "on mains power: no battery is Discharging"
            raise SensorGapError(self._mains)
        if self._mains:
            # However short, it was no gap to draw a line across: another source gave the power.
            interrupted, self._mains = self._mains, ""
            raise SensorBreakError(f"meanwhile {interrupted}")
        self._witness(watts)
        return watts

    def close(self) -> None:
        """Nothing is held open."""

    def _witness(self, watts: float) -> None:
        now, stock_wh = self._clock(), _sum([gauge.wh("now") for gauge in self._gauges])
        full_wh = _sum([gauge.full_wh for gauge in self._gauges])
        last = self._last
        self._last = None if stock_wh is None else (now, stock_wh)
        if last is None or stock_wh is None or full_wh is None:
            return
        given_wh = watts * (now - last[0]) / NS_PER_S / 3600
        unexplained_wh = stock_wh - last[1] + given_wh
        if abs(unexplained_wh) > _JUMP_SHARE * full_wh + given_wh:
            raise SensorBreakError(
                f"what {self.info.id} holds jumped from {last[1]:.3g} to {stock_wh:.3g} Wh:"
                " the gauge was recalibrated"
            )


def _info(name: str, gauges: Sequence[_Gauge]) -> SensorInfo:
    notes = [note for gauge in gauges for note in gauge.notes]
    notes.append("the whole machine with its screen: keep its brightness the same")
    return SensorInfo(
        id=name,
        source="discharge of the battery",
        scope=Scope.DEVICE,
        covers=("cpu:*", "dram:*", "gpu:*", "system"),
        method="power",
        update_s=UPDATE_S,
        step=math.hypot(*(gauge.step_w() for gauge in gauges)),
        poll_s=POLL_S,
        window_s=WINDOW_S,
        gain="unknown: the gauge's own",
        notes=tuple(notes),
    )


def _gauges(tree: Tree) -> tuple[_Gauge, ...]:
    """The batteries that feed the machine, not those of a mouse or of a USB-C negotiation."""
    return tuple(
        _Gauge(tree, folder)
        for folder in tree.glob(f"{_CLASS}/*")
        if tree.word(f"{folder}/type") == "Battery"
        and not _is_negotiation(folder)
        and not _is_peripheral(tree, folder)
        and tree.word(f"{folder}/present", "1") != "0"
    )


def _is_negotiation(folder: str) -> bool:
    # What USB Power Delivery agreed on, which is neither a battery nor a measurement.
    return folder.rsplit("/", 1)[1].startswith("ucsi-source-psy-")


def _is_peripheral(tree: Tree, folder: str) -> bool:
    return tree.word(f"{folder}/scope") == "Device"


def _on_mains(tree: Tree, gauges: Sequence[_Gauge]) -> str:
    """What shows that the machine lives on more than its batteries; empty where nothing does."""
    statuses = {gauge.name: gauge.status() or "of unknown status" for gauge in gauges}
    if "Discharging" not in statuses.values() or "Charging" in statuses.values():
        return ", ".join(f"{name} is {status}" for name, status in statuses.items())
    for folder in tree.glob(f"{_CLASS}/*"):
        if tree.word(f"{folder}/type") in {"", "Battery"} or _is_negotiation(folder):
            continue
        if _is_peripheral(tree, folder):
            continue
        if tree.word(f"{folder}/online", "0") != "0":
            return f"{_printable(folder.rsplit('/', 1)[1])} is online beside the battery"
    return ""


def _no_battery(tree: Tree) -> str:
    peripherals = [
        _printable(folder.rsplit("/", 1)[1])
        for folder in tree.glob(f"{_CLASS}/*")
        if tree.word(f"{folder}/type") == "Battery" and _is_peripheral(tree, folder)
    ]
    if peripherals:
        return f"no battery of the machine itself, only of peripherals: {', '.join(peripherals)}"
    return "no battery"


def _refusal(name: str, reason: str, remedy: str) -> Refusal:
    return Refusal(name=name, why=Unavailable(reason=reason, remedy=remedy))


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _printable(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.: +-]+", "_", text)[:40]
