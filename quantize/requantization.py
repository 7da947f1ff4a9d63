"""A GGUF artifact becomes a smaller one, by llama.cpp's own quantizer in a process of its own.

A failed check in C ends that process and not the caller's. Knows how the quantizer fails and what
its failures mean; which tensor gets which type is the quantizer's decision.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from edge_runtime.artifact import Artifact, Level, levels
from edge_runtime.artifact.recipe import types_for
from edge_runtime.errors import (
    BackendError,
    DiskError,
    EngineMissingError,
    UnsupportedError,
    UsageError,
    WorkerError,
)

from .writers.gguf import Progress
from .writers.whole_file import whole_file

_LOSSLESS = {"F32", "F16", "BF16"}


def requantize(
    source: Path,
    out: Path,
    level: str,
    *,
    allow_requantize: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Quantizes a GGUF file to a level and opens the result.

    A source that is quantized already loses quality twice and is taken only with
    `allow_requantize`. `threads` None takes all cores. Raises UsageError, UnsupportedError for a
    level that needs an importance matrix, DiskError, BackendError when the quantizer refuses, and
    WorkerError when its process dies.
    """
    source, out = Path(source), Path(out)
    recipe = levels.level(level)
    if recipe.needs_imatrix:
        raise needs_importance(recipe)
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads cannot quantize.", way_out="Give 1 or more.")
    artifact = Artifact.open(source)
    if out.exists() and any(out.samefile(path) for path in artifact.paths):
        raise UsageError(f"{out} would overwrite its own source.", way_out="Name another file.")
    types = {tensor.type.name for tensor in artifact.tensors}
    if not allow_requantize and not types <= _LOSSLESS:
        raise UsageError(
            f"{source} is quantized already ({artifact.level}).",
            cause="Quantizing it again loses quality twice.",
            way_out="Start from an F16, BF16 or F32 file, or allow requantizing.",
        )
    # Metadata is copied and grows by a few bytes at most.
    needed = artifact.size_bytes - artifact.weight_bytes + _quantized_bytes(artifact, recipe)
    with whole_file(out, needed) as temporary:
        spec = {
            "source": str(artifact.path.absolute()),
            "out": str(temporary.absolute()),
            "ftype": recipe.ftype,
            "threads": threads or 0,
            "allow_requantize": allow_requantize,
        }
        _run(spec, out, progress)
    return Artifact.open(out)


def needs_importance(recipe: Level) -> UnsupportedError:
    """The refusal of a level whose quality depends on an importance matrix."""
    return UnsupportedError(
        f"{recipe.name} needs an importance matrix.",
        cause="At so few bits llama.cpp's quantizer must know which weights matter.",
        way_out="Choose a level without one: Q2_K, IQ3_S or larger.",
    )


def _quantized_bytes(artifact: Artifact, recipe: Level) -> int:
    types = types_for(artifact.shape, recipe)
    return sum(types.get(t.name, t.type).size_bytes(t.dims) for t in artifact.tensors)


def _run(spec: dict[str, object], out: Path, progress: Progress | None) -> None:
    environment = dict(os.environ)
    roots = [str(Path(__file__).resolve().parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, roots))
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        try:
            status, log = _follow(child, spec, progress)
            child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
        if status == 0 and child.returncode == 0:
            return
        raise _failure(child.returncode, status, log, _tail(complaints), out)


def _follow(
    child: subprocess.Popen[str], spec: dict[str, object], progress: Progress | None
) -> tuple[int | None, list[str]]:
    """Hands the child its spec and listens; its final status (None if it gave none) and its log."""
    status: int | None = None
    log: list[str] = []
    if child.stdin is None or child.stdout is None:  # cannot be: both were asked for
        return None, log
    try:
        child.stdin.write(json.dumps(spec) + "\n")
        child.stdin.flush()  # and left open: the child ends when it closes
    except BrokenPipeError:
        return None, log
    for line in child.stdout:
        message = json.loads(line)
        if "log" in message:
            log = [*log[-19:], message["log"]]
        elif "status" in message:
            status = message["status"]
        elif progress is not None:
            progress(message["done"] / max(message["total"], 1))
    return status, log


def _failure(
    code: int, status: int | None, log: list[str], complaints: str, out: Path
) -> BackendError | DiskError | WorkerError:
    last = next((line for line in reversed(log) if not line.startswith("llama_model_loader")), "")
    if "ModuleNotFoundError" in complaints or "Failed to load shared library" in complaints:
        return EngineMissingError(
            "llama.cpp's quantizer cannot be loaded.",
            cause=complaints.strip().splitlines()[-1],
            way_out="Install it again: pip install --force-reinstall llama-cpp-python",
        )
    if status is not None:
        if "iostream" in last or "basic_ios" in last:
            return DiskError(
                f"{out} cannot be written.",
                cause=f"The quantizer says: {last}",
                way_out="Free some space, or choose a directory on another disk.",
            )
        return BackendError("The quantizer refused the file.", cause=f"It says: {last}")
    words = complaints.strip().splitlines()
    reason = next((line for line in words if "GGML_ASSERT" in line), words[-1] if words else last)
    how = f"with exit status {code}"
    if code < 0:
        how = f"by signal {signal.Signals(-code).name}"
    if code == -signal.SIGKILL:
        reason = reason or "The system kills a process when memory runs out."
    return WorkerError(
        f"The quantizing process was ended {how}.",
        cause=f"Its last words: {reason[:300]}" if reason else "",
    )


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8192))
    return file.read().decode("utf-8", "replace")
