"""What a meter log's header says: which columns hold time and power, and in which units.

A column counts only when its name is known and nothing is left over: `dp_V` is a voltage of a data
line and `capacity_mAh` no current. A name without a unit is taken for volts, amps, watts or
seconds, which the values must then bear out.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ...errors import FormatError

Quantity = Literal["time", "voltage", "current", "power"]

SEPARATORS = ("\t", ";", ",", " ")

_MILLI, _MICRO, _NANO = 1e-3, 1e-6, 1e-9
_UNITS: dict[Quantity, dict[str, float]] = {
    "time": {
        "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "ms": _MILLI,
        "msec": _MILLI, "milliseconds": _MILLI, "us": _MICRO, "µs": _MICRO, "ns": _NANO,
    },
    "voltage": {
        "v": 1.0, "volt": 1.0, "volts": 1.0, "mv": _MILLI, "uv": _MICRO, "µv": _MICRO, "kv": 1e3,
    },
    "current": {
        "a": 1.0, "amp": 1.0, "amps": 1.0, "ampere": 1.0, "amperes": 1.0, "ma": _MILLI,
        "ua": _MICRO, "µa": _MICRO,
    },
    "power": {
        "w": 1.0, "watt": 1.0, "watts": 1.0, "mw": _MILLI, "uw": _MICRO, "µw": _MICRO, "kw": 1e3,
    },
}  # fmt: skip
_NAMES: dict[Quantity, frozenset[str]] = {
    "time": frozenset(
        ("time", "timestamp", "time stamp", "t", "ts", "unix", "unix time", "unixtime",
         "unix timestamp", "epoch", "epoch time", "datetime", "date time", "elapsed",
         "elapsed time", "relative time", "sample time", "utc")
    ),
    "voltage": frozenset(
        ("voltage", "u", "v", "volt", "volts", "bus voltage", "vbus", "dc voltage",
         "main voltage", "load voltage", "input voltage", "supply voltage")
    ),
    "current": frozenset(
        ("current", "i", "amp", "amps", "bus current", "ibus", "dc current", "main current",
         "load current", "input current", "supply current")
    ),
    "power": frozenset(
        ("power", "p", "watt", "watts", "active power", "real power", "dc power", "main power",
         "load power", "input power", "supply power", "total power")
    ),
}  # fmt: skip
_CAMEL = re.compile(r"(?<=[a-z]{3})(?=[A-Z])")  # voltageV, but not mV
_START = re.compile(r"\bstart(?:ed)?(?:[ _](?:time|at))?\s*[:=,;]\s*\"?([^\"\s].*?)\"?\s*$", re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column that is read: its place, its name as written, and its unit in SI, None unnamed."""

    place: int
    name: str
    factor: float | None

    @property
    def scale(self) -> float:
        """What its numbers are multiplied by; one where the unit is not named."""
        return 1.0 if self.factor is None else self.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of a log. Either `power` or both of the others are there.

    Power is preferred where it is written: behind a wall plug, volts times amps is apparent power.
    """

    separator: str
    cells: tuple[str, ...]
    time: Column
    power: Column | None
    voltage: Column | None
    current: Column | None

    @property
    def last_place(self) -> int:
        """The last column that a row must have."""
        read = (self.time, self.power, self.voltage, self.current)
        return max(column.place for column in read if column is not None)

    @property
    def quantity(self) -> str:
        """What the power comes from, in the header's words."""
        if self.power is not None:
            return self.power.name
        assert self.voltage is not None
        assert self.current is not None
        return f"{self.voltage.name} x {self.current.name}"


def cells_of(line: str, separator: str) -> list[str]:
    """The cells of a line. Raises ValueError when its quotes do not close."""
    if separator == " ":
        return line.split()
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, strict=True))]
    except (csv.Error, StopIteration) as error:
        raise ValueError(f"{error}") from error


def find_columns(line: str, number: int) -> Columns | None:
    """The columns that a line names as a header, or None when it is none.

    Raises FormatError when it names the same quantity twice.
    """
    for separator in SEPARATORS:
        try:
            cells = cells_of(line, separator)
        except ValueError:
            continue
        found: dict[Quantity, list[Column]] = {quantity: [] for quantity in _NAMES}
        for place, cell in enumerate(cells):
            known = _known(cell, place)
            if known is not None:
                found[known[0]].append(known[1])
        has_power = bool(found["power"])
        if not found["time"] or not (has_power or (found["voltage"] and found["current"])):
            continue
        wanted: tuple[Quantity, ...] = ("power",) if has_power else ("voltage", "current")
        for quantity in wanted:
            if len(found[quantity]) > 1:
                names = " and ".join(repr(column.name) for column in found[quantity])
                raise FormatError(
                    f"Line {number} names two columns of {quantity}: {names}.",
                    way_out="Leave the one that feeds the device in the log.",
                )
        return Columns(
            separator=separator,
            cells=tuple(cells),
            time=found["time"][0],
            power=found["power"][0] if has_power else None,
            voltage=None if has_power else found["voltage"][0],
            current=None if has_power else found["current"][0],
        )
    return None


def _known(cell: str, place: int) -> tuple[Quantity, Column] | None:
    cell = cell.strip()
    apart = _CAMEL.sub(" ", cell)
    # MICRO SIGN and GREEK SMALL LETTER MU look alike and are both written.
    words = [w for w in re.split(r"[\s_()\[\]/,:.-]+", apart.lower().replace("\u03bc", "µ")) if w]
    if not words:
        return None
    for quantity, names in _NAMES.items():
        factor = _UNITS[quantity].get(words[-1])
        if factor is not None and (len(words) == 1 or " ".join(words[:-1]) in names):
            return quantity, Column(place=place, name=cell[:40], factor=factor)
        if " ".join(words) in names:
            return quantity, Column(place=place, name=cell[:40], factor=None)
    return None


def stated_start_s(line: str) -> float | None:
    """The wall time that a line before the rows states as the log's start, seconds since 1970.

    None when it states none, or one without a zone.
    """
    match = _START.search(line)
    if match is None:
        return None
    try:
        moment = datetime.fromisoformat(match[1])
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.timestamp()
