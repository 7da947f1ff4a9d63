"""`edge check MODEL...`: exactly those models; files as they are, shapes made synthetic."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..artifact import Artifact, ModelShape
from ..basis import Basis, Unavailable
from ..errors import (
    EdgeError,
    MemoryLimitError,
    ModelNotFoundError,
    UnsupportedError,
    UsageError,
)
from ..feasibility import (
    CheckReport,
    Phase,
    Row,
    bandwidth_share,
    recommend,
    rows_of,
    within_context,
    work_of,
)
from ..fit import extend_depth
from ..measurement import Limits, Measurement, SessionOptions, decode_workload, prefill_workload
from ..memory_needs import PlannedModel, memory_fit
from ..statistics import Interval
from ..verdict import Evidence, MemoryFit, Target, VerdictKind, evidence_of
from .cells import DISK_LIMIT_BYTES, Bench, open_bench
from .engines import level_of, options_for, planned_model, planned_of
from .machine import Machine, look_at_machine, report_of

GENERATE_TOKENS = 32
DEPTH_STEPS = 16
DEPTH_FACTOR = 4
"""The second depth is this many prompts deep: far enough apart to tell the slope from noise."""
TRUNCATED_BYTES = 1024**3
"""A model too large to be made whole is measured at the depth that comes nearest this size: well
above any last-level cache, well below the disk limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """What every cell of one check shares."""

    bench: Bench
    target: Target
    options: SessionOptions
    machine: Machine
    seconds: float
    alone: bool
    """Whether nothing else is checked: a file's failure is then the answer, and no row of many.

    Too little memory is no failure of the check: it is what was asked.
    """


def check_models(
    models: Sequence[str],
    levels: Sequence[str],
    target: Target,
    options: SessionOptions,
    budget_s: float,
    say: Callable[[str], None],
    backend: str | None = None,
    limits: Limits | None = None,
) -> CheckReport:
    """Measures each model within the budget for each, and judges it.

    Files are measured as they are, with the engine of their format unless a `backend` is named;
    shapes at all levels, each with its own engine. Raises whatever error naming or opening a model
    gives, or measuring the only file; of several models, a cell that fails while it is measured
    stays in the table with its reason.
    """
    subjects = [resolve(model) for model in models]
    say("looking at the machine")
    machine = look_at_machine(options, limits)
    with open_bench(options, say, backend, limits) as bench:
        rows: list[Row] = []
        for subject in subjects:
            cells = len(levels) if isinstance(subject, ModelShape) else 1
            setting = _Setting(
                bench=bench,
                target=target,
                options=options,
                machine=machine,
                seconds=max(2.0, 0.5 * budget_s / cells),
                alone=len(subjects) == 1,
            )
            rows += _check_subject(setting, subject, levels)
        return report_of(bench, machine, target, rows, recommend(rows, target))


