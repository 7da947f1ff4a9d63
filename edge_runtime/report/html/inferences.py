"""Models that generate no text, such as vision models: how long an inference takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...latency import LatencyFailure, LatencyMeasurement, LatencyRecord
from ...units import NS_PER_S, format_bytes, format_duration
from ..latency import (
    bounds_words,
    failure_words,
    memory_words,
    model_words,
    options_words,
    rate_words,
    shape_words,
)
from ..plain import plain
from .figures import Chart
from .methods import Method, latency_methods
from .spreads import inference_latencies
from .table import Cell
from .wording import NO_FIGURE

_PERCENTS = (50, 90, 99)
_MOST_INPUTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRow:
    """One model: its name, what it is, and a cell for each figure."""

    name: str
    about: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inferences:
    """The section of such models."""

    head: tuple[str, ...]
    rows: tuple[InferenceRow, ...]
    failures: tuple[tuple[str, str], ...]
    charts: tuple[Chart, ...]
    methods: tuple[Method, ...]


def inferences(records: Sequence[LatencyRecord]) -> Inferences:
    """The table, the distribution, and how they came about."""
    measured = [record for record in records if isinstance(record, LatencyMeasurement)]
    chart = inference_latencies(measured)
    return Inferences(
        head=("Model", *(f"P{p}" for p in _PERCENTS), "Inferences/s", "Memory", "Load", "Size"),
        rows=tuple(map(_row, measured)),
        failures=tuple(
            (plain(record.model.name, most=80), plain(failure_words(record)))
            for record in records
            if isinstance(record, LatencyFailure)
        ),
        charts=() if chart is None else (chart,),
        methods=latency_methods(measured),
    )


def _row(record: LatencyMeasurement) -> InferenceRow:
    fed = [f"{item.name} {shape_words(item.shape)}" for item in record.inputs[:_MOST_INPUTS]]
    left = len(record.inputs) - len(fed)
    about = (
        model_words(record.model),
        *fed,
        *((f"and {left} more inputs",) if left else ()),
        options_words(record.options),
    )
    rate, peak = record.inferences_per_s, record.peak_bytes
    words = rate_words(record)
    load = record.load.duration_ns / NS_PER_S
    return InferenceRow(
        name=plain(record.model.name, most=80),
        about=plain("; ".join(about), most=400),
        cells=(
            *(_percentile(record, percent) for percent in _PERCENTS),
            Cell(words=words.partition(" ")[0], small=(words.partition(" ")[2],),
                 order=None if rate is None else rate.value),
            Cell(words=NO_FIGURE, small=(memory_words(record),)) if peak is None
            else Cell(words=format_bytes(peak), small=("at most",), order=float(peak)),
            Cell(words=format_duration(load), small=(f"page cache {record.load.page_cache}",),
                 order=load),
            Cell(words=format_bytes(record.model.size_bytes),
                 order=float(record.model.size_bytes)),
        ),
    )  # fmt: skip


def _percentile(record: LatencyMeasurement, percent: float) -> Cell:
    found = record.latency_s(percent)
    return Cell(words=format_duration(found.value), small=(bounds_words(found),), order=found.value)
