"""Processes of their own for engines: a failed check in C ends one of them, and not the caller's.

Both ends of the pipe stand here: JSON objects in lines, one job after the other, any number of
answers to each. What else such a process prints is kept for the day it dies. Knows nothing of what
is asked and answered.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self

from edge_runtime.errors import EngineMissingError, WorkerError

_KILLED = -9  # by SIGKILL, a name that Windows does not have

Job = dict[str, Any]
Say = Callable[[Mapping[str, object]], None]
"""Sends an answer to the parent."""


class Child:
    """A running module of this package; leaving the `with` block ends it, whatever it was doing.

    `engine` is what the module runs, and `package` where it comes from: the words of its death.
    """

    def __init__(
        self, module: str, *, engine: str = "llama.cpp", package: str = "llama-cpp-python"
    ) -> None:
        self._engine, self._package = engine, package
        # ONNX Runtime reports home, and leaves files behind for that, unless told before it loads.
        environment = {"ORT_DISABLE_TELEMETRY": "1", **os.environ}
        # It finds what this process finds, and nothing more: -P leaves the working directory out.
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in sys.path)
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"{__package__}.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            encoding="utf-8",
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a job it never read
                    pipe.close()
        self._complaints.close()

    def ask(self, job: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
        """Hands over a job and yields the answers; they end when the process does."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:  # cannot be: both were asked for
            return
        try:
            stdin.write(json.dumps(job) + "\n")
            stdin.flush()  # and left open: the child ends when it closes
        except BrokenPipeError:
            return
        for line in stdout:
            try:
                yield json.loads(line)
            except ValueError:  # its end cut the line short
                return

    def end(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self._process.wait()

    def death(self, last_words: str = "") -> EngineMissingError | WorkerError:
        """What the end of the process means; `last_words` count where it complained of nothing."""
        code = self._process.wait()
        size = self._complaints.seek(0, os.SEEK_END)
        self._complaints.seek(max(0, size - 8192))
        words = self._complaints.read().decode("utf-8", "replace").strip().splitlines()
        last = words[-1] if words else last_words
        if any(w in "\n".join(words) for w in ("ModuleNotFoundError", "Failed to load shared")):
            return EngineMissingError(
                f"{self._engine} cannot be loaded.",
                cause=last,
                way_out=f"Install it again: pip install --force-reinstall {self._package}",
            )
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        reason = next((line for line in words if "GGML_ASSERT" in line), last)
        if code == _KILLED:
            reason = "The system kills a process when memory runs out."
        return WorkerError(
            f"{self._engine}'s process was ended {how}.",
            cause=f"Its last words: {reason[:300]}" if reason else "",
            way_out="Use fewer threads, or close other programs, and try again."
            if code == _KILLED
            else "",
        )


def serve(answer: Callable[[Job, Say], Mapping[str, object]]) -> NoReturn:
    """Is the child: answers one job after the other until stdin closes, which ends the process.

    Files that a job names under `remove` go with the process when its parent dies meanwhile.
    """
    # The C library prints; what it prints must not mix with the answers.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # C code never returns to Python's handler

    def say(message: Mapping[str, object]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    current: list[Job] = []
    threading.Thread(target=_listen, args=(jobs, current), daemon=True).start()
    while True:
        current.append(jobs.get())
        last = answer(current[0], say)
        current.clear()
        say(last)


def _listen(jobs: queue.SimpleQueue[Job], current: list[Job]) -> None:
    # The bare descriptor: a thread that holds sys.stdin's lock cannot be ended cleanly.
    data = b""
    while more := os.read(0, 65536):
        *lines, data = (data + more).split(b"\n")
        for line in lines:
            jobs.put(json.loads(line))
    for path in (name for job in current for name in job.get("remove", ())):
        with contextlib.suppress(OSError):
            Path(path).unlink()
    os._exit(1 if current else 0)
