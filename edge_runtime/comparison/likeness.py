"""What may be laid beside what: records of one machine, one way of running, one text.

A table of unlike records would hold numbers that are right one by one and wrong together; it is
refused with the first difference found. It knows what makes records alike, and nothing of figures;
how records of anywhere are divided into tables, `lots` knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..errors import UsageError
from ..measurement import (
    ArtifactRecord,
    CellFailure,
    Host,
    Limits,
    Measurement,
    SessionOptions,
    Workload,
)
from ..saved import SavedRecord
from ..scores import ReferenceRecord, Scores
from .levels import Level

FORMATS = ("gguf", "onnx")
"""The formats of artifacts: each has its engine."""
_ENGINES_OWN = "the engine's own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that two records must share. `words` show it where `value` says little itself."""

    name: str
    value: object
    words: str = field(default="", compare=False)


Facts = tuple[Fact, ...]
"""What two records must share, the most telling first."""


def model_facts(artifact: ArtifactRecord) -> Facts:
    """What is the same of one model at all of its levels."""
    of = f"{artifact.architecture} of {artifact.parameters:,} parameters"
    return (Fact(name="model", value=of),)


def host_facts(host: Host) -> Facts:
    """What makes a machine the same one, as far as speed goes; its system may be updated."""
    return (
        Fact(name="machine", value=f"{host.cpu}, {host.machine}, {host.system}"),
        Fact(name="virtualization", value=host.virtualization),
        Fact(name="usable cores", value=host.cores_usable),
        Fact(name="logical cores", value=host.cores_logical),
        Fact(name="GPUs", value=tuple(gpu.name for gpu in host.gpus)),
    )


def running_facts(record: Measurement | CellFailure) -> Facts:
    """How a record was asked to be run: what the user chose, not what an engine made of it.

    Where a record does not say what was asked, the options in force stand for it, but for the
    context, which then follows from the workload.
    """
    asked = record.requested
    if asked is None:
        assert isinstance(record, Measurement)
        asked = record.options
        context: int | None = None
    else:
        context = asked.context_tokens
    return (
        Fact(name="limits", value=_limits(record)),
        Fact(name="threads", value=asked.threads or _ENGINES_OWN),
        Fact(name="threads for prefill", value=asked.threads_prefill or _ENGINES_OWN),
        Fact(name="context", value=context or "that of the workload"),
        *_engine_facts(asked),
    )


def _engine_facts(options: SessionOptions) -> Facts:
    return (
        Fact(name="KV cache", value=(options.kv_type_k, options.kv_type_v)),
        Fact(name="flash attention", value=options.flash_attention),
        Fact(name="batch", value=options.batch_tokens),
        Fact(name="micro batch", value=options.micro_batch_tokens),
        Fact(
            name="layers on the GPU",
            value=_ENGINES_OWN if options.gpu_layers is None else options.gpu_layers,
        ),
        Fact(name="memory map", value=options.memory_map),
        Fact(name="full window", value=options.swa_full),
    )


def time_facts(measurement: Measurement) -> Facts:
    """Whether a device was kept busy on purpose: it is hot then, and slower."""
    kept = measurement.sustain_s is not None
    return (Fact(name="kept up", value="until it is hot" if kept else "for repetitions only"),)


def backend_facts(record: Measurement | CellFailure) -> Facts:
    """Which engine was asked to run a format: one for all files of it."""
    asked = record.requested or getattr(record, "options", None) or SessionOptions()
    name = f"engine of {record.artifact.format.upper()}"
    return (Fact(name=name, value=(asked.backend, asked.providers)),)


def text_facts(scores: Scores) -> Facts:
    """On what an artifact was scored."""
    text = scores.text
    return (
        Fact(
            name="text", value=text.tokens_sha256, words=f"{text.name} ({text.tokens_sha256[:8]})"
        ),
        Fact(name="context", value=text.context_tokens),
        Fact(name="scored tokens", value=text.scored_tokens),
    )


def reference_facts(reference: ReferenceRecord) -> Facts:
    """What an artifact was held against."""
    artifact = reference.artifact
    words = f"{artifact.file} ({artifact.fingerprint[:8]})"
    return (Fact(name="reference", value=artifact.fingerprint, words=words),)


def cache_facts(scores: Scores) -> Facts:
    """How the context was kept while an artifact was scored: it costs quality, too."""
    options = scores.requested or scores.options
    return (
        Fact(name="KV cache", value=(options.kv_type_k, options.kv_type_v)),
        Fact(name="full window", value=options.swa_full),
    )


