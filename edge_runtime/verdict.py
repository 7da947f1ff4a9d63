"""Whether a device can run a model: pure arithmetic on evidence, with the reason in words.

`judge` turns a measurement into a `Verdict`; `judge_evidence` does the same for evidence that was
projected. No clock, no file, no machine is looked at here: the same record gives the same verdict
anywhere. Wording for people stops at the cause and the next step; tables are made in `report`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from .basis import Basis, Unavailable
from .measurement import Measurement
from .memory import HOST_DEVICES, MAPPED, Memory
from .paging import Paging, paging_of
from .statistics import Interval
from .sustained import Sustained, sustained
from .units import format_bytes, format_rate

DEFAULT_TOKENS_PER_S = 20.0
"""The reading threshold: text that comes faster than most people read it."""

HEADROOM_SHARE = 0.10
"""Share of the memory a machine can give that is left free: other programs breathe too."""

BANDWIDTH_BOUND_SHARE = 0.6
"""From this share of the measured memory bandwidth on, it is called the limit of decoding."""

DISTURBED_SLOWDOWN = 5.0
"""A second busy process slows the engine's spinning threads by up to about this factor: what stays
below the target even when sped up so much is too slow on a quiet machine as well."""


class VerdictKind(enum.StrEnum):
    """The three answers."""

    VIABLE = "VIABLE"
    BORDERLINE = "BORDERLINE"
    NOT_VIABLE = "NOT VIABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is asked of a device.

    `decode_tokens_per_s` must be reached with `depth_tokens` already in the context;
    `context_tokens` is the context that must fit the memory; `prompt_tokens` the prompt length the
    time to first token is stated for. `source` says where the rate comes from.
    """

    decode_tokens_per_s: float = DEFAULT_TOKENS_PER_S
    context_tokens: int = 4096
    prompt_tokens: int = 256
    name: str = "reading"
    source: str = ""

    @property
    def itl_limit_s(self) -> float:
        """The inter-token latency that the rate stands for: 50 ms at 20 tokens/s."""
        return 1 / self.decode_tokens_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFit:
    """What a model needs in memory at the asked context, and what the machine can give, bytes."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    process_bytes: int
    available_bytes: int | None

    @property
    def need_bytes(self) -> int:
        """Weights, KV cache, compute buffers and the process itself together."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.process_bytes

    @property
    def usable_bytes(self) -> int | None:
        """What the machine can give less the headroom; None when it does not tell."""
        if self.available_bytes is None:
            return None
        return int(self.available_bytes * (1 - HEADROOM_SHARE))

    @property
    def headroom_bytes(self) -> int | None:
        """What stays free; negative when it does not fit; None when the machine does not tell."""
        return None if self.available_bytes is None else self.available_bytes - self.need_bytes

    @property
    def kind(self) -> VerdictKind:
        """VIABLE within the usable memory, BORDERLINE inside the headroom, else NOT VIABLE."""
        if self.available_bytes is None or self.usable_bytes is None:
            return VerdictKind.BORDERLINE
        if self.need_bytes <= self.usable_bytes:
            return VerdictKind.VIABLE
        if self.need_bytes <= self.available_bytes:
            return VerdictKind.BORDERLINE
        return VerdictKind.NOT_VIABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one model at one level on one machine, before it is judged.

    `decode_tokens_per_s` holds at `depth_tokens` of context. `depth_s_per_token` is how much longer
    one decode step takes per further token of context; None when only one depth is known.
    `bandwidth_share` is the achieved share of the machine's measured memory bandwidth.
    `disturbances` say what else used the machine: they can only have made it look slower.
    `paging` is there when the model did not fit while it was measured. Of a measurement that was
    kept up on purpose `sustained` says what became of the rate, or why it cannot be told; the rate
    above is then the steady one.
    """

    model: str
    level: str
    basis: Basis
    decode_tokens_per_s: Interval | Unavailable
    depth_tokens: int
    prefill_tokens_per_s: Interval | None
    memory: MemoryFit
    itl_p90_s: float | None = None
    depth_s_per_token: float | None = None
    bandwidth_share: float | None = None
    disturbances: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    paging: Paging | None = None
    sustained: Sustained | Unavailable | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer with everything it stands on."""

    kind: VerdictKind
    basis: Basis
    decode_tokens_per_s: Interval | Unavailable
    limit_tokens_per_s: float
    memory: MemoryFit
    itl_p90_s: float | None
    itl_limit_s: float
    ttft_s: Interval | None
    prompt_tokens: int
    context_tokens: int
    longest_context_tokens: int | None
    cause: str
    next_step: str
    notes: tuple[str, ...] = field(default=())

    @property
    def exit_code(self) -> int:
        """0 viable, 1 not viable, 3 borderline."""
        return {VerdictKind.VIABLE: 0, VerdictKind.NOT_VIABLE: 1, VerdictKind.BORDERLINE: 3}[
            self.kind
        ]


