"""One opened model with one context: prefill, step, logits, text.

`step` is the measured path and does nothing that need not be done: one store into preallocated
memory, one call into the engine, one wait. The first use after `close` raises instead of touching
freed memory, and every token is checked, because the engine trusts its caller.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Self, cast

from ...artifact import Artifact
from ...errors import BackendError, ContextFullError, MemoryLimitError, UnsupportedError, UsageError
from ...measurement import SessionOptions
from .. import Message, Piece, Sampling, chat_template, generation, slices
from .batches import RowBatch, batch_over
from .cancelling import CancelWatch
from .library import LOG, engine
from .loading import Native, open_native, widened
from .sampling import ChainSampler, make_sampler

_DONE, _NO_ROOM, _ABORTED, _NO_MEMORY = 0, 1, 2, -2
_LONG_PROMPT_TOKENS = 16
"""Prompts up to this length are not worth a thread that watches for cancellation."""


class _AbortedError(BackendError):
    """The engine stopped in the middle because it was told to."""


class LlamaCppSession:
    """An opened GGUF artifact; see `backends.Session` for the contract.

    Not thread-safe, except that the `cancel` event of `stream` may be set from anywhere. Greedy
    generation gives the same tokens each time for the same state; a reused prefix was evaluated in
    batches of other sizes, which may change the last bits of the logits.
    """

    def __init__(self, artifact: Artifact, options: SessionOptions) -> None:
        self.native: Native = open_native(artifact, options)
        lib = self.native.lib
        self.artifact = artifact
        self.options = self.native.options
        self.engine = engine()
        self.buffers = self.native.buffers
        self.context_tokens = cast(int, self.options.context_tokens)
        self.vocabulary_tokens = self.native.vocabulary.tokens
        self.generation = 0
        self._held: list[int] = []
        self._has_logits = False
        self._decode = lib.llama_decode
        self._synchronize = lib.llama_synchronize
        self._one = (ctypes.c_int32 * 1)()
        self._one_batch = batch_over(lib, self._one)
        self._many: Any = (ctypes.c_int32 * self.options.batch_tokens)()
        self._many_batch = batch_over(lib, self._many)

    @property
    def position(self) -> int:
        """How many tokens the context holds."""
        return len(self._held)

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of a text. Raises UnsupportedError when the model has no vocabulary."""
        self._open_context()
        return self.native.vocabulary.tokenize(
            text, add_special=add_special, parse_special=parse_special
        )

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, special tokens left out."""
        self._open_context()
        return self.native.vocabulary.detokenize(
            generation.check_tokens(tokens, self.vocabulary_tokens)
        )

    def render_chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> str:
        """The prompt text of a conversation by the artifact's own chat template."""
        self._open_context()
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
        self._open_context()
        self._need_cache()
        checked = generation.check_tokens(tokens, self.vocabulary_tokens)
        generation.check_room(self, len(checked), len(self._held))
        batch, many = self._many_batch, self._many
        for start in range(0, len(checked), len(many)):
            chunk = checked[start : start + len(many)]
            many[: len(chunk)] = chunk
            batch.n_tokens = len(chunk)
            self._evaluate(batch, chunk)

    def _evaluate(self, batch: Any, chunk: list[int]) -> None:
        """Evaluates a batch that is filled with these tokens."""
        context = self._open_context()
        code = self._decode(context, batch)
        self._synchronize(context)
        if code:
            self._fail(code)
        self._held += chunk
        self._has_logits = True

    def step(self, token: int) -> None:
        """Evaluates exactly one token: one decode step; returns when it is computed."""
        context = self.native.context
        held = self._held
        if (
            context is None
            or not 0 <= token < self.vocabulary_tokens
            or len(held) >= self.context_tokens
            or self.native.memory is None
        ):
            self._refuse_step(token)
        self._one[0] = token
        code = self._decode(context, self._one_batch)
        self._synchronize(context)
        if code:
            self._fail(code)
        held.append(token)
        self._has_logits = True

    def reset(self, *, keep_tokens: int = 0) -> None:
        """Forgets the context from position `keep_tokens` on.

        Logits are gone until the next evaluation. Raises BackendError when this model's memory
        cannot be cut there (a recurrent state, or a sliding window that has moved past it).
        """
        self._open_context()
        if keep_tokens < 0 or keep_tokens > len(self._held):
            raise UsageError(
                f"{keep_tokens} tokens cannot be kept.", cause=f"{len(self._held)} are there."
            )
        if keep_tokens == len(self._held) and keep_tokens:
            return
        if self._cut(keep_tokens) != keep_tokens:
            raise BackendError(
                f"The context cannot be cut back to {keep_tokens} tokens.",
                cause="This model's memory does not go back.",
                way_out="It is empty now: evaluate the text again.",
            )

    def logits(self) -> Sequence[float]:
        """The logits after the last evaluated token, a float32 copy of `vocabulary_tokens`."""
        copy: Sequence[float] = self.logits_view().copy()
        return copy

    def logits_view(self) -> Any:
        """The engine's own memory of the latest logits; valid until the next evaluation."""
        import numpy as np

        lib = self.native.lib
        pointer = lib.llama_get_logits_ith(self.ready_context(), -1)
        if not pointer:
            raise BackendError("llama.cpp gave no logits.")
        return np.ctypeslib.as_array(pointer, (self.vocabulary_tokens,))

    def ready_context(self) -> int:
        """The engine's context with logits in it. Raises BackendError when there are none."""
        context = self.native.context
        if context is None or not self._has_logits:
            self._open_context()
            raise BackendError(
                "There are no logits yet.", way_out="Evaluate at least one token first."
            )
        return context

    def all_logits(self, tokens: Sequence[int], *, first: int = 0) -> Iterator[memoryview[float]]:
        """Evaluates tokens, giving the logits after each from `first`: see `Session.all_logits`.

        The blocks are the engine's own memory. The first call makes the context anew, with room for
        the logits of many tokens, and evaluates again what it held; `buffers` are those of it.
        """
        self._open_context()
        self._need_cache()
        checked = generation.check_tokens(tokens, self.vocabulary_tokens)
        slices.check_first(first, len(checked))
        generation.check_room(self, len(checked), len(self._held))
        return self._blocks(checked, first)

    def _blocks(self, tokens: list[int], first: int) -> Iterator[memoryview[float]]:
        self._open_context()
        batch_tokens = self.options.micro_batch_tokens
        rows = slices.most_rows(self.vocabulary_tokens, batch_tokens)
        if self.native.output_rows < rows:
            self._widen(rows)
        batch = RowBatch(self.native.lib, batch_tokens)
        start = 0
        while start < len(tokens):
            left, ahead = len(tokens) - start, max(0, first - start)
            count = slices.length(left, ahead, batch_tokens=batch_tokens, rows=rows)
            chunk, wanted = tokens[start : start + count], max(0, count - ahead)
            self._evaluate(batch.filled(chunk, wanted), chunk)
            self._has_logits = False  # the caller may write over them
            start += count
            if wanted:
                held = len(self._held)
                yield batch.rows(self._open_context(), wanted, self.vocabulary_tokens)
                self._open_context()
                slices.check_unmoved(len(self._held), held)

    def _widen(self, rows: int) -> None:
        held = self._held
        self.native = widened(self.native, self.artifact, rows)
        self.buffers = self.native.buffers
        self._held = []
        self.prefill(held)

    def sampler(self, sampling: Sampling) -> ChainSampler:
        """A sampler over this session's logits."""
        self._open_context()
        return make_sampler(self, sampling)

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
        self._open_context()
        self._need_cache()
        return generation.stream(
            self, prompt, max_tokens=max_tokens, sampling=sampling, stop=stop, cancel=cancel
        )

    def begin(self, tokens: Sequence[int], cancel: threading.Event | None) -> bool:
        """Leaves exactly `tokens` evaluated, reusing a shared prefix; False when cancelled."""
        kept = self._cut(self._shared_prefix(tokens))
        rest = tokens[kept:]
        if cancel is None:
            self.prefill(rest)
            return True
        if cancel.is_set():
            return False
        if len(rest) <= _LONG_PROMPT_TOKENS:
            self.prefill(rest)
            return not cancel.is_set()
        watch = CancelWatch(cancel, self.native.abort)
        try:
            self.prefill(rest)
        except _AbortedError:
            return False
        finally:
            watch.stop()
        return not cancel.is_set()

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; empty for special tokens."""
        return self.native.vocabulary.piece(token)

    def ends(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        return self.native.vocabulary.ends(token)

    def embed(self, text: str) -> Sequence[float]:
        """The pooled embedding of a text, unit length, float32.

        Pooling is the model's own (mean, first or last token); a model that has none gets the mean
        over its tokens. The context is empty afterwards. Raises ContextFullError for a text longer
        than one batch, because pooling does not reach across batches.
        """
        import numpy as np

        context = self._open_context()
        if not self.options.embeddings:
            raise UsageError(
                "This session was not opened for embeddings.",
                way_out="Open it with SessionOptions(embeddings=True).",
            )
        lib = self.native.lib
        if lib.llama_pooling_type(context) == lib.LLAMA_POOLING_TYPE_RANK:
            raise UnsupportedError("This model ranks texts; it gives no embeddings.")
        tokens = self.tokenize(text)
        if not tokens:
            raise UsageError("An empty text has no embedding.")
        if len(tokens) > len(self._many):
            raise ContextFullError(
                f"The text has {len(tokens)} tokens, more than one batch of {len(self._many)}.",
                cause="An embedding is pooled within one batch.",
                way_out="Split the text, or open with more context_tokens and batch_tokens.",
            )
        self._cut(0)
        self._many[: len(tokens)] = tokens
        self._many_batch.n_tokens = len(tokens)
        lib.llama_set_embeddings(context, True)
        try:
            code = self._decode(context, self._many_batch)
            self._synchronize(context)
            if code:
                self._fail(code)
            pointer = lib.llama_get_embeddings_seq(context, 0)
            if not pointer:
                raise BackendError("llama.cpp gave no embedding.")
            width = lib.llama_model_n_embd_out(self.native.model)
            vector = np.ctypeslib.as_array(pointer, (width,)).astype(np.float32)
        finally:
            lib.llama_set_embeddings(context, False)
            self._cut(0)
        norm = float(np.linalg.norm(vector))
        return cast(Sequence[float], vector / norm if norm > 0 else vector)

    def close(self) -> None:
        """Frees the context and the weights; safe to call twice."""
        self._has_logits = False
        self._held = []
        self.native.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A session that failed to open has no `native`; at interpreter exit the library is going.
        native = getattr(self, "native", None)
        if native is not None and native.context is not None:
            try:
                native.free()
            except (AttributeError, TypeError):
                return

    def _open_context(self) -> int:
        context = self.native.context
        if context is None:
            raise BackendError("This session is closed.", way_out="Open the model again.")
        return context

    def _need_cache(self) -> None:
        if self.native.memory is None:
            raise UnsupportedError(
                "This model reads texts and writes none.",
                cause="It is an encoder, made for embeddings.",
                way_out="Use embed, with SessionOptions(embeddings=True).",
            )

    def _refuse_step(self, token: int) -> NoReturn:
        self._open_context()
        self._need_cache()
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
        native = self.native
        self._has_logits = False
        if native.memory is None:
            return 0
        lib = native.lib
        if keep and native.window_tokens and keep < len(self._held):
            # A windowed cache drops old cells: going back needs the whole window before `keep`.
            oldest = lib.llama_memory_seq_pos_min(native.memory, 0)
            if oldest > max(0, keep - native.window_tokens):
                keep = 0
        if keep and not lib.llama_memory_seq_rm(native.memory, 0, keep, -1):
            keep = 0
        if not keep:
            lib.llama_memory_clear(native.memory, False)
        del self._held[keep:]
        return keep

    def _fail(self, code: int) -> NoReturn:
        """Brings our own record in line with what the engine kept, and raises."""
        native = self.native
        self._has_logits = False
        if native.memory is not None:
            kept = native.lib.llama_memory_seq_pos_max(native.memory, 0) + 1
            if kept < len(self._held):
                del self._held[kept:]
            else:
                native.lib.llama_memory_seq_rm(native.memory, 0, len(self._held), -1)
        if code == _ABORTED:
            raise _AbortedError("The evaluation was stopped.")
        if code == _NO_ROOM:
            raise ContextFullError("llama.cpp found no room in the context.")
        cause = LOG.complaint(max(0, LOG.mark - 20))
        if code == _NO_MEMORY:
            raise MemoryLimitError("llama.cpp could not get memory to evaluate.", cause=cause)
        raise BackendError(f"llama.cpp failed to evaluate (code {code}).", cause=cause)
