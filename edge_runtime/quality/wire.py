"""What is asked of a scoring child process, and what it answers; `profiler.wire` carries it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ..codec import from_jsonable
from ..measurement import ArtifactRecord, Engine, SessionOptions
from ..scores import Answer, Divergence, ReferenceRecord, Samples, TextRecord
from .text import Prompts, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSpec:
    """One text, or prompts, to be scored by one artifact.

    `reference` is the file of the reference it is held against, `make_reference` the file that is
    to become one, which keeps the whole of each distribution where it is `exact`.
    """

    artifact: str
    record: ArtifactRecord
    options: SessionOptions
    source: Text | Prompts
    context_tokens: int | None
    reference: str | None
    make_reference: str | None
    exact: bool
    answer_tokens: int
    parent_pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSpec:
    """Prompts to be answered by one artifact, greedily, each in at most `most_tokens` tokens."""

    artifact: str
    options: SessionOptions
    prompts: Prompts
    most_tokens: int
    parent_pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOutcome:
    """What the child found; together with the artifact it makes `Scores`."""

    engine: Engine
    options: SessionOptions
    text: TextRecord
    nll: Samples
    divergence: Divergence | None
    reference: ReferenceRecord | None
    duration_s: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOutcome:
    """What the child said; together with the artifact it makes `Answers`."""

    engine: Engine
    options: SessionOptions
    tokens_sha256: str
    answers: tuple[Answer, ...]
    notes: tuple[str, ...]


def decode_spec(line: bytes) -> ScoreSpec | AnswerSpec:
    """Reads the parent's line. Raises FormatError when it is no specification."""
    message = json.loads(line)
    if "answerspec" in message:
        return from_jsonable(AnswerSpec, message["answerspec"])
    return from_jsonable(ScoreSpec, message["scorespec"])
