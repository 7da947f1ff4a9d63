"""`edge check` without a model: a few synthetic cells, a cost fit, the catalogue judged by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import EdgeError, UsageError
from ..feasibility import (
    PROCESS_BYTES,
    CheckReport,
    Phase,
    Row,
    memory_fit,
    project,
    recommend,
    rows_of,
    summarize,
    work_of,
)
from ..fit import Cell, CostFit, fit_costs
from ..measurement import Memory, SessionOptions, Workload
from ..verdict import Evidence, Target
from .cells import Bench, open_bench
from .machine import Machine, look_at_machine, report_of

if TYPE_CHECKING:
    from ..artifact import Artifact, ModelShape

BENCH_SHAPES: tuple[tuple[str, int | None], ...] = (
    ("qwen3-0.6b", None),
    ("qwen2.5-0.5b", None),
    ("llama-3.2-3b", 5),
)
"""What is measured to learn the machine's costs: (catalogue id, layers or all).

A deep and narrow model (the cost per layer), one whose rows are no multiple of 256 (the types
llama.cpp falls back to), and a wide one truncated in depth (the matrices of a large model). All of
them weigh more than the last-level caches of most machines: what fits one would run faster than the
memory that larger models depend on."""

CELL = Workload(name="pp64+tg16", prompt_tokens=64, generate_tokens=16)
DEEP_PREFILL_S = 4.0
DEEPEST_TOKENS, SHALLOWEST_TOKENS = 1024, 192
"""Each shape's first level is run once more behind a long prompt, to learn what attention costs: as
long as the machine evaluates in this time."""
SHORTEST_CELL_S = 1.5
"""A cell gets at least this long, whatever the budget: enough for two runs of a small model."""


@dataclass(frozen=True, slots=True)
class _Learnt:
    """What the cells gave: points for the two fits, and the size of the measuring process."""

    decode: list[Cell]
    prefill: list[Cell]
    process_bytes: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """What a projection stands on: the machine, its fitted costs, and what the cells taught."""

    machine: Machine
    learnt: _Learnt
    decode: CostFit
    prefill: CostFit | None
    disturbances: tuple[str, ...]


def check_catalogue(
    levels: Sequence[str],
    target: Target,
    options: SessionOptions,
    budget_s: float,
    say: Callable[[str], None],
) -> CheckReport:
    """Measures the bench cells within the budget and judges every catalogue model marked default.

    Raises UsageError when the budget was too short to learn the costs, EdgeError when no cell could
    be measured.
    """
    import profiles

    from ..artifact import ModelShape

    say("looking at the machine")
    machine = look_at_machine(options)
    with open_bench(options, say) as bench:
        learnt = _measure_bench(bench, levels, target, budget_s)
        decode, prefill = _fits(learnt, bench)
        # One disturbed cell weighs little in a fit of twelve; most of them disturbed spoil it.
        noisy = [record.noise.flags[0] for record in bench.measurements if record.noise.disturbed]
        spoilt = 2 * len(noisy) > len(bench.measurements)
        ground = _Ground(
            machine=machine,
            learnt=learnt,
            decode=decode,
            prefill=prefill,
            disturbances=(noisy[-1],) if spoilt else (),
        )
        rows: list[Row] = []
        for entry in profiles.models().values():
            if not entry.check_default:
                continue
            shape = ModelShape.from_config(entry.config, name=entry.id)
            evidence = [_evidence(ground, shape, name, target, options) for name in levels]
            weights = [shape.weight_bytes(name) for name in levels]
            rows += rows_of(evidence, target, shape.parameters, weights)
        rows.sort(key=lambda row: row.parameters)
        fits = [summarize("decode", decode)]
        if prefill:
            fits.append(summarize("prefill", prefill))
        return report_of(bench, machine, target, rows, recommend(rows, target), fits=tuple(fits))


def _measure_bench(bench: Bench, levels: Sequence[str], target: Target, budget_s: float) -> _Learnt:
    import profiles

    from ..artifact import ModelShape

    learnt = _Learnt(decode=[], prefill=[], process_bytes=[])
    plan = [(name, layers, level) for name, layers in BENCH_SHAPES for level in levels]
    for number, (name, layers, level) in enumerate(plan):
        shape = ModelShape.from_config(profiles.models()[name].config, name=name)
        goes_deep = level == levels[0]
        seconds = _cell_s(bench, budget_s, len(plan) + len(BENCH_SHAPES) - number)

        def one(
            shape: ModelShape = shape,
            level: str = level,
            layers: int | None = layers,
            seconds: float = seconds,
            goes_deep: bool = goes_deep,
        ) -> None:
            with bench.synthetic(shape, level, layers=layers) as artifact:
                _learn(bench, artifact, target, learnt, CELL, seconds)
                if goes_deep:
                    _learn(bench, artifact, target, learnt, _deep_cell(learnt), seconds)

        bench.try_cell(f"{name} {level}", one)
    return learnt


def _deep_cell(learnt: _Learnt) -> Workload:
    """One long prompt and a few steps behind it, as long as this machine can afford."""
    affordable = DEEP_PREFILL_S / learnt.prefill[-1].seconds.value if learnt.prefill else 0
    prompt = int(min(max(affordable, SHALLOWEST_TOKENS), DEEPEST_TOKENS)) // 64 * 64
    return Workload(name=f"pp{prompt}+tg24", prompt_tokens=prompt, generate_tokens=24)


def _cell_s(bench: Bench, budget_s: float, cells_left: int) -> float:
    """The next cell's measuring time: an equal share of what is left, less making and loading."""
    return max(SHORTEST_CELL_S, 0.7 * (budget_s - bench.elapsed_s()) / max(cells_left, 1))


