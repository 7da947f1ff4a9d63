"""What a comparison runs: the artifacts, how they are measured, what they are scored on.

A `Program` is a value: it is checked when it is made, and nothing has begun. The defaults are said
here, with what they rest on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..artifact import Artifact
from ..backends import backend_for
from ..comparison import row_labels
from ..errors import UsageError
from ..measurement import Limits, SessionOptions, Workload, decode_workload, prefill_workload
from ..profiler import Plan, artifact_record
from ..quality.evaluate import DEFAULT_ANSWER_TOKENS
from ..quality.text import Prompts, Text, default_context_tokens

DEFAULT_ROUNDS = 5
ROUND_PLAN = Plan(warmups=1, min_runs=1, max_runs=10, budget_s=10.0)
"""One child's share of a round: small models repeat until their rate is known to 2 %, large ones,
whose single run takes longer than the budget, run once."""

_WIDEST_FIRST = ("F32", "BF16", "F16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One artifact of a comparison, under the name of its row."""

    label: str
    artifact: Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The entries, how they are measured, what they are scored on.

    `reference` is the index of the entry that the others' distributions are held against. No
    workloads, or no rounds, measures no speed. Quality is scored on the text; without one on the
    answers to the prompts; without either, or with `quality` False, not at all. With prompts every
    entry answers them.
    `options` name an engine for artifacts of its format; others get the one of theirs.
    `context_tokens` is that of the scored passages; by default 512, or the models' own where that
    is less. `exact` keeps the reference's whole distributions. They are kept in `reference_file`,
    and found there again; where it is None, in a temporary file.
    """

    entries: tuple[Entry, ...]
    reference: int
    workloads: tuple[Workload, ...] = ()
    rounds: int = DEFAULT_ROUNDS
    plan: Plan = ROUND_PLAN
    options: SessionOptions = field(default_factory=SessionOptions)
    limits: Limits | None = None
    stated_power_w: float | None = None
    text: Text | None = None
    prompts: Prompts | None = None
    context_tokens: int | None = None
    exact: bool = False
    answer_tokens: int = DEFAULT_ANSWER_TOKENS
    reference_file: Path | None = None
    quality: bool = True

    def __post_init__(self) -> None:
        """Refuses what could not be compared (UsageError)."""
        if not self.entries:
            raise UsageError("There is nothing to compare.", way_out="Name a model.")
        if not 0 <= self.reference < len(self.entries):
            raise UsageError(f"There is no entry {self.reference} to hold the others against.")
        if self.rounds < 0 or self.answer_tokens < 1:
            raise UsageError("Rounds must not be negative, answers have at least one token.")
        if len({workload.name for workload in self.workloads}) < len(self.workloads):
            raise UsageError("Two of these workloads have the same name.")
        seen: dict[str, Entry] = {}
        for entry in self.entries:
            other = seen.setdefault(entry.artifact.fingerprint, entry)
            if other is not entry:
                raise UsageError(
                    f"{other.artifact.path} and {entry.artifact.path} cannot be told apart.",
                    cause="Header and size are the same: they are one model at one level.",
                    way_out="Name only one of them.",
                )

    @property
    def source(self) -> Text | Prompts | None:
        """What quality is scored on; None scores nothing."""
        return (self.text or self.prompts) if self.quality else None

    @property
    def scored_context_tokens(self) -> int:
        """The context of the scored passages: the one asked for, or the default."""
        if self.context_tokens is not None:
            return self.context_tokens
        return default_context_tokens(*(entry.artifact for entry in self.entries))


def default_workloads(artifacts: Sequence[Artifact]) -> tuple[Workload, ...]:
    """Those of llama-bench, pp512 and tg128; shorter where a model's context is."""
    own = [tokens for artifact in artifacts if (tokens := _context_of(artifact))]
    return prefill_workload(min([512, *own])), decode_workload(min([128, *own]))


def options_for(artifact: Artifact, options: SessionOptions) -> SessionOptions:
    """The options with the engine that runs the artifact's format."""
    name = backend_for(artifact, options.backend).name
    providers = options.providers if artifact.format == "onnx" else ()
    return replace(options, backend=name, providers=providers)


def reference_of(artifacts: Sequence[Artifact]) -> int:
    """The index of the one to hold the others against: the first of floats, else the widest."""
    for level in _WIDEST_FIRST:
        for index, artifact in enumerate(artifacts):
            if artifact.level.upper() == level:
                return index
    bits = [8 * a.weight_bytes / max(a.parameters, 1) for a in artifacts]
    return bits.index(max(bits))


def entries_of(artifacts: Sequence[Artifact]) -> tuple[Entry, ...]:
    """The artifacts under the names that their rows have in a table of them."""
    labels = row_labels([artifact_record(artifact) for artifact in artifacts])
    return tuple(
        Entry(label=label, artifact=artifact)
        for label, artifact in zip(labels, artifacts, strict=True)
    )


def _context_of(artifact: Artifact) -> int:
    """The context a model was made for, 0 where its file does not say."""
    return max(artifact.shape.context_tokens, 0)
