"""Every kind of sensor is looked for, each is tried, and each absence has a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from sensor_trees import bare_metal, guest, intel_laptop, put, xeon

from edge_runtime.basis import Unavailable
from edge_runtime.energy import Refusal, Scope, SensorInfo
from edge_runtime.profiler.energy import Found, SensorBreakError, SensorGapError
from edge_runtime.profiler.energy.discovery import ROOT_VARIABLE, discover, sensor_root
from edge_runtime.profiler.energy.sysfs import Tree

RAPL = "edge_runtime.profiler.energy.rapl.find"


class Scripted:
    """A sensor that does as it is told."""

    def __init__(
        self,
        id_: str = "rapl:package-0",
        read: Exception | float = 1.0,
        close: Exception | None = None,
    ) -> None:
        self.info = SensorInfo(
            id=id_, source="a script", scope=Scope.CHIP, covers=("cpu:0",), method="counter",
            update_s=0.001, step=6e-5, poll_s=0.1, window_s=1.0, notes=("its own",),
        )  # fmt: skip
        self._read = read
        self._close = close
        self.closed = 0

    def read(self) -> float:
        if isinstance(self._read, Exception):
            raise self._read
        return self._read

    def close(self) -> None:
        self.closed += 1
        if self._close is not None:
            raise self._close


def offer(monkeypatch: pytest.MonkeyPatch, *sensors: Scripted, name: str = RAPL) -> None:
    monkeypatch.setattr(name, lambda _: Found(sensors=sensors))


def reasons(refusals: tuple[Refusal, ...]) -> dict[str, str]:
    return {refusal.name: refusal.why.reason for refusal in refusals}


def test_a_virtual_machine_is_told_so(tmp_path: Path) -> None:
    found = discover(guest(tmp_path), system="linux")
    assert found.sensors == ()
    assert found.headline == ()
    assert found.battery is None
    assert found.unavailable().reason == "no powercap: virtual machine"
    assert found.unavailable().remedy


def test_the_processors_counters_are_never_a_guests(tmp_path: Path) -> None:
    guest(intel_laptop(tmp_path))
    put(tmp_path, "sys/bus/event_source/devices/power/events/energy-psys", "event=0x05")
    found = discover(tmp_path, system="linux")
    assert found.sensors == ()
    assert found.refusals[0].name == "rapl"
    assert "virtual machine" in found.unavailable().reason


def test_what_a_guests_kernel_lists_of_the_processor_explains_nothing(tmp_path: Path) -> None:
    guest(tmp_path)
    put(tmp_path, "sys/bus/event_source/devices/power/events/energy-psys", "event=0x05")
    found = discover(tmp_path, system="linux")
    assert found.unavailable().reason == "no powercap: virtual machine"


def test_a_guests_battery_is_not_believed(tmp_path: Path) -> None:
    guest(tmp_path)
    put(tmp_path, "sys/class/power_supply/BAT1/type", "Battery")
    put(tmp_path, "sys/class/power_supply/BAT1/status", "Discharging")
    for name in ("energy_now", "energy_full", "power_now"):
        put(tmp_path, f"sys/class/power_supply/BAT1/{name}", 5_000_000)
    found = discover(tmp_path, system="linux")
    assert found.sensors == ()
    assert found.battery is None
    assert "battery" in reasons(found.refusals)["battery"]


def test_bare_metal_without_any_sensor_gets_a_way_out(tmp_path: Path) -> None:
    found = discover(bare_metal(tmp_path), system="linux")
    assert found.sensors == ()
    assert "virtual" not in found.unavailable().reason
    assert "modprobe" in found.unavailable().remedy
    assert all(refusal.why.reason and refusal.why.remedy for refusal in found.refusals)


def test_a_laptop_gives_one_headline_and_its_parts(tmp_path: Path) -> None:
    found = discover(intel_laptop(tmp_path), system="linux")
    ids = {sensor.info.id for sensor in found.sensors}
    assert {"rapl:package-0", "rapl:core-0", "rapl:uncore-0", "rapl:psys"} <= ids
    assert found.headline == ("rapl:psys",)


def test_two_sockets_and_their_memory_are_added(tmp_path: Path) -> None:
    found = discover(xeon(tmp_path), system="linux")
    assert found.headline == ("rapl:dram-0", "rapl:dram-1", "rapl:package-0", "rapl:package-1")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sys/class/hwmon/hwmon0/power1_input", "hwmon"),
        ("sys/class/power_supply/BAT0/energy_now", "battery"),
    ],
)
def test_what_is_present_comes_before_what_is_absent(tmp_path: Path, name: str, kind: str) -> None:
    bare_metal(tmp_path)
    put(tmp_path, name)
    assert discover(tmp_path, system="linux").refusals[0].name.startswith(kind)


@pytest.mark.parametrize("system", ["win32", "freebsd14"])
def test_other_systems_have_a_reason_too(tmp_path: Path, system: str) -> None:
    why = discover(tmp_path, system=system).unavailable()
    assert "this version cannot read" in why.reason
    assert why.remedy


def test_a_mac_is_asked_for_its_own(tmp_path: Path) -> None:
    found = discover(tmp_path, system="darwin")
    assert found.sensors or found.unavailable().reason


def test_a_search_that_fails_is_a_refusal_with_the_errors_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(_: Tree) -> Found:
        raise ZeroDivisionError("by a scale of 0")

    monkeypatch.setattr(RAPL, burst)
    found = discover(intel_laptop(tmp_path), system="linux")
    assert "ZeroDivisionError: by a scale of 0" in found.unavailable().reason
    assert found.unavailable().remedy


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SensorGapError("energy_uj: Permission denied"), "energy_uj: Permission denied"),
        (SensorBreakError("it was reset"), "it was reset"),
        (OSError(5, "Input/output error"), "OSError"),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_a_sensor_that_cannot_be_read_is_a_refusal_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    bad, good = Scripted(read=error, close=OSError()), Scripted("rapl:package-1")
    offer(monkeypatch, bad, good)
    found = discover(intel_laptop(tmp_path), system="linux")
    assert found.headline == ("rapl:package-1",)
    assert bad.closed == 1
    assert good.closed == 0
    assert words in reasons(found.refusals)["rapl:package-0"]


def test_two_sensors_of_one_name_are_not_both_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Scripted(), Scripted())
    found = discover(intel_laptop(tmp_path), system="linux")
    assert [sensor.info.id for sensor in found.sensors] == ["rapl:package-0"]
    assert "same name" in found.unavailable().reason


def test_closing_closes_all_whatever_one_of_them_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensors = Scripted("a", close=OSError("gone")), Scripted("b")
    offer(monkeypatch, *sensors)
    found = discover(intel_laptop(tmp_path), system="linux")
    found.close()
    assert [sensor.closed for sensor in sensors] == [1, 1]


def test_another_root_is_told_in_every_sensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(intel_laptop(tmp_path)))
    assert sensor_root() == tmp_path
    found = discover(system="linux")
    assert found.headline == ("rapl:psys",)
    assert all(f"read below {tmp_path}" in sensor.info.notes for sensor in found.sensors)
    assert all(sensor.read() >= 0 for sensor in found.sensors)


def test_notes_of_the_sensor_itself_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Scripted())
    found = discover(intel_laptop(tmp_path), system="linux")
    assert found.sensors[0].info.notes == ("its own", f"read below {tmp_path}")


def test_a_root_that_is_no_folder_is_the_one_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "nowhere"))
    found = discover(system="linux")
    assert found.sensors == ()
    assert len(found.refusals) == 1
    assert f"{tmp_path / 'nowhere'}, which is no folder" in found.unavailable().reason


def test_without_the_variable_it_is_the_root_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, "")
    assert sensor_root() == Path("/")


def test_the_capacity_of_a_battery_is_known_on_mains_too(tmp_path: Path) -> None:
    bare_metal(tmp_path)
    battery = "sys/class/power_supply/BAT0"
    for name, value in (
        ("type", "Battery"), ("status", "Full"), ("present", 1), ("voltage_now", 11_400_000),
        ("energy_now", 40_000_000), ("energy_full", 40_000_000), ("power_now", 0),
        ("energy_full_design", 50_000_000),
    ):  # fmt: skip
        put(tmp_path, f"{battery}/{name}", value)
    found = discover(tmp_path, system="linux")
    assert found.sensors == ()
    assert found.battery is not None
    assert found.battery.full_wh == pytest.approx(40.0)
    assert found.battery.design_wh == pytest.approx(50.0)
    assert found.battery.status == "Full"


def test_a_gauge_that_holds_nonsense_has_no_capacity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(_: Tree) -> None:
        raise ValueError("nonsense")

    monkeypatch.setattr("edge_runtime.profiler.energy.battery.capacity", burst)
    assert discover(bare_metal(tmp_path), system="linux").battery is None


def test_this_machine_has_an_answer() -> None:
    found = discover()
    try:
        assert found.sensors or isinstance(found.unavailable(), Unavailable)
    finally:
        found.close()
