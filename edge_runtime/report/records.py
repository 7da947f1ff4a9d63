"""Measurements and failed cells as text, markdown, CSV, JSON (lines) or SQL, one at a time.

Every writer shows a record as soon as it is given and flushes, so that an interrupted sweep has
shown all it measured. JSON and JSON lines carry the whole record; the others carry one flat row of
figures derived from it. Units are in the column names, but for text and markdown, which are for
people.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from typing import Protocol, TextIO

from .. import statistics
from ..codec import Saved
from ..errors import UsageError
from ..measurement import CellFailure, Measurement, SessionOptions
from ..memory import Memory
from ..paging import paging_of
from ..units import NS_PER_S, format_bytes, format_count, format_duration, format_rate
from .emulated import record_emulated_words
from .energy import energy_words, has_figures
from .placement import placement_words
from .rows import COLUMNS, Record, Value, error_words, options_of, row
from .sustained import SYMMETRIC_LIMIT, heat_words

SQL_TABLE = "edge_measurements"


class RecordWriter(Protocol):
    """Shows records one after the other on a stream."""

    def write(self, record: Record) -> None:
        """Shows one record and flushes."""

    def close(self) -> None:
        """Ends the document; the stream stays open."""


def record_writer(form: str, stream: TextIO, *, side_by_side: bool = False) -> RecordWriter:
    """The writer of one of the `FORMATS`. Raises UsageError for another.

    As text, several models stand `side_by_side` in one table as wide as the terminal, where one
    has its own heading and more room.
    """
    if side_by_side and form == "text":
        from .side_by_side import SideBySide

        return SideBySide(stream)
    maker = _WRITERS.get(form)
    if maker is None:
        raise UsageError(
            f"There is no output format {form!r}.", way_out=f"Choose from: {', '.join(_WRITERS)}."
        )
    return maker(stream)


class _Markdown:
    """A table whose columns fit usual contents, so that rows line up as they come."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = False

    def write(self, record: Record) -> None:
        if not self._begun:
            self._begun = True
            self._line(tuple(MARKDOWN_COLUMNS))
            rules = ("-" * (width + 2) for _, width in MARKDOWN_COLUMNS.values())
            self._stream.write("|" + "|".join(rules) + "|\n")
        self._line(tuple(words(record) for words, _ in MARKDOWN_COLUMNS.values()))
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()

    def _line(self, cells: tuple[str, ...]) -> None:
        padded = (
            plain(cell).replace("|", "\\|").ljust(width)
            for cell, (_, width) in zip(cells, MARKDOWN_COLUMNS.values(), strict=True)
        )
        self._stream.write("| " + " | ".join(padded) + " |\n")


class BelowRow:
    """What stands below a row of text: heat, energy, remarks; why there is no energy once, last."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._no_energy: dict[str, None] = {}

    def write(self, record: Record) -> None:
        """Says what there is to say of one record and flushes."""
        if isinstance(record, Measurement):
            remarks = _said(record)
            for words in heat_words(record):
                self._stream.write(f"    {plain(words)}\n")
            if has_figures(record):
                self._stream.write(f"    energy: {plain(energy_words(record))}\n")
            else:
                self._no_energy[energy_words(record)] = None
        else:
            remarks = (error_words(record),)
        for remark in remarks:
            self._stream.write(f"    ! {plain(remark)}\n")
        self._stream.flush()

    def close(self) -> None:
        """Says why some records have no energy and flushes."""
        for words in self._no_energy:
            self._stream.write(f"\nenergy: {plain(words)}\n")
        self._stream.flush()


class _Text:
    """Narrow enough for a terminal: a heading for each set of options, flags below the row."""

    _COLUMNS = (
        ("test", 14), ("t/s ± 95 %", 19), ("median", 10), ("TTFT P50 / P90", 15),
        ("ITL P50 / P90 / P99", 27), ("load, page cache", 18), ("peak memory", 20),
    )  # fmt: skip

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._heading = ""
        self._below = BelowRow(stream)

    def write(self, record: Record) -> None:
        heading = plain(_heading(record))
        if heading != self._heading:
            self._stream.write(("\n" if self._heading else "") + heading + "\n")
            self._line(tuple(title for title, _ in self._COLUMNS))
            self._heading = heading
        self._line(tuple(MARKDOWN_COLUMNS[title][0](record) for title, _ in self._COLUMNS))
        self._below.write(record)

    def close(self) -> None:
        self._below.close()

    def _line(self, cells: tuple[str, ...]) -> None:
        sizes = (width for _, width in self._COLUMNS)
        padded = (f"{plain(cell):<{width - 1}} " for cell, width in zip(cells, sizes, strict=True))
        self._stream.write("  " + "".join(padded).rstrip() + "\n")


class _Csv:
    """RFC 4180 with a header line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._writer: csv.DictWriter[str] | None = None

    def write(self, record: Record) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._stream, list(COLUMNS), lineterminator="\n")
            self._writer.writeheader()
        self._writer.writerow(row(record))
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


