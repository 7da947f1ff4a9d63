"""NVIDIA's sensors against a GPU whose every call can be refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from fake_nvml import (
    DEVICE_CALLS,
    DRIVER_NOT_LOADED,
    GPU_IS_LOST,
    LIBRARY_NOT_FOUND,
    NOT_AVAILABLE,
    NOT_SUPPORTED,
    FakeNvml,
    Gpu,
    jetson,
)

from edge_runtime.energy import Scope
from edge_runtime.profiler.energy import (
    EnergySensor,
    Found,
    SensorBreakError,
    SensorGapError,
)
from edge_runtime.profiler.energy.nvidia import find, heat
from edge_runtime.profiler.energy.nvml import NOT_PERMITTED, Nvml, open_nvml
from edge_runtime.profiler.energy.sysfs import Tree

ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
POWER = "nvmlDeviceGetPowerUsage"
FIELDS = "nvmlDeviceGetFieldValues"


def search(nvml: FakeNvml) -> Found:
    return find(Tree(Path("/")), module=nvml, clock=nvml.clock, sleep=nvml.sleep)


def only(nvml: FakeNvml) -> EnergySensor:
    found = search(nvml)
    assert len(found.sensors) == 1, found.refusals
    return found.sensors[0]


def joules_over(nvml: FakeNvml, sensor: EnergySensor, seconds: int) -> float:
    first = last = sensor.read()
    for _ in range(10 * seconds):
        nvml.sleep(0.1)
        last = sensor.read()
    return last - first


def reason(found: Found) -> str:
    assert not found.sensors
    return found.refusals[0].why.reason


def test_the_counter_is_millijoules_and_is_preferred() -> None:
    nvml = FakeNvml(Gpu(watts=250))
    sensor = only(nvml)
    assert (sensor.info.method, sensor.info.scope) == ("counter", Scope.BOARD)
    assert sensor.info.covers == ("gpu:GPU-1f3c",)
    assert sensor.info.id == "nvml:GPU-1f3c"
    assert joules_over(nvml, sensor, 10) == pytest.approx(2500)
    assert sensor.read() > 5000  # from the driver's own origin


def test_the_library_is_held_until_the_last_sensor_is_closed() -> None:
    nvml = FakeNvml(Gpu(uuid="GPU-a"), Gpu(uuid="GPU-b"))
    one, two = search(nvml).sensors
    assert (nvml.inits, nvml.held) == (1, 1)
    one.close()
    assert nvml.held == 1
    assert two.read() > 0
    two.close()
    assert nvml.held == 0


def test_nothing_is_held_where_nothing_is_found() -> None:
    nvml = jetson()
    search(nvml)
    assert (nvml.inits, nvml.held) == (1, 0)


def test_a_counter_that_stands_still_is_not_believed() -> None:
    nvml = FakeNvml(Gpu(moves=False, watts=40))
    sensor = only(nvml)
    assert sensor.info.method == "power"
    assert any("stood still for 0.5 s" in note for note in sensor.info.notes)
    assert joules_over(nvml, sensor, 2) == pytest.approx(80)


def test_instantaneous_power_is_preferred_to_the_average() -> None:
    sensor = only(FakeNvml(Gpu(refused={ENERGY: NOT_SUPPORTED})))
    assert "instantaneous" in sensor.info.source
    averaged = only(FakeNvml(Gpu(refused={ENERGY: NOT_SUPPORTED, FIELDS: NOT_SUPPORTED})))
    assert "averaged" in averaged.info.source
    assert any("1 s average" in note for note in averaged.info.notes)
    assert averaged.info.window_s > sensor.info.window_s


def test_a_grace_hopper_is_read_as_its_whole_module() -> None:
    gpu = Gpu(scopes=(1,), superchip=True, watts=300, refused={POWER: NOT_SUPPORTED})
    sensor = only(FakeNvml(gpu))
    assert (sensor.info.scope, sensor.info.method) == (Scope.MODULE, "counter")
    assert sensor.info.covers == ("cpu:0", "dram:0", "gpu:GPU-1f3c")
    nvml = FakeNvml(replace(gpu, refused={POWER: NOT_SUPPORTED, ENERGY: NOT_SUPPORTED}))
    by_power = only(nvml)
    assert (by_power.info.scope, by_power.info.method) == (Scope.MODULE, "power")
    assert joules_over(nvml, by_power, 1) == pytest.approx(300)


def test_a_dgx_spark_is_read_as_its_gpu_alone() -> None:
    sensor = only(
        FakeNvml(Gpu(name="NVIDIA GB10", superchip=True, refused={ENERGY: NOT_SUPPORTED}))
    )
    assert sensor.info.scope is Scope.CHIP
    assert "without its processor and memory" in sensor.info.source


@pytest.mark.parametrize("call", DEVICE_CALLS)
def test_each_call_may_be_refused_on_its_own(call: str) -> None:
    nvml = FakeNvml(Gpu(refused={call: NOT_SUPPORTED}))
    found = search(nvml)
    if call == "nvmlDeviceGetHandleByIndex":
        assert call in reason(found)
        return
    sensor = found.sensors[0]
    assert sensor.info.method == ("power" if call == ENERGY else "counter")
    assert joules_over(nvml, sensor, 10) == pytest.approx(1000)


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount"])
def test_a_library_that_answers_nothing_is_refused_with_its_words(call: str) -> None:
    found = search(FakeNvml(Gpu(), refused={call: NOT_SUPPORTED}))
    assert f"{call}: Not Supported" in reason(found)


def test_a_jetson_initialises_and_offers_nothing() -> None:
    found = search(jetson())
    assert f"{ENERGY}: Not Supported" in reason(found)
    assert f"{POWER}: Not Supported" in reason(found)
    assert "edge energy" in found.refusals[0].why.remedy


def test_one_gpu_that_answers_nothing_does_not_hide_another() -> None:
    dumb = Gpu(uuid="GPU-dumb", name="GT 710", refused={ENERGY: 3, POWER: 3, FIELDS: 3})
    found = search(FakeNvml(dumb, Gpu(uuid="GPU-good")))
    assert [sensor.info.id for sensor in found.sensors] == ["nvml:GPU-good"]
    assert "GT 710" in found.refusals[0].why.reason


def test_values_that_mean_not_available_are_no_values() -> None:
    nvml = FakeNvml(Gpu(moves=False, origin_mj=NOT_AVAILABLE, watts=50))
    sensor = only(nvml)
    assert sensor.info.method == "power"
    assert any("not available" in note for note in sensor.info.notes)
    nowhere = FakeNvml(Gpu(watts=(2**32 - 1) / 1000, refused={ENERGY: NOT_SUPPORTED}))
    assert "not available" in reason(search(nowhere))
    still = FakeNvml(Gpu(watts=0, refused={ENERGY: NOT_SUPPORTED}))
    assert "0 W" in reason(search(still))


def test_a_gpu_that_is_lost_leaves_a_gap_that_its_counter_survives() -> None:
    nvml = FakeNvml(Gpu(watts=100))
    sensor = only(nvml)
    before = sensor.read()
    nvml.gpus[0].refused[ENERGY] = GPU_IS_LOST
    nvml.sleep(1)
    with pytest.raises(SensorGapError, match="GPU is lost"):
        sensor.read()
    del nvml.gpus[0].refused[ENERGY]
    nvml.sleep(1)
    assert sensor.read() - before == pytest.approx(200)


def test_a_counter_that_fell_is_a_break_once() -> None:
    nvml = FakeNvml(Gpu())
    sensor = only(nvml)
    sensor.read()
    nvml.gpus[0].origin_mj = 0
    with pytest.raises(SensorBreakError, match="the driver was reloaded"):
        sensor.read()
    assert joules_over(nvml, sensor, 1) == pytest.approx(100)


def test_a_driver_that_went_and_came_back_is_a_break_even_if_its_counter_is_higher() -> None:
    nvml = FakeNvml(Gpu())
    sensor = only(nvml)
    sensor.read()
    nvml.gpus[0].refused[ENERGY] = DRIVER_NOT_LOADED
    nvml.refused["nvmlInit"] = DRIVER_NOT_LOADED
    with pytest.raises(SensorGapError):
        sensor.read()
    nvml.refused.clear()
    with pytest.raises(SensorBreakError):
        sensor.read()
    nvml.gpus[0].refused.clear()
    nvml.gpus[0].origin_mj *= 2
    assert joules_over(nvml, sensor, 1) == pytest.approx(100)


def test_a_counter_that_stalls_while_it_is_read_gives_no_joules() -> None:
    nvml = FakeNvml(Gpu())
    sensor = only(nvml)
    sensor.read()
    nvml.gpus[0].moves = False
    nvml.gpus[0].origin_mj += 10**6
    stuck = sensor.read()
    nvml.sleep(1.9)
    assert sensor.read() == stuck
    nvml.sleep(0.3)
    with pytest.raises(SensorGapError, match="stalled"):
        sensor.read()


def test_power_that_reads_zero_meanwhile_is_a_gap() -> None:
    nvml = FakeNvml(Gpu(refused={ENERGY: NOT_SUPPORTED}))
    sensor = only(nvml)
    sensor.read()
    nvml.gpus[0].watts = 0
    nvml.sleep(0.1)
    with pytest.raises(SensorGapError, match="0 W"):
        sensor.read()


@pytest.mark.parametrize("state", ["suspended", "active"])
def test_a_gpu_that_is_woken_by_reading_is_said_to_be(tmp_path: Path, state: str) -> None:
    status = tmp_path / "sys/bus/pci/drivers/nvidia/0000:01:00.0/power/runtime_status"
    status.parent.mkdir(parents=True)
    status.write_text(f"{state}\n")
    nvml = FakeNvml(Gpu())
    (sensor,) = find(Tree(tmp_path), module=nvml, clock=nvml.clock, sleep=nvml.sleep).sensors
    assert any("was asleep" in note for note in sensor.info.notes) == (state == "suspended")


def test_names_in_bytes_are_names() -> None:
    gpu = Gpu()
    gpu.name = b"Tesla V100"  # type: ignore[assignment]
    assert "Tesla V100," in only(FakeNvml(gpu)).info.source


class TestThePackage:
    @pytest.fixture(autouse=True)
    def without_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", None)  # import raises ImportError

    def machine(self, root: Path, *, driver: bool) -> Tree:
        if driver:
            version = root / "proc/driver/nvidia/version"
            version.parent.mkdir(parents=True)
            version.write_text("NVRM version: 580")
        return Tree(root)

    def test_missing_it_matters_only_where_there_is_a_driver(self, tmp_path: Path) -> None:
        without = find(self.machine(tmp_path / "a", driver=False))
        assert reason(without) == "no NVIDIA driver"
        assert without.refusals[0].why.remedy == ""
        present = find(self.machine(tmp_path / "b", driver=True))
        assert present.refusals[0].why.remedy == "pip install 'edge-runtime[nvidia]'"

    def test_it_is_imported_when_it_is_looked_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nvml = FakeNvml(Gpu(), refused={"nvmlInit": LIBRARY_NOT_FOUND})
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        found = find(self.machine(tmp_path, driver=True))
        assert "NVML Shared Library Not Found" in reason(found)
        assert found.refusals[0].why.remedy

    def test_a_driver_that_refuses_this_user_is_there(self, tmp_path: Path) -> None:
        nvml = FakeNvml(Gpu(), refused={"nvmlInit": NOT_PERMITTED})
        found = find(self.machine(tmp_path, driver=False), module=nvml)
        assert "does not answer" in reason(found)
        assert "/dev/nvidiactl" in found.refusals[0].why.remedy

    def test_a_tree_without_a_driver_is_not_given_this_machines_gpus(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nvml = FakeNvml(Gpu())
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        assert reason(find(Tree(tmp_path))) == "no NVIDIA driver"
        assert nvml.inits == 0

    def test_the_old_package_of_the_same_name_is_refused(self) -> None:
        impostor = ModuleType("pynvml")
        impostor.__path__ = []  # type: ignore[attr-defined]
        impostor.nvml = SimpleNamespace()  # type: ignore[attr-defined]
        found = find(Tree(Path("/")), module=impostor)
        assert "nvidia-ml-py" in reason(found)
        assert found.refusals[0].why.remedy.startswith("pip uninstall pynvml")


class TestHeat:
    def told(self, gpu: Gpu) -> object:
        nvml = open_nvml(Tree(Path("/")), module=FakeNvml(gpu))
        assert isinstance(nvml, Nvml)
        (device,), refused = nvml.devices()
        assert not refused
        return heat(nvml, device)

    def test_temperature_clock_and_reasons_in_si_units(self) -> None:
        told = self.told(Gpu(reasons=0x20 | 0x40 | 0x80 | 0x4 | 0x1))
        assert told.celsius == 71
        assert told.slowdown_celsius == 92
        assert told.clock_hz == 1.98e9
        assert told.slowed_by == ("power limit", "heat (driver)", "heat (hardware)", "power brake")

    def test_an_idle_gpu_is_not_slowed_down(self) -> None:
        assert self.told(Gpu(reasons=0x1)).slowed_by == ()

    def test_what_is_not_told_is_none(self) -> None:
        old = Gpu(reasons=0x40, refused={"nvmlDeviceGetCurrentClocksEventReasons": NOT_SUPPORTED})
        assert self.told(old).slowed_by == ("heat (hardware)",)
        assert self.told(Gpu(refused={"nvmlDeviceGetTemperature": NOT_SUPPORTED})).celsius == 71
        dumb = self.told(jetson().gpus[0])
        assert (dumb.celsius, dumb.slowdown_celsius) == (None, None)
        assert (dumb.clock_hz, dumb.slowed_by) == (None, None)
