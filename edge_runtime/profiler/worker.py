"""The child process of a measurement: reads one specification, measures, answers, ends.

Run as `python -m edge_runtime.profiler.worker` by `measure`, never by a person. It speaks JSON
lines: the specification and the parent's acknowledgements come in on stdin, events and the outcome
go out on what was stdout when it started. Everything else that anybody prints, engine or library,
lands in stderr, so that no noise can corrupt an answer.

After each event it waits for the parent's acknowledgement: while something is timed here, the
parent sleeps.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from .. import backends
from ..artifact import Artifact
from ..errors import EdgeError, MemoryLimitError, WorkerError
from ..measurement import Load, Run, Workload
from ..statistics import Interval, confidence_interval
from ..timeline import Window
from ..units import NS_PER_S
from .instruments import Instruments
from .limits import confine_cores
from .pagecache import drop_from_page_cache, page_cache_state, resident_share
from .protocols import Runner, runner
from .repetition import stop_reason
from .run_log import RunLog
from .wire import (
    ENOUGH,
    LatencySpec,
    Message,
    Outcome,
    Plan,
    Progress,
    Spec,
    decode_spec,
    encode,
)

_PR_SET_PDEATHSIG = 1
_TELL_EVERY_S = 1.0
_RECENT_RUNS = 10


class Channel:
    """The private line to the parent."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.enough = False
        """Whether the parent has asked that no further repetition be begun."""

    def receive(self) -> bytes:
        """One line from the parent."""
        return self._incoming.readline()

    def send(self, message: Message) -> None:
        """Writes a message and, for an event, waits until the parent has dealt with it."""
        self._outgoing.write(encode(message))
        self._outgoing.flush()
        if isinstance(message, Progress):
            reply = self._incoming.readline()
            if not reply:
                # The parent is gone: nobody wants the rest.
                os._exit(1)
            self.enough = self.enough or reply == ENOUGH


def perform(spec: Spec, channel: Channel) -> Outcome:
    """Loads, warms up, repeats and sums up: the whole measurement."""
    plan = spec.plan
    artifact = Artifact.open(Path(spec.artifact))
    chosen = backends.backend_for(artifact, spec.options.backend)
    chosen.engine()
    if plan.settle_s:
        channel.send(Progress(stage="settling"))
    if plan.idle_s:
        channel.send(Progress(stage="idle"))
    channel.send(Progress(stage="loading", max_runs=plan.max_runs))
    if plan.cold_cache:
        drop_from_page_cache(artifact.paths)
    resident = resident_share(artifact.paths)
    instruments = Instruments(switched_on=plan.instruments)
    with instruments.sampling():
        instruments.begin("load")
        started = time.perf_counter_ns()
        session = chosen.open(artifact, spec.options)
        loaded = time.perf_counter_ns()
        instruments.end()
        work = runner(session, spec.workload, plan.seed, instruments.begin)
        warmed = time.perf_counter_ns()
        if plan.cut_short:
            work.deadline_ns = warmed + int(plan.budget_s * NS_PER_S)
        for _ in range(plan.warmups):
            channel.send(Progress(stage="warming", max_runs=plan.max_runs))
            work.warm_up()
        ready = time.perf_counter_ns()
        log, stopped = _repeat(spec, work, instruments, channel, warmed)
        ended = time.perf_counter_ns()
    channel.send(Progress(stage="closing"))
    outcome = Outcome(
        engine=session.engine,
        gpus=chosen.gpus(),
        options=session.options,
        load=Load(
            duration_ns=loaded - started,
            page_cache=page_cache_state(resident),
            resident_share=resident,
        ),
        warmups=plan.warmups,
        runs=log.runs(),
        stopped=stopped,
        memory=instruments.memory(session.buffers),
        noise=instruments.noise(heat_disturbs=plan.sustain_s is None),
        notes=work.notes,
        windows=(
            Window(name="load", started_ns=started, ended_ns=loaded),
            Window(name="warm_up", started_ns=warmed, ended_ns=ready),
            Window(name="runs", started_ns=ready, ended_ns=ended),
        ),
    )
    if plan.idle_s:
        closing = time.perf_counter_ns()
        session.close()
        unloaded = Window(name="unload", started_ns=closing, ended_ns=time.perf_counter_ns())
        channel.send(Progress(stage="idle"))
        outcome = replace(outcome, windows=(*outcome.windows, unloaded))
    return outcome


