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
_MOST_DIGITS = 24
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


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
