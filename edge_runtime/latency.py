"""The record of one latency measurement: a model without a KV cache, run over and over.

As with `measurement`, raw time stamps are what is saved; every percentile, rate and share is a
property computed from them. This module reads no clock and no file, and knows no engine.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from . import statistics
from .basis import Unavailable
from .codec import from_jsonable, to_jsonable
from .errors import FormatError
from .measurement import Engine, Host, Load, Noise
from .memory import Memory
from .statistics import Interval, OrderInterval
from .units import NS_PER_S

SCHEMA = 2
"""The number of the JSON layout; a reader refuses one it does not know."""
OLDEST_SCHEMA = 1
"""The oldest layout that is still read: 2 added paging and pressure to the memory."""

Fill = Literal["normal", "below", "bytes", "ones", "zeros", "positions", "true"]
"""What an input holds: numbers of the standard normal distribution, whole numbers from 0 up to
below `InputRecord.below`, every value its 8 bits have, ones, zeros, 0 1 2 ... along the last
dimension, or true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRecord:
    """One input as it was fed: element type by its name in ONNX, shape, and what filled it."""

    name: str
    type: str
    shape: tuple[int, ...]
    fill: Fill
    below: int | None = None

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRecord:
    """One output: element type, shape, and whether its memory was there before the clock started.

    The shape is None for what is no tensor. Memory that was not `preallocated` is the engine's own
    of each run: the shape depends on values, or the type has no fixed size.
    """

    name: str
    type: str
    shape: tuple[int, ...] | None
    preallocated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """Which model was measured, as far as a later reader needs it. No absolute path: it travels.

    `level` is the type most of its parameters have; `nodes` counts the file's operators, before
    the engine fuses any.
    """

    name: str
    file: str
    fingerprint: str
    size_bytes: int
    parameters: int
    level: str
    nodes: int
    producer: str = ""
    format: Literal["onnx"] = "onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyOptions:
    """How the model is opened. None and () mean the engine's own choice."""

    threads: int | None = None
    providers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Inferences one right after the other, in nanoseconds of the monotonic clock.

    `ended_ns` has a stamp for each, taken when it was done; each begins where the one before ended,
    the first at `started_ns`.
    """

    started_ns: int
    ended_ns: tuple[int, ...]

    @property
    def latencies_ns(self) -> tuple[int, ...]:
        """The duration of every inference, in order."""
        return tuple(b - a for a, b in itertools.pairwise((self.started_ns, *self.ended_ns)))

    @property
    def inferences_per_s(self) -> float | None:
        """Inferences over the time they took together; None where the clock did not advance."""
        if not self.ended_ns or self.ended_ns[-1] <= self.started_ns:
            return None
        return len(self.ended_ns) * NS_PER_S / (self.ended_ns[-1] - self.started_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTime:
    """One node of the graph as it ran, after the engine fused and replaced what it could.

    `self_ns` is its time in all profiled runs, without that of nodes inside it (an `If`, a `Loop`).
    """

    name: str
    op: str
    provider: str
    calls: int
    self_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorShare:
    """What all nodes of one operator on one provider took in one profiled run, on average.

    `share` is that of the whole run.
    """

    op: str
    provider: str
    nodes: int
    calls_per_run: float
    seconds_per_run: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTimes:
    """Where the time goes, by the engine's own tracing, in a pass of its own after the timed one.

    Of `traced_runs` inferences the quicker half counts: `runs_ns` is how long each of those took.
    Tracing makes inferences slower, which comparing them with the timed ones shows. Times are whole
    microseconds as traced, so that a node of a few of them is known roughly.
    """

    traced_runs: int
    runs_ns: tuple[int, ...]
    nodes: tuple[NodeTime, ...]

    @property
    def run_s(self) -> float:
        """The mean time of the traced inferences that count."""
        return statistics.mean(self.runs_ns) / NS_PER_S

    @property
    def covered(self) -> float:
        """The share of the runs' time that lies in operators; the rest lies between them."""
        return self.share(sum(node.self_ns for node in self.nodes))

    @property
    def outside_s(self) -> float:
        """The time of a run between its operators; 0 where operators overlap."""
        return max(0.0, self.run_s * (1 - self.covered))

    @property
    def by_operator(self) -> tuple[OperatorShare, ...]:
        """Nodes summed up by operator and provider, the longest first."""
        return self._shares(lambda node: (node.op, node.provider))

    @property
    def by_provider(self) -> tuple[OperatorShare, ...]:
        """Nodes summed up by provider alone; the operator's name is empty."""
        return self._shares(lambda node: ("", node.provider))

    @property
    def slowest(self) -> tuple[NodeTime, ...]:
        """All nodes, the longest first."""
        return tuple(sorted(self.nodes, key=lambda node: -node.self_ns))

    def share(self, self_ns: int) -> float:
        """What share of all profiled runs a time is; with what lies between, shares make 1."""
        total = sum(self.runs_ns)
        return self_ns / total if total else 0.0

    def _shares(self, key: Callable[[NodeTime], tuple[str, str]]) -> tuple[OperatorShare, ...]:
        runs = len(self.runs_ns)
        shares = []
        for (op, provider), nodes in _grouped(self.nodes, key).items():
            spent = sum(node.self_ns for node in nodes)
            shares.append(
                OperatorShare(
                    op=op,
                    provider=provider,
                    nodes=len(nodes),
                    calls_per_run=sum(node.calls for node in nodes) / runs,
                    seconds_per_run=spent / runs / NS_PER_S,
                    share=self.share(spent),
                )
            )
        return tuple(sorted(shares, key=lambda item: -item.seconds_per_run))


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """How many nodes one provider was given when the engine shared the graph out.

    That is before the last fusing: fewer may run. Engines that do not tell leave `nodes` at 0.
    """

    provider: str
    nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyMeasurement:
    """Everything known of one model's latency on one host: the record.

    `options` are those in force, `requested` those asked for. `notes` say which dimensions nobody
    gave, and where something could not be done to the letter. Energy and heat are not recorded:
    no sensor is read while single inferences are timed.
    """

    created: str
    tool_version: str
    host: Host
    engine: Engine
    model: ModelRecord
    options: LatencyOptions
    requested: LatencyOptions
    inputs: tuple[InputRecord, ...]
    outputs: tuple[OutputRecord, ...]
    placed: tuple[Placed, ...]
    load: Load
    warmups: int
    rounds: tuple[Round, ...]
    stopped: str
    memory: Memory | Unavailable
    noise: Noise
    operators: OperatorTimes | Unavailable
    notes: tuple[str, ...] = ()
    kind: Literal["latency"] = "latency"
    schema: int = field(default=SCHEMA)

    @property
    def latencies_ns(self) -> tuple[int, ...]:
        """The duration of every timed inference, in order."""
        return tuple(itertools.chain.from_iterable(r.latencies_ns for r in self.rounds))

    @property
    def mean_s(self) -> float:
        """The mean latency."""
        return statistics.mean(self.latencies_ns) / NS_PER_S

    @property
    def least_s(self) -> float:
        """The shortest latency."""
        return min(self.latencies_ns) / NS_PER_S

    def latency_s(self, percent: float) -> OrderInterval:
        """A percentile of the latency and the samples it lies between, seconds."""
        found = statistics.percentile_interval(self.latencies_ns, percent)
        return OrderInterval(
            low=None if found.low is None else found.low / NS_PER_S,
            value=found.value / NS_PER_S,
            high=None if found.high is None else found.high / NS_PER_S,
        )

    @property
    def inferences_per_s(self) -> Interval | None:
        """Inferences over the time they took, with its 95 % interval over rounds.

        Neighbouring inferences share what disturbs them; rounds are far enough apart. One over the
        mean latency, so that the figures of a record agree however unevenly it ran.
        """
        rates = [r for item in self.rounds if (r := item.inferences_per_s) is not None]
        times = statistics.rate_interval([1 / r for r in rates], disturbed=self.noise.disturbed)
        if times is None:
            return None
        return times.scaled(self.mean_s / times.value).inverse()

    @property
    def loaded_bytes(self) -> int | None:
        """Resident memory once the model was loaded and before it ran; None when not known."""
        return self._peak("loaded")

    @property
    def peak_bytes(self) -> int | None:
        """The largest resident memory of loading and running; None when not known."""
        return self.memory.peak_bytes if isinstance(self.memory, Memory) else None

    def _peak(self, name: str) -> int | None:
        phases = self.memory.phases if isinstance(self.memory, Memory) else ()
        return next((phase.peak_bytes for phase in phases if phase.phase == name), None)

    def to_json(self) -> dict[str, object]:
        """The record as plain JSON values, including the schema number."""
        value = to_jsonable(self)
        assert isinstance(value, dict)
        return value

    @classmethod
    def from_json(cls, data: object) -> LatencyMeasurement:
        """Reads back what `to_json` wrote.

        Raises FormatError when the data is no latency measurement, is of a schema this version does
        not know, or holds no inference.
        """
        found = from_jsonable(cls, data, schema=SCHEMA, oldest=OLDEST_SCHEMA)
        if not found.latencies_ns:
            raise FormatError("This latency measurement holds no inference.")
        if isinstance(found.operators, OperatorTimes) and not found.operators.runs_ns:
            raise FormatError("This latency measurement has operators of no run.")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFailure:
    """A model whose latency could not be measured, and why.

    `error` is the error's type name; `fact`, `cause` and `way_out` are its words.
    """

    created: str
    tool_version: str
    model: ModelRecord
    requested: LatencyOptions
    inputs: tuple[InputRecord, ...]
    error: str
    fact: str
    cause: str
    way_out: str
    kind: Literal["latency failure"] = "latency failure"
    schema: int = field(default=SCHEMA)

    def to_json(self) -> dict[str, object]:
        """The record as plain JSON values, including the schema number."""
        value = to_jsonable(self)
        assert isinstance(value, dict)
        return value

    @classmethod
    def from_json(cls, data: object) -> LatencyFailure:
        """Reads back what `to_json` wrote. Raises FormatError."""
        return from_jsonable(cls, data, schema=SCHEMA, oldest=OLDEST_SCHEMA)


LatencyRecord = LatencyMeasurement | LatencyFailure


def read_latency(data: object) -> LatencyRecord:
    """Reads a measurement or a failure, whichever the data is. Raises FormatError."""
    if isinstance(data, dict) and data.get("kind") == "latency failure":
        return LatencyFailure.from_json(data)
    return LatencyMeasurement.from_json(data)


def _grouped(
    nodes: Iterable[NodeTime], key: Callable[[NodeTime], tuple[str, str]]
) -> dict[tuple[str, str], list[NodeTime]]:
    groups: dict[tuple[str, str], list[NodeTime]] = {}
    for node in nodes:
        groups.setdefault(key(node), []).append(node)
    return groups
