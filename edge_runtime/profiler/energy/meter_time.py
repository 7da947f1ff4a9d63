"""A meter log's clock: what its first time shows itself to be, and every later one read alike.

Seconds or milliseconds since 1970, ISO 8601 with its zone, or seconds since the log began. A wall
time without a zone could be any of two dozen moments, and is refused.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal

_FIRST_UNIX_S = 9e8
_LAST_UNIX_S = 5e9
"""From 1998 to 2128: nothing that was logged counts that many seconds since it began."""
_SCALES = (1.0, 1e-3, 1e-6, 1e-9)
_NUMBER = re.compile(r"[+-]?(\d+(?:[.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_NONE = frozenset(("", "nan", "-nan", "+nan", "inf", "-inf", "+inf", "null", "none", "n/a", "-"))

_MOST_EXPONENT = 300


def number(text: str) -> float | None:
    """The number in a cell, with a point or a comma for decimals; None where it says there is none.

    Raises ValueError when it is no number.
    """
    if text.strip().lower() in _NONE:
        return None
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError(f"{text[:40]!r} is no number")
    value = float(text.replace(",", "."))
    return value if abs(value) < 1e300 else None


def last_digit(text: str) -> float:
    """What one more in the last digit of a cell with a number is worth: 0.01 of `5.10`."""
    mantissa, _, exponent = text.strip().lower().replace(",", ".").partition("e")
    return 10.0 ** min(int(exponent or 0) - len(mantissa.partition(".")[2]), _MOST_EXPONENT)


class TimeReader:
    """Reads the cells of a time column, whose unit in seconds is `scale`, None unnamed."""

    def __init__(self, scale: float | None) -> None:
        self._stated = scale
        self._scale = 1.0
        self._kind: Literal["unix", "relative", "iso"] | None = None

    @property
    def is_relative(self) -> bool:
        """Whether the times count from the log's own start."""
        return self._kind == "relative"

    @property
    def is_guess(self) -> bool:
        """Whether seconds were taken for the unit of times that name none."""
        return self.is_relative and self._stated is None

    def seconds(self, text: str) -> float:
        """The time in a cell in seconds, since 1970 or the log's start. Raises ValueError."""
        text = text.strip()
        value = number(text) if _NUMBER.fullmatch(text) else None
        if self._kind is None:
            self._decide(value)
        if (value is None) != (self._kind == "iso"):
            raise ValueError(f"{text[:40]!r} is no time like those before it")
        if value is None:
            return _moment(text)
        seconds = value * self._scale
        if (_FIRST_UNIX_S <= seconds <= _LAST_UNIX_S) != (self._kind == "unix"):
            raise ValueError(f"{text[:40]!r} is no time like those before it")
        return seconds

    def _decide(self, value: float | None) -> None:
        if value is None:
            self._kind = "iso"
            return
        scales = _SCALES if self._stated is None else (self._stated,)
        for scale in scales:
            if _FIRST_UNIX_S <= value * scale <= _LAST_UNIX_S:
                self._kind, self._scale = "unix", scale
                return
        if value * scales[0] > _FIRST_UNIX_S:
            raise ValueError(f"{value:g} is neither a time since 1970 nor since the log began")
        self._kind, self._scale = "relative", scales[0]


def moment(text: str) -> float:
    """Seconds since 1970 of a time written out with its zone, or of such seconds themselves.

    Raises ValueError.
    """
    seconds = number(text) if _NUMBER.fullmatch(text.strip()) else None
    if seconds is not None:
        if not _FIRST_UNIX_S <= seconds <= _LAST_UNIX_S:
            raise ValueError(f"{text[:40]!r} is no time of these days in seconds since 1970")
        return seconds
    return _moment(text.strip())


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text[:40]!r} is no time: write seconds since 1970, or 2026-01-31T12:00:00+00:00"
        ) from None
    if moment.tzinfo is None:
        raise ValueError(f"{text[:40]!r} has no time zone: write 2026-01-31T12:00:00+00:00")
    return moment.timestamp()
