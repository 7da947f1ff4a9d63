"""RAPL through powercap: what counts once, what wraps, what is reset, what may not be read."""

from __future__ import annotations

import contextlib
import errno
import itertools
import random
from pathlib import Path

import pytest
import sensor_trees as trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.energy import Scope
from edge_runtime.profiler.energy import (
    EnergySensor,
    Found,
    SensorBreakError,
    SensorGapError,
    rapl,
)
from edge_runtime.profiler.energy.cover import headline
from edge_runtime.profiler.energy.sysfs import Tree

FAST = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def find(root: Path, clock: trees.Clock | None = None, reader: trees.Reader | None = None) -> Found:
    return rapl.find(Tree(root, reader or trees.Reader()), clock=clock or trees.Clock())


def sensor(found: Found, name: str) -> EnergySensor:
    return next(s for s in found.sensors if s.info.id == name)


def ids(found: Found) -> list[str]:
    return [s.info.id for s in found.sensors]


def reasons(found: Found) -> str:
    return "\n".join(refusal.why.reason for refusal in found.refusals)


# -- which domains there are, and which lie inside which


def test_a_laptop_has_its_domains_once_though_a_twin_repeats_the_package(tmp_path: Path) -> None:
    found = find(trees.intel_laptop(tmp_path))
    assert ids(found) == ["rapl:package-0", "rapl:psys", "rapl:core-0", "rapl:uncore-0"]
    covers = {s.info.id: s.info.covers for s in found.sensors}
    assert covers["rapl:package-0"] == ("cpu:0",)
    assert covers["rapl:psys"] == ("cpu:*", "dram:*", "gpu:*", "system")
    assert all(part.startswith("cpu:0/") for part in covers["rapl:core-0"])
    assert "package-0 of intel-rapl-mmio repeats that of intel-rapl:" in reasons(found)
    assert all(refusal.why.remedy for refusal in found.refusals)


def test_psys_is_never_added_to_the_package_inside_it(tmp_path: Path) -> None:
    found = find(trees.intel_laptop(tmp_path))
    assert sensor(found, "rapl:psys").info.scope is Scope.BOARD
    assert headline([s.info for s in found.sensors]) == ("rapl:psys",)


def test_memory_counts_beside_its_own_package(tmp_path: Path) -> None:
    found = find(trees.xeon(tmp_path))
    assert ids(found) == ["rapl:package-0", "rapl:package-1", "rapl:dram-0", "rapl:dram-1"]
    assert sorted(headline([s.info for s in found.sensors])) == sorted(ids(found))
    trees.advance(tmp_path, "intel-rapl:1", 30)
    trees.advance(tmp_path, "intel-rapl:1:0", 4)
    joules = {s.info.id: s.read() for s in found.sensors}
    assert joules == {
        "rapl:package-0": 0, "rapl:package-1": 30, "rapl:dram-0": 0, "rapl:dram-1": 4
    }  # fmt: skip


def test_two_sockets_that_happen_to_stand_alike_are_two(tmp_path: Path) -> None:
    for n in range(2):
        trees.zone(tmp_path, f"intel-rapl:{n}", f"package-{n}", 7_000_000_000)
    found = find(tmp_path)
    assert ids(found) == ["rapl:package-0", "rapl:package-1"]
    assert not found.refusals


@pytest.mark.parametrize("seed", range(5))
def test_the_folders_numbers_mean_nothing(tmp_path: Path, seed: int) -> None:
    plain = find(trees.xeon(tmp_path / "plain"))
    numbers = random.Random(seed).sample(range(9), 4)
    root = tmp_path / "shuffled"
    for n in range(2):
        trees.zone(root, f"intel-rapl:{numbers[n]}", f"package-{n}")
        child = f"intel-rapl:{numbers[n]}:{numbers[n + 2]}"
        trees.zone(root, child, "dram", range_uj=trees.XEON_DRAM_RANGE_UJ)
    assert [s.info for s in find(root).sensors] == [s.info for s in plain.sensors]


