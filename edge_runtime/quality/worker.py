"""The child process that scores or answers: opens the artifact, does the one, answers, ends.

Run as `python -m edge_runtime.quality.worker` by `evaluate`, never by a person; `profiler.serving`
says how it speaks with its parent. What is held against a reference is first shown to be tokens of
the same text in the same vocabulary.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from .. import backends
from ..artifact import Artifact
from ..backends import GREEDY, Session
from ..errors import ContextFullError, EdgeError, UnsupportedError, UsageError
from ..measurement import SessionOptions
from ..profiler.measure import tool_version
from ..profiler.serving import Channel, serve
from ..profiler.wire import Progress
from ..scores import Answer, TextRecord
from .kept import kept
from .passages import check_alike, cut, prompt_text, prompt_tokens, room_for, with_answer
from .reference import Reference, ReferenceHeader, ReferenceWriter, scored_tokens
from .scoring import score_passages
from .text import (
    Passage,
    Prompt,
    Prompts,
    Text,
    default_context_tokens,
    source_kind,
    tokens_sha256,
)
from .wire import AnswerOutcome, AnswerSpec, ScoreOutcome, ScoreSpec, decode_spec

_CHEAP_CONTEXT_TOKENS = 4096
_TELL_EVERY_S = 0.5


class _Told:
    """Tells the parent how far this is: not more often than anyone reads."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stage = ""
        self._began_s = self._told_s = 0.0

    def begin(self, stage: Literal["loading", "tokenizing"]) -> None:
        self._channel.send(Progress(stage=stage))

    def reached(self, stage: Literal["answering", "scoring"], done: int, of: int) -> None:
        now_s = time.perf_counter()
        if stage != self._stage:
            self._stage, self._began_s = stage, now_s
        elif now_s < self._told_s + _TELL_EVERY_S:
            return
        self._channel.send(
            Progress(stage=stage, runs=done, max_runs=of, elapsed_s=now_s - self._began_s)
        )
        self._told_s = now_s


def score(spec: ScoreSpec, channel: Channel) -> ScoreOutcome:
    """Scores one artifact, against a reference or into one. Raises EdgeError."""
    told = _Told(channel)
    artifact = Artifact.open(Path(spec.artifact))
    with contextlib.ExitStack() as stack:
        reference = None
        if spec.reference is not None:
            reference = stack.enter_context(Reference.open(Path(spec.reference)))
            _check_text(spec, reference)
        told.begin("loading")
        session, room = _opened(spec, artifact, reference)
        told.begin("tokenizing")
        passages = _passages(spec, artifact, session, room, reference, told)
        text = _text_record(spec, passages)
        writer = None
        if spec.make_reference is not None:
            header = _header(spec, session, text)
            target = Path(spec.make_reference)
            writer = stack.enter_context(ReferenceWriter(target, header, passages))
        began_s = time.perf_counter()
        scored = score_passages(
            session, passages, reference=reference, writer=writer,
            on_block=lambda done: told.reached("scoring", done, len(passages)),
        )  # fmt: skip
        duration_s = time.perf_counter() - began_s
        if writer is not None:
            writer.finish()
    return ScoreOutcome(
        engine=session.engine,
        options=session.options,
        text=text,
        nll=scored.nll,
        divergence=scored.divergence,
        reference=reference.record if reference is not None else None,
        duration_s=duration_s,
        notes=_notes(artifact, text),
    )


def answer(spec: AnswerSpec, channel: Channel) -> AnswerOutcome:
    """Answers prompts greedily, one after the other. Raises EdgeError."""
    told = _Told(channel)
    artifact = Artifact.open(Path(spec.artifact))
    prompts = spec.prompts
    told.begin("loading")
    session = _with_room(artifact, spec.options, prompts, spec.most_tokens)
    told.begin("tokenizing")
    asked = [_numbered(session, i, prompt) for i, prompt in enumerate(prompts.prompts, 1)]
    found = []
    for number, (prompt, tokens) in enumerate(zip(prompts.prompts, asked, strict=True)):
        tell = partial(told.reached, "answering", number, len(asked))
        found.append(_answer(session, prompt, tokens, spec.most_tokens, tell)[0])
    return AnswerOutcome(
        engine=session.engine,
        options=session.options,
        tokens_sha256=tokens_sha256(Passage(tokens=t, first=len(t) - 1) for t in asked),
        answers=tuple(found),
        notes=(),
    )