def judge(
    measurement: Measurement, target: Target | None = None, *, kv_bytes: int | None = None
) -> Verdict:
    """Judges one measurement against a target.

    The KV cache is taken from the engine's own buffer list, scaled to the asked context, unless
    `kv_bytes` gives what it needs there (`ModelShape.kv_bytes`, exact with sliding windows).
    """
    target = target or Target()
    return judge_evidence(evidence_of(measurement, target, kv_bytes=kv_bytes), target)


def evidence_of(
    measurement: Measurement, target: Target, *, kv_bytes: int | None = None
) -> Evidence:
    """The evidence a measurement holds for a target; a rate not measured is Unavailable.

    A device that was kept busy on purpose is judged by the rate it holds, not by that of a burst.
    """
    decode, held = measurement.decode_tokens_per_s, sustained(measurement)
    if isinstance(held, Sustained) and held.phase == "decode":
        decode = held.steady_tokens_per_s
    workload = measurement.workload
    depth = workload.depth_tokens + workload.prompt_tokens + workload.generate_tokens // 2
    return Evidence(
        model=measurement.artifact.name,
        level=measurement.artifact.level,
        basis=measurement.basis,
        decode_tokens_per_s=decode
        or Unavailable(
            reason=f"{workload.name} decodes nothing",
            remedy="Measure a workload that generates tokens, such as tg128.",
        ),
        depth_tokens=depth,
        prefill_tokens_per_s=measurement.prefill_tokens_per_s,
        memory=_memory_fit(measurement, target, kv_bytes),
        itl_p90_s=measurement.itl_s(90),
        disturbances=measurement.noise.flags,
        paging=paging_of(measurement),
        sustained=held,
    )


def _memory_fit(measurement: Measurement, target: Target, kv_bytes: int | None) -> MemoryFit:
    """The engine's own buffers in main memory; the file's size stands in for unlisted weights.

    Weights that were repacked are held a second time, but then their mapped originals are clean
    pages that the system can drop: what is needed is the mapped size alone. ONNX Runtime lists
    nothing of what it holds itself; see `_unlisted_bytes`.
    """
    weights, kv, compute, process = measurement.artifact.size_bytes, 0, 0, 0
    if isinstance(measurement.memory, Memory):
        host = [b for b in measurement.memory.buffers if b.device.startswith(HOST_DEVICES)]
        held = [b for b in host if b.purpose == "model"]
        mapped = [b for b in held if b.device.endswith(MAPPED)]
        weights = sum(b.size_bytes for b in mapped or held) or weights
        kv = sum(b.size_bytes for b in host if b.purpose in {"kv", "recurrent"})
        compute = sum(b.size_bytes for b in host if b.purpose in {"compute", "output"})
        process = measurement.memory.baseline_bytes
        if measurement.artifact.format == "onnx":
            compute = max(compute, _unlisted_bytes(measurement, measurement.memory, weights + kv))
    opened = measurement.options.context_tokens or 0
    if kv_bytes is not None:
        kv = kv_bytes
    elif opened:
        kv = kv * max(target.context_tokens, 1) // opened
    return MemoryFit(
        weights_bytes=weights,
        kv_bytes=kv,
        compute_bytes=compute,
        process_bytes=process,
        available_bytes=measurement.host.ram_available_bytes,
    )