def _repeat(
    spec: Spec, work: Runner, instruments: Instruments, channel: Channel, warmed_ns: int
) -> tuple[RunLog, str]:
    """The timed repetitions, with the garbage collector out of the way."""
    plan = spec.plan
    log = RunLog()
    longest_ns = 0
    # A budget pays for the warm-ups too; what is sustained is sustained after them.
    began_ns = warmed_ns if plan.sustain_s is None else time.perf_counter_ns()
    tell_at_s = 0.0
    gc.collect()
    gc.freeze()
    gc.disable()
    instruments.start_runs()
    try:
        while True:
            elapsed_s = (time.perf_counter_ns() - began_ns) / NS_PER_S
            reason = stop_reason(
                plan,
                log.rates,
                elapsed_s,
                longest_ns / NS_PER_S,
                lacking_s=spec.least_run_s - log.least_s,
                enough=_enough(channel, log),
            )
            if reason is not None:
                return log, reason
            if elapsed_s >= tell_at_s:
                channel.send(_progress(plan, log, elapsed_s))
                # Telling may take longer than a short repetition: a device must not rest by it.
                tell_at_s = elapsed_s + _TELL_EVERY_S if plan.sustain_s else 0.0
                if channel.enough and log.rates:
                    continue
            work.prepare()
            # Without the preparation: a depth is evaluated before the first run and then kept.
            began_run = time.perf_counter_ns()
            run = work.run()
            instruments.end()
            longest_ns = max(longest_ns, time.perf_counter_ns() - began_run)
            log.add(run, _rate(run, spec.workload))
    finally:
        instruments.stop_runs()
        gc.enable()
        gc.unfreeze()


def _enough(channel: Channel, log: RunLog) -> str:
    """Why no further repetition may begin, whatever the plan says; empty to go by the plan."""
    if channel.enough:
        return "ended early on request"
    return "one record holds no more" if log.is_full else ""


def _progress(plan: Plan, log: RunLog, elapsed_s: float) -> Progress:
    """How far the repetitions are; of a device that heats up the rate is that of the last ones."""
    return Progress(
        stage="running",
        runs=len(log.rates),
        max_runs=plan.max_runs,
        elapsed_s=elapsed_s,
        tokens_per_s=_rate_so_far(log.rates[-_RECENT_RUNS:] if plan.sustain_s else log.rates),
    )


def _rate(run: Run, workload: Workload) -> float:
    """The rate whose interval decides when to stop: decode where anything decodes."""
    rate = run.decode_tokens_per_s
    if rate is None:
        rate = run.prefill_tokens_per_s
    if rate is None:
        raise WorkerError(
            f"The clock did not advance while {workload.name} ran.",
            cause="The workload is too short for this machine's clock.",
            way_out="Measure more tokens.",
        )
    return rate


def _rate_so_far(rates: list[float]) -> Interval | None:
    if len(rates) == 1:
        return Interval(low=rates[0], value=rates[0], high=rates[0])
    return confidence_interval(rates)


def _claim_stdout() -> BinaryIO:
    """Takes stdout for the protocol alone and points descriptor 1 at stderr."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "wb")


def _bind_to_parent(parent_pid: int) -> None:
    """Makes sure that this process never outlives its parent, and is the first to go for memory."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)
    with contextlib.suppress(OSError):
        # A model that does not fit must cost the user this process, not another program.
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> None:
    """Serves one specification."""
    # Ctrl-C goes to the whole terminal group; the parent decides what becomes of this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(sys.stdin.buffer, _claim_stdout())
    answer: Message
    try:
        line = channel.receive()
        if not line:
            return
        spec = decode_spec(line)
        _bind_to_parent(spec.parent_pid)
        if isinstance(spec, LatencySpec):
            from .latency_pass import perform_latency

            answer = perform_latency(spec, channel.send)
        else:
            if spec.limits is not None and spec.limits.cores is not None:
                # Before any engine: threads inherit the mask of the one that starts them.
                confine_cores(spec.limits.cores)
            answer = perform(spec, channel)
    except EdgeError as error:
        answer = error
    except MemoryError:
        answer = MemoryLimitError(
            "There was not enough memory to measure this.",
            way_out="Choose a smaller level, a shorter context or a smaller shape.",
        )
    except Exception as error:  # an engine or a plugin may raise anything; the parent must hear it
        traceback.print_exc()
        answer = WorkerError(
            "The measuring process failed.",
            cause=f"{type(error).__name__}: {error}.",
            way_out="Report it with the model's name and this message.",
        )
    channel.send(answer)
    sys.stderr.flush()
    # The kernel frees everything faster than the engine would, and nothing can fail any more.
    os._exit(0)


if __name__ == "__main__":
    main()