def _open(artifact: Artifact, options: SessionOptions, context_tokens: int) -> Session:
    chosen = backends.backend_for(artifact, options.backend)
    chosen.engine()
    return chosen.open(artifact, replace(options, context_tokens=context_tokens))


def _opened(
    spec: ScoreSpec, artifact: Artifact, reference: Reference | None
) -> tuple[Session, int]:
    """The session, and the tokens of a text's passages: the engine may have rounded them up."""
    if reference is not None:
        room = max(len(passage.tokens) for passage in reference.passages)
    elif isinstance(spec.source, Prompts):
        session = _with_room(artifact, spec.options, spec.source, spec.answer_tokens)
        return session, session.context_tokens
    else:
        asked = spec.context_tokens
        room = default_context_tokens(artifact) if asked is None else asked
    return _open(artifact, spec.options, room), room


def _with_room(
    artifact: Artifact, options: SessionOptions, prompts: Prompts, answer_tokens: int
) -> Session:
    """A session in which every prompt has room with its answer, as far as the model's goes."""
    own = artifact.shape.context_tokens or None
    # A cache for what long prompts might have at most may take GiB: opening twice costs less.
    cheap = min(own or _CHEAP_CONTEXT_TOKENS, _CHEAP_CONTEXT_TOKENS)
    session = _open(artifact, options, room_for(prompts, answer_tokens, cheap))
    needed = 0
    for number, prompt in enumerate(prompts.prompts, 1):
        length = len(_numbered(session, number, prompt))
        needed = max(needed, length + answer_tokens)
        if prompt.answer is not None:
            whole = prompt_text(session, prompt) + prompt.answer
            length = len(prompt_tokens(session, prompt, whole))
            needed = max(needed, length)
        if own is not None and length > own:
            raise ContextFullError(
                f"Prompt {number} takes {length:,} tokens, and {artifact.path.name} was made for"
                f" {own:,}.",
                way_out="Shorten it, or leave it out.",
            )
    needed = min(needed, own or needed)
    if needed <= session.context_tokens:
        return session
    session.close()
    return _open(artifact, options, needed)


def _passages(
    spec: ScoreSpec,
    artifact: Artifact,
    session: Session,
    room: int,
    reference: Reference | None,
    told: _Told,
) -> tuple[Passage, ...]:
    """What is scored, a text in passages of `room` tokens; and that the reference's are these."""
    if reference is None:
        if isinstance(spec.source, Text):
            return cut(session, spec.source, room)
        return tuple(_answered(spec, spec.source, session, told))
    names = artifact.path.name, reference.header.artifact.file
    if session.vocabulary_tokens != reference.header.vocabulary_tokens:
        raise UnsupportedError(
            f"{names[0]} cannot be held against {names[1]}.",
            cause=f"Its vocabulary has {session.vocabulary_tokens:,} tokens, the other's"
            f" {reference.header.vocabulary_tokens:,}: they are not levels of one model.",
            way_out="Compare it with levels of its own model.",
        )
    wanted = reference.passages
    if isinstance(spec.source, Text):
        # Long enough it was for the reference: fewer tokens are other tokens.
        own = cut(session, spec.source, reference.header.text.context_tokens, least=0)
        check_alike(own, wanted, name=names[0], reference=names[1])
    else:
        pairs = zip(spec.source.prompts, wanted, strict=True)
        mine = [_alone(session, i, prompt, said) for i, (prompt, said) in enumerate(pairs, 1)]
        check_alike(mine, wanted, name=names[0], reference=names[1])
    return wanted


def _alone(session: Session, number: int, prompt: Prompt, said: Passage) -> Passage:
    """A prompt's passage by this session's tokenizer, with the answer that the reference gave."""
    if prompt.answer is not None:
        return with_answer(session, prompt, prompt.answer)
    tokens = _numbered(session, number, prompt)
    return Passage(tokens=(*tokens, *said.tokens[said.first + 1 :]), first=len(tokens) - 1)


