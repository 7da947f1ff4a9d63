"""Trees of files that stand in for a machine's sensors, laid out as its kernel lays them out.

A builder makes the sysfs of one kind of machine below a folder, `advance` lets a counter go on as
the hardware would, and `Reader` stands in for what files cannot fake, such as EIO. Numbers that
matter are those seen on such machines; all others are made up.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from edge_runtime.profiler.energy.sysfs import read_file

POWERCAP = "sys/class/powercap"
POWER_PMU = "sys/bus/event_source/devices/power"

INTEL_RANGE_UJ = 262_143_328_850
"""2^32 - 1 counts of 61.035 uJ: an Intel package."""
XEON_DRAM_RANGE_UJ = 65_712_999_613
"""2^32 - 1 counts of 15.3 uJ: the memory of a Xeon."""
EPYC_RANGE_UJ = 65_532_610_987
"""2^32 - 1 counts of 15.258 uJ: an EPYC 7543."""

_CPUINFO = "processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu avx2{more}\n"


def put(root: Path, name: str, content: object = 1) -> Path:
    """Writes a file in one step, so that a reader never meets half of it."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.new"
    unfinished.write_text(f"{content}\n")
    return unfinished.replace(path)


def cpuinfo(root: Path, vendor: str = "GenuineIntel", *, guest: bool = False) -> None:
    """Says whose processor it is, and whether a hypervisor is below."""
    put(root, "proc/cpuinfo", _CPUINFO.format(vendor=vendor, more=" hypervisor" if guest else ""))


def topology(root: Path, packages: dict[int, int]) -> None:
    """Says which package each of some CPUs belongs to."""
    for cpu, package in packages.items():
        folder = f"sys/devices/system/cpu/cpu{cpu}/topology"
        put(root, f"{folder}/physical_package_id", package)
        put(root, f"{folder}/die_id", 0)


def zone(
    root: Path, zone_id: str, name: str, energy_uj: int = 0, range_uj: int = INTEL_RANGE_UJ
) -> str:
    """Adds a powercap zone, in its parent's folder and linked from the class, as the kernel does.

    `zone_id` is its folder, such as `intel-rapl:0:1`. Returns that folder's path in the class.
    """
    control, *numbers = zone_id.split(":")
    ancestors = [":".join([control, *numbers[:n]]) for n in range(len(numbers) + 1)]
    home = Path("sys/devices/virtual/powercap", *ancestors)
    put(root, f"{home}/name", name)
    put(root, f"{home}/enabled")
    put(root, f"{home}/max_energy_range_uj", range_uj)
    put(root, f"{home}/energy_uj", energy_uj)
    for folder, depth in ((control, 1), (zone_id, len(ancestors))):
        link = root / POWERCAP / folder
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(Path("../../devices/virtual/powercap", *ancestors[:depth]))
    return f"{POWERCAP}/{zone_id}"


def advance(root: Path, zone_id: str, joules: float) -> None:
    """Lets a zone's counter count some joules, wrapping as its hardware would."""
    folder = root / POWERCAP / zone_id
    range_uj = int((folder / "max_energy_range_uj").read_text())
    energy_uj = int((folder / "energy_uj").read_text()) + round(joules * 1e6)
    step_uj = max(1, round(range_uj / (2**32 - 1)))
    put(folder, "energy_uj", energy_uj % (range_uj + step_uj))


def zones(root: Path) -> tuple[str, ...]:
    """The ids of all powercap zones of a tree."""
    return tuple(sorted(path.name for path in (root / POWERCAP).glob("*:*")))


def intel_laptop(root: Path) -> Path:
    """One package with cores and graphics, the platform above it, and the package counted twice."""
    cpuinfo(root)
    topology(root, dict.fromkeys(range(8), 0))
    zone(root, "intel-rapl:0", "package-0", 51_230_000_000)
    zone(root, "intel-rapl:0:0", "core", 20_110_000_000)
    zone(root, "intel-rapl:0:1", "uncore", 1_870_000_000)
    zone(root, "intel-rapl:1", "psys", 130_450_000_000)
    zone(root, "intel-rapl-mmio:0", "package-0", 51_229_000_000)
    return root


