"""Which of a device's published runs stand in for a calibration, when the others are projected.

One short run per quantization family of the same device, engine, accelerator, API and number of
threads is given, from the same source, since a calibration is made on the very machine. Its context
is short, as a calibration's is, and it is always of another file than the one asked about, so that
nothing is answered by its own measurement. The choice is random but the same in every call.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A published run: where it ran, the family of its quantization, and which file it was.

    `place` is anything that two runs must share for one to calibrate the other; `short` says that
    its context was short enough for a calibration.
    """

    place: tuple[str, ...]
    family: str
    file: tuple[str, str]
    short: bool = True


def calibrating_runs(
    rows: Sequence[Candidate], seed: int = 7
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The index of each row that can be projected after a calibration, with those of its runs.

    The runs are one per family that the place has, the row's own family first. A row whose family
    has no such run of another file there is not yielded: nobody calibrated for it.
    """
    places: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for index, row in enumerate(rows):
        places.setdefault(row.place, {}).setdefault(row.family, []).append(index)
    for index, row in enumerate(rows):
        chance = random.Random(f"{seed} {index}")
        families = places[row.place]
        chosen = []
        for family in (row.family, *sorted(set(families) - {row.family})):
            others = [
                other
                for other in families[family]
                if rows[other].file != row.file and rows[other].short
            ]
            if others:
                chosen.append(chance.choice(others))
            elif family == row.family:
                break
        else:
            yield index, tuple(chosen)
