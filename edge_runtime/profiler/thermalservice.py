"""What Android says of heat: the text of `adb shell dumpsys thermalservice`, as numbers.

The service prints the device's severity, its sensors as the vendor names them, what it does to cool
and from which temperatures each sensor is severe (AOSP, ThermalManagerService and the Temperature
and TemperatureThreshold classes). This module reads that text and runs nothing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .temperature import COLDEST_CELSIUS, HOTTEST_CELSIUS

SEVERITIES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""PowerManager.THERMAL_STATUS_*, by number. From `light` on something is slowed down."""
_KINDS = {
    0: "CPU", 1: "GPU", 2: "battery", 3: "skin", 4: "USB port", 5: "power amplifier", 9: "NPU",
}  # fmt: skip
"""Temperature.TYPE_*, by number: those that are temperatures, not a battery's current limits."""
_MOST_CHARACTERS = 1 << 20
_STATUS = re.compile(r"^Thermal Status:[ ]*(\d)\s*$", re.MULTILINE)
_SENSOR = re.compile(
    r"Temperature\{mValue=(-?\d{1,9}(?:\.\d{1,9})?), mType=(-?\d{1,3}), mName=([^,{}\n]{1,60}),"
    r" mStatus=(\d)\}"
)
_COOLER = re.compile(r"CoolingDevice\{mValue=(\d{1,9}), mType=-?\d{1,3}, mName=([^,{}\n]{1,60})\}")
_THRESHOLD = re.compile(
    r"TemperatureThreshold\{mType=(-?\d{1,3}), mName=([^,{}\n]{1,60}),"
    r" mHotThrottlingThresholds=\[([^\]\n]{0,200})\]"
)
_NOW = "Current temperatures from HAL:"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneSensor:
    """One temperature as the device names it, and how severe the device finds it.

    `light_celsius` is from where on it slows something down, None where it does not say.
    """

    name: str
    kind: str
    celsius: float
    severity: int
    light_celsius: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneHeat:
    """What the service said: the device's severity, None when it said none, and what it reads."""

    severity: int | None
    sensors: tuple[PhoneSensor, ...]
    coolers_at_work: tuple[str, ...]

    @property
    def evidence(self) -> tuple[str, ...]:
        """What says that the device slows something down now, in words."""
        found = []
        if self.severity:
            found.append(
                f"Android's thermal status is {self.severity} ({SEVERITIES[self.severity]})"
            )
        if self.coolers_at_work:
            found.append(f"at work to cool: {', '.join(self.coolers_at_work)}")
        return tuple(found)


def parse_thermalservice(text: str) -> PhoneHeat:
    """Reads the text of `dumpsys thermalservice`; what is not there is empty, never zero.

    Sensors are read as they are now; the service's cached ones stand in where the device's own
    interface gave none. Values that can be no temperature are left out.
    """
    text = text[:_MOST_CHARACTERS]
    status = _STATUS.search(text)
    severity = int(status[1]) if status and int(status[1]) < len(SEVERITIES) else None
    thresholds = {(kind, name): _light(values) for kind, name, values in _THRESHOLD.findall(text)}
    now = text.partition(_NOW)[2]
    found = _SENSOR.findall(now) or _SENSOR.findall(text)
    sensors: dict[tuple[str, str], PhoneSensor] = {}
    for value, kind, name, level in found:
        celsius = float(value)
        if int(kind) not in _KINDS or not COLDEST_CELSIUS < celsius <= HOTTEST_CELSIUS:
            continue
        if celsius == 0 or int(level) >= len(SEVERITIES):
            continue
        sensors[kind, name] = PhoneSensor(
            name=name, kind=_KINDS[int(kind)], celsius=celsius, severity=int(level),
            light_celsius=thresholds.get((kind, name)),
        )  # fmt: skip
    coolers = {name: int(value) for value, name in _COOLER.findall(text)}
    return PhoneHeat(
        severity=severity,
        sensors=tuple(sensors.values()),
        coolers_at_work=tuple(name for name, value in coolers.items() if value > 0),
    )


def _light(values: str) -> float | None:
    """The second of the thresholds, that of `light`; NaN where the device has none."""
    words = [word.strip() for word in values.split(",")]
    try:
        light = float(words[1])
    except (IndexError, ValueError):
        return None
    return light if math.isfinite(light) and 0 < light <= HOTTEST_CELSIUS else None
