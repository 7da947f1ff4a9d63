"""The course of a rate that was kept up on purpose, with the temperature below it."""

from __future__ import annotations

from ...comparison.rows import Comparison
from ...heat import Zone
from ...measurement import Measurement
from ...sustained import Sustained, sustained, timed_span
from ...units import NS_PER_S, format_duration, format_rate
from ..plain import plain
from .figures import (
    Chart,
    Json,
    Table,
    View,
    axis,
    css,
    hover,
    layout,
    legend,
    limit_line,
    significant,
)
from .wording import bounds_words

_MOST_POINTS = 240


def rates_over_time(comparison: Comparison, number: int) -> tuple[Chart, ...]:
    """A chart for every measurement that was sustained long enough to tell."""
    found = [
        (record, course)
        for record in comparison.records
        if isinstance(record, Measurement) and isinstance(course := sustained(record), Sustained)
    ]
    return tuple(
        _chart(record, course, comparison, f"{number}-{place}")
        for place, (record, course) in enumerate(found, start=1)
    )


def _chart(record: Measurement, course: Sustained, comparison: Comparison, number: str) -> Chart:
    target = comparison.target.decode_tokens_per_s
    highest = max(rate for _, rate in course.series)
    shapes: list[Json] = []
    notes: list[Json] = []
    if course.phase == "decode":
        highest = max(highest, target)
        shape, note = limit_line(target, f"{target:g} tok/s", along="y")
        shapes, notes = [shape], [note]
    warm = _celsius(record)
    data = [_rate(course), _mean(course, burst=True), _mean(course, burst=False)]
    steady = course.steady_tokens_per_s
    x = axis("time since the first repetition, s", range=[0, significant(course.duration_s)])
    y = axis(f"{course.phase} speed, tok/s", range=[0, significant(1.1 * highest)])
    more: Json = {}
    if warm:
        data.append(_temperature(record.heat.zones[0] if record.heat else None, warm))
        y |= {"domain": [0.36, 1]}
        x |= {"anchor": "y2"}
        more["yaxis2"] = axis("temperature, °C", domain=[0, 0.26], nticks=4)
        # The target belongs to the speeds alone.
        for shape in shapes:
            shape["xref"] = "x domain"
    words = f"{record.artifact.level}, {record.workload.name}"
    return Chart(
        id=f"course-{number}",
        title=f"Speed over time: {plain(words)}",
        caption=_caption(course),
        views=(
            View(
                name="speed",
                data=tuple(data),
                layout=layout(
                    x, y,
                    shapes=shapes, annotations=notes, **legend(), **more,
                ),
            ),
        ),
        height_px=460 if warm else 340,
        wide=True,
        table=Table(
            head=("", "tok/s", "from"),
            rows=(
                ("burst", format_rate(course.burst_tokens_per_s),
                 f"the first {format_duration(course.burst_s)}"),
                ("steady", f"{format_rate(steady.value)} ({bounds_words(steady)})",
                 f"the last {format_duration(course.steady_s)}"),
            ),
        ),
    )  # fmt: skip


def _caption(course: Sustained) -> str:
    steady = course.steady_tokens_per_s
    words = (
        f"Steady {format_rate(steady.value)} tok/s, burst"
        f" {format_rate(course.burst_tokens_per_s)} tok/s."
    )
    if course.slowed:
        cause = course.cause
        words += f" {cause[:1].upper()}{cause[1:]}."
    if course.still_falling:
        words += " It was still falling at the end."
    return plain(words)


def _rate(course: Sustained) -> Json:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "tok/s",
        "x": [significant(at) for at, _ in course.series],
        "y": [significant(rate) for _, rate in course.series],
        "line": {"color": css("accent"), "width": 2},
        "marker": {"size": 4, "color": css("accent")},
        "showlegend": False,
        **hover(
            [
                f"after {format_duration(at)}: {format_rate(rate)} tok/s"
                for at, rate in course.series
            ]
        ),
    }


def _mean(course: Sustained, *, burst: bool) -> Json:
    rate = course.burst_tokens_per_s if burst else course.steady_tokens_per_s.value
    ends = (
        (0.0, course.burst_s) if burst else (course.duration_s - course.steady_s, course.duration_s)
    )
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "burst" if burst else "steady",
        "x": [significant(end) for end in ends],
        "y": [significant(rate)] * 2,
        "line": {"color": css("phase-3" if burst else "ink"), "width": 4},
        "hoverinfo": "skip",
    }


def _celsius(record: Measurement) -> list[tuple[float, float]]:
    """Seconds since the first repetition and the leading temperature, while the runs went on."""
    span = timed_span(record)
    if span is None or record.heat is None or not record.heat.zones:
        return []
    series = record.heat.zones[0].celsius
    found = [
        ((stamp - span[0]) / NS_PER_S, value)
        for stamp, value in zip(series.stamps_ns, series.values, strict=False)
        if span[0] <= stamp <= span[1]
    ]
    return found[:: max(1, len(found) // _MOST_POINTS)]


def _temperature(zone: Zone | None, warm: list[tuple[float, float]]) -> Json:
    name = plain(zone.celsius.name, most=24) if zone else ""
    return {
        "type": "scatter",
        "mode": "lines",
        "yaxis": "y2",
        "x": [significant(at) for at, _ in warm],
        "y": [significant(value) for _, value in warm],
        "line": {"color": css("limit"), "width": 1.5},
        "showlegend": False,
        **hover([f"{value:.1f} °C {name}".replace("<", "&lt;") for _, value in warm]),
    }