class JsonLines:
    """One whole record per line, of any kind."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, record: Saved) -> None:
        """Shows one record and flushes."""
        self._stream.write(json.dumps(record.to_json(), allow_nan=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Ends the document; the stream stays open."""
        self._stream.flush()


class JsonArray:
    """One array of whole records of any kind; it is a document once it is closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._separator = "[\n"

    def write(self, record: Saved) -> None:
        """Shows one record and flushes."""
        self._stream.write(self._separator + json.dumps(record.to_json(), allow_nan=False))
        self._stream.flush()
        self._separator = ",\n"

    def close(self) -> None:
        """Ends the document; the stream stays open."""
        self._stream.write("[]\n" if self._separator == "[\n" else "\n]\n")
        self._stream.flush()


class _Sql:
    """Statements for SQLite and most other databases."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = False

    def write(self, record: Record) -> None:
        if not self._begun:
            self._begun = True
            columns = ",\n".join(f"  {name} {kind}" for name, (_, kind) in COLUMNS.items())
            self._stream.write(f"CREATE TABLE IF NOT EXISTS {SQL_TABLE} (\n{columns}\n);\n\n")
        values = ", ".join(_sql_literal(value) for value in row(record).values())
        names = ", ".join(COLUMNS)
        # The names are ours and the values are literals by SQL's own rules.
        self._stream.write(f"INSERT INTO {SQL_TABLE} ({names}) VALUES ({values});\n")  # noqa: S608
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


_WRITERS: Mapping[str, Callable[[TextIO], RecordWriter]] = {
    "text": _Text,
    "md": _Markdown, "csv": _Csv, "json": JsonArray, "jsonl": JsonLines, "sql": _Sql,
}  # fmt: skip
FORMATS = tuple(_WRITERS)


def plain(text: str) -> str:
    """The text on one line, without control characters: names come from strangers' files."""
    return "".join(char if char.isprintable() else " " for char in text)


def _sql_literal(value: Value) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int | float):
        return repr(value)
    return "'" + value.replace("\0", "").replace("'", "''") + "'"


def _model(record: Record) -> str:
    artifact = record.artifact
    words = f"{artifact.name} {artifact.level}"
    if artifact.layers != artifact.layers_of_model:
        words += f", {artifact.layers} of {artifact.layers_of_model} layers"
    return words + (" (synthetic)" if artifact.synthetic else "")


def _heading(record: Record) -> str:
    """The model and every option that differs from the defaults, in one line."""
    words = (
        _model(record),
        format_bytes(record.artifact.size_bytes),
        f"{format_count(record.artifact.parameters)} parameters",
        options_of(record).backend,
        *option_words(record),
    )
    return ", ".join(words)


def option_words(record: Record) -> list[str]:
    """The threads, and every option that differs from the defaults."""
    options, usual = options_of(record), SessionOptions()
    words = [f"{_threads(record)} threads" if options.threads != 1 else "1 thread"]
    asked = record.requested or usual
    for name in ("flash_attention", "kv_type_k", "kv_type_v", "batch_tokens", "micro_batch_tokens"):
        value = getattr(asked, name)
        if value != getattr(usual, name):
            words.append(f"{name.replace('_', ' ')} {value}")
    if options.gpu_layers:
        words.append(f"{options.gpu_layers} layers on the GPU")
    if not options.memory_map:
        words.append("not mapped")
    if emulated := record_emulated_words(record):
        words.append(emulated)
    return words


