"""Puts the page together: the template, the sections in it, and the script that draws the charts.

The file is one document without any address in it: styles, scripts and figures lie inside, and its
own policy forbids the browser to load anything else. Plotly's script is put in once, compressed,
and only when there is a chart to draw.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from ...comparison.rows import Comparison
from ...latency import LatencyRecord
from ..answers import PromptAnswers, prompt_answers
from ..comparison_words import as_sentence
from ..plain import plain
from .courses import rates_over_time
from .figures import Chart, Table, as_json
from .inferences import Inferences, inferences
from .methods import Method, methods
from .overview import Overview, disturbed_words, limit_words, overview
from .scatter import quality_against_speed
from .script import plotly_script
from .speeds import all_speeds, speeds
from .spreads import memory_by_phase, token_latencies
from .table import LevelTable, level_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the page is made of. `created` is the day, `files` the names the records came from."""

    title: str
    comparisons: tuple[Comparison, ...]
    latencies: tuple[LatencyRecord, ...]
    files: tuple[str, ...]
    created: str
    tool_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    number: int
    head: Overview
    notes: tuple[str, ...]
    table: LevelTable
    failures: tuple[tuple[str, tuple[str, ...]], ...]
    row_notes: tuple[tuple[str, tuple[str, ...]], ...]
    charts: tuple[Chart, ...]
    speeds: Table | None
    prompts: tuple[PromptAnswers, ...]
    methods: tuple[Method, ...]


def render_page(report: Report) -> str:
    """The report as one HTML document, about 2 MB with charts and some 30 KiB without.

    Raises EngineMissingError when charts are wanted and Plotly's script is not installed.
    """
    sections = tuple(
        _section(comparison, number)
        for number, comparison in enumerate(report.comparisons, start=1)
    )
    latency = inferences(report.latencies) if report.latencies else None
    charts = _charts(sections, latency)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"plain": plain, "plain_lines": _plain_lines}
    style = _part("style.css").replace("/* dark */", _part("dark.css").strip())
    return environment.from_string(_part("page.html")).render(
        report=report,
        sections=sections,
        latency=latency,
        charts=charts,
        figures=_embedded([as_json(chart) for chart in charts]),
        plotly=plotly_script() if charts else None,
        style=style,
        before=_part("before.js"),
        script=_part("page.js"),
    )


def _section(comparison: Comparison, number: int) -> _Section:
    charts = (
        quality_against_speed(comparison, number),
        *rates_over_time(comparison, number),
        speeds(comparison, number, phase="decode"),
        token_latencies(comparison, number),
        speeds(comparison, number, phase="prefill"),
        memory_by_phase(comparison, number),
    )
    return _Section(
        number=number,
        head=overview(comparison),
        notes=tuple(map(as_sentence, (*disturbed_words(comparison.records), *comparison.notes))),
        table=level_table(comparison),
        failures=tuple(
            (plain(row.label), _words(row.failures)) for row in comparison.rows if row.failures
        ),
        row_notes=tuple(
            (plain(row.label), _words(said))
            for row in comparison.rows
            if (said := (*limit_words(row), *row.notes))
        ),
        charts=tuple(chart for chart in charts if chart is not None),
        speeds=all_speeds(comparison),
        prompts=prompt_answers(comparison),
        methods=methods(comparison),
    )


def _charts(sections: Sequence[_Section], latency: Inferences | None) -> tuple[Chart, ...]:
    found = [chart for section in sections for chart in section.charts]
    return (*found, *(latency.charts if latency is not None else ()))


def _words(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(plain, texts))


def _plain_lines(text: str) -> str:
    """A stranger's text in its own lines, without what could hide or turn its letters."""
    return "\n".join(plain(line.expandtabs(4)) for line in text.split("\n"))


def _part(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text("utf-8")


def _embedded(value: object) -> str:
    """JSON as the content of a script element, where only `</` could end it early."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text
