"""One opened ONNX model with one context: prefill, step, logits, text.

`step` is the measured path: one store, one or two bindings, one call into the engine. The first use
after `close` raises, and every token is checked, because the graph trusts its caller.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn, Self, cast

import numpy as np

from ...artifact import Artifact
from ...errors import BackendError, ContextFullError, EdgeError, UnsupportedError, UsageError
from ...measurement import SessionOptions
from .. import Message, Piece, Sampling, chat_template, generation, slices
from .binding import Decoder
from .embedding import encode, pooled
from .library import engine, library
from .loading import Native, open_native
from .sampling import NumpySampler

_CANCEL_POLL_S = 0.02
_LONG_PROMPT_TOKENS = 16
"""Prompts up to this length are not worth a thread that watches for cancellation."""


class OnnxSession:
    """An opened ONNX artifact; see `backends.Session` for the contract.

    Not thread-safe, except that the `cancel` event of `stream` may be set from anywhere. Greedy
    generation gives the same tokens each time for the same state; a reused prefix was evaluated in
    batches of other sizes, which may change the last bits of the logits.
    """

    def __init__(self, artifact: Artifact, options: SessionOptions) -> None:
        self.native: Native = open_native(artifact, options)
        self.artifact = artifact
        self.options = self.native.options
        self.engine = replace(engine(), placement=self.native.placed)
        self.buffers = self.native.buffers
        self.context_tokens = cast(int, self.options.context_tokens)
        self.vocabulary_tokens = self.native.vocabulary_tokens
        self.generation = 0
        self._held: list[int] = []
        self._has_logits = False

    @property
    def position(self) -> int:
        """How many tokens the context holds."""
        return len(self._held)

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of a text. Raises UnsupportedError when the model has no tokenizer."""
        self._need_open()
        return self.native.vocabulary.tokenize(
            text, add_special=add_special, parse_special=parse_special
        )

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, special tokens left out."""
        self._need_open()
        return self.native.vocabulary.detokenize(
            generation.check_tokens(tokens, self.vocabulary_tokens)
        )

    def render_chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> str:
        """The prompt text of a conversation by the artifact's own chat template."""
        self._need_open()
        return chat_template.render(
            self.artifact.chat_template,
            messages,
            bos_token=self.native.vocabulary.special_text("bos"),
            eos_token=self.native.vocabulary.special_text("eos"),
            add_generation_prompt=add_generation_prompt,
        )

    def prefill(self, tokens: Sequence[int]) -> None:
        """Evaluates tokens after the present position in batches; returns when computed.

        Raises ContextFullError when they do not fit, before any of them is evaluated.
        """
        self._evaluate(tokens, None)

    def _evaluate(self, tokens: Sequence[int], run_options: Any) -> None:
        decoder = self._decoder()
        checked = generation.check_tokens(tokens, self.vocabulary_tokens)
        generation.check_room(self, len(checked), len(self._held))
        checked = [*self._forgotten(decoder, len(checked)), *checked]
        held = len(self._held)
        try:
            decoder.evaluate(checked, run_options)
        except EdgeError:
            self._has_logits = False
            raise
        finally:
            # A batch that failed left the cache as it was before it.
            self._held += checked[: decoder.position - held]
        self._has_logits = self._has_logits or bool(checked)

    def _forgotten(self, decoder: Decoder, more: int) -> list[int]:
        """What must be evaluated again before `more` tokens; none of it is held any longer.

        Where a graph turns all positions of a long context otherwise (LongRoPE), that is everything
        when a context grows out of its short form, as in the model's own implementation.
        """
        held = self._held
        if decoder.reusable(len(held), len(held) + more) == len(held):
            return []
        again = held.copy()
        self._cut(0)
        return again

    def step(self, token: int) -> None:
        """Evaluates exactly one token: one decode step; returns when it is computed."""
        decoder = self.native.decoder
        held = self._held
        if (
            decoder is None
            or not 0 <= token < self.vocabulary_tokens
            or len(held) >= self.context_tokens
        ):
            self._refuse_step(token)
        if decoder.reusable(len(held), len(held) + 1) < len(held):
            self._evaluate((token,), None)
            return
        try:
            decoder.step(token)
        except EdgeError:
            self._has_logits = False
            raise
        held.append(token)
        self._has_logits = True

    def reset(self, *, keep_tokens: int = 0) -> None:
        """Forgets the context from position `keep_tokens` on.

        Logits are gone until the next evaluation. Raises BackendError when this graph's cache
        cannot be cut there.
        """
        self._need_open()
        if keep_tokens < 0 or keep_tokens > len(self._held):
            raise UsageError(
                f"{keep_tokens} tokens cannot be kept.", cause=f"{len(self._held)} are there."
            )
        if keep_tokens == len(self._held) and keep_tokens:
            return
        if self._cut(keep_tokens) != keep_tokens:
            raise BackendError(
                f"The context cannot be cut back to {keep_tokens} tokens.",
                cause="This graph's cache is of a type that cannot be shortened here.",
                way_out="It is empty now: evaluate the text again.",
            )

    def logits(self) -> Sequence[float]:
        """The logits after the last evaluated token, a float32 copy of `vocabulary_tokens`."""
        copy: Sequence[float] = self.logits_view().copy()
        return copy

    def logits_view(self) -> Any:
        """The memory the latest logits lie in; valid until the next evaluation."""
        decoder = self.native.decoder
        if decoder is None or not self._has_logits:
            self._need_open()
            raise BackendError(
                "There are no logits yet.", way_out="Evaluate at least one token first."
            )
        return decoder.logits

    def all_logits(self, tokens: Sequence[int], *, first: int = 0) -> Iterator[memoryview[float]]:
        """Evaluates tokens, giving the logits after each from `first`: see `Session.all_logits`."""
        decoder = self._decoder()
        checked = generation.check_tokens(tokens, self.vocabulary_tokens)
        slices.check_first(first, len(checked))
        generation.check_room(self, len(checked), len(self._held))
        decoder.need_all_logits()
        return self._blocks(checked, first)

    def _blocks(self, tokens: list[int], first: int) -> Iterator[memoryview[float]]:
        decoder = self._decoder()
        again = self._forgotten(decoder, len(tokens))
        tokens = [*again, *tokens]
        self._has_logits = False
        base = len(self._held)
        blocks = decoder.all_logits(tokens, first=len(again) + first)
        while True:
            try:
                block = next(blocks, None)
            finally:
                # An evaluation that failed left the cache as it was before it.
                self._held += tokens[len(self._held) - base : decoder.position - base]
            if block is None:
                return
            held = len(self._held)
            yield memoryview(block)
            self._need_open()
            slices.check_unmoved(len(self._held), held)

    def sampler(self, sampling: Sampling) -> NumpySampler:
        """A sampler over this session's logits. Raises UnsupportedError for grammars."""
        self._need_open()
        return NumpySampler(self, sampling)

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
        self._decoder()
        return generation.stream(
            self, prompt, max_tokens=max_tokens, sampling=sampling, stop=stop, cancel=cancel
        )

    def begin(self, tokens: Sequence[int], cancel: threading.Event | None) -> bool:
        """Leaves exactly `tokens` evaluated, reusing a shared prefix; False when cancelled."""
        decoder = self._decoder()
        kept = self._cut(decoder.reusable(self._shared_prefix(tokens), len(tokens)))
        rest = tokens[kept:]
        if cancel is None:
            self.prefill(rest)
            return True
        if cancel.is_set():
            return False
        if len(rest) <= _LONG_PROMPT_TOKENS:
            self.prefill(rest)
            return not cancel.is_set()
        run_options = library().RunOptions()
        watch = _CancelWatch(cancel, run_options)
        try:
            self._evaluate(rest, run_options)
        except EdgeError:
            if cancel.is_set():
                return False
            raise
        finally:
            watch.stop()
        return not cancel.is_set()

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; empty for special tokens."""
        return self.native.vocabulary.piece(token)

    def ends(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        return self.native.vocabulary.ends(token)

    def end_tokens(self) -> tuple[int, ...]:
        """Every token that ends a turn and that the model can choose."""
        ends = self.native.vocabulary.end_tokens()
        return tuple(token for token in ends if token < self.vocabulary_tokens)

    def embed(self, text: str) -> Sequence[float]:
        """The pooled embedding of a text, unit length, float32.

        Pooling is the model's own (mean, first or last token); a model that has none gets the mean
        over its tokens. The context is empty afterwards. Raises ContextFullError for a text longer
        than the context, UnsupportedError when the graph gives logits alone.
        """
        self._need_open()
        if not self.options.embeddings:
            raise UsageError(
                "This session was not opened for embeddings.",
                way_out="Open it with SessionOptions(embeddings=True).",
            )
        tokens = self.tokenize(text)
        if not tokens:
            raise UsageError("An empty text has no embedding.")
        if len(tokens) > self.context_tokens:
            raise ContextFullError(
                f"The text has {len(tokens)} tokens, more than the {self.context_tokens} of the "
                "context.",
                way_out="Split the text.",
            )
        vector = self._vector(tokens)
        norm = float(np.linalg.norm(vector))
        return cast(Sequence[float], vector / norm if norm > 0 else vector)

    def _vector(self, tokens: list[int]) -> Any:
        native = self.native
        path = self.artifact.path
        if native.decoder is None:
            return encode(native.session, native.signature, path, tokens)
        if not native.signature.hidden:
            raise UnsupportedError(
                f"{path.name} gives logits and no hidden states: it makes no embeddings.",
                way_out="Use an embedding model, or convert with the hidden states as an output.",
            )
        self._cut(0)
        return pooled(path, native.decoder.hidden(tokens))

    def close(self) -> None:
        """Frees the graph and its memory; safe to call twice."""
        self._has_logits = False
        self._held = []
        self.native.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _need_open(self) -> None:
        if not self.native.is_open:
            raise BackendError("This session is closed.", way_out="Open the model again.")

    def _decoder(self) -> Decoder:
        decoder = self.native.decoder
        if decoder is None:
            self._need_open()
            raise UnsupportedError(
                "This model reads texts and writes none.",
                cause="It is an encoder, made for embeddings.",
                way_out="Use embed, with SessionOptions(embeddings=True). To time it: edge profile",
            )
        return decoder

    def _refuse_step(self, token: int) -> NoReturn:
        self._decoder()
        generation.check_tokens((token,), self.vocabulary_tokens)
        generation.check_room(self, 1, len(self._held))
        raise AssertionError("one of the checks above must have raised")

    def _shared_prefix(self, tokens: Sequence[int]) -> int:
        """How many of these tokens the context already begins with, leaving at least one to do.

        The very same prompt again shares nothing: it is evaluated afresh in the same batches, so
        that the same call gives the same answer bit for bit.
        """
        shared = 0
        for held, token in zip(self._held, tokens, strict=False):
            if held != token:
                break
            shared += 1
        return shared if shared < len(tokens) else 0

    def _cut(self, keep: int) -> int:
        """Removes everything from position `keep` on and says how much is left: `keep` or 0."""
        self._has_logits = False
        decoder = self.native.decoder
        kept = 0 if decoder is None else decoder.cut(keep)
        del self._held[kept:]
        return kept


class _CancelWatch:
    """A thread that passes a cancel event on to the engine while it computes."""

    def __init__(self, cancel: threading.Event, run_options: Any) -> None:
        self._cancel = cancel
        self._run_options = run_options
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="edge-cancel", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.is_set():
            if self._cancel.wait(_CANCEL_POLL_S):
                self._run_options.terminate = True
                return