def _answered(
    spec: ScoreSpec, prompts: Prompts, session: Session, told: _Told
) -> Iterator[Passage]:
    """Each prompt with the answer given to it, else with this session's own."""
    count = len(prompts.prompts)
    for number, prompt in enumerate(prompts.prompts, 1):
        tell = partial(told.reached, "answering", number - 1, count)
        tell()
        if prompt.answer is not None:
            yield with_answer(session, prompt, prompt.answer)
            continue
        tokens = _numbered(session, number, prompt)
        generated = _answer(session, prompt, tokens, spec.answer_tokens, tell)[1]
        yield Passage(tokens=(*tokens, *generated), first=len(tokens) - 1)


def _numbered(session: Session, number: int, prompt: Prompt) -> tuple[int, ...]:
    """A prompt's tokens; what is wrong with it names its number."""
    try:
        tokens = prompt_tokens(session, prompt)
    except EdgeError as error:
        raise type(error)(
            f"Prompt {number}: {error.fact}", cause=error.cause, way_out=error.way_out
        ) from error
    if not tokens:
        raise UsageError(f"Prompt {number} is no token at all in this model's vocabulary.")
    return tokens


def _answer(
    session: Session,
    prompt: Prompt,
    tokens: tuple[int, ...],
    most_tokens: int,
    tell: Callable[[], None],
) -> tuple[Answer, tuple[int, ...]]:
    """One greedy answer; and all its tokens, the one that ends it too. Tells after each of them."""
    tell()
    pieces = []
    for piece in session.stream(tokens, max_tokens=most_tokens, sampling=GREEDY):
        pieces.append(piece)
        tell()
    finish = pieces[-1].finish or ""
    everything = tuple(piece.token for piece in pieces)
    said = Answer(
        prompt=prompt.text,
        text="".join(piece.text for piece in pieces),
        tokens=everything[:-1] if finish == "eos" else everything,
        finish=finish,
    )
    return said, everything


def _check_text(spec: ScoreSpec, reference: Reference) -> None:
    """Raises UsageError unless the reference is of the text, cut as it is to be cut."""
    source, text = spec.source, reference.header.text
    way_out = "Remove its file: the next comparison makes it again."
    if text.kind != source_kind(source) or text.sha256 != source.sha256:
        raise UsageError(
            f"The reference was made on another text than {source.name}.",
            cause=f"It was made on {text.name}.",
            way_out=way_out,
        )
    asked = spec.context_tokens
    if isinstance(source, Text) and asked not in (None, text.context_tokens):
        raise UsageError(
            f"The reference has passages of {text.context_tokens} tokens, {asked} were asked for.",
            way_out=way_out,
        )


def _text_record(spec: ScoreSpec, passages: tuple[Passage, ...]) -> TextRecord:
    source = spec.source
    own_answers = isinstance(source, Prompts) and not source.answered
    return TextRecord(
        kind=source_kind(source),
        name=source.name,
        sha256=source.sha256,
        tokens_sha256=tokens_sha256(passages),
        shipped=isinstance(source, Text) and source.shipped,
        size_bytes=source.size_bytes,
        context_tokens=max(len(passage.tokens) for passage in passages),
        passages=len(passages),
        tokens=sum(len(passage.tokens) for passage in passages),
        scored_tokens=scored_tokens(passages),
        answer_tokens=spec.answer_tokens if own_answers else None,
    )


def _header(spec: ScoreSpec, session: Session, text: TextRecord) -> ReferenceHeader:
    vocabulary = session.vocabulary_tokens
    top, drawn = kept(vocabulary, top=None) if spec.exact else kept(vocabulary)
    return ReferenceHeader(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        tool_version=tool_version(),
        artifact=spec.record,
        engine=session.engine,
        options=session.options,
        requested=spec.options,
        text=text,
        vocabulary_tokens=vocabulary,
        top=top,
        drawn=drawn,
    )


def _notes(artifact: Artifact, text: TextRecord) -> tuple[str, ...]:
    own = artifact.shape.context_tokens
    if not own or text.context_tokens <= own:
        return ()
    words = f"Passages of {text.context_tokens} tokens are longer than the {own} it was made for."
    return (words,)


def _perform(spec: ScoreSpec | AnswerSpec, channel: Channel) -> ScoreOutcome | AnswerOutcome:
    return answer(spec, channel) if isinstance(spec, AnswerSpec) else score(spec, channel)


def main() -> None:
    """Serves one specification."""
    serve(decode_spec, _perform, activity="scoring")


if __name__ == "__main__":
    main()
