"""One latency measurement: two fresh child processes, their answers, and the record made of both.

The first child times inferences and nothing else. The second traces a few of them, for the time of
each operator: tracing costs time and memory, and must not be in what was timed. Where the second
fails, the record says so and keeps what the first found.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ..artifact.onnx.artifact import stated_beside
from ..artifact.onnx.folder import is_onnx, model_in, model_name
from ..artifact.onnx.graph import OnnxGraph, read_graph
from ..artifact.onnx.shape import cache_inputs
from ..artifact.onnx.weights import weights_of
from ..basis import Unavailable
from ..errors import EdgeError, EngineMissingError, MemoryLimitError, UnsupportedError
from ..latency import LatencyFailure, LatencyMeasurement, LatencyOptions, ModelRecord, OperatorTimes
from ..units import format_bytes
from .child import Advice, Child
from .host import available_memory_bytes, detect_host
from .latency_inputs import Feed, feed
from .measure import tool_version
from .wire import LatencyOutcome, LatencySpec, Plan, Progress, TraceOutcome

DEFAULT_PLAN = Plan(warmups=3, min_runs=400, max_runs=100_000)
"""The 95 % interval of a P99 has an upper end from 368 inferences on."""

_ADVICE = Advice(
    slow="Give a smaller --shape, or allow more time.",
    memory="Give a smaller --shape, choose a smaller model, or free memory.",
    reinstall="The engine was built for another processor: pip install --force-reinstall"
    " onnxruntime",
)


def plain_graph(path: Path) -> OnnxGraph | None:
    """The graph of a model that keeps no KV cache; None for one that does, and for no ONNX model.

    Such a model is judged by its latency: vision, audio, embeddings. Raises what `read_graph`
    raises.
    """
    if not is_onnx(path):
        return None
    graph = read_graph(path)
    return None if cache_inputs(graph, stated_beside(path)) else graph


def measure_latency(
    model: str | os.PathLike[str],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    options: LatencyOptions | None = None,
    *,
    plan: Plan | None = None,
    on_event: Callable[[Progress], None] | None = None,
) -> LatencyMeasurement:
    """Measures the latency of an ONNX model that keeps no KV cache, in fresh child processes.

    `shapes` gives inputs (or open dimensions) their sizes by name; `{"": (1, 3, 224, 224)}` is that
    of the only input. Inputs are random with a fixed seed. The plan's runs are inferences.
    `on_event` is called between rounds, never during one. Raises UsageError for shapes that do not
    fit, UnsupportedError for a model with a cache or inputs that cannot be made up, WorkerError
    when a child dies or takes too long, MemoryLimitError, and whatever the backend raised.
    """
    path = Path(model)
    path = model_in(path) if path.is_dir() else path
    graph = plain_graph(path)
    if graph is None:
        raise UnsupportedError(
            f"{path.name} is no ONNX model without a cache of keys and values.",
            cause="Models that continue a text are measured in tokens.",
            way_out="Use measure() on Artifact.open(path).",
        )
    return measure_graph(
        graph, feed(graph, shapes or {}), options or LatencyOptions(), plan=plan, on_event=on_event
    )


def measure_graph(
    graph: OnnxGraph,
    fed: Feed,
    options: LatencyOptions,
    *,
    plan: Plan | None = None,
    on_event: Callable[[Progress], None] | None = None,
) -> LatencyMeasurement:
    """`measure_latency` for a graph that was read and whose inputs are decided."""
    plan = plan or DEFAULT_PLAN
    # Before the child exists: its memory must not count as taken.
    host = detect_host()
    _check_memory(graph, fed, host.ram_bytes)
    spec = LatencySpec(
        paths=tuple(str(path.absolute()) for path in graph.paths),
        options=options,
        inputs=fed.inputs,
        plan=plan,
        trace=None,
        parent_pid=os.getpid(),
    )
    name = graph.path.name
    child = Child(spec, name, _ADVICE, timeout_s=plan.timeout_s, on_event=on_event)
    outcome = child.answer(LatencyOutcome)
    return LatencyMeasurement(
        created=_now(),
        tool_version=tool_version(),
        host=replace(host, gpus=outcome.gpus),
        engine=outcome.engine,
        model=model_record(graph),
        options=outcome.options,
        requested=options,
        inputs=fed.inputs,
        outputs=outcome.outputs,
        placed=outcome.placed,
        load=outcome.load,
        warmups=outcome.warmups,
        rounds=outcome.rounds,
        stopped=outcome.stopped,
        memory=outcome.memory,
        noise=outcome.noise,
        operators=_operators(spec, name, on_event),
        notes=(*fed.notes, *outcome.notes),
    )


def latency_failure(
    graph: OnnxGraph, fed: Feed, options: LatencyOptions, error: EdgeError
) -> LatencyFailure:
    """The record of a model that could not be measured."""
    return LatencyFailure(
        created=_now(),
        tool_version=tool_version(),
        model=model_record(graph),
        requested=options,
        inputs=fed.inputs,
        error=type(error).__name__,
        fact=error.fact,
        cause=error.cause,
        way_out=error.way_out,
    )


def model_record(graph: OnnxGraph) -> ModelRecord:
    """What a record keeps of a model."""
    weights = weights_of(graph, None)
    return ModelRecord(
        name=model_name(graph.path),
        file=graph.path.name,
        fingerprint=hashlib.sha256(graph.digest.encode()).hexdigest()[:16],
        size_bytes=graph.size_bytes,
        parameters=sum(tensor.elements for tensor in weights.tensors),
        level=weights.level if weights.tensors else "none",
        nodes=len(graph.nodes),
        producer=graph.producer,
    )


def _operators(
    spec: LatencySpec, name: str, on_event: Callable[[Progress], None] | None
) -> OperatorTimes | Unavailable:
    timeout_s = spec.plan.timeout_s
    try:
        # Ours and not the child's: what a killed child has written goes too.
        with tempfile.TemporaryDirectory(prefix="edge-trace-") as folder:
            traced = replace(spec, trace=folder)
            child = Child(traced, name, _ADVICE, timeout_s=timeout_s, on_event=on_event)
            return child.answer(TraceOutcome).operators
    except EngineMissingError:
        raise
    except EdgeError as error:
        return Unavailable(reason=" ".join(filter(None, (error.fact, error.cause))))
    except OSError as error:
        return Unavailable(reason=f"There is no room for a trace ({error.strerror or error}).")


def _check_memory(graph: OnnxGraph, fed: Feed, ram_bytes: int) -> None:
    """Refuses what cannot be held before anything is allocated. Raises MemoryLimitError."""
    fed.check_memory(available_memory_bytes())
    if graph.size_bytes > ram_bytes:
        raise MemoryLimitError(
            f"{graph.path.name} takes {format_bytes(graph.size_bytes)} of memory.",
            cause=f"This machine has {format_bytes(ram_bytes)} in all.",
            way_out="Choose a smaller model.",
        )


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
