"""The flat row of a measurement or a failed cell: named columns, SI units, None for no figure.

The figures are those the record computes from its own samples; a failed cell has none, and keeps
its reason instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .. import statistics
from ..consumption import consumption
from ..measurement import CellFailure, Measurement, SessionOptions
from ..memory import Memory, PhasePeak
from ..units import NS_PER_S
from .emulated import record_emulated_words
from .energy_rows import ENERGY_COLUMNS, EnergyValue
from .placement import placement_words
from .sustained import HEAT_COLUMNS

Record = Measurement | CellFailure
Value = str | int | float | bool | None


def row(record: Record) -> dict[str, Value]:
    """The flat row of a record: SI units, None where there is no figure."""
    used = consumption(record) if isinstance(record, Measurement) else None
    energy = {} if used is None else {n: value(used) for n, (value, _) in ENERGY_COLUMNS.items()}
    return {
        name: energy[name] if name in energy else value(record)
        for name, (value, _) in COLUMNS.items()
    }


def options_of(record: Record) -> SessionOptions:
    """The options in force, or those asked for where nothing ever ran."""
    return record.options if isinstance(record, Measurement) else record.requested


def error_words(failure: CellFailure) -> str:
    """The failure's fact, cause and way out in one line."""
    return " ".join(part for part in (failure.fact, failure.cause, failure.way_out) if part)


def _of(value: Callable[[Measurement], Value]) -> Callable[[Record], Value]:
    """A column that a failed cell leaves empty."""
    return lambda record: value(record) if isinstance(record, Measurement) else None


def _stat(value: Callable[[tuple[float, ...]], float], decode: bool) -> Callable[[Record], Value]:
    def column(record: Record) -> Value:
        if not isinstance(record, Measurement):
            return None
        samples = record.decode_samples if decode else record.prefill_samples
        return value(samples) if samples else None

    return column


def _bound(name: str, decode: bool) -> Callable[[Record], Value]:
    def column(record: Record) -> Value:
        if not isinstance(record, Measurement):
            return None
        rate = record.decode_tokens_per_s if decode else record.prefill_tokens_per_s
        found: float | None = getattr(rate, name) if rate else None
        return found

    return column


def _ttft(percent: float) -> Callable[[Record], Value]:
    return _of(lambda m: _percentile(m.ttft_samples_s, percent))


def _itl(percent: float) -> Callable[[Record], Value]:
    return _of(lambda m: m.itl_s(percent))


def _percentile(samples: tuple[float, ...], percent: float) -> float | None:
    return statistics.percentile(samples, percent) if samples else None


def _phase(name: str, value: Callable[[PhasePeak], int | None]) -> Callable[[Record], Value]:
    def column(record: Record) -> Value:
        if not isinstance(record, Measurement) or not isinstance(record.memory, Memory):
            return None
        found = [value(p) for p in record.memory.phases if name in (p.phase, "")]
        return max((size for size in found if size is not None), default=None)

    return column


def _memory(value: Callable[[Memory], Value]) -> Callable[[Record], Value]:
    return _of(lambda m: value(m.memory) if isinstance(m.memory, Memory) else None)


def _stalled_s(memory: Memory) -> float | None:
    return None if memory.stalled_ns is None else memory.stalled_ns / NS_PER_S


def _emulated(record: Record) -> Value:
    return record_emulated_words(record) or None


def _error(record: Record) -> Value:
    return error_words(record) if isinstance(record, CellFailure) else None


def _energy(value: EnergyValue) -> Callable[[Record], Value]:
    return _of(lambda m: value(consumption(m)))


