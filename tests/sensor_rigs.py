"""Machines of one sensor each, whose time, power and faults are in a test's hands.

Each draws the same power all the time and is read below its root through a scripted clock: whatever
the kind of sensor, its joules must be the watts times the seconds.
"""

# The functions of NVIDIA's library are named as NVIDIA names them.
# ruff: noqa: N802

from __future__ import annotations

import errno
import json
import queue
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import board_trees as boards
import sensor_trees as trees

from edge_runtime.profiler.energy import (
    EnergySensor,
    Found,
    apple,
    battery,
    hwmon,
    ina3221,
    nvidia,
    perf,
    pmic,
    rapl,
)
from edge_runtime.profiler.energy.sysfs import Tree

WATTS = 12.0


class Rig:
    """One sensor of a machine whose time, power and faults are in the test's hands."""

    watts = WATTS

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = trees.Clock()
        self.reader = trees.Reader()
        self.tree = Tree(root, self.reader)
        self.build()
        found = self.find()
        assert found.sensors, [refusal.why.reason for refusal in found.refusals]
        self.sensor: EnergySensor = self.choose(found)
        self.others = [sensor for sensor in found.sensors if sensor is not self.sensor]

    def build(self) -> None:
        """Sets the machine up."""

    def find(self) -> Found:
        """Searches it."""
        raise NotImplementedError

    def choose(self, found: Found) -> EnergySensor:
        """The sensor that is put to the test."""
        return found.sensors[0]

    def count(self, joules: float) -> None:
        """Lets the hardware count."""

    def fail(self) -> None:
        """Lets every reading fail from now on."""
        self.reader.faults[""] = errno.EIO

    def heal(self) -> None:
        """Lets readings succeed again."""
        self.reader.faults.clear()

    def reset(self) -> None:
        """Sets the hardware's counter back to zero."""

    def work(self, seconds: float) -> None:
        """Lets time pass at the machine's power, unread."""
        self.clock.advance(seconds)
        self.count(self.watts * seconds)

    def watch(self, seconds: float) -> list[float]:
        """Reads at the sensor's own rate for some time."""
        poll_s = self.sensor.info.poll_s
        joules = []
        for _ in range(round(seconds / poll_s)):
            self.work(poll_s)
            joules.append(self.sensor.read())
        return joules


class PowercapRig(Rig):
    def build(self) -> None:
        trees.cpuinfo(self.root)
        trees.zone(self.root, "intel-rapl:0", "package-0", 51_230_000_000)

    def find(self) -> Found:
        return rapl.find(self.tree, clock=self.clock)

    def count(self, joules: float) -> None:
        trees.advance(self.root, "intel-rapl:0", joules)

    def reset(self) -> None:
        trees.put(self.root, f"{trees.POWERCAP}/intel-rapl:0/energy_uj", 0)


class WrappingRig(PowercapRig):
    """A counter that wraps four seconds after the beginning."""

    def build(self) -> None:
        trees.cpuinfo(self.root)
        uj = trees.EPYC_RANGE_UJ - round(4 * WATTS * 1e6)
        trees.zone(self.root, "intel-rapl:0", "package-0", uj, trees.EPYC_RANGE_UJ)

    def reset(self) -> None:
        trees.put(self.root, f"{trees.POWERCAP}/intel-rapl:0/energy_uj", 30_000_000_000)
        self.sensor.read()
        super().reset()


class MirroredRig(Rig):
    def build(self) -> None:
        trees.threadripper(self.root)

    def find(self) -> Found:
        return rapl.find(self.tree, clock=self.clock)

    def count(self, joules: float) -> None:
        for die in range(2):
            trees.advance(self.root, f"intel-rapl:{die}", joules)

    def reset(self) -> None:
        for die in range(2):
            trees.put(self.root, f"{trees.POWERCAP}/intel-rapl:{die}/energy_uj", 0)


class PerfRig(Rig):
    def build(self) -> None:
        trees.cpuinfo(self.root)
        trees.topology(self.root, {0: 0})
        trees.power_pmu(self.root, events=("pkg",))
        self.counted = 0
        self.broken = False

    def find(self) -> Found:
        return perf.find(self.tree, opener=lambda *_: self)

    def read(self) -> int:
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        return self.counted

    def close(self) -> None:
        """An open event of the kernel, which the rig itself stands for."""

    def count(self, joules: float) -> None:
        self.counted += round(joules / 2.0**-32)

    def fail(self) -> None:
        self.broken = True

    def heal(self) -> None:
        self.broken = False

    def reset(self) -> None:
        self.counted = 0


class SocketRig(Rig):
    def build(self) -> None:
        trees.cpuinfo(self.root, "AuthenticAMD")
        self.folder = trees.hwmon(
            self.root, 3, "amd_energy", energy1_label="Esocket0", energy1_input=7_000_000
        )

    def find(self) -> Found:
        return hwmon.find(self.tree, clock=self.clock)

    def count(self, joules: float) -> None:
        path = self.root / self.folder / "energy1_input"
        trees.put(
            self.root, f"{self.folder}/energy1_input", int(path.read_text()) + int(joules * 1e6)
        )

    def reset(self) -> None:
        trees.put(self.root, f"{self.folder}/energy1_input", 0)


class ServerMeterRig(Rig):
    def build(self) -> None:
        trees.cpuinfo(self.root)
        trees.hwmon(
            self.root, 0, "power_meter", power1_average=round(WATTS * 1e6),
            power1_average_interval=1000,
        )  # fmt: skip

    def find(self) -> Found:
        return hwmon.find(self.tree, clock=self.clock)


