"""Takes the keys out of a TOML table one by one, and says of each what is wrong with it.

A fault is a sentence that names its place, and reading goes on after it, so that the author of a
file hears of all faults at once. A key that nobody asked for is a fault too. This module knows how
a figure is written and nothing of what devices are.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from .figures import DIMENSIONS, FREQUENCY, KINDS, MEMORY, Dimension, Figure, parse_quantity

NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_MOST_TEXT = 4000
_MOST_ITEMS = 200
_MOST_CORES = 1024


class Context:
    """What figures anywhere in the file refer to."""

    sources: Mapping[str, str] = MappingProxyType({})
    as_of: dt.date = dt.date.min


class Table:
    """One table of a file: takes its keys out, and notes as a fault what is not as it must be."""

    def __init__(
        self, data: Mapping[str, Any], at: str, faults: list[str], context: Context
    ) -> None:
        self._data = data
        self._at = at
        self._faults = faults
        self._asked: list[str] = []
        self.context = context

    def fault(self, key: str, what: str) -> None:
        """Notes a sentence about a key of this table."""
        self._faults.append(f"{self._at}{key} {what}{'' if what.endswith('?') else '.'}")

    def _take(self, key: str, kind: type, what: str, *, required: bool = False) -> Any:
        self._asked.append(key)
        value = self._data.get(key)
        if value is None:
            if required:
                self.fault(key, "is missing")
            return None
        if type(value) is not kind:
            self.fault(key, f"must be {what}, not {shown(value)}")
            return None
        return value

    def has(self, key: str) -> bool:
        """Whether the file has this key here."""
        return key in self._data

    def text(self, key: str, *, required: bool = False) -> str:
        """A text, "" where there is none."""
        value = self._take(key, str, "a text in quotes", required=required)
        if value is None:
            return ""
        if not value.strip():
            self.fault(key, "is empty: fill it, or leave the key out")
        elif len(value) > _MOST_TEXT or not value.isprintable():
            self.fault(key, f"must be one printable line of at most {_MOST_TEXT} characters")
        else:
            return str(value)
        return ""

    def flag(self, key: str) -> bool:
        """A claim, false where it is not made."""
        return bool(self._take(key, bool, "true or false"))

    def count(self, key: str) -> int:
        """A number of cores, 1 where it is faulty."""
        value = self._take(key, int, "a whole number", required=True)
        if value is not None and not 1 <= value <= _MOST_CORES:
            self.fault(key, f"is {shown(value)}; it lies between 1 and {_MOST_CORES}")
        return value or 1

    def texts(self, key: str, known: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A list of texts, each once; of `known` ones only where these are given."""
        value = self._take(key, list, "a list of texts")
        if value is None:
            return ()
        if len(value) > _MOST_ITEMS or not all(
            isinstance(item, str) and item.strip() and len(item) <= 200 and item.isprintable()
            for item in value
        ):
            self.fault(
                key, f"must be a list of at most {_MOST_ITEMS} printable texts, none of them empty"
            )
            return ()
        for item in value:
            if value.count(item) > 1:
                self.fault(key, f'names "{item}" twice')
                break
            if known and item not in known:
                self.fault(key, f'has the unknown "{item}"{near(item, known)}')
        return tuple(value)

    def date(self, key: str, *, required: bool = False) -> dt.date | None:
        """A day, written as a text or as TOML's own date."""
        value = self._data.get(key)
        self._asked.append(key)
        if value is None:
            if required:
                self.fault(key, 'is missing: the day on which the sources were read, "2026-11-22"')
            return None
        try:
            day = value if type(value) is dt.date else dt.date.fromisoformat(value)
        except (TypeError, ValueError):
            self.fault(key, f'is {shown(value)}; a day is written "2026-11-22"')
            return None
        if not 2000 <= day.year <= 2100:
            self.fault(key, f"is {day}, which cannot be")
        return day

    def name(self, key: str) -> str:
        """An id."""
        value = self.text(key, required=True)
        if value and not NAME.fullmatch(value):
            self.fault(key, f"is {shown(value)}; an id is lower case: letters, digits, . and -")
        return value

    def source(self, key: str, *, required: bool) -> str:
        """The text of a source: an address as it is, else the one [sources] has under that key."""
        value = self.text(key)
        if not value and required and not self.has(key):
            self.fault(key, "is missing: every fact says where it was read")
        if "://" in value:
            return value
        if value and value not in self.context.sources:
            self.fault(
                key, f'is "{value[:40]}", which [sources] lacks{near(value, self.context.sources)}'
            )
        return self.context.sources.get(value, "")

    def sources(self, key: str) -> Mapping[str, str]:
        """The texts that figures refer to, by their keys."""
        found = self.table(key)
        if found is None:
            return MappingProxyType({})
        if len(found._data) > _MOST_ITEMS:
            self.fault(key, f"has over {_MOST_ITEMS} entries")
            return MappingProxyType({})
        return MappingProxyType({name: found.text(name, required=True) for name in found._data})

    def table(self, key: str) -> Table | None:
        """A table within this one, None where there is none."""
        value = self._take(key, dict, "a table")
        if value is None:
            return None
        return Table(value, f"{self._at}{key}.", self._faults, self.context)

    def tables(self, key: str) -> list[Table]:
        """The tables of a list."""
        value = self._take(key, list, "a list of tables") or []
        if len(value) > _MOST_ITEMS or not all(isinstance(item, dict) for item in value):
            self.fault(key, f"must be a list of at most {_MOST_ITEMS} tables, not {shown(value)}")
            return []
        return [
            Table(item, f"{self._at}{key}[{n}].", self._faults, self.context)
            for n, item in enumerate(value, 1)
        ]

    def sizes(self, key: str) -> tuple[int, ...]:
        """Sizes of memory in bytes, the smallest first."""
        sizes = []
        for item in self.texts(key):
            if (ends := self._quantity(key, item, MEMORY)) is not None:
                if ends[0] != ends[1]:
                    self.fault(key, f'has "{item}": list the sizes one by one')
                sizes.append(int(ends[0]))
        return tuple(sorted(sizes))

    def frequency(self, key: str) -> float | None:
        """A clock in hertz."""
        text = self.text(key)
        ends = self._quantity(key, text, FREQUENCY) if text else None
        return ends[1] if ends else None

    def _quantity(self, key: str, text: str, dimension: Dimension) -> tuple[float, float] | None:
        try:
            return parse_quantity(text, dimension)
        except ValueError as error:
            self.fault(key, str(error))
            return None

    def figure(self, key: str) -> Figure | None:
        """A figure: `{ value = "64 GB/s", kind = "stated", source = "spec" }`."""
        value = self._data.get(key)
        if value is not None and not isinstance(value, dict):
            self._asked.append(key)
            self.fault(
                key,
                f'is {shown(value)}; a figure is written {{ value = "{DIMENSIONS[key].example}", '
                'kind = "stated", source = "spec" }',
            )
            return None
        table = self.table(key)
        return None if table is None else table._as_figure(DIMENSIONS[key])

    def _as_figure(self, dimension: Dimension) -> Figure | None:
        text = self.text("value", required=True)
        ends = self._quantity("value", text, dimension) if text else None
        kind = self.text("kind", required=True)
        if kind and kind not in KINDS:
            self.fault("kind", f'is "{kind[:40]}"; it is one of {", ".join(KINDS)}')
        source = self.source("source", required=True)
        as_of = self.date("as_of") or self.context.as_of
        note = self.text("note")
        if kind in ("derived", "estimated") and not self.has("note"):
            self.fault("note", f"is missing: what is {kind} says from what and how")
        self.done()
        if ends is None:
            return None
        return Figure(low=ends[0], high=ends[1], kind=kind, source=source, as_of=as_of, note=note)

    def done(self) -> None:
        """Notes the keys that nobody asked for."""
        for key in self._data:
            if key not in self._asked:
                self.fault(key[:60], f"is no key that is known here{near(key, self._asked)}")


def near(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest of those known, or all of them."""
    names = list(known)
    found = difflib.get_close_matches(name[:60].lower(), names, n=1, cutoff=0.5)
    if found:
        return f': is "{found[0]}" meant?'
    return f"; known are {', '.join(names)}" if names else ""


def shown(value: object) -> str:
    """A value of a stranger's, short enough for a sentence."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number of very many digits"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
