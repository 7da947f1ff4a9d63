"""The only conversions between units, and the only wording of numbers for people.

Everywhere else values are SI (bytes, seconds, nanoseconds, joules). This module knows nothing of
models or machines.
"""

from __future__ import annotations

import math
import re

from .errors import UsageError

KIB = 1024
MIB = 1024**2
GIB = 1024**3
NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000

_BYTE_UNITS = {
    "": 1, "B": 1,
    "K": KIB, "KIB": KIB, "KB": 1000,
    "M": MIB, "MIB": MIB, "MB": 1000**2,
    "G": GIB, "GIB": GIB, "GB": 1000**3,
    "T": 1024**4, "TIB": 1024**4, "TB": 1000**4,
}  # fmt: skip
_DURATION_UNITS = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12, "p": 1e15}
_ENERGY_UNITS_J = {"wh": 3600.0, "mwh": 3.6, "kwh": 3.6e6, "j": 1.0, "kj": 1e3}
_MOST_DIGITS = 24
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_SCALED = re.compile(
    r"\s*(?:(\d{1,6})\s*x\s*)?(\d{1,24}(?:\.\d{1,24})?(?:e\+?\d{1,2})?)\s*([a-z]?)\s*",
    re.IGNORECASE,
)
_FLOP_PER_S = re.compile(r"\s*flop(?:/s|s)?\s*$", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Reads a size such as `6GiB`, `512M` (binary) or `2GB` (decimal) into bytes.

    Raises UsageError when the text is no size.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None or len(match[1]) > _MOST_DIGITS or match[2].upper() not in _BYTE_UNITS:
        raise UsageError(
            f"{text[:40]!r} is not a size.", way_out="Write it like 6GiB, 512MiB or 2GB."
        )
    return int(float(match[1]) * _BYTE_UNITS[match[2].upper()])


def parse_duration_s(text: str, option: str = "") -> float:
    """Reads a duration such as `90s`, `10m`, `1h` or a bare number of seconds.

    Raises UsageError, which names the `option` it stood for, when the text is no duration.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in _DURATION_UNITS:
        of = f"{option}: " if option else ""
        fact = f"{of}{text[:40]!r} is not a duration."
        raise UsageError(fact, way_out="Write it like 90s, 10m or 1h.")
    return float(match[1]) * _DURATION_UNITS[match[2].lower()]


def parse_scaled(text: str, option: str = "") -> float:
    """Reads a large number such as `1.5B`, `222e9`, `312T`, or `8x222e9` for a product.

    Raises UsageError, which names the `option` it stood for, when the text is no such number.
    """
    match = _SCALED.fullmatch(text)
    if match is None or match[3].lower() not in _SCALES:
        of = f"{option}: " if option else ""
        raise UsageError(
            f"{of}{text[:40]!r} is not a number.", way_out="Write it like 1.5B, 500M or 222e9."
        )
    return int(match[1] or 1) * float(match[2]) * _SCALES[match[3].lower()]


def parse_flop_per_s(text: str, option: str = "") -> float:
    """Reads a computing rate such as `312T` or `312 TFLOP/s`. Raises UsageError."""
    try:
        return parse_scaled(_FLOP_PER_S.sub("", text[:80]), option)
    except UsageError:
        of = f"{option}: " if option else ""
        raise UsageError(
            f"{of}{text[:40]!r} is no rate of computing.",
            way_out="Write it like 312T, 312 TFLOP/s or 312e12.",
        ) from None


def parse_energy_j(text: str, option: str = "") -> float:
    """Reads an energy such as `18.2 Wh` or `65 kJ` into joules; its unit must be said.

    Raises UsageError, which names the `option` it stood for, when the text is no energy.
    """
    match = _QUANTITY.fullmatch(text)
    unit = match[2].lower() if match else ""
    of = f"{option}: " if option else ""
    if unit == "mah":
        raise UsageError(
            f"{of}{text[:40]!r} is a charge, not an energy.",
            way_out="Multiply it by the cell's volts: 4700 mAh x 3.89 V = 18.3 Wh.",
        )
    if match is None or unit not in _ENERGY_UNITS_J or len(match[1]) > _MOST_DIGITS:
        raise UsageError(f"{of}{text[:40]!r} is no energy.", way_out="Write it like 18.2Wh.")
    return float(match[1]) * _ENERGY_UNITS_J[unit]


def format_bytes(count: float) -> str:
    """Words a number of bytes in binary units with three significant digits: `1.2 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{_three_digits(size)} {unit}"
        size /= 1024
    return f"{_three_digits(size)} TiB"


def format_bandwidth(bytes_per_s: float) -> str:
    """Words a memory bandwidth in decimal GB/s, as data sheets do."""
    return f"{_three_digits(bytes_per_s / 1e9)} GB/s"


def format_count(count: int) -> str:
    """Words a number of parameters or tokens: `494M`, `1.54B`, `512`."""
    if count < 10_000:
        return str(count)
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        # From 999.5 on, three digits would round to 1000 of the smaller unit.
        if count >= 0.9995 * size:
            return _three_digits(max(count / size, 1.0)) + unit
    return _three_digits(count / 1e3) + "k"


def format_rate(tokens_per_s: float) -> str:
    """Words a token rate with three significant digits, without its unit."""
    return _three_digits(tokens_per_s)


def format_duration(seconds: float) -> str:
    """Words a duration: `850 us`, `12.3 ms`, `4.56 s`, `3 min 20 s`."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 1e-3:
        return f"{_three_digits(seconds * 1e6)} us"
    if seconds < 1:
        return f"{_three_digits(seconds * 1e3)} ms"
    if seconds < 120:
        return f"{_three_digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def _three_digits(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(digits, 0), 4)}f}"
