"""The figure of a record's power over time is well-formed and drawn to scale."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from records import chat_run, measurement

from benchmarks.power_figure import figure, watts
from edge_runtime.energy import Energy, EnergySeries, Scope, SensorInfo
from edge_runtime.timeline import Timeline, Window

S = 1_000_000_000


def series(name: str, power_w: float, *, until_s: int = 20) -> EnergySeries:
    return EnergySeries(
        sensor=SensorInfo(
            id=name, source=name, scope=Scope.CHIP, covers=(name,), method="counter",
            update_s=0.001, step=6e-5, poll_s=0.1, window_s=1.0,
        ),
        stamps_ns=tuple(range(0, until_s * S + 1, S // 10)),
        joules=tuple(power_w * tenth / 10 for tenth in range(until_s * 10 + 1)),
    )  # fmt: skip


def test_power_is_the_sum_of_the_headline_over_each_step() -> None:
    points = watts((series("cpu:0", 15.0), series("dram:0", 2.0, until_s=15)), 0.5)
    assert len(points) == 30
    assert points[0][0] == 0.25e9
    assert [power for _, power in points] == pytest.approx([17.0] * 30)


def test_windows_and_phases_are_shaded_and_a_strange_name_does_no_harm() -> None:
    record = measurement((chat_run(8, 2 * S, 4, S),))
    headline = (series("cpu:0", 15.0), series("dram:0", 2.0))
    record = replace(
        record,
        artifact=replace(record.artifact, name='<script>"&'),
        energy=Energy(series=(*headline, series("psys", 90.0)), headline=("cpu:0", "dram:0")),
        timeline=Timeline(
            windows=(
                Window(name="idle_a", started_ns=0, ended_ns=5 * S),
                Window(name="idle_b", started_ns=15 * S, ended_ns=20 * S),
            )
        ),
    )
    root = ET.fromstring(figure(record))
    space = "{http://www.w3.org/2000/svg}"
    shades = [r.get("class") for r in root.iter(f"{space}rect") if float(r.get("height", 0)) > 20]
    assert shades == ["idle", "idle", "prefill", "decode"]
    line = next(root.iter(f"{space}polyline")).get("points", "")
    heights = {point.split(",")[1] for point in line.split()}
    assert len(heights) == 1, "always 17 W: a level line"
    assert '<script>"&' in "".join(root.itertext())
