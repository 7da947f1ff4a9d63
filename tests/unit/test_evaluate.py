"""Scores and answers of one artifact: against numbers worked out by hand, and when things go wrong.

What needs no process of its own is run in the test's own; how the child dies is tried in earnest.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from quality_runs import Heard, answer_here, score_here

from edge_runtime.artifact import Artifact
from edge_runtime.backends import GREEDY, Message, Session, backend
from edge_runtime.backends.fake import END_TOKEN
from edge_runtime.errors import (
    BackendError,
    ContextFullError,
    DiskError,
    UnsupportedError,
    UsageError,
    WorkerError,
)
from edge_runtime.measurement import SessionOptions
from edge_runtime.profiler import Progress
from edge_runtime.quality import evaluate, kept, worker
from edge_runtime.quality.evaluate import answer, reference_scores, score
from edge_runtime.quality.reference import Reference
from edge_runtime.quality.scoring import score_passages
from edge_runtime.quality.text import Passage, Prompt, Prompts, Text
from edge_runtime.scores import Answers, Scores

FAKE = SessionOptions(backend="fake")
TEXT = Text(name="t.txt", content="Of all the things that were said that evening. " * 3)
ASKED = Prompts.of(
    [
        "Once there was",
        Prompt(messages=(), text="Two and two", answer=" are four."),
        [Message(role="user", content="Hello?")],
    ],
    name="p.jsonl",
)


@pytest.fixture(scope="module")
def artifact(random_gguf: Path) -> Artifact:
    return Artifact.open(random_gguf)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how the fake backend fails, in child processes too."""

    def write(**fields: object) -> None:
        monkeypatch.setenv("EDGE_RUNTIME_FAKE", json.dumps(fields))

    return write


def log_probabilities(session: Session, passages: Sequence[Passage]) -> np.ndarray[Any, Any]:
    """Of the whole vocabulary at every scored position, token by token, in float64."""
    rows = []
    for passage in passages:
        session.reset()
        session.prefill(passage.tokens[: passage.first + 1])
        for token in passage.tokens[passage.first + 1 :]:
            logits = np.array(session.logits(), np.float64)
            rows.append(logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max())
            session.step(token)
    return np.array(rows)


