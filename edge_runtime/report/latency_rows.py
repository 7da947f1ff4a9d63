"""Latency measurements and failures as pages, markdown, CSV or JSON (lines), one at a time.

JSON and JSON lines carry the whole record; CSV one flat row of figures derived from it, in SI units
that its column names carry; text and markdown are for people, the operators below the figures.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from typing import Protocol, TextIO

from rich.console import Console

from ..basis import Unavailable
from ..errors import UsageError
from ..latency import LatencyFailure, LatencyMeasurement, LatencyRecord
from ..memory import Memory
from ..statistics import Interval, OrderInterval
from ..units import NS_PER_S, format_duration
from .latency import (
    PERCENTS,
    bounds_words,
    failure_words,
    memory_words,
    model_words,
    options_words,
    provider_word,
    rate_words,
    render_latency,
    shape_words,
    tracing_words,
)
from .plain import plain
from .records import JsonArray, JsonLines

_MOST_OPERATORS = 20
Value = str | int | float | None


class LatencyWriter(Protocol):
    """Shows records one after the other."""

    def write(self, record: LatencyRecord) -> None:
        """Shows one record and flushes."""

    def close(self) -> None:
        """Ends the document."""


def latency_writer(form: str, stream: TextIO, *, columns: int | None = None) -> LatencyWriter:
    """The writer of one of the formats; `columns` is how wide a page is where no terminal says.

    Raises UsageError for a format that there is not.
    """
    if form == "text":
        return _Pages(stream, columns)
    maker = _WRITERS.get(form)
    if maker is None:
        raise UsageError(
            f"There is no output format {form!r} for latency.",
            way_out=f"Choose from: text, {', '.join(_WRITERS)}.",
        )
    return maker(stream)


class _Pages:
    """A page for each record."""

    def __init__(self, stream: TextIO, columns: int | None) -> None:
        self._stream = stream
        self._console = Console(file=stream, highlight=False, width=columns)
        self._begun = False

    def write(self, record: LatencyRecord) -> None:
        if self._begun:
            self._stream.write("\n\n")
        self._begun = True
        page = render_latency(record)
        if self._console.is_terminal:
            self._console.print(page)
        else:
            with self._console.capture() as captured:
                self._console.print(page)
            lines = captured.get().splitlines()
            self._stream.write("\n".join(line.rstrip() for line in lines) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


class _Markdown:
    """One table with a row for each record, then the operators of each."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._written: list[LatencyRecord] = []

    def write(self, record: LatencyRecord) -> None:
        if not self._written:
            self._line(tuple(_MARKDOWN))
            self._stream.write("|" + "---|" * len(_MARKDOWN) + "\n")
        self._written.append(record)
        self._line(tuple(words(record) for words in _MARKDOWN.values()))
        self._stream.flush()

    def close(self) -> None:
        for record in self._written:
            if isinstance(record, LatencyMeasurement):
                self._operators(record)
        self._stream.flush()

    def _operators(self, record: LatencyMeasurement) -> None:
        times = record.operators
        self._stream.write(f"\n**{plain(record.model.name)}**, {options_words(record.options)}: ")
        if isinstance(times, Unavailable):
            self._stream.write(f"operators unavailable: {plain(times.reason)}\n")
            return
        self._stream.write(f"where the time goes. {tracing_words(record, times)}\n\n")
        self._line(("operator", "nodes", "provider", "time", "share"))
        self._stream.write("|---|--:|---|--:|--:|\n")
        for item in times.by_operator[:_MOST_OPERATORS]:
            self._line(
                (item.op, str(item.nodes), provider_word(item.provider),
                 format_duration(item.seconds_per_run), f"{item.share:.1%}")
            )  # fmt: skip
        rest = times.by_operator[_MOST_OPERATORS:]
        if rest:
            spent = format_duration(sum(item.seconds_per_run for item in rest))
            count = str(sum(item.nodes for item in rest))
            share = f"{sum(item.share for item in rest):.1%}"
            self._line((f"{len(rest)} others", count, "", spent, share))
        outside = format_duration(times.outside_s)
        self._line(("between operators", "", "", outside, f"{max(0.0, 1 - times.covered):.1%}"))

    def _line(self, cells: tuple[str, ...]) -> None:
        words = (plain(cell).replace("|", "\\|") for cell in cells)
        self._stream.write("| " + " | ".join(words) + " |\n")


