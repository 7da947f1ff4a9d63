"""What a few measurements of a device tell of its other models, on published rows.

    python benchmarks/own_measurements.py [--draws 10]

For every device and way to compute with rows of at least four catalogued models, two or three
models are drawn as the device's own measurements, one row per level, and the rest is projected:
from the published model without the device (`before`), from that conditioned on the own rows
(`conditioned`), from the cost fit over the own rows alone (`fitted`), and as `project` weighs them
(`together`). Only rows for which the own ones determine a fit are compared. The device's own
published coefficients are not used; those of the population were learnt with its rows among others.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from unittest import mock

import profiles
from edge_runtime.artifact import LEVELS, ModelShape
from edge_runtime.basis import Unavailable
from edge_runtime.feasibility import Phase
from edge_runtime.measurement import SessionOptions
from edge_runtime.memory_needs import PlannedModel, planned_gguf
from edge_runtime.projection import Calibration, OwnRow, project, projector
from edge_runtime.projection.observations import usable
from edge_runtime.projection.own_costs import own_rate
from edge_runtime.projection.supply import lineage
from edge_runtime.statistics import Interval, median
from edge_runtime.verdict import Target
from profiles.devices import DeviceProfile, device
from profiles.published import PublishedRow, published_rows

LEAST_MODELS, LEAST_ROWS, MOST_OWN_ROWS, MOST_HELD_OUT = 4, 8, 20, 12
READING_ERROR = 0.05
"""What a published rate is taken to be uncertain by: rounded, one run or a few."""

Way = tuple[str, str, str, int | None]
Outcome = dict[str, tuple[float, bool]]
"""By kind of projection: the absolute error of the logarithm, and whether the interval held."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10, help="draws of own models per route")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    found: dict[Way, list[Outcome]] = {}
    for way, rows in sorted(ways().items(), key=str):
        for _ in range(given.draws):
            found.setdefault(way, []).extend(held_out(way, rows, chance))
    kinds = collections.defaultdict(list)
    for way, outcomes in found.items():
        kinds[way[1]] += outcomes
    print(
        json.dumps(
            {
                "benchmark": "own_measurements",
                "kinds": {kind: summary(outcomes) for kind, outcomes in kinds.items() if outcomes},
                "routes": [
                    {"route": " ".join(str(part) for part in way if part), **summary(outcomes)}
                    for way, outcomes in found.items()
                    if outcomes
                ],
            },
            indent=1,
        )
    )


def ways() -> dict[Way, list[PublishedRow]]:
    """The usable decode rows of llama.cpp by device, accelerator, API and threads."""
    found: dict[Way, list[PublishedRow]] = collections.defaultdict(list)
    for row in published_rows():
        if not usable(row) or lineage(row.engine) != "llama.cpp" or not row.decode_tokens_per_s:
            continue
        if row.model_id not in profiles.models() or row.level not in LEVELS:
            continue
        api = "" if row.accelerator == "cpu" else row.api
        found[device(row.device).id, row.accelerator, api, row.threads].append(row)
    return {
        way: rows
        for way, rows in found.items()
        if len({row.model_id for row in rows}) >= LEAST_MODELS
        and len(rows) >= LEAST_ROWS
        and device(way[0]).roof(way[1]) is not None
    }


def held_out(way: Way, rows: Sequence[PublishedRow], chance: random.Random) -> Iterator[Outcome]:
    """One draw of own models, and each other row as it is projected then."""
    models = sorted({row.model_id for row in rows})
    own_models = chance.sample(models, chance.choice((2, 3)))
    mine = {(r.model_id, r.level): r for r in reversed(rows) if r.model_id in own_models}
    # Under another id the coefficients of the device itself are not found.
    stranger = dataclasses.replace(device(way[0]), id=f"stranger-{way[0]}")
    own = Calibration(
        device=stranger.id, rows=tuple(map(own_row, list(mine.values())[:MOST_OWN_ROWS]))
    )
    others = [row for row in rows if row.model_id not in own_models]
    for row in others[:MOST_HELD_OUT]:
        if (outcome := compared(row, stranger, own)) is not None:
            yield outcome


def compared(row: PublishedRow, stranger: DeviceProfile, own: Calibration) -> Outcome | None:
    """The errors of one row; None where the own rows determine no fit for it."""
    planned, depth = plan(row.model_id, row.level), depth_of(row)
    api = "" if row.accelerator == "cpu" else row.api
    fitted = own_rate(
        own, planned, phase=Phase.DECODE, backend="llama.cpp", accelerator=row.accelerator,
        api=api, threads=row.threads, depth_tokens=depth, confidence=0.8,
    )  # fmt: skip
    if fitted is None or fitted.direct:
        return None
    asked = functools.partial(
        project,
        planned,
        stranger,
        accelerator=row.accelerator,
        api=api or None,
        target=Target(prompt_tokens=depth, context_tokens=max(depth, 4096)),
        options=SessionOptions(threads=row.threads),
    )
    with mock.patch.object(projector, "own_rate", return_value=None):
        conditioned = asked(own=own).decode_tokens_per_s
    rates = {
        "before": asked().decode_tokens_per_s,
        "conditioned": conditioned,
        "fitted": fitted.tokens_per_s,
        "together": asked(own=own).decode_tokens_per_s,
    }
    true = row.decode_tokens_per_s
    if true is None or any(isinstance(rate, Unavailable) for rate in rates.values()):
        return None
    return {
        kind: (abs(math.log(rate.value / true)), rate.low <= true <= rate.high)
        for kind, rate in rates.items()
        if isinstance(rate, Interval)
    }


def own_row(row: PublishedRow) -> OwnRow:
    rate = row.decode_tokens_per_s or math.nan
    return OwnRow(
        planned=plan(row.model_id, row.level),
        accelerator=row.accelerator,
        api="" if row.accelerator == "cpu" else row.api,
        backend="llama.cpp",
        threads=row.threads,
        depth_tokens=depth_of(row),
        prompt_tokens=row.prompt_tokens or 512,
        decode=Interval(
            low=rate * (1 - READING_ERROR), value=rate, high=rate * (1 + READING_ERROR)
        ),
        prefill=None,
        measured_on=str(row.date),
    )


def depth_of(row: PublishedRow) -> int:
    return (row.depth_tokens or 0) + (row.generate_tokens or 128) // 2


@functools.cache
def plan(model: str, level: str) -> PlannedModel:
    shape = ModelShape.from_config(profiles.models()[model].config, name=model)
    return planned_gguf(shape, level)


def summary(outcomes: Iterable[Outcome]) -> dict[str, object]:
    rows = list(outcomes)
    return {
        "rows": len(rows),
        **{
            kind: {
                "median_error": round(math.expm1(median([row[kind][0] for row in rows])), 4),
                "inside_80": round(sum(row[kind][1] for row in rows) / len(rows), 3),
            }
            for kind in rows[0]
        },
    }


if __name__ == "__main__":
    main()
