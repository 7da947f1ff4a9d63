"""Charts of raw samples: how steadily tokens come, and what memory each phase takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ... import statistics
from ...comparison.levels import levels_of
from ...comparison.rows import ComparedRow, Comparison, Rate
from ...latency import LatencyMeasurement
from ...measurement import Measurement
from ...memory import Memory, PhasePeak
from ...units import GIB, MIB, NS_PER_S, format_bytes, format_duration
from .figures import (
    Chart,
    Json,
    Table,
    View,
    axis,
    bold,
    css,
    hover,
    layout,
    legend,
    level_axis,
    limit_line,
    lines,
    rows_px,
    significant,
)

_PERCENTS = (50, 90, 99)
_SHARES = tuple(i / 2 for i in range(1, 200))
"""Percentiles that stand for all samples: the shape stays, a file of a million steps does not."""
_SHOWN_LIMIT = 1.6
"""The target is drawn where it lies within this many times the longest latency shown."""
_MS = 1000.0
_WIDE = 12.0
"""Latencies that differ by such a factor stand on a scale of powers of ten."""
_PHASES = ("load", "loaded", "prefill", "decode", "run")


def token_latencies(comparison: Comparison, number: int) -> Chart | None:
    """The time from each generated token to the next; None where nothing was decoded."""
    speeds = _speeds(comparison)
    found = []
    for row in comparison.rows:
        if not isinstance(row.decode, Rate):
            continue
        steps = [
            step / NS_PER_S
            for record in speeds[row.label]
            if record.workload.name == row.decode.workload
            for step in record.step_samples_ns
        ]
        if steps:
            found.append((row.label, steps))
    if not found:
        return None
    target = comparison.target
    return _spread(
        f"itl-{number}",
        "Time from token to token",
        "How evenly the tokens come, all rounds together: the hill is where most of them lie, the"
        " marks are the median, P90 and P99. The last hundredth is left out of the drawing.",
        "inter-token latency, ms",
        found,
        limit=(
            target.itl_limit_s,
            f"{format_duration(target.itl_limit_s)}: {target.decode_tokens_per_s:g} tok/s",
        ),
    )


def inference_latencies(records: Sequence[LatencyMeasurement]) -> Chart | None:
    """The latency of every inference of models that generate no text."""
    found = [
        (record.model.name, [ns / NS_PER_S for ns in record.latencies_ns]) for record in records
    ]
    if not found:
        return None
    return _spread(
        "latency",
        "Latency of an inference",
        "The hill is where most inferences lie, the marks are the median, P90 and P99. The last"
        " hundredth is left out of the drawing.",
        "latency, ms",
        found,
        limit=None,
    )


def _speeds(comparison: Comparison) -> dict[str, tuple[Measurement, ...]]:
    """The measurements of each row, those that count."""
    return {level.label: level.speeds for level in levels_of(comparison.records)}


def _spread(
    name: str,
    title: str,
    caption: str,
    unit: str,
    samples: Sequence[tuple[str, list[float]]],
    *,
    limit: tuple[float, str] | None,
) -> Chart:
    found = [
        (who, [statistics.percentile(values, p) for p in _PERCENTS], sorted(values))
        for who, values in samples
    ]
    longest = max(percents[-1] for _, percents, _ in found)
    shortest = min(statistics.percentile(values, _SHARES[0]) for _, _, values in found)
    shown = limit is not None and shortest / _SHOWN_LIMIT < limit[0] < _SHOWN_LIMIT * longest
    if limit is not None and shown:
        longest = max(longest, limit[0] * 1.3)
    scale = _Scale(shortest, longest)
    shapes: list[Json] = []
    notes: list[Json] = []
    if limit is not None and shown:
        shape, note = limit_line(scale.at(limit[0]), limit[1], most=scale.most)
        shapes, notes = [shape], [note]
    return Chart(
        id=name,
        title=title,
        caption=caption,
        views=(
            View(
                name=title,
                data=(
                    *(_hill(place, values, scale) for place, (_, _, values) in enumerate(found)),
                    *_percentile_marks([(who, percents) for who, percents, _ in found], scale),
                ),
                layout=layout(
                    scale.axis(unit),
                    level_axis(
                        [who for who, _, _ in found],
                        range=[len(found) - 0.75, -0.95],
                        showgrid=True,
                    ),
                    shapes=shapes,
                    annotations=notes,
                    **legend(),
                    violingap=0,
                    violinmode="overlay",
                ),
            ),
        ),
        height_px=rows_px(len(found)),
        table=_percentile_table(found),
    )


def _percentile_table(found: Sequence[tuple[str, list[float], list[float]]]) -> Table:
    return Table(
        head=("", *(f"P{p}" for p in _PERCENTS), "longest", "samples"),
        rows=tuple(
            (
                who,
                *(format_duration(value) for value in percents),
                format_duration(values[-1]),
                f"{len(values):,}",
            )
            for who, percents, values in found
        ),
    )


class _Scale:
    """Where a latency in seconds stands: in ms from zero, or by its logarithm where they differ.

    The logarithm is taken here, so that a hill is the density on the scale that is seen.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._log = shortest > 0 and longest > _WIDE * shortest
        self._ends = shortest, longest
        self.most = self.at(1.08 * longest)

    def at(self, seconds: float) -> float:
        """The place of a latency on the axis."""
        ms = _MS * seconds
        return significant(math.log10(ms)) if self._log else significant(ms)

    def axis(self, title: str) -> Json:
        """The axis, named in ms on either scale."""
        if not self._log:
            return axis(title, range=[0, self.most])
        low, high = (math.log10(_MS * end) for end in self._ends)
        decades = range(math.floor(low), math.ceil(high) + 1)
        factors = (1, 2, 5) if high - low < 2 else (1,)
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        return axis(
            f"{title} (log)",
            range=[significant(low - 0.05), self.most],
            tickvals=[significant(math.log10(tick)) for tick in ticks],
            ticktext=[f"{tick:g}" for tick in ticks],
        )


