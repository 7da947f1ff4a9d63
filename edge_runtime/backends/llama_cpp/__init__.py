"""The llama.cpp backend, over llama-cpp-python's low-level bindings.

This package is the only place that knows llama.cpp. Importing it loads no engine: the native
library is loaded when something is opened or asked. The high-level `Llama` class is not used; it
copies logits at every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifact import Artifact
from ...measurement import Engine, Gpu, SessionOptions

if TYPE_CHECKING:
    from .session import LlamaCppSession


class LlamaCppBackend:
    """Opens GGUF artifacts with llama.cpp."""

    name = "llama_cpp"
    formats = ("gguf",)

    def open(self, artifact: Artifact, options: SessionOptions) -> LlamaCppSession:
        """Loads the weights and makes a context.

        Raises UsageError for options that cannot be, UnsupportedError for an architecture the
        engine does not know, MemoryLimitError when memory does not suffice, EngineMissingError
        when the native library is not there, BackendError for everything else the engine refuses.
        """
        from .session import LlamaCppSession

        return LlamaCppSession(artifact, options)

    def engine(self) -> Engine:
        """The engine's name, version and build. Raises EngineMissingError."""
        from .library import engine

        return engine()

    def gpus(self) -> tuple[Gpu, ...]:
        """Accelerators this build can use; a CPU build has none. Raises EngineMissingError."""
        from .library import gpus

        return gpus()


BACKEND = LlamaCppBackend()
