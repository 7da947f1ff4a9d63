"""ONNX Runtime as a library: importing it, keeping it quiet, and what its complaints mean.

Complaints arrive as exceptions whose texts quote source files of the engine; here they become
sentences and the right type of `EdgeError`. It knows no model.
"""

from __future__ import annotations

import os
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
_LOADING = re.compile(
    r"^Load model from .*?(?: failed:\s*|\.onnx\s+(?:failed:\s*)?)(?:Fatal error: )?"
)
_MAX_CAUSE_CHARS = 400
_MAX_READ_CHARS = 4000
"""A graph's own names stand in complaints, and may be of any length."""

_NEWER = "Try a newer engine: pip install --upgrade onnxruntime"
_AGAIN = "Convert or download the model again."
_RULES: tuple[tuple[str, type[EdgeError], str, str], ...] = (
    (r"(?:ai\.onnx|com\.microsoft)?:?([\w.:]+)\(-?\d+\) is not a registered function/op",
     UnsupportedError, "The engine knows no operator {0}.", _NEWER),
    (r"No Op registered for (\w+)",
     UnsupportedError, "The engine knows no operator {0}.", _NEWER),
    (r"Could not find an implementation for (\w+)\(",
     UnsupportedError, "No execution provider in use has a kernel for {0} of these types.",
     "Try another level or provider, or a newer engine: pip install --upgrade onnxruntime"),
    (r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
     UnsupportedError, "The file is of ONNX's IR version {0}, and this engine reads up to {1}.",
     _NEWER),
    (r"Opset (\d+) is under development",
     UnsupportedError, "The file uses opset {0}, which this engine does not know yet.", _NEWER),
    (r"External data path validation failed|External initializer.*(?:No such file|not found)",
     ModelNotFoundError, "A file with its weights is missing or cannot be used.",
     "Download all files of the model into one folder."),
    (r"file_length: (\d+) are out of bounds",
     FormatError, "A file with its weights ends early, after {0} bytes.", _AGAIN),
    (r"No graph was found in the protobuf|Protobuf parsing failed",
     FormatError, "It is no ONNX model, or was cut off.", _AGAIN),
    (r"Invalid model\. (.+?)\.?$|(Type Error: .+?)\.?$|\[ShapeInferenceError\] (.+?)\.?$",
     FormatError, "Its graph is not valid: {0}.", _AGAIN),
)  # fmt: skip
"""What complaints mean that the engine all calls failures: pattern, error, cause and way out."""


def library() -> Any:
    """The onnxruntime module, imported once and told to print nothing.

    Raises EngineMissingError.
    """
    global _library
    if _library is None:
        # Read while the library is loaded, and nothing else keeps it from leaving a database and an
        # identity in the user's cache and a file in the temporary folder, and from sending them.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineMissingError(
                "ONNX Runtime is not installed.",
                cause=f"{error}.",
                way_out="pip install onnxruntime",
            ) from error
        onnxruntime.set_default_logger_severity(QUIET)
        _library = onnxruntime
    return _library


def engine() -> Engine:
    """The engine's version and the providers of this build. Raises EngineMissingError."""
    ort = library()
    # Azure's computes nothing: it calls a service.
    names = ", ".join(
        name.removesuffix("ExecutionProvider")
        for name in ort.get_available_providers()
        if name != "AzureExecutionProvider"
    )
    return Engine(name="onnxruntime", version=str(ort.__version__), build=f"providers: {names}")


def complaint(error: BaseException) -> str:
    """What the engine says, as one sentence without error codes and the engine's own file names."""
    text = _LOADING.sub("", _SOURCE.sub("", _CODE.sub("", _words(error))))
    text = " ".join(text.split())
    if len(text) > _MAX_CAUSE_CHARS:
        text = text[:_MAX_CAUSE_CHARS].rstrip() + " ..."
    return f"ONNX Runtime says: {text.rstrip('.')}." if text else "ONNX Runtime gives no reason."


def _words(error: BaseException) -> str:
    return str(error)[:_MAX_READ_CHARS]


def translated(error: Exception, fact: str) -> EdgeError:
    """The engine's exception as an error of ours: `fact` says what was being done."""
    cause = complaint(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(_words(error)):
        return MemoryLimitError(
            fact,
            cause="There is not enough free memory.",
            way_out="Choose a smaller level or a shorter context, or close other programs.",
        )
    for pattern, kind_of_error, meaning, way_out in _RULES:
        if match := re.search(pattern, _words(error), re.MULTILINE):
            groups = [group for group in match.groups() if group is not None]
            return kind_of_error(fact, cause=meaning.format(*groups), way_out=way_out)
    kind = type(error).__name__
    if kind in ("InvalidProtobuf", "InvalidGraph", "NoModel"):
        return FormatError(fact, cause=cause, way_out=_AGAIN)
    if kind in ("NoSuchFile", "NotFound"):
        return ModelNotFoundError(fact, cause=cause, way_out="Download all files of the model.")
    if kind == "NotImplemented":
        return UnsupportedError(
            fact,
            cause=cause,
            way_out="Try a newer engine (pip install --upgrade onnxruntime) or another provider.",
        )
    return BackendError(fact, cause=cause)
