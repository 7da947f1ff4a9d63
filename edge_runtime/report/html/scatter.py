"""Quality against speed: where each level stands, and which none beats in both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...basis import Unavailable
from ...comparison.rows import ComparedRow, Comparison, Estimate, Quality, Rate
from ...units import format_bytes, format_rate
from ..energy import three_digits
from .figures import (
    Chart,
    Json,
    View,
    axis,
    bold,
    css,
    error_bars,
    hover,
    label,
    layout,
    limit_line,
    lines,
    reach,
    significant,
)
from .wording import (
    interval_words,
    ratio_words,
    share_words,
)

_NORMAL_95 = 1.96
"""Standard errors on either side that hold 95 % of a normal distribution."""
_ROOM = 1.12
"""How much longer than its largest value an axis from zero is."""
_MOST_LN_RATIO = 20.0


@dataclass(frozen=True, slots=True)
class _Measure:
    """A measure of quality: where it stands, how it is worded, and which end is the better one."""

    name: str
    title: str
    of: Callable[[Quality], Estimate | None]
    words: Callable[[float], str]
    log: bool
    smaller_is_better: bool = True
    percent: bool = False


def _above(ln_ratio: Estimate | None) -> Estimate | None:
    """By how many per cent the perplexity lies above the reference's, token by token."""
    if ln_ratio is None:
        return None
    ratio = math.exp(min(ln_ratio.value, _MOST_LN_RATIO))
    error = 100 * ratio * ln_ratio.standard_error
    return Estimate(value=100 * (ratio - 1), standard_error=error)


_MEASURES = (
    _Measure(
        "KL divergence", "mean KL divergence, nats/token (log)", lambda q: q.kl, three_digits, True
    ),
    _Measure(
        "Perplexity",
        "perplexity above the reference's, %",
        lambda q: _above(q.ln_ppl_ratio),
        lambda above: f"{above:+.2f}",
        False,
    ),
    _Measure(
        "Same choice",
        "same first choice as the reference, %",
        lambda q: q.top1_agreement,
        lambda share: share_words(share / 100),
        False,
        smaller_is_better=False,
        percent=True,
    ),
)
_PERPLEXITY = _Measure("Perplexity", "perplexity", lambda q: q.perplexity, three_digits, False)
"""What is left to show where nothing was held against a reference."""


@dataclass(frozen=True, slots=True)
class _Point:
    row: ComparedRow
    speed: Rate
    value: float
    half: float


def quality_against_speed(comparison: Comparison, number: int) -> Chart | None:
    """What each level loses over how fast it decodes; None where fewer than two have both."""
    views = tuple(
        _scatter(comparison, measure, points)
        for measure in _MEASURES
        if len(points := _points(comparison, measure)) > 1
    )
    alone = _points(comparison, _PERPLEXITY)
    if not views and len(alone) > 1:
        views = (_scatter(comparison, _PERPLEXITY, alone),)
    if not views:
        return None
    target = comparison.target.decode_tokens_per_s
    return Chart(
        id=f"scatter-{number}",
        title="Quality against speed",
        caption="Each point is a level, its bars are 95 % intervals. The line joins those that no"
        " other level beats in both; a filled point is not beaten in memory either. The dashed"
        f" line is the target of {target:g} tok/s.",
        views=views,
        height_px=440,
        wide=True,
    )


def _points(comparison: Comparison, measure: _Measure) -> list[_Point]:
    found = []
    for row in comparison.rows:
        if isinstance(row.quality, Unavailable) or isinstance(row.decode, Unavailable):
            continue
        estimate = measure.of(row.quality)
        if estimate is None or (measure.log and estimate.value <= 0):
            continue
        scale = 100 if measure.percent else 1
        half = _NORMAL_95 * estimate.standard_error * scale
        found.append(_Point(row, row.decode, estimate.value * scale, half))
    return found


