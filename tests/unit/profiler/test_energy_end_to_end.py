"""From a counter that advances at known watts to the joules of a record, through a real child."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sensor_trees import guest

from benchmarks.sensor_tree import SensorTree, between, steady
from benchmarks.sensor_tree import Watts as TreeWatts
from edge_runtime.artifact import Artifact
from edge_runtime.basis import Unavailable
from edge_runtime.energy import Energy, EnergySeries
from edge_runtime.measurement import Measurement, SessionOptions, decode_workload
from edge_runtime.profiler import Plan, measure
from edge_runtime.profiler.energy.discovery import ROOT_VARIABLE
from edge_runtime.timeline import Window

FAKE = SessionOptions(backend="fake")
MS = 1_000_000
PACKAGE_W, DRAM_W = 15.0, 2.0
Script = Callable[..., None]


def energy_of(found: Measurement) -> Energy:
    assert isinstance(found.energy, Energy)
    return found.energy


def power_w(series: EnergySeries, window: Window) -> float:
    """Mean power between the readings that enclose a window."""
    first = max(i for i, t in enumerate(series.stamps_ns) if t <= window.started_ns)
    last = min(i for i, t in enumerate(series.stamps_ns) if t >= window.ended_ns)
    seconds = (series.stamps_ns[last] - series.stamps_ns[first]) / 1e9
    return (series.joules[last] - series.joules[first]) / seconds


def the_window(found: Measurement, name: str) -> Window:
    assert found.timeline is not None
    (window,) = [window for window in found.timeline.windows if window.name == name]
    return window


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.mark.engine
def test_the_shipped_model_uses_the_joules_of_the_counters(tiny_gguf: Path, machine: Path) -> None:
    artifact = Artifact.open(tiny_gguf)
    options = SessionOptions(threads=1)
    with SensorTree(machine, steady(PACKAGE_W, DRAM_W)) as tree:
        plan = Plan(min_runs=2, max_runs=3, idle_s=0.5)
        found = measure(artifact, decode_workload(64), options, plan=plan)
    energy = energy_of(found)
    assert energy.headline == ("rapl:dram-0", "rapl:package-0")
    series = {one.sensor.id: one for one in energy.series}
    assert "rapl:core-0" in series, "a part is listed beside the headline"
    for id_, watts in (("rapl:package-0", PACKAGE_W), ("rapl:dram-0", DRAM_W)):
        one = series[id_]
        assert one.breaks == ()
        assert one.failures == 0
        seconds = (one.stamps_ns[-1] - one.stamps_ns[0]) / 1e9
        assert seconds > 2.0
        # On a busy machine the fake counters themselves may stand still for longer.
        lag_j = watts * tree.longest_gap_s
        assert one.joules[-1] - one.joules[0] == pytest.approx(watts * seconds, rel=0.02, abs=lag_j)
    # Decoding went on until the sensor can resolve it.
    assert sum(found.step_samples_ns) / 1e9 >= 1.0
    runs = the_window(found, "runs")
    lag_w = PACKAGE_W * tree.longest_gap_s / runs.duration_s
    assert power_w(series["rapl:package-0"], runs) == pytest.approx(PACKAGE_W, rel=0.03, abs=lag_w)
    assert Measurement.from_json(found.to_json()) == found


def test_busy_and_idle_are_told_apart(artifact: Artifact, script: Script, machine: Path) -> None:
    script(step_ns=10 * MS, prefill_ns_per_token=0)
    busy: list[bool] = []
    idle_w, busy_w = TreeWatts(package=5.0, dram=0.5), TreeWatts(package=25.0, dram=2.5)
    tree = SensorTree(machine, between(idle_w, busy_w, lambda: float(bool(busy and busy[-1]))))
    with tree:
        found = measure(
            artifact,
            decode_workload(60),
            FAKE,
            plan=Plan(warmups=0, min_runs=2, max_runs=2, idle_s=0.6),
            on_event=lambda progress: busy.append(progress.stage == "running"),
        )
    package = next(s for s in energy_of(found).series if s.sensor.id == "rapl:package-0")
    assert power_w(package, the_window(found, "idle_a")) == pytest.approx(5.0, rel=0.05)
    assert power_w(package, the_window(found, "runs")) == pytest.approx(25.0, rel=0.05)
    assert power_w(package, the_window(found, "idle_b")) == pytest.approx(5.0, rel=0.05)


def test_a_counter_that_wraps_meanwhile_loses_nothing(
    artifact: Artifact, script: Script, machine: Path
) -> None:
    from benchmarks.sensor_tree import RANGE_UJ

    script(step_ns=10 * MS, prefill_ns_per_token=0)
    # Ten joules before the end of the counter's range: it wraps after about two thirds of a second.
    with SensorTree(machine, steady(PACKAGE_W, DRAM_W), counter_uj=RANGE_UJ - 10_000_000):
        plan = Plan(warmups=0, min_runs=3, max_runs=3)
        found = measure(artifact, decode_workload(40), FAKE, plan=plan)
    package = next(s for s in energy_of(found).series if s.sensor.id == "rapl:package-0")
    assert package.breaks == ()
    assert list(package.joules) == sorted(package.joules)
    seconds = (package.stamps_ns[-1] - package.stamps_ns[0]) / 1e9
    assert package.joules[-1] - package.joules[0] == pytest.approx(PACKAGE_W * seconds, rel=0.03)
    assert package.joules[-1] - package.joules[0] > 10.0


def test_a_counter_that_vanishes_meanwhile_leaves_a_gap_and_a_whole_record(
    artifact: Artifact, script: Script, machine: Path
) -> None:
    script(step_ns=5 * MS, prefill_ns_per_token=0)

    def unplug(_: object) -> None:
        for path in machine.glob("sys/class/powercap/intel-rapl:0/energy_uj"):
            path.unlink()

    with SensorTree(machine, steady(PACKAGE_W, DRAM_W)):
        pass
    found = measure(artifact, decode_workload(20), FAKE, plan=Plan(max_runs=3), on_event=unplug)
    package = next(s for s in energy_of(found).series if s.sensor.id == "rapl:package-0")
    assert package.failures > 0
    assert "energy_uj" in package.last_failure
    assert Measurement.from_json(found.to_json()) == found


def test_a_virtual_machine_has_the_reason_in_place_of_joules(
    artifact: Artifact, script: Script, machine: Path
) -> None:
    script(step_ns=MS)
    guest(machine)
    found = measure(artifact, decode_workload(5), FAKE, plan=Plan(max_runs=3))
    assert isinstance(found.energy, Unavailable)
    assert found.energy.reason == "no powercap: virtual machine"
    assert found.energy.remedy
    assert found.refusals[0].why == found.energy
    assert '"joules"' not in str(found.to_json())
    assert found.decode_tokens_per_s is not None
    assert Measurement.from_json(found.to_json()) == found