def test_a_tree_without_links_is_read_as_well(tmp_path: Path) -> None:
    for folder, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0/intel-rapl:0:0", "dram")):
        trees.put(tmp_path, f"{trees.POWERCAP}/{folder}/name", name)
        trees.put(tmp_path, f"{trees.POWERCAP}/{folder}/energy_uj", 5)
    assert ids(find(tmp_path)) == ["rapl:package-0", "rapl:dram-0"]


def test_an_unknown_domain_is_left_out_by_name(tmp_path: Path) -> None:
    trees.zone(tmp_path, "intel-rapl:0", "package-0")
    trees.zone(tmp_path, "intel-rapl:0:0", "accelerator")
    trees.zone(tmp_path, "intel-rapl:1", "package-x")
    found = find(tmp_path)
    assert ids(found) == ["rapl:package-0"]
    assert "'accelerator'" in reasons(found)
    assert "'package-x'" in reasons(found)


def test_amds_cores_carry_their_warning(tmp_path: Path) -> None:
    found = find(trees.epyc(tmp_path))
    assert "far less" in " ".join(sensor(found, "rapl:core-0").info.notes)
    assert not find(trees.intel_laptop(tmp_path / "intel")).sensors[0].info.notes


# -- wraps and resets


def test_an_epyc_wraps_at_65_kilojoules(tmp_path: Path) -> None:
    clock = trees.Clock()
    package = find(trees.epyc(tmp_path), clock).sensors[0]
    total = 0.0
    for _ in range(20):
        clock.advance(60)
        trees.advance(tmp_path, "intel-rapl:0", 60 * 225)
        total += 60 * 225
        assert package.read() == pytest.approx(total, abs=1e-9)


def test_the_last_count_before_zero_is_counted(tmp_path: Path) -> None:
    # 2^32 - 1 counts are the greatest value; one more count, 61 uJ, is zero.
    trees.zone(tmp_path, "intel-rapl:0", "package-0", trees.INTEL_RANGE_UJ)
    clock = trees.Clock()
    package = find(tmp_path, clock).sensors[0]
    assert package.info.step == pytest.approx(61.035e-6, rel=1e-4)
    clock.advance(1)
    trees.put(tmp_path, f"{trees.POWERCAP}/intel-rapl:0/energy_uj", 0)
    assert package.read() == pytest.approx(61e-6)


@pytest.mark.parametrize(("watts", "wraps"), [(990, True), (1010, False)])
def test_a_fall_is_a_wrap_only_where_a_thousand_watts_could_have_made_it(
    tmp_path: Path, watts: float, wraps: bool
) -> None:
    clock = trees.Clock()
    package = find(trees.epyc(tmp_path), clock).sensors[0]
    clock.advance(60)
    trees.advance(tmp_path, "intel-rapl:0", 60 * watts)
    if wraps:
        assert package.read() == pytest.approx(60 * watts)
    else:
        with pytest.raises(SensorBreakError, match="reset"):
            package.read()


def test_a_reset_breaks_the_series_once_and_never_becomes_joules(tmp_path: Path) -> None:
    clock = trees.Clock()
    package = find(trees.intel_laptop(tmp_path), clock).sensors[0]
    energy = f"{trees.POWERCAP}/intel-rapl:0/energy_uj"
    clock.advance(1)
    trees.advance(tmp_path, "intel-rapl:0", 10)
    assert package.read() == 10
    clock.advance(1)
    trees.put(tmp_path, energy, 0)
    with pytest.raises(SensorBreakError, match=r"reset, for a wrap would have taken longer"):
        package.read()
    clock.advance(1)
    trees.advance(tmp_path, "intel-rapl:0", 3)
    assert package.read() == 13


