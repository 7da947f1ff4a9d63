"""Frozen dataclasses to plain JSON values and back, driven by their annotations.

Supports what the records use: dataclasses, tuples, enums, literals, unions with None or
`Unavailable`, and JSON scalars. Input may come from a stranger's file: every mismatch is a
`FormatError` that names the field. It knows no record by name.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import FormatError

T = TypeVar("T")

_MOST = 1 << 64
"""Nothing that is counted, sized or stamped is larger, and arithmetic on what is may overflow."""


class Saved(typing.Protocol):
    """A record that is saved as JSON."""

    def to_json(self) -> dict[str, object]:
        """The record as plain JSON values, including the schema number."""


def to_jsonable(value: object) -> object:
    """Turns a record into dicts, lists and scalars. Non-finite floats are refused (ValueError)."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_jsonable(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("JSON has no infinity and no NaN; a missing number is None.")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def from_jsonable(
    kind: type[T], data: object, *, schema: int | None = None, oldest: int | None = None
) -> T:
    """Rebuilds a record of `kind` from JSON values, checking every field's type.

    With `schema`, the data's own `schema` number must equal it, or lie between `oldest` and it:
    what a newer layout added is then left at its default, and the record is one of `schema`.
    Raises FormatError.
    """
    if schema is not None:
        found = data.get("schema") if isinstance(data, dict) else None
        if type(found) is int and (schema if oldest is None else oldest) <= found < schema:
            data = {**typing.cast(dict[str, object], data), "schema": schema}
        elif type(found) is not int or found != schema:
            raise FormatError(
                f"This is no {kind.__name__} of schema {schema}.",
                cause=f"Its schema is {found!r}.",
                way_out="Write it again with this version, or read it with the one that wrote it.",
            )
    return typing.cast(T, _decode(kind, data, kind.__name__))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, data: object, where: str) -> object:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(typing.get_args(kind), data, where)
    if origin is typing.Literal:
        if data in typing.get_args(kind):
            return data
        raise _mismatch(where, f"one of {typing.get_args(kind)}", data)
    if origin is tuple:
        return _decode_tuple(typing.get_args(kind), data, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, where)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(data)
        except ValueError:
            raise _mismatch(where, kind.__name__, data) from None
    if kind in (str, int, float, bool):
        return _decode_scalar(kind, data, where)
    if kind is type(None) and data is None:
        return None
    raise _mismatch(where, getattr(kind, "__name__", str(kind)), data)


def _decode_scalar(kind: type, data: object, where: str) -> object:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        try:
            return float(data)
        except OverflowError:
            raise _mismatch(where, "a finite number", data) from None
    if type(data) is not kind:
        raise _mismatch(where, kind.__name__, data)
    if isinstance(data, float) and not math.isfinite(data):
        raise _mismatch(where, "a finite number", data)
    if isinstance(data, int) and abs(data) > _MOST:
        raise _mismatch(where, "a number of 64 bits", data)
    return data


def _decode_union(options: tuple[Any, ...], data: object, where: str) -> object:
    failures = []
    for option in options:
        try:
            return _decode(option, data, where)
        except FormatError as error:
            failures.append(error)
    # The most telling failure is the one that got furthest into the data.
    raise max(failures, key=lambda error: error.fact.count("."))


def _decode_tuple(items: tuple[Any, ...], data: object, where: str) -> object:
    if not isinstance(data, list):
        raise _mismatch(where, "a list", data)
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_decode(items[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if len(items) != len(data):
        raise _mismatch(where, f"a list of {len(items)}", data)
    return tuple(
        _decode(item, value, f"{where}[{i}]")
        for i, (item, value) in enumerate(zip(items, data, strict=True))
    )


def _decode_dataclass(kind: type, data: object, where: str) -> object:
    if not isinstance(data, dict):
        raise _mismatch(where, f"a {kind.__name__} object", data)
    hints = _hints(kind)
    unknown = set(data) - set(hints)
    if unknown:
        raise FormatError(f"{where} has the unknown field {min(map(str, unknown))!r}.")
    values = {}
    for item in dataclasses.fields(kind):
        if item.name in data:
            values[item.name] = _decode(hints[item.name], data[item.name], f"{where}.{item.name}")
        elif item.default is dataclasses.MISSING:
            raise FormatError(f"{where} lacks the field {item.name!r}.")
    return kind(**values)


def _mismatch(where: str, wanted: str, found: object) -> FormatError:
    shown = repr(found)
    return FormatError(f"{where} must be {wanted}, not {shown[:60]}.")
