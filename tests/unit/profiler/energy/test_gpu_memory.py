"""GPU memory by process where NVML lists it, else as what the device's use grew."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
from fake_nvml import NOT_AVAILABLE, NOT_SUPPORTED, FakeNvml, Gpu, Process

from edge_runtime.artifact import Artifact
from edge_runtime.measurement import SessionOptions, decode_workload
from edge_runtime.memory import GpuMemory, Memory
from edge_runtime.profiler import Plan, measure
from edge_runtime.profiler.energy.gpu_memory import GpuMemoryGauge
from edge_runtime.profiler.energy.sysfs import Tree

GIB = 1 << 30
CHILD, BROWSER = 4711, 12
ENERGY_CALLS = (
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetFieldValues",
)


def gauge(nvml: FakeNvml) -> GpuMemoryGauge:
    return GpuMemoryGauge(Tree(Path("/")), module=nvml)


def seen(nvml: FakeNvml, *use: tuple[list[Process], int], uses: bool = True) -> tuple[object, ...]:
    """What the gauge says after the processes and the use of the first GPU were as given."""
    looking = gauge(nvml)
    looking.watch(CHILD)
    for processes, used in use:
        nvml.gpus[0].compute = processes
        nvml.gpus[0].used_bytes = used
        looking.sample()
    looking.close()
    return looking.memory(engine_uses_gpus=uses)


def test_the_peak_of_the_listed_process() -> None:
    use = [([Process(CHILD, n * GIB), Process(BROWSER, 9 * GIB)], 12 * GIB) for n in (1, 3, 2)]
    (memory,) = seen(FakeNvml(Gpu()), *use)
    assert memory == GpuMemory(device="GPU 0: NVIDIA H200", peak_bytes=3 * GIB, method="process")


def test_a_process_in_both_lists_counts_once_and_one_on_two_instances_twice() -> None:
    both = FakeNvml(Gpu(graphics=[Process(CHILD, 2 * GIB)]))
    # Listed as graphics before it exists would make it a stranger: the list is filled later.
    both.gpus[0].graphics, graphics = [], both.gpus[0].graphics
    looking = gauge(both)
    looking.watch(CHILD)
    both.gpus[0].graphics = graphics
    both.gpus[0].compute = [Process(CHILD, 2 * GIB)]
    looking.sample()
    assert looking.memory(engine_uses_gpus=True)[0].peak_bytes == 2 * GIB
    (memory,) = seen(FakeNvml(Gpu()), ([Process(CHILD, GIB), Process(CHILD, 2 * GIB)], 3 * GIB))
    assert memory.peak_bytes == 3 * GIB


@pytest.mark.parametrize("unknown", [None, NOT_AVAILABLE])
def test_a_process_listed_without_its_memory_leaves_the_growth(unknown: int | None) -> None:
    (memory,) = seen(FakeNvml(Gpu()), ([Process(CHILD, unknown)], 5 * GIB), ([], 2 * GIB))
    assert (memory.peak_bytes, memory.method) == (4 * GIB, "device delta")


def test_a_number_listed_before_the_process_began_is_somebody_elses() -> None:
    nvml = FakeNvml(Gpu(compute=[Process(CHILD, 7 * GIB)]))
    (memory,) = seen(nvml, ([Process(CHILD, 7 * GIB)], 3 * GIB))
    assert (memory.peak_bytes, memory.method) == (2 * GIB, "device delta")


def test_growth_is_not_ours_where_the_engine_uses_no_gpu() -> None:
    assert seen(FakeNvml(Gpu()), ([], 5 * GIB), uses=False) == ()
    (memory,) = seen(FakeNvml(Gpu()), ([Process(CHILD, GIB)], 2 * GIB), uses=False)
    assert memory.method == "process"


def test_no_growth_is_no_figure() -> None:
    assert seen(FakeNvml(Gpu()), ([], GIB), ([], GIB // 2)) == ()


@pytest.mark.parametrize(
    "call",
    ["nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses",
     "nvmlDeviceGetMemoryInfo"],
)  # fmt: skip
def test_each_call_may_be_refused(call: str) -> None:
    nvml = FakeNvml(Gpu(refused={call: NOT_SUPPORTED}))
    (memory,) = seen(nvml, ([Process(CHILD, GIB)], 3 * GIB))
    if call == "nvmlDeviceGetComputeRunningProcesses":
        assert (memory.peak_bytes, memory.method) == (2 * GIB, "device delta")
    else:
        assert (memory.peak_bytes, memory.method) == (GIB, "process")


def test_whatever_the_bindings_raise_costs_a_reading_and_no_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def torn(handle: int) -> None:
        raise AttributeError(f"the library has no such symbol for {handle}")

    nvml = FakeNvml(Gpu())
    monkeypatch.setattr(nvml, "nvmlDeviceGetMemoryInfo", torn)
    gauge = GpuMemoryGauge(module=nvml)
    gauge.watch(CHILD)
    gauge.sample()
    assert gauge.memory(engine_uses_gpus=True) == ()


def test_each_gpu_is_named_apart() -> None:
    nvml = FakeNvml(Gpu(uuid="GPU-a"), Gpu(uuid="GPU-b", name="NVIDIA L4"))
    looking = gauge(nvml)
    looking.watch(CHILD)
    for gpu in nvml.gpus:
        gpu.compute = [Process(CHILD, GIB)]
    looking.sample()
    titles = [memory.device for memory in looking.memory(engine_uses_gpus=True)]
    assert titles == ["GPU 0: NVIDIA H200", "GPU 1: NVIDIA L4"]


def test_the_library_is_let_go_once() -> None:
    nvml = FakeNvml(Gpu())
    looking = gauge(nvml)
    assert looking.is_of_use
    assert nvml.held == 1
    looking.close()
    looking.close()
    looking.sample()
    assert nvml.held == 0


def test_without_a_driver_nothing_is_seen(tmp_path: Path) -> None:
    looking = GpuMemoryGauge(Tree(tmp_path))
    assert not looking.is_of_use
    looking.sample()
    assert looking.memory(engine_uses_gpus=True) == ()
    looking.close()


class BusyNvml(FakeNvml):
    """Lists every child of this process with a gibibyte of the GPU, and tells no energy."""

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Process]:  # noqa: N802
        return [Process(child.pid, GIB) for child in psutil.Process().children()]


def test_a_measurement_records_what_its_child_took(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_SENSOR_ROOT", raising=False)
    nvml = BusyNvml(Gpu(refused=dict.fromkeys(ENERGY_CALLS, NOT_SUPPORTED)))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = measure(
        artifact,
        decode_workload(4),
        SessionOptions(backend="fake"),
        plan=Plan(min_runs=1, max_runs=1),
    )
    assert isinstance(found.memory, Memory)
    (memory,) = found.memory.gpu
    assert memory == GpuMemory(device="GPU 0: NVIDIA H200", peak_bytes=GIB, method="process")
    assert nvml.held == 0
