"""Energy is looked for, and its absence has a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.profiler import energy

GUEST = "processor\t: 0\nflags\t\t: fpu avx2 hypervisor\n"
METAL = "processor\t: 0\nflags\t\t: fpu avx2\n"


def put(root: Path, name: str, content: str = "1\n") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_a_virtual_machine_is_told_so(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", GUEST)
    # Empty class directories are no sensors.
    (tmp_path / "sys/class/powercap").mkdir(parents=True)
    (tmp_path / "sys/class/power_supply").mkdir(parents=True)
    found = energy.discover(tmp_path, system="linux")
    assert found.sensors == ()
    assert found.unavailable().reason == "no powercap: virtual machine"
    assert found.unavailable().remedy
    assert [refusal.name for refusal in found.refusals] == ["rapl", "hwmon", "battery", "nvml"]


def test_bare_metal_without_a_counter_gets_a_way_out(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", METAL)
    why = energy.discover(tmp_path, system="linux").unavailable()
    assert "virtual" not in why.reason
    assert "modprobe" in why.remedy


def test_a_counter_that_is_there_is_never_called_absent(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", METAL)
    put(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", "12345\n")
    why = energy.discover(tmp_path, system="linux").unavailable()
    assert "a RAPL counter is present" in why.reason
    assert "no reader" in why.reason


def test_a_counter_only_root_may_read_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = put(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj")
    monkeypatch.setattr("os.access", lambda *_: False)  # tests may run as root
    why = energy.discover(tmp_path, system="linux").unavailable()
    assert "only root" in why.reason
    assert str(zone) in why.remedy


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("sys/class/hwmon/hwmon0/power1_input", "hwmon"),
        ("sys/class/power_supply/BAT0/energy_now", "battery"),
        ("proc/driver/nvidia/version", "NVIDIA"),
    ],
)
def test_what_is_present_comes_before_what_is_absent(tmp_path: Path, name: str, word: str) -> None:
    put(tmp_path, "proc/cpuinfo", GUEST)
    put(tmp_path, name)
    assert word in energy.discover(tmp_path, system="linux").unavailable().reason


@pytest.mark.parametrize("system", ["darwin", "win32", "freebsd14"])
def test_other_systems_have_a_reason_too(system: str) -> None:
    assert energy.discover(system=system).unavailable().reason


def test_this_machine_has_an_answer() -> None:
    found = energy.discover()
    assert found.sensors or found.unavailable().reason
