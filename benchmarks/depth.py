"""Full-depth decode rates predicted from two truncated depths, against full-depth measurements.

    python benchmarks/depth.py [--models llama-3.2-1b,qwen2.5-1.5b,qwen3-1.7b] [--levels ...]

The prediction is the one `edge check` uses for models too large to be made whole. The figure is the
median absolute error over all model-level pairs. The models are large enough for their truncations
not to fit a last-level cache: from there they would run too fast, and the line would be too steep.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import shapes

from edge_runtime import statistics
from edge_runtime.fit import extend_depth
from edge_runtime.measurement import SessionOptions, decode_workload
from edge_runtime.profiler import Plan, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="llama-3.2-1b,qwen2.5-1.5b,qwen3-1.7b")
    parser.add_argument("--levels", default="Q8_0,Q4_K_M,Q4_0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.45, help="depth of the deeper truncation")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    options = SessionOptions(threads=given.threads)
    plan = Plan(min_runs=3, max_runs=3, budget_s=600)
    figures = []
    for name in given.models.split(","):
        full = shapes.shape(name).layers
        deep = max(3, round(full * given.share))
        few = max(1, deep // 4)
        for level in given.levels.split(","):
            with tempfile.TemporaryDirectory() as scratch:
                files = {
                    depth: shapes.artifact(name, level, Path(scratch), depth)
                    for depth in (few, deep, full)
                }
                seconds: dict[int, list] = {depth: [] for depth in files}
                for _ in range(given.rounds):
                    for depth, artifact in files.items():
                        record = measure(artifact, decode_workload(24), options, plan=plan)
                        seconds[depth].append(record.decode_tokens_per_s.inverse())
            best = {d: sorted(s, key=lambda i: i.value)[len(s) // 2] for d, s in seconds.items()}
            predicted = extend_depth((few, best[few]), (deep, best[deep]), full)
            figures.append(
                {
                    "model": name, "level": level, "layers": full, "truncated": [few, deep],
                    "predicted_s": predicted.value, "measured_s": best[full].value,
                    "error": predicted.value / best[full].value - 1,
                }
            )  # fmt: skip
    errors = [abs(figure["error"]) for figure in figures]
    print(
        json.dumps(
            {
                "benchmark": "depth",
                "median_absolute_error": statistics.median(errors),
                "largest_absolute_error": max(errors),
                "figures": figures,
            }
        )
    )


if __name__ == "__main__":
    main()
