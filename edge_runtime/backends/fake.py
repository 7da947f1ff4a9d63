"""A backend without an engine: deterministic, scripted in time, and able to fail on request.

It passes the same contract tests as a real one, so nearly everything above the seam can be tested
with it. Its "model" is a hash of the tokens so far that spells lower-case letters; it reads no
weights. Time passes through a scripted clock, or through real sleeping when a child process is
driven by the environment variable `EDGE_RUNTIME_FAKE`, a JSON object of `FakeScript`'s fields.
It knows nothing of any engine and refuses grammars.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from ..artifact import Artifact
from ..errors import BackendError, MemoryLimitError, UnsupportedError, UsageError
from ..measurement import Engine, Gpu, SessionOptions
from ..memory import Buffer
from . import Message, Piece, Sampling, chat_template, generation, slices

SCRIPT_VARIABLE = "EDGE_RUNTIME_FAKE"
END_TOKEN = 256
"""Tokens 0 to 255 are bytes, this one ends a text; a larger vocabulary's other tokens are mute."""

_LETTERS = tuple(b"etaoin shrdlu")
_E_ACUTE = (0xC3, 0xA9)
_DEFAULT_CONTEXT_TOKENS = 512
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeScript:
    """How long things take and what goes wrong.

    `step_ns` is one duration or a schedule that repeats. After `crash_after` decode steps since
    opening, `crash` happens: `exit` and `kill` end the process as a defect or the kernel would,
    `error` raises BackendError, `memory` raises MemoryLimitError. With `crash_at` "load" or
    "prefill" it happens there instead.
    """

    load_ns: int = 0
    prefill_ns_per_token: int = 0
    step_ns: int | tuple[int, ...] = 0
    crash_after: int | None = None
    crash_at: Literal["load", "prefill", "step"] = "step"
    crash: Literal["exit", "kill", "error", "memory"] = "error"

    @classmethod
    def from_environment(cls) -> FakeScript:
        """The script in `EDGE_RUNTIME_FAKE`, or the default one. Raises UsageError."""
        text = os.environ.get(SCRIPT_VARIABLE)
        if not text:
            return cls()
        try:
            fields = json.loads(text)
            if isinstance(fields.get("step_ns"), list):
                fields["step_ns"] = tuple(fields["step_ns"])
            return cls(**fields)
        except (ValueError, TypeError, AttributeError) as error:
            known = ", ".join(field.name for field in dataclasses.fields(cls))
            raise UsageError(
                f"{SCRIPT_VARIABLE} holds no script.", cause=f"{error}.", way_out=f"Known: {known}."
            ) from error

    def crashes_before_step(self, step: int) -> bool:
        """Whether the decode step with this number, counted from 0, is the one that fails."""
        limit = self.crash_after
        return self.crash_at == "step" and limit is not None and step >= limit

    def step_duration_ns(self, step: int) -> int:
        """The duration of the decode step with this number, counted from 0."""
        if isinstance(self.step_ns, tuple):
            return self.step_ns[step % len(self.step_ns)] if self.step_ns else 0
        return self.step_ns


class FakeClock:
    """A clock that only moves when the fake backend computes."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        """The present time in nanoseconds, as `time.perf_counter_ns` gives it."""
        return self.now_ns

    def advance(self, duration_ns: int) -> None:
        """Lets time pass."""
        self.now_ns += duration_ns


def _sleep(duration_ns: int) -> None:
    if duration_ns > 0:
        time.sleep(duration_ns / 1e9)


class FakeBackend:
    """Opens any artifact and computes nothing.

    `clock` makes the script's durations pass on it; without one they are slept. `script` None
    reads the environment at every opening.
    """

    name = "fake"
    formats = ("gguf", "onnx")

    def __init__(self, script: FakeScript | None = None, clock: FakeClock | None = None) -> None:
        self._script = script
        self._pass_time = clock.advance if clock is not None else _sleep

    def open(self, artifact: Artifact, options: SessionOptions) -> FakeSession:
        """A session over this artifact's vocabulary size and shape."""
        script = self._script if self._script is not None else FakeScript.from_environment()
        self._pass_time(script.load_ns)
        if script.crash_at == "load":
            _crash(script)
        return FakeSession(artifact, options, script, self._pass_time)

    def engine(self) -> Engine:
        """The fake's own name."""
        return Engine(name="fake", version="1", build="no engine")

    def gpus(self) -> tuple[Gpu, ...]:
        """None."""
        return ()


def _crash(script: FakeScript) -> None:
    if script.crash == "kill":
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    elif script.crash == "exit":
        os._exit(1)
    elif script.crash == "memory":
        raise MemoryLimitError("The fake backend ran out of memory.", cause="Its script says so.")
    raise BackendError("The fake backend failed.", cause="Its script says so.")


