"""The record of one measurement, and nothing derived from it beyond plain arithmetic.

A `Measurement` is the only thing saved. It holds raw monotonic time stamps and raw samples; every
rate, percentile and interval is a property computed from them, so a file written today can be
judged by tomorrow's rules on a machine with no engine. This module reads no clock and no file.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Literal

from . import statistics
from .basis import Basis, Unavailable
from .codec import from_jsonable, to_jsonable
from .energy import Battery, Energy, Refusal
from .heat import Heat
from .memory import Memory
from .statistics import Interval
from .timeline import Timeline
from .units import NS_PER_S

SCHEMA = 3
"""The number of the JSON layout; a reader refuses one it does not know."""
OLDEST_SCHEMA = 1
"""The oldest layout that is still read: 2 added energy, heat, the timeline and emulation, 3 rounds
and importance matrices."""

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is run: how many tokens are evaluated, at which depth, by which protocol.

    `bench` is llama-bench's protocol: random tokens, no sampling, the cache emptied between runs.
    `chat` goes through the real tokenizer and sampler; `prompt_tokens` and `generate_tokens` are
    its stated lengths and end-of-text does not cut it short.
    `depth_tokens` are evaluated, untimed, before each run.
    """

    name: str
    protocol: Literal["bench", "chat"] = "bench"
    prompt_tokens: int = 0
    generate_tokens: int = 0
    depth_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """The context this workload fills."""
        return self.depth_tokens + self.prompt_tokens + self.generate_tokens


def prefill_workload(tokens: int = 512, *, depth: int = 0) -> Workload:
    """llama-bench's `ppN`: N random tokens in batches, `@ dD` after D tokens of context."""
    return Workload(name=_bench_name("pp", tokens, depth), prompt_tokens=tokens, depth_tokens=depth)


def decode_workload(tokens: int = 128, *, depth: int = 0) -> Workload:
    """llama-bench's `tgN`: N single-token steps, `@ dD` after D tokens of context."""
    return Workload(
        name=_bench_name("tg", tokens, depth), generate_tokens=tokens, depth_tokens=depth
    )


def _bench_name(kind: str, tokens: int, depth: int) -> str:
    return f"{kind}{tokens}" + (f" @ d{depth}" if depth else "")


