"""What an Android phone says of energy, as text: parsers of it, for whoever has the phone at hand.

It knows the prints of `dumpsys` and the numbers of `BatteryManager`, runs nothing and asks no
phone. What cannot be believed is an `Unavailable` with its reason: text from a device may be cut
off, of another version, or made up.

- `adb shell dumpsys android.hardware.power.stats.IPowerStats/default`: the rails of the On-Device
  Power Monitor, in practice of Pixel 6 and later. Cumulative microwatt-seconds since boot in the
  interface; the print has milliwatt-seconds, made of a 32-bit float, so its step grows with the
  count (AOSP, hardware/google/pixel/powerstats/PowerStatsAidl.cpp). Rails nest in ways that the
  maker alone knows: there is no sum of them here.
- `adb shell dumpsys battery`: where the power comes from, the voltage, and whether somebody made
  that state up (`dumpsys battery unplug` fakes it, and the cable goes on charging).
- `BatteryManager` properties: microamperes, positive while charging, says the documentation;
  milliamperes, zero or the other sign, say vendors (termux-api #293, wattz #16).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ...basis import Unavailable
from .gauge import Scale, plausible_v, plausible_wh, scale_of

_MOST_CHARACTERS = 8 * 1024 * 1024
_MOST_RAILS = 512
_MOST_J = 1e12
_MOST_MICRO, _MOST_NWH = 10**9, 10**15
"""1000 A or Ah, 1 MWh. Unsupported properties give Integer.MIN_VALUE or Long.MIN_VALUE: beyond."""
_FLOAT_BITS = 23
_PRINTED_J = 1e-5
"""Two decimals of a milliwatt-second."""
_UPDATE = "Update Android, or use a phone with an On-Device Power Monitor (Pixel 6 and later)."
_AGAIN = "Read it again, whole: adb shell dumpsys android.hardware.power.stats.IPowerStats/default"
_METER = "Record a USB meter beside the run: edge energy RESULTS.jsonl --meter LOG.csv"
_UNPLUG = "adb tcpip 5555, adb connect PHONE, then pull the USB cable and measure again"
_RESET = "adb shell dumpsys battery reset"

_BEGIN = re.compile(r"=+ PowerStats HAL [\d.]+ (energy meter|rail energy data) =+")
_END = re.compile(r"=+ End of PowerStats HAL [\d.]+ (energy meter|rail energy data) =+")
_ELAPSED = re.compile(r"Elapsed time: (\d{1,15}) ms")
_RAIL = re.compile(
    r"(?P<name>\S.{0,80}?)\s+(?P<value>-?\d{1,18}\.\d{1,6}) mWs(?: \(\s*-?\d{1,18}\.\d{1,6}\))?"
)
_FIELD = re.compile(r"\s*([A-Za-z][A-Za-z ]{0,40}?)\s*:\s*(\S.{0,80}?)\s*")
_PROPERTY = re.compile(
    r"\s*(?:BATTERY_PROPERTY_)?([A-Za-z_]{3,40})\s*[:=]\s*(-?\d{1,20})\s*(?:\[.{0,20}\])?\s*"
)
_STATUS = {1: "Unknown", 2: "Charging", 3: "Discharging", 4: "Not charging", 5: "Full"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OdpmRail:
    """One rail's energy since boot, joules; `step_j` is the smallest change its print can show."""

    name: str
    joules: float
    step_j: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneBattery:
    """What `dumpsys battery` says. None where it does not; `powered_by` lists supplies in use.

    `level` is the share of the charge that is left, 0 to 1. `charge_uah` is as printed.
    `faked` is whether somebody stopped its updates, after which it says what it was told to.
    """

    status: str
    powered_by: tuple[str, ...]
    faked: bool
    level: float | None
    volts: float | None
    celsius: float | None
    charge_uah: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneGauge:
    """Properties of `BatteryManager` as given, None where unsupported: µA, µA, µAh and nWh."""

    current_now: int | None = None
    current_average: int | None = None
    charge_counter: int | None = None
    energy_counter: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhonePower:
    """What the phone takes from its battery, watts, and what was done to the raw reading."""

    watts: float
    notes: tuple[str, ...]


