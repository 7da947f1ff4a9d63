"""The ONNX Runtime backend, over a plain `InferenceSession`.

This package is the only place that knows ONNX Runtime. Importing it loads no engine: the library is
imported when something is opened or asked. It writes no graph and reads no protobuf; what a model
wants and gives is read from the session's own inputs and outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...artifact import Artifact
from ...latency import LatencyOptions
from ...measurement import Engine, Gpu, SessionOptions

if TYPE_CHECKING:
    from .plain import PlainOnnxModel
    from .session import OnnxSession


class OnnxBackend:
    """Opens ONNX artifacts with ONNX Runtime."""

    name = "onnx"
    formats = ("onnx",)

    def open(self, artifact: Artifact, options: SessionOptions) -> OnnxSession:
        """Loads the graph and its weights and makes a context.

        Raises UsageError for options that cannot be, UnsupportedError for a graph that is no
        language model of a known layout or has an operator no provider knows, FormatError for a
        broken file, MemoryLimitError when memory does not suffice, EngineMissingError when ONNX
        Runtime is not installed, BackendError for everything else the engine refuses.
        """
        from .session import OnnxSession

        return OnnxSession(artifact, options)

    def open_plain(
        self, path: Path, options: LatencyOptions, *, trace: Path | None = None
    ) -> PlainOnnxModel:
        """Loads a graph of any kind, to be run as it is. Raises what `open` raises."""
        from .plain import PlainOnnxModel

        return PlainOnnxModel(path, options, trace=trace)

    def engine(self) -> Engine:
        """The engine's name, version and providers. Raises EngineMissingError."""
        from .library import engine

        return engine()

    def gpus(self) -> tuple[Gpu, ...]:
        """Accelerators this build can use; a CPU build has none. Raises EngineMissingError."""
        from .providers import gpus

        return gpus()


BACKEND = OnnxBackend()
