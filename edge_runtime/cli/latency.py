"""`edge profile` of a model that is none of language: latency, inferences/s, time by operator.

`profile` declares the arguments and comes here when the graph keeps no KV cache. Progress goes to
stderr, between rounds only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import EdgeError, EngineMissingError, UsageError
from ..latency import LatencyOptions, LatencyRecord
from ..units import format_rate

if TYPE_CHECKING:
    from ..artifact.onnx.graph import OnnxGraph
    from ..profiler import Plan, Progress
    from ..profiler.latency_inputs import Feed

PIPED_COLUMNS = 100
_ERASE_LINE = "\r\x1b[K"
_NEEDLESS = {
    "prompt": "-p", "generate": "-n", "pairs": "-pg", "depth": "-d", "workload": "-w",
    "batch": "-b", "micro_batch": "-ub", "kv_k": "-ctk", "kv_v": "-ctv", "flash": "-fa",
    "gpu_layers": "-ngl", "context": "-c", "mmap": "--mmap", "resume": "--resume",
    "keep_failed": "--keep-failed", "idle": "--idle", "estimate_power": "--estimate-power",
    "sustain": "--sustain", "cool_down": "--cool-down", "limit_memory": "--limit-memory",
    "limit_cores": "--limit-cores",
}  # fmt: skip
"""Parameters of `profile` that mean nothing to a model that continues no text, as typed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Care:
    """How carefully to measure, as typed; None where nothing was."""

    repetitions: tuple[int, int] | None
    warmups: int | None
    precision: float
    budget_s: float
    cold_cache: bool

    def plan(self) -> Plan:
        """The plan, with what suits single inferences where nothing was asked for."""
        from ..profiler import Plan
        from ..profiler.latency import DEFAULT_PLAN

        usual = (DEFAULT_PLAN.min_runs, DEFAULT_PLAN.max_runs)
        fewest, most = self.repetitions or usual
        return Plan(
            warmups=DEFAULT_PLAN.warmups if self.warmups is None else self.warmups,
            min_runs=fewest,
            max_runs=most,
            target_relative_half_width=self.precision,
            budget_s=self.budget_s,
            timeout_s=DEFAULT_PLAN.timeout_s + self.budget_s,
            cold_cache=self.cold_cache,
        )


def plain_graphs(models: Sequence[Path]) -> tuple[OnnxGraph, ...]:
    """The graphs of models that keep no KV cache, () when all are language models.

    Raises UsageError when there are some of both: their figures have nothing in common.
    """
    from ..artifact.onnx.folder import is_onnx

    if not any(is_onnx(path) for path in models):
        return ()
    from ..profiler.latency import plain_graph

    found = [(path, plain_graph(path)) for path in models]
    graphs = tuple(graph for _, graph in found if graph is not None)
    if graphs and len(graphs) < len(found):
        texts = ", ".join(path.name for path, graph in found if graph is None)
        others = ", ".join(graph.path.name for graph in graphs)
        raise UsageError(
            "Language models and others cannot share a table.",
            cause=f"Measured in tokens/s: {texts}; in inferences/s: {others}.",
            way_out="Profile them in two calls.",
        )
    return graphs


def refuse_needless(graph: OnnxGraph, typed: Callable[[str], bool], backend: str) -> None:
    """Refuses options that mean nothing to a graph without a cache. Raises UsageError.

    `typed` says whether a parameter of `profile` stood on the command line.
    """
    given = [option for name, option in _NEEDLESS.items() if typed(name)]
    if typed("backend") and backend != "onnx":
        raise UsageError(f"The backend {backend} does not run {graph.path.name}.")
    if given:
        raise UsageError(
            f"{', '.join(given)}: not for {graph.path.name}.",
            cause="It continues no text and keeps no KV cache: single inferences are measured.",
            way_out="Give the shapes of its inputs with --shape, threads with -t, repetitions"
            " with -r.",
        )


def read_threads(text: str | None) -> tuple[int | None, ...]:
    """Reads `2`, `1,2` or `1-4`; (None,) where nothing was given. Raises UsageError."""
    from ..profiler.sweep import parse_numbers

    if text is None:
        return (None,)
    if text == "auto":
        raise UsageError(
            "-t auto finds the best number of threads for text.",
            way_out="Try several for this model: -t 1,2,4",
        )
    values = parse_numbers(text, "-t")
    if any(value < 1 for value in values):
        raise UsageError("-t: 0 is not possible here.")
    return values


def profile_latency(
    graphs: Sequence[OnnxGraph],
    shapes: Sequence[str],
    *,
    threads: Sequence[int | None],
    providers: tuple[str, ...],
    care: Care,
    form: str,
    save: Path | None,
) -> None:
    """Measures each model with each number of threads and shows the records.

    Ends the program with 4 when one failed and 130 after Ctrl-C.
    """
    from ..profiler import available_memory_bytes
    from ..profiler.latency_inputs import feed, parse_shapes
    from ..profiler.results import append_result, create_results
    from ..report.latency_rows import latency_writer

    columns = None if sys.stdout.isatty() else PIPED_COLUMNS
    writer = latency_writer(form, sys.stdout, columns=columns)
    plan = care.plan()
    # Every mistake in a shape is found before the first model is measured.
    asked = parse_shapes(shapes)
    fed = [(graph, feed(graph, asked)) for graph in graphs]
    for _, inputs in fed:
        inputs.check_memory(available_memory_bytes())
    if save is not None:
        create_results(save)
    cells = [
        (graph, inputs, LatencyOptions(threads=count, providers=providers))
        for graph, inputs in fed
        for count in threads
    ]
    failed = 0
    try:
        for number, (graph, inputs, options) in enumerate(cells, start=1):
            where = f"[{number}/{len(cells)}] {graph.path.name}"
            record = _measured(graph, inputs, options, plan, where)
            if save is not None:
                append_result(save, record)
            writer.write(record)
            failed += record.kind != "latency"
    except KeyboardInterrupt:
        _say("")
        typer.echo("Interrupted; what was finished is shown above.", err=True)
        raise typer.Exit(130) from None
    finally:
        writer.close()
    if failed:
        typer.echo(f"{failed} of {len(cells)} models failed; the record says why.", err=True)
        raise typer.Exit(4)


def _measured(
    graph: OnnxGraph, fed: Feed, options: LatencyOptions, plan: Plan, where: str
) -> LatencyRecord:
    from ..profiler.latency import latency_failure, measure_graph

    if not sys.stderr.isatty():
        typer.echo(where, err=True)
    try:
        return measure_graph(
            graph, fed, options, plan=plan, on_event=lambda event: _show(where, event)
        )
    except (EngineMissingError, UsageError):
        raise
    except EdgeError as error:
        return latency_failure(graph, fed, options, error)
    finally:
        _say("")


def _show(where: str, progress: Progress) -> None:
    stage = {
        "loading": "loading",
        "warming": "warming up",
        "running": f"{progress.runs:,} inferences",
        "tracing": "tracing operators",
    }[progress.stage]
    rate = progress.tokens_per_s
    spread = "" if rate is None else f", {format_rate(rate.value)}/s"
    _say(f"{where}: {stage}{spread}")


def _say(words: str) -> None:
    """Rewrites the line on a terminal; says nothing elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{_ERASE_LINE}{words}")
        sys.stderr.flush()