def test_a_long_run_before_it_does_not_make_a_reset_a_wrap(tmp_path: Path) -> None:
    clock = trees.Clock()
    package = find(trees.epyc(tmp_path), clock).sensors[0]
    for _ in range(3):
        clock.advance(60)
        trees.advance(tmp_path, "intel-rapl:0", 60 * 300)
        package.read()
    clock.advance(0.1)
    trees.put(tmp_path, f"{trees.POWERCAP}/intel-rapl:0/energy_uj", 0)
    with pytest.raises(SensorBreakError):
        package.read()


def test_without_a_range_no_fall_can_be_a_wrap(tmp_path: Path) -> None:
    folder = f"{trees.POWERCAP}/intel-rapl:0"
    trees.put(tmp_path, f"{folder}/name", "package-0")
    trees.put(tmp_path, f"{folder}/energy_uj", 900)
    clock = trees.Clock()
    package = find(tmp_path, clock).sensors[0]
    clock.advance(3600)
    trees.put(tmp_path, f"{folder}/energy_uj", 899)
    with pytest.raises(SensorBreakError):
        package.read()


@FAST
@given(
    range_uj=st.sampled_from([trees.INTEL_RANGE_UJ, trees.EPYC_RANGE_UJ, 10**9]),
    start=st.floats(0, 1, exclude_max=True),
    shares=st.lists(st.floats(0, 0.99), min_size=1, max_size=12),
)
def test_whatever_wraps_where_the_joules_add_up(
    tmp_path: Path, range_uj: int, start: float, shares: list[float]
) -> None:
    clock = trees.Clock()
    step_uj = max(1, round(range_uj / (2**32 - 1)))
    modulus = range_uj + step_uj
    shown = int(start * range_uj)
    trees.zone(tmp_path, "intel-rapl:0", "package-0", shown, range_uj)
    package = find(tmp_path, clock).sensors[0]
    truth = 0
    for share in shares:
        more = int(share * range_uj)
        truth += more
        shown = (shown + more) % modulus
        clock.advance(range_uj / 1e9)  # at 1000 W this long makes a whole turn
        trees.put(tmp_path, f"{trees.POWERCAP}/intel-rapl:0/energy_uj", shown)
        assert package.read() == truth / 1e6


# -- failures


def test_a_counter_only_root_may_read_comes_with_the_command(tmp_path: Path) -> None:
    reader = trees.Reader()
    reader.deny("energy_uj")
    found = find(trees.xeon(tmp_path), reader=reader)
    assert not found.sensors
    assert len(found.refusals) == 1
    why = found.refusals[0].why
    assert "permission denied" in why.reason
    assert f"{tmp_path}/sys/class/powercap/intel-rapl:0/energy_uj" in why.reason
    assert f"sudo chmod a+r {tmp_path}/sys/class/powercap/*rapl*/energy_uj" in why.remedy


def test_what_can_be_read_is_read_beside_what_cannot(tmp_path: Path) -> None:
    reader = trees.Reader()
    reader.deny("intel-rapl:1:0/energy_uj")
    found = find(trees.xeon(tmp_path), reader=reader)
    assert ids(found) == ["rapl:package-0", "rapl:package-1", "rapl:dram-0"]
    assert "permission denied" in reasons(found)


def test_the_twin_stands_in_for_a_counter_that_cannot_be_read(tmp_path: Path) -> None:
    reader = trees.Reader()
    reader.deny("intel-rapl:0/energy_uj")
    found = find(trees.intel_laptop(tmp_path), reader=reader)
    assert "intel-rapl-mmio" in sensor(found, "rapl:package-0").info.source
    assert "permission denied" in reasons(found)


@pytest.mark.parametrize("fault", [errno.EIO, errno.EINVAL, errno.ENODATA, "", "off", "-5", "1_0"])
def test_a_failed_reading_is_a_gap_that_the_counter_survives(
    tmp_path: Path, fault: int | str
) -> None:
    reader = trees.Reader()
    package = find(trees.intel_laptop(tmp_path), reader=reader).sensors[0]
    trees.advance(tmp_path, "intel-rapl:0", 4)
    reader.faults["intel-rapl:0/energy_uj"] = fault
    with pytest.raises(SensorGapError, match="intel-rapl:0/energy_uj"):
        package.read()
    trees.advance(tmp_path, "intel-rapl:0", 5)
    reader.faults.clear()
    assert package.read() == 9


