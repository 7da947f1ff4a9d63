"""What the profiler's own instruments cost: decode rates with and without them, interleaved.

    python benchmarks/instruments.py [--model 15m] [--rounds 15]

A small model shows the cost most: a step takes about a millisecond.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import shapes

from edge_runtime import statistics
from edge_runtime.measurement import SessionOptions, decode_workload
from edge_runtime.profiler import Plan, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="15m,qwen2.5-0.5b")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    options = SessionOptions(threads=given.threads)
    figures = []
    for name in given.models.split(","):
        tokens = 512 if name == "15m" else 64
        with tempfile.TemporaryDirectory() as scratch:
            artifact = shapes.artifact(name, "Q4_K_M", Path(scratch))
            ratios = []
            for turn in range(given.rounds):
                rates = {}
                for on in (True, False) if turn % 2 == 0 else (False, True):
                    plan = Plan(min_runs=3, max_runs=3, budget_s=600, instruments=on)
                    record = measure(artifact, decode_workload(tokens), options, plan=plan)
                    rates[on] = statistics.median(record.decode_samples)
                ratios.append(rates[True] / rates[False])
        figures.append(
            {"model": name, "ratio_on_over_off": statistics.median(ratios), "ratios": ratios}
        )
    print(json.dumps({"benchmark": "instruments", "figures": figures}))


if __name__ == "__main__":
    main()