def _unlisted_bytes(measurement: Measurement, memory: Memory, listed_bytes: int) -> int:
    """What the process held privately beyond weights and cache, by its peaks.

    ONNX Runtime copies weights into an order of its own; the mapped file can then be dropped, the
    copies cannot, and only the process's anonymous memory tells how large they are. A part of it
    is the idle process's own, which is counted apart as well: some 25 MB too many rather than too
    few. Of the cache only the tokens that were run are there.
    """
    held = max((phase.anonymous_bytes for phase in memory.phases), default=0)
    opened = measurement.options.context_tokens or 0
    used = min(measurement.workload.total_tokens, opened)
    kv = sum(b.size_bytes for b in memory.buffers if b.purpose == "kv")
    untouched = kv * (opened - used) // opened if opened else 0
    return held - (listed_bytes - untouched)


def judge_evidence(
    evidence: Evidence, target: Target, *, alternatives: Sequence[Evidence] = ()
) -> Verdict:
    """Judges evidence against a target.

    The verdict is the worse of memory and speed. Speed is BORDERLINE when the interval of the
    decode rate crosses the limit, and when it lies below the limit but other programs disturbed the
    measurement and a quiet machine may reach it. A model that was read back from the disk while it
    decoded is BORDERLINE at best, whatever the sizes of its buffers say.

    `alternatives` are the same model at other levels; the next step names the best of them that
    reads when this one does not.
    """
    speed = _speed_kind(evidence, target)
    kind = _worse(speed, evidence.memory.kind)
    notes = (*evidence.notes, *(f"disturbed: {what}" for what in evidence.disturbances))
    if isinstance(evidence.sustained, Sustained):
        notes += (evidence.sustained.note,)
    elif evidence.sustained is not None:
        notes += (f"steady rate: {evidence.sustained.reason}",)
    if evidence.paging is not None:
        kind = _worse(kind, VerdictKind.BORDERLINE)
        notes += (evidence.paging.words,)
    cause, next_step = _explain(evidence, target, speed, alternatives)
    prefill = evidence.prefill_tokens_per_s
    return Verdict(
        kind=kind,
        basis=evidence.basis,
        decode_tokens_per_s=evidence.decode_tokens_per_s,
        limit_tokens_per_s=target.decode_tokens_per_s,
        memory=evidence.memory,
        itl_p90_s=evidence.itl_p90_s,
        itl_limit_s=target.itl_limit_s,
        ttft_s=prefill.inverse().scaled(target.prompt_tokens) if prefill and prefill.low else None,
        prompt_tokens=target.prompt_tokens,
        context_tokens=target.context_tokens,
        longest_context_tokens=longest_context(evidence, target),
        cause=cause,
        next_step=next_step,
        notes=notes,
    )


def longest_context(evidence: Evidence, target: Target) -> int | None:
    """The longest context, tokens, at which decoding still reaches the target.

    Linear in the context: step time = time at the measured depth + slope * further tokens.
    None when the slope or the rate is not known, and when the target is missed already at the
    measured depth or other programs disturbed the measurement: no slope is known that well.
    """
    rate = evidence.decode_tokens_per_s
    slope = evidence.depth_s_per_token
    if isinstance(rate, Unavailable) or slope is None or slope <= 0 or evidence.disturbances:
        return None
    spare_s = target.itl_limit_s - 1 / rate.value
    return int(evidence.depth_tokens + spare_s / slope) if spare_s >= 0 else None


def _speed_kind(evidence: Evidence, target: Target) -> VerdictKind:
    rate = evidence.decode_tokens_per_s
    if isinstance(rate, Unavailable):
        # Not knowing is no verdict against the device.
        return VerdictKind.BORDERLINE
    if rate.low >= target.decode_tokens_per_s:
        return VerdictKind.VIABLE
    possible = rate.high * (DISTURBED_SLOWDOWN if evidence.disturbances else 1.0)
    if possible < target.decode_tokens_per_s:
        return VerdictKind.NOT_VIABLE
    return VerdictKind.BORDERLINE