def test_a_counter_that_vanishes_is_a_gap_and_may_come_back(tmp_path: Path) -> None:
    package = find(trees.intel_laptop(tmp_path)).sensors[0]
    energy = tmp_path / trees.POWERCAP / "intel-rapl:0/energy_uj"
    value = int(energy.read_text())
    energy.unlink()
    with pytest.raises(SensorGapError, match="No such file"):
        package.read()
    energy.write_text(f"{value + 2_000_000}\n")
    assert package.read() == 2


def test_a_value_beyond_the_range_is_no_reading(tmp_path: Path) -> None:
    package = find(trees.epyc(tmp_path)).sensors[0]
    trees.put(tmp_path, f"{trees.POWERCAP}/intel-rapl:0/energy_uj", 10**15)
    with pytest.raises(SensorGapError, match="out of its range"):
        package.read()


def test_a_counter_that_cannot_be_read_at_first_is_refused(tmp_path: Path) -> None:
    reader = trees.Reader()
    reader.faults["intel-rapl:0/energy_uj"] = errno.EIO
    found = find(trees.epyc(tmp_path), reader=reader)
    assert ids(found) == ["rapl:core-0"]
    assert "package-0 cannot be read" in reasons(found)
    assert "Input/output error" in reasons(found)


# -- where there is none


def test_a_guest_is_told_so(tmp_path: Path) -> None:
    (refusal,) = find(trees.guest(tmp_path)).refusals
    assert refusal.why.reason == "no powercap: virtual machine"
    assert refusal.why.remedy


def test_counters_in_a_guest_are_the_whole_sockets_and_refused(tmp_path: Path) -> None:
    trees.cpuinfo(trees.xeon(tmp_path), guest=True)
    found = find(tmp_path)
    assert not found.sensors
    assert "whole socket" in reasons(found)


def test_bare_metal_without_powercap_is_told_which_module(tmp_path: Path) -> None:
    (refusal,) = find(trees.bare_metal(tmp_path)).refusals
    assert "virtual" not in refusal.why.reason
    assert refusal.why.remedy == "Try: sudo modprobe intel_rapl_msr"


def test_an_empty_root_has_an_answer(tmp_path: Path) -> None:
    assert find(tmp_path).refusals


def test_counters_hidden_by_a_container_are_told_from_absent_ones(tmp_path: Path) -> None:
    root = trees.intel_laptop(tmp_path)
    (root / "sys/devices/virtual/powercap").rename(root / "hidden")
    (root / "sys/devices/virtual/powercap").mkdir()
    (refusal,) = find(root).refusals
    assert "container" in refusal.why.reason
    assert "-v /sys:/host/sys:ro" in refusal.why.remedy


@FAST
@given(texts=st.lists(st.text(max_size=12) | st.integers().map(str), min_size=1, max_size=9))
def test_no_nonsense_in_any_file_raises_anything_else(tmp_path: Path, texts: list[str]) -> None:
    root, reader, script = trees.intel_laptop(tmp_path), trees.Reader(), itertools.cycle(texts)
    sound = find(root, reader=reader)
    reader.faults[""] = lambda: next(script)
    found = find(root, reader=reader)
    assert found.sensors or found.refusals
    for one in (*sound.sensors, *found.sensors):
        for _ in range(3):
            with contextlib.suppress(SensorGapError, SensorBreakError):
                assert one.read() >= 0


def test_reading_writes_nothing_and_closing_twice_is_nothing(tmp_path: Path) -> None:
    root = trees.intel_laptop(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for found in find(root).sensors:
        found.read()
        found.close()
        found.close()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
