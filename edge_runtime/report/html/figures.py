"""A chart as plain JSON for Plotly's script: what all charts of the page have in common.

Colours are names of the page's own CSS variables, put in by its script, so that a chart follows the
page from light to dark. No Python class of Plotly is used.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...statistics import Interval
from ..plain import plain

Json = dict[str, object]

_LONGEST_LABEL = 28
_ROW_PX = 40
_AROUND_ROWS_PX = 130
ROW_MARGIN: Json = {"l": 8, "r": 16, "t": 56, "b": 8}
"""What is around the plot of a chart with a row for each level: two of them then stand level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One drawing of a chart: its traces and its layout; `name` is what a button says."""

    name: str
    data: tuple[Json, ...]
    layout: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The numbers behind a chart, in words: they are there without any script."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart with its title, what it shows in a sentence or two, and its numbers as a table.

    A `wide` one has the page's width, the others half of it where there is room for two.
    """

    id: str
    title: str
    caption: str
    views: tuple[View, ...]
    height_px: int
    table: Table | None = None
    wide: bool = False


_MOST_REACH = 2.0
"""Bars beyond this many times their value leave the drawing: they say that nothing is known."""


def rows_px(rows: int) -> int:
    """The height of a chart that has a row for each level."""
    return _AROUND_ROWS_PX + _ROW_PX * max(rows, 2)


def css(variable: str) -> Json:
    """A colour by the name of a CSS variable of the page: `css("accent")` is `--accent`."""
    return {"css": f"--{variable}"}


def label(text: str) -> str:
    """A stranger's name as Plotly shows it: cut, on one line, and none of its markup."""
    return html.escape(plain(text, most=_LONGEST_LABEL), quote=False)


def significant(value: float) -> float:
    """Five significant digits: a chart resolves less, and the file is smaller."""
    return float(f"{value:.5g}")


def axis(title: str, **more: object) -> Json:
    """A value axis: what it shows with its unit, and quiet lines."""
    return {
        "title": {"text": title, "standoff": 10, "font": {"size": 13, "color": css("muted")}},
        "gridcolor": css("line"),
        "zeroline": False,
        "linecolor": css("line"),
        "tickfont": {"size": 12, "color": css("muted")},
        "automargin": True,
        "fixedrange": True,
        "exponentformat": "none",
        "separatethousands": True,
        **more,
    }


def level_axis(labels: Sequence[str], **more: object) -> Json:
    """An axis with a place for each level, the first on top.

    Places are numbers: names that look like numbers or dates are then names nevertheless.
    """
    return {
        **axis(""),
        "tickvals": list(range(len(labels))),
        "ticktext": [label(text) for text in labels],
        "tickfont": {"size": 13, "color": css("ink")},
        "range": [len(labels) - 0.4, -0.6],
        "showgrid": False,
        **more,
    }


def layout(x: Json, y: Json, **more: object) -> Json:
    """The layout of a chart on the page's own background."""
    return {
        "xaxis": x,
        "yaxis": y,
        "margin": {"l": 8, "r": 16, "t": 26, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": css("ink")},
        "hoverlabel": {
            "bgcolor": css("panel"),
            "bordercolor": css("line"),
            "font": {"size": 13, "color": css("ink")},
            "align": "left",
        },
        "hovermode": "closest",
        "dragmode": False,
        "showlegend": False,
        **more,
    }


def legend() -> Json:
    """The part of a layout that names its traces, above the words of a line and the plot."""
    place: Json = {"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"}
    return {"showlegend": True, "legend": place, "margin": ROW_MARGIN}


def limit_line(
    value: float, words: str, *, along: str = "x", most: float | None = None
) -> tuple[Json, Json]:
    """A dashed line at a value of one axis, over the whole of the other, and what it says above.

    `most` is where the axis ends, for words that would not have room to the right of the line.
    """
    across = "y" if along == "x" else "x"
    shape: Json = {
        "type": "line",
        f"{along}0": value,
        f"{along}1": value,
        f"{across}0": 0,
        f"{across}1": 1,
        f"{across}ref": "paper",
        "line": {"color": css("limit"), "width": 1.5, "dash": "dash"},
        "layer": "between",
    }
    anchors: Json = {"xanchor": "right", "yanchor": "bottom"}
    if along == "x":
        late = most is not None and value > 0.5 * most
        anchors["xanchor"] = "right" if late else "left"
    note: Json = {
        along: value,
        across: 1,
        f"{across}ref": "paper",
        "text": label(words),
        "showarrow": False,
        "font": {"size": 12, "color": css("limit")},
        **anchors,
    }
    return shape, note


def error_bars(above: Sequence[float], below: Sequence[float]) -> Json:
    """How far a trace's bars go above and below its values."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [significant(x) for x in above],
        "arrayminus": [significant(x) for x in below],
        "color": css("muted"),
        "thickness": 1,
        "width": 0,
    }


def reach(interval: Interval) -> float:
    """How far an axis goes for an interval: one that says little must not squeeze those that do."""
    return min(interval.high, _MOST_REACH * interval.value)


def hover(texts: Sequence[str], **marker: object) -> Json:
    """The part of a trace that shows these texts, and nothing of its own, when pointed at."""
    found: Json = {"hovertext": list(texts), "hovertemplate": "%{hovertext}<extra></extra>"}
    return {**found, **marker}


def lines(*words: str) -> str:
    """Several lines of a hover text; the words are escaped already."""
    return "<br>".join(word for word in words if word)


def bold(text: str) -> str:
    """A name in bold."""
    return f"<b>{label(text)}</b>"


def as_json(chart: Chart) -> Mapping[str, object]:
    """What the page's script needs of a chart."""
    return {
        "id": chart.id,
        "views": [
            {"name": view.name, "data": list(view.data), "layout": view.layout}
            for view in chart.views
        ],
    }
