"""A latency measurement as a terminal page: how long an inference takes, and where the time goes.

Every text from the model's file passes `plain`: what is shown never moves a cursor.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..basis import Unavailable
from ..latency import (
    InputRecord,
    LatencyFailure,
    LatencyMeasurement,
    LatencyOptions,
    LatencyRecord,
    ModelRecord,
    OperatorTimes,
)
from ..memory import Memory
from ..statistics import OrderInterval
from ..units import NS_PER_S, format_bytes, format_count, format_duration, format_rate
from .plain import plain

PERCENTS = (50, 90, 99)
TRACING_LIMIT = 1.25
"""Traced inferences that take this much longer than untraced ones are no measure of short nodes."""
_SHOWN_PORTS = 8
_SHOWN_OPERATORS = 12
_SHOWN_NODES = 10
_NAME_WIDTH = 40
_BAR_WIDTH = 20
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FILLS = {
    "normal": "random, standard normal",
    "bytes": "random, all 8 bits",
    "ones": "ones",
    "zeros": "zeros",
    "positions": "0, 1, 2, ...",
    "true": "true",
}


def render_latency(record: LatencyRecord) -> RenderableType:
    """The whole page, within 80 columns where names are not long."""
    parts: list[RenderableType] = [_heading(record), Text(), _ports(record)]
    if isinstance(record, LatencyFailure):
        return Group(*parts, Text(), _remarks((failure_words(record),), "red"))
    parts += [Text(), _latencies(record), Text(), _facts(record)]
    if record.noise.flags or record.notes:
        parts.append(Text())
    parts += [_remarks(record.noise.flags, "yellow"), _remarks(record.notes, "dim", "-")]
    if isinstance(record.operators, Unavailable):
        parts += [_title("Where the time goes"), _remarks((record.operators.reason,), "yellow")]
    else:
        parts += _operators(record, record.operators)
    return Group(*parts)


def model_words(model: ModelRecord) -> str:
    """The model in a few words."""
    weights = f"{model.level}, {format_count(model.parameters)} parameters, "
    nodes = f"{model.nodes} node" + "s" * (model.nodes != 1)
    words = f"{weights if model.parameters else ''}{format_bytes(model.size_bytes)}, {nodes}"
    return plain(words, most=200)


def options_words(options: LatencyOptions) -> str:
    """Threads and providers in a few words."""
    threads = options.threads
    count = "engine's threads" if threads is None else f"{threads} thread" + "s" * (threads != 1)
    names = ", ".join(map(provider_word, options.providers))
    return f"{names}, {count}" if names else count


def provider_word(provider: str) -> str:
    """A provider's name as people write it: `CPU`."""
    return plain(provider.removesuffix("ExecutionProvider"), most=30)


def shape_words(shape: tuple[int, ...] | None) -> str:
    """`1 x 3 x 224 x 224`."""
    if shape is None:
        return "varies"
    return " x ".join(map(str, shape)) if shape else "scalar"


def fill_words(item: InputRecord) -> str:
    """What an input was filled with."""
    if item.fill == "below":
        return f"random, 0 to {(item.below or 1) - 1}"
    return _FILLS[item.fill]


def failure_words(failure: LatencyFailure) -> str:
    """The failure's fact, cause and way out in one line."""
    return " ".join(part for part in (failure.fact, failure.cause, failure.way_out) if part)


def bounds_words(found: OrderInterval) -> str:
    """The interval of a percentile: `1.81 to 2.19 ms`, or which side is open."""
    if found.low is None and found.high is None:
        return "too few"
    if found.high is None:
        return f"above {format_duration(found.low or 0.0)}"
    if found.low is None:
        return f"below {format_duration(found.high)}"
    low, unit = format_duration(found.low).rsplit(" ", 1)
    high, high_unit = format_duration(found.high).rsplit(" ", 1)
    return f"{low} to {high} {unit}" if unit == high_unit else f"{low} {unit} to {high} {high_unit}"


def rate_words(record: LatencyMeasurement) -> str:
    """The rate with its interval: `175 (151 to 203)`."""
    rate = record.inferences_per_s
    if rate is None:
        return "unknown"
    words = format_rate(rate.value)
    if len(record.rounds) == 1:
        return f"{words} (1 round)"
    return f"{words} ({format_rate(rate.low)} to {format_rate(rate.high)})"


