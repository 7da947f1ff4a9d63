"""ONNX Runtime as a library: importing it, keeping it quiet, and what its complaints mean.

Complaints arrive as exceptions whose texts quote source files of the engine; here they become
sentences and the right type of `EdgeError`. It knows no model.
"""

from __future__ import annotations

import re
from typing import Any

from ...errors import (
    BackendError,
    EdgeError,
    EngineMissingError,
    FormatError,
    MemoryLimitError,
    ModelNotFoundError,
    UnsupportedError,
)
from ...measurement import Engine

QUIET = 4
"""Severity `fatal`: everything else arrives as an exception too and must not be printed."""

_library: Any = None
_CODE = re.compile(r"\[ONNXRuntimeError\]\s*:\s*\d+\s*:\s*\w+\s*:\s*")
_SOURCE = re.compile(r"\S*\.(?:cc|cpp|h):\d+\s+(?:[\w:~<>, *&]+(?:\([^)]*\))?(?:\s*const)?\s*)?")
_OUT_OF_MEMORY = re.compile(
    r"bad[ _]alloc|out of memory|failed to allocate|cannot allocate", re.IGNORECASE
)
_MAX_CAUSE_CHARS = 400


def library() -> Any:
    """The onnxruntime module, imported once and told to print nothing.

    Raises EngineMissingError.
    """
    global _library
    if _library is None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineMissingError(
                "ONNX Runtime is not installed.",
                cause=f"{error}.",
                way_out="pip install onnxruntime",
            ) from error
        onnxruntime.set_default_logger_severity(QUIET)
        onnxruntime.disable_telemetry_events()
        _library = onnxruntime
    return _library


def engine() -> Engine:
    """The engine's version and the providers of this build. Raises EngineMissingError."""
    ort = library()
    names = ", ".join(
        name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()
    )
    return Engine(name="onnxruntime", version=str(ort.__version__), build=f"providers: {names}")


def complaint(error: BaseException) -> str:
    """What the engine says, as one sentence without error codes and the engine's own file names."""
    text = _SOURCE.sub("", _CODE.sub("", str(error)))
    text = " ".join(text.split())
    if len(text) > _MAX_CAUSE_CHARS:
        text = text[:_MAX_CAUSE_CHARS].rstrip() + " ..."
    return f"ONNX Runtime says: {text.rstrip('.')}." if text else "ONNX Runtime gives no reason."


def translated(error: Exception, fact: str) -> EdgeError:
    """The engine's exception as an error of ours: `fact` says what was being done."""
    cause = complaint(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return MemoryLimitError(
            fact,
            cause=cause,
            way_out="Choose a smaller level or a shorter context, or close other programs.",
        )
    kind = type(error).__name__
    if kind in ("InvalidProtobuf", "InvalidGraph", "NoModel"):
        return FormatError(fact, cause=cause, way_out="Convert or download the model again.")
    if kind in ("NoSuchFile", "NotFound"):
        return ModelNotFoundError(fact, cause=cause, way_out="Download all files of the model.")
    if kind == "NotImplemented":
        return UnsupportedError(
            fact,
            cause=cause,
            way_out="Try a newer engine (pip install --upgrade onnxruntime) or another provider.",
        )
    return BackendError(fact, cause=cause)
