"""onnxruntime-genai's model builder as a rival: checkpoints to folders, in fresh processes."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import onnx_folders
from convert import ROOT, Cost, median_of, run

BUILDER = (
    "import runpy, sys; sys.argv[0] = 'builder';"
    "runpy.run_module('onnxruntime_genai.models.builder', run_name='__main__')"
)


def environment(path: str | None = None) -> dict[str, str]:
    """Our own variables, with our sources or another `PYTHONPATH`; offline."""
    return {**os.environ, "PYTHONPATH": path or str(ROOT), "HF_HUB_OFFLINE": "1"}


def offered(given: argparse.Namespace) -> bool:
    """Whether there is a builder to compare with."""
    return bool(given.builder_python or given.builder_path)


def build(
    given: argparse.Namespace, checkpoint: Path, out: Path, level: str, options: tuple[str, ...]
) -> Cost:
    """One folder by the builder; options are its `KEY=VALUE` pairs."""
    command = [
        given.builder_python or sys.executable, "-c", BUILDER, "-i", checkpoint, "-o", out,
        "-p", level, "-e", "cpu", "-c", out.with_name(f"{out.name}-cache"),
    ]  # fmt: skip
    if options:
        command += ["--extra_options", *options]
    cost = run(command, out.with_name(f"{out.name}.log"), environment(given.builder_path))
    shutil.rmtree(out.with_name(f"{out.name}-cache"), ignore_errors=True)
    return cost


def _ours(given: argparse.Namespace, checkpoint: Path, out: Path) -> Cost:
    command = [sys.executable, "-m", "edge_runtime", "convert", checkpoint,
               "--level", "onnx:int4", "-o", out]  # fmt: skip
    return run(command, out.with_name(f"{out.name}.log"), environment())


def convert_compared(work: Path, given: argparse.Namespace) -> list[dict]:
    """Wall and peak memory of int4, each side's conversions in turns."""
    checkpoint = onnx_folders.checkpoint(work, given.large, given.layers)
    out = work / "converted"
    costs: dict[str, list[Cost]] = {"ours": []}
    if offered(given):
        costs["builder"] = []
    for turn in range(max(2, given.loads)):
        for side in costs if turn % 2 == 0 else reversed(costs):
            shutil.rmtree(out, ignore_errors=True)
            if side == "ours":
                costs[side].append(_ours(given, checkpoint, out))
            else:
                costs[side].append(build(given, checkpoint, out, "int4", ()))
    shutil.rmtree(out, ignore_errors=True)
    figure: dict[str, object] = {"model": given.large, "level": "int4"}
    for side, found in costs.items():
        figure[side] = {**median_of(found), "wall_s_each": [cost.wall_s for cost in found]}
    if offered(given):
        ours, theirs = median_of(costs["ours"]), median_of(costs["builder"])
        figure["ratio_ours_over_builder"] = {name: ours[name] / theirs[name] for name in ours}
    return [figure]