def xeon(root: Path) -> Path:
    """Two sockets, each with its memory counted beside it."""
    cpuinfo(root)
    topology(root, {cpu: cpu // 4 for cpu in range(8)})
    for n, (package_uj, dram_uj) in enumerate(
        ((90_000_000_000, 10_000_000_000), (88_000_000_000, 9_000_000_000))
    ):
        zone(root, f"intel-rapl:{n}", f"package-{n}", package_uj)
        zone(root, f"intel-rapl:{n}:0", "dram", dram_uj, XEON_DRAM_RANGE_UJ)
    return root


def threadripper(root: Path) -> Path:
    """One package of two dies whose zones show one and the same counter.

    Whoever advances one of `intel-rapl:0` and `intel-rapl:1` advances both by the same.
    """
    cpuinfo(root, "AuthenticAMD")
    topology(root, dict.fromkeys(range(8), 0))
    for die in range(2):
        zone(root, f"intel-rapl:{die}", f"package-0-die-{die}", 31_415_926_535, EPYC_RANGE_UJ)
        zone(root, f"intel-rapl:{die}:0", "core", 900_000_000 + die * 50_000_000, EPYC_RANGE_UJ)
    return root


def epyc(root: Path) -> Path:
    """One AMD package whose counter wraps at 65.5 kJ."""
    cpuinfo(root, "AuthenticAMD")
    topology(root, dict.fromkeys(range(8), 0))
    zone(root, "intel-rapl:0", "package-0", 65_000_000_000, EPYC_RANGE_UJ)
    zone(root, "intel-rapl:0:0", "core", 1_234_000_000, EPYC_RANGE_UJ)
    return root


def guest(root: Path) -> Path:
    """A virtual machine: the classes exist, and nothing is in them."""
    cpuinfo(root, "AuthenticAMD", guest=True)
    for name in ("powercap", "thermal", "power_supply", "hwmon"):
        (root / "sys/class" / name).mkdir(parents=True, exist_ok=True)
    return root


def bare_metal(root: Path) -> Path:
    """A real machine without any sensor."""
    guest(root)
    cpuinfo(root)
    return root


def power_pmu(root: Path, cpumask: str = "0", events: tuple[str, ...] = ("pkg", "ram")) -> Path:
    """The perf PMU of the same counters; the scale is the one that the kernel shows."""
    codes = {"cores": 1, "pkg": 2, "ram": 3, "gpu": 4, "psys": 5}
    put(root, f"{POWER_PMU}/type", 21)
    put(root, f"{POWER_PMU}/cpumask", cpumask)
    put(root, "proc/sys/kernel/perf_event_paranoid", 2)
    for event in events:
        name = f"{POWER_PMU}/events/energy-{event}"
        put(root, name, f"event=0x{codes[event]:02x}")
        put(root, f"{name}.scale", "2.3283064365386962890625e-10")
        put(root, f"{name}.unit", "Joules")
    return root


def hwmon(root: Path, number: int, name: str, **files: object) -> str:
    """Adds a hardware monitor with its `name` file and others. Returns its folder's path."""
    folder = f"sys/class/hwmon/hwmon{number}"
    put(root, f"{folder}/name", name)
    for file, content in files.items():
        put(root, f"{folder}/{file}", content)
    return folder


class Clock:
    """A clock in nanoseconds that goes on only when it is told to."""

    def __init__(self, now_ns: int = 1_000_000_000) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Lets time pass; a negative time is a clock that jumps back."""
        self.now_ns += round(seconds * 1e9)


class Reader:
    """Reads files, but for those told to fail or to say something else.

    `faults` maps the end of a path to what happens instead: an errno, a text, or a function that is
    called for a text and may raise.
    """

    def __init__(self) -> None:
        self.faults: dict[str, int | str | Callable[[], str]] = {}

    def __call__(self, path: Path) -> str:
        for end, fault in self.faults.items():
            if str(path).endswith(end):
                if isinstance(fault, int):
                    raise OSError(fault, os.strerror(fault), str(path))
                return fault if isinstance(fault, str) else fault()
        return read_file(path)

    def deny(self, end: str) -> None:
        """Lets reading what ends like this be denied, whoever runs the tests."""
        self.faults[end] = errno.EACCES