def _hill(place: int, ordered: Sequence[float], scale: _Scale) -> Json:
    """The shape of a distribution above its line; percentiles stand for the samples."""
    top = statistics.percentile(ordered, 99)
    values = [v for p in _SHARES if (v := statistics.percentile(ordered, p)) <= top]
    return {
        "type": "violin",
        "orientation": "h",
        "side": "negative",
        "x": [scale.at(value) for value in values],
        "y0": place,
        "width": 1.5,
        "points": False,
        "spanmode": "hard",
        "scalemode": "width",
        "fillcolor": css("hill"),
        "line": {"width": 1, "color": css("dot")},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _percentile_marks(found: Sequence[tuple[str, Sequence[float]]], scale: _Scale) -> list[Json]:
    looks = (("line-ns", 18, "ink"), ("diamond", 8, "muted"), ("circle-open", 8, "muted"))
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"P{percent}",
            "x": [scale.at(percents[i]) for _, percents in found],
            "y": list(range(len(found))),
            "marker": {
                "symbol": symbol,
                "size": size,
                "color": css(colour),
                "line": {"width": 2, "color": css(colour)},
            },
            **hover(
                [
                    lines(
                        bold(who),
                        *(
                            f"P{p}: {format_duration(value)}"
                            for p, value in zip(_PERCENTS, percents, strict=True)
                        ),
                    )
                    for who, percents in found
                ]
            ),
        }
        for i, (percent, (symbol, size, colour)) in enumerate(zip(_PERCENTS, looks, strict=True))
    ]


