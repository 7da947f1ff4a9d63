"""Draws the power of one measurement over time as an SVG, from its saved record.

    python benchmarks/power_figure.py runs.jsonl docs/energy.svg --line 0

The line is the headline's joules, differenced over steps no shorter than the sensors' own periods.
Bands are the record's windows, and prefill and decode of each repetition.
"""

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Iterable
from pathlib import Path

from edge_runtime.basis import Unavailable
from edge_runtime.energy import EnergySeries
from edge_runtime.measurement import Measurement

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 330, 46, 12, 58, 40
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#6e7781}.axis{stroke:#8b949e;fill:none}"
    ".grid{stroke:#8b949e;opacity:.3}.power{stroke:#0969da;fill:none;stroke-width:1.8}"
    ".idle{fill:#8b949e;opacity:.2}.load{fill:#bf8700;opacity:.4}"
    ".prefill{fill:#cf222e;opacity:.26}.decode{fill:#1a7f37;opacity:.26}"
    "@media(prefers-color-scheme:dark){text{fill:#c9d1d9}.power{stroke:#58a6ff}"
    ".prefill,.decode{opacity:.4}}"
)
WORDS = {"idle_a": "idle A", "load": "load", "idle_b": "idle B"}


def watts(series: Iterable[EnergySeries], step_s: float) -> list[tuple[float, float]]:
    """Mean power of all series together by steps: the middle of each in nanoseconds, and watts."""
    tracks = [(s.stamps_ns, s.joules) for s in series]
    at = max(stamps[0] for stamps, _ in tracks)
    end = min(stamps[-1] for stamps, _ in tracks)
    edges = list(range(at, end + 1, round(step_s * 1e9)))
    totals = [sum(interpolated(t, j, edge) for t, j in tracks) for edge in edges]
    return [
        ((edges[i] + edges[i + 1]) / 2, (totals[i + 1] - totals[i]) / step_s)
        for i in range(len(edges) - 1)
    ]


def interpolated(stamps: tuple[int, ...], joules: tuple[float, ...], moment: int) -> float:
    after = next(i for i, stamp in enumerate(stamps) if stamp >= moment)
    if after == 0 or stamps[after] == moment:
        return joules[after]
    share = (moment - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
    return joules[after - 1] + share * (joules[after] - joules[after - 1])


def bands(record: Measurement) -> list[tuple[str, int, int, str]]:
    """Class, start, end and label of everything that is shaded."""
    found = []
    for window in record.timeline.windows if record.timeline else ():
        if window.name in WORDS:
            kind = window.name.partition("_")[0]
            found.append((kind, window.started_ns, window.ended_ns, WORDS[window.name]))
    for run in record.runs:
        begun = run.prefilled_ns or run.started_ns
        found.append(("prefill", run.started_ns, begun, ""))
        found.append(("decode", begun, max((begun, *run.token_ns)), ""))
    return [band for band in found if band[2] > band[1]]


def figure(record: Measurement) -> str:
    assert not isinstance(record.energy, Unavailable), "the record has no energy"
    headline = [s for s in record.energy.series if s.sensor.id in record.energy.headline]
    points = watts(headline, max(0.25, *(2 * s.sensor.poll_s for s in headline)))
    origin, span = points[0][0], points[-1][0] - points[0][0]
    most = 5 * (int(max(w for _, w in points) / 5) + 1)
    right, low = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(moment: float) -> float:
        return LEFT + min(1.0, max(0.0, (moment - origin) / span)) * (right - LEFT)

    def y(power: float) -> float:
        return low - power / most * (low - TOP)

    what = f"{record.artifact.name} {record.artifact.level}, {record.workload.name}"
    title = html.escape(f"Power over time: {what}")
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"'
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" {box}><title>{title}</title>']
    out.append(f"<style>{STYLE}</style>")
    for kind, start, end, label in bands(record):
        wide = max(1.0, x(end) - x(start))
        out.append(
            f'<rect class="{kind}" x="{x(start):.1f}" y="{TOP}" width="{wide:.1f}"'
            f' height="{low - TOP}"/>'
        )
        if label:
            middle = x(start) + wide / 2
            out.append(f'<text x="{middle:.1f}" y="{TOP - 7}" text-anchor="middle">{label}</text>')
    for power in range(0, most + 1, 5):
        out.append(f'<path class="grid" d="M{LEFT} {y(power):.1f}H{right}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y(power) + 4:.1f}" text-anchor="end">{power}</text>')
    step = 10 if span > 40e9 else 5
    for second in range(0, int(span / 1e9) + 1, step):
        at = x(origin + second * 1e9)
        out.append(f'<text x="{at:.1f}" y="{low + 17}" text-anchor="middle">{second}</text>')
    line = " ".join(f"{x(moment):.1f},{y(power):.1f}" for moment, power in points)
    out.append(f'<path class="axis" d="M{LEFT} {TOP}V{low}H{right}"/>')
    out.append(f'<polyline class="power" points="{line}"/>')
    out.append(f'<text x="{right}" y="{HEIGHT - 6}" text-anchor="end">seconds</text>')
    source = " + ".join(s.sensor.id for s in headline)
    out.append(f'<text x="{LEFT}" y="16">watts, {html.escape(source)}</text>')
    for place, kind in enumerate(("prefill", "decode")):
        at = right - 150 + 78 * place
        out.append(f'<rect class="{kind}" x="{at}" y="5" width="14" height="14"/>')
        out.append(f'<text x="{at + 19}" y="16">{kind}</text>')
    return "\n".join((*out, "</svg>")) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("figure", type=Path)
    parser.add_argument("--line", type=int, default=0, help="which record of the file")
    given = parser.parse_args()
    lines = given.results.read_text("utf-8").splitlines()
    given.figure.write_text(figure(Measurement.from_json(json.loads(lines[given.line]))), "utf-8")


if __name__ == "__main__":
    main()