def resolve(model: str) -> Artifact | ModelShape:
    """What a name on the command line means: a file's artifact, or a shape to be synthesized.

    Raises UsageError for a name that is neither in the catalogue nor on the disk.
    """
    import profiles

    from ..artifact.checkpoint import read_config
    from ..sources import resolve as resolve_source

    catalogue = profiles.models()
    if (entry := catalogue.get(model.lower())) is not None and not Path(model).exists():
        return ModelShape.from_config(entry.config, name=entry.id)
    if not model.startswith("hf:") and not Path(model).exists():
        near = difflib.get_close_matches(model.lower(), list(catalogue), n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(
            f"{model!r} is neither a file nor a catalogue name.{hint}",
            way_out="Known names: " + ", ".join(catalogue),
        )
    path = Path(model)
    if path.name != "config.json":
        try:
            path = resolve_source(model)
        except ModelNotFoundError:
            if not (path / "config.json").is_file():
                raise  # else a checkpoint: nothing to run, but a shape
    if path.is_dir() or path.name == "config.json":
        folder = path if path.is_dir() else path.absolute().parent
        return ModelShape.from_config(read_config(path), name=folder.name)
    return Artifact.open(path)


def _check_subject(
    setting: _Setting, subject: Artifact | ModelShape, levels: Sequence[str]
) -> tuple[Row, ...]:
    shape = subject.shape if isinstance(subject, Artifact) else subject
    setting, notes = _within(setting, shape)
    target = setting.target
    if isinstance(subject, Artifact):
        planned = planned_of(subject)
        basis = Basis.SYNTHETIC if subject.synthetic else Basis.MEASURED
        try:
            found = [_measure_artifact(setting, subject)]
        except EdgeError as error:
            if setting.alone and not isinstance(error, MemoryLimitError):
                raise
            found = [_unmeasured(setting, planned, basis, error)]
        sizes = [subject.weight_bytes]
    else:
        plans = [planned_model(subject, level) for level in levels]
        found = [_measure_shape(setting, planned) for planned in plans]
        sizes = [plan.weight_bytes for plan in plans]
    noted = [dataclasses.replace(one, notes=(*one.notes, *notes)) for one in found]
    return rows_of(noted, target, subject.parameters, sizes)


def _within(setting: _Setting, shape: ModelShape) -> tuple[_Setting, tuple[str, ...]]:
    """The setting for a model whose own context may be shorter than what was asked for."""
    target, notes = within_context(shape, setting.target)
    return dataclasses.replace(setting, target=target), notes


def _unmeasured(
    setting: _Setting, planned: PlannedModel, basis: Basis, error: EdgeError
) -> Evidence:
    """A row that only knows its memory, and why it knows no more."""
    if not isinstance(error, UnsupportedError):
        setting.bench.failures.append(f"{planned.shape.name} {planned.level}: {error}")
    return Evidence(
        model=planned.shape.name,
        level=planned.level,
        basis=basis,
        decode_tokens_per_s=Unavailable(
            reason=error.fact.rstrip("."), remedy=error.way_out.rstrip(".")
        ),
        depth_tokens=setting.target.prompt_tokens,
        prefill_tokens_per_s=None,
        memory=_planned_memory(setting, planned),
    )


def _planned_memory(setting: _Setting, planned: PlannedModel) -> MemoryFit:
    return memory_fit(
        planned,
        setting.target,
        setting.options,
        available_bytes=setting.machine.host.ram_available_bytes,
    )


def _measure_shape(setting: _Setting, planned: PlannedModel) -> Evidence:
    """A shape at one level: whole where it fits the disk limit, else from two truncated depths."""
    from quantize import synthetic_bytes

    shape, level, bench = planned.shape, planned.level, setting.bench
    memory = _planned_memory(setting, planned)
    try:
        options_for(planned.format, bench.options, bench.backend)  # before anything is made
        whole = synthetic_bytes(shape, level)
        if whole <= DISK_LIMIT_BYTES and memory.kind is not VerdictKind.NOT_VIABLE:
            with bench.synthetic(shape, level) as artifact:
                return _measure_artifact(setting, artifact)
        return _measure_truncated(setting, planned, memory)
    except EdgeError as error:
        return _unmeasured(setting, planned, Basis.SYNTHETIC, error)


def _measure_artifact(setting: _Setting, artifact: Artifact) -> Evidence:
    """The evidence of one file: the prompt, decoding behind it, and decoding further in.

    Each is a measurement of its own: a depth is evaluated once and kept, so that decoding is
    repeated cheaply. The further depth is left out where evaluating it would eat the budget.
    """
    from ..profiler import Plan

    target, bench = setting.target, setting.bench
    shape, prompt = artifact.shape, target.prompt_tokens
    context = max(target.context_tokens, prompt + GENERATE_TOKENS)
    prefill = bench.measure(
        artifact,
        prefill_workload(prompt),
        Plan(warmups=0, min_runs=2, max_runs=3, budget_s=setting.seconds * 0.4),
        context_tokens=context,
    ).prefill_tokens_per_s
    near = bench.measure(
        artifact,
        decode_workload(GENERATE_TOKENS, depth=prompt),
        Plan(min_runs=3, max_runs=6, budget_s=setting.seconds, cut_short=True),
        context_tokens=context,
    )
    options = setting.options
    kv = artifact.kv_bytes(target.context_tokens, options.kv_type_k, options.kv_type_v)
    evidence = evidence_of(near, target, kv_bytes=kv)
    work = work_of(shape, artifact.tensors, Phase.DECODE, evidence.depth_tokens)
    return dataclasses.replace(
        evidence,
        model=shape.name,
        level=level_of(artifact),
        prefill_tokens_per_s=prefill,
        depth_s_per_token=_depth_cost(setting, artifact, near, prefill),
        bandwidth_share=bandwidth_share(
            work, evidence.decode_tokens_per_s, setting.machine.bandwidth
        ),
    )


def _depth_cost(
    setting: _Setting, artifact: Artifact, near: Measurement, prefill: Interval | None
) -> float | None:
    """Seconds per step that one more token of context costs; None where it is not affordable."""
    from ..profiler import Plan

    target = setting.target
    depth = min(DEPTH_FACTOR * target.prompt_tokens, target.context_tokens - DEPTH_STEPS)
    if depth < 2 * target.prompt_tokens or prefill is None:
        return None
    if depth / prefill.value > setting.seconds:
        return None
    workload = decode_workload(DEPTH_STEPS, depth=depth)
    try:
        deep = setting.bench.measure(
            artifact,
            workload,
            Plan(warmups=0, min_runs=2, max_runs=4, budget_s=setting.seconds, cut_short=True),
            context_tokens=target.context_tokens,
        )
    except EdgeError as error:
        what = f"{artifact.shape.name} {level_of(artifact)} {workload.name}"
        setting.bench.failures.append(f"{what}: {error}")
        return None
    near_rate, deep_rate = near.decode_tokens_per_s, deep.decode_tokens_per_s
    if near_rate is None or deep_rate is None:
        return None
    further = _mean_depth(deep) - _mean_depth(near)
    return (1 / deep_rate.value - 1 / near_rate.value) / further


def _mean_depth(measurement: Measurement) -> float:
    return measurement.workload.depth_tokens + measurement.workload.generate_tokens / 2


def _measure_truncated(setting: _Setting, planned: PlannedModel, memory: MemoryFit) -> Evidence:
    """A model too large to make: a few layers and as many as fit, extended along the line."""
    from quantize import synthetic_bytes

    shape, level = planned.shape, planned.level
    layers = shape.layers
    # On a small device the truncated model must fit by far, or the disk is what is measured.
    free = setting.machine.host.ram_available_bytes
    most = TRUNCATED_BYTES if free is None else min(TRUNCATED_BYTES, free // 2)
    while layers > 2 and synthetic_bytes(shape, level, layers=layers) > most:
        layers -= 1
    found: list[tuple[int, Evidence]] = []
    fewest = max(1, layers // 4)
    for depth in (fewest, layers):
        with setting.bench.synthetic(shape, level, layers=depth) as artifact:
            found.append((depth, _measure_artifact(setting, artifact)))
    (_, shallow), (_, deep) = found
    decode = _extended(shape, found, [e.decode_tokens_per_s for _, e in found])
    prefill = _extended(shape, found, [e.prefill_tokens_per_s for _, e in found])
    slope = None
    if shallow.depth_s_per_token is not None and deep.depth_s_per_token is not None:
        slope = deep.depth_s_per_token * shape.layers / layers
    rate: Interval | Unavailable = decode or Unavailable(reason="the truncated cells gave no rate")
    note = (
        f"measured with {fewest} and {layers} of {shape.layers} layers and extended to all of them"
    )
    return Evidence(
        model=shape.name,
        level=level,
        basis=Basis.SYNTHETIC,
        decode_tokens_per_s=rate,
        depth_tokens=deep.depth_tokens,
        prefill_tokens_per_s=prefill,
        memory=dataclasses.replace(
            memory,
            # What ONNX Runtime holds grows with the layers: there the plan's figure stays.
            compute_bytes=deep.memory.compute_bytes
            if planned.format == "gguf"
            else memory.compute_bytes,
            process_bytes=deep.memory.process_bytes,
        ),
        depth_s_per_token=slope,
        bandwidth_share=deep.bandwidth_share,
        disturbances=tuple(dict.fromkeys((*shallow.disturbances, *deep.disturbances))),
        notes=(*deep.notes, note),
    )


def _extended(
    shape: ModelShape,
    found: Sequence[tuple[int, Evidence]],
    rates: Sequence[Interval | Unavailable | None],
) -> Interval | None:
    points = [
        (layers, rate.inverse())
        for (layers, _), rate in zip(found, rates, strict=True)
        if isinstance(rate, Interval) and rate.low > 0
    ]
    if len(points) != 2:
        return None
    seconds = extend_depth(points[0], points[1], shape.layers)
    return seconds.inverse() if seconds.low > 0 else None