@pytest.mark.engine
def test_the_numbers_are_those_of_a_plain_calculation(
    make_random_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    # Two models of one vocabulary, their distributions compared in float64 over all of it.
    theirs = Artifact.open(make_random_gguf("theirs.gguf", seed=1))
    mine = Artifact.open(make_random_gguf("mine.gguf", seed=2))
    # Small batches: the logits of a passage come in several blocks.
    options = SessionOptions(
        threads=2, kv_type_k="f32", kv_type_v="f32", batch_tokens=8, micro_batch_tokens=8
    )
    reference = tmp_path / "reference"
    base = score_here(theirs, TEXT, options, context_tokens=32, make_reference=reference)
    found = score_here(mine, TEXT, options, context_tokens=32, reference=reference)
    with Reference.open(reference) as opened:
        passages = opened.passages
    targets = [token for passage in passages for token in passage.tokens[passage.first + 1 :]]
    at = np.arange(len(targets)), targets
    sides = []
    for side in (theirs, mine):
        session = backend("llama_cpp").open(side, options)
        sides.append(log_probabilities(session, passages))
        session.close()
    log_p, log_q = sides
    assert len(targets) == base.text.scored_tokens == 4 * 15
    assert found.text == base.text
    assert base.nll.values() == pytest.approx(-log_p[at], abs=1e-3)
    assert found.nll.values() == pytest.approx(-log_q[at], abs=1e-3)
    divergence = found.divergence
    assert divergence is not None
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    assert divergence.kl.values() == pytest.approx(kl, rel=1e-3)
    agrees = (log_p.argmax(axis=1) == log_q.argmax(axis=1)).astype(float)
    assert divergence.agrees.values() == pytest.approx(agrees)
    change = np.exp(log_q[at]) - np.exp(log_p[at])
    assert divergence.p_change.values() == pytest.approx(change, abs=1e-4)
    assert divergence.reference_nll.values() == pytest.approx(base.nll.values(), abs=1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_an_artifact_held_against_itself_is_itself(
    artifact: Artifact, tmp_path: Path, exact: bool
) -> None:
    path = tmp_path / "reference"
    base = score_here(artifact, TEXT, FAKE, context_tokens=16, make_reference=path, exact=exact)
    again = score_here(artifact, TEXT, FAKE, reference=path)
    assert base.reference is None
    assert base.divergence is None
    assert again.nll == base.nll
    assert again.text == base.text
    assert again.divergence is not None
    assert again.reference is not None
    assert again.reference.artifact.fingerprint == artifact.fingerprint
    assert max(again.divergence.kl.values()) < 1e-6
    assert set(again.divergence.agrees.values()) == {1.0}
    assert again.divergence.p_change.values() == pytest.approx([0.0] * base.nll.count, abs=1e-7)


def test_the_record_says_on_what_was_scored(artifact: Artifact) -> None:
    heard = Heard()
    found = score_here(artifact, TEXT, FAKE, context_tokens=64, heard=heard)
    count = len(TEXT.content) // 64
    assert (found.text.kind, found.text.name, found.text.shipped) == ("text", "t.txt", False)
    assert (found.text.sha256, found.text.size_bytes) == (TEXT.sha256, TEXT.size_bytes)
    assert (found.text.context_tokens, found.text.passages) == (64, count)
    assert (found.text.tokens, found.text.scored_tokens) == (64 * count, 31 * count)
    assert found.nll.count == 31 * count
    assert found.text.answer_tokens is None
    assert found.duration_s > 0
    assert [event.stage for event in heard.events][:3] == ["loading", "tokenizing", "scoring"]
    assert heard.events[2].max_runs == count


def test_a_long_passage_and_a_long_answer_are_told_of_meanwhile(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_TELL_EVERY_S", 0.0)
    heard = Heard()
    options = SessionOptions(backend="fake", micro_batch_tokens=8)
    score_here(artifact, TEXT, options, context_tokens=64, heard=heard)
    scored = [event.runs for event in heard.events if event.stage == "scoring"]
    assert scored == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    heard = Heard()
    score_here(artifact, Prompts.of(["Once there was"]), FAKE, answer_tokens=5, heard=heard)
    assert [event.stage for event in heard.events].count("answering") > 5


def test_a_text_gets_512_tokens_or_what_the_model_has(
    artifact: Artifact, make_random_gguf: Callable[..., Path]
) -> None:
    long = Text(name="long", content=TEXT.content * 10)
    assert score_here(artifact, long, FAKE).text.context_tokens == 512
    small = Artifact.open(make_random_gguf(context=96))
    assert score_here(small, long, FAKE).text.context_tokens == 96


def test_the_scored_answer_is_the_given_one_or_the_references_own(
    artifact: Artifact, tmp_path: Path
) -> None:
    path = tmp_path / "reference"
    found = score_here(artifact, ASKED, FAKE, make_reference=path, answer_tokens=12)
    said = answer_here(artifact, ASKED, FAKE, most_tokens=12).answers
    with Reference.open(path) as reference:
        passages = reference.passages
    answers = [passage.tokens[passage.first + 1 :] for passage in passages]
    assert answers[1] == tuple(b" are four.")
    for i in (0, 2):
        # That the model ends there is scored too.
        assert answers[i] == (*said[i].tokens, *([END_TOKEN] if said[i].finish == "eos" else []))
    assert {said[0].finish, said[2].finish} == {"eos", "length"}
    assert passages[0].tokens[: passages[0].first + 1] == tuple(b"Once there was")
    assert found.text.kind == "prompts"
    assert found.text.answer_tokens == 12
    assert found.text.scored_tokens == sum(len(p.tokens) - 1 - p.first for p in passages)
    level = score_here(artifact, ASKED, FAKE, reference=path, answer_tokens=12)
    assert level.text == found.text
    given = Prompts.of([ASKED.prompts[1]])
    assert score_here(artifact, given, FAKE).text.answer_tokens is None


def test_answers_are_greedy_and_end_where_the_model_ends_them(artifact: Artifact) -> None:
    found = answer_here(artifact, ASKED, FAKE, most_tokens=200)
    session = backend("fake").open(artifact, SessionOptions(context_tokens=2048))
    for prompt, said in zip(ASKED.prompts, found.answers, strict=True):
        words = session.render_chat(prompt.messages) if prompt.messages else prompt.text
        pieces = list(session.stream(words, max_tokens=200, sampling=GREEDY))
        assert said.text == "".join(piece.text for piece in pieces)
        assert said.finish == pieces[-1].finish
        ended = said.finish == "eos"
        assert said.tokens == tuple(p.token for p in pieces)[: -1 if ended else None]
        assert said.prompt == prompt.text
    assert "eos" in {said.finish for said in found.answers}
    short = answer_here(artifact, ASKED, FAKE, most_tokens=3)
    assert {(len(said.tokens), said.finish) for said in short.answers} == {(3, "length")}
    assert short.tokens_sha256 == found.tokens_sha256
    other = answer_here(artifact, Prompts.of(["Once there is"]), FAKE, most_tokens=3)
    assert other.tokens_sha256 != found.tokens_sha256


def test_a_long_prompt_gets_the_context_it_needs_and_no_more(
    make_random_gguf: Callable[..., Path],
) -> None:
    model = Artifact.open(make_random_gguf(context=100_000))
    long = Prompts.of(["\N{PEACH}" * 1500, Prompt(messages=(), text="é" * 10, answer="x")])
    assert answer_here(model, long, FAKE, most_tokens=5).options.context_tokens == 6005
    found = score_here(model, long, FAKE, answer_tokens=5)
    assert found.options.context_tokens == 6005
    wordy = make_random_gguf("wordy.gguf", context=100_000, template="{{ 'x' * 5000 }}")
    hello = Prompts.of([[Message(role="user", content="Hello?")]])
    found = score_here(Artifact.open(wordy), hello, FAKE, answer_tokens=5)
    assert found.options.context_tokens == 5005
    small = Artifact.open(make_random_gguf("small.gguf", context=4000))
    near = Prompts.of(["x" * 3990])
    assert answer_here(small, near, FAKE, most_tokens=100).options.context_tokens == 4000
    for prompts in (long, Prompts.of([Prompt(messages=(), text="a", answer="x" * 4000)])):
        with pytest.raises(ContextFullError, match=r"Prompt 1 takes \d,00\d tokens"):
            answer_here(small, prompts, FAKE, most_tokens=5)


def test_a_session_that_was_too_short_is_closed_before_a_longer_one_is_opened(
    make_random_gguf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Session] = []
    opened = worker._open

    def remembered(*given: Any) -> Session:
        for earlier in sessions:
            with pytest.raises(BackendError, match="closed"):
                earlier.prefill([1])
        sessions.append(opened(*given))
        return sessions[-1]

    monkeypatch.setattr(worker, "_open", remembered)
    model = Artifact.open(make_random_gguf(context=100_000))
    answer_here(model, Prompts.of(["\N{PEACH}" * 1500]), FAKE, most_tokens=5)
    assert len(sessions) == 2


def test_a_prompt_that_cannot_be_made_is_named(make_random_gguf: Callable[..., Path]) -> None:
    bare = Artifact.open(make_random_gguf(template=None))
    with pytest.raises(UnsupportedError, match="Prompt 3: "):
        answer_here(bare, ASKED, FAKE)
    with pytest.raises(UnsupportedError, match="Prompt 3: "):
        score_here(bare, ASKED, FAKE)


@pytest.mark.engine
def test_another_tokenizer_is_never_compared(
    artifact: Artifact, make_random_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "reference"
    score_here(artifact, TEXT, context_tokens=32, make_reference=path)
    with_bos = Artifact.open(make_random_gguf(bos=True))
    with pytest.raises(UnsupportedError, match="reads the text as other tokens") as caught:
        score_here(with_bos, TEXT, reference=path)
    assert "passage 0, token 0" in caught.value.cause
    asked = Prompts.of(["Once there was"])
    score_here(artifact, asked, make_reference=path, answer_tokens=3)
    with pytest.raises(UnsupportedError, match="reads the text as other tokens"):
        score_here(with_bos, asked, reference=path)


def test_a_tokenizer_of_fewer_tokens_is_another_and_no_text_too_short(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reference"
    score_here(artifact, TEXT, FAKE, context_tokens=64, make_reference=path)
    opened = worker._open

    def shorter(*given: Any) -> Session:
        session = opened(*given)
        tokenize = session.tokenize
        monkeypatch.setattr(session, "tokenize", lambda *a, **o: tokenize(*a, **o)[:70])
        return session

    monkeypatch.setattr(worker, "_open", shorter)
    with pytest.raises(UnsupportedError, match="reads the text as other tokens"):
        score_here(artifact, TEXT, FAKE, reference=path)


def test_another_vocabulary_is_never_compared(
    artifact: Artifact, make_random_gguf: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / "reference"
    score_here(artifact, TEXT, FAKE, context_tokens=32, make_reference=path)
    opened = worker._open

    def larger(*given: Any) -> Session:
        session = opened(*given)
        session.vocabulary_tokens += 1
        return session

    monkeypatch.setattr(worker, "_open", larger)
    with pytest.raises(UnsupportedError, match="cannot be held against") as caught:
        score_here(artifact, TEXT, FAKE, reference=path)
    assert "260 tokens, the other's 259" in caught.value.cause


def test_a_reference_of_another_text_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "reference"
    score_here(artifact, TEXT, FAKE, context_tokens=32, make_reference=path)
    other = Text(name="other", content=TEXT.content + "!")
    for source in (other, ASKED):
        with pytest.raises(UsageError, match="another text"):
            score_here(artifact, source, FAKE, reference=path)
    with pytest.raises(UsageError, match="passages of 32 tokens, 16 were asked for"):
        score_here(artifact, TEXT, FAKE, context_tokens=16, reference=path)


def test_a_text_too_short_says_how_much_is_needed(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="context_tokens is 0"):
        score_here(artifact, TEXT, FAKE, context_tokens=0, make_reference=tmp_path / "r")
    with pytest.raises(UsageError, match=r"it has 141 tokens, 256 are needed"):
        score_here(artifact, TEXT, FAKE, context_tokens=128, make_reference=tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_positions_that_the_engine_leaves_out_are_noticed(artifact: Artifact) -> None:
    class Lazy:
        vocabulary_tokens = 4

        def reset(self) -> None: ...

        def all_logits(self, tokens: Sequence[int], *, first: int = 0) -> Any:
            yield np.zeros((len(tokens) - first - 1, 4), np.float32)

    passage = Passage(tokens=(0, 1, 2, 3), first=0)
    with pytest.raises(BackendError, match="did not give the logits of every position") as caught:
        score_passages(cast(Session, Lazy()), [passage])
    assert "1 are missing from passage 0" in caught.value.cause


def test_a_full_disk_leaves_nothing(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: free)
    with pytest.raises(DiskError, match="no room"):
        score_here(artifact, TEXT, FAKE, context_tokens=32, make_reference=tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_what_is_known_beforehand_starts_no_child(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a child was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    random = cast(Artifact, _Synthetic(artifact))
    for call in (score, answer):
        with pytest.raises(UnsupportedError, match="random weights"):
            call(random, ASKED)
    with pytest.raises(UsageError, match="either made or held against"):
        score(artifact, TEXT, reference=Path("a"), make_reference=Path("b"))
    for tokens in (0, -1, 1 << 20):
        with pytest.raises(UsageError, match="Answers of"):
            score(artifact, ASKED, answer_tokens=tokens)
        with pytest.raises(UsageError, match="Answers of"):
            answer(artifact, ASKED, most_tokens=tokens)


class _Synthetic:
    synthetic = True

    def __init__(self, artifact: Artifact) -> None:
        self.path = artifact.path


class TestChildren:
    """With a real child process."""

    def test_records_come_back_whole(self, artifact: Artifact, tmp_path: Path) -> None:
        events: list[Progress] = []
        path = tmp_path / "reference"
        asked = SessionOptions(backend="fake", threads=3)
        base = score(
            artifact, ASKED, asked, make_reference=path, answer_tokens=8, on_event=events.append
        )
        assert base.requested == asked
        assert base.options.threads == 3
        assert base.engine.name == "fake"
        assert base.artifact.fingerprint == artifact.fingerprint
        assert Scores.from_json(json.loads(json.dumps(base.to_json()))) == base
        stages = [event.stage for event in events]
        assert stages[:3] == ["loading", "tokenizing", "answering"]
        assert stages[-1] == "scoring"
        assert list(tmp_path.iterdir()) == [path]
        said = answer(artifact, ASKED, asked, most_tokens=8)
        assert said.prompts_sha256 == ASKED.sha256
        assert said.most_tokens == 8
        assert len(said.answers) == 3
        assert Answers.from_json(json.loads(json.dumps(said.to_json()))) == said
        # The file alone gives the reference's scores back.
        kept = reference_scores(path, artifact, ASKED, asked, answer_tokens=8)
        assert kept is not None
        assert (kept.nll, kept.text, kept.options) == (base.nll, base.text, base.options)
        assert kept.duration_s is None

    @pytest.mark.skipif(os.name != "posix", reason="signals")
    def test_a_killed_child_costs_the_score_and_leaves_no_file(
        self, artifact: Artifact, tmp_path: Path, script: Callable[..., None]
    ) -> None:
        script(crash="kill", crash_at="prefill")
        with pytest.raises(WorkerError, match="scoring process was ended by SIGKILL") as caught:
            score(artifact, TEXT, FAKE, context_tokens=32, make_reference=tmp_path / "reference")
        assert "memory" in caught.value.cause
        assert "level" in caught.value.way_out
        assert list(tmp_path.iterdir()) == []

    def test_an_error_of_the_engine_arrives_as_it_was(
        self, artifact: Artifact, script: Callable[..., None]
    ) -> None:
        script(crash="error", crash_at="load")
        with pytest.raises(BackendError, match="fake backend failed"):
            answer(artifact, ASKED, FAKE)

    def test_a_child_that_falls_silent_is_ended(
        self, artifact: Artifact, script: Callable[..., None]
    ) -> None:
        script(load_ns=60_000_000_000)
        began = time.perf_counter()
        with pytest.raises(WorkerError, match="said nothing for 1") as caught:
            score(artifact, TEXT, FAKE, context_tokens=32, timeout_s=1.0)
        assert "The scoring of random-bytes.gguf" in caught.value.fact
        assert time.perf_counter() - began < 20

    @pytest.mark.slow
    def test_a_child_that_goes_on_is_not_ended(
        self, artifact: Artifact, script: Callable[..., None]
    ) -> None:
        # Eight passages of a second each, and of each the parent is told.
        script(prefill_ns_per_token=60_000_000)
        found = score(artifact, TEXT, FAKE, context_tokens=16, timeout_s=4.0)
        assert found.duration_s is not None
        assert found.duration_s > 2 * 4.0 - 1

    @pytest.mark.skipif(os.name != "posix", reason="signals")
    def test_an_interrupt_ends_the_child_and_leaves_no_file(
        self, artifact: Artifact, tmp_path: Path, script: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        script(prefill_ns_per_token=20_000_000)
        started: list[subprocess.Popen[bytes]] = []
        popen = subprocess.Popen

        def remember(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
            started.append(popen(*args, **options))
            return started[-1]

        monkeypatch.setattr(subprocess, "Popen", remember)

        def interrupt(event: Progress) -> None:
            if event.stage == "scoring" and event.runs:
                assert any(path.name.endswith(".part") for path in tmp_path.iterdir())
                raise KeyboardInterrupt

        path = tmp_path / "reference"
        with pytest.raises(KeyboardInterrupt):
            score(artifact, TEXT, FAKE, context_tokens=32, make_reference=path, on_event=interrupt)
        assert started[0].returncode == -signal.SIGKILL
        assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def path(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a reference."""
    path = tmp_path_factory.mktemp("reuse") / "reference"
    score_here(artifact, TEXT, FAKE, context_tokens=32, make_reference=path)
    return path


class TestReuse:
    """When the reference in a file is the one that would be made."""

    def found(self, path: Path, artifact: Artifact, **changes: Any) -> Scores | None:
        given: dict[str, Any] = {"source": TEXT, "options": FAKE, "context_tokens": 32, **changes}
        source, options = given.pop("source"), given.pop("options")
        return reference_scores(path, artifact, source, options, **given)

    def test_the_same_is_found(self, path: Path, artifact: Artifact) -> None:
        kept = self.found(path, artifact)
        assert kept is not None
        again = score_here(artifact, TEXT, FAKE, context_tokens=32)
        assert (kept.nll, kept.text) == (again.nll, again.text)
        # A text has no answers: their length says nothing.
        assert self.found(path, artifact, answer_tokens=5) == kept

    @pytest.mark.parametrize(
        "changes",
        [
            {"source": Text(name="t.txt", content=TEXT.content + ".")},
            {"source": ASKED},
            {"context_tokens": 16},
            {"options": SessionOptions(backend="fake", kv_type_k="q8_0")},
        ],
    )
    def test_another_is_not(self, path: Path, artifact: Artifact, changes: dict[str, Any]) -> None:
        assert self.found(path, artifact, **changes) is None

    def test_one_that_keeps_another_share_is_not(
        self, path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kept, "kept", lambda *_, **__: (64, 32))
        assert self.found(path, artifact) is None

    def test_the_length_of_passages_not_asked_for_is_the_default(
        self, tmp_path: Path, make_random_gguf: Callable[..., Path]
    ) -> None:
        small = Artifact.open(make_random_gguf(context=48))
        score_here(small, TEXT, FAKE, make_reference=tmp_path / "reference")
        assert self.found(tmp_path / "reference", small, context_tokens=None) is not None

    def test_another_models_is_not(self, path: Path, make_random_gguf: Callable[..., Path]) -> None:
        assert self.found(path, Artifact.open(make_random_gguf(context=513))) is None

    def test_another_versions_is_not(
        self, path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(evaluate, "tool_version", lambda: "0.0.0")
        assert self.found(path, artifact) is None

    def test_a_damaged_file_and_none_are_not(
        self, path: Path, artifact: Artifact, tmp_path: Path
    ) -> None:
        damaged = tmp_path / "damaged"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        damaged.write_bytes(data)
        assert self.found(damaged, artifact) is None
        assert self.found(tmp_path / "none", artifact) is None