def _heading(record: LatencyRecord) -> RenderableType:
    name = Text(plain(record.model.name, most=60), style="bold")
    name.append(f" · {model_words(record.model)}", style="not bold")
    if isinstance(record, LatencyFailure):
        return name
    engine = f"{record.engine.name} {record.engine.version}, {options_words(record.options)}"
    return Group(name, Text(f"{engine}, {plain(record.host.cpu, most=60)}", style="dim"))


def _ports(record: LatencyRecord) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for style in ("dim", "", "", "", "dim"):
        table.add_column(style=style, overflow="fold")
    for item in record.inputs[:_SHOWN_PORTS]:
        name = plain(item.name, most=_NAME_WIDTH)
        table.add_row("input", name, item.type.lower(), shape_words(item.shape), fill_words(item))
    outputs = () if isinstance(record, LatencyFailure) else record.outputs
    for output in outputs[:_SHOWN_PORTS]:
        name, kind = plain(output.name, most=_NAME_WIDTH), plain(output.type.lower(), most=30)
        note = "" if output.preallocated else "the engine's memory"
        table.add_row("output", name, kind, shape_words(output.shape), note)
    left = len(record.inputs[_SHOWN_PORTS:]) + len(outputs[_SHOWN_PORTS:])
    if left:
        table.add_row("", f"and {left} more", "", "", "")
    if not record.inputs and not outputs:
        table.add_row("", "no inputs", "", "", "")
    return table


def _latencies(record: LatencyMeasurement) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", style="dim", no_wrap=True)
    for title in (*(f"P{percent}" for percent in PERCENTS), "mean", "least"):
        table.add_column(title, no_wrap=True)
    found = [record.latency_s(percent) for percent in PERCENTS]
    table.add_row(
        "latency",
        *(Text(format_duration(item.value), style="bold") for item in found),
        format_duration(record.mean_s),
        format_duration(record.least_s),
    )
    table.add_row("95 %", *(Text(bounds_words(item), style="dim") for item in found), "", "")
    return table


def _facts(record: LatencyMeasurement) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    done = len(record.latencies_ns)
    grid.add_row("throughput", f"{rate_words(record)} inferences/s")
    grid.add_row("samples", f"{done:,} inference{'s' * (done != 1)}, {record.stopped}")
    load = format_duration(record.load.duration_ns / NS_PER_S)
    grid.add_row("load", f"{load}, page cache {record.load.page_cache}")
    grid.add_row("memory", memory_words(record))
    grid.add_row("providers", _placement(record))
    return grid


def memory_words(record: LatencyMeasurement) -> str:
    """Memory after loading and at most, and what the process had before."""
    memory = record.memory
    if not isinstance(memory, Memory):
        return plain(f"unavailable: {memory.reason}")
    loaded = record.loaded_bytes
    words = "" if loaded is None else f"{format_bytes(loaded)} after loading, "
    words += f"{format_bytes(memory.peak_bytes)} at most"
    return f"{words}; {format_bytes(memory.baseline_bytes)} before loading"


def _placement(record: LatencyMeasurement) -> str:
    """Which provider was given how many nodes, and what share of the time they take."""
    placed = record.placed
    if len(placed) == 1:
        count = f"all {placed[0].nodes} nodes" if placed[0].nodes > 1 else "all nodes"
        return f"{count} on {provider_word(placed[0].provider)}"
    times = record.operators
    shares = (
        {} if isinstance(times, Unavailable) else {t.provider: t.share for t in times.by_provider}
    )
    total = sum(item.nodes for item in placed)
    words = []
    for item in placed:
        part = provider_word(item.provider)
        if total:
            part += f" {item.nodes} of {total} nodes"
        if item.provider in shares:
            part += f", {shares[item.provider]:.0%} of the time"
        words.append(part)
    return "; ".join(words)