def _learn(
    bench: Bench,
    artifact: Artifact,
    target: Target,
    learnt: _Learnt,
    workload: Workload,
    seconds: float,
) -> None:
    from ..profiler import Plan

    deep = workload is not CELL
    plan = Plan(
        # The long prompt is evaluated once: warming up with it would cost as much again.
        warmups=0 if deep else 1,
        min_runs=1 if deep else 3,
        max_runs=1 if deep else 8,
        target_relative_half_width=0.03,
        budget_s=seconds,
        cut_short=True,
    )
    measurement = bench.measure(
        artifact, workload, plan, context_tokens=min(target.context_tokens, 2048)
    )
    label = f"{artifact.shape.name} {artifact.level} {workload.name}"
    depth = workload.depth_tokens + workload.prompt_tokens + workload.generate_tokens // 2
    if rate := measurement.decode_tokens_per_s:
        work = work_of(artifact.shape, artifact.tensors, Phase.DECODE, depth)
        learnt.decode.append(Cell(label=label, work=work, seconds=rate.inverse()))
    if rate := measurement.prefill_tokens_per_s:
        mean_depth = workload.prompt_tokens // 2
        work = work_of(artifact.shape, artifact.tensors, Phase.PREFILL, mean_depth)
        learnt.prefill.append(Cell(label=label, work=work, seconds=rate.inverse()))
    if isinstance(measurement.memory, Memory):
        learnt.process_bytes.append(measurement.memory.baseline_bytes)


def _fits(learnt: _Learnt, bench: Bench) -> tuple[CostFit, CostFit | None]:
    if not learnt.decode:
        raise EdgeError(
            "Nothing could be measured.",
            cause=bench.failures[0] if bench.failures else "",
            way_out="edge doctor says what is missing.",
        )
    try:
        prefill = fit_costs(learnt.prefill)
    except UsageError as error:
        bench.failures.append(f"time to first token: {error}")
        prefill = None
    return fit_costs(learnt.decode), prefill


def _evidence(
    ground: _Ground, shape: ModelShape, level: str, target: Target, options: SessionOptions
) -> Evidence:
    memory = memory_fit(
        shape,
        level,
        target,
        options,
        available_bytes=ground.machine.host.ram_available_bytes,
        process_bytes=max(ground.learnt.process_bytes, default=PROCESS_BYTES),
    )
    return project(
        shape,
        level,
        target,
        decode=ground.decode,
        prefill=ground.prefill,
        memory=memory,
        bandwidth=ground.machine.bandwidth,
        disturbances=ground.disturbances,
    )
