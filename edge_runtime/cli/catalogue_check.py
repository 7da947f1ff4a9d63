"""`edge check` without a model: a few synthetic cells, a cost fit, the catalogue judged by it.

Each engine has costs of its own: cells are measured and fitted for each of them that a level asks
for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..basis import Basis, Unavailable
from ..errors import EdgeError, UsageError
from ..feasibility import (
    CheckReport,
    FitSummary,
    Phase,
    Row,
    project,
    recommend,
    rows_of,
    summarize,
    work_of,
)
from ..fit import Cell, CostFit, fit_costs
from ..measurement import Limits, SessionOptions, Workload
from ..memory import Memory
from ..memory_needs import PROCESS_BYTES, PlannedModel, memory_fit
from ..paging import paging_of
from ..verdict import Evidence, Target
from .cells import Bench, open_bench
from .engines import (
    ENGINES,
    Format,
    format_of_level,
    level_of,
    options_for,
    planned_model,
    require_writable,
)
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
    """What one engine's cells gave: points for two fits, and the size of the measuring process."""

    decode: list[Cell] = field(default_factory=list)
    prefill: list[Cell] = field(default_factory=list)
    process_bytes: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Costs:
    """The fitted costs of one engine. `decode` says why there are none where no cell was run."""

    decode: CostFit | Unavailable
    prefill: CostFit | None
    process_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """What a projection stands on: the machine, and each engine's costs."""

    machine: Machine
    costs: Mapping[Format, _Costs]
    disturbances: tuple[str, ...]


def check_catalogue(
    levels: Sequence[str],
    target: Target,
    options: SessionOptions,
    budget_s: float,
    say: Callable[[str], None],
    backend: str | None = None,
    limits: Limits | None = None,
) -> CheckReport:
    """Measures the bench cells within the budget and judges every catalogue model marked default.

    Levels of several formats share the budget. Raises UsageError when it was too short to learn
    the costs or the `backend` named runs no such level, EdgeError when no cell could be measured.
    """
    import profiles

    from ..artifact import ModelShape

    for level in levels:
        options_for(format_of_level(level), options, backend)
    say("looking at the machine")
    machine = look_at_machine(options, limits)
    with open_bench(options, say, backend, limits) as bench:
        learnt = _measure_bench(bench, levels, target, budget_s)
        costs = {format_: _costs(found, bench) for format_, found in learnt.items()}
        if all(isinstance(found.decode, Unavailable) for found in costs.values()):
            raise EdgeError(
                "Nothing could be measured.",
                cause=bench.failures[0] if bench.failures else "",
                way_out="edge doctor says what is missing.",
            )
        # One disturbed cell weighs little in a fit of twelve; most of them disturbed spoil it.
        noisy = [record.noise.flags[0] for record in bench.measurements if record.noise.disturbed]
        spoilt = 2 * len(noisy) > len(bench.measurements)
        ground = _Ground(
            machine=machine,
            costs=costs,
            disturbances=(noisy[-1],) if spoilt else (),
        )
        rows: list[Row] = []
        for entry in profiles.models().values():
            if not entry.check_default:
                continue
            shape = ModelShape.from_config(entry.config, name=entry.id)
            plans = [planned_model(shape, level) for level in levels]
            evidence = [_evidence(ground, planned, target, options) for planned in plans]
            weights = [planned.weight_bytes for planned in plans]
            rows += rows_of(evidence, target, shape.parameters, weights)
        rows.sort(key=lambda row: row.parameters)
        fits = tuple(fit for format_ in costs for fit in _summaries(format_, costs, backend))
        return report_of(bench, machine, target, rows, recommend(rows, target), fits=fits)


def _measure_bench(
    bench: Bench, levels: Sequence[str], target: Target, budget_s: float
) -> dict[Format, _Learnt]:
    import profiles

    from ..artifact import ModelShape

    first: dict[Format, str] = {}
    for level in levels:
        first.setdefault(format_of_level(level), level)
    learnt = {format_: _Learnt() for format_ in first}
    plan = [(name, layers, level) for name, layers in BENCH_SHAPES for level in levels]
    deep = len(BENCH_SHAPES) * len(first)
    for number, (name, layers, level) in enumerate(plan):
        shape = ModelShape.from_config(profiles.models()[name].config, name=name)
        goes_deep = level in first.values()
        seconds = _cell_s(bench, budget_s, len(plan) + deep - number)

        def one(
            shape: ModelShape = shape,
            level: str = level,
            layers: int | None = layers,
            seconds: float = seconds,
            goes_deep: bool = goes_deep,
        ) -> None:
            found = learnt[format_of_level(level)]
            with bench.synthetic(shape, level, layers=layers) as artifact:
                _learn(bench, artifact, target, found, CELL, seconds)
                if goes_deep:
                    _learn(bench, artifact, target, found, _deep_cell(found), seconds)

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
    label = f"{artifact.shape.name} {level_of(artifact)} {workload.name}"
    if paging := paging_of(measurement):
        # What it cost is the disk's doing: it would make models that fit look slow.
        bench.failures.append(f"{label}: {paging.words}")
        return
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


def _costs(learnt: _Learnt, bench: Bench) -> _Costs:
    process = max(learnt.process_bytes, default=PROCESS_BYTES)
    if not learnt.decode:
        reason = bench.failures[-1] if bench.failures else "no cell was measured"
        missing = Unavailable(reason=reason.rstrip("."), remedy="edge doctor says what is missing")
        return _Costs(decode=missing, prefill=None, process_bytes=process)
    try:
        prefill = fit_costs(learnt.prefill)
    except UsageError as error:
        bench.failures.append(f"time to first token: {error}")
        prefill = None
    return _Costs(decode=fit_costs(learnt.decode), prefill=prefill, process_bytes=process)


def _summaries(
    format_: Format, costs: Mapping[Format, _Costs], backend: str | None
) -> Iterator[FitSummary]:
    found, engine = costs[format_], (backend or ENGINES[format_]) if len(costs) > 1 else ""
    if not isinstance(found.decode, Unavailable):
        yield summarize("decode", found.decode, engine)
    if found.prefill is not None:
        yield summarize("prefill", found.prefill, engine)


def _evidence(
    ground: _Ground, planned: PlannedModel, target: Target, options: SessionOptions
) -> Evidence:
    costs = ground.costs[planned.format]
    memory = memory_fit(
        planned,
        target,
        options,
        available_bytes=ground.machine.host.ram_available_bytes,
        process_bytes=costs.process_bytes,
    )
    decode = costs.decode
    try:
        require_writable(planned.shape, planned.level)
    except EdgeError as error:
        decode = Unavailable(reason=error.fact.rstrip("."), remedy=error.way_out.rstrip("."))
    if isinstance(decode, Unavailable):
        return Evidence(
            model=planned.shape.name,
            level=planned.level,
            basis=Basis.PROJECTED,
            decode_tokens_per_s=decode,
            depth_tokens=target.prompt_tokens,
            prefill_tokens_per_s=None,
            memory=memory,
        )
    return project(
        planned,
        target,
        decode=decode,
        prefill=costs.prefill,
        memory=memory,
        bandwidth=ground.machine.bandwidth,
        disturbances=ground.disturbances,
    )