def _operators(record: LatencyMeasurement, times: OperatorTimes) -> Iterator[RenderableType]:
    yield _title("Where the time goes")
    yield Text(tracing_words(record, times), style="dim")
    several = len({node.provider for node in times.nodes}) > 1
    yield Text()
    yield _by_operator(times, several)
    slowest = times.slowest[:_SHOWN_NODES]
    if len(times.nodes) > 1:
        yield _title(f"Slowest nodes of {len(times.nodes)}")
        table = _share_table("node", "operator", several)
        for node in slowest:
            share = times.share(node.self_ns)
            spent = node.self_ns / len(times.runs_ns) / NS_PER_S
            table.add_row(
                Text(plain(node.name, most=_NAME_WIDTH)), Text(plain(node.op, most=24)),
                *((provider_word(node.provider),) if several else ()),
                format_duration(spent), f"{share:.1%}", _bar(share),
            )  # fmt: skip
        yield table


def tracing_words(record: LatencyMeasurement, times: OperatorTimes) -> str:
    """How the times of operators were got, and what getting them cost."""
    counted, traced = len(times.runs_ns), times.traced_runs
    what = "one inference" if traced == 1 else f"the quicker {counted} of {traced} inferences"
    usual = record.latency_s(50).value
    words = f"Traced by the engine in a pass of its own, {what}: {format_duration(times.run_s)}"
    words += f"{' on average' if counted > 1 else ''}; untraced {format_duration(usual)} (P50)."
    if times.run_s > TRACING_LIMIT * usual:
        words += " Tracing took much of that: short nodes seem longer than they are."
    others = [p.provider for p in record.placed if p.provider != "CPUExecutionProvider"]
    if others:
        names = ", ".join(map(provider_word, others))
        words += f" On {names}, a node's time may be that of its launch."
    if times.covered > 1:
        words += " Operators overlap: their times add up to more than the whole."
    return words


def _by_operator(times: OperatorTimes, several: bool) -> Table:
    table = _share_table("operator", "nodes", several)
    shares = times.by_operator
    blank = ("",) if several else ()
    for item in shares[:_SHOWN_OPERATORS]:
        # In a loop a node is called more than once an inference, in a branch perhaps less.
        calls = (
            "" if item.calls_per_run == item.nodes else f" x {item.calls_per_run / item.nodes:.3g}"
        )
        table.add_row(
            Text(plain(item.op, most=_NAME_WIDTH)), f"{item.nodes}{calls}",
            *((provider_word(item.provider),) if several else ()),
            format_duration(item.seconds_per_run), f"{item.share:.1%}", _bar(item.share),
        )  # fmt: skip
    rest = shares[_SHOWN_OPERATORS:]
    if rest:
        share = sum(item.share for item in rest)
        table.add_row(
            f"{len(rest)} others", str(sum(item.nodes for item in rest)), *blank,
            format_duration(sum(item.seconds_per_run for item in rest)), f"{share:.1%}",
            _bar(share),
        )  # fmt: skip
    outside = max(0.0, 1 - times.covered)
    table.add_row(
        Text("between operators", style="dim"), "", *blank,
        format_duration(times.outside_s), f"{outside:.1%}", _bar(outside, "bright_black"),
        end_section=True,
    )  # fmt: skip
    nodes = str(len(times.nodes))
    table.add_row(
        Text("inference, traced", style="bold"), nodes, *blank, format_duration(times.run_s), "", ""
    )
    return table


def _share_table(first: str, second: str, several: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(first, min_width=18, overflow="fold")
    table.add_column(second, justify="right" if second == "nodes" else "left", no_wrap=True)
    if several:
        table.add_column("provider", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


def _bar(share: float, style: str = "cyan") -> Text:
    """A bar whose full width is the whole inference."""
    eighths = round(min(max(share, 0.0), 1.0) * _BAR_WIDTH * 8)
    full, part = divmod(eighths, 8)
    return Text("█" * full + (_EIGHTHS[part] if part else ""), style=style)


def _remarks(remarks: tuple[str, ...], style: str, mark: str = "!") -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(style=style, no_wrap=True)
    grid.add_column(overflow="fold")
    for remark in remarks:
        grid.add_row(mark, Text(plain(remark)))
    return grid


def _title(words: str) -> Text:
    return Text(f"\n{words}", style="bold")
