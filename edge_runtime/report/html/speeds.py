"""The speeds of all levels, with every round of each."""

from __future__ import annotations

from collections.abc import Sequence

from ...comparison.rows import ComparedRow, Comparison, Rate
from ...units import format_rate
from .figures import (
    ROW_MARGIN,
    Chart,
    Json,
    Table,
    View,
    axis,
    bold,
    css,
    error_bars,
    hover,
    label,
    layout,
    level_axis,
    limit_line,
    lines,
    reach,
    rows_px,
    significant,
)
from .wording import (
    NO_FIGURE,
    bounds_words,
    interval_words,
    ratio_words,
)


def speeds(comparison: Comparison, number: int, *, phase: str) -> Chart | None:
    """Every level's rate with its interval and each round's own; None where no level has one.

    `phase` is `decode` or `prefill`.
    """
    rates = [
        (row, rate) for row in comparison.rows if isinstance(rate := getattr(row, phase), Rate)
    ]
    # A single bar says no more than the table does.
    if sum(max(len(rate.rounds), 1) for _, rate in rates) < 2:
        return None
    workload = label(rates[0][1].workload)
    shown = [rate.tokens_per_s for _, rate in rates]
    widest = max(map(reach, shown))
    shapes: list[Json] = []
    notes: list[Json] = []
    if phase == "decode":
        target = comparison.target.decode_tokens_per_s
        widest = max(widest, target)
        shape, note = limit_line(target, f"{target:g} tok/s", most=widest)
        shapes, notes = [shape], [note]
    several = any(len(rate.rounds) > 1 for _, rate in rates)
    name = "decode" if phase == "decode" else "prompt"
    return Chart(
        id=f"{phase}-{number}",
        title="Decode speed" if phase == "decode" else "Prompt speed",
        caption="The bar is the mean, the line its 95 % interval"
        + (", each dot one round." if several else "."),
        views=(
            View(
                name=name,
                data=(_means(comparison, rates), _rounds(rates)),
                layout=layout(
                    axis(
                        f"{name} speed, tok/s ({workload})",
                        range=[0, significant(1.05 * widest)],
                    ),
                    level_axis([row.label for row, _ in rates]),
                    shapes=shapes,
                    annotations=notes,
                    bargap=0.45,
                    margin=ROW_MARGIN,
                ),
            ),
        ),
        height_px=rows_px(len(rates)),
        table=Table(
            head=("level", "tok/s", "95 % interval", "rounds, tok/s"),
            rows=tuple(
                (
                    row.label,
                    format_rate(rate.tokens_per_s.value),
                    bounds_words(rate.tokens_per_s),
                    ", ".join(format_rate(value) for _, value in rate.rounds),
                )
                for row, rate in rates
            ),
        ),
    )


def all_speeds(comparison: Comparison) -> Table | None:
    """Every workload's rate of every level; None where the columns of the table have them all."""
    names = dict.fromkeys(rate.workload for row in comparison.rows for rate in row.rates)
    if len(names) < 3:
        return None
    rates = {row.label: {rate.workload: rate for rate in row.rates} for row in comparison.rows}
    return Table(
        head=("tok/s", *names),
        rows=tuple(
            (who, *(_rate_words(found[name]) if name in found else NO_FIGURE for name in names))
            for who, found in rates.items()
        ),
    )


def _rate_words(rate: Rate) -> str:
    value = rate.tokens_per_s
    return f"{format_rate(value.value)} ({interval_words(value, format_rate)})"


def _means(comparison: Comparison, rates: Sequence[tuple[ComparedRow, Rate]]) -> Json:
    return {
        "type": "bar",
        "orientation": "h",
        "x": [significant(rate.tokens_per_s.value) for _, rate in rates],
        "y": list(range(len(rates))),
        "marker": {
            "color": [
                css("accent-soft" if row.label == comparison.recommended else "bar")
                for row, _ in rates
            ]
        },
        "error_x": error_bars(
            [rate.tokens_per_s.high - rate.tokens_per_s.value for _, rate in rates],
            [rate.tokens_per_s.value - rate.tokens_per_s.low for _, rate in rates],
        )
        | {"thickness": 1.5, "width": 4, "color": css("ink")},
        **hover(
            [
                lines(
                    bold(row.label),
                    f"{format_rate(rate.tokens_per_s.value)} tok/s"
                    f" ({interval_words(rate.tokens_per_s, format_rate)})",
                    "" if rate.ratio is None else f"{ratio_words(rate.ratio)} of the baseline",
                )
                for row, rate in rates
            ]
        ),
    }


def _rounds(rates: Sequence[tuple[ComparedRow, Rate]]) -> Json:
    dots = [
        (place, number, value)
        for place, (_, rate) in enumerate(rates)
        for number, value in rate.rounds
        if len(rate.rounds) > 1
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [significant(value) for _, _, value in dots],
        "y": [place for place, _, _ in dots],
        "marker": {"size": 6, "color": css("dot"), "line": {"width": 1, "color": css("panel")}},
        **hover([f"round {number + 1}: {format_rate(value)} tok/s" for _, number, value in dots]),
    }
