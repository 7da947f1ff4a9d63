"""From measured cells to a table of models: what one machine's measurements say of a catalogue.

Pure functions of shapes, fits and measurements: which work a decode step is, what memory a model
needs, which rows a check has, and which of them to recommend. Nothing is run or read here.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .artifact import ModelShape, TensorInfo
from .basis import Basis, Unavailable
from .consumption import consumption
from .fit import ATTENTION, LAYER, CostFit, Work
from .measurement import BandwidthReading, Host, Limits, Measurement
from .memory_needs import PlannedModel
from .phase_energy import PhaseEnergy
from .statistics import Interval
from .units import format_bytes, format_duration, format_rate
from .verdict import Evidence, MemoryFit, Target, Verdict, VerdictKind, judge_evidence

DEFAULT_LEVELS = ("Q8_0", "Q4_K_M", "Q4_0")
"""What a check lists unless asked otherwise: near-lossless, the usual choice, the fast one."""


_NOT_MEASURED = Unavailable(
    reason="this file was not run whole", remedy="Measure it: edge profile MODEL"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowEnergy:
    """The gross joules per generated token of a row's own file, and what measured them."""

    j_per_token: Interval
    basis: Basis
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model at one level: the evidence and the verdict it got; its energy decides nothing."""

    model: str
    parameters: int
    level: str
    weights_bytes: int
    verdict: Verdict
    energy: RowEnergy | Unavailable = _NOT_MEASURED

    @property
    def judged(self) -> bool:
        """Whether anything is known to judge by: a rate, or that the memory does not suffice."""
        return (
            isinstance(self.verdict.decode_tokens_per_s, Interval)
            or self.verdict.memory.kind is VerdictKind.NOT_VIABLE
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSummary:
    """A cost fit in the terms a reader can check.

    `rates` are bytes/s of each tensor type for decode, weights/s for prefill. `engine` is the
    backend whose costs they are.
    """

    what: str
    cells: int
    relative_error: float
    seconds_per_layer: float
    attention_products_per_s: float | None
    rates: tuple[tuple[str, float], ...]
    engine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Everything an `edge check` found: the machine, the rows, and what they rest on.

    With `limits` the machine is an emulated smaller one.
    """

    created: str
    tool_version: str
    host: Host
    bandwidth: BandwidthReading | Unavailable
    target: Target
    rows: tuple[Row, ...]
    fits: tuple[FitSummary, ...]
    measurements: tuple[Measurement, ...]
    failures: tuple[str, ...]
    elapsed_s: float
    peak_disk_bytes: int
    recommendation: str
    limits: Limits | None = None
    schema: int = 2

    @property
    def exit_code(self) -> int:
        """0 when anything is viable, else 3 when borderline, else 1; 4 when nothing was judged."""
        kinds = {row.verdict.kind for row in self.rows if row.judged}
        if not kinds:
            return 4
        if VerdictKind.VIABLE in kinds:
            return 0
        return 3 if VerdictKind.BORDERLINE in kinds else 1


class Phase(enum.Enum):
    """Which of the two costs a work describes."""

    DECODE = "decode"
    PREFILL = "prefill"


def work_of(shape: ModelShape, tensors: Iterable[TensorInfo], phase: Phase, depth: int = 0) -> Work:
    """The work of one token, at a depth, over the tensors a file really has.

    Decoding reads the bytes of every weight matrix once, prefill multiplies every weight of the
    layers by each token (counted in weights; the output matrix works for the last token only).
    Vectors (norms, biases) belong to the cost per layer.
    """
    amounts: dict[str, float] = {}
    # The layers are alike: what one tensor of a kind takes, the next takes as well.
    known: dict[tuple[str, tuple[int, ...], str, int], float] = {}
    for tensor in tensors:
        name, kind = tensor.name, tensor.type.name
        alike = name[name.index(".", 4) :] if name.startswith("blk.") else name
        key = (alike, tensor.dims, kind, tensor.size_bytes)
        amount = known.get(key)
        if amount is None:
            amount = known[key] = _amount(shape, name, tensor.dims, tensor.size_bytes, phase)
        if amount:
            amounts[kind] = amounts.get(kind, 0.0) + amount
    return Work(
        layers=shape.layers,
        bytes_by_type=amounts,
        attention=attention_products(shape, depth),
    )


