"""Measurements of several models as one text table: a row each, told apart by level and engine.

The columns are as many as the terminal is wide. It words nothing that `records` words already.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from ..measurement import CellFailure, Measurement
from ..memory import Memory
from ..units import NS_PER_S, format_bytes
from .energy import has_figures, joules_per_token
from .records import MARKDOWN_COLUMNS, BelowRow, latencies, option_words, plain
from .rows import Record, options_of

_USUAL_WIDTH = 120
_LONGEST_NAME = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    title: str
    words: Callable[[Record], str]
    width: int
    least_terminal: int = 0
    """The terminal's width from which it is shown."""
    right: bool = False


def _itl(percent: int) -> Callable[[Record], str]:
    def words(record: Record) -> str:
        if isinstance(record, CellFailure):
            return ""
        steps = tuple(step / NS_PER_S for step in record.step_samples_ns)
        return latencies(steps, (percent,))

    return words


def _ttft(record: Record) -> str:
    return "" if isinstance(record, CellFailure) else latencies(record.ttft_samples_s, (50,))


def _peak(record: Record) -> str:
    if isinstance(record, CellFailure) or not isinstance(record.memory, Memory):
        return ""
    return format_bytes(record.memory.peak_bytes)


def _rate(record: Record) -> str:
    words = MARKDOWN_COLUMNS[_RATE][0](record)
    # Half an interval would say something else: without room for it, only that it is wide.
    return words if len(words) <= _RATE_WIDTH else f"{words.partition(' ')[0]} (wide)"


def _joules(record: Record) -> str:
    return "" if isinstance(record, CellFailure) else joules_per_token(record)


_RATE, _RATE_WIDTH = "t/s ± 95 %", 17
_COLUMNS = (
    _Column(title="model", words=lambda r: r.artifact.name, width=16),
    _Column(title="level", words=lambda r: r.artifact.level, width=7),
    _Column(title="engine", words=lambda r: options_of(r).backend, width=9),
    _Column(
        title="size",
        words=lambda r: format_bytes(r.artifact.size_bytes),
        width=8, least_terminal=92, right=True,
    ),
    _Column(title="test", words=lambda r: r.workload.name, width=10),
    _Column(title=_RATE, words=_rate, width=_RATE_WIDTH, right=True),
    _Column(title="TTFT P50", words=_ttft, width=8, least_terminal=110, right=True),
    _Column(title="ITL P50", words=_itl(50), width=7, right=True),
    _Column(title="ITL P99", words=_itl(99), width=7, least_terminal=101, right=True),
    _Column(title="memory", words=_peak, width=8, right=True),
    _Column(title="J/token", words=_joules, width=8, least_terminal=120, right=True),
)  # fmt: skip


def _columns_for(record: Record) -> tuple[_Column, ...]:
    """The columns that this terminal has room for; a first token only where a prompt has one.

    Energy has a column when the first record has a figure of it.
    """
    workload = record.workload
    powered = isinstance(record, Measurement) and has_figures(record)
    wide = shutil.get_terminal_size((_USUAL_WIDTH, 24)).columns
    answers = workload.prompt_tokens and workload.generate_tokens
    name, *others = (
        column
        for column in _COLUMNS
        if wide >= column.least_terminal
        and (answers or column.words is not _ttft)
        and (powered or column.words is not _joules)
    )
    spare = wide - sum(column.width + 1 for column in (name, *others))
    wider = min(max(name.width, name.width + spare), _LONGEST_NAME)
    return (dataclasses.replace(name, width=wider), *others)


class SideBySide:
    """Shows each record as a row as soon as it is there; a heading only where options change."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._columns: tuple[_Column, ...] = ()
        self._heading: list[str] = []
        self._below = BelowRow(stream)

    def write(self, record: Record) -> None:
        """Shows one record and flushes."""
        self._columns = self._columns or _columns_for(record)
        threads, *others = option_words(record)
        if isinstance(record, CellFailure) and self._heading and options_of(record).threads is None:
            threads = self._heading[0]  # what never ran had no threads that could differ
        if [threads, *others] != self._heading:
            self._stream.write(("\n" if self._heading else "") + ", ".join([threads, *others]))
            self._stream.write("\n")
            self._line(tuple(column.title for column in self._columns))
            self._heading = [threads, *others]
        self._line(tuple(column.words(record) for column in self._columns))
        self._below.write(record)

    def close(self) -> None:
        """Ends the table; the stream stays open."""
        self._below.close()

    def _line(self, cells: tuple[str, ...]) -> None:
        shown = []
        for cell, column in zip(cells, self._columns, strict=True):
            text, width = plain(cell), column.width
            text = text if len(text) <= width else text[: width - 1] + "…"
            shown.append(text.rjust(width) if column.right else text.ljust(width))
        self._stream.write(" ".join(shown).rstrip() + "\n")
