"""What the measuring parent asks of its child process and what the child answers.

Plain records that travel as one JSON line each: the specification goes down, events and the outcome
come up. This module knows how a line is written and read, and nothing of processes or engines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, overload

from .. import errors
from ..basis import Unavailable
from ..codec import from_jsonable, to_jsonable
from ..errors import EdgeError, FormatError, UsageError, WorkerError
from ..latency import InputRecord, LatencyOptions, OperatorTimes, OutputRecord, Placed, Round
from ..measurement import Engine, Gpu, Limits, Load, Noise, Run, SessionOptions, Workload
from ..memory import Memory
from ..statistics import Interval
from ..timeline import Window

T = TypeVar("T")

MAX_LINE_BYTES = 256 * 1024 * 1024
"""No honest answer is longer: five million stamps of 20 digits, the most one record keeps, are
less than half of it."""
ENOUGH = b"enough\n"
"""The parent's answer to an event after which no further repetition is to begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how carefully to measure.

    Repetitions go on until the 95 % interval of the rate is narrower than
    `target_relative_half_width` (after `min_runs`), until `max_runs`, or until the next repetition
    would overrun `budget_s`, which counts warm-ups and repetitions, not loading.
    `cut_short` lets the budget also end a bench repetition between two decode steps: the steps that
    were made count, and the record notes it. `instruments` False switches off every observer but
    the clock. `cold_cache` drops the file from the page cache first. A child that has not answered
    after `timeout_s` is killed.

    `settle_s` is how long the device may be left to cool before anything else, `idle_s` how long it
    is watched with no model loaded, once before and once after: what the model adds can only be
    told from energy against these. `sustain_s` keeps the repetitions up for so long, whatever the
    interval and the budget say, for the rate a device holds once it is hot. `extend` allows more
    repetitions than `max_runs`, within the budget, where an energy sensor needs them.
    """

    warmups: int = 1
    min_runs: int = 3
    max_runs: int = 10
    target_relative_half_width: float = 0.02
    budget_s: float = 60.0
    cut_short: bool = False
    instruments: bool = True
    cold_cache: bool = False
    timeout_s: float = 1800.0
    seed: int = 1
    settle_s: float = 0.0
    idle_s: float = 0.0
    sustain_s: float | None = None
    extend: bool = True

    def __post_init__(self) -> None:
        """Refuses a plan that could never end or never begin (UsageError)."""
        for good, rule in (
            (self.warmups >= 0, "warm-ups must not be negative"),
            (self.min_runs >= 1, "at least one repetition is needed"),
            (self.max_runs >= self.min_runs, "the most repetitions must not be below the fewest"),
            (self.budget_s > 0, "the time budget must be positive"),
            (self.timeout_s > 0, "the timeout must be positive"),
            (self.target_relative_half_width >= 0, "the target half-width must not be negative"),
            (self.settle_s >= 0 and self.idle_s >= 0, "waiting times must not be negative"),
            (self.sustain_s is None or self.sustain_s > 0, "the time to sustain must be positive"),
        ):
            if not good:
                raise UsageError(f"This plan cannot be measured: {rule}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One measurement as the child needs it: everything in it is decided by the parent.

    Repetitions go on until they took `least_run_s` together, or the budget is spent: what the
    energy sensors need to resolve them.
    """

    artifact: str
    options: SessionOptions
    workload: Workload
    plan: Plan
    parent_pid: int
    least_run_s: float = 0.0
    limits: Limits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the child found; together with the host it makes a Measurement."""

    engine: Engine
    gpus: tuple[Gpu, ...]
    options: SessionOptions
    load: Load
    warmups: int
    runs: tuple[Run, ...]
    stopped: str
    memory: Memory | Unavailable
    noise: Noise
    notes: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySpec:
    """One latency measurement as the child needs it.

    The plan's runs are inferences. `paths` are the graph and its data files. With a folder for a
    `trace` only the times of the nodes are found.
    """

    paths: tuple[str, ...]
    options: LatencyOptions
    inputs: tuple[InputRecord, ...]
    plan: Plan
    trace: str | None
    parent_pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyOutcome:
    """What the child found of a model's latency; together with the host it makes the record."""

    engine: Engine
    gpus: tuple[Gpu, ...]
    options: LatencyOptions
    outputs: tuple[OutputRecord, ...]
    placed: tuple[Placed, ...]
    load: Load
    warmups: int
    rounds: tuple[Round, ...]
    stopped: str
    memory: Memory | Unavailable
    noise: Noise
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOutcome:
    """Where the time of a model goes, from a child that measured nothing else."""

    operators: OperatorTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a measurement has come. `tokens_per_s` is the rate so far, decode before prefill.

    Of a model that is none of language the runs are inferences, and the rate is theirs. While
    scoring the runs are passages, while answering prompts.
    """

    stage: Literal[
        "settling", "idle", "loading", "warming", "running", "closing", "tracing",
        "tokenizing", "answering", "scoring",
    ]  # fmt: skip
    runs: int = 0
    max_runs: int = 0
    elapsed_s: float = 0.0
    tokens_per_s: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    kind: str
    fact: str
    cause: str
    way_out: str


Listener = Callable[[Progress], bool | None]
"""Is told how far a measurement has come. True asks that no further repetition be begun."""

AnyOutcome = Outcome | LatencyOutcome | TraceOutcome
Message = Progress | AnyOutcome | EdgeError
_ANSWERS: Mapping[str, type[Progress | AnyOutcome]] = {
    kind.__name__.lower(): kind for kind in (Progress, Outcome, LatencyOutcome, TraceOutcome)
}


def encode(message: object) -> bytes:
    """Writes one message, a record or an EdgeError, as a JSON line, ASCII only."""
    if isinstance(message, EdgeError):
        kind = next(base for base in type(message).__mro__ if hasattr(errors, base.__name__))
        body: object = to_jsonable(
            _Failure(
                kind=kind.__name__, fact=message.fact, cause=message.cause, way_out=message.way_out
            )
        )
        name = "error"
    else:
        body, name = to_jsonable(message), type(message).__name__.lower()
    return json.dumps({name: body}, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def decode_spec(line: bytes) -> Spec | LatencySpec:
    """Reads the parent's line. Raises FormatError when it is no specification."""
    message = json.loads(line)
    if "latencyspec" in message:
        return from_jsonable(LatencySpec, message["latencyspec"])
    return from_jsonable(Spec, message["spec"])


@overload
def decode(line: bytes) -> Message: ...
@overload
def decode(line: bytes, kind: type[T]) -> Message | T: ...
def decode(line: bytes, kind: type[T] | None = None) -> Message | T:
    """Reads one of the child's lines; `kind` is an answer that is known beside those of this room.

    Raises WorkerError when it is no message.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or len(message) != 1:
        raise WorkerError(
            "A child process answered something else than a result.",
            cause=f"It wrote {line[:80].decode(errors='replace').strip()!r}.",
        )
    ((name, body),) = message.items()
    try:
        if kind is not None and name == kind.__name__.lower():
            return from_jsonable(kind, body)
        if name in _ANSWERS:
            return from_jsonable(_ANSWERS[name], body)
        if name == "error":
            return _revive(from_jsonable(_Failure, body))
    except FormatError as error:
        raise WorkerError("A child process sent a malformed answer.", cause=error.fact) from error
    raise WorkerError(f"A child process sent the unknown message {name[:40]!r}.")


def _revive(failure: _Failure) -> EdgeError:
    kind = getattr(errors, failure.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, EdgeError)):
        kind = WorkerError
    return kind(failure.fact, cause=failure.cause, way_out=failure.way_out)
