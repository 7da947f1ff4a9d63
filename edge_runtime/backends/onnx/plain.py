"""A graph of any kind, run as it is: inputs made once, memory bound once, one inference per call.

Between two runs nothing is copied, made or asked. Inputs and outputs lie in the processor's memory,
so that with an accelerator the copies there and back are part of an inference, as they are for a
program that has an image and wants its class. It knows no language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BackendError, EdgeError, MemoryLimitError, UsageError
from ...latency import InputRecord, LatencyOptions, OperatorTimes, OutputRecord, Placed
from ...measurement import SessionOptions
from ..threads import MAX_THREADS, default_threads
from . import providers
from .library import library, translated
from .loading import session_settings
from .trace import operator_times

_NUMPY = {
    "FP32": (1, np.float32), "UINT8": (2, np.uint8), "INT8": (3, np.int8),
    "UINT16": (4, np.uint16), "INT16": (5, np.int16), "INT32": (6, np.int32),
    "INT64": (7, np.int64), "BOOL": (9, np.bool_), "FP16": (10, np.float16),
    "FP64": (11, np.float64), "UINT32": (12, np.uint32), "UINT64": (13, np.uint64),
    "BFLOAT16": (16, np.uint16),
}  # fmt: skip
"""Element type -> its number in ONNX and a numpy type as wide; numpy has no bfloat16."""
_BFLOAT16_ONE = 0x3F80
_BY_NUMBER = {number: (name, kind) for name, (number, kind) in _NUMPY.items()}


class PlainOnnxModel:
    """One session of ONNX Runtime over a graph of any kind."""

    def __init__(self, path: Path, options: LatencyOptions, *, trace: Path | None) -> None:
        threads = options.threads
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise UsageError(
                f"threads is {threads}.", cause=f"It must lie between 1 and {MAX_THREADS}."
            )
        asked = SessionOptions(backend="onnx", providers=options.providers)
        names = providers.wanted(asked)
        settings = session_settings(threads or default_threads())
        # Shapes never change here: the engine may plan its memory once, as it does unasked.
        settings.enable_mem_pattern = True
        others = providers.attach(settings, names)
        self._file = path.name
        if trace is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(trace / "trace")
        try:
            self._session: Any = library().InferenceSession(
                str(path), settings, providers=others or None, enable_fallback=0
            )
        except Exception as error:  # the engine raises its own types, none of which is exported
            raise translated(error, f"ONNX Runtime cannot load {path.name}.") from error
        placed = providers.placements(self._session)
        try:
            providers.require_used(asked, self._session, placed, path.name)
        except EdgeError:
            self.close()
            raise
        self.placed = tuple(Placed(provider=p.provider, nodes=p.nodes) for p in placed)
        self.options = LatencyOptions(
            threads=threads or default_threads(), providers=tuple(p.provider for p in placed)
        )
        self.notes: tuple[str, ...] = ()
        self._kept: list[Any] = []
        self._io: Any = None
        self._anew: tuple[str, ...] = ()

    def bind(self, inputs: Sequence[InputRecord], seed: int) -> tuple[OutputRecord, ...]:
        """Makes the inputs, computes once, and keeps memory for outputs of the shapes found."""
        session = self._session
        io = session.io_binding()
        try:
            for place, item in enumerate(inputs):
                values = _values(item, (seed, place))
                self._kept.append(values)  # a binding keeps no reference of its own
                number, _ = _NUMPY[item.type]
                io.bind_input(item.name, "cpu", 0, number, list(item.shape), values.ctypes.data)
        except (MemoryError, OverflowError, ValueError) as error:
            raise MemoryLimitError(
                f"The inputs of {self._file} cannot be made.",
                cause=f"{error}.",
                way_out="Give a smaller --shape.",
            ) from error
        except RuntimeError as error:
            raise translated(error, f"{self._file} does not take these inputs.") from error
        names = [output.name for output in session.get_outputs()]
        for name in names:
            io.bind_output(name, "cpu")
        self._io = io
        self.run()
        found = [
            _described(name, value) for name, value in zip(names, io.get_outputs(), strict=True)
        ]
        return self._keep_outputs(found)

    def _keep_outputs(self, found: list[OutputRecord]) -> tuple[OutputRecord, ...]:
        """Binds memory of ours for every output that has a type of ours, and tries it."""
        kept = []
        for output in found:
            if not output.preallocated or output.shape is None:
                continue
            number, kind = _NUMPY[output.type]
            memory: Any = np.empty(output.shape, kind)
            kept.append(memory)
            self._io.bind_output(
                output.name, "cpu", 0, number, list(output.shape), memory.ctypes.data
            )
        self._anew = tuple(output.name for output in found if not output.preallocated)
        try:
            self.run()
        except BackendError:
            # The same inputs gave another shape: chance, or a state, is at work in the graph.
            self._anew = tuple(output.name for output in found)
            self.run()
            self.notes = ("the engine makes the outputs anew in each run: their shapes vary",)
            return tuple(replace(output, preallocated=False) for output in found)
        self._kept += kept
        return tuple(found)

    def run(self) -> None:
        """Computes one inference."""
        for name in self._anew:
            # A binding keeps what a run gave it, and would have the next fill the same.
            self._io.bind_output(name, "cpu")
        try:
            self._session.run_with_iobinding(self._io)
        except Exception as error:  # the engine raises its own types, none of which is exported
            raise translated(error, f"ONNX Runtime failed to run {self._file}.") from error

    def operators(self, runs: int) -> OperatorTimes:
        """Ends tracing; the times of the latest `runs` inferences by node."""
        return operator_times(Path(self._session.end_profiling()), runs)

    def close(self) -> None:
        """Lets go of the graph and of all memory."""
        self._io = self._session = None
        self._kept = []


def _described(name: str, value: Any) -> OutputRecord:
    """What an output turned out to be; one of no type of ours stays the engine's."""
    kind = value.data_type()
    if not kind.startswith("tensor("):
        return OutputRecord(name=name, type=kind, shape=None, preallocated=False)
    known = _BY_NUMBER.get(int(value.element_type()))
    return OutputRecord(
        name=name,
        type=kind if known is None else known[0],
        shape=tuple(map(int, value.shape())),
        preallocated=known is not None,
    )


def _values(item: InputRecord, seed: tuple[int, int]) -> Any:
    """The numbers of one input, the same for the same seed."""
    source = np.random.default_rng(seed)
    shape = item.shape
    kind: Any = _NUMPY[item.type][1]
    if item.fill == "normal":
        if item.type == "FP64":
            return source.standard_normal(shape)
        values = source.standard_normal(shape, np.float32)
        if item.type == "BFLOAT16":  # the upper half of a float32
            return (values.view(np.uint32) >> 16).astype(np.uint16)
        return values.astype(kind, copy=False)
    if item.fill == "below":
        most = min(item.below or 1, int(np.iinfo(kind).max))
        return source.integers(0, max(most, 1), shape, dtype=kind)
    if item.fill == "bytes":
        limits = np.iinfo(kind)
        return source.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)
    if item.fill == "positions":
        steps = np.arange(shape[-1] if shape else 1, dtype=kind)
        return np.broadcast_to(steps if shape else steps[0], shape).copy()
    if item.fill == "zeros":
        return np.zeros(shape, kind)
    if item.type == "BFLOAT16":
        return np.full(shape, _BFLOAT16_ONE, kind)
    return np.ones(shape, kind)