def _scatter(comparison: Comparison, measure: _Measure, points: Sequence[_Point]) -> View:
    fastest = max(reach(p.speed.tokens_per_s) for p in points)
    target = comparison.target.decode_tokens_per_s
    most = significant(_ROOM * max(fastest, target))
    shape, note = limit_line(target, f"{target:g} tok/s", most=most)
    shapes, notes = [shape], [note]
    y = axis(measure.title)
    if measure.log:
        ends = math.log10(min(p.value for p in points)), math.log10(max(p.value for p in points))
        spare = 0.12 * (ends[1] - ends[0]) + 0.1
        # Powers of ten alone would leave a narrow range without a mark.
        y |= {
            "type": "log",
            "dtick": 1 if ends[1] - ends[0] > 1.5 else "D2",
            "range": [significant(ends[0] - 1.5 * spare), significant(ends[1] + spare)],
        }
        reference = next((row for row in comparison.rows if row.is_reference), None)
        if reference is not None and isinstance(reference.decode, Rate):
            line, words = _reference_line(reference, reference.decode, most)
            shapes.append(line)
            notes.append(words)
    return View(
        name=measure.name,
        data=(_staircase(_frontier(points, measure)), _marks(comparison, measure, points)),
        layout=layout(
            axis("decode speed, tok/s", range=[0, most]),
            y,
            shapes=shapes,
            annotations=notes,
        ),
    )


def _reference_line(row: ComparedRow, speed: Rate, most: float) -> tuple[Json, Json]:
    """Where the reference is: no loss has no place on an axis of powers of ten."""
    at = significant(speed.tokens_per_s.value)
    line, words = limit_line(at, f"{row.label}: no loss", most=most)
    colour = css("muted")
    line = {**line, "line": {"color": colour, "width": 1, "dash": "dot"}}
    words = {
        **words,
        "y": 0.005,
        "xshift": -4 if at > 0.7 * most else 4,
        "font": {"size": 12, "color": colour},
    }
    return line, words


def _marks(comparison: Comparison, measure: _Measure, points: Sequence[_Point]) -> Json:
    chosen = [p.row.label == comparison.recommended for p in points]
    colours = [css("accent" if one else "ink") for one in chosen]
    # A bar down to nothing has no end on an axis of powers of ten.
    best = _frontier(points, measure)
    # The staircase is on the other side of its points.
    best_side = "bottom right" if measure.smaller_is_better else "top right"
    least = [min(p.half, 0.9 * p.value) if measure.log else p.half for p in points]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": [significant(p.speed.tokens_per_s.value) for p in points],
        "y": [significant(p.value) for p in points],
        "text": [label(p.row.label) for p in points],
        "textposition": [best_side if p in best else "top right" for p in points],
        "textfont": {"size": 13, "color": colours},
        "cliponaxis": False,
        "marker": {
            "size": [13 if one else 10 for one in chosen],
            "color": colours,
            "symbol": ["circle" if p.row.pareto else "circle-open" for p in points],
            "line": {"width": 1.5, "color": colours},
        },
        "error_x": error_bars(
            [p.speed.tokens_per_s.high - p.speed.tokens_per_s.value for p in points],
            [p.speed.tokens_per_s.value - p.speed.tokens_per_s.low for p in points],
        ),
        "error_y": error_bars([p.half for p in points], least),
        **hover([_words(p, measure) for p in points]),
    }


def _words(point: _Point, measure: _Measure) -> str:
    rate = point.speed.tokens_per_s
    ratio = point.speed.ratio
    need = point.row.need_bytes
    return lines(
        bold(point.row.label),
        f"{format_rate(rate.value)} tok/s ({interval_words(rate, format_rate)})"
        + (f", {ratio_words(ratio)}" if ratio is not None else ""),
        f"{measure.title}: {measure.words(point.value)} ± {three_digits(point.half)}",
        "" if isinstance(need, Unavailable) else f"needs {format_bytes(need)}",
        "not dominated" if point.row.pareto else "",
    )


def _frontier(points: Sequence[_Point], measure: _Measure) -> list[_Point]:
    """The levels that have the best quality to be had at their speed or above, by speed."""
    sign = 1 if measure.smaller_is_better else -1
    best: list[_Point] = []
    for point in sorted(points, key=lambda p: (-p.speed.tokens_per_s.value, sign * p.value)):
        if not best or sign * point.value < sign * best[-1].value:
            best.append(point)
    best.reverse()
    return best


def _staircase(best: Sequence[_Point]) -> Json:
    """What can be had: at every speed the quality of the next faster of the best levels."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [significant(p.speed.tokens_per_s.value) for p in best],
        "y": [significant(p.value) for p in best],
        "line": {"color": css("accent"), "width": 1.5, "shape": "vh"},
        "opacity": 0.55,
        "hoverinfo": "skip",
    }
