"""A stand-in for the module of nvidia-ml-py: GPUs on a scripted clock, any call of them refusable.

Names, argument orders, units and answers are those of nvidia-ml-py 13: millijoules, milliwatts,
megahertz, error numbers in `NVMLError.value`, and field values with their own return code.
"""

# ruff: noqa: N802, N815 - the names are NVIDIA's

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

NS_PER_S = 1_000_000_000
NOT_SUPPORTED = 3
GPU_IS_LOST = 15
DRIVER_NOT_LOADED = 9
UNINITIALIZED = 1
LIBRARY_NOT_FOUND = 12
NOT_AVAILABLE = 2**64 - 1


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        self.value = value

    def __str__(self) -> str:
        words = {
            UNINITIALIZED: "Uninitialized",
            NOT_SUPPORTED: "Not Supported",
            DRIVER_NOT_LOADED: "Driver Not Loaded",
            LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
            GPU_IS_LOST: "GPU is lost",
        }
        return words.get(self.value, f"NVML Error with code {self.value}")


@dataclass
class Process:
    pid: int
    usedGpuMemory: int | None


@dataclass
class Gpu:
    """One GPU under a steady power. `refused` maps a call (or `field:scope`) to an error number."""

    name: str = "NVIDIA H200"
    uuid: str = "GPU-1f3c"
    watts: float = 100.0
    origin_mj: int = 5_000_000
    moves: bool = True
    tick_s: float = 0.1
    used_bytes: int = 1 << 30
    compute: list[Process] = field(default_factory=list)
    graphics: list[Process] = field(default_factory=list)
    scopes: tuple[int, ...] = (0,)
    superchip: bool = False
    reasons: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class FakeNvml:
    """The module object."""

    NVMLError = NVMLError

    def __init__(self, *gpus: Gpu, refused: dict[str, int] | None = None) -> None:
        self.gpus = list(gpus)
        self.refused = refused or {}
        self.now_ns = 0
        self.held = 0
        self.inits = 0

    def clock(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * NS_PER_S)

    def _ask(self, call: str, handle: int | None = None) -> Gpu:
        if call in self.refused:
            raise NVMLError(self.refused[call])
        if call not in {"nvmlInit", "nvmlShutdown"} and not self.held:
            raise NVMLError(UNINITIALIZED)
        if handle is None:
            return Gpu()
        gpu = self.gpus[handle]
        if call in gpu.refused:
            raise NVMLError(gpu.refused[call])
        return gpu

    def nvmlInit(self) -> None:
        self._ask("nvmlInit")
        self.held += 1
        self.inits += 1

    def nvmlShutdown(self) -> None:
        self._ask("nvmlShutdown")
        self.held -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._ask("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._ask("nvmlDeviceGetHandleByIndex", index)
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self._ask("nvmlDeviceGetName", handle).name

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return self._ask("nvmlDeviceGetUUID", handle).uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        gpu = self._ask("nvmlDeviceGetTotalEnergyConsumption", handle)
        if not gpu.moves:
            return gpu.origin_mj
        ticks = int(self.now_ns / NS_PER_S / gpu.tick_s + 1e-9)
        return gpu.origin_mj + round(ticks * gpu.tick_s * gpu.watts * 1000)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return round(self._ask("nvmlDeviceGetPowerUsage", handle).watts * 1000)

    def nvmlDeviceGetFieldValues(
        self, handle: int, fields: Sequence[tuple[int, int]]
    ) -> list[SimpleNamespace]:
        gpu = self._ask("nvmlDeviceGetFieldValues", handle)
        answers = []
        for number, scope in fields:
            answered = number == 186 and scope in gpu.scopes
            answers.append(
                SimpleNamespace(
                    nvmlReturn=0 if answered else NOT_SUPPORTED,
                    valueType=1,
                    value=SimpleNamespace(uiVal=round(gpu.watts * 1000) if answered else 0),
                )
            )
        return answers

    def nvmlDeviceGetC2cModeInfoV(self, handle: int) -> SimpleNamespace:
        gpu = self._ask("nvmlDeviceGetC2cModeInfoV", handle)
        return SimpleNamespace(isC2cEnabled=int(gpu.superchip))

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:
        self._ask("nvmlDeviceGetMigMode", handle)
        return [0, 0]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        gpu = self._ask("nvmlDeviceGetMemoryInfo", handle)
        return SimpleNamespace(total=1 << 37, used=gpu.used_bytes, free=0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Process]:
        return self._ask("nvmlDeviceGetComputeRunningProcesses", handle).compute

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> list[Process]:
        return self._ask("nvmlDeviceGetGraphicsRunningProcesses", handle).graphics

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        self._ask("nvmlDeviceGetTemperature", handle)
        return 71 if sensor == 0 else 0

    def nvmlDeviceGetTemperatureV(self, handle: int, sensor: int) -> int:
        self._ask("nvmlDeviceGetTemperatureV", handle)
        return 71 if sensor == 0 else 0

    def nvmlDeviceGetTemperatureThreshold(self, handle: int, threshold: int) -> int:
        self._ask("nvmlDeviceGetTemperatureThreshold", handle)
        return {0: 95, 1: 92}[threshold]

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        self._ask("nvmlDeviceGetClockInfo", handle)
        return 1980 if kind == 0 else 0

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        return self._ask("nvmlDeviceGetCurrentClocksEventReasons", handle).reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle).reasons


DEVICE_CALLS = tuple(
    name
    for name in dir(FakeNvml)
    if name.startswith("nvmlDeviceGet") and name != "nvmlDeviceGetCount"
)
"""Every call about a GPU that the meters make."""


def jetson() -> FakeNvml:
    """Initialises, counts one GPU, and answers nothing else."""
    everything = dict.fromkeys(DEVICE_CALLS, NOT_SUPPORTED)
    del everything["nvmlDeviceGetHandleByIndex"]
    return FakeNvml(Gpu(name="Orin", refused=everything))
