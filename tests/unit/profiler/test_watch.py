"""The parent's side: windows with a reading at both ends, reasons, and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from edge_runtime.artifact import Artifact
from edge_runtime.basis import Unavailable
from edge_runtime.energy import Battery, Energy, EnergySeries, Refusal, Scope, SensorInfo
from edge_runtime.errors import WorkerError
from edge_runtime.measurement import Limits, SessionOptions, decode_workload
from edge_runtime.profiler import Plan, Progress, measure
from edge_runtime.profiler import watch as watch_module
from edge_runtime.profiler.energy import Discovery, EnergySensor
from edge_runtime.profiler.watch import Watch
from edge_runtime.timeline import Window

FAKE = SessionOptions(backend="fake")
MS = 1_000_000
WATTS = 8.0
WHY = Refusal(name="rapl", why=Unavailable(reason="no powercap: a test", remedy="None."))
Script = Callable[..., None]


class Steady:
    """A counter of a machine that always draws the same."""

    def __init__(self, id_: str = "rapl:package-0", window_s: float = 0.5) -> None:
        self.info = SensorInfo(
            id=id_, source="a script", scope=Scope.CHIP, covers=("cpu:0",), method="counter",
            update_s=0.001, step=6e-5, poll_s=0.05, window_s=window_s,
        )  # fmt: skip
        self.closed = 0

    def read(self) -> float:
        if self.closed:
            raise AssertionError("read after it was closed")
        return WATTS * time.perf_counter_ns() / 1e9

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def present(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Steady]]:
    """Makes discovery find these sensors; the first is the headline."""

    def find(*sensors: Steady) -> list[Steady]:
        found: Sequence[EnergySensor] = sensors
        discovery = Discovery(
            sensors=tuple(found),
            headline=(sensors[0].info.id,) if sensors else (),
            refusals=(WHY,),
            battery=Battery(id="BAT0", full_wh=40.0, design_wh=50.0, status="Full"),
        )
        monkeypatch.setattr(watch_module, "discover", lambda: discovery)
        return list(sensors)

    return find


def joules_around(series: EnergySeries, window: Window) -> tuple[float, float]:
    """Joules and seconds between the readings that enclose a window."""
    at = dict(zip(series.stamps_ns, series.joules, strict=True))
    first = max(t for t in series.stamps_ns if t <= window.started_ns)
    last = min(t for t in series.stamps_ns if t >= window.ended_ns)
    return at[last] - at[first], (last - first) / 1e9


def test_a_measurement_holds_what_the_sensors_counted(
    artifact: Artifact, script: Script, present: Callable[..., list[Steady]]
) -> None:
    (sensor,) = present(Steady())
    script(step_ns=2 * MS, prefill_ns_per_token=0)
    plan = Plan(min_runs=2, max_runs=2, idle_s=0.3, budget_s=20)
    found = measure(artifact, decode_workload(100), FAKE, plan=plan)
    assert isinstance(found.energy, Energy)
    assert found.energy.headline == (sensor.info.id,)
    assert found.refusals == (WHY,)
    assert found.battery is not None
    assert sensor.closed == 1
    (series,) = found.energy.series
    assert series.failures == 0
    assert list(series.stamps_ns) == sorted(series.stamps_ns)
    assert found.timeline is not None
    names = [window.name for window in found.timeline.windows]
    assert names == ["idle_a", "load", "warm_up", "runs", "unload", "idle_b"]
    for before, after in pairwise(found.timeline.windows):
        assert before.ended_ns <= after.started_ns
    runs = found.timeline.window("runs")
    assert runs is not None
    joules, seconds = joules_around(series, runs)
    assert joules == pytest.approx(WATTS * seconds, rel=0.01)
    assert runs.duration_s <= seconds < runs.duration_s + 0.2


def test_idle_windows_have_a_reading_at_both_ends_and_say_who_was_busy(
    artifact: Artifact, script: Script, present: Callable[..., list[Steady]]
) -> None:
    present(Steady())
    script(step_ns=MS)
    found = measure(artifact, decode_workload(5), FAKE, plan=Plan(idle_s=0.3, max_runs=3))
    assert isinstance(found.energy, Energy)
    assert found.timeline is not None
    (series,) = found.energy.series
    for name in ("idle_a", "idle_b"):
        window = found.timeline.window(name)  # type: ignore[arg-type]
        assert window is not None
        assert window.duration_s == pytest.approx(0.3, abs=0.1)
        for edge in (window.started_ns, window.ended_ns):
            assert min(abs(t - edge) for t in series.stamps_ns) < 20 * MS
        assert window.busy_share is None or 0 <= window.busy_share <= 1
    unload, idle_b = found.timeline.window("unload"), found.timeline.window("idle_b")
    assert unload is not None
    assert idle_b is not None
    # Clocks fall some time after the work ends: a quarter of the window, at most 5 s.
    assert (idle_b.started_ns - unload.ended_ns) / 1e9 >= 0.075


def test_every_run_has_readings_at_its_boundaries(
    artifact: Artifact, script: Script, present: Callable[..., list[Steady]]
) -> None:
    present(Steady(window_s=0.0))
    script(step_ns=MS)
    found = measure(artifact, decode_workload(5), FAKE, plan=Plan(min_runs=4, max_runs=4))
    assert isinstance(found.energy, Energy)
    (series,) = found.energy.series
    for before, after in pairwise(found.runs):
        assert any(before.token_ns[-1] <= t <= after.started_ns for t in series.stamps_ns)
    assert series.stamps_ns[0] < found.runs[0].started_ns
    assert series.stamps_ns[-1] > found.runs[-1].token_ns[-1]


def test_runs_are_repeated_until_the_headline_can_resolve_them(
    artifact: Artifact, script: Script, present: Callable[..., list[Steady]]
) -> None:
    script(step_ns=10 * MS, prefill_ns_per_token=0)
    plan = Plan(warmups=0, min_runs=1, max_runs=1, budget_s=5)
    present(Steady(window_s=0.6))
    longer = measure(artifact, decode_workload(10), FAKE, plan=plan)
    assert sum(longer.step_samples_ns) / 1e9 >= 0.6
    present(Steady(window_s=60.0))
    hopeless = measure(artifact, decode_workload(10), FAKE, plan=plan)
    assert len(hopeless.runs) == 1, "a budget was spent on what it could never reach"


@pytest.mark.parametrize(
    ("windows", "budget_s", "expected"), [((1.0, 9.0), 60, 1.0), ((5.0,), 4, 0.0), ((), 60, 0.0)]
)
def test_only_the_headline_decides_how_long_is_long_enough(
    present: Callable[..., list[Steady]],
    windows: tuple[float, ...],
    budget_s: float,
    expected: float,
) -> None:
    present(*[Steady(f"s{i}", window_s) for i, window_s in enumerate(windows)])
    with Watch(Plan(budget_s=budget_s)) as watch:
        assert watch.least_run_s == expected
    # Whoever states the number of repetitions gets it.
    with Watch(Plan(budget_s=budget_s, extend=False)) as watch:
        assert watch.least_run_s == 0


def test_idle_windows_without_a_sensor_are_for_a_meter_whose_log_resolves_two_seconds(
    present: Callable[..., list[Steady]],
) -> None:
    present()
    with Watch(Plan(idle_s=1)) as watch:
        assert watch.least_run_s == 2


def test_a_gauge_too_slow_for_the_plan_makes_way_for_the_parts_inside_it(
    present: Callable[..., list[Steady]],
) -> None:
    battery, package = Steady("battery:BAT0", 200.0), Steady(window_s=1.0)
    battery.info = replace(battery.info, scope=Scope.DEVICE, covers=("cpu:*", "system"))
    for plan, expected, least_s in (
        (Plan(budget_s=60), package, 1.0),
        (Plan(budget_s=300), battery, 200.0),
        (Plan(budget_s=60, sustain_s=600), battery, 0.0),
    ):
        present(battery, package)
        with Watch(plan) as watch:
            assert watch.least_run_s == least_s
        energy = watch.energy()
        assert isinstance(energy, Energy)
        assert energy.headline == (expected.info.id,)
        assert len(energy.series) == 2, "the other is still recorded beside it"
        battery.closed = package.closed = 0


def test_without_a_sensor_there_is_the_first_reason_and_the_run_goes_on(
    artifact: Artifact, script: Script, present: Callable[..., list[Steady]]
) -> None:
    present()
    script(step_ns=MS)
    found = measure(artifact, decode_workload(5), FAKE, plan=Plan(max_runs=3, idle_s=0.05))
    assert found.energy == WHY.why
    assert found.refusals == (WHY,)
    assert found.timeline is not None
    # For a meter that somebody reads beside it.
    assert found.timeline.window("idle_a") is not None
    assert len(found.timeline.anchors) == 2
    for anchor in found.timeline.anchors:
        offset_s = (anchor.unix_ns - time.time_ns() - anchor.monotonic_ns) / 1e9
        assert offset_s == pytest.approx(-time.perf_counter_ns() / 1e9, abs=0.5)


def test_the_energy_of_an_emulated_device_is_not_this_machines(
    present: Callable[..., list[Steady]],
) -> None:
    (sensor,) = present(Steady())
    with Watch(Plan(), limits=Limits(cores=1)) as watch:
        assert watch.least_run_s == 0
    energy = watch.energy()
    assert isinstance(energy, Unavailable)
    assert "emulated" in energy.reason
    assert watch.battery is None
    assert sensor.closed == 0, "it was never looked for"


def test_instruments_that_are_off_look_at_nothing(present: Callable[..., list[Steady]]) -> None:
    present(Steady())
    threads = threading.active_count()
    with Watch(Plan(instruments=False)) as watch:
        assert threading.active_count() == threads
    energy = watch.energy()
    assert isinstance(energy, Unavailable)
    assert "switched off" in energy.reason
    assert watch.heat() is None


def test_a_child_that_dies_leaves_no_sensor_open(
    artifact: Artifact, script: Script, present: Callable[..., list[Steady]]
) -> None:
    (sensor,) = present(Steady())
    script(step_ns=MS, crash_after=3, crash="kill")
    with pytest.raises(WorkerError):
        measure(artifact, decode_workload(5), FAKE)
    assert sensor.closed == 1
    assert not any(thread.name == "edge-ticker" for thread in threading.enumerate())


def test_ctrl_c_while_idling_leaves_nothing_behind(
    artifact: Artifact,
    script: Script,
    present: Callable[..., list[Steady]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (sensor,) = present(Steady())
    script(step_ns=MS)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch_module.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(artifact, decode_workload(5), FAKE, plan=Plan(idle_s=30))
    assert sensor.closed == 1
    assert not any(thread.name == "edge-ticker" for thread in threading.enumerate())


def test_events_are_passed_on_before_the_waiting_begins(
    artifact: Artifact, script: Script, present: Callable[..., list[Steady]]
) -> None:
    present(Steady(window_s=0.0))
    script(step_ns=MS)
    seen: list[tuple[str, int]] = []

    def note(progress: Progress) -> None:
        seen.append((progress.stage, time.perf_counter_ns()))

    plan = Plan(idle_s=0.2, min_runs=2, max_runs=2)
    found = measure(artifact, decode_workload(5), FAKE, plan=plan, on_event=note)
    stages = [stage for stage, _ in seen]
    assert stages == ["idle", "loading", "warming", "running", "running", "closing", "idle"]
    assert found.timeline is not None
    idle_a = found.timeline.window("idle_a")
    assert idle_a is not None
    assert seen[0][1] <= idle_a.started_ns
    assert seen[1][1] >= idle_a.ended_ns


def test_a_child_has_the_waiting_time_on_top_of_its_own() -> None:
    assert Watch(Plan(timeout_s=100)).timeout_s == 100
    plan = Plan(timeout_s=100, idle_s=10, settle_s=60, sustain_s=600)
    assert Watch(plan).timeout_s >= 100 + 2 * 10 + 60 + 600
