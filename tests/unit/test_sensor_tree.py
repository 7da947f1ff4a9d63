"""The live tree of fake sensors advances by the joules one computes by hand, and never tears."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.sensor_tree import RANGE_UJ, SensorTree, Watts, between, steady

POWERCAP = "sys/class/powercap/intel-rapl:"


def microjoules(tree: SensorTree, zone: str) -> int:
    text = (tree.folder / f"{POWERCAP}{zone}/energy_uj").read_text()
    assert text.endswith("\n"), "half a number"
    return int(text)


def test_joules_are_watts_times_seconds_and_the_core_lies_inside_the_package(
    tmp_path: Path,
) -> None:
    with SensorTree(tmp_path, steady(15.0, 2.0), period_s=0.005) as tree:
        before = {zone: microjoules(tree, zone) for zone in ("0", "0:0", "0:1")}
        began = time.perf_counter()
        while time.perf_counter() - began < 0.3:  # reading all the while: no half a number
            after = {zone: microjoules(tree, zone) for zone in before}
            passed_s = time.perf_counter() - began
    watts = {zone: (after[zone] - before[zone]) / 1e6 / passed_s for zone in before}
    # A machine that is busy may let the tree miss some ticks at either end.
    assert watts["0"] == pytest.approx(15.0, rel=0.25)
    assert watts["0:1"] / watts["0"] == pytest.approx(2 / 15, rel=0.1)
    assert watts["0:0"] < watts["0"]


def test_power_may_follow_the_time_and_the_counter_wraps(tmp_path: Path) -> None:
    with SensorTree(
        tmp_path, lambda t: Watts(package=100.0 * t, dram=0.0), counter_uj=RANGE_UJ - 10, cpus=1
    ) as tree:
        time.sleep(0.3)
        passed_s = (time.perf_counter_ns() - tree.started_ns) / 1e9
    # 100 W per second, for t seconds: 50 t^2 joules, from 10 µJ below the end of the counter.
    assert microjoules(tree, "0") / 1e6 == pytest.approx(50 * passed_s**2, rel=0.5)
    assert microjoules(tree, "0:1") == RANGE_UJ - 10


def test_power_between_idle_and_busy() -> None:
    idle, busy = Watts(package=5.0, dram=0.5), Watts(package=15.0, dram=2.0)
    shares = iter((0.0, 0.5, 1.0, 7.0))
    power = between(idle, busy, lambda: next(shares))
    assert [power(0.0).package for _ in range(4)] == [5.0, 10.0, 15.0, 15.0]
