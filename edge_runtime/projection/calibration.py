"""Measurements made on a device itself, as a projection for it takes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..memory_needs import PlannedModel
from ..statistics import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRow:
    """One measurement on the device: the file that ran, the way it was reached, and its rates.

    `depth_tokens` is the mean context of the decode steps, `prompt_tokens` the length of the prompt
    behind `prefill`. Rates are tokens/s with their 95 % interval over repetitions. `threads` are
    those of a processor, None where the engine chose. `disturbed` rows were measured while other
    programs were busy.
    """

    planned: PlannedModel
    accelerator: str
    api: str
    backend: str
    threads: int | None
    depth_tokens: int
    prompt_tokens: int
    decode: Interval | None
    prefill: Interval | None
    measured_on: str
    disturbed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """All own measurements of one device, named by its id.

    One is itself and equals no other: what was worked out of it is looked up by it.
    """

    device: str
    rows: tuple[OwnRow, ...]


def usual_threads(rows: Iterable[OwnRow]) -> int | None:
    """The threads that most of some rows ran with, None where none tells."""
    counts = sorted(row.threads for row in rows if row.threads is not None)
    return max(counts, key=counts.count, default=None)