class _Csv:
    """RFC 4180 with a header line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._writer: csv.DictWriter[str] | None = None

    def write(self, record: LatencyRecord) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._stream, list(COLUMNS), lineterminator="\n")
            self._writer.writeheader()
        self._writer.writerow({name: value(record) for name, value in COLUMNS.items()})
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


_WRITERS: Mapping[str, Callable[[TextIO], LatencyWriter]] = {
    "md": _Markdown, "csv": _Csv, "json": JsonArray, "jsonl": JsonLines,
}  # fmt: skip


def _words(words: Callable[[LatencyMeasurement], str]) -> Callable[[LatencyRecord], str]:
    return lambda r: words(r) if isinstance(r, LatencyMeasurement) else ""


def _percentile_words(percent: int) -> Callable[[LatencyRecord], str]:
    def words(record: LatencyMeasurement) -> str:
        found = record.latency_s(percent)
        return f"{format_duration(found.value)} ({bounds_words(found)})"

    return _words(words)


def _inputs(record: LatencyRecord) -> str:
    return "; ".join(f"{item.name} {shape_words(item.shape)}" for item in record.inputs)


def _remarks(record: LatencyRecord) -> str:
    if isinstance(record, LatencyFailure):
        return f"failed: {failure_words(record)}"
    return "; ".join((*record.noise.flags, *record.notes)) or "quiet"


def _load_words(record: LatencyMeasurement) -> str:
    load = record.load
    return f"{format_duration(load.duration_ns / NS_PER_S)} {load.page_cache}"


_MARKDOWN: Mapping[str, Callable[[LatencyRecord], str]] = {
    "model": lambda r: r.model.name,
    "what it is": lambda r: model_words(r.model),
    "inputs": _inputs,
    "engine": _words(lambda m: options_words(m.options)),
    **{f"P{percent} (95 %)": _percentile_words(percent) for percent in PERCENTS},
    "mean": _words(lambda m: format_duration(m.mean_s)),
    "least": _words(lambda m: format_duration(m.least_s)),
    "inferences/s (95 %)": _words(rate_words),
    "load, page cache": _words(_load_words),
    "memory": _words(memory_words),
    "noise and notes": _remarks,
}


def _of(value: Callable[[LatencyMeasurement], Value]) -> Callable[[LatencyRecord], Value]:
    """A column that a failure leaves empty."""
    return lambda r: value(r) if isinstance(r, LatencyMeasurement) else None


def _rate(value: Callable[[Interval], float]) -> Callable[[LatencyRecord], Value]:
    return _of(lambda m: None if (rate := m.inferences_per_s) is None else value(rate))


def _percentile(
    percent: int, part: Callable[[OrderInterval], Value]
) -> Callable[[LatencyRecord], Value]:
    return _of(lambda m: part(m.latency_s(percent)))


def _percentiles() -> dict[str, Callable[[LatencyRecord], Value]]:
    columns: dict[str, Callable[[LatencyRecord], Value]] = {}
    for percent in PERCENTS:
        name = f"latency_s_p{percent}"
        columns[name] = _percentile(percent, lambda found: found.value)
        columns[f"{name}_low"] = _percentile(percent, lambda found: found.low)
        columns[f"{name}_high"] = _percentile(percent, lambda found: found.high)
    return columns


def _baseline(record: LatencyMeasurement) -> Value:
    return record.memory.baseline_bytes if isinstance(record.memory, Memory) else None


def _operator_shares(record: LatencyMeasurement) -> Value:
    if isinstance(record.operators, Unavailable):
        return None
    shares = record.operators.by_operator
    return "; ".join(f"{item.op} {item.share:.4f}" for item in shares)


def _traced(record: LatencyMeasurement) -> Value:
    return None if isinstance(record.operators, Unavailable) else record.operators.run_s


COLUMNS: Mapping[str, Callable[[LatencyRecord], Value]] = {
    "status": lambda r: "measured" if isinstance(r, LatencyMeasurement) else "failed",
    "created": lambda r: r.created,
    "tool_version": lambda r: r.tool_version,
    "model": lambda r: r.model.name,
    "file": lambda r: r.model.file,
    "fingerprint": lambda r: r.model.fingerprint,
    "level": lambda r: r.model.level,
    "size_bytes": lambda r: r.model.size_bytes,
    "parameters": lambda r: r.model.parameters,
    "inputs": _inputs,
    "cpu": _of(lambda m: m.host.cpu),
    "engine_version": _of(lambda m: m.engine.version),
    "threads": lambda r: (r.options if isinstance(r, LatencyMeasurement) else r.requested).threads,
    "providers": _of(lambda m: "; ".join(m.options.providers)),
    "inferences": _of(lambda m: len(m.latencies_ns)),
    "rounds": _of(lambda m: len(m.rounds)),
    "stopped": _of(lambda m: m.stopped),
    **_percentiles(),
    "latency_s_mean": _of(lambda m: m.mean_s),
    "latency_s_least": _of(lambda m: m.least_s),
    "inferences_per_s": _rate(lambda rate: rate.value),
    "inferences_per_s_low": _rate(lambda rate: rate.low),
    "inferences_per_s_high": _rate(lambda rate: rate.high),
    "load_s": _of(lambda m: m.load.duration_ns / NS_PER_S),
    "page_cache": _of(lambda m: m.load.page_cache),
    "baseline_bytes": _of(_baseline),
    "loaded_bytes": _of(lambda m: m.loaded_bytes),
    "peak_bytes": _of(lambda m: m.peak_bytes),
    "traced_s_mean": _of(_traced),
    "operator_shares": _of(_operator_shares),
    "foreign_cpu_share": _of(lambda m: m.noise.foreign_share),
    "steal_share": _of(lambda m: m.noise.steal_share),
    "noise_flags": _of(lambda m: "; ".join(m.noise.flags)),
    "notes": _of(lambda m: "; ".join(m.notes)),
    "error": lambda r: failure_words(r) if isinstance(r, LatencyFailure) else None,
}
"""Column name -> its value in a record, in order."""
