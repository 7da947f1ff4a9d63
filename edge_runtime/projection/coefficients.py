"""The learnt coefficients as records, checked as they are read.

What the time model's parts are worth, how far they scatter between groups, devices and rows, how
many rows and devices stand behind each group, and by how much intervals are widened so that they
cover unseen devices as often as they say. One set for decoding and one for prompts, each with one
model per kind of accelerator. They are learnt elsewhere; here they are read and held.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeGuard

from profiles.projection import projection_table

from ..errors import FormatError
from .supply import KINDS, Typical

DECODE, PREFILL = PHASES = ("decode", "prefill")
SCHEMA = 1

LARGEST_LOG = 60.0
"""No part of a logarithm is larger in size: a factor of 1e26 is a damaged file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The logarithm a part has, and the standard deviation with which it is known."""

    log: float
    deviation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """How many published rows of how many devices stand behind something."""

    rows: int
    devices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Widening:
    """By what a predicted standard deviation is multiplied to cover what it says.

    For a device none of whose rows are known, for one with published rows on the same route, and
    for one with own measurements. `routes` has what unseen devices need by path, where it is known.
    `afar` is for a device like which none is known on the route: of another class, another maker.
    """

    unseen: float
    afar: float
    published: float
    own: float
    routes: Mapping[str, float]

    def for_route(self, path: str, *, afar: bool = False) -> float:
        """What an unseen device needs on a path, near to others with rows or far from them."""
        return self.afar if afar else self.routes.get(path, self.unseen)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """What was learnt of one phase on one kind of accelerator.

    `parts` hold for all devices, `devices` by `device|path` for those with published rows. The
    groups of parts scatter with the standard deviations `spreads`, rows with `noise`. `support`
    counts rows and devices by path, by path and family as `path:family`, by path and kind of device
    as `path@group`.
    """

    parts: Mapping[str, Learned]
    devices: Mapping[str, Mapping[str, Learned]]
    spreads: Mapping[str, float]
    noise: float
    typical: Typical
    widening: Widening
    support: Mapping[str, Support]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coefficients:
    """All cost models by phase and kind of accelerator, with where they come from."""

    models: Mapping[tuple[str, str], CostModel]
    provenance: Mapping[str, str | int]

    def model(self, phase: str, kind: str) -> CostModel:
        """The cost model of a phase on a kind of accelerator."""
        return self.models[phase, kind]


@functools.cache
def shipped() -> Coefficients:
    """The coefficients in the package. Raises FormatError when the file is damaged."""
    try:
        return read_coefficients(projection_table())
    except ValueError as error:
        raise FormatError(str(error)) from error


def read_coefficients(table: Mapping[str, Any]) -> Coefficients:
    """Reads the parsed table of a coefficients file.

    Raises FormatError naming the field that is missing or cannot be.
    """
    if table.get("schema") != SCHEMA:
        raise FormatError(
            f"The projection's coefficients are of schema {table.get('schema')!r}.",
            cause=f"This version reads schema {SCHEMA}.",
            way_out="Run python scripts/fit_projection.py again.",
        )
    models = {
        (phase, kind): _model(_table(_table(table, phase, ""), kind, phase), f"{phase}.{kind}")
        for phase in PHASES
        for kind in KINDS
    }
    provenance = _table(table, "provenance", "")
    return Coefficients(
        models=MappingProxyType(models), provenance=MappingProxyType(dict(provenance))
    )


def _model(data: Mapping[str, Any], where: str) -> CostModel:
    widening, typical = _table(data, "widening", where), _table(data, "typical", where)
    return CostModel(
        parts=_learned(_table(data, "parts", where), f"{where}.parts"),
        devices=MappingProxyType(
            {
                name: _learned(_table(_table(data, "devices", where), name, where), name)
                for name in _table(data, "devices", where)
            }
        ),
        spreads=_positives(_table(data, "spreads", where), f"{where}.spreads"),
        noise=_positive(data.get("noise"), f"{where}.noise"),
        typical=Typical(
            per_byte=_positive(typical.get("per_byte"), f"{where}.typical.per_byte"),
            spread=_positive(typical.get("spread"), f"{where}.typical.spread"),
        ),
        widening=Widening(
            unseen=_positive(widening.get("unseen"), f"{where}.widening.unseen"),
            afar=_positive(widening.get("afar"), f"{where}.widening.afar"),
            published=_positive(widening.get("published"), f"{where}.widening.published"),
            own=_positive(widening.get("own"), f"{where}.widening.own"),
            routes=_positives(_table(widening, "routes", where), f"{where}.widening.routes"),
        ),
        support=MappingProxyType(
            {
                name: _support(value, f"{where}.support.{name}")
                for name, value in _table(data, "support", where).items()
            }
        ),
    )


def _table(data: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = data.get(name)
    if not isinstance(value, Mapping):
        raise _damaged(".".join(filter(None, (where, name))), "a table")
    return value


def _learned(data: Mapping[str, Any], where: str) -> Mapping[str, Learned]:
    found = {}
    for name, value in data.items():
        if (
            not isinstance(value, list)
            or len(value) != 2
            or not all(_number(one) for one in value)
            or abs(value[0]) > LARGEST_LOG
            or not 0 <= value[1] <= LARGEST_LOG
        ):
            raise _damaged(f"{where}.{name}", "a logarithm and its standard deviation")
        found[name] = Learned(log=float(value[0]), deviation=float(value[1]))
    return MappingProxyType(found)


def _positives(data: Mapping[str, Any], where: str) -> Mapping[str, float]:
    return MappingProxyType(
        {name: _positive(value, f"{where}.{name}") for name, value in data.items()}
    )


def _support(value: object, where: str) -> Support:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or any(type(one) is not int or not 0 < one < 1_000_000_000 for one in value)
    ):
        raise _damaged(where, "numbers of rows and of devices")
    return Support(rows=value[0], devices=value[1])


def _positive(value: object, where: str) -> float:
    if not _number(value) or not 0 < value < math.exp(LARGEST_LOG):
        raise _damaged(where, "a positive number")
    return float(value)


def _number(value: object) -> TypeGuard[float]:
    # A truth value is an int to Python, and no number in a file.
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _damaged(where: str, wanted: str) -> FormatError:
    return FormatError(
        f"The projection's coefficients are damaged: {where} is not {wanted}.",
        way_out="Install edge-runtime again, or run python scripts/fit_projection.py.",
    )