def _threads(record: Record) -> str:
    threads = options_of(record).threads
    return "engine's" if threads is None else str(threads)


def _rate(record: Record) -> str:
    """The mean rate and half of its 95 % interval: decode where anything decodes, else prefill."""
    if isinstance(record, CellFailure):
        return "failed"
    rate = record.decode_tokens_per_s or record.prefill_tokens_per_s
    if rate is None:
        return "too few tokens"
    if len(record.runs) == 1:
        return f"{format_rate(rate.value)} (1 run)"
    if rate.is_hopeless:
        return f"{format_rate(rate.value)} (too noisy)"
    if rate.relative_half_width > SYMMETRIC_LIMIT:
        low, high = format_rate(rate.low), format_rate(rate.high)
        return f"{format_rate(rate.value)} ({low}-{high})"
    return f"{rate.value:.2f} ± {(rate.high - rate.low) / 2:.2f}"


def _median(record: Record) -> str:
    if isinstance(record, CellFailure):
        return ""
    samples = record.decode_samples or record.prefill_samples
    return f"{statistics.median(samples):.2f}" if samples else ""


def latencies(samples: tuple[float, ...], percents: tuple[int, ...]) -> str:
    """Percentiles of durations in seconds; nothing for no samples."""
    if not samples:
        return ""
    return " / ".join(format_duration(statistics.percentile(samples, p)) for p in percents)


def _ttft(record: Record) -> str:
    return "" if isinstance(record, CellFailure) else latencies(record.ttft_samples_s, (50, 90))


def _itl(record: Record) -> str:
    if isinstance(record, CellFailure):
        return ""
    steps = tuple(step / NS_PER_S for step in record.step_samples_ns)
    return latencies(steps, (50, 90, 99))


def _load(record: Record) -> str:
    if isinstance(record, CellFailure):
        return ""
    return f"{format_duration(record.load.duration_ns / NS_PER_S)} {record.load.page_cache}"


def _memory(record: Record) -> str:
    if isinstance(record, CellFailure):
        return ""
    memory = record.memory
    if not isinstance(memory, Memory):
        return f"unavailable: {memory.reason}"
    anonymous = max((phase.anonymous_bytes for phase in memory.phases), default=0)
    mapped = max((phase.file_bytes for phase in memory.phases), default=0)
    return f"{format_bytes(anonymous)} + {format_bytes(mapped)} file"


def _remarks(record: Record) -> str:
    emulated = record_emulated_words(record)
    if isinstance(record, CellFailure):
        words: tuple[str, ...] = (error_words(record),)
    else:
        words = (*heat_words(record), *_said(record))
    return "; ".join(filter(None, (emulated, *words))) or "quiet"


def _said(measurement: Measurement) -> tuple[str, ...]:
    """What disturbed a measurement, its notes, and where nodes ran when not all in one place."""
    placed = measurement.engine.placement
    split = (f"nodes: {placement_words(placed)}",) if len(placed) > 1 else ()
    return (*measurement.noise.flags, *_paging_words(measurement), *measurement.notes, *split)


def _paging_words(measurement: Measurement) -> tuple[str, ...]:
    """That the model did not fit while it decoded, where it did not."""
    paging = paging_of(measurement)
    return (f"memory: {paging.words}",) if paging else ()


MARKDOWN_COLUMNS: Mapping[str, tuple[Callable[[Record], str], int]] = {
    "model": (_model, 28),
    "size": (lambda r: format_bytes(r.artifact.size_bytes), 8),
    "params": (lambda r: format_count(r.artifact.parameters), 6),
    "backend": (lambda r: options_of(r).backend, 9),
    "threads": (_threads, 7),
    "test": (lambda r: r.workload.name, 13),
    "t/s ± 95 %": (_rate, 15),
    "median": (_median, 7),
    "TTFT P50 / P90": (_ttft, 17),
    "ITL P50 / P90 / P99": (_itl, 27),
    "load, page cache": (_load, 16),
    "peak memory": (_memory, 23),
    "energy": (
        lambda r: energy_words(r) if isinstance(r, Measurement) else "",
        38,
    ),
    "noise and notes": (_remarks, 15),
}
"""Column title -> its words for a record, and the width that usual contents take."""