COLUMNS: Mapping[str, tuple[Callable[[Record], Value], str]] = {
    "status": (lambda r: "measured" if isinstance(r, Measurement) else "failed", "TEXT"),
    "created": (lambda r: r.created, "TEXT"),
    "tool_version": (lambda r: r.tool_version, "TEXT"),
    "model": (lambda r: r.artifact.name, "TEXT"),
    "file": (lambda r: r.artifact.file, "TEXT"),
    "fingerprint": (lambda r: r.artifact.fingerprint, "TEXT"),
    "architecture": (lambda r: r.artifact.architecture, "TEXT"),
    "level": (lambda r: r.artifact.level, "TEXT"),
    "size_bytes": (lambda r: r.artifact.size_bytes, "INTEGER"),
    "parameters": (lambda r: r.artifact.parameters, "INTEGER"),
    "layers": (lambda r: r.artifact.layers, "INTEGER"),
    "layers_of_model": (lambda r: r.artifact.layers_of_model, "INTEGER"),
    "basis": (_of(lambda m: m.basis.value), "TEXT"),
    "cpu": (_of(lambda m: m.host.cpu), "TEXT"),
    "backend": (lambda r: options_of(r).backend, "TEXT"),
    "engine_version": (_of(lambda m: m.engine.version), "TEXT"),
    "threads": (lambda r: options_of(r).threads, "INTEGER"),
    "context_tokens": (lambda r: options_of(r).context_tokens, "INTEGER"),
    "batch_tokens": (lambda r: options_of(r).batch_tokens, "INTEGER"),
    "micro_batch_tokens": (lambda r: options_of(r).micro_batch_tokens, "INTEGER"),
    "gpu_layers": (lambda r: options_of(r).gpu_layers, "INTEGER"),
    "flash_attention": (lambda r: options_of(r).flash_attention, "TEXT"),
    "kv_type_k": (lambda r: options_of(r).kv_type_k, "TEXT"),
    "kv_type_v": (lambda r: options_of(r).kv_type_v, "TEXT"),
    "memory_map": (lambda r: options_of(r).memory_map, "INTEGER"),
    "test": (lambda r: r.workload.name, "TEXT"),
    "protocol": (lambda r: r.workload.protocol, "TEXT"),
    "prompt_tokens": (lambda r: r.workload.prompt_tokens, "INTEGER"),
    "generate_tokens": (lambda r: r.workload.generate_tokens, "INTEGER"),
    "depth_tokens": (lambda r: r.workload.depth_tokens, "INTEGER"),
    "runs": (_of(lambda m: len(m.runs)), "INTEGER"),
    "stopped": (_of(lambda m: m.stopped), "TEXT"),
    "decode_tokens_per_s": (_stat(statistics.mean, True), "REAL"),
    "decode_tokens_per_s_low": (_bound("low", True), "REAL"),
    "decode_tokens_per_s_high": (_bound("high", True), "REAL"),
    "decode_tokens_per_s_stddev": (_stat(statistics.stddev, True), "REAL"),
    "decode_tokens_per_s_median": (_stat(statistics.median, True), "REAL"),
    "prefill_tokens_per_s": (_stat(statistics.mean, False), "REAL"),
    "prefill_tokens_per_s_low": (_bound("low", False), "REAL"),
    "prefill_tokens_per_s_high": (_bound("high", False), "REAL"),
    "prefill_tokens_per_s_stddev": (_stat(statistics.stddev, False), "REAL"),
    "prefill_tokens_per_s_median": (_stat(statistics.median, False), "REAL"),
    "ttft_s_p50": (_ttft(50), "REAL"),
    "ttft_s_p90": (_ttft(90), "REAL"),
    "itl_s_p50": (_itl(50), "REAL"),
    "itl_s_p90": (_itl(90), "REAL"),
    "itl_s_p99": (_itl(99), "REAL"),
    "load_s": (_of(lambda m: m.load.duration_ns / NS_PER_S), "REAL"),
    "page_cache": (_of(lambda m: m.load.page_cache), "TEXT"),
    "peak_bytes": (_phase("", lambda p: p.peak_bytes), "INTEGER"),
    "peak_anonymous_bytes": (_phase("", lambda p: p.anonymous_bytes), "INTEGER"),
    "peak_file_bytes": (_phase("", lambda p: p.file_bytes), "INTEGER"),
    "load_peak_bytes": (_phase("load", lambda p: p.peak_bytes), "INTEGER"),
    "prefill_peak_bytes": (_phase("prefill", lambda p: p.peak_bytes), "INTEGER"),
    "decode_peak_bytes": (_phase("decode", lambda p: p.peak_bytes), "INTEGER"),
    "memory_need_bytes": (_memory(lambda m: m.need_bytes), "INTEGER"),
    "read_bytes": (_memory(lambda m: m.read_bytes), "INTEGER"),
    "decode_read_bytes": (_phase("decode", lambda p: p.read_bytes), "INTEGER"),
    "memory_stalled_s": (_memory(_stalled_s), "REAL"),
    **{name: (_energy(value), kind) for name, (value, kind) in ENERGY_COLUMNS.items()},
    "emulated": (_emulated, "TEXT"),
    "emulated_by": (_of(lambda m: m.emulated.means if m.emulated else None), "TEXT"),
    **{name: (_of(value), kind) for name, (value, kind) in HEAT_COLUMNS.items()},
    "load_average": (_of(lambda m: m.noise.load_average), "REAL"),
    "foreign_cpu_share": (_of(lambda m: m.noise.foreign_share), "REAL"),
    "steal_share": (_of(lambda m: m.noise.steal_share), "REAL"),
    "noise_flags": (_of(lambda m: "; ".join(m.noise.flags)), "TEXT"),
    "notes": (_of(lambda m: "; ".join(m.notes)), "TEXT"),
    "placement": (_of(lambda m: placement_words(m.engine.placement)), "TEXT"),
    "error": (_error, "TEXT"),
}  # fmt: skip
"""Column name -> its value in a record, and its SQL type; in the order of every format."""
