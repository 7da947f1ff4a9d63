"""The measuring child's part for a model without a cache: rounds of inferences, or a traced pass.

Inferences are timed in rounds, one right after the other. Between rounds the parent is told how far
it is, and whether to go on is decided; inside one there is nothing but the engine and the clock.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .. import backends, statistics
from ..backends import PlainModel
from ..errors import WorkerError
from ..latency import Round
from ..measurement import Load
from ..units import NS_PER_S
from .instruments import Instruments
from .pagecache import drop_from_page_cache, page_cache_state, resident_share
from .repetition import stop_reason
from .wire import LatencyOutcome, LatencySpec, Message, Plan, Progress, TraceOutcome

Tell = Callable[[Message], None]

ROUND_NS = NS_PER_S // 10
"""A round lasts about this long: far longer than the clock and a start from sleep can blur."""
LEAST_ROUNDS = 5
"""Fewer rounds have no spread to speak of; a plan of as few inferences has rounds of one."""
TRACED_RUNS = 20
_TRACED_EVENTS = 40_000
"""Of each event the engine writes about 700 bytes of trace."""
_TRACED_NS = 3 * NS_PER_S


def perform_latency(spec: LatencySpec, tell: Tell) -> LatencyOutcome | TraceOutcome:
    """Measures latency, or where the time of an inference goes."""
    return _measure(spec, tell) if spec.trace is None else _trace(spec, Path(spec.trace), tell)


def _measure(spec: LatencySpec, tell: Tell) -> LatencyOutcome:
    plan = spec.plan
    chosen = backends.plain_backend("onnx")
    engine = chosen.engine()
    paths = tuple(map(Path, spec.paths))
    tell(Progress(stage="loading", max_runs=plan.max_runs))
    if plan.cold_cache:
        drop_from_page_cache(paths)
    resident = resident_share(paths)
    instruments = Instruments(switched_on=plan.instruments)
    with instruments.sampling():
        instruments.begin("load")
        started = time.perf_counter_ns()
        model = chosen.open_plain(paths[0], spec.options)
        loaded = time.perf_counter_ns()
        # The mark is set back where a phase begins: this one's peak is what loading left behind.
        instruments.begin("loaded")
        instruments.begin("run")
        tell(Progress(stage="warming", max_runs=plan.max_runs))
        outputs = model.bind(spec.inputs, plan.seed)
        began = time.perf_counter_ns()
        latency_ns = _warm_up(model, plan.warmups)
        rounds, stopped = _repeat(model, plan, latency_ns, instruments, tell, began)
        instruments.end()
    return LatencyOutcome(
        engine=engine,
        gpus=chosen.gpus(),
        options=model.options,
        outputs=outputs,
        placed=model.placed,
        load=Load(
            duration_ns=loaded - started,
            page_cache=page_cache_state(resident),
            resident_share=resident,
        ),
        warmups=plan.warmups,
        rounds=tuple(rounds),
        stopped=stopped,
        memory=instruments.memory(()),
        noise=instruments.noise(),
        notes=model.notes,
    )


def _warm_up(model: PlainModel, times: int) -> int | None:
    """Runs untimed; how long the quickest took, None without any."""
    found = []
    for _ in range(times):
        started = time.perf_counter_ns()
        model.run()
        found.append(time.perf_counter_ns() - started)
    return min(found, default=None)


def _repeat(
    model: PlainModel,
    plan: Plan,
    latency_ns: int | None,
    instruments: Instruments,
    tell: Tell,
    began_ns: int,
) -> tuple[list[Round], str]:
    """The timed rounds, with the garbage collector out of the way."""
    rounds: list[Round] = []
    rates: list[float] = []
    done = longest_ns = 0
    # Nothing is known of its pace without a warm-up: the first round is then one inference.
    size = 1 if latency_ns is None else round_size(plan, latency_ns)
    gc.collect()
    gc.freeze()
    gc.disable()
    instruments.start_runs()
    try:
        while True:
            elapsed_ns = time.perf_counter_ns() - began_ns
            reason = stop_reason(
                _in_rounds(plan, size, done, len(rounds)),
                rates,
                elapsed_ns / NS_PER_S,
                longest_ns / NS_PER_S,
                counted="round",
            )
            if reason is not None:
                return rounds, reason
            tell(
                Progress(
                    stage="running", runs=done, max_runs=plan.max_runs,
                    elapsed_s=elapsed_ns / NS_PER_S,
                    tokens_per_s=statistics.rate_interval(rates, disturbed=False),
                )
            )  # fmt: skip
            found = _timed(model, min(size, plan.max_runs - done))
            rounds.append(found)
            rates.append(_rate(found))
            done += len(found.ended_ns)
            longest_ns = max(longest_ns, found.ended_ns[-1] - found.started_ns)
            if latency_ns is None:
                latency_ns = longest_ns
                size = round_size(plan, latency_ns)
    finally:
        instruments.stop_runs()
        gc.enable()
        gc.unfreeze()


def _timed(model: PlainModel, count: int) -> Round:
    """One round: the engine's work and the clock, nothing else."""
    ended = [0] * count
    clock, run = time.perf_counter_ns, model.run
    started = clock()
    for i in range(count):
        run()
        ended[i] = clock()
    return Round(started_ns=started, ended_ns=tuple(ended))


def round_size(plan: Plan, latency_ns: int) -> int:
    """How many inferences make a round, so that there are enough rounds within the plan."""
    return max(1, min(ROUND_NS // max(latency_ns, 1), plan.max_runs // LEAST_ROUNDS))


def _in_rounds(plan: Plan, size: int, done: int, rounds: int) -> Plan:
    """The plan with its inferences counted in rounds, `rounds` of which are made."""
    most = rounds + math.ceil((plan.max_runs - done) / size)
    fewest = rounds + max(0, math.ceil((plan.min_runs - done) / size))
    return replace(
        plan, max_runs=max(most, 1), min_runs=min(max(fewest, LEAST_ROUNDS), max(most, 1))
    )


def _rate(found: Round) -> float:
    rate = found.inferences_per_s
    if rate is None:
        raise WorkerError(
            "The clock did not advance while the model ran.",
            cause="The model is too small for this machine's clock.",
        )
    return rate


def _trace(spec: LatencySpec, folder: Path, tell: Tell) -> TraceOutcome:
    """A few inferences with the engine's tracing switched on, in a session of their own."""
    plan = spec.plan
    chosen = backends.plain_backend("onnx")
    tell(Progress(stage="tracing", max_runs=TRACED_RUNS))
    model = chosen.open_plain(Path(spec.paths[0]), spec.options, trace=folder)
    try:
        model.bind(spec.inputs, plan.seed)
        latency_ns = _warm_up(model, max(plan.warmups, 1)) or 1
        nodes = sum(placed.nodes for placed in model.placed) or 1
        runs = min(TRACED_RUNS, _TRACED_EVENTS // nodes, _TRACED_NS // max(latency_ns, 1))
        runs = max(1, runs)
        for _ in range(runs):
            model.run()
        return TraceOutcome(operators=model.operators(runs))
    finally:
        model.close()
