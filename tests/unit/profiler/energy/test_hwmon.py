"""Hardware monitors: known by name, in microjoules and microwatts, and nothing else mistaken."""

from __future__ import annotations

import contextlib
import errno
import itertools
from pathlib import Path

import pytest
import sensor_trees as trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.energy import Scope
from edge_runtime.profiler.energy import Found, SensorBreakError, SensorGapError, hwmon, rapl
from edge_runtime.profiler.energy.cover import headline
from edge_runtime.profiler.energy.sysfs import Tree


def find(root: Path, clock: trees.Clock | None = None, reader: trees.Reader | None = None) -> Found:
    return hwmon.find(Tree(root, reader or trees.Reader()), clock=clock or trees.Clock())


def ids(found: Found) -> list[str]:
    return [sensor.info.id for sensor in found.sensors]


def sockets(root: Path, number: int = 3, name: str = "amd_energy") -> str:
    files: dict[str, object] = {}
    for n, label in enumerate(("Ecore000", "Ecore001", "Esocket0", "Esocket1"), start=1):
        files |= {f"energy{n}_label": label, f"energy{n}_input": n * 1_000_000}
    return trees.hwmon(root, number, name, **files)


def on_pci(root: Path, folder: str, address: str) -> None:
    device = root / "sys/devices/pci0000:00" / address
    device.mkdir(parents=True)
    (root / folder / "device").symlink_to(device)


@pytest.mark.parametrize("name", ["amd_energy", "zenergy"])
def test_sockets_are_read_and_cores_left_inside_them(tmp_path: Path, name: str) -> None:
    folder = sockets(tmp_path, name=name)
    found = find(tmp_path)
    assert ids(found) == [f"hwmon:{name}-socket-0", f"hwmon:{name}-socket-1"]
    assert [sensor.info.covers for sensor in found.sensors] == [("cpu:0",), ("cpu:1",)]
    trees.put(tmp_path, f"{folder}/energy3_input", 3_000_000 + 2_500_000)
    assert [sensor.read() for sensor in found.sensors] == [2.5, 0]


def test_a_socket_that_powercap_counts_is_not_counted_again(tmp_path: Path) -> None:
    sockets(trees.epyc(tmp_path))
    found = find(tmp_path)
    assert ids(found) == ["hwmon:amd_energy-socket-1"]
    assert "powercap" in found.refusals[0].why.reason


def test_a_socket_in_a_guest_is_the_whole_machines(tmp_path: Path) -> None:
    sockets(trees.guest(tmp_path))
    found = find(tmp_path)
    assert not found.sensors
    assert "virtual machine" in found.refusals[0].why.reason


def test_the_number_of_a_monitor_means_nothing(tmp_path: Path) -> None:
    for number in (0, 7):
        root = tmp_path / str(number)
        on_pci(root, trees.hwmon(root, number, "amdgpu", power1_average=1), "0000:03:00.0")
    first, second = (find(tmp_path / str(number)).sensors[0].info for number in (0, 7))
    assert first == second


def test_a_graphics_cards_microwatts_become_joules(tmp_path: Path) -> None:
    clock = trees.Clock()
    folder = trees.hwmon(tmp_path, 2, "amdgpu", power1_average=30_000_000, power1_cap=1)
    on_pci(tmp_path, folder, "0000:03:00.0")
    (card,) = find(tmp_path, clock).sensors
    assert card.info.id == "hwmon:amdgpu-0000:03:00.0"
    assert card.info.covers == ("gpu:0000:03:00.0",)
    card.read()
    for microwatts in (40_000_000, 50_000_000, 60_000_000):
        clock.advance(0.1)
        trees.put(tmp_path, f"{folder}/power1_average", microwatts)
        joules = card.read()
    assert joules == pytest.approx(13.5)


def test_a_newer_card_tells_its_present_power_only(tmp_path: Path) -> None:
    trees.hwmon(tmp_path, 2, "amdgpu", power1_input=7_000_000, power1_cap=1)
    assert ids(find(tmp_path)) == ["hwmon:amdgpu-hwmon2"]


