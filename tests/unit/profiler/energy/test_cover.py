"""Which sensors make up the headline: the widest measured, and nothing twice."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.energy import Scope, SensorInfo
from edge_runtime.profiler.energy.cover import headline, overlap, resolved_headline
from edge_runtime.profiler.energy.rapl import PSYS_COVERS


def sensor(id_: str, scope: Scope, *covers: str, modelled: bool = False) -> SensorInfo:
    return SensorInfo(
        id=id_, source=id_, scope=scope, covers=covers, method="counter", update_s=0.001,
        step=6e-5, poll_s=0.1, window_s=1.0, modelled=modelled,
    )  # fmt: skip


def package(n: int = 0) -> SensorInfo:
    return sensor(f"rapl:package-{n}", Scope.CHIP, f"cpu:{n}", f"cpu:{n}/core", f"cpu:{n}/uncore")


CORE = sensor("rapl:core-0", Scope.CHIP, "cpu:0/core")
UNCORE = sensor("rapl:uncore-0", Scope.CHIP, "cpu:0/uncore")
DRAM = sensor("rapl:dram-0", Scope.CHIP, "dram:0")
PSYS = sensor("rapl:psys", Scope.BOARD, *PSYS_COVERS)
GPU = sensor("nvml:GPU-1f3c", Scope.BOARD, "gpu:GPU-1f3c")
BATTERY = sensor("battery:BAT0", Scope.DEVICE, "cpu:*", "dram:*", "gpu:*", "system")
MODULE = sensor("ina3221:VDD_IN", Scope.MODULE, "cpu:*", "dram:*", "gpu:*", "system")
RAIL = sensor("ina3221:VDD_SOC", Scope.CHIP, "soc:0")
METER = replace(sensor("meter:log", Scope.BOARD, *PSYS_COVERS), method="power")
EVERYTHING = [
    package(), package(1), CORE, UNCORE, DRAM, PSYS, GPU, BATTERY, MODULE, RAIL, METER
]  # fmt: skip


@pytest.mark.parametrize(
    ("infos", "expected"),
    [
        ([package()], ["rapl:package-0"]),
        ([package(), CORE, UNCORE], ["rapl:package-0"]),
        ([package(), CORE, DRAM], ["rapl:dram-0", "rapl:package-0"]),
        ([package(0), package(1), DRAM], ["rapl:dram-0", "rapl:package-0", "rapl:package-1"]),
        ([package(), DRAM, GPU], ["nvml:GPU-1f3c", "rapl:dram-0", "rapl:package-0"]),
        ([package(), CORE, UNCORE, DRAM, PSYS], ["rapl:psys"]),
        ([package(), PSYS, GPU], ["rapl:psys"]),
        ([package(), DRAM, PSYS, GPU, BATTERY], ["battery:BAT0"]),
        ([RAIL, MODULE], ["ina3221:VDD_IN"]),
        ([MODULE, METER], ["meter:log"]),
        ([MODULE, GPU, RAIL], ["ina3221:VDD_IN"]),
        ([BATTERY, METER, MODULE], ["battery:BAT0"]),
        ([CORE], ["rapl:core-0"]),
        ([], []),
    ],
)
def test_the_widest_level_stands_alone(infos: list[SensorInfo], expected: list[str]) -> None:
    assert list(headline(infos)) == expected


def test_a_modelled_sensor_loses_against_a_measured_one() -> None:
    guess = sensor("apple:cpu", Scope.CHIP, "cpu:0", modelled=True)
    assert headline([guess, package()]) == ("rapl:package-0",)
    assert headline([sensor("pmic:fit", Scope.DEVICE, "system", modelled=True), package()]) == (
        "rapl:package-0",
    )


def test_modelled_sensors_stand_where_nothing_is_measured() -> None:
    parts = [
        sensor(f"ioreport:{part}", Scope.CHIP, f"{part}:0", modelled=True)
        for part in ("cpu", "gpu", "ane", "dram")
    ]
    assert len(headline(parts)) == 4
    whole = sensor("smc:PSTR", Scope.DEVICE, "system", modelled=True)
    assert headline([*parts, whole]) == ("smc:PSTR",)


def test_two_ways_to_one_counter_never_both_count() -> None:
    perf = replace(package(), id="perf:energy-pkg-0", step=2.3e-10)
    assert headline([package(), perf]) == headline([perf, package()]) == ("perf:energy-pkg-0",)


def test_a_piece_of_a_chip_never_joins_whole_ones() -> None:
    # The second package cannot be read, its cores can: cores and packages make no legal sum.
    other = sensor("rapl:core-1", Scope.CHIP, "cpu:1/core")
    assert headline([package(), other, DRAM]) == ("rapl:dram-0", "rapl:package-0")


SLOW_BATTERY = replace(BATTERY, window_s=200.0)
SLOW_GPU = replace(GPU, window_s=5.0)


@pytest.mark.parametrize(
    ("infos", "longest_s", "expected"),
    [
        ([package(), DRAM, SLOW_BATTERY], 60, ("rapl:dram-0", "rapl:package-0")),
        ([package(), DRAM, SLOW_BATTERY], 600, ("battery:BAT0",)),
        ([SLOW_BATTERY], 60, ("battery:BAT0",)),
        ([SLOW_BATTERY, PSYS, package()], 60, ("rapl:psys",)),
        # The processor alone must not stand for processor and GPU.
        ([package(), SLOW_GPU], 4, ("nvml:GPU-1f3c", "rapl:package-0")),
        ([SLOW_BATTERY, package(), SLOW_GPU], 4, ("battery:BAT0",)),
        ([SLOW_BATTERY, package(), SLOW_GPU], 60, ("nvml:GPU-1f3c", "rapl:package-0")),
        ([SLOW_BATTERY, replace(package(), modelled=True)], 60, ("battery:BAT0",)),
        ([package(), DRAM], 0.1, ("rapl:dram-0", "rapl:package-0")),
        ([], 60, ()),
    ],
)
def test_what_a_run_is_too_short_for_makes_way_for_what_resolves_it(
    infos: list[SensorInfo], longest_s: float, expected: tuple[str, ...]
) -> None:
    assert resolved_headline(infos, longest_s) == expected


def test_a_sensor_that_does_not_say_what_it_covers_is_never_added() -> None:
    mystery = sensor("hwmon:power1", Scope.CHIP)
    assert headline([mystery, package()]) == ("rapl:package-0",)
    assert headline([mystery]) == ("hwmon:power1",)


subsets = st.lists(st.sampled_from(EVERYTHING), unique=True, min_size=1)


@given(infos=subsets)
def test_nothing_chosen_overlaps_and_nothing_wider_is_left_out(infos: list[SensorInfo]) -> None:
    chosen = [info for info in infos if info.id in headline(infos)]
    assert chosen
    assert not any(overlap(a, b) for a, b in combinations(chosen, 2))
    whole = [info for info in infos if not all("/" in part for part in info.covers)]
    for info in whole or infos:
        assert info in chosen or any(overlap(info, other) for other in chosen)


@given(infos=subsets, data=st.data())
def test_order_and_names_do_not_matter(infos: list[SensorInfo], data: st.DataObject) -> None:
    order = data.draw(st.permutations(infos))
    assert headline(order) == headline(infos)
    names = data.draw(st.permutations([f"n{i}" for i in range(len(infos))]))
    named = {info.id: name for info, name in zip(infos, names, strict=True)}
    renamed = [replace(info, id=named[info.id]) for info in infos]
    assert set(headline(renamed)) == {named[id_] for id_ in headline(infos)}
