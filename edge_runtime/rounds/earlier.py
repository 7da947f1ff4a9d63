"""Which scores and answers of an earlier run are those of a step that is to be run now.

The same artifact, text and options asked for, held against the same distributions; of measurements
`profiler.sweep` says it. The latest record counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..artifact import Artifact
from ..measurement import SessionOptions
from ..quality.text import Prompts, Text
from ..saved import SavedRecord
from ..scores import Answers, LevelFailure, Scores, TextRecord


class EarlierScores:
    """The records of an earlier run that need not be made again.

    With `failures` a failure counts as well, where nothing better is there.
    """

    def __init__(self, earlier: Sequence[SavedRecord], *, failures: bool) -> None:
        latest_first = tuple(reversed(earlier))
        self._scores = [record for record in latest_first if isinstance(record, Scores)]
        self._answers = [record for record in latest_first if isinstance(record, Answers)]
        self._failures = [
            record for record in latest_first if failures and isinstance(record, LevelFailure)
        ]

    def scores(
        self,
        artifact: Artifact,
        source: Text | Prompts,
        options: SessionOptions,
        *,
        context_tokens: int,
        answer_tokens: int,
        exact: bool,
        reference: Scores | LevelFailure | None,
    ) -> Scores | LevelFailure | None:
        """An artifact's scores; `reference` is the record of the reference's own, None for it."""
        for record in self._scores:
            if (
                record.artifact.fingerprint == artifact.fingerprint
                and _is_of(record.text, source, context_tokens, answer_tokens)
                and record.requested == options
                and _is_held_against(record, reference, exact=exact)
            ):
                return record
        return self._failure(artifact, "score")

    def answers(
        self, artifact: Artifact, prompts: Prompts, options: SessionOptions, most_tokens: int
    ) -> Answers | LevelFailure | None:
        """An artifact's answers to prompts."""
        for record in self._answers:
            if (
                record.artifact.fingerprint == artifact.fingerprint
                and record.prompts_sha256 == prompts.sha256
                and record.most_tokens == most_tokens
                and record.requested == options
            ):
                return record
        return self._failure(artifact, "answer")

    def _failure(self, artifact: Artifact, task: str) -> LevelFailure | None:
        for record in self._failures:
            failed = record.artifact
            if record.task == task and failed and failed.fingerprint == artifact.fingerprint:
                return record
        return None


def _is_of(
    record: TextRecord, source: Text | Prompts, context_tokens: int, answer_tokens: int
) -> bool:
    if record.sha256 != source.sha256:
        return False
    if isinstance(source, Text):
        return record.kind == "text" and record.context_tokens == context_tokens
    return record.kind == "prompts" and record.answer_tokens in (None, answer_tokens)


def _is_held_against(
    record: Scores, reference: Scores | LevelFailure | None, *, exact: bool
) -> bool:
    """Whether scores were held against the distributions that these of the reference belong to."""
    against = record.reference
    if not isinstance(reference, Scores):
        return against is None
    return (
        against is not None
        and against.artifact.fingerprint == reference.artifact.fingerprint
        and against.engine == reference.engine
        and record.text.tokens_sha256 == reference.text.tokens_sha256
        and (against.exact or not exact)
    )
