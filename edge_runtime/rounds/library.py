"""A comparison in one call, for a program that embeds this library."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import sources
from ..artifact import Artifact
from ..comparison import Comparison, compare_records
from ..errors import UsageError
from ..measurement import Limits, SessionOptions, Workload
from ..profiler import Plan
from ..profiler.results import append_result, create_results, read_saved_results
from ..quality.evaluate import DEFAULT_ANSWER_TOKENS
from ..quality.text import Prompts, Text, evaluation_text, read_prompts, read_text
from ..saved import SavedRecord
from ..verdict import Target
from .course import Step
from .program import (
    DEFAULT_ROUNDS,
    ROUND_PLAN,
    Program,
    default_workloads,
    entries_of,
    reference_of,
)
from .run import run_program

Named = str | os.PathLike[str]
"""A model's file, a directory with one in it, or `hf:owner/repo[:file]`."""


def compare(
    models: Sequence[Named | Artifact],
    *,
    reference: Named | Artifact | None = None,
    quality: bool = True,
    text: Named | Text | None = None,
    prompts: Named | Prompts | None = None,
    rounds: int = DEFAULT_ROUNDS,
    workloads: Sequence[Workload] | None = None,
    plan: Plan = ROUND_PLAN,
    options: SessionOptions | None = None,
    limits: Limits | None = None,
    stated_power_w: float | None = None,
    context_tokens: int | None = None,
    exact: bool = False,
    answer_tokens: int = DEFAULT_ANSWER_TOKENS,
    target: Target | None = None,
    memory_bytes: int | None = None,
    results: Named | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Comparison:
    """Measures several levels of one model in turns, scores them, and lays them on one table.

    `models` are files as `load` takes them; quantized levels are made by `edge quantize` or
    `edge compare`. The others' distributions are held against those of `reference`, which is added
    where it is not among the models; by default the first of full precision, else the widest.

    Quality is scored on a `text` file or on the answers to `prompts` (a JSONL file; given, they are
    answered by every model too), by default on the small text that ships; not at all with `quality`
    False. `rounds`, `workloads`, `plan` and `limits` say how speed is measured; no rounds measure
    none. `stated_power_w` estimates energy where nothing measures it. `memory_bytes` is what the
    recommended level may need.

    With `results`, a JSONL file, each record is kept as soon as there is one, and what is in it
    already is not run again, so that a comparison that was interrupted goes on. What fails is in
    the table with its reason. Raises UsageError for a request that cannot be met,
    EngineMissingError where no engine is there, ArtifactError for a file that is no model, and
    DiskError where the results cannot be kept.
    """
    if isinstance(models, str | Path):
        raise UsageError("One model is nothing to compare.", way_out="Name several: compare([...])")
    artifacts = [_opened(model) for model in models]
    index = None
    if reference is not None:
        wanted = _opened(reference)
        found = [a.fingerprint for a in artifacts]
        if wanted.fingerprint not in found:
            artifacts, found = [wanted, *artifacts], [wanted.fingerprint, *found]
        index = found.index(wanted.fingerprint)
    if not artifacts:
        raise UsageError("There is nothing to compare.", way_out="Name a model.")
    program = Program(
        entries=entries_of(artifacts),
        reference=reference_of(artifacts) if index is None else index,
        workloads=default_workloads(artifacts) if workloads is None else tuple(workloads),
        rounds=rounds,
        plan=plan,
        options=options or SessionOptions(),
        limits=limits,
        stated_power_w=stated_power_w,
        text=_text(text, shipped=prompts is None) if quality else None,
        prompts=_prompts(prompts),
        context_tokens=context_tokens,
        exact=exact,
        answer_tokens=answer_tokens,
        quality=quality,
    )
    records = _kept(program, Path(results) if results is not None else None, on_step)
    return compare_records(
        records, target=target, memory_bytes=memory_bytes,
        baseline=program.entries[program.reference].label,
    )  # fmt: skip


def _kept(
    program: Program, results: Path | None, on_step: Callable[[Step], None] | None
) -> list[SavedRecord]:
    """The program's records, each kept in the results file before the next step begins."""
    earlier: tuple[SavedRecord, ...] = ()
    if results is not None and results.exists():
        earlier = read_saved_results(results)
    elif results is not None:
        create_results(results)
    records = []
    # Closed in any case: a temporary reference goes when the results cannot be written, too.
    with contextlib.closing(run_program(program, earlier=earlier, on_step=on_step)) as steps:
        for record, is_new in steps:
            if is_new and results is not None:
                append_result(results, record)
            records.append(record)
    return records


def _opened(model: Named | Artifact) -> Artifact:
    return model if isinstance(model, Artifact) else Artifact.open(sources.resolve(model))


def _text(text: Named | Text | None, *, shipped: bool) -> Text | None:
    if text is None:
        return evaluation_text() if shipped else None
    return text if isinstance(text, Text) else read_text(text)


def _prompts(prompts: Named | Prompts | None) -> Prompts | None:
    if prompts is None or isinstance(prompts, Prompts):
        return prompts
    return read_prompts(prompts)
