"""A figure: a range, how it is known, who says so and when; and how one is written with its unit.

Figures are SI inside and texts with a unit in files, so that a wrong unit is told from a wrong
number. This module knows units and what a machine can possibly have of each; it knows no device.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

KINDS = ("stated", "measured", "derived", "estimated")
"""How a figure is known: a data sheet or its like says it, somebody measured it, it follows from
stated ones by arithmetic that the note gives, or it is a judgement that the note explains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A quantity in SI units that lies between `low` and `high`, and where it comes from.

    `source` is the full text, mostly an address; `as_of` the day on which it was read there.
    """

    low: float
    high: float
    kind: str
    source: str
    as_of: dt.date
    note: str = ""

    @property
    def value(self) -> float:
        """One number for the range: its geometric mean."""
        return self.low if self.exact else math.sqrt(self.low * self.high)

    @property
    def exact(self) -> bool:
        """Whether the source gives one number and no range."""
        return self.low == self.high


def figure_record(figure: Figure | None) -> dict[str, object] | None:
    """A figure for JSON, in the SI unit that its key names; None where there is none."""
    if figure is None:
        return None
    return {
        "low": figure.low,
        "high": figure.high,
        "kind": figure.kind,
        "source": figure.source,
        "as_of": figure.as_of.isoformat(),
        "note": figure.note or None,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """What a field measures: its units in SI, and the least and the most that a device can have.

    `hints` says of a unit of something else what to do with it.
    """

    name: str
    units: Mapping[str, float]
    lowest: float
    highest: float
    example: str
    hints: Mapping[str, str]


def _scaled(unit: str, prefixes: str, *, also: str = "") -> dict[str, float]:
    powers = {"u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
    names = (unit, also) if also else (unit,)
    return {f"{prefix}{name}": powers[prefix] for prefix in ["", *prefixes] for name in names}


_BINARY = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}
_BITS = "counts bits: divide by 8 and write GB/s"

BANDWIDTH = Dimension(
    name="a bandwidth",
    units=_scaled("B/s", "kMGT") | {f"{unit}/s": size for unit, size in _BINARY.items()},
    lowest=1e8,
    highest=1e14,
    example="51.2 GB/s",
    hints={
        **dict.fromkeys(("Gbit/s", "Gb/s", "Gbps", "Tbit/s", "Mbit/s", "Mbps", "Gib/s"), _BITS),
        "GBps": "is written GB/s",
        "GB": "is a size: write GB/s",
        "MT/s": "is a rate of transfers: multiply by the bus width in bytes and write GB/s",
        "MHz": "is a frequency: write the bandwidth in GB/s",
    },
)
FLOATING = Dimension(
    name="a rate of floating-point operations",
    units=_scaled("FLOP/s", "MGTP", also="FLOPS"),
    lowest=1e8,
    highest=1e17,
    example="3.2 TFLOP/s",
    hints={
        "TOP/s": "counts integer operations: write TFLOP/s",
        "TOPS": "counts integer operations: write TFLOP/s",
        "TFLOP": "lacks the time: write TFLOP/s",
    },
)
INTEGER = Dimension(
    name="a rate of integer operations",
    units=_scaled("OP/s", "MGTP", also="OPS"),
    lowest=1e8,
    highest=1e17,
    example="45 TOP/s",
    hints={
        "TFLOP/s": "counts floating-point operations: write TOP/s",
        "TFLOPS": "counts floating-point operations: write TOP/s",
        "TOP": "lacks the time: write TOP/s",
    },
)
POWER = Dimension(
    name="a power",
    units=_scaled("W", "mk"),
    lowest=0.1,
    highest=2e4,
    example="15 W",
    hints={"Wh": "is an energy: write W", "J": "is an energy: write W"},
)
ENERGY = Dimension(
    name="an energy",
    units={"Wh": 3600.0, "mWh": 3.6, "J": 1.0, "kJ": 1e3},
    lowest=360.0,
    highest=3.6e6,
    example="18.2 Wh",
    hints={
        "mAh": "is a charge: multiply by the cell's voltage and write Wh",
        "Ah": "is a charge: multiply by the cell's voltage and write Wh",
        "W": "is a power: write Wh",
        "kWh": "is far more than a device has: write Wh",
    },
)
FREQUENCY = Dimension(
    name="a frequency",
    units=_scaled("Hz", "kMG"),
    lowest=1e8,
    highest=1e10,
    example="2.4 GHz",
    hints={"MT/s": "is a rate of transfers: write GHz"},
)
# Memory is sold in powers of two and labelled GB: 8 GB of DRAM are 8 GiB.
MEMORY = Dimension(
    name="a size of memory",
    units={"MB": 2.0**20, "GB": 2.0**30, "TB": 2.0**40} | _BINARY,
    lowest=2.0**25,
    highest=2.0**44,
    example="8 GB",
    hints={"Gb": "counts bits: divide by 8 and write GB", "GB/s": "is a bandwidth: write GB"},
)
SHARE = Dimension(
    name="a share",
    units={"%": 0.01},
    lowest=0.01,
    highest=1.0,
    example="66 to 75 %",
    hints={},
)

_NUMBER = r"\d{1,12}(?:\.\d{1,12})?"
_QUANTITY = re.compile(rf"({_NUMBER})(?: to ({_NUMBER}))? ?([A-Za-z%][A-Za-z%/]{{0,15}})")
_SHOWN = 40


def parse_quantity(text: str, dimension: Dimension) -> tuple[float, float]:
    """Reads `64 GB/s` or `51.2 to 60 GB/s` into the two ends in SI units.

    Raises ValueError with the end of a sentence whose beginning names the field: `is "9 m", ...`.
    """
    shown = f'"{text[:_SHOWN]}"'
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"is {shown}, which is no number with a unit: write {dimension.name} like "
            f'"{dimension.example}", a range like "{_range_example(dimension)}"'
        )
    unit = match[3]
    if unit not in dimension.units:
        raise ValueError(f"is {shown}: {_wrong_unit(unit, dimension)}")
    scale = dimension.units[unit]
    low, high = float(match[1]) * scale, float(match[2] or match[1]) * scale
    if low > high:
        raise ValueError(f"is {shown}: a range goes from the low end to the high one")
    if not dimension.lowest <= low <= high <= dimension.highest:
        raise ValueError(
            f"is {shown}, which no device has: {dimension.name} lies between {_bounds(dimension)}"
        )
    return low, high


def _bounds(dimension: Dimension) -> str:
    unit = dimension.example.rsplit(" ", 1)[1]
    low, high = (end / dimension.units[unit] for end in (dimension.lowest, dimension.highest))
    return f"{low:g} and {high:.10g} {unit}"


def _wrong_unit(unit: str, dimension: Dimension) -> str:
    if unit in dimension.hints:
        return f"{unit} {dimension.hints[unit]}"
    other = next((known for known in dimension.units if known.lower() == unit.lower()), None)
    if other:
        return f"the unit is written {other}"
    what = dimension.name.split(" ", 1)[1]
    return f'{unit} is no unit of {what}, write it like "{dimension.example}"'


def _range_example(dimension: Dimension) -> str:
    number, unit = dimension.example.rsplit(" ", 1)
    return f"{number.split()[0]} to {float(number.split()[-1]) * 1.1:g} {unit}"


DIMENSIONS: Mapping[str, Dimension] = MappingProxyType(
    {
        "bandwidth": BANDWIDTH,
        "fp16": FLOATING,
        "fp32": FLOATING,
        "int8": INTEGER,
        "tdp": POWER,
        "sustained": POWER,
        "limit": POWER,
        "battery": ENERGY,
        "share": SHARE,
        "taken": MEMORY,
    }
)
"""What a figure measures, by the key it is written under."""