class JetsonRig(Rig):
    watts = 6.0

    def build(self) -> None:
        boards.orin_nano(self.root)

    def find(self) -> Found:
        return ina3221.find(self.tree, clock=self.clock)


class AgxRig(JetsonRig):
    watts = 19.0

    def build(self) -> None:
        boards.agx_orin(self.root)


class BatteryRig(Rig):
    def build(self) -> None:
        boards.laptop_on_battery(self.root)

    def find(self) -> Found:
        return battery.find(self.tree, clock=self.clock)

    def count(self, joules: float) -> None:
        path = f"{boards.SUPPLIES}/BAT0/energy_now"
        left = int((self.root / path).read_text())
        trees.put(self.root, path, left - round(joules / 3600 * 1e6))


class PiRig(Rig):
    watts = boards.PI_W

    def build(self) -> None:
        trees.put(self.root, "proc/device-tree/model", boards.PI5)
        self.broken = False

    def find(self) -> Found:
        return pmic.find(self.tree, run=self.run, clock=self.clock)

    def run(self, *_: object) -> str:
        if self.broken:
            raise subprocess.TimeoutExpired("vcgencmd", 2.0)
        return boards.pmic_print()

    def fail(self) -> None:
        self.broken = True

    def heal(self) -> None:
        self.broken = False


class NvmlError(Exception):
    """As NVIDIA's: an exception with the library's error number."""

    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


class NvidiaRig(Rig):
    """The first of two GPUs whose driver counts millijoules while anybody holds it."""

    NVMLError = NvmlError

    def build(self) -> None:
        self.microjoules = 5_000_000_000
        self.failing = False
        self.held = 0

    def find(self) -> Found:
        # The search looks whether the counter moves, and waits for it.
        return nvidia.find(self.tree, module=self, clock=self.clock, sleep=self.work)

    def count(self, joules: float) -> None:
        self.microjoules += round(joules * 1e6)

    def fail(self) -> None:
        self.failing = True

    def heal(self) -> None:
        self.failing = False

    def reset(self) -> None:
        self.microjoules = 0

    def answer(self) -> None:
        if self.failing or not self.held:
            raise NvmlError(999 if self.held else 1)

    def nvmlInit(self) -> None:
        self.held += 1

    def nvmlShutdown(self) -> None:
        self.held -= 1
        assert self.held >= 0, "given back more often than it was held"

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, _: int) -> str:
        return "NVIDIA Test GPU"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-1f3{handle}"

    def nvmlDeviceGetTotalEnergyConsumption(self, _: int) -> int:
        self.answer()
        return self.microjoules // 1000

    def nvmlDeviceGetPowerUsage(self, _: int) -> int:
        self.answer()
        return round(self.watts * 1000)

    def nvmlDeviceGetFieldValues(self, _: int, __: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(nvmlReturn=3)]


class NvidiaPowerRig(NvidiaRig):
    """A GPU that counts nothing."""

    def nvmlDeviceGetTotalEnergyConsumption(self, _: int) -> int:
        raise NvmlError(3)


class ZeusRig(Rig):
    """The channels of an Apple chip as zeus-apple-silicon gives them."""

    def build(self) -> None:
        trees.cpuinfo(self.root)
        self.microjoules = 3_000_000_000
        self.broken = False
        self.searching = True

    def find(self) -> Found:
        found = apple.find(self.tree, zeus=self, clock=self.clock, system="darwin")
        self.searching = False
        return found

    def AppleEnergyMonitor(self) -> ZeusRig:
        return self

    def get_cumulative_energy(self) -> SimpleNamespace:
        if self.broken:
            raise RuntimeError("IOReport gives nothing")
        if self.searching:
            self.work(0.01)  # a search takes its time
        mj = self.microjoules // 1000
        return SimpleNamespace(cpu_total_mj=mj, gpu_mj=mj // 2, ane_mj=None, dram_mj=mj // 4)

    def count(self, joules: float) -> None:
        self.microjoules += round(joules * 1e6)

    def fail(self) -> None:
        self.broken = True

    def heal(self) -> None:
        self.broken = False

    def reset(self) -> None:
        self.microjoules = 0


class MacmonRig(Rig):
    """macmon writes a line every half second."""

    def build(self) -> None:
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.good = {"cpu_power": 4.0, "gpu_power": 3.0, "ane_power": 0.0, "all_power": 7.0}
        self.good |= {"ram_power": 1.0, "sys_power": WATTS}
        self.line = self.good
        self.lines.put(json.dumps(self.line))

    def find(self) -> Found:
        return apple.find(self.tree, lines=self, clock=self.clock, system="darwin")

    def __iter__(self) -> Iterator[str]:
        while (line := self.lines.get()) is not None:
            yield line
            self.lines.task_done()
        self.lines.task_done()

    def close(self) -> None:
        self.lines.put(None)

    def fail(self) -> None:
        self.line = {"fan_rpm": 1200.0, "cpu_power": 0.0}

    def heal(self) -> None:
        self.line = self.good

    def work(self, seconds: float) -> None:
        super().work(seconds)
        self.lines.put(json.dumps(self.line))
        self.lines.join()


RIGS: dict[str, type[Rig]] = {
    "powercap": PowercapRig,
    "powercap that wraps": WrappingRig,
    "powercap of mirrored dies": MirroredRig,
    "perf": PerfRig,
    "hwmon socket": SocketRig,
    "hwmon power meter": ServerMeterRig,
    "ina3221 with a total": JetsonRig,
    "ina3221 without a total": AgxRig,
    "battery": BatteryRig,
    "pmic": PiRig,
    "zeus-apple-silicon": ZeusRig,
    "macmon": MacmonRig,
    "nvml counter": NvidiaRig,
    "nvml power": NvidiaPowerRig,
}
