"""Dies of one package: their zones show one counter on some processors, and their own on others."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import sensor_trees as trees

from edge_runtime.profiler.energy import (
    EnergySensor,
    Found,
    SensorBreakError,
    SensorGapError,
    rapl,
)
from edge_runtime.profiler.energy.sysfs import Tree


def find(root: Path, clock: trees.Clock | None = None, reader: trees.Reader | None = None) -> Found:
    return rapl.find(Tree(root, reader or trees.Reader()), clock=clock or trees.Clock())


def sensor(found: Found, name: str) -> EnergySensor:
    return next(s for s in found.sensors if s.info.id == name)


def ids(found: Found) -> list[str]:
    return [s.info.id for s in found.sensors]


def reasons(found: Found) -> str:
    return "\n".join(refusal.why.reason for refusal in found.refusals)


def test_two_dies_that_show_one_counter_count_once(tmp_path: Path) -> None:
    found = find(trees.threadripper(tmp_path))
    package = sensor(found, "rapl:package-0")
    assert "package-0-die-1 shows the same value as package-0-die-0" in reasons(found)
    for _ in range(3):
        for die in range(2):
            trees.advance(tmp_path, f"intel-rapl:{die}", 12.5)
        last = package.read()
    assert last == 37.5


def test_mirrored_dies_count_once_across_a_wrap_between_their_readings(tmp_path: Path) -> None:
    root = trees.threadripper(tmp_path)
    for die in range(2):
        trees.put(root, f"{trees.POWERCAP}/intel-rapl:{die}/energy_uj", trees.EPYC_RANGE_UJ - 10)
    reader, clock = trees.Reader(), trees.Clock()
    package = sensor(find(root, clock, reader), "rapl:package-0")
    # die-0 is read before the wrap, die-1 and die-0 again after it
    script = iter([str(trees.EPYC_RANGE_UJ), "20", "30"])
    for die in range(2):
        reader.faults[f"intel-rapl:{die}/energy_uj"] = lambda: next(script)
    clock.advance(1)
    assert package.read() == pytest.approx(10e-6)
    reader.faults.clear()
    for die in range(2):
        trees.put(root, f"{trees.POWERCAP}/intel-rapl:{die}/energy_uj", 5_000_000)
    clock.advance(1)
    assert package.read() == pytest.approx(5, abs=1e-3)


def test_a_counter_that_goes_on_between_two_readings_is_still_one(tmp_path: Path) -> None:
    root, reader = trees.threadripper(tmp_path), trees.Reader()
    package = sensor(find(root, reader=reader), "rapl:package-0")
    start = int((root / trees.POWERCAP / "intel-rapl:0/energy_uj").read_text())
    # the reader was held up between one die's reading and the next, and again before the last
    script = iter(str(start + joules * 1_000_000) for joules in (4, 9, 12))
    for die in range(2):
        reader.faults[f"intel-rapl:{die}/energy_uj"] = lambda: next(script)
    assert package.read() == 4
    reader.faults.clear()
    for die in range(2):
        trees.advance(root, f"intel-rapl:{die}", 9)
    assert package.read() == 9


def test_one_counter_shown_an_update_apart_is_still_one(tmp_path: Path) -> None:
    # At 280 W a die that is shown the counter a millisecond later is 0.28 J behind.
    start, late = trees.EPYC_RANGE_UJ - 20_000_000, 280_000
    for die in range(2):
        behind = start - late * die
        trees.zone(
            tmp_path, f"intel-rapl:{die}", f"package-0-die-{die}", behind, trees.EPYC_RANGE_UJ
        )
    clock = trees.Clock()
    package = find(tmp_path, clock).sensors[0]
    for _ in range(4):  # the second wraps
        clock.advance(1)
        for die in range(2):
            trees.advance(tmp_path, f"intel-rapl:{die}", 14)
        last = package.read()
    assert last == 56
    # ... and now the other one is behind
    trees.advance(tmp_path, "intel-rapl:1", 0.56)
    assert package.read() == 56


@pytest.mark.parametrize("at_first", [True, False])
def test_a_die_seen_while_its_file_was_not_yet_renewed_is_not_a_second_one(
    tmp_path: Path, *, at_first: bool
) -> None:
    root, reader = trees.threadripper(tmp_path), trees.Reader()
    start = int((root / trees.POWERCAP / "intel-rapl:0/energy_uj").read_text())

    def late() -> str:  # 20 J behind die-0, once
        reader.faults.clear()
        return str(start - 20_000_000)

    if at_first:
        reader.faults["intel-rapl:1/energy_uj"] = late
    package = sensor(find(root, reader=reader), "rapl:package-0")
    for die in range(2):
        trees.advance(root, f"intel-rapl:{die}", 20)
    if not at_first:
        assert package.read() == 20
        reader.faults["intel-rapl:1/energy_uj"] = late
    assert package.read() == 20
    for die in range(2):
        trees.advance(root, f"intel-rapl:{die}", 5)
    assert package.read() == 25


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1_000_000_000, 1_002_000_000),
        (60_000_000_000, 60_002_000_000),
        (100_000_000, 100_500_000),
        (1_000_000, 1_500_000),
        (0, 1),
    ],
)
def test_two_dies_with_counters_of_their_own_are_summed(
    tmp_path: Path, one: int, other: int
) -> None:
    trees.zone(tmp_path, "intel-rapl:0", "package-0-die-0", one)
    trees.zone(tmp_path, "intel-rapl:1", "package-0-die-1", other)
    found = find(tmp_path)
    assert ids(found) == ["rapl:package-0"]
    assert not found.refusals
    trees.advance(tmp_path, "intel-rapl:0", 5)
    trees.advance(tmp_path, "intel-rapl:1", 3)
    assert found.sensors[0].read() == 8


def test_dies_that_stood_alike_but_go_apart_are_two(tmp_path: Path) -> None:
    for die in range(2):
        trees.zone(tmp_path, f"intel-rapl:{die}", f"package-0-die-{die}", 1_000_000_000)
    package = find(tmp_path).sensors[0]
    assert package.read() == 0
    trees.advance(tmp_path, "intel-rapl:0", 5)
    trees.advance(tmp_path, "intel-rapl:1", 3)
    assert package.read() == 8


def test_dies_that_part_after_going_together_break_the_series_once(tmp_path: Path) -> None:
    for die in range(2):
        trees.zone(tmp_path, f"intel-rapl:{die}", f"package-0-die-{die}", 1_000_000_000)
    package = find(tmp_path).sensors[0]
    for die in range(2):
        trees.advance(tmp_path, f"intel-rapl:{die}", 2)
    before = package.read()
    trees.advance(tmp_path, "intel-rapl:0", 5)
    with pytest.raises(SensorBreakError, match="apart"):
        package.read()
    for die in range(2):
        trees.advance(tmp_path, f"intel-rapl:{die}", 1)
    assert package.read() - before == 2


def test_half_a_package_is_not_a_package(tmp_path: Path) -> None:
    trees.zone(tmp_path, "intel-rapl:0", "package-0-die-0", 1_000_000_000)
    trees.zone(tmp_path, "intel-rapl:1", "package-0-die-1", 1_002_000_000)
    reader = trees.Reader()
    reader.deny("intel-rapl:1/energy_uj")
    assert not find(tmp_path, reader=reader).sensors


def test_one_dies_failure_leaves_the_other_uncounted_too(tmp_path: Path) -> None:
    trees.zone(tmp_path, "intel-rapl:0", "package-0-die-0", 1_000_000_000)
    trees.zone(tmp_path, "intel-rapl:1", "package-0-die-1", 1_002_000_000)
    reader = trees.Reader()
    package = find(tmp_path, reader=reader).sensors[0]
    trees.advance(tmp_path, "intel-rapl:0", 5)
    reader.faults["intel-rapl:1/energy_uj"] = errno.EIO
    with pytest.raises(SensorGapError):
        package.read()
    reader.faults.clear()
    assert package.read() == 5
