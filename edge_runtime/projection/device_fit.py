"""What reads on a device: of every model the best level that does, and what just misses and why.

The inverse of asking about one model. A model's best level is the one with the most bits of those
that read: bits buy quality, and above the target speed buys nothing. Pure functions of records.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from profiles.devices import DeviceProfile

from ..artifact import LEVELS, ModelShape
from ..memory_needs import PlannedModel, planned_gguf
from ..statistics import Interval
from ..verdict import VerdictKind
from .rows import (
    SCHEMA,
    Asked,
    ProjectedRow,
    describe,
    exit_code_of,
    heading,
    name_of,
    project_rows,
)

FIT_LEVELS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")
"""What is tried for every model unless asked otherwise: down to four bits, where answers still are
about those of the full model; below, a smaller model serves better."""

_MIXTURE = 1.4
"""A level reads at most so many times fewer bytes than its bits let one expect from a smaller one's
file: at most 1.33 for every model of the catalogue and every two levels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What reads on one device: a row per model, at its best level.

    `rows` are those that read or may, surely reading ones first and each the largest model first;
    `misses` the others, nearest first. `left_out` are models that no level could be planned for.
    """

    tool_version: str
    asked: Asked
    device: DeviceProfile
    levels: tuple[str, ...]
    rows: tuple[ProjectedRow, ...]
    misses: tuple[ProjectedRow, ...]
    schema: int = SCHEMA

    @property
    def exit_code(self) -> int:
        """0 when any model reads, else 3 when one may or nothing is known, else 1."""
        return exit_code_of(self.rows)

    @property
    def viable(self) -> tuple[ProjectedRow, ...]:
        """The rows that surely read."""
        return tuple(row for row in self.rows if row.verdict.kind is VerdictKind.VIABLE)

    @property
    def borderline(self) -> tuple[ProjectedRow, ...]:
        """The rows that may read, and those of which nothing is known."""
        return tuple(row for row in self.rows if row.verdict.kind is VerdictKind.BORDERLINE)

    def to_json(self) -> dict[str, object]:
        """The document: the request, the device, the rows that read and those that miss."""
        return {
            **heading(self.schema, self.tool_version, self.asked),
            "device": name_of(self.device),
            "devices": [describe(self.device)],
            "levels": list(self.levels),
            "rows": [row.to_json() for row in self.rows],
            "misses": [row.to_json() for row in self.misses],
        }


def fit_shapes(
    shapes: Iterable[ModelShape],
    device: DeviceProfile,
    asked: Asked,
    *,
    levels: Sequence[str] = FIT_LEVELS,
    tool_version: str = "",
) -> FitReport:
    """Projects every shape at the levels and keeps the best one of each.

    Raises what `project_rows` raises, and UnsupportedError for an unknown level.
    """
    best: list[ProjectedRow] = []
    roomy = True
    for shape in shapes:
        row = best_row(levels, functools.partial(planned_gguf, shape), device, asked, roomy=roomy)
        # Smaller ones come first in a catalogue: what one could not have, the next seldom can.
        roomy = row.verdict.kind is VerdictKind.VIABLE and row.row.level == _by_bits(levels)[0]
        best.append(row)
    reading = [row for row in best if row.verdict.kind is not VerdictKind.NOT_VIABLE]
    missing = [row for row in best if row.verdict.kind is VerdictKind.NOT_VIABLE]
    reading.sort(
        key=lambda row: (row.verdict.kind is VerdictKind.VIABLE, row.is_known, row.row.parameters),
        reverse=True,
    )
    missing.sort(key=shortfall)
    return FitReport(
        tool_version=tool_version,
        asked=asked,
        device=device,
        levels=tuple(levels),
        rows=tuple(reading),
        misses=tuple(missing),
    )


def best_row(
    levels: Sequence[str],
    plan: Callable[[str], PlannedModel],
    device: DeviceProfile,
    asked: Asked,
    *,
    roomy: bool = False,
) -> ProjectedRow:
    """The level with the most bits that reads; else the one that most nearly may; else the nearest.

    `plan` gives the model's file at a level. The smallest comes first: where even that does not fit
    the memory, no other is looked at. With `roomy` the largest does, since it is expected to read.
    """
    *larger, last = _by_bits(levels)
    tried: list[ProjectedRow] = []
    if roomy and larger:
        row = _row(plan(larger.pop(0)), device, asked)
        if row.verdict.kind is VerdictKind.VIABLE:
            return row
        tried.append(row)
    smallest = _row(plan(last), device, asked)
    if smallest.verdict.memory.kind is VerdictKind.NOT_VIABLE or not isinstance(
        smallest.projection.decode_tokens_per_s, Interval
    ):
        return smallest
    tried.append(smallest)
    for level in larger:
        if _beyond_the_roof(level, smallest):
            continue
        row = _row(plan(level), device, asked)
        if row.verdict.kind is VerdictKind.VIABLE:
            return row
        tried.append(row)
    if smallest.verdict.kind is VerdictKind.VIABLE:
        return smallest
    may = [row for row in tried if row.verdict.kind is VerdictKind.BORDERLINE]
    return min(may or tried, key=shortfall)


def _by_bits(levels: Sequence[str]) -> list[str]:
    return sorted(levels, key=_order)


def _beyond_the_roof(level: str, smallest: ProjectedRow) -> bool:
    """Whether a level is surely too slow by its bytes alone, and need not be planned to know it."""
    roof = smallest.projection.roof_tokens_per_s
    if roof is None or level not in LEVELS:
        return False
    bits = 8 * smallest.row.weights_bytes / smallest.row.parameters
    growth = LEVELS[level].bits_per_weight / bits
    return roof / growth * _MIXTURE < smallest.verdict.limit_tokens_per_s


def _order(level: str) -> int:
    """The most bits first; what is no level of GGUF stands as it was given, behind them."""
    return list(LEVELS).index(level) if level in LEVELS else len(LEVELS)


def _row(planned: PlannedModel, device: DeviceProfile, asked: Asked) -> ProjectedRow:
    return project_rows([planned], device, asked)[0]


def shortfall(row: ProjectedRow) -> float:
    """By which factor the target or the memory is missed, the worse of the two; 1 is just met."""
    rate, memory = row.projection.decode_tokens_per_s, row.verdict.memory
    slow = row.verdict.limit_tokens_per_s / rate.value if isinstance(rate, Interval) else 1.0
    tight = memory.need_bytes / memory.available_bytes if memory.available_bytes else 1.0
    return max(slow, tight)
