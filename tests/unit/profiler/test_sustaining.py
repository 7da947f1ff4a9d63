"""Repetitions kept up for a time: when they end, how they are kept, what the child sees of heat."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.artifact import Artifact
from edge_runtime.basis import Unavailable
from edge_runtime.measurement import Run, SessionOptions, decode_workload
from edge_runtime.profiler import Cell, Plan, Progress, measure, run_cells
from edge_runtime.profiler.noise import NoiseMeter
from edge_runtime.profiler.repetition import stop_reason
from edge_runtime.profiler.run_log import MOST_STAMPS, RunLog
from edge_runtime.sustained import Sustained, sustained

Script = Callable[..., None]
FAKE = SessionOptions(backend="fake")
MS = 1_000_000


def test_what_is_sustained_goes_by_its_time_alone() -> None:
    plan = Plan(sustain_s=10, max_runs=3, budget_s=1)
    steady = [20.0] * 50
    assert stop_reason(plan, [], 11, 1) is None
    assert stop_reason(plan, steady, 9.9, 5) is None
    assert stop_reason(plan, steady, 10.0, 5, lacking_s=99) == "after 50 runs, kept up for 10.0 s"
    early = stop_reason(plan, steady, 4.0, 5, enough="ended early on request")
    assert early == "after 50 runs in 4.00 s: ended early on request"


def test_repetitions_come_back_as_they_were() -> None:
    runs = (
        Run(started_ns=5, prefilled_ns=None, prefill_tokens=0, token_ns=(10, 20, 2**62)),
        Run(started_ns=7, prefilled_ns=9, prefill_tokens=4, token_ns=()),
    )
    log = RunLog()
    for run, rate in zip(runs, (1.0, 2.0), strict=True):
        log.add(run, rate)
    assert log.runs() == runs
    assert log.rates == [1.0, 2.0]
    # Of the shorter phase: 2 ns of prefill.
    assert log.least_s == pytest.approx(2e-9)
    assert not log.is_full


def test_one_record_holds_only_so_much() -> None:
    log = RunLog()
    run = Run(
        started_ns=0, prefilled_ns=None, prefill_tokens=0, token_ns=tuple(range(1, 1_000_001))
    )
    for _ in range(MOST_STAMPS // 1_000_000):
        assert not log.is_full
        log.add(run, 1.0)
    assert log.is_full


def test_heat_is_no_disturbance_of_a_run_that_is_to_find_it(tmp_path: Path) -> None:
    counter = tmp_path / "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    counter.parent.mkdir(parents=True)
    counter.write_text("1\n")
    meter = NoiseMeter(tmp_path)
    meter.start()
    counter.write_text("2\n")
    meter.stop()
    usual = meter.noise(lateness_p90_ns=None, sampler_share=None)
    assert usual.flags == ("the CPU was throttled",)
    kept_up = meter.noise(lateness_p90_ns=None, sampler_share=None, heat_disturbs=False)
    assert kept_up.throttled is True
    assert kept_up.flags == ()


def test_throttling_of_a_run_is_seen_beside_its_rate(
    artifact: Artifact, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thermal = tmp_path / "sys/class/thermal"
    for name, text in (
        ("thermal_zone0/type", "cpu-thermal"), ("thermal_zone0/temp", "45000"),
        ("cooling_device0/type", "thermal-cpufreq-0"), ("cooling_device0/cur_state", "0"),
    ):  # fmt: skip
        (thermal / name).parent.mkdir(parents=True, exist_ok=True)
        (thermal / name).write_text(text + "\n")
    monkeypatch.setenv("EDGE_SENSOR_ROOT", str(tmp_path))
    script(step_ns=5 * MS)

    def throttle() -> None:
        (thermal / "cooling_device0/cur_state").write_text("2\n")
        (thermal / "thermal_zone0/temp").write_text("86000\n")

    later = threading.Timer(1.2, throttle)
    begun: list[Progress] = []

    def listen(progress: Progress) -> None:
        if progress.stage == "running" and not begun:
            later.start()
            begun.append(progress)

    plan = Plan(sustain_s=3, warmups=0)
    found = measure(artifact, decode_workload(10), FAKE, plan=plan, on_event=listen)
    later.join()
    assert found.sustain_s == 3.0
    assert found.heat is not None
    assert found.heat.start.kind == "cool"
    assert found.heat.zones[0].celsius.values[0] == 45.0
    assert found.heat.zones[0].celsius.values[-1] == 86.0
    result = sustained(found)
    assert isinstance(result, Sustained)
    assert not isinstance(result.throttle, Unavailable)
    assert "thermal-cpufreq-0 (cooling_device0) 0 -> 2" in result.throttle[0].evidence
    since = (result.throttle[0].seen_ns - found.runs[0].started_ns) / 1e9
    assert 1.0 < since < 3.5
    assert result.warming is not None
    assert result.warming.end_celsius == 86.0


def test_a_listener_may_have_had_enough(artifact: Artifact, script: Script) -> None:
    script(step_ns=5 * MS)
    plan = Plan(sustain_s=60, warmups=0)
    cells = [Cell(artifact=artifact, options=FAKE, workload=decode_workload(10))]

    def listen(_cell: Cell, progress: Progress) -> bool:
        return progress.runs > 0

    ((_, record, _),) = run_cells(cells, plan=plan, on_event=listen)
    assert record.stopped.endswith("ended early on request")  # type: ignore[union-attr]
    assert 0.5 < (record.sustain_s or 0) < 30  # type: ignore[union-attr]

    # It is not what was asked for, and is run again; a shorter time it has covered.
    (again,) = run_cells(cells, plan=Plan(sustain_s=0.2, warmups=0), earlier=(record,))
    assert again[2] is False
    (again,) = run_cells(cells, plan=Plan(max_runs=3, warmups=0), earlier=(record,))
    assert again[2] is True
    json.dumps(again[1].to_json(), allow_nan=False)
