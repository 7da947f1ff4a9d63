"""A child process of ours, as its parent has it: started, listened to, and certainly ended.

The parent hands the child a specification and then sleeps in a read until the child says something;
between events it uses no processor time that could disturb. A child that dies, answers nonsense or
takes too long becomes a WorkerError that names the evidence; an error raised in the child arrives
here as what it was. No child outlives what it was started for. What it is asked to do, this module
does not know: that is its specification's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from ..errors import EdgeError, WorkerError
from ..units import format_duration
from .ceiling import oom_kills
from .wire import ENOUGH, MAX_LINE_BYTES, Listener, Message, Progress, decode, encode

Answer = TypeVar("Answer")

MEASURING = "edge_runtime.profiler.worker"
"""The child's program that measures."""
_EXIT_GRACE_S = 10.0
"""How long a child may take to end after its answer before it is killed."""
_STDERR_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to do about a child that took too long, took too much memory, or cannot compute here.

    `activity` is what the child does, as in "the measuring process", `act` what was asked of it, as
    in "the measurement of tg128".
    """

    activity: str = "measuring"
    act: str = "measurement"
    slow: str
    memory: str
    reinstall: str


class Child:
    """The child process of one measurement, or of another task, from its start to its certain end.

    `module` is the program it runs, which serves by `serving.serve`. `what` names what it works on,
    for a child that ends without an answer. It is ended after `timeout_s`, which with `renewed`
    begins anew whenever it says something. The command is put behind `confined_by`, which becomes
    it. `on_start` is told the process's number.
    """

    def __init__(
        self,
        spec: object,
        what: str,
        advice: Advice,
        *,
        timeout_s: float,
        on_event: Listener | None,
        module: str = MEASURING,
        renewed: bool = False,
        confined_by: tuple[str, ...] = (),
        on_start: Callable[[int], None] | None = None,
    ) -> None:
        self._spec = spec
        self._module = module
        self._renewed = renewed
        self._on_start = on_start
        self._confined_by = confined_by
        self._what = what
        self._advice = advice
        self._timeout_s = timeout_s
        self._on_event = on_event
        self._watchdog: threading.Timer | None = None
        self._timed_out = False
        self._lingers = False
        self._oom_kills = oom_kills()

    def answer(self, kind: type[Answer]) -> Answer:
        """Runs the child and returns what it found, which is of that kind."""
        with tempfile.TemporaryFile() as noise:
            process = _start(noise, self._module, self._confined_by)
            self._watch(process)
            try:
                if self._on_start is not None:
                    self._on_start(process.pid)
                message = self._converse(process, kind)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_EXIT_GRACE_S)
                self._lingers = process.poll() is None
            finally:
                self._unwatch()
                # Also on KeyboardInterrupt and on an error in on_event: no orphan is left.
                if process.poll() is None:
                    process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        with contextlib.suppress(OSError):
                            pipe.close()
            if isinstance(message, EdgeError):
                raise message
            if isinstance(message, kind):
                return message
            raise self._obituary(process, noise)

    def _converse(
        self, process: subprocess.Popen[bytes], kind: type[Answer]
    ) -> Answer | Message | None:
        """Deals with events until the answer comes; None when the child ends without one."""
        assert process.stdin is not None
        assert process.stdout is not None
        self._tell(process.stdin, encode(self._spec))
        while line := process.stdout.readline(MAX_LINE_BYTES):
            message = decode(line, kind)
            if not isinstance(message, Progress):
                return message
            if self._renewed:
                self._unwatch()
                self._watch(process)
            enough = self._on_event is not None and self._on_event(message)
            self._tell(process.stdin, ENOUGH if enough else b"\n")
        return None

    @staticmethod
    def _tell(pipe: IO[bytes], line: bytes) -> None:
        # A child that died is noticed by the read that follows.
        with contextlib.suppress(BrokenPipeError, OSError):
            pipe.write(line)
            pipe.flush()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        self._watchdog = threading.Timer(self._timeout_s, self._expire, (process,))
        self._watchdog.daemon = True
        self._watchdog.start()

    def _unwatch(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()

    def _expire(self, process: subprocess.Popen[bytes]) -> None:
        self._timed_out = True
        process.kill()

    def _obituary(self, process: subprocess.Popen[bytes], noise: IO[bytes]) -> WorkerError:
        """Words how the child ended without an answer."""
        said = last_line(noise)
        words = f" Its last words: {said!r}." if said else ""
        if self._timed_out:
            limit = format_duration(self._timeout_s)
            late = f"said nothing for {limit}" if self._renewed else f"took longer than {limit}"
            return WorkerError(
                f"The {self._advice.act} of {self._what} {late} and was ended.",
                cause=words.strip(),
                way_out=self._advice.slow,
            )
        code = process.returncode
        process_name = f"The {self._advice.activity} process"
        if self._lingers:
            return WorkerError(
                f"{process_name} stopped answering but did not end; it was killed.",
                cause=words.strip(),
            )
        if code < 0:
            return WorkerError(
                f"{process_name} was ended by {_signal_name(-code)}.",
                cause=_signal_cause(-code, oom_kills(), self._oom_kills) + words,
                way_out=self._signal_way_out(-code),
            )
        return WorkerError(
            f"{process_name} ended without an answer (exit code {code}).",
            cause=words.strip(),
            way_out="Run edge doctor to see whether the engine is complete.",
        )

    def _signal_way_out(self, number: int) -> str:
        return {
            9: self._advice.memory,
            4: self._advice.reinstall,
            7: "The model file changed or shrank while it was mapped: fetch it again.",
        }.get(number, "Try a smaller model or another level.")


def _start(noise: IO[bytes], module: str, confined_by: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Spawns the worker so that it finds the same packages as this process."""
    if not sys.executable or getattr(sys, "frozen", False):
        raise WorkerError(
            "Measuring needs a Python interpreter to start, and this program has none.",
            cause="It is frozen into one file, or embeds Python.",
            way_out="Install edge-runtime with pip and run edge profile.",
        )
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in sys.path)
    # -P: the present directory joins the path only where this process has it there too.
    command = [*confined_by, sys.executable, "-P", "-m", module]
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, env=environment
        )
    except OSError as error:
        raise WorkerError("The measuring process cannot be started.", cause=f"{error}.") from error


def last_line(noise: IO[bytes]) -> str:
    """The last line that says anything in what a child printed, at most 300 characters."""
    size = noise.seek(0, os.SEEK_END)
    noise.seek(max(0, size - _STDERR_TAIL_BYTES))
    lines = [line.strip() for line in noise.read().decode(errors="replace").splitlines()]
    return next((line[:300] for line in reversed(lines) if line), "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _signal_cause(number: int, kills_after: int | None, kills_before: int | None) -> str:
    if number == 9:
        if kills_after is not None and kills_before is not None and kills_after > kills_before:
            return "The kernel killed it for lack of memory (its oom_kill counter went up)."
        return (
            "Most likely the kernel killed it for lack of memory, though its oom_kill counter"
            " does not show it."
        )
    return {
        4: "It met an instruction this processor does not have.",
        6: "The engine aborted on an internal check.",
        7: "A mapped file could not be read.",
        11: "The engine crashed.",
    }.get(number, "Somebody or something sent it that signal.")