@pytest.mark.parametrize(
    "files", [{}, {"power1_cap": 1, "power1_label": "slowPPT", "power2_label": "fastPPT"}]
)
def test_a_processors_own_graphics_are_never_added_to_its_package(
    tmp_path: Path, files: dict[str, object]
) -> None:
    trees.hwmon(trees.epyc(tmp_path), 2, "amdgpu", power1_average=15_000_000, **files)
    (chip,) = find(tmp_path).sensors
    assert chip.info.covers == ("cpu:0",)
    package = rapl.find(Tree(tmp_path)).sensors[0]
    assert headline([chip.info, package.info]) == ("rapl:package-0",)


@pytest.mark.parametrize(
    ("name", "files", "path", "scope"),
    [
        ("i915", {"energy1_input": 5}, "energy1_input", Scope.CHIP),
        (
            "xe",
            {"energy1_label": "pkg", "energy1_input": 5, "energy2_label": "card",
             "energy2_input": 5},
            "energy2_input",
            Scope.BOARD,
        ),
        ("xe", {"energy2_label": "pkg", "energy2_input": 5}, "energy2_input", Scope.CHIP),
    ],
)  # fmt: skip
def test_intels_cards_count_energy(
    tmp_path: Path, name: str, files: dict[str, object], path: str, scope: Scope
) -> None:
    folder = trees.hwmon(tmp_path, 1, name, **files)
    on_pci(tmp_path, folder, "0000:56:00.0")
    (card,) = find(tmp_path).sensors
    assert card.info.id == f"hwmon:{name}-0000:56:00.0"
    assert (card.info.method, card.info.scope) == ("counter", scope)
    trees.put(tmp_path, f"{folder}/{path}", 8_000_005)
    assert card.read() == 8


def test_a_servers_meter_is_the_whole_machine(tmp_path: Path) -> None:
    trees.hwmon(
        tmp_path, 0, "power_meter", power1_average=212_000_000, power1_average_interval=2000,
        power1_accuracy="98.0%",
    )  # fmt: skip
    (meter,) = find(tmp_path).sensors
    assert meter.info.scope is Scope.DEVICE
    assert (meter.info.update_s, meter.info.poll_s, meter.info.window_s) == (2, 2, 40)
    assert "98.0%" in meter.info.gain


@pytest.mark.parametrize("interval", ["", "0", "-3", "soon"])
def test_a_meter_without_a_credible_interval_is_polled_each_second(
    tmp_path: Path, interval: str
) -> None:
    trees.hwmon(
        tmp_path, 0, "power_meter", power1_average=1_000_000, power1_average_interval=interval
    )
    assert find(tmp_path).sensors[0].info.poll_s == 1


@pytest.mark.parametrize("name", ["spd5118", "nvme", "jc42", "coretemp", "acpitz", "k10temp"])
def test_what_has_only_temperatures_is_no_sensor_of_energy(tmp_path: Path, name: str) -> None:
    trees.hwmon(tmp_path, 0, name, temp1_input=41_000)
    found = find(tmp_path)
    assert not found.sensors
    assert [refusal.why.reason for refusal in found.refusals] == [
        "no hwmon sensor of energy or power"
    ]


def test_a_power_of_unknown_scope_is_refused_by_name(tmp_path: Path) -> None:
    trees.hwmon(tmp_path, 0, "corsairpsu", power1_input=90_000_000)
    found = find(tmp_path)
    assert not found.sensors
    assert "'corsairpsu'" in found.refusals[0].why.reason
    assert found.refusals[0].why.remedy


def test_a_battery_or_a_rail_that_others_read_is_not_called_unknown(tmp_path: Path) -> None:
    battery = trees.hwmon(tmp_path, 0, "BAT0", power1_input=9_000_000)
    trees.put(tmp_path, f"{battery}/device/type", "Battery")
    trees.hwmon(tmp_path, 1, "ina3221", power1_input=9_000_000)
    (refusal,) = find(tmp_path).refusals
    assert refusal.why.reason == "no hwmon sensor of energy or power"


def test_a_gpu_without_a_power_file_is_no_sensor(tmp_path: Path) -> None:
    trees.hwmon(tmp_path, 0, "amdgpu", temp1_input=40_000)
    trees.hwmon(tmp_path, 1, "i915", temp1_input=40_000)
    trees.hwmon(tmp_path, 2, "power_meter", temp1_input=40_000)
    assert not find(tmp_path).sensors


# -- failures