def _worse(one: VerdictKind, other: VerdictKind) -> VerdictKind:
    order = (VerdictKind.VIABLE, VerdictKind.BORDERLINE, VerdictKind.NOT_VIABLE)
    return max(one, other, key=order.index)


def _explain(
    evidence: Evidence, target: Target, speed: VerdictKind, alternatives: Sequence[Evidence]
) -> tuple[str, str]:
    """The limiting cause in words, and the next thing to try; empty next step when all is well."""
    memory = evidence.memory
    rate = evidence.decode_tokens_per_s
    if memory.kind is not VerdictKind.VIABLE:
        return _explain_memory(memory, alternatives)
    if evidence.paging is not None:
        return f"memory: {evidence.paging.words}", _smaller(memory, alternatives) or _LESS
    if isinstance(rate, Unavailable):
        return f"not measured: {rate.reason}", rate.remedy
    limit = format_rate(target.decode_tokens_per_s)
    if speed is VerdictKind.VIABLE:
        reads = f"reads at {format_rate(rate.value)} tok/s"
        longest = longest_context(evidence, target)
        if longest is not None and longest < target.context_tokens:
            return (
                f"{reads}, but attention over the context slows it down",
                f"The longest context that still reads at {limit} tok/s is {longest:,} tokens.",
            )
        return reads, ""
    if evidence.disturbances and speed is VerdictKind.BORDERLINE:
        return (
            f"disturbed: {evidence.disturbances[0]}",
            "Close other programs and check again: undisturbed it may be faster.",
        )
    held, next_step = evidence.sustained, _faster_alternative(target, alternatives)
    if isinstance(held, Sustained) and held.slowed:
        burst = held.burst_tokens_per_s
        # A burst that does not read either is too slow cold, too.
        if held.phase == "decode" and burst >= target.decode_tokens_per_s:
            return held.cause, next_step or held.way_out
    if not next_step and speed is VerdictKind.BORDERLINE:
        next_step = "Measure longer on a quiet machine to narrow the interval."
    return _bottleneck(evidence), next_step or "Try a smaller model."


_LESS = "Close other programs, or choose a smaller level or a shorter context."


def _smaller(memory: MemoryFit, alternatives: Sequence[Evidence]) -> str:
    """The largest of the alternatives that needs less and was not read back itself."""
    smaller = [
        other
        for other in alternatives
        if other.memory.kind is VerdictKind.VIABLE
        and other.paging is None
        and other.memory.need_bytes < memory.need_bytes
    ]
    if not smaller:
        return ""
    best = max(smaller, key=lambda other: other.memory.need_bytes)
    return f"{best.level} needs {format_bytes(best.memory.need_bytes)}."


def _explain_memory(memory: MemoryFit, alternatives: Sequence[Evidence]) -> tuple[str, str]:
    if memory.available_bytes is None:
        return "memory: the machine does not say how much is free", ""
    cause = (
        f"memory: needs {format_bytes(memory.need_bytes)} of "
        f"{format_bytes(memory.available_bytes)} free"
    )
    if smaller := _smaller(memory, alternatives):
        return cause, smaller
    if memory.kv_bytes > memory.need_bytes // 4:
        return cause, "A shorter context or a q8_0 KV cache would need less."
    return cause, "Close other programs, or try a smaller model."


def _bottleneck(evidence: Evidence) -> str:
    share = evidence.bandwidth_share
    if share is None:
        return "decode speed"
    if share >= BANDWIDTH_BOUND_SHARE:
        return f"memory bandwidth ({share:.0%} of what this machine reads)"
    return f"computing ({share:.0%} of the memory bandwidth is used)"


def _faster_alternative(target: Target, alternatives: Sequence[Evidence]) -> str:
    faster = [
        (other.decode_tokens_per_s.value, other)
        for other in alternatives
        if isinstance(other.decode_tokens_per_s, Interval)
        and other.decode_tokens_per_s.value >= target.decode_tokens_per_s
        and other.memory.kind is VerdictKind.VIABLE
    ]
    if not faster:
        return ""
    rate, best = max(faster, key=lambda pair: pair[0])
    return f"{best.level} would read at {format_rate(rate)} tok/s."
