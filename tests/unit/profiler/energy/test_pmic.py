"""The Raspberry Pi's rails: both formats of the print, how often it is asked, what is missing."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import board_trees as boards
import pytest
import sensor_trees as trees
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.energy import Scope
from edge_runtime.profiler.energy import Found, SensorGapError, pmic
from edge_runtime.profiler.energy.sysfs import Tree


class Command:
    """Stands in for vcgencmd: prints what it is told to, or fails, and counts how often."""

    def __init__(self, says: str | Exception = "") -> None:
        self.says = says or boards.pmic_print()
        self.asked: list[tuple[tuple[str, ...], float]] = []

    def __call__(self, command: Sequence[str], timeout_s: float) -> str:
        self.asked.append((tuple(command), timeout_s))
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


def find(root: Path, run: Command, clock: trees.Clock | None = None, model: str = "") -> Found:
    trees.put(root, "proc/device-tree/model", model or boards.PI5)
    return pmic.find(Tree(root), run=run, clock=clock or trees.Clock())


@pytest.mark.parametrize("text", [boards.pmic_print(), boards.pmic_short_print()])
def test_both_formats_give_volts_times_amperes_by_the_name_of_the_rail(text: str) -> None:
    rails = pmic.parse(text)
    assert pmic.power_w(rails) == pytest.approx(boards.PI_W)
    assert [rail.name for rail in pmic.fed(rails)] == ["3V3_SYS", "DDR_VDD2", "VDD_CORE"]


def test_a_pi_5_is_measured_without_its_losses(tmp_path: Path) -> None:
    clock, run = trees.Clock(), Command()
    found = find(tmp_path, run, clock)
    (sensor,) = found.sensors
    start = sensor.read()
    clock.advance(0.5)
    assert (sensor.read() - start) / 0.5 == pytest.approx(boards.PI_W)
    info = sensor.info
    assert (info.scope, info.poll_s, info.window_s) == (Scope.MODULE, 0.5, 10.0)
    said = " ".join(info.notes)
    assert "1.1451 x sum + 0.5879 W: an estimate, not applied" in said
    assert "each reading starts a process" in said
    assert run.asked[0] == (("vcgencmd", "pmic_read_adc"), pmic.TIMEOUT_S)


@pytest.mark.parametrize(
    "model", ["Raspberry Pi 500 Rev 1.0\0", "Raspberry Pi Compute Module 5 Rev 1.0\0"]
)
def test_its_siblings_have_the_same_chip(tmp_path: Path, model: str) -> None:
    assert find(tmp_path, Command(), model=model).sensors


def test_the_inputs_of_the_board_are_no_rails_of_the_sum() -> None:
    text = boards.pmic_short_print() + "EXT5V_A=0.4294A\nBATT_A=0.1A\nBATT_V=3.0V\n"
    assert pmic.power_w(pmic.parse(text)) == pytest.approx(boards.PI_W)


def test_a_current_without_a_voltage_is_no_power_and_is_told(tmp_path: Path) -> None:
    found = find(tmp_path, Command(boards.pmic_print() + " HDMI_A current(22)=0.02417580A\n"))
    assert "not in the sum: HDMI" in " ".join(found.sensors[0].info.notes)


# -- how often it is asked


def test_no_process_is_started_within_the_poll_period(tmp_path: Path) -> None:
    clock, run = trees.Clock(), Command()
    (sensor,) = find(tmp_path, run, clock).sensors
    for _ in range(40):
        sensor.read()
        clock.advance(0.05)
    # Two seconds: at the search, and then every half a second.
    assert len(run.asked) == 4
    assert pmic.TIMEOUT_S < pmic.POLL_S


def test_a_failure_is_not_tried_again_within_the_poll_period_either(tmp_path: Path) -> None:
    clock, run = trees.Clock(), Command()
    (sensor,) = find(tmp_path, run, clock).sensors
    sensor.read()
    clock.advance(0.5)
    run.says = subprocess.TimeoutExpired("vcgencmd", 0.4)
    for _ in range(3):
        with pytest.raises(SensorGapError, match=r"longer than 0\.4 s"):
            sensor.read()
    assert len(run.asked) == 2
    run.says = boards.pmic_print()
    clock.advance(0.5)
    assert sensor.read() == pytest.approx(boards.PI_W * 1.0)


# -- where there is none


@pytest.mark.parametrize("model", [boards.PI4, "Raspberry Pi Zero 2 W Rev 1.0\0"])
def test_older_models_have_no_current_sensor_and_are_not_asked(tmp_path: Path, model: str) -> None:
    run = Command()
    found = find(tmp_path, run, model=model)
    assert found.sensors == ()
    assert "no current sensor on a Raspberry Pi" in found.refusals[0].why.reason
    assert "--meter" in found.refusals[0].why.remedy
    assert run.asked == []


def test_another_machine_is_not_asked(tmp_path: Path) -> None:
    run = Command()
    found = pmic.find(Tree(tmp_path), run=run)
    assert found.refusals[0].why.reason == "no Raspberry Pi"
    assert run.asked == []


@pytest.mark.parametrize(
    ("failure", "reason", "remedy"),
    [
        (FileNotFoundError(2, "No such file or directory"), "No such file", "apt install"),
        (PermissionError(13, "Permission denied"), "Permission denied", "usermod -aG video"),
        (
            subprocess.CalledProcessError(255, "vcgencmd", stderr=b"VCHI initialization failed\n"),
            "VCHI initialization failed",
            "usermod -aG video",
        ),
        (subprocess.TimeoutExpired("vcgencmd", 0.4), "longer than 0.4 s", "--meter"),
    ],
)
def test_a_command_that_fails_is_a_refusal_with_its_way_out(
    tmp_path: Path, failure: Exception, reason: str, remedy: str
) -> None:
    found = find(tmp_path, Command(failure))
    assert found.sensors == ()
    assert reason in found.refusals[0].why.reason
    assert remedy in found.refusals[0].why.remedy


def test_the_real_runner_gives_what_was_printed_and_ends_what_hangs() -> None:
    assert pmic.run(("printf", "VDD_CORE_A=1.0A"), 5.0) == "VDD_CORE_A=1.0A"
    with pytest.raises(subprocess.TimeoutExpired):
        pmic.run(("sleep", "5"), 0.05)
    with pytest.raises(OSError, match="no-such-command"):
        pmic.run(("no-such-command-here",), 1.0)


# -- prints that cannot be believed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('error=1 error_msg="Command not registered"', "no rail but 'error=1"),
        ("", "no rail"),
        ("EXT5V_V volt(24)=5.09066000V", "no rail's volts and amperes"),
        ("VDD_CORE_A current(7)=nanA\nVDD_CORE_V volt(15)=0.9V", "no reading of a rail"),
        ("VDD_CORE_A current(7)=-2.0A\nVDD_CORE_V volt(15)=0.9V", "no reading of a rail"),
        ("VDD_CORE_A current(7)=2.0V\nVDD_CORE_V volt(15)=0.9V", "no reading of a rail"),
        ("VDD_CORE_A volt(7)=2.0A\nVDD_CORE_V volt(15)=0.9V", "no reading of a rail"),
        ("VDD_CORE_A=2000A\nVDD_CORE_V=0.9V", "which no rail can have"),
        ("VDD_CORE_A=2A\nVDD_CORE_A=2A\nVDD_CORE_V=0.9V", "twice"),
        ("VDD_CORE_A=0A\nVDD_CORE_V=0.9V", "every rail at 0 W"),
        ("VDD_CORE_A=2A\n" * 10_000, "far more than its rails"),
    ],
)
def test_a_print_that_cannot_be_is_no_reading(tmp_path: Path, text: str, said: str) -> None:
    found = find(tmp_path, Command(text or "\n"))
    assert found.sensors == ()
    assert said in found.refusals[0].why.reason


def test_a_rail_that_is_missing_on_the_way_is_a_gap_and_not_less_power(tmp_path: Path) -> None:
    clock, run = trees.Clock(), Command()
    (sensor,) = find(tmp_path, run, clock).sensors
    clock.advance(0.5)
    run.says = "\n".join(line for line in boards.pmic_print().splitlines() if "CORE" not in line)
    with pytest.raises(SensorGapError, match="other rails than before: VDD_CORE"):
        sensor.read()


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("VDD_COREAV current(7)=0.9\n-e"), max_size=200))
def test_any_text_is_rails_or_a_gap(text: str) -> None:
    try:
        rails = pmic.parse(text)
    except SensorGapError:
        return
    assert 0 <= pmic.power_w(rails) < 1e6