def test_what_only_root_may_read_comes_with_the_command(tmp_path: Path) -> None:
    folder = sockets(tmp_path)
    reader = trees.Reader()
    reader.deny("energy3_input")
    found = find(tmp_path, reader=reader)
    assert ids(found) == ["hwmon:amd_energy-socket-1"]
    assert "permission denied" in found.refusals[0].why.reason
    assert f"sudo chmod a+r {tmp_path}/{folder}/energy3_input" in found.refusals[0].why.remedy


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOENT, "", "n/a", "-1"])
def test_a_failed_reading_is_a_gap_that_the_counter_survives(
    tmp_path: Path, fault: int | str
) -> None:
    reader = trees.Reader()
    folder = sockets(tmp_path)
    socket = find(tmp_path, reader=reader).sensors[0]
    reader.faults["energy3_input"] = fault
    with pytest.raises(SensorGapError):
        socket.read()
    reader.faults.clear()
    trees.put(tmp_path, f"{folder}/energy3_input", 3_000_000 + 6_000_000)
    assert socket.read() == 6


def test_a_fall_is_a_reset_and_never_joules(tmp_path: Path) -> None:
    folder = sockets(tmp_path)
    socket = find(tmp_path).sensors[0]
    trees.put(tmp_path, f"{folder}/energy3_input", 4_000_000)
    assert socket.read() == 1
    trees.put(tmp_path, f"{folder}/energy3_input", 10)
    with pytest.raises(SensorBreakError, match="reset"):
        socket.read()
    trees.put(tmp_path, f"{folder}/energy3_input", 2_000_010)
    assert socket.read() == 3


def test_a_sensor_that_fails_at_first_is_refused_in_the_systems_words(tmp_path: Path) -> None:
    reader = trees.Reader()
    trees.hwmon(tmp_path, 0, "amdgpu", power1_average=1)
    reader.faults["power1_average"] = errno.ENODATA
    (refusal,) = find(tmp_path, reader=reader).refusals
    assert "No data available" in refusal.why.reason


def test_zero_watts_of_what_is_switched_on_are_no_reading(tmp_path: Path) -> None:
    folder = trees.hwmon(tmp_path, 0, "amdgpu", power1_average=30_000_000, power1_cap=1)
    (card,) = find(tmp_path).sensors
    trees.put(tmp_path, f"{folder}/power1_average", 0)
    with pytest.raises(SensorGapError, match="0 W"):
        card.read()
    assert find(tmp_path).sensors == ()


@pytest.mark.parametrize("nonsense", ["-1", "n/a", "1e6"])
def test_nonsense_at_first_is_refused_too(tmp_path: Path, nonsense: str) -> None:
    trees.hwmon(tmp_path, 0, "i915", energy1_input=nonsense)
    trees.hwmon(tmp_path, 1, "amdgpu", power1_average=nonsense)
    found = find(tmp_path)
    assert "hwmon:i915-hwmon0" not in ids(found)
    assert any("Intel GPU" in refusal.why.reason for refusal in found.refusals)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.text(max_size=12) | st.integers().map(str), min_size=1, max_size=9))
def test_no_nonsense_in_any_file_raises_anything_else(tmp_path: Path, texts: list[str]) -> None:
    reader, script = trees.Reader(), itertools.cycle(texts)
    sockets(tmp_path)
    trees.hwmon(tmp_path, 1, "amdgpu", power1_average=5_000_000)
    trees.hwmon(tmp_path, 2, "power_meter", power1_average=5_000_000, power1_average_interval=1)
    for ends in ("", "_input", "_average", "_interval", "_label"):
        reader.faults.clear()
        sound = find(tmp_path, reader=reader)
        reader.faults[ends] = lambda: next(script)
        found = find(tmp_path, reader=reader)
        assert found.sensors or found.refusals
        for one in (*sound.sensors, *found.sensors):
            with contextlib.suppress(SensorGapError, SensorBreakError):
                assert one.read() >= 0


def test_a_device_that_leads_to_itself_is_named_by_that(tmp_path: Path) -> None:
    folder = trees.hwmon(tmp_path, 1, "amdgpu", power1_average=5_000_000)
    (tmp_path / folder / "device").symlink_to("device")
    assert ids(find(tmp_path)) == ["hwmon:amdgpu-device"]


def test_an_empty_root_has_an_answer(tmp_path: Path) -> None:
    assert find(tmp_path).refusals