def _mix(state: int, value: int) -> int:
    """One step of a 64-bit multiplicative hash."""
    state = ((state ^ (value + 1)) * 0x9E3779B97F4A7C15) & _MASK
    return state ^ (state >> 29)


class FakeSampler:
    """Chooses among the few tokens the fake model gives a score."""

    def __init__(self, session: FakeSession, sampling: Sampling) -> None:
        generation.check_sampling(sampling)
        if sampling.grammar is not None or sampling.json_schema is not None:
            raise UnsupportedError("The fake backend knows no grammars.")
        self._session = session
        self._sampling = sampling
        self._random = random.Random(sampling.seed)

    def sample(self) -> int:
        """Chooses the next token and accepts it."""
        scores = self._session.scores()
        if self._sampling.ignore_eos:
            scores.pop(END_TOKEN, None)
        if self._sampling.temperature == 0.0:
            return max(scores, key=lambda token: (scores[token], -token))
        ranked = sorted(scores, key=lambda token: (-scores[token], token))
        ranked = ranked[: self._sampling.top_k or None]
        weights = [math.exp(scores[token] / self._sampling.temperature) for token in ranked]
        return self._random.choices(ranked, weights)[0]

    def close(self) -> None:
        """Does nothing: there is nothing to free."""


class FakeSession:
    """A context of tokens and their hashes; see `backends.Session` for the contract."""

    def __init__(
        self,
        artifact: Artifact,
        options: SessionOptions,
        script: FakeScript,
        pass_time: Callable[[int], None],
    ) -> None:
        if options.context_tokens is not None and options.context_tokens < 1:
            raise UsageError(f"context_tokens is {options.context_tokens}.")
        self.artifact = artifact
        self.options = dataclasses.replace(
            options,
            context_tokens=options.context_tokens or _DEFAULT_CONTEXT_TOKENS,
            threads=options.threads or 1,
            threads_prefill=options.threads_prefill or options.threads or 1,
            gpu_layers=0,
        )
        self.engine = BACKEND.engine()
        self.context_tokens = self.options.context_tokens or _DEFAULT_CONTEXT_TOKENS
        self.vocabulary_tokens = max(artifact.vocabulary_tokens, END_TOKEN + 1)
        self.buffers = (
            Buffer(device="CPU", purpose="model", size_bytes=artifact.size_bytes),
            Buffer(device="CPU", purpose="kv", size_bytes=1024 * self.context_tokens),
            Buffer(device="CPU", purpose="compute", size_bytes=1 << 20),
        )
        self.generation = 0
        self.steps = 0
        """How many decode steps were done since opening."""
        self.prefilled_tokens = 0
        """How many tokens were prefilled since opening: what a reused prefix saves shows here."""
        self._script = script
        self._pass_time = pass_time
        self._held: list[int] = []
        self._states: list[int] = [0]
        self._has_logits = False
        self._closed = False

    @property
    def position(self) -> int:
        """How many tokens the context holds."""
        return len(self._held)

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """The UTF-8 bytes of a text; there are no special tokens to add."""
        self._need_open()
        if self.artifact.tokenizer_model == "no_vocab":
            raise UnsupportedError(
                "This model has no vocabulary: text cannot become tokens, nor tokens text.",
                way_out="Give token ids, or open a model with a tokenizer.",
            )
        return list(text.encode("utf-8", "replace"))

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, special tokens left out."""
        self._need_open()
        if self.artifact.tokenizer_model == "no_vocab":
            raise UnsupportedError("This model has no vocabulary: tokens cannot become text.")
        checked = generation.check_tokens(tokens, self.vocabulary_tokens)
        return b"".join(map(self.piece, checked)).decode("utf-8", "replace")

    def render_chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> str:
        """The prompt text of a conversation by the artifact's own chat template."""
        self._need_open()
        return chat_template.render(
            self.artifact.chat_template,
            messages,
            bos_token="",
            eos_token="",
            add_generation_prompt=add_generation_prompt,
        )

    def prefill(self, tokens: Sequence[int]) -> None:
        """Takes tokens after the present position; the script says how long that lasts."""
        self._need_open()
        checked = generation.check_tokens(tokens, self.vocabulary_tokens)
        generation.check_room(self, len(checked), len(self._held))
        if self._script.crash_at == "prefill":
            _crash(self._script)
        self._pass_time(self._script.prefill_ns_per_token * len(checked))
        self.prefilled_tokens += len(checked)
        self._take(checked)

    def step(self, token: int) -> None:
        """Takes exactly one token: one decode step."""
        self._need_open()
        generation.check_tokens((token,), self.vocabulary_tokens)
        generation.check_room(self, 1, len(self._held))
        script = self._script
        if script.crashes_before_step(self.steps):
            _crash(script)
        self._pass_time(script.step_duration_ns(self.steps))
        self.steps += 1
        self._take([token])

    def reset(self, *, keep_tokens: int = 0) -> None:
        """Forgets the context from position `keep_tokens` on."""
        self._need_open()
        if keep_tokens < 0 or keep_tokens > len(self._held):
            raise UsageError(
                f"{keep_tokens} tokens cannot be kept.", cause=f"{len(self._held)} are there."
            )
        if keep_tokens == len(self._held) and keep_tokens:
            return
        del self._held[keep_tokens:]
        del self._states[keep_tokens + 1 :]
        self._has_logits = False

    def scores(self) -> dict[int, float]:
        """The logits of the tokens the fake model would say next; all others are far below."""
        self._need_open()
        if not self._has_logits:
            raise BackendError("There are no logits yet.")
        state = self._states[-1]
        if self._held[-1] == _E_ACUTE[0]:
            return {_E_ACUTE[1]: 8.0}
        scores = {token: (_mix(state, token) >> 40) / 2**22 for token in _LETTERS}
        scores[_E_ACUTE[0]] = (_mix(state, 300) >> 40) / 2**22 - 0.5
        scores[END_TOKEN] = 9.0 if _mix(state, 400) % 61 == 0 else -4.0
        return scores

    def logits(self) -> Sequence[float]:
        """The logits after the last token, as long as the vocabulary."""
        values = [-20.0] * self.vocabulary_tokens
        for token, score in self.scores().items():
            values[token] = score
        return values

    def all_logits(self, tokens: Sequence[int], *, first: int = 0) -> Iterator[memoryview[float]]:
        """Takes tokens after the present position, giving the logits after each from `first`."""
        self._need_open()
        checked = generation.check_tokens(tokens, self.vocabulary_tokens)
        slices.check_first(first, len(checked))
        generation.check_room(self, len(checked), len(self._held))
        return self._blocks(checked, first)

    def _blocks(self, tokens: list[int], first: int) -> Iterator[memoryview[float]]:
        batch = self.options.micro_batch_tokens
        rows = slices.most_rows(self.vocabulary_tokens, batch)
        start = 0
        while start < len(tokens):
            left, ahead = len(tokens) - start, max(0, first - start)
            count = slices.length(left, ahead, batch_tokens=batch, rows=rows)
            block = array("f")
            for index, token in enumerate(tokens[start : start + count]):
                self.prefill([token])
                if index >= ahead:
                    block.extend(self.logits())
            self._has_logits = False
            start += count
            if block:
                held = len(self._held)
                shape = (count - ahead, self.vocabulary_tokens)
                yield memoryview(block).cast("B").cast("f", shape)
                self._need_open()
                slices.check_unmoved(len(self._held), held)

    def sampler(self, sampling: Sampling) -> FakeSampler:
        """A sampler over this session's logits."""
        self._need_open()
        return FakeSampler(self, sampling)

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - a frozen value
        stop: Sequence[str] = (),
        cancel: threading.Event | None = None,
    ) -> Iterator[Piece]:
        """Generates after a prompt, from an empty context (a shared prefix is reused)."""
        self._need_open()
        return generation.stream(
            self, prompt, max_tokens=max_tokens, sampling=sampling, stop=stop, cancel=cancel
        )

    def begin(self, tokens: Sequence[int], cancel: threading.Event | None) -> bool:
        """Leaves exactly `tokens` in the context, reusing a shared prefix; False when cancelled."""
        shared = 0
        for held, token in zip(self._held, tokens[:-1], strict=False):
            if held != token:
                break
            shared += 1
        self.reset(keep_tokens=shared)
        if cancel is not None and cancel.is_set():
            return False
        self.prefill(tokens[shared:])
        return cancel is None or not cancel.is_set()

    def piece(self, token: int) -> bytes:
        """The byte a token stands for; empty for the others."""
        return bytes((token,)) if token < END_TOKEN else b""

    def ends(self, token: int) -> bool:
        """Whether this is the end token."""
        return token == END_TOKEN

    def embed(self, text: str) -> Sequence[float]:
        """Eight numbers of unit length that depend on the text."""
        if not self.options.embeddings:
            raise UsageError(
                "This session was not opened for embeddings.",
                way_out="Open it with SessionOptions(embeddings=True).",
            )
        tokens = self.tokenize(text)
        if not tokens:
            raise UsageError("An empty text has no embedding.")
        state = 0
        for token in tokens:
            state = _mix(state, token)
        values = [(_mix(state, index) >> 40) / 2**24 - 0.5 for index in range(8)]
        norm = math.sqrt(sum(value * value for value in values))
        return [value / norm for value in values]

    def close(self) -> None:
        """Ends the session; safe to call twice."""
        self._closed = True
        self._held = []
        self._has_logits = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._states.append(_mix(self._states[-1], token))
            self._held.append(token)
        self._has_logits = self._has_logits or bool(tokens)

    def _need_open(self) -> None:
        if self._closed:
            raise BackendError("This session is closed.", way_out="Open the model again.")


BACKEND = FakeBackend()