def memory_by_phase(comparison: Comparison, number: int) -> Chart | None:
    """The largest resident memory in each phase of each level; None where nothing was read."""
    speeds = _speeds(comparison)
    found = [(row, phases) for row in comparison.rows if (phases := _phases(speeds[row.label]))]
    if not found:
        return None
    names = [name for name in _PHASES if any(name in phases for _, phases in found)]
    most = max(peak.peak_bytes for _, phases in found for peak in phases.values())
    unit, word = (GIB, "GiB") if most >= GIB else (MIB, "MiB")
    needs = [
        (place, row.need_bytes)
        for place, (row, _) in enumerate(found)
        if isinstance(row.need_bytes, int)
    ]
    widest = max([most, *(need for _, need in needs)])
    shapes: list[Json] = []
    notes: list[Json] = []
    asked = comparison.memory_bytes
    if asked is not None and asked < 2 * widest:
        shape, note = limit_line(significant(asked / unit), format_bytes(asked))
        shapes, notes, widest = [shape], [note], max(widest, round(asked * 1.1))
    bars = [_phase_bars(name, place, found, unit) for place, name in enumerate(names)]
    return Chart(
        id=f"memory-{number}",
        title="Memory by phase",
        caption="The most that was resident in each phase of the tests. The diamond is what must be"
        f" free at a context of {comparison.target.context_tokens:,} tokens.",
        views=(
            View(
                name="memory",
                data=(*bars, _need_marks(needs, unit)),
                layout=layout(
                    axis(f"resident memory, {word}", range=[0, significant(1.06 * widest / unit)]),
                    level_axis([row.label for row, _ in found]),
                    barmode="group",
                    bargap=0.35,
                    bargroupgap=0.1,
                    **legend(),
                    shapes=shapes,
                    annotations=notes,
                ),
            ),
        ),
        height_px=rows_px(len(found)),
        table=_phase_table(found),
    )


def _phase_table(found: Sequence[tuple[ComparedRow, dict[str, PhasePeak]]]) -> Table:
    return Table(
        head=("level", "phase", "most resident", "anonymous", "of files", "read from disk"),
        rows=tuple(
            (row.label if place == 0 else "", name, *_sizes(phases[name]))
            for row, phases in found
            for place, name in enumerate(phases)
        ),
    )


def _phases(records: Sequence[Measurement]) -> dict[str, PhasePeak]:
    """The highest peak of each phase over all measurements of an artifact."""
    found: dict[str, PhasePeak] = {}
    for record in records:
        for phase in record.memory.phases if isinstance(record.memory, Memory) else ():
            if phase.phase not in found or phase.peak_bytes > found[phase.phase].peak_bytes:
                found[phase.phase] = phase
    return {name: found[name] for name in _PHASES if name in found}


def _sizes(peak: PhasePeak) -> tuple[str, ...]:
    read = "not told" if peak.read_bytes is None else format_bytes(peak.read_bytes)
    sizes = (peak.peak_bytes, peak.anonymous_bytes, peak.file_bytes)
    return (*(format_bytes(size) for size in sizes), read)


def _phase_bars(
    name: str, place: int, found: Sequence[tuple[ComparedRow, dict[str, PhasePeak]]], unit: int
) -> Json:
    rows = [(i, row.label, p[name]) for i, (row, p) in enumerate(found) if name in p]
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": [significant(peak.peak_bytes / unit) for _, _, peak in rows],
        "y": [i for i, _, _ in rows],
        "marker": {"color": css(f"phase-{place + 1}")},
        **hover(
            [
                lines(
                    bold(who),
                    f"{name}: {format_bytes(peak.peak_bytes)} resident at most",
                    f"{format_bytes(peak.anonymous_bytes)} anonymous,"
                    f" {format_bytes(peak.file_bytes)} of files",
                )
                for _, who, peak in rows
            ]
        ),
    }


def _need_marks(needs: Sequence[tuple[int, int]], unit: int) -> Json:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "needed",
        "x": [significant(need / unit) for _, need in needs],
        "y": [place for place, _ in needs],
        "marker": {
            "symbol": "diamond",
            "size": 9,
            "color": css("ink"),
            "line": {"width": 1, "color": css("panel")},
        },
        **hover([f"{format_bytes(need)} must be free" for _, need in needs]),
    }
