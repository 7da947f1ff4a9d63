"""The two ways a workload is run, and the timed regions themselves.

`BenchRunner` is llama-bench's protocol: random tokens, no sampling, the context emptied between
repetitions (tools/llama-bench in llama.cpp). `ChatRunner` goes through the session's own streaming
with the real tokenizer and sampler. Inside a timed region there is nothing but the engine's work
and the clock: tokens and the list of stamps exist before it begins.

All stamps are of `time.perf_counter_ns`, which is CLOCK_MONOTONIC on Linux.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import Protocol

from ..backends import Sampling, Session
from ..errors import BackendError
from ..measurement import Run, Workload
from .memory import Phase
from .prompt import prompt_tokens

Boundary = Callable[[Phase], None]
"""Called where one phase of a run ends and the next begins; about ten microseconds, or nothing."""

_WARM_UP_STEPS = 4
"""Decode steps of a chat warm-up: enough to build every graph and touch every buffer."""


_NO_WORDS = (
    "the artifact has no tokenizer: random token ids stand for the prompt's words, and sampled ids"
    " are not turned into text"
)


class Runner(Protocol):
    """Prepares and repeats one workload on one session."""

    notes: tuple[str, ...]
    deadline_ns: int | None
    """Past this, on the clock of the stamps, a bench repetition takes no further decode step."""

    def warm_up(self) -> None:
        """Runs once, untimed, what first use makes slow."""

    def prepare(self) -> None:
        """Brings the session to where a repetition starts, untimed."""

    def run(self) -> Run:
        """One timed repetition."""


class BenchRunner:
    """llama-bench's `ppN`, `tgN`, both in one, each `@ dD`.

    A deadline, where one is set, ends a repetition between two decode steps.

    The depth is evaluated once and kept: each repetition goes back to it with
    `reset(keep_tokens=depth)`, or evaluates it again where the engine's memory cannot go back.
    """

    def __init__(self, session: Session, workload: Workload, seed: int, boundary: Boundary) -> None:
        self.notes: tuple[str, ...] = ()
        self.deadline_ns: int | None = None
        self._session = session
        self._workload = workload
        self._boundary = boundary
        self._random = random.Random(seed)
        self._at_depth = False

    def warm_up(self) -> None:
        """The whole prompt, and one decode step, from an empty context: as llama-bench does."""
        self._session.reset()
        self._at_depth = False
        if self._workload.prompt_tokens:
            self._session.prefill(self._tokens(self._workload.prompt_tokens))
        if self._workload.generate_tokens:
            self._session.step(self._tokens(1)[0])

    def prepare(self) -> None:
        """Empties the context down to the depth."""
        depth = self._workload.depth_tokens
        if not depth:
            self._session.reset()
            return
        if self._at_depth:
            try:
                self._session.reset(keep_tokens=depth)
            except BackendError:
                # Recurrent and windowed memories cannot forget a tail alone.
                self._at_depth = False
        if not self._at_depth:
            self._boundary("prefill")
            self._session.reset()
            self._session.prefill(self._tokens(depth))
            self._at_depth = True

    def run(self) -> Run:
        """The prompt, if any, then the single steps, if any."""
        prompt = self._tokens(self._workload.prompt_tokens)
        generate = self._tokens(self._workload.generate_tokens)
        stamps = [0] * len(generate)
        clock, step = time.perf_counter_ns, self._session.step
        prefilled = None
        self._boundary("prefill" if prompt else "decode")
        started = clock()
        if prompt:
            self._session.prefill(prompt)
            prefilled = clock()
            if generate:
                self._boundary("decode")
        deadline = self.deadline_ns or sys.maxsize
        for i, token in enumerate(generate):
            step(token)
            stamps[i] = now = clock()
            if now > deadline:
                self._cut(stamps, i + 1)
                break
        return Run(
            started_ns=started, prefilled_ns=prefilled, prefill_tokens=len(prompt),
            token_ns=tuple(stamps),
        )  # fmt: skip

    def _cut(self, stamps: list[int], done: int) -> None:
        if done < len(stamps):
            self.notes = (
                f"the time budget ended a repetition after {done} of {len(stamps)} steps",
            )
            del stamps[done:]

    def _tokens(self, count: int) -> list[int]:
        size = self._session.vocabulary_tokens
        return [self._random.randrange(size) for _ in range(count)]


class ChatRunner:
    """A prompt of words in, sampled text out, both of exactly the stated lengths.

    Each repetition starts from an empty context, so that no shared prefix is reused; end-of-text is
    never sampled. The seed is fixed: every repetition generates the same tokens. The text is
    tokenized before the clock starts.
    """

    def __init__(self, session: Session, workload: Workload, seed: int, boundary: Boundary) -> None:
        self.notes: tuple[str, ...] = ()
        self.deadline_ns: int | None = None
        self._session = session
        self._workload = workload
        self._boundary = boundary
        self._sampling = Sampling(seed=seed, ignore_eos=True)
        self._has_words = session.artifact.tokenizer_model not in ("", "no_vocab", "none", None)
        if self._has_words:
            self._prompt = prompt_tokens(session.tokenize, workload.prompt_tokens)
        else:
            source = random.Random(seed)
            size = session.vocabulary_tokens
            self._prompt = [source.randrange(size) for _ in range(workload.prompt_tokens)]
            self.notes = (_NO_WORDS,)

    def warm_up(self) -> None:
        """The whole prompt and a few sampled tokens."""
        self._session.reset()
        stamps = [0] * min(_WARM_UP_STEPS, self._workload.generate_tokens)
        self._generate(stamps, lambda _phase: None)

    def prepare(self) -> None:
        """Empties the context."""
        self._session.reset()

    def run(self) -> Run:
        """The prompt, then one stamp for each sampled token; the first comes out of the prefill."""
        stamps = [0] * self._workload.generate_tokens
        self._boundary("prefill")
        started = time.perf_counter_ns()
        self._generate(stamps, self._boundary)
        return Run(
            started_ns=started, prefilled_ns=stamps[0], prefill_tokens=len(self._prompt),
            token_ns=tuple(stamps),
        )  # fmt: skip

    def _generate(self, stamps: list[int], boundary: Boundary) -> None:
        if self._has_words:
            self._stream(stamps, boundary)
        else:
            self._sample(stamps, boundary)

    def _stream(self, stamps: list[int], boundary: Boundary) -> None:
        clock = time.perf_counter_ns
        pieces = self._session.stream(self._prompt, max_tokens=len(stamps), sampling=self._sampling)
        done = 0
        finish = None
        for piece in pieces:
            if done == 0:
                # Before the stamp: ten microseconds belong to the prompt rather than to a token.
                boundary("decode")
            if done < len(stamps):
                stamps[done] = clock()
            done += 1
            finish = piece.finish
        if done != len(stamps):
            raise BackendError(
                f"Generation ended after {done} of {len(stamps)} tokens.",
                cause=f"The engine gave the reason {finish!r}.",
                way_out="Give a larger context, or measure another workload.",
            )

    def _sample(self, stamps: list[int], boundary: Boundary) -> None:
        clock, step = time.perf_counter_ns, self._session.step
        sampler = self._session.sampler(self._sampling)
        try:
            self._session.prefill(self._prompt)
            token = sampler.sample()
            boundary("decode")
            stamps[0] = clock()
            for i in range(1, len(stamps)):
                step(token)
                token = sampler.sample()
                stamps[i] = clock()
        finally:
            sampler.close()


def runner(session: Session, workload: Workload, seed: int, boundary: Boundary) -> Runner:
    """The runner of a workload's protocol."""
    kind = BenchRunner if workload.protocol == "bench" else ChatRunner
    return kind(session, workload, seed, boundary)
