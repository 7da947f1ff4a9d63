"""Scoring and answering in the test's own process: what the child does, without the child."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from edge_runtime.artifact import Artifact
from edge_runtime.measurement import SessionOptions
from edge_runtime.profiler import Progress, artifact_record
from edge_runtime.profiler.serving import Channel
from edge_runtime.quality import worker
from edge_runtime.quality.text import Prompts, Text
from edge_runtime.quality.wire import AnswerOutcome, AnswerSpec, ScoreOutcome, ScoreSpec


class Heard:
    """A parent that only listens."""

    def __init__(self) -> None:
        self.events: list[Progress] = []

    def send(self, message: Progress) -> None:
        self.events.append(message)


def score_here(
    artifact: Artifact,
    source: Text | Prompts,
    options: SessionOptions | None = None,
    *,
    context_tokens: int | None = None,
    reference: Path | None = None,
    make_reference: Path | None = None,
    exact: bool = False,
    answer_tokens: int = 16,
    heard: Heard | None = None,
) -> ScoreOutcome:
    """What the scoring child finds."""
    spec = ScoreSpec(
        artifact=str(artifact.path),
        record=artifact_record(artifact),
        options=options or SessionOptions(threads=2),
        source=source,
        context_tokens=context_tokens,
        reference=None if reference is None else str(reference),
        make_reference=None if make_reference is None else str(make_reference),
        exact=exact,
        answer_tokens=answer_tokens,
        parent_pid=os.getpid(),
    )
    return worker.score(spec, cast(Channel, heard or Heard()))


def answer_here(
    artifact: Artifact,
    prompts: Prompts,
    options: SessionOptions | None = None,
    *,
    most_tokens: int = 16,
) -> AnswerOutcome:
    """What the answering child says."""
    spec = AnswerSpec(
        artifact=str(artifact.path),
        options=options or SessionOptions(threads=2),
        prompts=prompts,
        most_tokens=most_tokens,
        parent_pid=os.getpid(),
    )
    return worker.answer(spec, cast(Channel, Heard()))
