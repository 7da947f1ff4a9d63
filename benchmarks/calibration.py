"""What calibration is worth on this machine: projections before and after it, held against runs.

    python benchmarks/calibration.py --work DIR [--models gemma-3-1b,...] [--levels Q8_0,...]

A check is saved as its user would, and made a device of one's own three times: with no measurement
of it (its facts and the published rows alone), with one short run per quantization family (one
small model at one level of each), and with the whole check. Models that the check does not have are
then measured whole, and held against the three projections. `DIR` keeps what was measured, so that
a second call only computes. Nothing else should run meanwhile; every cell says when it did.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import shapes

import profiles
from edge_runtime import statistics
from edge_runtime.artifact import ModelShape
from edge_runtime.basis import Unavailable
from edge_runtime.cli.engines import planned_model
from edge_runtime.cli.personal import Personal, find_personal
from edge_runtime.measurement import Measurement, SessionOptions, Workload
from edge_runtime.profiler import Plan, measure
from edge_runtime.profiler.results import append_result, read_results
from edge_runtime.projection import Calibration, Projection, project
from edge_runtime.projection.own_rows import own_rows
from edge_runtime.statistics import Interval
from edge_runtime.verdict import Target

PROMPT_TOKENS, GENERATE_TOKENS = 256, 32
ONE_RUN_OF = "qwen3-0.6b"
"""The model whose single cells stand for one short run per family."""
NAME = "benchmarked"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of what is measured")
    parser.add_argument("--models", default="gemma-3-1b,llama-3.2-1b,qwen2.5-1.5b,smollm2-1.7b")
    parser.add_argument("--levels", default="Q8_0,Q4_K_M,Q4_0")
    parser.add_argument("--class", dest="kind", help="what the machine is, where it is not certain")
    parser.add_argument("--budget", default="75s", help="time of the check")
    parser.add_argument("--threads", type=int, help="threads of all runs, all cores if not given")
    parser.add_argument("--runs", type=int, default=3, help="repetitions of each held-out cell")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    os.environ["EDGE_CONFIG_DIR"] = str(given.work / "config")
    levels = given.levels.split(",")
    options = SessionOptions(threads=given.threads)
    personal = calibrated(given.work, levels, given.budget, given.threads, given.kind)
    held_out = measured(given.work, given.models.split(","), levels, given.runs, options)
    print(json.dumps(report(personal, held_out, options), indent=1))


def calibrated(
    work: Path, levels: Sequence[str], budget: str, threads: int | None, kind: str | None
) -> Personal:
    """The device that `edge check --save` and `edge calibrate` make of this machine."""
    check = work / "check.json"
    if not check.exists():
        limited = ("--threads", str(threads)) if threads else ()
        asked = ("-l", ",".join(levels), "--budget", budget, *limited)
        edge("check", *asked, "--save", str(check), "--json")
    classed = ("--class", kind) if kind else ()
    edge("calibrate", str(check), "--name", NAME, *classed, "--json")
    found = find_personal(NAME)
    if found is None:
        raise SystemExit("edge calibrate saved nothing.")
    return found


def edge(*arguments: str) -> None:
    command = [sys.executable, "-m", "edge_runtime", *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    # 1 and 3 are verdicts on the models, not failures.
    if done.returncode not in (0, 1, 3):
        raise SystemExit(f"edge {arguments[0]} failed with exit code {done.returncode}.")


def measured(
    work: Path, models: Sequence[str], levels: Sequence[str], runs: int, options: SessionOptions
) -> tuple[Measurement, ...]:
    """The held-out cells: those in the folder, and those still missing there."""
    file = work / "held-out.jsonl"
    there = (
        [one for one in read_results(file) if isinstance(one, Measurement)] if file.exists() else []
    )
    done = {(one.artifact.name, one.artifact.level) for one in there}
    workload = Workload(
        name="held-out", prompt_tokens=PROMPT_TOKENS, generate_tokens=GENERATE_TOKENS
    )
    for name in models:
        for level in levels:
            if (name, level) in done:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                artifact = shapes.artifact(name, level, Path(scratch))
                plan = Plan(min_runs=runs, max_runs=runs, budget_s=600)
                record = measure(artifact, workload, options, plan=plan)
            append_result(file, record)
            there.append(record)
    return tuple(
        one for one in there if one.artifact.name in models and one.artifact.level in levels
    )


def report(
    personal: Personal, held_out: Sequence[Measurement], options: SessionOptions
) -> dict[str, object]:
    stages = {
        "before": None,
        "one_run_per_family": one_run_per_family(personal.calibration),
        "whole_check": personal.calibration,
    }
    cells = [cell(personal, stages, record, options) for record in held_out]
    return {
        "benchmark": "calibration",
        "device": personal.profile.label,
        "calibration_rows": {k: len(v.rows) if v else 0 for k, v in stages.items()},
        "calibration_rows_disturbed": sum(bool(row.disturbed) for row in personal.device.rows),
        "calibration_rows_spoilt": sum(not row.counts for row in personal.device.rows),
        "held_out_disturbed": sum(bool(record.noise.flags) for record in held_out),
        "threads": options.threads,
        "summary": {stage: summary(cells, stage) for stage in stages},
        "cells": cells,
    }


def one_run_per_family(own: Calibration) -> Calibration:
    """The first row of each level of one model."""
    first = {}
    for row in own.rows:
        if row.planned.shape.name == ONE_RUN_OF:
            first.setdefault(row.planned.level, row)
    return dataclasses.replace(own, rows=tuple(first.values()))


def cell(
    personal: Personal,
    stages: dict[str, Calibration | None],
    record: Measurement,
    options: SessionOptions,
) -> dict[str, object]:
    name, level = record.artifact.name, record.artifact.level
    shape = ModelShape.from_config(profiles.models()[name].config, name=name)
    planned = planned_model(shape, level)
    rate, prompt = record.decode_tokens_per_s, record.prefill_tokens_per_s
    found: dict[str, object] = {
        "model": name,
        "level": level,
        "measured": interval(rate),
        "measured_prefill": interval(prompt),
        "disturbed": list(record.noise.flags),
        "counts": all(row.counts for row in own_rows([record], planned_model).rows),
    }
    for stage, own in stages.items():
        projected = project(
            planned,
            personal.profile,
            accelerator="cpu",
            target=Target(prompt_tokens=PROMPT_TOKENS),
            options=options,
            own=own,
        )
        found[stage] = against(projected, rate, prompt)
    return found


def against(
    projected: Projection, rate: Interval | None, prompt: Interval | None
) -> dict[str, object]:
    decode, prefill = projected.decode_tokens_per_s, projected.prefill_tokens_per_s
    if isinstance(decode, Unavailable):
        return {"reason": decode.reason}
    return {
        "projected": interval(decode),
        "error": decode.value / rate.value - 1 if rate else None,
        "inside": decode.low <= rate.value <= decode.high if rate else None,
        "projected_prefill": interval(prefill),
        "prefill_error": prefill.value / prompt.value - 1 if prefill and prompt else None,
        "own_rows": projected.nearness.own_rows,
    }


def interval(found: Interval | None) -> dict[str, float] | None:
    return None if found is None else dataclasses.asdict(found)


def summary(cells: Sequence[dict[str, object]], stage: str) -> dict[str, object]:
    ends = [one[stage] for one in cells if one["counts"]]
    found = [end for end in ends if isinstance(end, dict) and end.get("error") is not None]
    if not found:
        return {"cells": 0}
    errors = [abs(end["error"]) for end in found]
    prompts = [abs(end["prefill_error"]) for end in found if end["prefill_error"] is not None]
    return {
        "cells": len(found),
        "median_absolute_error": statistics.median(errors),
        "largest_absolute_error": max(errors),
        "share_inside_interval": sum(end["inside"] for end in found) / len(found),
        "prefill_median_absolute_error": statistics.median(prompts) if prompts else None,
    }


if __name__ == "__main__":
    main()
