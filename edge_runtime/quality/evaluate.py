"""Scores and answers of one artifact, each from a fresh child process, and their records.

A crash of the engine costs the child and not the caller; a reference file is whole or not there.
Whether a reference may be used again is told here too: here is decided what it rests on.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

from ..artifact import Artifact
from ..errors import ArtifactError, DiskError, UnsupportedError, UsageError
from ..measurement import SessionOptions
from ..profiler.child import Advice, Child
from ..profiler.measure import artifact_record, tool_version
from ..profiler.wire import Listener
from ..scores import Answers, Samples, Scores
from .text import Prompts, Text, default_context_tokens, source_kind
from .unfinished import remove_stale
from .wire import AnswerOutcome, AnswerSpec, ScoreOutcome, ScoreSpec

DEFAULT_ANSWER_TOKENS = 128
MOST_ANSWER_TOKENS = 100_000
SILENCE_S = 1800.0
"""No honest child says nothing for so long: it tells of every block of logits and every token."""

_MODULE = "edge_runtime.quality.worker"
_REINSTALL = "The engine was built for another processor: reinstall llama-cpp-python from source."
_SCORING = Advice(
    activity="scoring",
    act="scoring",
    slow="Give a shorter text, or a shorter context.",
    memory="Choose a smaller level or a shorter context, or free memory.",
    reinstall=_REINSTALL,
)
_ANSWERING = Advice(
    activity="answering",
    act="answering",
    slow="Give fewer or shorter prompts.",
    memory="Choose a smaller level or shorter prompts, or free memory.",
    reinstall=_REINSTALL,
)


def score(
    artifact: Artifact,
    source: Text | Prompts,
    options: SessionOptions | None = None,
    *,
    context_tokens: int | None = None,
    reference: Path | None = None,
    make_reference: Path | None = None,
    exact: bool = False,
    answer_tokens: int = DEFAULT_ANSWER_TOKENS,
    timeout_s: float = SILENCE_S,
    on_event: Listener | None = None,
) -> Scores:
    """Scores one artifact on a text, or on prompts with their answers, in a fresh child process.

    The protocol is llama-perplexity's: see `passages`. `context_tokens` is the length of a text's
    passages, by default 512 or what the model has if that is less; prompts get the room the longest
    needs. With `reference`, the file of another artifact's distributions on the same text, the
    divergence from it is found too; `make_reference` leaves such a file, `exact` one that keeps
    all of each distribution. Prompts without an answer get the reference's own, `answer_tokens`
    long at most. A child that says nothing for `timeout_s` is ended.

    Raises UnsupportedError for random weights, for a model without a tokenizer, and for one that
    reads the text as other tokens than the reference; UsageError for a text that is too short and
    a reference of another text; WorkerError when the child dies; DiskError where the reference has
    no room; and whatever the backend raised.
    """
    _refuse_random(artifact)
    if reference is not None and make_reference is not None:
        raise UsageError("A reference is either made or held against, not both.")
    asked = options or SessionOptions()
    record = artifact_record(artifact)
    spec = ScoreSpec(
        artifact=str(artifact.path.absolute()),
        record=record,
        options=asked,
        source=source,
        context_tokens=context_tokens,
        reference=None if reference is None else str(reference.absolute()),
        make_reference=None if make_reference is None else str(make_reference.absolute()),
        exact=exact,
        answer_tokens=_checked(answer_tokens),
        parent_pid=os.getpid(),
    )
    child = Child(
        spec, artifact.path.name, _SCORING, timeout_s=timeout_s, on_event=on_event,
        module=_MODULE, renewed=True,
    )  # fmt: skip
    try:
        outcome = child.answer(ScoreOutcome)
    except BaseException:
        # Also after Ctrl-C: what a child was writing when it was killed is left by nobody else.
        if make_reference is not None:
            remove_stale(make_reference.parent)
        raise
    return Scores(
        created=_now(),
        tool_version=tool_version(),
        artifact=record,
        engine=outcome.engine,
        options=outcome.options,
        requested=asked,
        text=outcome.text,
        nll=outcome.nll,
        duration_s=outcome.duration_s,
        reference=outcome.reference,
        divergence=outcome.divergence,
        notes=outcome.notes,
    )


def answer(
    artifact: Artifact,
    prompts: Prompts,
    options: SessionOptions | None = None,
    *,
    most_tokens: int = DEFAULT_ANSWER_TOKENS,
    timeout_s: float = SILENCE_S,
    on_event: Listener | None = None,
) -> Answers:
    """Answers prompts greedily, in a fresh child process, each in at most `most_tokens` tokens.

    Conversations are answered by the model's chat template. Raises UnsupportedError for random
    weights and for conversations where there is no template, ContextFullError for a prompt that
    does not fit, WorkerError when the child dies, and whatever the backend raised.
    """
    _refuse_random(artifact)
    asked = options or SessionOptions()
    spec = AnswerSpec(
        artifact=str(artifact.path.absolute()),
        options=asked,
        prompts=prompts,
        most_tokens=_checked(most_tokens),
        parent_pid=os.getpid(),
    )
    child = Child(
        spec, artifact.path.name, _ANSWERING, timeout_s=timeout_s, on_event=on_event,
        module=_MODULE, renewed=True,
    )  # fmt: skip
    outcome = child.answer(AnswerOutcome)
    return Answers(
        created=_now(),
        tool_version=tool_version(),
        artifact=artifact_record(artifact),
        engine=outcome.engine,
        options=outcome.options,
        requested=asked,
        prompts_sha256=prompts.sha256,
        tokens_sha256=outcome.tokens_sha256,
        most_tokens=most_tokens,
        answers=outcome.answers,
        notes=outcome.notes,
    )


def reference_scores(
    path: Path,
    artifact: Artifact,
    source: Text | Prompts,
    options: SessionOptions | None = None,
    *,
    context_tokens: int | None = None,
    exact: bool = False,
    answer_tokens: int = DEFAULT_ANSWER_TOKENS,
) -> Scores | None:
    """The scores of the reference in a file, if it is what `score` would make; else None.

    It is when artifact, text, options asked for, passages and version are the same, and the file is
    whole. What is damaged counts as not there: making it again is the way out.
    """
    from .kept import kept
    from .reference import Reference

    asked = default_context_tokens(artifact) if context_tokens is None else context_tokens
    try:
        with Reference.open(path) as reference:
            header = reference.header
            text, vocabulary = header.text, header.vocabulary_tokens
            wanted = kept(vocabulary, top=None) if exact else kept(vocabulary)
            own_answers = isinstance(source, Prompts) and not source.answered
            if (
                header.tool_version != tool_version()
                or header.artifact != artifact_record(artifact)
                or header.requested != (options or SessionOptions())
                or (text.kind, text.sha256) != (source_kind(source), source.sha256)
                or (isinstance(source, Text) and text.context_tokens != asked)
                or (text.answer_tokens != (answer_tokens if own_answers else None))
                or (header.top, header.drawn) != wanted
            ):
                return None
            nll = Samples.of(reference.nll().tolist())
    except (ArtifactError, DiskError):
        return None
    return Scores(
        created=header.created,
        tool_version=header.tool_version,
        artifact=header.artifact,
        engine=header.engine,
        options=header.options,
        requested=header.requested,
        text=text,
        nll=nll,
        duration_s=None,
        notes=("Found in the file of its distributions, not scored again.",),
    )


def _refuse_random(artifact: Artifact) -> None:
    if artifact.synthetic:
        raise UnsupportedError(
            f"{artifact.path.name} has random weights: what it says means nothing.",
            cause="It was made up from a shape, to measure its speed and memory.",
            way_out="Score a real model.",
        )


def _checked(tokens: int) -> int:
    if not 1 <= tokens <= MOST_ANSWER_TOKENS:
        raise UsageError(
            f"Answers of {tokens} tokens cannot be asked for.",
            way_out=f"Ask for 1 to {MOST_ANSWER_TOKENS:,}.",
        )
    return tokens


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
