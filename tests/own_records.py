"""Measurements as a machine of known costs would give them, for tests of calibration."""

from __future__ import annotations

import dataclasses

import records

import profiles
from edge_runtime.artifact import ModelShape
from edge_runtime.cli.engines import planned_model
from edge_runtime.feasibility import CheckReport, Phase, planned_work
from edge_runtime.measurement import ArtifactRecord, BandwidthReading, Host, Measurement, Workload
from edge_runtime.memory_needs import PlannedModel
from edge_runtime.statistics import Interval
from edge_runtime.verdict import Target

GIB = 1024**3
LAYER_S, ATTENTION_S = 40e-6, 1 / 3e9
BYTE_S = {"Q8_0": 1 / 18e9, "Q4_K": 1 / 14e9, "Q6_K": 1 / 12e9, "Q5_0": 1 / 13e9, "Q4_0": 1 / 17e9,
          "F16": 1 / 19e9}  # fmt: skip
PREFILL = 30.0
"""A weight of a prompt's token costs so much less than a byte of a step does."""

BENCH = (("qwen3-0.6b", None), ("qwen2.5-0.5b", None), ("llama-3.2-3b", 5))
LEVELS = ("Q8_0", "Q4_K_M", "Q4_0")
HOST = dataclasses.replace(
    records.host(), cpu="AMD EPYC 9B14", isa=("avx2",), ram_bytes=int(15.6 * GIB)
)


def shape_of(model: str, layers: int | None = None) -> ModelShape:
    shape = ModelShape.from_config(profiles.models()[model].config, name=model)
    return shape if layers is None else shape.truncated(layers)


def true_seconds(planned: PlannedModel, phase: Phase, depth: int) -> float:
    work = planned_work(planned, phase, depth)
    scale = 1.0 if phase is Phase.DECODE else 1 / PREFILL
    weights = sum(BYTE_S[name] * amount for name, amount in work.bytes_by_type.items())
    return work.layers * LAYER_S * scale + weights * scale + work.attention * ATTENTION_S


def measured(
    model: str,
    level: str,
    layers: int | None = None,
    *,
    prompt: int = 64,
    tokens: int = 16,
    host: Host = HOST,
    slower: float = 1.0,
    flags: tuple[str, ...] = (),
) -> Measurement:
    """A measurement of the known costs, three repetitions that scatter by a percent."""
    planned = planned_model(shape_of(model, layers), level)
    shape = planned.shape
    step = slower * true_seconds(planned, Phase.DECODE, prompt + tokens // 2)
    token = slower * true_seconds(planned, Phase.PREFILL, prompt // 2)
    runs = tuple(_run(prompt, token * off, tokens, step * off) for off in (0.99, 1.0, 1.01))
    workload = Workload(name=f"pp{prompt}+tg{tokens}", prompt_tokens=prompt, generate_tokens=tokens)
    record = records.measurement(runs, workload=workload, flags=flags)
    return dataclasses.replace(
        record,
        host=host,
        artifact=ArtifactRecord(
            name=model, file=f"{model}.gguf", fingerprint=f"{model}-{level}-{layers}",
            format="gguf", architecture=shape.architecture, level=level,
            parameters=shape.parameters, layers=shape.layers,
            layers_of_model=shape.layers_of_model, size_bytes=planned.weight_bytes,
            decode_bytes=shape.decode_bytes(level), synthetic=True,
        ),
    )  # fmt: skip


def _run(prompt: int, token_s: float, tokens: int, step_s: float) -> records.Run:
    prefilled = 1000 + round(prompt * token_s * 1e9)
    stamps = tuple(prefilled + round(step_s * 1e9 * (i + 1)) for i in range(tokens))
    return records.Run(
        started_ns=1000, prefilled_ns=prefilled, prefill_tokens=prompt, token_ns=stamps
    )


def bench_cells(**more: object) -> tuple[Measurement, ...]:
    """What a bare check measures: three shapes at three levels, each once behind a long prompt."""
    cells = [
        measured(model, level, layers, **more)  # type: ignore[arg-type]
        for model, layers in BENCH
        for level in LEVELS
    ]
    deep = [measured(m, "Q8_0", n, prompt=768, tokens=24, **more) for m, n in BENCH]  # type: ignore[arg-type]
    return (*cells, *deep)


def check_report(measurements: tuple[Measurement, ...], **changes: object) -> CheckReport:
    report = CheckReport(
        created="2026-01-02T00:00:00+00:00", tool_version="0", host=measurements[0].host,
        bandwidth=BandwidthReading(
            bytes_per_s=Interval(low=19e9, value=20e9, high=21e9), working_set_bytes=1 << 28,
            threads=2, method="test",
        ),
        target=Target(), rows=(), fits=(), measurements=measurements, failures=(), elapsed_s=60.0,
        peak_disk_bytes=0, recommendation="",
    )  # fmt: skip
    return dataclasses.replace(report, **changes)  # type: ignore[arg-type]
