"""Whether two whole comparisons put the levels in the same order of speed.

    edge compare --save one.jsonl; edge compare --save two.jsonl
    python benchmarks/compare_order.py one.jsonl two.jsonl

Every pair of levels is looked at, for prompt and generation, by the ratios to the baseline (paired
by round): `resolved` are the pairs whose 95 % intervals do not overlap in either run, `same` those
of them that both runs put in the same order. `resolved_once` were resolved in one run only, and
`same_once` of those the other run's means agree with. Prints JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from edge_runtime.comparison import Comparison, compare_records
from edge_runtime.comparison.rows import Rate
from edge_runtime.profiler.results import read_saved_file
from edge_runtime.statistics import Interval


def ratios(comparison: Comparison, phase: str) -> dict[str, Interval]:
    """Each level's ratio to the baseline, whose own is 1."""
    found = {}
    for row in comparison.rows:
        rate = getattr(row, phase)
        if isinstance(rate, Rate):
            found[row.label] = rate.ratio or Interval(low=1.0, value=1.0, high=1.0)
    return found


def apart(one: Interval, other: Interval) -> bool:
    """Whether two intervals do not overlap."""
    return one.high < other.low or other.high < one.low


def agreement(first: dict[str, Interval], second: dict[str, Interval]) -> dict[str, object]:
    """How the two runs order every pair of levels that both have."""
    labels = [label for label in first if label in second]
    counts = {"pairs": 0, "resolved": 0, "same": 0, "resolved_once": 0, "same_once": 0}
    against = []
    for a, b in itertools.combinations(labels, 2):
        counts["pairs"] += 1
        seen = [apart(run[a], run[b]) for run in (first, second)]
        same = (first[a].value < first[b].value) == (second[a].value < second[b].value)
        if not any(seen):
            continue
        kind = "" if all(seen) else "_once"
        counts[f"resolved{kind}"] += 1
        counts[f"same{kind}"] += same
        if not same:
            against.append(f"{a} and {b}, resolved in {'both' if all(seen) else 'one'}")
    return {**counts, "against": against}


def main() -> None:
    """Reads two saved comparisons and prints how far they agree."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs=2, type=Path)
    runs = [compare_records(read_saved_file(path)) for path in parser.parse_args().runs]
    print(
        json.dumps(
            {
                phase: agreement(*(ratios(run, phase) for run in runs))
                | {
                    "ratios": {
                        label: [
                            [round(x, 3) for x in (r.value, r.low, r.high)]
                            for r in (ratios(run, phase).get(label) for run in runs)
                            if r is not None
                        ]
                        for label in ratios(runs[0], phase)
                    }
                }
                for phase in ("prefill", "decode")
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
