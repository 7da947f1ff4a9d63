"""Typed, bounded reading of parsed values by key: a config's or a GGUF header's.

Their author may be anyone. It knows types and limits, not what a key means.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import NoReturn

from ..errors import FormatError


def float32(value: float) -> float:
    """The shortest decimal number that a float32 cannot tell from `value`.

    GGUF stores float32, so 1e-05 comes back as 9.999999747378752e-06; both become 1e-05 here.
    """
    try:
        stored = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return value
    for digits in range(1, 10):
        short = float(f"{stored:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", stored):
            return short
    return float(stored)


class ConfigValues:
    """Values by key. A key that is absent or null takes the given default.

    `of` says in errors whose values they are: "config" or "file".
    """

    def __init__(self, values: Mapping[str, object], *, of: str = "config") -> None:
        self._values = values
        self._of = of

    def get(self, key: str) -> object:
        """The raw value, None when absent or null."""
        return self._values.get(key)

    def section(self, key: str) -> ConfigValues | None:
        """A nested object, None when absent or null."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self._wrong(key, "an object", value)
        return ConfigValues(value, of=self._of)

    def count(self, *keys: str, default: int | None = None, least: int = 1, most: int) -> int:
        """A whole number under the first of `keys` that is there."""
        key, value = self._first(keys, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self._wrong(key, f"a whole number from {least} to {most}", value)
        return value

    def number(self, *keys: str, default: float | None = None, most: float) -> float:
        """A positive number under the first of `keys` that is there, to float32 precision."""
        key, value = self._first(keys, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(key, "a number", value)
        if not 0 < value <= most or not math.isfinite(value) or not float32(float(value)):
            self._wrong(key, f"a positive number up to {most:g}", value)
        return float32(float(value))

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        """True or false under `key`."""
        key, value = self._first((key,), default)
        if not isinstance(value, bool):
            self._wrong(key, "true or false", value)
        return value

    def numbers(self, key: str, *, most: int) -> tuple[float, ...]:
        """A list of up to `most` positive numbers, empty when absent."""
        value = self._values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or len(value) > most:
            self._wrong(key, f"a list of up to {most} numbers", value)
        for item in value:
            if isinstance(item, bool) or not isinstance(item, int | float) or not 0 < item < 1e9:
                self._wrong(key, "a list of positive numbers", item)
        return tuple(float(item) for item in value)

    def _first(self, keys: tuple[str, ...], default: object) -> tuple[str, object]:
        for key in keys:
            if self._values.get(key) is not None:
                return key, self._values[key]
        if default is None:
            raise FormatError(
                f"The {self._of} lacks the key {keys[0]!r}.",
                way_out="Give the config.json or the GGUF file of a language model.",
            )
        return keys[0], default

    def _wrong(self, key: str, wanted: str, found: object) -> NoReturn:
        raise FormatError(f"The {self._of}'s {key} must be {wanted}, not {repr(found)[:60]}.")