CHAT_WORKLOADS: tuple[Workload, ...] = (
    Workload(name="chat", protocol="chat", prompt_tokens=128, generate_tokens=128),
    Workload(name="summarize", protocol="chat", prompt_tokens=1024, generate_tokens=96),
    Workload(name="write", protocol="chat", prompt_tokens=48, generate_tokens=384),
)
"""Everyday uses by their lengths: a short turn, a long text in, a long text out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How an artifact is opened. None means the engine's own choice, recorded once it is known."""

    backend: str = "llama_cpp"
    context_tokens: int | None = None
    threads: int | None = None
    threads_prefill: int | None = None
    batch_tokens: int = 2048
    micro_batch_tokens: int = 512
    gpu_layers: int | None = None
    flash_attention: Literal["auto", "on", "off"] = "auto"
    kv_type_k: KvType = "f16"
    kv_type_v: KvType = "f16"
    memory_map: bool = True
    embeddings: bool = False
    swa_full: bool = False
    providers: tuple[str, ...] = ()  # ONNX Runtime's, first choice first; once open, those in use


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRecord:
    """Which file was measured, as far as a later reader needs it. No absolute path: it travels."""

    name: str
    file: str
    fingerprint: str
    format: Literal["gguf", "onnx"]
    architecture: str
    level: str
    parameters: int
    layers: int
    layers_of_model: int
    size_bytes: int
    decode_bytes: int
    synthetic: bool
    imatrix: bool = False  # quantized by an importance matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How many nodes of a graph one execution provider holds, and their share of all."""

    provider: str
    nodes: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The inference engine that ran, what it says of its build, and what ran where in a session."""

    name: str
    version: str
    build: str = ""
    placement: tuple[Placement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """An accelerator the engine's build can use."""

    name: str
    description: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine a measurement was made on."""

    system: str
    release: str
    machine: str
    cpu: str
    cores_physical: int | None
    cores_logical: int
    cores_usable: int
    isa: tuple[str, ...]
    ram_bytes: int
    ram_available_bytes: int | None
    virtualization: str | None
    last_level_cache_bytes: int | None
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BandwidthReading:
    """The measured read bandwidth of main memory, bytes/s, and how it was measured."""

    bytes_per_s: Interval
    working_set_bytes: int
    threads: int
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One repetition, in nanoseconds of the monotonic clock.

    `prefilled_ns` is when the prompt's logits were there, None when nothing was prefilled inside
    the timed part (`tgN`). `token_ns` has one stamp per generated token, taken when it was there.
    Each decode step begins where the one before ended, the first at `prefilled_ns` or `started_ns`.
    Under the chat protocol the first token comes out of the prefill itself: its stamp equals
    `prefilled_ns` and is no step.
    """

    started_ns: int
    prefilled_ns: int | None
    prefill_tokens: int
    token_ns: tuple[int, ...]

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """Prefilled tokens over prefill time, or None when none were prefilled."""
        if self.prefilled_ns is None or self.prefilled_ns <= self.started_ns:
            return None
        if self.prefill_tokens <= 0:
            return None
        return self.prefill_tokens * NS_PER_S / (self.prefilled_ns - self.started_ns)

    @property
    def step_ns(self) -> tuple[int, ...]:
        """The duration of every decode step, in order: the inter-token latencies."""
        begun = self.started_ns if self.prefilled_ns is None else self.prefilled_ns
        tokens = self.token_ns
        if tokens and tokens[0] == begun:
            tokens = tokens[1:]
        return tuple(b - a for a, b in itertools.pairwise((begun, *tokens)))

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Decode steps over the time they took together, or None when there were none."""
        steps = self.step_ns
        return len(steps) * NS_PER_S / sum(steps) if steps and sum(steps) > 0 else None

    @property
    def ttft_ns(self) -> int | None:
        """Time to first token: from the start of the prompt until its logits were there."""
        if self.prefilled_ns is None or not self.token_ns:
            return None
        return self.prefilled_ns - self.started_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How long opening took, and whether the file came from the disk or from the page cache.

    `resident_share` is the share of the file's pages that were in the page cache before opening.
    """

    duration_ns: int
    page_cache: Literal["cold", "warm", "mixed", "unknown"]
    resident_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What else went on while measuring. None where the machine does not tell.

    `steal_share` and `foreign_share` are shares of all CPU time during the timed runs: taken by the
    hypervisor, and used by other processes. `lateness_p90_ns` is how late the sampler's wake-ups
    were, `sampler_share` the CPU time the sampler itself used over the wall time of the runs.
    """

    load_average: float | None
    steal_share: float | None
    foreign_share: float | None
    frequency_hz_start: float | None
    frequency_hz_end: float | None
    throttled: bool | None
    lateness_p90_ns: int | None
    sampler_share: float | None
    flags: tuple[str, ...] = ()

    @property
    def disturbed(self) -> bool:
        """Whether anything was seen that puts the speeds in doubt."""
        return bool(self.flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The smaller device asked for: a ceiling on memory, and cores. None leaves the host's own."""

    memory_bytes: int | None = None
    cores: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulation:
    """A smaller device, emulated on the host: what was limited, and by which means.

    Caches and memory bandwidth stay those of the host.
    """

    limits: Limits
    means: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Everything known of one workload on one artifact on one host: the record.

    `options` are those in force, `requested` those asked for. `notes` say where the workload could
    not be run to the letter. `refusals` are the energy sensors that give no reading here.
    `stated_power_w` is the device's power while it works as the user stated it, for an estimate
    where nothing measures. `sustain_s` is how long the repetitions were kept up on purpose.
    `round` is which round of a comparison it belongs to, from 0: levels measured in the same round
    met the same machine, and are compared pair by pair.
    """

    created: str
    tool_version: str
    host: Host
    engine: Engine
    artifact: ArtifactRecord
    options: SessionOptions
    workload: Workload
    load: Load
    warmups: int
    runs: tuple[Run, ...]
    stopped: str
    memory: Memory | Unavailable
    energy: Energy | Unavailable
    noise: Noise
    emulated: Emulation | None = None
    timeline: Timeline | None = None
    heat: Heat | None = None
    refusals: tuple[Refusal, ...] = ()
    battery: Battery | None = None
    stated_power_w: float | None = None
    sustain_s: float | None = None
    round: int | None = None
    requested: SessionOptions | None = None
    notes: tuple[str, ...] = ()
    schema: int = field(default=SCHEMA)

    @property
    def basis(self) -> Basis:
        """SYNTHETIC when the weights were random, else MEASURED."""
        return Basis.SYNTHETIC if self.artifact.synthetic else Basis.MEASURED

    @property
    def decode_samples(self) -> tuple[float, ...]:
        """Decode tokens/s of each run that decoded."""
        return tuple(r for run in self.runs if (r := run.decode_tokens_per_s) is not None)

    @property
    def prefill_samples(self) -> tuple[float, ...]:
        """Prefill tokens/s of each run that prefilled."""
        return tuple(r for run in self.runs if (r := run.prefill_tokens_per_s) is not None)

    @property
    def step_samples_ns(self) -> tuple[int, ...]:
        """Every inter-token latency of every run, in order."""
        return tuple(step for run in self.runs for step in run.step_ns)

    @property
    def ttft_samples_s(self) -> tuple[float, ...]:
        """Time to first token of each run that prefilled and generated, seconds."""
        return tuple(t / NS_PER_S for run in self.runs if (t := run.ttft_ns) is not None)

    @property
    def decode_tokens_per_s(self) -> Interval | None:
        """Mean decode rate with its 95 % interval; None when nothing was decoded."""
        return self._interval(self.decode_samples)

    @property
    def prefill_tokens_per_s(self) -> Interval | None:
        """Mean prefill rate with its 95 % interval; None when nothing was prefilled."""
        return self._interval(self.prefill_samples)

    def itl_s(self, percent: float) -> float | None:
        """A percentile of the inter-token latency in seconds; None when nothing was decoded."""
        steps = self.step_samples_ns
        return statistics.percentile(steps, percent) / NS_PER_S if steps else None

    def _interval(self, samples: tuple[float, ...]) -> Interval | None:
        """The t interval of the mean over runs; see `statistics.rate_interval`."""
        return statistics.rate_interval(samples, disturbed=self.noise.disturbed)

    def to_json(self) -> dict[str, object]:
        """The record as plain JSON values, including the schema number."""
        value = to_jsonable(self)
        assert isinstance(value, dict)
        return value

    @classmethod
    def from_json(cls, data: object) -> Measurement:
        """Reads back what `to_json` wrote.

        Raises FormatError when the data is no measurement, or of a schema this version does not
        know.
        """
        return from_jsonable(cls, data, schema=SCHEMA, oldest=OLDEST_SCHEMA)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFailure:
    """A workload that could not be measured, and why: it stays in the results beside the others.

    `error` is the error's type name; `fact`, `cause` and `way_out` are its words.
    """

    created: str
    tool_version: str
    artifact: ArtifactRecord
    requested: SessionOptions
    workload: Workload
    error: str
    fact: str
    cause: str
    way_out: str
    limits: Limits | None = None
    round: int | None = None
    schema: int = field(default=SCHEMA)

    def to_json(self) -> dict[str, object]:
        """The record as plain JSON values, including the schema number."""
        value = to_jsonable(self)
        assert isinstance(value, dict)
        return value

    @classmethod
    def from_json(cls, data: object) -> CellFailure:
        """Reads back what `to_json` wrote. Raises FormatError."""
        return from_jsonable(cls, data, schema=SCHEMA, oldest=OLDEST_SCHEMA)


def read_record(data: object) -> Measurement | CellFailure:
    """Reads a measurement or a failed cell, whichever the data is. Raises FormatError."""
    if isinstance(data, dict) and "fact" in data:
        return CellFailure.from_json(data)
    return Measurement.from_json(data)