def odpm_rails(text: str) -> tuple[OdpmRail, ...] | Unavailable:
    """The rails of a print of the power statistics service, with or without `delta`.

    Only the energy meter's part counts: consumers further up are modelled from the same rails.
    """
    if len(text) > _MOST_CHARACTERS:
        reason = f"a print of {len(text)} characters is no print of rails"
        return Unavailable(reason=reason, remedy=_AGAIN)
    rails: dict[str, OdpmRail] = {}
    inside = ended = False
    for line in map(str.strip, text.splitlines()):
        if _END.fullmatch(line):
            ended = True
            break
        if _BEGIN.fullmatch(line):
            inside = True
        elif inside and line and not _is_heading(line):
            rail = _rail(line)
            if isinstance(rail, Unavailable):
                return rail
            if rail.name in rails:
                return Unavailable(reason=f"rail {rail.name} is told twice", remedy=_AGAIN)
            rails[rail.name] = rail
            if len(rails) > _MOST_RAILS:
                return Unavailable(reason=f"more than {_MOST_RAILS} rails", remedy=_AGAIN)
    if not inside:
        reason = "the power statistics service tells no energy meter"
        return Unavailable(reason=reason, remedy=_UPDATE)
    if not ended:
        return Unavailable(reason="the print of the energy meter is cut off", remedy=_AGAIN)
    if not rails:
        return Unavailable(reason="the energy meter has no rails", remedy=_UPDATE)
    return tuple(rails.values())


def phone_battery(text: str) -> PhoneBattery | Unavailable:
    """What a print of `dumpsys battery` says. Of a field told twice the first counts."""
    if len(text) > _MOST_CHARACTERS or "Current Battery Service state:" not in text:
        return Unavailable(reason="no print of dumpsys battery", remedy="adb shell dumpsys battery")
    fields: dict[str, str] = {}
    for line in text.splitlines():
        match = _FIELD.fullmatch(line)
        if match:
            fields.setdefault(match[1].lower(), match[2])
    level, scale = _int(fields.get("level"), 0, 1000), _int(fields.get("scale"), 1, 1000)
    volts, notes = _phone_volts(_int(fields.get("voltage"), 1, 10**8))
    tenths = _int(fields.get("temperature"), -1000, 2000)
    return PhoneBattery(
        status=_STATUS.get(_int(fields.get("status"), 0, 100) or 0, "Unknown"),
        powered_by=tuple(
            name.removesuffix(" powered")
            for name, value in fields.items()
            if name.endswith(" powered") and value == "true"
        ),
        faked="UPDATES STOPPED" in text,
        level=None if level is None or scale is None or level > scale else level / scale,
        volts=volts,
        celsius=None if tenths is None else tenths / 10,
        charge_uah=_int(fields.get("charge counter"), 1, 10**9),
        notes=notes,
    )


def not_on_battery(phone: PhoneBattery) -> Unavailable | None:
    """Why this battery does not tell what the phone takes; None where it does."""
    if phone.faked:
        reason = "the battery's state is made up: dumpsys battery was told to stop its updates"
        return Unavailable(reason=reason, remedy=_RESET)
    if phone.powered_by:
        reason = f"on mains power: {', '.join(phone.powered_by)} is connected"
        return Unavailable(reason=reason, remedy=_UNPLUG)
    if phone.status != "Discharging":
        reason = f"on mains power: the battery is {phone.status}"
        return Unavailable(reason=reason, remedy=_UNPLUG)
    return None


def phone_gauge(text: str) -> PhoneGauge | Unavailable:
    """Properties printed one a line, `CURRENT_NOW=-350000` or `current_now: -350000`.

    The values of unsupported properties are left out. Of a property told twice the first counts.
    """
    if len(text) > _MOST_CHARACTERS:
        reason = f"{len(text)} characters are no properties of a battery"
        return Unavailable(reason=reason, remedy=_METER)
    values: dict[str, int] = {}
    for line in text.splitlines():
        match = _PROPERTY.fullmatch(line)
        if match:
            values.setdefault(match[1].lower(), int(match[2]))
    found = PhoneGauge(
        current_now=_within(values.get("current_now"), _MOST_MICRO),
        current_average=_within(values.get("current_average"), _MOST_MICRO),
        charge_counter=_within(values.get("charge_counter"), _MOST_MICRO),
        energy_counter=_within(values.get("energy_counter"), _MOST_NWH),
    )
    if found == PhoneGauge():
        return Unavailable(reason="the phone tells no property of its battery", remedy=_METER)
    return found


