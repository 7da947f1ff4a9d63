"""`edge check` without arguments: its time and disk, and its projections against measurements.

    python benchmarks/catalogue.py [--models qwen2.5-0.5b,...] [--levels Q8_0,Q4_K_M,Q4_0]

Runs the check once as a user would, then measures some of its projected rows directly on whole
synthetic artifacts and reports the error of the projected decode rates, and how many measurements
fell inside the projected intervals.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import shapes

from edge_runtime import statistics
from edge_runtime.measurement import SessionOptions, Workload
from edge_runtime.profiler import Plan, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", default="gemma-3-270m,qwen2.5-0.5b,gemma-3-1b,llama-3.2-1b,qwen2.5-1.5b"
    )
    parser.add_argument("--levels", default="Q8_0,Q4_K_M,Q4_0")
    given = parser.parse_args()
    started = time.monotonic()
    out = subprocess.run(
        [sys.executable, "-m", "edge_runtime", "check", "--json", "-l", given.levels],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    elapsed = time.monotonic() - started
    report = json.loads(out.stdout)
    rows = {(row["model"], row["level"]): row["verdict"] for row in report["rows"]}
    prompt = report["target"]["prompt_tokens"]
    workload = Workload(name="direct", prompt_tokens=prompt, generate_tokens=32)
    figures = []
    for name in given.models.split(","):
        for level in given.levels.split(","):
            with tempfile.TemporaryDirectory() as scratch:
                artifact = shapes.artifact(name, level, Path(scratch))
                plan = Plan(min_runs=3, max_runs=3, budget_s=300)
                record = measure(artifact, workload, SessionOptions(), plan=plan)
            verdict = rows[name, level]
            projected, direct = verdict["decode_tokens_per_s"], record.decode_tokens_per_s.value
            first = verdict["ttft_s"]["value"] if verdict["ttft_s"] else None
            direct_first = prompt / record.prefill_tokens_per_s.value
            figures.append(
                {
                    "model": name, "level": level, "projected": projected, "measured": direct,
                    "error": projected["value"] / direct - 1,
                    "inside": projected["low"] <= direct <= projected["high"],
                    "ttft_error": first / direct_first - 1 if first else None,
                    "disturbed": list(record.noise.flags),
                }
            )  # fmt: skip
    errors = [abs(figure["error"]) for figure in figures]
    first_errors = [abs(f["ttft_error"]) for f in figures if f["ttft_error"] is not None]
    print(
        json.dumps(
            {
                "benchmark": "catalogue", "exit_code": out.returncode, "elapsed_s": elapsed,
                "peak_disk_bytes": report["peak_disk_bytes"],
                "median_absolute_error": statistics.median(errors),
                "largest_absolute_error": max(errors),
                "share_inside_interval": sum(f["inside"] for f in figures) / len(figures),
                "ttft_median_absolute_error": statistics.median(first_errors),
                "fits": report["fits"], "figures": figures,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
