"""A decoder's graph bound to memory: tokens in, logits of the last position out, a cache in place.

Everything that can be is bound once. A cache is either one buffer per tensor that the operator
updates in place (GroupQueryAttention), or one that each evaluation hands back longer; which of the
two a graph allows is tried out, not guessed from its operators. It knows no text and no sampling,
and trusts its caller with token ids and lengths.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import BackendError, MemoryLimitError, UnsupportedError
from ...units import format_bytes
from .. import slices
from .buffers import Constants, as_float, quick_binding
from .library import library, translated
from .signature import Signature
from .trial import Trial

LOGITS_BYTES = 64 << 20
"""How large the logits of one batch of a prompt may become where a graph computes them for every
position and cannot be told that only the last one's are wanted."""
_LEAST_BATCH_TOKENS = 16
_BOOL, _INT64, _BFLOAT16 = 9, 7, 16
_LOGITS_TYPES = (1, 10, _BFLOAT16)
_PROBE_TOKENS = 3
_PROBE_ROOM = 5
_NUMPY = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 10: np.float16,
          16: np.uint16}  # fmt: skip


class Decoder:
    """One session's graph with a cache for `context_tokens` tokens of one sequence.

    `position` counts the tokens held; `logits` is a view of the latest logits, float32, one per
    token of the vocabulary, valid until the next evaluation.
    """

    def __init__(
        self,
        session: Any,
        signature: Signature,
        *,
        file: str,
        device: str,
        turns_tokens: int | None = None,
        window_tokens: int | None = None,
        rounds_together: bool = False,
    ) -> None:
        """Tries the graph out.

        `turns_tokens` is the length beyond which all positions of a context are turned otherwise
        (long RoPE); None when there is no such length. `window_tokens` is how far attention sees in
        layers that see no farther, None when all see everything: some graphs take no cache that is
        shorter. `rounds_together` says that tokens evaluated together change each other's last bits
        (dynamic quantization). Raises BackendError, UnsupportedError for a cache that cannot be
        gone on from.
        """
        self._session = session
        self._signature = signature
        self._file = file
        self._device = device
        self._turns_tokens = turns_tokens if signature.whole and turns_tokens else sys.maxsize
        self._long_from = sys.maxsize
        self._least_room = 0
        self._alone_first = self._alone_later = False
        self.position = 0
        self._integer = _NUMPY[signature.integer_type]
        self._constants = Constants(self._integer, _PROBE_ROOM)
        self._probe(window_tokens or 0)
        if not self.shared:
            trial = Trial(session, signature, device=device, bound=self._bound, tensor=self._tensor)
            trial.go_on(file)
            old = bool(signature.branch) or "with_past_model" in file
            self._alone_later = old or (not rounds_together and trial.sees_ahead())
            self._alone_first = self._alone_later and not signature.branch

    def _probe(self, window: int) -> None:
        """Evaluates three tokens to learn what the graph does not declare.

        First at once from an empty cache: the number of logits, and whether all positions have
        some. Then two and one in a larger buffer that is bound both ways: only an operator that
        updates it in place accepts that, and only a graph that counts positions without looking at
        the buffer's length comes to the same logits.
        """
        ids = np.arange(_PROBE_TOKENS, dtype=self._integer)[None]
        mask = np.ones((1, _PROBE_ROOM), self._integer)
        try:
            found = self._first_logits(ids, mask, 0)
        except BackendError:
            if not window:
                raise
            found = self._first_logits(ids, mask, window)
            self._least_room = window
        shape = found.shape()
        self._logits_type = int(found.element_type())
        if len(shape) != 3 or shape[-1] < 1 or self._logits_type not in _LOGITS_TYPES:
            raise BackendError(
                f"{self._file} gives logits of the shape {list(shape)}, {found.data_type()}.",
                cause="One row of floating-point numbers per position was expected.",
            )
        self.vocabulary_tokens = int(shape[-1])
        self.last_only = shape[1] == 1
        self._logits = np.zeros((1, 1, self.vocabulary_tokens), _NUMPY[self._logits_type])
        self._row = self._logits[0, 0]
        # There is no numpy for bfloat16: whether the engine accepts the buffer has to do.
        wanted = None if self._logits_type == _BFLOAT16 else as_float(found.numpy())[0, -1]
        self.shared = self._accepts_shared(ids, mask, wanted)

    def _first_logits(self, ids: Any, mask: Any, room: int) -> Any:
        """The logits of tokens before which there are none, in caches with that much room."""
        io = self._bound(ids, mask, 0)
        for part in self._signature.caches:
            value = self._tensor(part.shape(room), part.element_type)
            io.bind_ortvalue_input(part.past, value)
            if room:
                io.bind_ortvalue_output(part.present, value)
            else:
                io.bind_output(part.present, self._device)
        io.bind_output(self._signature.logits, "cpu")
        self._run(io)
        return io.get_outputs()[-1]

    def _accepts_shared(self, ids: Any, mask: Any, wanted: Any) -> bool:
        parts = self._signature.caches
        if any(part.length_axis != 2 for part in parts):
            return False
        room = max(_PROBE_ROOM, self._least_room)
        cache = [self._tensor(part.shape(room), part.element_type) for part in parts]
        held = 0
        for count in (_PROBE_TOKENS - 1, 1):
            rows = 1 if self.last_only else count
            out = np.zeros((1, rows, self.vocabulary_tokens), self._logits.dtype)
            now = np.ascontiguousarray(ids[:, held : held + count])
            io = self._bound(now, mask, held)
            for part, value in zip(parts, cache, strict=True):
                io.bind_ortvalue_input(part.past, value)
                io.bind_ortvalue_output(part.present, value)
            self._bind_logits(io, out)
            try:
                self._session.run_with_iobinding(io)
            except Exception:  # the engine raises its own types; any refusal means "not in place"
                return False
            held += count
        # Kernels take another road for one row, and round otherwise there.
        return wanted is None or bool(
            np.allclose(as_float(out)[0, -1], wanted, rtol=5e-2, atol=5e-2)
        )

    def allocate(self, context_tokens: int, batch_tokens: int) -> None:
        """Makes room for a context. Raises MemoryLimitError."""
        self.context_tokens = context_tokens
        widest = LOGITS_BYTES // (self.vocabulary_tokens * self._logits.itemsize)
        self.batch_tokens = min(
            batch_tokens,
            batch_tokens if self.last_only else max(_LEAST_BATCH_TOKENS, widest),
        )
        signature = self._signature
        try:
            self._mask = np.ones((1, context_tokens), self._integer)
            self._places = np.arange(context_tokens, dtype=self._integer)[None]
            self._one = np.zeros((1, 1), self._integer)
            self._mask_address = self._mask.ctypes.data
            self._places_address = self._places.ctypes.data
            tokens = max(context_tokens, self._least_room) if self.shared else 0
            self._empty = [self._tensor(p.shape(tokens), p.element_type) for p in signature.caches]
        except (MemoryError, RuntimeError) as error:
            raise MemoryLimitError(
                f"A context of {context_tokens} tokens does not fit into memory.",
                cause=f"Its cache takes {format_bytes(self.cache_bytes)}.",
                way_out="Ask for a shorter context.",
            ) from error
        self._cache = self._empty
        self._step_io = self._bound(self._one, self._mask[:, :1], 0)
        self._bind_quickly = quick_binding(self._step_io, signature.integer_type)
        self._bind_cache(self._step_io)
        self._bind_logits(self._step_io, self._logits)

    @property
    def cache_bytes(self) -> int:
        """What the cache takes when the context is full."""
        tokens = max(self.context_tokens, self._least_room)
        return sum(part.size_bytes(tokens) for part in self._signature.caches)

    @property
    def input_bytes(self) -> int:
        """What token ids, masks and positions take."""
        return int(self._mask.nbytes + self._places.nbytes + self._one.nbytes)

    @property
    def logits_bytes(self) -> int:
        """What the logits of one position take."""
        return int(self._logits.nbytes)

    @property
    def logits(self) -> Any:
        """The latest logits, float32; a view where the graph gives float32."""
        return self._row if self._row.dtype == np.float32 else as_float(self._row)

    def step(self, token: int) -> None:
        """Evaluates one token after those held."""
        io = self._step_io
        held = self.position
        self._one[0, 0] = token
        self._rebind(held)
        if self.shared:
            self._run(io)
        else:
            self._bind_cache(io)
            self._run(io)
            self._take_cache(io)
        self.position = held + 1

    def evaluate(self, tokens: list[int], run_options: Any = None) -> None:
        """Evaluates tokens after those held in batches; `position` moves with each that is done."""
        self._constants.whole[()] = self.position + len(tokens)
        try:
            start = 0
            while start < len(tokens):
                count = self._at_once()
                self._batch(tokens[start : start + count], run_options)
                start += count
        finally:
            self._constants.whole[()] = 0

    def _at_once(self) -> int:
        """How many tokens may be evaluated together after those held."""
        alone = self._alone_later if self.position else self._alone_first
        return 1 if alone else self.batch_tokens

    def need_all_logits(self) -> None:
        """Raises UnsupportedError when the graph gives the logits of the last position alone."""
        if self.last_only and not self._signature.keep:
            raise UnsupportedError(
                f"{self._file} gives logits of the last position only.",
                cause="It was exported so.",
                way_out="Convert the model again, with the logits of all positions.",
            )

    def all_logits(self, tokens: list[int], *, first: int = 0) -> Iterator[Any]:
        """Evaluates tokens after those held, giving the logits after each from `first`.

        They come in order, in blocks of float32 (rows, vocabulary) that are valid until the next
        one is asked for. Nothing is evaluated before the first. Raises as `need_all_logits`.
        """
        self.need_all_logits()
        rows = slices.most_rows(self.vocabulary_tokens, self.batch_tokens)
        shape = (1, min(rows, len(tokens)), self.vocabulary_tokens)
        memory = np.empty(shape, self._logits.dtype)
        whole, start = self.position + len(tokens), 0
        while start < len(tokens):
            left, ahead = len(tokens) - start, max(0, first - start)
            # A graph that cannot be told gives the logits of all positions, wanted or not.
            most = self._at_once() if self.last_only else min(self._at_once(), rows)
            count = slices.length(left, ahead, batch_tokens=most, rows=rows)
            wanted = max(0, count - ahead)
            given = wanted if self.last_only else count
            self._constants.whole[()] = whole
            try:
                into = memory[:, :given] if wanted else None
                self._batch(tokens[start : start + count], None, into)
            finally:
                self._constants.whole[()] = 0
            start += count
            if wanted:
                yield as_float(memory[0, given - wanted : given])

    def _batch(self, tokens: list[int], run_options: Any, rows: Any = None) -> None:
        """Evaluates tokens at once, with `rows` given into it the logits of the last so many."""
        count, held = len(tokens), self.position
        if max(held + count, int(self._constants.whole)) > self._turns_tokens:
            self._long_from = min(self._long_from, held)
        ids = np.array([tokens], self._integer)
        if rows is None:
            many = not self.last_only and count > 1
            shape = (1, count, self.vocabulary_tokens)
            out = np.empty(shape, self._logits.dtype) if many else self._logits
        else:
            out = rows
        self._constants.keep[()] = out.shape[1]
        io = self._bound(ids, self._mask[:, : held + count], held)
        self._bind_cache(io)
        self._bind_logits(io, out)
        try:
            self._run(io, run_options)
        finally:
            self._constants.keep[()] = 1
        if out is not self._logits:
            self._row[:] = out[0, -1]
        if not self.shared:
            self._take_cache(io)
        self.position = held + count

    def reusable(self, shared: int, whole: int) -> int:
        """How many of the first `shared` tokens held are as in a context of `whole` tokens.

        All of them, unless this graph turns positions by the length of the whole and would have
        turned those held otherwise.
        """
        if whole > self._turns_tokens:
            return shared if self._long_from == 0 else 0
        return min(shared, self._long_from)

    def cut(self, keep: int) -> int:
        """Forgets everything from position `keep` on and gives what is left: `keep` or 0."""
        if keep <= self._long_from:
            self._long_from = sys.maxsize
        if keep == self.position:
            return keep
        if not self.shared and keep and not self._is_whole():
            keep = 0
        if not self.shared and keep:
            try:
                self._cache = [
                    self._shortened(value, part.length_axis, keep)
                    for part, value in zip(self._signature.caches, self._cache, strict=True)
                ]
            except (RuntimeError, TypeError, NotImplementedError):  # a type numpy does not know
                keep = 0
        if not self.shared and not keep:
            self._cache = self._empty
        self.position = keep
        return keep

    def _is_whole(self) -> bool:
        """Whether a cache that grows holds every token; some forget what a window left behind."""
        held = zip(self._signature.caches, self._cache, strict=True)
        return all(value.shape()[part.length_axis] == self.position for part, value in held)

    def hidden(self, tokens: list[int]) -> Any:
        """The last layer's states of these tokens from an empty context, float32 (tokens, width).

        The context is empty afterwards.
        """
        self.cut(0)
        ids = np.array([tokens], self._integer)
        io = self._bound(ids, self._mask[:, : len(tokens)], 0)
        self._bind_cache(io)
        io.bind_output(self._signature.hidden, "cpu")
        self._run(io)
        return np.asarray(io.get_outputs()[-1].numpy()[0], np.float32)

    def free(self) -> None:
        """Lets go of the session and all memory."""
        for name in ("_session", "_step_io", "_bind_quickly", "_cache", "_empty"):
            setattr(self, name, None)

    def _run(self, io: Any, run_options: Any = None) -> None:
        try:
            # Without run options the engine's wrapper saves as much time as a tiny model takes.
            self._session.run_with_iobinding(io, run_options)
        except Exception as error:  # the engine raises its own types, none of which is exported
            raise translated(error, f"ONNX Runtime failed to evaluate {self._file}.") from error

    def _tensor(self, shape: list[int], element_type: int) -> Any:
        make = library().OrtValue.ortvalue_from_shape_and_type
        return make(shape, element_type, self._device, 0)

    def _bound(self, ids: Any, mask: Any, held: int) -> Any:
        """A binding with these token ids after `held` tokens; cache and outputs are not bound."""
        names, kind = self._signature, self._signature.integer_type
        count = ids.shape[1]
        io = self._session.io_binding()
        io.bind_input(names.token_ids, "cpu", 0, kind, [1, count], ids.ctypes.data)
        constants = self._constants
        if names.mask:
            io.bind_input(names.mask, "cpu", 0, kind, [1, held + count], mask.ctypes.data)
        places = getattr(self, "_places", constants.places)
        pointer = places.ctypes.data + held * places.itemsize
        if names.positions:
            io.bind_input(names.positions, "cpu", 0, kind, [1, count], pointer)
        if names.cache_positions:
            io.bind_input(names.cache_positions, "cpu", 0, kind, [count], pointer)
        if names.keep:
            dims = list(names.keep_dims)
            io.bind_input(names.keep, "cpu", 0, _INT64, dims, constants.keep.ctypes.data)
        if names.whole:
            io.bind_input(names.whole, "cpu", 0, _INT64, [], constants.whole.ctypes.data)
        if names.branch:
            flag = constants.later if held else constants.first
            io.bind_input(names.branch, "cpu", 0, _BOOL, [1], flag.ctypes.data)
        if names.token_types:
            zeros = np.zeros((1, count), self._integer)
            io.bind_cpu_input(names.token_types, zeros)
        return io

    def _rebind(self, held: int) -> None:
        """Brings the binding for one token to another position."""
        names, bind = self._signature, self._bind_quickly
        if names.mask:
            bind(names.mask, (1, held + 1), self._mask_address)
        if names.positions or names.cache_positions:
            pointer = self._places_address + held * self._places.itemsize
            if names.positions:
                bind(names.positions, (1, 1), pointer)
            if names.cache_positions:
                bind(names.cache_positions, (1,), pointer)
        if names.branch:
            flag = self._constants.later if held else self._constants.first
            self._step_io.bind_input(names.branch, "cpu", 0, _BOOL, [1], flag.ctypes.data)

    def _bind_logits(self, io: Any, memory: Any) -> None:
        io.bind_output(
            self._signature.logits, "cpu", 0, self._logits_type, list(memory.shape),
            memory.ctypes.data,
        )  # fmt: skip

    def _bind_cache(self, io: Any) -> None:
        for part, value in zip(self._signature.caches, self._cache, strict=True):
            io.bind_ortvalue_input(part.past, value)
            if self.shared:
                io.bind_ortvalue_output(part.present, value)
            else:
                io.bind_output(part.present, self._device)

    def _take_cache(self, io: Any) -> None:
        """Keeps the presents of an evaluation as the pasts of the next."""
        # Outputs come in the order they were first bound in: caches before logits, always.
        self._cache = io.get_outputs()[: len(self._cache)]

    def _shortened(self, value: Any, axis: int, keep: int) -> Any:
        kept = np.ascontiguousarray(np.take(value.numpy(), range(keep), axis=axis))
        return library().OrtValue.ortvalue_from_numpy(kept, self._device, 0)
