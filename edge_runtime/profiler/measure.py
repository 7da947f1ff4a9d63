"""One measurement: a fresh child process, its answer, and the record made of both.

The parent starts `edge_runtime.profiler.worker`, hands it a specification and then sleeps in a read
until the child says something; between events it uses no processor time that could disturb. A child
that dies, answers nonsense or takes too long becomes a WorkerError that names the evidence; an
error raised in the child arrives here as what it was. No child outlives its measurement.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TypeVar

from ..artifact import Artifact
from ..errors import EdgeError, UsageError, WorkerError
from ..measurement import ArtifactRecord, Limits, Measurement, SessionOptions, Workload
from ..units import format_duration
from .ceiling import oom_kills
from .host import detect_host
from .limits import Confinement
from .wire import (
    ENOUGH,
    MAX_LINE_BYTES,
    AnyOutcome,
    LatencySpec,
    Listener,
    Message,
    Outcome,
    Plan,
    Progress,
    Spec,
    decode,
    encode,
)

Answer = TypeVar("Answer", bound=AnyOutcome)

_EXIT_GRACE_S = 10.0
"""How long a child may take to end after its answer before it is killed."""
_STDERR_TAIL_BYTES = 16 * 1024


def measure(
    artifact: Artifact,
    workload: Workload,
    options: SessionOptions | None = None,
    *,
    plan: Plan | None = None,
    limits: Limits | None = None,
    stated_power_w: float | None = None,
    on_event: Listener | None = None,
) -> Measurement:
    """Measures one workload on one artifact in a fresh child process.

    The context length defaults to exactly what the workload fills, as llama-bench does. `limits`
    emulate a smaller device. `stated_power_w` is kept for an estimate of energy where nothing
    measures it. `on_event` is called between timed runs, never during one; when it returns True no
    further run is begun. Raises UsageError when the workload cannot be run under the options,
    WorkerError when the child dies or takes too long, and whatever the backend raised.
    """
    # The child imports this package too, and has no use for what watches it.
    from .watch import Watch

    plan = plan or Plan()
    asked = options or SessionOptions()
    # Before the child exists: its memory must not count as taken.
    host = detect_host()
    with (
        Confinement(limits, artifact, asked, host) as confinement,
        Watch(plan, limits=confinement.limits, on_event=on_event) as watch,
    ):
        spec = Spec(
            artifact=str(artifact.path.absolute()),
            options=fitted_options(workload, confinement.options),
            workload=workload,
            plan=plan,
            parent_pid=os.getpid(),
            least_run_s=watch.least_run_s,
            limits=confinement.limits,
        )
        child = Child(
            spec, workload.name, _ADVICE, timeout_s=watch.timeout_s, on_event=watch.on_event,
            confined_by=confinement.command, on_start=watch.on_start,
        )  # fmt: skip
        try:
            outcome = child.answer(Outcome)
        except EdgeError as error:
            told = confinement.explained(error)
            if told is error:
                raise
            raise told from error
    return Measurement(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        tool_version=tool_version(),
        host=replace(confinement.host, gpus=outcome.gpus),
        engine=outcome.engine,
        artifact=artifact_record(artifact),
        options=outcome.options,
        requested=asked,
        workload=workload,
        load=outcome.load,
        warmups=outcome.warmups,
        runs=outcome.runs,
        stopped=outcome.stopped,
        memory=watch.memory(outcome.memory, outcome.gpus),
        energy=watch.energy(),
        heat=watch.heat(),
        refusals=watch.refusals,
        battery=watch.battery,
        timeline=watch.timeline(outcome.windows),
        stated_power_w=stated_power_w,
        sustain_s=_sustained_s(plan, outcome),
        noise=outcome.noise,
        emulated=confinement.emulation,
        notes=(*confinement.notes, *outcome.notes),
    )


def _sustained_s(plan: Plan, outcome: Outcome) -> float | None:
    """How long the repetitions were kept up on purpose: less than asked when ended early."""
    if plan.sustain_s is None:
        return None
    lasted = next((w.duration_s for w in outcome.windows if w.name == "runs"), plan.sustain_s)
    return min(plan.sustain_s, lasted)


def artifact_record(artifact: Artifact) -> ArtifactRecord:
    """What a measurement keeps of an artifact: no absolute path, for records travel."""
    shape = artifact.shape
    return ArtifactRecord(
        name=artifact.name,
        file=artifact.path.name,
        fingerprint=artifact.fingerprint,
        format=artifact.format,
        architecture=shape.architecture,
        level=artifact.level,
        parameters=artifact.parameters,
        layers=shape.layers,
        layers_of_model=artifact.layers_of_model,
        size_bytes=artifact.size_bytes,
        decode_bytes=artifact.decode_bytes,
        synthetic=artifact.synthetic,
    )


def fitted_options(workload: Workload, options: SessionOptions) -> SessionOptions:
    """The options with a context of exactly the workload's tokens, unless one was asked for.

    Raises UsageError when the workload is empty, or does not fit the context asked for.
    """
    if workload.prompt_tokens + workload.generate_tokens < 1 or min(
        workload.prompt_tokens, workload.generate_tokens, workload.depth_tokens
    ) < 0:  # fmt: skip
        raise UsageError(
            f"The workload {workload.name!r} runs no tokens.",
            way_out="Give it prompt tokens, tokens to generate, or both.",
        )
    if workload.protocol == "chat":
        if workload.depth_tokens:
            raise UsageError(
                f"The chat-like workload {workload.name!r} cannot start at a depth.",
                way_out="Give it a longer prompt, or use llama-bench's protocol: -n 128 -d 4096",
            )
        if not (workload.prompt_tokens and workload.generate_tokens):
            raise UsageError(f"The chat-like workload {workload.name!r} needs a prompt and output.")
    if options.context_tokens is None:
        return replace(options, context_tokens=workload.total_tokens)
    if options.context_tokens < workload.total_tokens:
        raise UsageError(
            f"{workload.name} fills {workload.total_tokens} tokens, the context has"
            f" {options.context_tokens}.",
            way_out="Ask for a larger context, or leave it out.",
        )
    return options


def tool_version() -> str:
    """The version of this package, as records carry it."""
    from .. import __version__

    return __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to do about a child that took too long, took too much memory, or cannot compute here."""

    slow: str
    memory: str
    reinstall: str


