"""The child process of a measurement: reads one specification, measures, answers, ends.

Run as `python -m edge_runtime.profiler.worker` by `measure`, never by a person; `serving` says how
it speaks with its parent.
"""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from pathlib import Path

from .. import backends
from ..artifact import Artifact
from ..errors import WorkerError
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
from .serving import Channel, serve
from .wire import LatencySpec, Message, Outcome, Plan, Progress, Spec, decode_spec

_TELL_EVERY_S = 1.0
_RECENT_RUNS = 10


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


def _perform_either(spec: Spec | LatencySpec, channel: Channel) -> Message:
    """Does what the specification asks for."""
    if isinstance(spec, LatencySpec):
        from .latency_pass import perform_latency

        return perform_latency(spec, channel.send)
    if spec.limits is not None and spec.limits.cores is not None:
        # Before any engine: threads inherit the mask of the one that starts them.
        confine_cores(spec.limits.cores)
    return perform(spec, channel)


def main() -> None:
    """Serves one specification."""
    serve(decode_spec, _perform_either)


if __name__ == "__main__":
    main()
