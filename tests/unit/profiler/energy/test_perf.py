"""RAPL through perf events: opened per package, scaled, refused in words, never beside powercap."""

from __future__ import annotations

import errno
import itertools
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sensor_trees as trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.profiler.energy import Found, SensorBreakError, SensorGapError, perf
from edge_runtime.profiler.energy.sysfs import Tree

COUNTS_PER_J = 2**32
PKG, RAM, PSYS = 2, 3, 5


@dataclass
class Kernel:
    """Counts by event and CPU; opens those it has and fails as it is told."""

    counts: dict[tuple[int, int], int] = field(default_factory=dict)
    fails: Callable[[int, int], int | None] = lambda event, cpu: None
    opened: list[tuple[int, int, int]] = field(default_factory=list)
    closed: int = 0

    def __call__(self, kind: int, event: int, cpu: int) -> Count:
        code = self.fails(event, cpu)
        if code is not None:
            raise OSError(code, os.strerror(code))
        self.opened.append((kind, event, cpu))
        self.counts.setdefault((event, cpu), 0)
        return Count(self, event, cpu)

    def add(self, event: int, cpu: int, joules: float) -> None:
        self.counts[event, cpu] += round(joules * COUNTS_PER_J)


@dataclass
class Count:
    kernel: Kernel
    event: int
    cpu: int

    def read(self) -> int:
        if self.kernel.counts.get((self.event, self.cpu), -1) < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self.kernel.counts[self.event, self.cpu]

    def close(self) -> None:
        self.kernel.closed += 1


def find(root: Path, kernel: Kernel, reader: trees.Reader | None = None) -> Found:
    return perf.find(Tree(root, reader or trees.Reader()), opener=kernel)


def ids(found: Found) -> list[str]:
    return [sensor.info.id for sensor in found.sensors]


def two_sockets(root: Path) -> Path:
    trees.cpuinfo(root)
    trees.topology(root, {0: 0, 18: 1})
    return trees.power_pmu(root, "0,18")


def test_each_package_is_opened_once_on_the_cpu_that_stands_for_it(tmp_path: Path) -> None:
    kernel = Kernel()
    found = find(two_sockets(tmp_path), kernel)
    assert ids(found) == ["perf:package-0", "perf:package-1", "perf:dram-0", "perf:dram-1"]
    assert [sensor.info.covers for sensor in found.sensors] == [
        ("cpu:0",), ("cpu:1",), ("dram:0",), ("dram:1",)
    ]  # fmt: skip
    assert kernel.opened == [(21, PKG, 0), (21, PKG, 18), (21, RAM, 0), (21, RAM, 18)]


def test_counts_become_joules_by_the_kernels_scale(tmp_path: Path) -> None:
    kernel = Kernel(counts={(PKG, 0): 5 * COUNTS_PER_J})
    package = find(two_sockets(tmp_path), kernel).sensors[0]
    assert package.read() == 0
    kernel.add(PKG, 0, 12.25)
    kernel.add(PKG, 18, 99)
    assert package.read() == 12.25
    # far beyond what 32 bits of counting would hold
    kernel.add(PKG, 0, 300_000)
    assert package.read() == 300_012.25


def test_another_scale_is_believed(tmp_path: Path) -> None:
    root = two_sockets(tmp_path)
    trees.put(root, f"{trees.POWER_PMU}/events/energy-pkg.scale", "0.5")
    kernel = Kernel()
    package = find(root, kernel).sensors[0]
    kernel.counts[PKG, 0] = 8
    assert package.read() == 4


def test_the_dies_of_a_package_are_summed(tmp_path: Path) -> None:
    trees.topology(tmp_path, {0: 0, 4: 0})
    trees.power_pmu(tmp_path, "0,4", ("pkg",))
    kernel = Kernel()
    found = find(tmp_path, kernel)
    assert ids(found) == ["perf:package-0"]
    kernel.add(PKG, 0, 3)
    kernel.add(PKG, 4, 4)
    assert found.sensors[0].read() == 7


def test_the_platform_is_counted_once_however_many_packages(tmp_path: Path) -> None:
    trees.topology(tmp_path, {0: 0, 18: 1})
    trees.power_pmu(tmp_path, "0,18", ("psys",))
    kernel = Kernel()
    found = find(tmp_path, kernel)
    assert ids(found) == ["perf:psys"]
    assert found.sensors[0].info.covers == ("cpu:*", "dram:*", "gpu:*", "system")
    assert kernel.opened == [(21, PSYS, 0)]


def test_what_powercap_gives_is_not_opened_a_second_time(tmp_path: Path) -> None:
    kernel = Kernel()
    found = find(trees.power_pmu(trees.epyc(tmp_path)), kernel)
    assert ids(found) == ["perf:dram-0"]
    assert all(event != PKG for _, event, _ in kernel.opened)
    assert "rapl:package-0 is the same counter" in found.refusals[0].why.reason