def phone_power(
    phone: PhoneBattery, properties: PhoneGauge, *, full_wh: float | None = None
) -> PhonePower | Unavailable:
    """What the phone takes now: volts of `dumpsys battery` times amperes of its gauge.

    `full_wh` is the capacity, by which a wrong unit is noticed; without it the charge that is left
    and the level give it. The sign is not used: the status says which way the current flows.
    """
    why_not = not_on_battery(phone)
    if why_not is not None:
        return why_not
    if properties.current_now is None:
        return Unavailable(reason="the phone tells no current", remedy=_METER)
    if phone.volts is None:
        return Unavailable(reason="the phone tells no voltage of its battery", remedy=_METER)
    raw_w = properties.current_now * 1e-6 * phone.volts
    capacity_wh = plausible_wh(full_wh) or _full_wh(phone, properties)
    scale = scale_of(raw_w, capacity_wh, "current_now x voltage")
    if isinstance(scale, Unavailable):
        return scale
    notes = [*phone.notes, *_sign_note(properties.current_now), *_scale_note(scale)]
    return PhonePower(watts=abs(raw_w) * scale.factor, notes=tuple(notes))


def _full_wh(phone: PhoneBattery, properties: PhoneGauge) -> float | None:
    """The capacity that the charge left and the level speak of, or None."""
    if not phone.level or phone.volts is None:
        return None
    charge_uah = properties.charge_counter or phone.charge_uah
    if charge_uah is None:
        return None
    return plausible_wh(charge_uah * 1e-6 * phone.volts / phone.level)


def _sign_note(current: int) -> tuple[str, ...]:
    if current > 0:
        return ("current_now is positive while discharging: this phone inverts the sign",)
    return ()


def _scale_note(scale: Scale) -> tuple[str, ...]:
    return (scale.evidence,) if scale.evidence else ()


def _is_heading(line: str) -> bool:
    return "Cumulative Energy" in line or bool(_ELAPSED.match(line))


def _rail(line: str) -> OdpmRail | Unavailable:
    match = _RAIL.fullmatch(line)
    joules = float(match["value"]) * 1e-3 if match else -1.0
    if match is None or not 0 <= joules <= _MOST_J:
        return Unavailable(reason=f"{line[:60]!r} is no rail of an energy meter", remedy=_AGAIN)
    # The first version prints the subsystem and the rail in columns.
    name = re.sub(r"[^A-Za-z0-9_\[\]:.-]+", " ", match["name"]).strip()
    return OdpmRail(name=name, joules=joules, step_j=max(_PRINTED_J, _float_step(joules)))


def _float_step(joules: float) -> float:
    """The distance of neighbouring 32-bit floats at this many joules, told in microjoules."""
    if joules <= 0:
        return 0.0
    return float(2.0 ** (math.floor(math.log2(joules * 1e6)) - _FLOAT_BITS)) * 1e-6


def _phone_volts(raw: int | None) -> tuple[float | None, tuple[str, ...]]:
    """Volts of what should be millivolts: microvolts are told apart, there are no such phones."""
    if raw is None:
        return None, ()
    millivolts = plausible_v(raw / 1000)
    if millivolts is not None:
        return millivolts, ()
    volts = plausible_v(raw / 1e6)
    if volts is not None:
        return volts, (f"voltage {raw} taken for microvolts: as millivolts it is {raw // 1000} V",)
    return None, ()


def _int(text: str | None, least: int, most: int) -> int | None:
    if text is None or not re.fullmatch(r"-?\d{1,18}", text):
        return None
    number = int(text)
    return number if least <= number <= most else None


def _within(value: int | None, most: int) -> int | None:
    return value if value is not None and abs(value) <= most else None
