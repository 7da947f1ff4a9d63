"""A GGUF file put to the test: every value finite, and one token decoded by llama.cpp.

The engine runs in a process of its own, which a damaged file may end without ending this one. What
a model says is not judged, only that it says something finite.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from edge_runtime.artifact.gguf import read_header
from edge_runtime.artifact.split import read_parts
from edge_runtime.errors import BackendError, EdgeError, EngineMissingError, FormatError

_EMBEDS_ONLY = frozenset({"bert"})
"""Architectures whose models give no logits, only an embedding."""
_INVALID = re.compile(r"tensor '(?P<name>[^']+)' has invalid data")


def verify(path: Path) -> None:
    """Has llama.cpp load a model, check all its values and decode one token.

    `path` is a file, or any part of a split one. Raises FormatError for a damaged file and values
    that are no finite numbers, BackendError when llama.cpp refuses the model or its process dies,
    EngineMissingError when it cannot be loaded.
    """
    verify_files(tuple(header.path for header in read_parts(path)))


def verify_files(paths: tuple[Path, ...]) -> None:
    """Does what `verify` does with the files of one model, in order, whatever they are called."""
    architecture = read_header(paths[0]).metadata.get("general.architecture")
    job = {
        "paths": [str(path.absolute()) for path in paths],
        "embeds": architecture in _EMBEDS_ONLY,
    }
    environment = dict(os.environ)
    roots = [str(Path(__file__).resolve().parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, roots))
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.first_token"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        try:
            answer = _ask(child, job)
        finally:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
        if answer is None:
            raise _death(child.returncode, _tail(complaints))
    if "refused" in answer:
        raise _refusal(str(answer["refused"]))
    if answer.get("finite") is not True:
        raise FormatError(
            "The converted model does not compute finite numbers.",
            cause="Its first token's logits are infinite or no numbers.",
            way_out="Convert to BF16 or F32; if that helps, values overflow half precision.",
        )


def _ask(child: subprocess.Popen[str], job: dict[str, object]) -> dict[str, object] | None:
    """Hands the child its job; its answer, None when it died first."""
    if child.stdin is None or child.stdout is None:  # cannot be: both were asked for
        return None
    try:
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.flush()  # and left open: the child ends when it closes
    except BrokenPipeError:
        child.wait()
        return None
    line = child.stdout.readline()
    if not line:
        child.wait()
        return None
    answer: dict[str, object] = json.loads(line)
    return answer


def _refusal(reason: str) -> EdgeError:
    if found := _INVALID.search(reason):
        return FormatError(
            f"The tensor {found['name']} holds values that are no finite numbers.",
            cause="The file is damaged, or so was what it was made from.",
            way_out="Convert it again, or download it again.",
        )
    return BackendError("llama.cpp does not load the model.", cause=f"It says: {reason}")


def _death(code: int, complaints: str) -> BackendError:
    words = complaints.strip().splitlines()
    last = words[-1] if words else ""
    if "ModuleNotFoundError" in complaints or "Failed to load shared library" in complaints:
        return EngineMissingError(
            "llama.cpp cannot be loaded.",
            cause=last,
            way_out="Install it again: pip install --force-reinstall llama-cpp-python",
        )
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
    reason = next((line for line in words if "GGML_ASSERT" in line), last)
    if code == -signal.SIGKILL:
        reason = "The system kills a process when memory runs out."
    return BackendError(
        f"llama.cpp's process was ended {how} while it ran the model.",
        cause=f"Its last words: {reason[:300]}" if reason else "",
    )


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8192))
    return file.read().decode("utf-8", "replace")