def _limits(record: Measurement | CellFailure) -> Limits:
    if isinstance(record, CellFailure):
        return record.limits or Limits()
    return record.emulated.limits if record.emulated else Limits()


def workloads_of(records: Iterable[SavedRecord]) -> tuple[Workload, ...]:
    """The workloads of all measurements and failed cells, in order of first appearance.

    Raises UsageError where one name stands for two workloads.
    """
    found: dict[str, Workload] = {}
    for record in records:
        if isinstance(record, Measurement | CellFailure):
            workload = found.setdefault(record.workload.name, record.workload)
            if workload != record.workload:
                raise unlike(
                    f"The workload {workload.name!r} is not the same one in all records.",
                    f"{_shown(workload)} and {_shown(record.workload)}.",
                )
    return tuple(found.values())


def _shown(workload: Workload) -> str:
    return (
        f"{workload.protocol}: {workload.prompt_tokens} + {workload.generate_tokens} tokens after"
        f" {workload.depth_tokens}"
    )


def refuse_unlike(levels: Sequence[Level]) -> None:
    """Raises UsageError unless the levels' records may be laid on one table."""
    refuse_unlike_speeds(levels)
    refuse_unlike_scores(levels)


def refuse_unlike_runs(records: Iterable[SavedRecord]) -> None:
    """Raises UsageError unless all was measured on one machine, in one way.

    That holds for records too that others of the same thing have replaced: the last of them counts
    when a comparison went on, not when another device took its place.
    """
    runs = [r for r in records if isinstance(r, Measurement | CellFailure)]
    require_alike_speeds([(record.artifact.level, record) for record in runs])


def refuse_unlike_speeds(levels: Sequence[Level]) -> None:
    """Raises UsageError unless all was measured on one machine, in one way."""
    records: list[tuple[str, Measurement | CellFailure]] = []
    for level in levels:
        records += [(level.label, record) for record in level.speeds]
        records += [(level.label, f) for f in level.failures if isinstance(f, CellFailure)]
    require_alike_speeds(records)
    workloads_of(record for _, record in records)


def require_alike_speeds(records: Sequence[tuple[str, Measurement | CellFailure]]) -> None:
    """Raises UsageError unless named records are of one machine, and were run in one way."""
    measured = [(name, record) for name, record in records if isinstance(record, Measurement)]
    require_alike(
        "measured on different machines", [(name, host_facts(m.host)) for name, m in measured]
    )
    require_alike("run in different ways", [(name, running_facts(r)) for name, r in records])
    require_alike("measured for unlike times", [(name, time_facts(m)) for name, m in measured])
    for format_ in FORMATS:
        require_alike(
            "run by different engines",
            [(name, backend_facts(r)) for name, r in records if r.artifact.format == format_],
        )


def refuse_unlike_scores(levels: Sequence[Level]) -> None:
    """Raises UsageError unless all levels were scored on the same tokens in the same way."""
    scored = [(level.label, level.scores) for level in levels if level.scores is not None]
    require_alike(
        "scored on different texts", [(label, text_facts(scores)) for label, scores in scored]
    )
    for format_ in FORMATS:
        require_alike(
            "scored in different ways",
            [
                (label, cache_facts(scores))
                for label, scores in scored
                if scores.artifact.format == format_
            ],
        )
    require_alike(
        "held against different references",
        [
            (label, reference_facts(scores.reference))
            for label, scores in scored
            if scores.reference is not None
        ],
    )


def require_alike(how: str, found: Sequence[tuple[str, Facts]]) -> None:
    """Raises UsageError for the first fact in which a row differs from the first row."""
    for label, facts in found[1:]:
        for here, there in zip(found[0][1], facts, strict=True):
            if here != there:
                raise unlike(
                    f"These records were {how}: they cannot be compared.",
                    f"{here.name}: {_shown_fact(here)} for {found[0][0]},"
                    f" {_shown_fact(there)} for {label}.",
                )


def _shown_fact(fact: Fact) -> str:
    return fact.words[:100] or _brief(fact.value)


def _brief(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_brief, value)) or "none"
    if isinstance(value, Limits):
        return f"{value.memory_bytes or 'all'} bytes of memory, {value.cores or 'all'} cores"
    return "none" if value is None else str(value)[:60]


def unlike(fact: str, cause: str) -> UsageError:
    """The refusal of records that are not alike."""
    return UsageError(
        fact,
        cause=cause,
        way_out="Compare records of one edge compare, or see each lot by itself: edge report",
    )
