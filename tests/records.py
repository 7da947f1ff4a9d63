"""Records built by hand for tests of what is derived from them."""

from __future__ import annotations

from edge_runtime.basis import Unavailable
from edge_runtime.measurement import (
    ArtifactRecord,
    Engine,
    Host,
    Load,
    Measurement,
    Noise,
    Run,
    SessionOptions,
    Workload,
    decode_workload,
)
from edge_runtime.memory import Buffer, Memory, PhasePeak

GIB = 1024**3


def host(*, available: int | None = 8 * GIB) -> Host:
    return Host(
        system="Linux", release="6.1", machine="x86_64", cpu="Test CPU", cores_physical=2,
        cores_logical=2, cores_usable=2, isa=("AVX2",), ram_bytes=16 * GIB,
        ram_available_bytes=available, virtualization=None, last_level_cache_bytes=None,
    )  # fmt: skip


def tg_run(tokens: int, step_ns: int, start_ns: int = 1000) -> Run:
    return Run(
        started_ns=start_ns,
        prefilled_ns=None,
        prefill_tokens=0,
        token_ns=tuple(start_ns + step_ns * (i + 1) for i in range(tokens)),
    )


def chat_run(prompt: int, prefill_ns: int, tokens: int, step_ns: int) -> Run:
    first = 10 + prefill_ns
    return Run(
        started_ns=10,
        prefilled_ns=first,
        prefill_tokens=prompt,
        token_ns=tuple(first + step_ns * i for i in range(tokens)),
    )


def measurement(
    runs: tuple[Run, ...],
    *,
    workload: Workload | None = None,
    available: int | None = 8 * GIB,
    flags: tuple[str, ...] = (),
    synthetic: bool = False,
    context: int = 1024,
    model_bytes: int = 400 * 1024**2,
    kv_bytes: int = 12 * 1024**2,
) -> Measurement:
    return Measurement(
        created="2026-01-01T00:00:00+00:00",
        tool_version="0",
        host=host(available=available),
        engine=Engine(name="llama.cpp", version="1"),
        artifact=ArtifactRecord(
            name="tiny", file="tiny.gguf", fingerprint="0" * 16, format="gguf",
            architecture="llama", level="Q4_K_M", parameters=1, layers=2, layers_of_model=2,
            size_bytes=model_bytes, decode_bytes=model_bytes, synthetic=synthetic,
        ),
        options=SessionOptions(context_tokens=context, threads=2),
        workload=workload or decode_workload(len(runs[0].token_ns)),
        load=Load(duration_ns=1, page_cache="warm", resident_share=1.0),
        warmups=1,
        runs=runs,
        stopped="max runs",
        memory=Memory(
            baseline_bytes=50 * 1024**2,
            phases=(
                PhasePeak(phase="decode", peak_bytes=500, anonymous_bytes=100, file_bytes=400,
                          major_faults=0),
            ),
            buffers=(
                Buffer(device="CPU", purpose="model", size_bytes=model_bytes),
                Buffer(device="CPU", purpose="kv", size_bytes=kv_bytes),
                Buffer(device="CPU", purpose="compute", size_bytes=20 * 1024**2),
            ),
            method="test",
        ),
        energy=Unavailable(reason="no sensor"),
        noise=Noise(
            load_average=0.1, steal_share=0.0, foreign_share=0.0, frequency_hz_start=None,
            frequency_hz_end=None, throttled=None, lateness_p90_ns=None, sampler_share=None,
            flags=flags,
        ),
    )  # fmt: skip