_ADVICE = Advice(
    slow="Measure fewer tokens, or allow more time.",
    memory="Choose a smaller level or a shorter context, or free memory.",
    reinstall="The engine was built for another processor: reinstall llama-cpp-python from source.",
)


class Child:
    """The child process of one measurement, from its start to its certain end.

    `what` names what is measured, for a child that ends without an answer. The command is put
    behind `confined_by`, which becomes it. `on_start` is told the process's number.
    """

    def __init__(
        self,
        spec: Spec | LatencySpec,
        what: str,
        advice: Advice,
        *,
        timeout_s: float,
        on_event: Listener | None,
        confined_by: tuple[str, ...] = (),
        on_start: Callable[[int], None] | None = None,
    ) -> None:
        self._spec = spec
        self._on_start = on_start
        self._confined_by = confined_by
        self._what = what
        self._advice = advice
        self._timeout_s = timeout_s
        self._on_event = on_event
        self._timed_out = False
        self._lingers = False
        self._oom_kills = oom_kills()

    def answer(self, kind: type[Answer]) -> Answer:
        """Runs the child and returns what it found, which is of that kind."""
        with tempfile.TemporaryFile() as noise:
            process = _start(noise, self._confined_by)
            watchdog = threading.Timer(self._timeout_s, self._expire, (process,))
            watchdog.daemon = True
            watchdog.start()
            try:
                if self._on_start is not None:
                    self._on_start(process.pid)
                message = self._converse(process)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_EXIT_GRACE_S)
                self._lingers = process.poll() is None
            finally:
                watchdog.cancel()
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

    def _converse(self, process: subprocess.Popen[bytes]) -> Message | None:
        """Deals with events until the answer comes; None when the child ends without one."""
        assert process.stdin is not None
        assert process.stdout is not None
        self._tell(process.stdin, encode(self._spec))
        while line := process.stdout.readline(MAX_LINE_BYTES):
            message = decode(line)
            if not isinstance(message, Progress):
                return message
            enough = self._on_event is not None and self._on_event(message)
            self._tell(process.stdin, ENOUGH if enough else b"\n")
        return None

    @staticmethod
    def _tell(pipe: IO[bytes], line: bytes) -> None:
        # A child that died is noticed by the read that follows.
        with contextlib.suppress(BrokenPipeError, OSError):
            pipe.write(line)
            pipe.flush()

    def _expire(self, process: subprocess.Popen[bytes]) -> None:
        self._timed_out = True
        process.kill()

    def _obituary(self, process: subprocess.Popen[bytes], noise: IO[bytes]) -> WorkerError:
        """Words how the child ended without an answer."""
        said = last_line(noise)
        words = f" Its last words: {said!r}." if said else ""
        if self._timed_out:
            limit = format_duration(self._timeout_s)
            return WorkerError(
                f"The measurement of {self._what} took longer than {limit} and was ended.",
                cause=words.strip(),
                way_out=self._advice.slow,
            )
        code = process.returncode
        if self._lingers:
            return WorkerError(
                "The measuring process stopped answering but did not end; it was killed.",
                cause=words.strip(),
            )
        if code < 0:
            return WorkerError(
                f"The measuring process was ended by {_signal_name(-code)}.",
                cause=_signal_cause(-code, oom_kills(), self._oom_kills) + words,
                way_out=self._signal_way_out(-code),
            )
        return WorkerError(
            f"The measuring process ended without an answer (exit code {code}).",
            cause=words.strip(),
            way_out="Run edge doctor to see whether the engine is complete.",
        )

    def _signal_way_out(self, number: int) -> str:
        return {
            9: self._advice.memory,
            4: self._advice.reinstall,
            7: "The model file changed or shrank while it was mapped: fetch it again.",
        }.get(number, "Try a smaller model or another level.")


def _start(noise: IO[bytes], confined_by: tuple[str, ...]) -> subprocess.Popen[bytes]:
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
    command = [*confined_by, sys.executable, "-P", "-m", "edge_runtime.profiler.worker"]
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
