"""Latency records built by hand for tests of what is derived from them."""

from __future__ import annotations

from collections.abc import Sequence

from records import host

from edge_runtime.basis import Unavailable
from edge_runtime.latency import (
    InputRecord,
    LatencyFailure,
    LatencyMeasurement,
    LatencyOptions,
    ModelRecord,
    NodeTime,
    OperatorTimes,
    OutputRecord,
    Placed,
    Round,
)
from edge_runtime.measurement import Engine, Load, Noise
from edge_runtime.memory import Memory, PhasePeak

MS = 1_000_000
CPU = "CPUExecutionProvider"
MODEL = ModelRecord(
    name="mobile|net", file="mobilenet.onnx", fingerprint="0" * 16, size_bytes=2_400_000,
    parameters=600_000, level="fp32", nodes=3,
)  # fmt: skip
IMAGE = InputRecord(name="image", type="FP32", shape=(1, 3, 224, 224), fill="normal")
TOKENS = InputRecord(name="ids", type="INT64", shape=(1, 8), fill="below", below=100)


def operators(second_provider: str = CPU) -> OperatorTimes:
    """Two runs of 10 ms: 6 in convolutions, 2 in another operator, 2 between."""
    return OperatorTimes(
        traced_runs=4,
        runs_ns=(9 * MS, 11 * MS),
        nodes=(
            NodeTime(name="relu", op="Relu", provider=CPU, calls=2, self_ns=4 * MS),
            NodeTime(name="conv.0", op="Conv", provider=second_provider, calls=2, self_ns=7 * MS),
            NodeTime(name="conv.1", op="Conv", provider=second_provider, calls=2, self_ns=5 * MS),
        ),
    )


def rounds_of(latencies_ms: Sequence[float], per_round: int) -> tuple[Round, ...]:
    found, now = [], 1000
    for start in range(0, len(latencies_ms), per_round):
        stamps, begun = [], now
        for latency in latencies_ms[start : start + per_round]:
            now += round(latency * MS)
            stamps.append(now)
        found.append(Round(started_ns=begun, ended_ns=tuple(stamps)))
        now += 50 * MS
    return tuple(found)


def measurement(
    *,
    rounds: tuple[Round, ...] | None = None,
    latencies_ms: Sequence[float] = (4, 5, 4, 6, 4, 5),
    per_round: int = 2,
    flags: tuple[str, ...] = (),
    operators_: OperatorTimes | Unavailable | None = None,
    second_provider: str | None = None,
) -> LatencyMeasurement:
    placed: tuple[Placed, ...] = (Placed(provider=CPU, nodes=3),)
    if second_provider:
        placed = (Placed(provider=second_provider, nodes=2), Placed(provider=CPU, nodes=1))
    return LatencyMeasurement(
        created="2026-01-01T00:00:00+00:00",
        tool_version="0",
        host=host(),
        engine=Engine(name="onnxruntime", version="1"),
        model=MODEL,
        options=LatencyOptions(threads=2, providers=tuple(p.provider for p in placed)),
        requested=LatencyOptions(),
        inputs=(IMAGE, TOKENS),
        outputs=(
            OutputRecord(name="classes", type="FP32", shape=(1, 100), preallocated=True),
            OutputRecord(name="list", type="seq(tensor(float))", shape=None, preallocated=False),
        ),
        placed=placed,
        load=Load(duration_ns=30 * MS, page_cache="warm", resident_share=1.0),
        warmups=3,
        rounds=rounds or rounds_of(latencies_ms, per_round),
        stopped="after 3 rounds",
        memory=Memory(
            baseline_bytes=50,
            phases=tuple(
                PhasePeak(phase=name, peak_bytes=peak, anonymous_bytes=1, file_bytes=1,
                          major_faults=0)
                for name, peak in (("load", 90), ("loaded", 70), ("run", 100))
            ),
            buffers=(),
            method="test",
        ),
        noise=Noise(
            load_average=0.1, steal_share=0.0, foreign_share=0.0, frequency_hz_start=None,
            frequency_hz_end=None, throttled=None, lateness_p90_ns=None, sampler_share=None,
            flags=flags,
        ),
        operators=operators_ or operators(second_provider or CPU),
        notes=("open dimensions that nobody gave: batch 1 (--shape changes it)",),
    )  # fmt: skip


def failure() -> LatencyFailure:
    return LatencyFailure(
        created="2026-01-01T00:00:00+00:00", tool_version="0", model=MODEL,
        requested=LatencyOptions(threads=4), inputs=(IMAGE,), error="WorkerError", fact="Killed.",
        cause="No memory.", way_out="Free some.",
    )  # fmt: skip