def planned_work(planned: PlannedModel, phase: Phase, depth: int = 0) -> Work:
    """The work of one token, at a depth, of a model that was not made."""
    at_start = _work_at_start(planned, phase)
    return replace(at_start, attention=attention_products(planned.shape, depth))


@functools.lru_cache(maxsize=16)
def _work_at_start(planned: PlannedModel, phase: Phase) -> Work:
    """Walked through once for all the devices a plan is projected onto."""
    return work_of(planned.shape, planned.tensors, phase)


def _amount(
    shape: ModelShape, name: str, dims: tuple[int, ...], size_bytes: int, phase: Phase
) -> float:
    """What one tensor adds to a token's work: bytes to decode, weights to prefill."""
    rows = math.prod(dims[1:])
    if rows <= 1:
        return 0.0
    read = shape.bytes_read(name, size_bytes, dims)
    if read <= size_bytes // rows:
        return 0.0  # a table that is looked up, one row of it
    if phase is Phase.DECODE:
        return float(read)
    if name.startswith(("token_embd", "output.")):
        return 0.0
    return dims[0] * rows * read / size_bytes


def attention_products(shape: ModelShape, depth: int) -> float:
    """The products attention makes for one token at a depth, sliding windows honoured.

    Two per head dimension, layer and visible token: query with key, weight with value. Every query
    head works through the keys, however few KV heads share them: on a CPU it is this that costs,
    not the bytes of the cache.
    """
    windowed = sum(shape.sliding_layers)
    seen = min(depth, shape.sliding_window) if shape.sliding_window else depth
    visible = (shape.layers - windowed) * depth + windowed * seen
    return 2.0 * shape.heads * shape.head_dim * visible