def test_what_powercap_denies_is_opened_here(tmp_path: Path) -> None:
    reader = trees.Reader()
    reader.deny("energy_uj")
    found = find(trees.power_pmu(trees.epyc(tmp_path)), Kernel(), reader)
    assert ids(found) == ["perf:package-0", "perf:dram-0"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_denial_names_the_setting_and_the_command(tmp_path: Path, code: int) -> None:
    found = find(two_sockets(tmp_path), Kernel(fails=lambda event, cpu: code))
    assert not found.sensors
    (refusal,) = found.refusals
    assert "permission denied" in refusal.why.reason
    assert "event energy-pkg, energy-ram (" in refusal.why.reason
    assert "perf_event_paranoid is 2" in refusal.why.reason
    assert "sudo sysctl kernel.perf_event_paranoid=0" in refusal.why.remedy


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENODEV, errno.ENOSYS, errno.EMFILE])
def test_other_refusals_are_told_in_the_systems_words(tmp_path: Path, code: int) -> None:
    kernel = Kernel(fails=lambda event, cpu: code if (event, cpu) == (PKG, 18) else None)
    found = find(two_sockets(tmp_path), kernel)
    assert ids(found) == ["perf:package-0", "perf:dram-0", "perf:dram-1"]
    (refusal,) = found.refusals
    assert os.strerror(code) in refusal.why.reason
    assert "package 1" in refusal.why.reason
    assert refusal.why.remedy


def test_half_a_package_is_refused_and_left_closed(tmp_path: Path) -> None:
    trees.topology(tmp_path, {0: 0, 4: 0})
    trees.power_pmu(tmp_path, "0,4", ("pkg",))
    kernel = Kernel(fails=lambda event, cpu: errno.EINVAL if cpu == 4 else None)
    assert not find(tmp_path, kernel).sensors
    assert kernel.closed == 1


def test_a_failed_reading_is_a_gap_and_a_fall_is_a_reset(tmp_path: Path) -> None:
    kernel = Kernel()
    package = find(two_sockets(tmp_path), kernel).sensors[0]
    kernel.add(PKG, 0, 5)
    assert package.read() == 5
    kernel.counts[PKG, 0] = -1
    with pytest.raises(SensorGapError, match="Input/output error"):
        package.read()
    kernel.counts[PKG, 0] = COUNTS_PER_J
    with pytest.raises(SensorBreakError, match="reset"):
        package.read()
    kernel.add(PKG, 0, 2)
    assert package.read() == 7


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("events/energy-pkg", "umask=0x02"),
        ("events/energy-pkg.scale", "much"),
        ("events/energy-pkg.scale", "nan"),
        ("events/energy-pkg.scale", "0"),
        ("events/energy-pkg.unit", "Calories"),
    ],
)
def test_an_event_in_words_that_nobody_knows_is_refused(
    tmp_path: Path, file: str, content: str
) -> None:
    trees.topology(tmp_path, {0: 0})
    trees.power_pmu(tmp_path, events=("pkg",))
    trees.put(tmp_path, f"{trees.POWER_PMU}/{file}", content)
    found = find(tmp_path, Kernel())
    assert not found.sensors
    assert found.refusals


@pytest.mark.parametrize("mask", ["", "all", "3-1", "9999999"])
def test_a_mask_without_a_cpu_is_an_answer_too(tmp_path: Path, mask: str) -> None:
    found = find(trees.power_pmu(tmp_path, mask), Kernel())
    assert not found.sensors
    assert found.refusals[0].why.remedy


def test_a_mask_of_a_million_cpus_opens_no_more_than_there_can_be(tmp_path: Path) -> None:
    kernel = Kernel()
    find(trees.power_pmu(tmp_path, "0-999999", ("pkg",)), kernel)
    assert len(kernel.opened) == 8192


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.text(max_size=12) | st.integers().map(str), min_size=1, max_size=9))
def test_no_nonsense_in_any_file_raises_anything(tmp_path: Path, texts: list[str]) -> None:
    root, reader, script = two_sockets(tmp_path), trees.Reader(), itertools.cycle(texts)
    reader.faults[""] = lambda: next(script)
    found = find(root, Kernel(), reader)
    assert found.sensors or found.refusals


def test_where_there_is_none_the_reason_is_told(tmp_path: Path) -> None:
    (metal,) = find(trees.bare_metal(tmp_path / "metal"), Kernel()).refusals
    (guest,) = find(trees.guest(tmp_path / "guest"), Kernel()).refusals
    assert metal.why.remedy == "Try: sudo modprobe rapl"
    assert guest.why.reason == "no perf energy events: virtual machine"


def test_a_guest_is_not_given_the_sockets_counter(tmp_path: Path) -> None:
    kernel = Kernel()
    trees.cpuinfo(two_sockets(tmp_path), guest=True)
    found = find(tmp_path, kernel)
    assert not found.sensors
    assert not kernel.opened


@pytest.mark.skipif(platform.system() != "Linux", reason="perf events are Linux'")
def test_the_real_call_counts_or_says_why_not() -> None:
    # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK: the one event that needs no hardware.
    try:
        event = perf.open_event(1, 0, 0)
    except PermissionError as error:
        pytest.skip(f"not for this user: {error}")
    first = event.read()
    sum(range(200_000))
    assert event.read() > first
    event.close()
    event.close()
    with pytest.raises(OSError, match="no count"):
        event.read()


@pytest.mark.skipif(platform.system() != "Linux", reason="perf events are Linux'")
def test_the_real_call_says_what_is_wrong() -> None:
    with pytest.raises(OSError, match=r".+"):
        perf.open_event(1, 0, 65_535)


def test_an_unknown_machine_has_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    with pytest.raises(OSError, match="not implemented"):
        perf.open_event(1, 0, 0)
