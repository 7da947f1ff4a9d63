"""The native library: loading it once, taking over its log, asking it for its devices.

The engine's log never reaches the terminal: it is kept, bounded, and its last errors become the
cause in our own. This module knows nothing of models.
"""

from __future__ import annotations

import collections
import ctypes
import threading
from pathlib import Path
from typing import Any

from ...errors import EngineMissingError
from ...measurement import Engine, Gpu
from .amx import broken_compiler

WARNING, ERROR = 3, 4
"""ggml's log levels (ggml.h); a continued line, 5, has the level of its beginning."""

_CONTINUED = 5
_GPU_KINDS = (1, 2)
"""ggml's device types of a graphics card with memory of its own and of one without."""

_lock = threading.Lock()
_library: Any = None


class EngineLog:
    """The engine's last log lines, numbered, so that a caller can ask what came since a mark."""

    def __init__(self, lines: int = 4000) -> None:
        self._lines: collections.deque[tuple[int, int, str]] = collections.deque(maxlen=lines)
        self._partial = ""
        self._level = 0
        self.mark = 0

    def receive(self, level: int, text: bytes | None, _: object) -> None:
        """Takes one fragment; lines may come in several."""
        # This runs on whichever thread the engine logs from and must never raise into C.
        if level != _CONTINUED:
            self._level = level
        *whole, self._partial = (self._partial + (text or b"").decode("utf-8", "replace")).split(
            "\n"
        )
        self._partial = self._partial[-4096:]
        for line in whole:
            self.mark += 1
            self._lines.append((self.mark, self._level, line[:4096]))

    def since(self, mark: int, *, level: int = 0) -> tuple[str, ...]:
        """The lines after a mark; with `level` only those from it up to errors."""
        return tuple(
            text
            for number, found, text in tuple(self._lines)
            if number > mark and (not level or level <= found <= ERROR)
        )

    def complaint(self, mark: int) -> str:
        """The engine's own last errors since a mark, as one sentence; warnings if no error came."""
        for level in (ERROR, WARNING):
            lines = [_without_prefix(line) for line in self.since(mark, level=level)]
            told = list(dict.fromkeys(line for line in lines if line))
            if told:
                return "llama.cpp says: " + "; ".join(told[:3]).rstrip(".") + "."
        return ""


def _without_prefix(line: str) -> str:
    """A log line without the name of the C function that wrote it."""
    head, colon, rest = line.partition(": ")
    text = rest if colon and head.replace("_", "").isalnum() else line
    return text.strip()


LOG = EngineLog()


def library() -> Any:
    """The low-level bindings, loaded once per process. Raises EngineMissingError."""
    global _library
    if _library is not None:
        return _library
    with _lock:
        if _library is None:
            _library = _load()
    return _library


def _load() -> Any:
    try:
        import llama_cpp.llama_cpp as bindings
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise EngineMissingError(
            "llama.cpp's native library cannot be loaded.",
            cause=f"{error}.",
            way_out="Build it again: pip install --force-reinstall --no-cache-dir llama-cpp-python",
        ) from error
    callback = bindings.llama_log_callback(LOG.receive)
    bindings.llama_log_set(callback, ctypes.c_void_p(0))
    # The C side keeps a bare pointer: the callback must live as long as the library.
    bindings.edge_runtime_log_callback = callback
    bindings.llama_backend_init()
    return bindings


def engine() -> Engine:
    """llama.cpp by its binding's version, with what it says of the processor features it uses."""
    bindings = library()
    import llama_cpp

    build = _system_info(bindings)
    if compiler := amx_broken_by():
        build += f" (its AMX kernels are broken by {compiler} and not used)"
    return Engine(name="llama.cpp", version=llama_cpp.__version__, build=build)


def amx_broken_by() -> str | None:
    """The compiler that made this build's AMX kernels crash, or None when they may be used."""
    bindings = library()
    return broken_compiler(_system_info(bindings), Path(bindings.__file__).parent / "lib")


def _system_info(bindings: Any) -> str:
    text: bytes = bindings.llama_print_system_info()
    return text.decode("utf-8", "replace").strip()


def gpus() -> tuple[Gpu, ...]:
    """The graphics devices llama.cpp's build sees, with their total memory."""
    if not library().llama_supports_gpu_offload():
        return ()
    try:
        ggml = _device_functions()
    except (ImportError, OSError, AttributeError):
        # The device list is no part of the published bindings; offloading works without it.
        return (Gpu(name="GPU", description="seen by llama.cpp", memory_bytes=None),)
    found = []
    for index in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(index)
        if ggml.ggml_backend_dev_type(device) not in _GPU_KINDS:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name, description = (
            (read(device) or b"").decode("utf-8", "replace")
            for read in (ggml.ggml_backend_dev_name, ggml.ggml_backend_dev_description)
        )
        found.append(Gpu(name=name, description=description, memory_bytes=total.value or None))
    return tuple(found)


def _device_functions() -> Any:
    from llama_cpp._ggml import libggml

    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    sizes = ctypes.POINTER(ctypes.c_size_t)
    for name, arguments, result in (
        ("ggml_backend_dev_count", [], ctypes.c_size_t),
        ("ggml_backend_dev_get", [ctypes.c_size_t], pointer),
        ("ggml_backend_dev_type", [pointer], ctypes.c_int),
        ("ggml_backend_dev_name", [pointer], text),
        ("ggml_backend_dev_description", [pointer], text),
        ("ggml_backend_dev_memory", [pointer, sizes, sizes], None),
    ):
        function = getattr(libggml, name)
        function.argtypes, function.restype = arguments, result
    return libggml