def project(
    planned: PlannedModel,
    target: Target,
    *,
    decode: CostFit,
    prefill: CostFit | None,
    memory: MemoryFit,
    bandwidth: BandwidthReading | Unavailable,
    disturbances: tuple[str, ...] = (),
) -> Evidence:
    """The evidence for a model that did not run, from this machine's fitted costs.

    The costs are those of the engine that runs the planned file.
    """
    shape = planned.shape
    work = planned_work(planned, Phase.DECODE, target.prompt_tokens)
    seconds = decode.predict(work)
    per_prompt_token = (
        prefill.predict(planned_work(planned, Phase.PREFILL, target.prompt_tokens // 2))
        if prefill
        else None
    )
    rate: Interval | Unavailable
    if seconds is None:
        missing = sorted(set(work.bytes_by_type) - set(decode.terms))
        rate = Unavailable(
            reason=f"no cell measured {' and '.join(missing) or 'this work'}",
            remedy=f"edge check {shape.name} --level {planned.level} measures it",
        )
    else:
        rate = seconds.inverse()
    return Evidence(
        model=shape.name,
        level=planned.level,
        basis=Basis.PROJECTED,
        decode_tokens_per_s=rate,
        depth_tokens=target.prompt_tokens,
        prefill_tokens_per_s=per_prompt_token.inverse() if per_prompt_token else None,
        memory=memory,
        depth_s_per_token=depth_cost(shape, decode, target.prompt_tokens),
        bandwidth_share=bandwidth_share(work, rate, bandwidth),
        disturbances=disturbances,
    )


def depth_cost(shape: ModelShape, decode: CostFit, depth: int) -> float | None:
    """Seconds that one more token of context adds to a decode step; None when not measured."""
    rate = decode.rate(ATTENTION)
    if rate is None:
        return None
    return (attention_products(shape, depth + 1) - attention_products(shape, depth)) / rate


def bandwidth_share(
    work: Work, rate: Interval | Unavailable, bandwidth: BandwidthReading | Unavailable
) -> float | None:
    """Which share of the measured bandwidth reading the weights uses; None when unknown."""
    if isinstance(rate, Unavailable) or isinstance(bandwidth, Unavailable):
        return None
    return rate.value * math.fsum(work.bytes_by_type.values()) / bandwidth.bytes_per_s.value


def rows_of(
    evidence: Sequence[Evidence], target: Target, parameters: int, weights: Sequence[int]
) -> tuple[Row, ...]:
    """Judges one model's levels together, so that each can name a better one."""
    return tuple(
        Row(
            model=one.model,
            parameters=parameters,
            level=one.level,
            weights_bytes=size,
            verdict=judge_evidence(
                one, target, alternatives=[other for other in evidence if other is not one]
            ),
        )
        for one, size in zip(evidence, weights, strict=True)
    )


def within_context(shape: ModelShape, target: Target) -> tuple[Target, tuple[str, ...]]:
    """The target for a model whose own context may be shorter than what is asked, and a note."""
    asked, own = target.context_tokens, shape.context_tokens
    if not own or asked <= own:
        return target, ()
    note = f"judged at {own} tokens of context, all it was made for, not at {asked}"
    prompt = min(target.prompt_tokens, own)
    if prompt < target.prompt_tokens:
        note += f", and with a prompt of {prompt}, not of {target.prompt_tokens}"
    return replace(target, context_tokens=own, prompt_tokens=prompt), (note,)


def with_energy(rows: Sequence[Row], measurements: Sequence[Measurement]) -> tuple[Row, ...]:
    """The rows with the energy of those whose own file was measured whole; nothing is projected."""
    found: dict[tuple[str, str], RowEnergy | Unavailable] = {}
    for one in measurements:
        if one.artifact.layers != one.artifact.layers_of_model or not one.workload.generate_tokens:
            continue
        used = consumption(one)
        decode = used if isinstance(used, Unavailable) else used.decode
        key = (one.artifact.name, one.artifact.level)
        if isinstance(decode, PhaseEnergy) and not isinstance(used, Unavailable):
            found[key] = RowEnergy(
                j_per_token=decode.gross_j_per_token, basis=used.basis, source=used.source
            )
        elif isinstance(decode, Unavailable):
            found.setdefault(key, decode)
    return tuple(replace(row, energy=found.get((row.model, row.level), row.energy)) for row in rows)


def summarize(what: str, fit: CostFit, engine: str = "") -> FitSummary:
    """A fit in the terms a reader can check."""
    seconds = dict(zip(fit.terms, fit.coefficients, strict=True))
    return FitSummary(
        what=what,
        cells=fit.cells,
        relative_error=fit.relative_error,
        seconds_per_layer=seconds.get(LAYER, 0.0),
        attention_products_per_s=fit.rate(ATTENTION),
        rates=tuple(
            (name, 1 / value)
            for name, value in seconds.items()
            if name not in {LAYER, ATTENTION} and value > 0
        ),
        engine=engine,
    )


def recommend(rows: Sequence[Row], target: Target) -> str:
    """One sentence naming the best choice.

    Among the viable rows the model with the most parameters wins, at its level with the most bits:
    size buys more quality than bits do above four bits, and both read. Without a viable row the
    fastest borderline one is named, then what comes nearest.
    """
    limit = format_rate(target.decode_tokens_per_s)
    viable = [row for row in rows if row.verdict.kind is VerdictKind.VIABLE]
    if viable:
        best = max(viable, key=lambda row: (row.parameters, row.weights_bytes))
        return f"Best choice: {best.model} at {best.level}: {_says(best)}."
    borderline = [
        row for row in rows if row.verdict.kind is VerdictKind.BORDERLINE and _rate(row) > 0
    ]
    if borderline:
        best = max(borderline, key=_rate)
        return (
            f"Nothing surely reaches {limit} tok/s; nearest is {best.model} at {best.level}: "
            f"{_says(best)}."
        )
    with_rate = [row for row in rows if _rate(row) > 0]
    if not with_rate:
        too_large = [row for row in rows if row.judged]
        if not too_large:
            return "Nothing could be judged."
        least = min(too_large, key=lambda row: row.verdict.memory.need_bytes)
        return f"Nothing fits; nearest is {least.model} at {least.level}: {least.verdict.cause}."
    best = max(with_rate, key=_rate)
    return (
        f"Nothing here reaches {limit} tok/s; the fastest is {best.model} at {best.level}: "
        f"{_says(best)}, limited by {best.verdict.cause}."
    )


def _rate(row: Row) -> float:
    rate = row.verdict.decode_tokens_per_s
    return rate.value if isinstance(rate, Interval) else 0.0


def _says(row: Row) -> str:
    rate = row.verdict.decode_tokens_per_s
    parts = []
    if isinstance(rate, Interval):
        parts.append(
            f"{format_rate(rate.value)} tok/s "
            f"({format_rate(rate.low)} to {format_rate(rate.high)}, {row.verdict.basis.lower()})"
        )
    if row.verdict.ttft_s is not None:
        parts.append(f"first token after {format_duration(row.verdict.ttft_s.value)}")
    parts.append(f"{format_bytes(row.verdict.memory.need_bytes)} of memory")
    return ", ".join(parts)
