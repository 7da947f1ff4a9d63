"""Jetson's power monitors: which rail is the total, which are added up, which are never read."""

from __future__ import annotations

import errno
from pathlib import Path

import board_trees as boards
import pytest
import sensor_trees as trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.energy import Scope
from edge_runtime.profiler.energy import EnergySensor, Found, SensorGapError, ina3221
from edge_runtime.profiler.energy.cover import headline
from edge_runtime.profiler.energy.sysfs import Tree

FAST = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def find(root: Path, clock: trees.Clock | None = None, reader: trees.Reader | None = None) -> Found:
    return ina3221.find(Tree(root, reader or trees.Reader()), clock=clock or trees.Clock())


def ids(found: Found) -> list[str]:
    return [sensor.info.id for sensor in found.sensors]


def watts(sensor: EnergySensor, clock: trees.Clock) -> float:
    """The power over one period, by what the sensor adds up."""
    start = sensor.read()
    clock.advance(sensor.info.poll_s)
    return (sensor.read() - start) / sensor.info.poll_s


def reasons(found: Found) -> str:
    return "\n".join(refusal.why.reason for refusal in found.refusals)


# -- the total


def test_the_input_of_a_module_is_its_total_and_its_rails_are_never_added(tmp_path: Path) -> None:
    clock = trees.Clock()
    found = find(boards.orin_nano(tmp_path), clock)
    assert ids(found) == ["ina3221:VDD_IN", "ina3221:VDD_CPU_GPU_CV", "ina3221:VDD_SOC"]
    total = found.sensors[0]
    assert total.info.scope is Scope.MODULE
    assert watts(total, clock) == pytest.approx(6.0)
    assert [watts(part, clock) for part in found.sensors[1:]] == pytest.approx([2.0, 1.5])
    assert headline([s.info for s in found.sensors]) == ("ina3221:VDD_IN",)
    assert "carrier board" in " ".join(total.info.notes)


def test_an_agx_orin_has_no_total_so_the_rails_beside_each_other_are_added(tmp_path: Path) -> None:
    clock = trees.Clock()
    found = find(boards.agx_orin(tmp_path), clock)
    name = "ina3221:VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0"
    total = found.sensors[0]
    assert (total.info.id, total.info.scope) == (name, Scope.MODULE)
    assert watts(total, clock) == pytest.approx(10.0 + 4.0 + 5.0)
    # The 5 V supply alone is the I/O, and the memory hangs on it: neither a total nor an addend.
    parts = {s.info.id: s for s in found.sensors[1:]}
    assert set(parts) == {
        "ina3221:VDD_GPU_SOC",
        "ina3221:VDD_CPU_CV",
        "ina3221:VIN_SYS_5V0",
        "ina3221:VDDQ_VDD2_1V8AO",
    }
    assert all(part.info.scope is Scope.CHIP for part in parts.values())
    assert watts(parts["ina3221:VIN_SYS_5V0"], clock) == pytest.approx(5.0)
    assert "lies inside VIN_SYS_5V0" in parts["ina3221:VDDQ_VDD2_1V8AO"].info.notes
    assert "not the module's total" in " ".join(parts["ina3221:VIN_SYS_5V0"].info.notes)
    assert headline([s.info for s in found.sensors]) == (name,)


def test_part_of_the_rails_of_an_agx_orin_is_no_module(tmp_path: Path) -> None:
    rails = {1: ("VDD_GPU_SOC", 20000, 500), 3: ("VIN_SYS_5V0", 5000, 1000)}
    boards.ina3221(tmp_path, 3, rails)
    found = find(tmp_path)
    assert found.sensors == ()
    assert "VDD_GPU_SOC, VIN_SYS_5V0" in reasons(found)
    assert found.refusals[0].why.remedy


def test_an_agx_xavier_is_the_sum_of_its_six_rails(tmp_path: Path) -> None:
    clock = trees.Clock()
    first = {1: ("GPU", 19000, 100), 2: ("CPU", 19000, 200), 3: ("SOC", 19000, 100)}
    second = {1: ("CV", 19000, 0), 2: ("VDDRQ", 19000, 50), 3: ("SYS5V", 5000, 600)}
    boards.ina3221(tmp_path, 1, first, shunt_uohm=5000)
    boards.ina3221(tmp_path, 2, second, address="1-0041", shunt_uohm=5000)
    found = find(tmp_path, clock)
    assert watts(found.sensors[0], clock) == pytest.approx(1.9 + 3.8 + 1.9 + 0.95 + 3.0)
    assert len(found.sensors) == 7


def test_nvidias_older_kernel_gives_milliwatts_from_channel_0(tmp_path: Path) -> None:
    clock = trees.Clock()
    boards.jetson_nano_l4t(tmp_path)
    found = find(tmp_path, clock)
    assert ids(found)[0] == "ina3221:POM_5V_IN"
    assert watts(found.sensors[0], clock) == pytest.approx(4.5)
    assert len(found.sensors) == 3
    assert "shunt is not told" in " ".join(found.sensors[0].info.notes)


def test_the_input_of_a_thor_kit_is_its_boards_power_in_microwatts(tmp_path: Path) -> None:
    clock = trees.Clock()
    boards.thor(tmp_path)
    found = find(tmp_path, clock)
    total = found.sensors[0]
    assert (total.info.id, total.info.scope) == ("ina3221:VIN", Scope.BOARD)
    assert watts(total, clock) == pytest.approx(42.0)
    assert headline([s.info for s in found.sensors]) == ("ina3221:VIN",)
    assert len(found.sensors) == 3


def test_an_ina238_of_another_board_watches_nobody_knows_what(tmp_path: Path) -> None:
    folder = boards.thor(tmp_path)
    trees.put(tmp_path, "proc/device-tree/model", "Some Router\0")
    # The rails are a Thor's, whatever the model says.
    assert ids(find(tmp_path))[0] == "ina3221:VIN"
    trees.put(tmp_path, f"{folder}/in1_label", "VDD_FAN")
    assert find(tmp_path).sensors == ()
    (tmp_path / folder / "in1_label").unlink()
    trees.put(tmp_path, f"{boards.I2C}/ina3221/1-0040/hwmon/hwmon1/in2_label", "VDD_SOC")
    found = find(tmp_path)
    assert found.sensors == ()
    assert "an INA238 is here" in reasons(found)
    trees.put(tmp_path, f"{folder}/in1_label", "VIN")
    assert ids(find(tmp_path))[0] == "ina3221:VIN"


def test_a_chip_that_only_the_class_shows_is_read_and_one_shown_twice_counts_once(
    tmp_path: Path,
) -> None:
    boards.orin_nano(tmp_path)
    home = tmp_path / boards.I2C / "ina3221/1-0040/hwmon/hwmon1"
    link = tmp_path / "sys/class/hwmon/hwmon1"
    link.parent.mkdir(parents=True)
    link.symlink_to(home)
    assert len(find(tmp_path).sensors) == 3
    link.unlink()
    home.rename(link)
    assert len(find(tmp_path).sensors) == 3


def test_the_carriers_rails_of_a_tx2_are_no_part_of_its_module(tmp_path: Path) -> None:
    boards.ina3221(tmp_path, 1, {1: ("VDD_IN", 19000, 400), 2: ("VDD_SYS_CPU", 19000, 100)})
    carrier = {1: ("VDD_MUX", 19000, 500), 2: ("VDD_5V0_IO_SYS", 5000, 600)}
    boards.ina3221(tmp_path, 2, carrier, address="0-0042")
    assert ids(find(tmp_path)) == ["ina3221:VDD_IN", "ina3221:VDD_SYS_CPU"]


# -- what is no rail


def test_sums_of_shunts_and_unconnected_channels_are_never_read(tmp_path: Path) -> None:
    boards.agx_orin(tmp_path)
    read: list[str] = []

    def reader(path: Path) -> str:
        read.append(path.name)
        return trees.read_file(path)

    found = ina3221.find(Tree(tmp_path, reader), clock=trees.Clock())
    assert not any("sum" in name or "NC" in name for name in ids(found))
    assert not {"in7_input", "curr7_input", "curr4_input"} & set(read)


def test_a_chip_without_names_is_refused(tmp_path: Path) -> None:
    folder = boards.ina3221(tmp_path, 0, {1: ("NC", 5000, 100)})
    (tmp_path / folder / "in1_label").unlink()
    assert "no names" in reasons(find(tmp_path))


def test_a_machine_without_one_has_a_reason_and_a_way_out(tmp_path: Path) -> None:
    found = find(tmp_path)
    assert found.sensors == ()
    assert found.refusals[0].name == "ina3221"
    assert "not a Jetson" in found.refusals[0].why.reason
    assert found.refusals[0].why.remedy


# -- resolution


def test_the_step_comes_from_the_shunt(tmp_path: Path) -> None:
    # 40 uV / 5 mOhm = 8 mA, at 5 V 40 mW.
    assert find(boards.orin_nano(tmp_path)).sensors[0].info.step == pytest.approx(0.040)


def test_steps_of_added_rails_add_as_squares(tmp_path: Path) -> None:
    # 40 uV / 2 mOhm = 20 mA: 0.4 W at 20 V twice, and 0.1 W at 5 V.
    step = find(boards.agx_orin(tmp_path)).sensors[0].info.step
    assert step == pytest.approx((0.4**2 + 0.4**2 + 0.1**2) ** 0.5)


def test_rates_follow_the_chip(tmp_path: Path) -> None:
    info = find(boards.orin_nano(tmp_path)).sensors[0].info
    assert (info.poll_s, info.window_s, info.update_s) == (0.05, 2.0, 0.02)
    folder = f"{boards.I2C}/ina3221/1-0040/hwmon/hwmon1"
    trees.put(tmp_path, f"{folder}/update_interval", 500)
    info = find(tmp_path).sensors[0].info
    assert (info.poll_s, info.window_s, info.update_s) == (0.5, 20.0, 0.5)
    trees.put(tmp_path, f"{folder}/update_interval", -3)
    info = find(tmp_path).sensors[0].info
    assert info.poll_s == 0.05
    assert 0 < info.update_s < 0.05


# -- failures


def test_a_total_that_may_not_be_read_names_the_file_and_the_command(tmp_path: Path) -> None:
    reader = trees.Reader()
    reader.deny("hwmon1/curr1_input")
    found = find(boards.orin_nano(tmp_path), reader=reader)
    # Its parts are no module, so nothing is left to be mistaken for one.
    assert found.sensors == ()
    why = found.refusals[0].why
    assert "Permission denied" in why.reason
    assert why.remedy.startswith("sudo chmod a+r /")
    assert why.remedy.endswith("hwmon1/curr1_input")


def test_a_part_that_fails_leaves_the_total(tmp_path: Path) -> None:
    reader = trees.Reader()
    reader.faults["in3_input"] = errno.ENODATA
    found = find(boards.orin_nano(tmp_path), reader=reader)
    assert ids(found) == ["ina3221:VDD_IN", "ina3221:VDD_CPU_GPU_CV"]
    assert [r.name for r in found.refusals] == ["ina3221:VDD_SOC"]


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOENT, "", "12x", "9" * 400, "2000000"])
def test_a_failure_on_the_way_is_a_gap_and_reading_goes_on(
    tmp_path: Path, fault: int | str
) -> None:
    clock, reader = trees.Clock(), trees.Reader()
    total = find(boards.agx_orin(tmp_path), clock, reader).sensors[0]
    total.read()
    reader.faults["hwmon3/curr2_input"] = fault
    clock.advance(0.05)
    with pytest.raises(SensorGapError):
        total.read()
    reader.faults.clear()
    clock.advance(0.05)
    assert total.read() == pytest.approx(19.0 * 0.1)


def test_a_voltage_beyond_the_chips_range_is_no_reading(tmp_path: Path) -> None:
    boards.orin_nano(tmp_path)
    trees.put(tmp_path, f"{boards.I2C}/ina3221/1-0040/hwmon/hwmon1/in1_input", 200_000)
    found = find(tmp_path)
    assert found.sensors == ()
    assert "which no rail can have" in reasons(found)


@pytest.mark.parametrize("milliamps", [0, -1200])
def test_the_input_of_a_running_module_is_never_nothing(tmp_path: Path, milliamps: int) -> None:
    boards.orin_nano(tmp_path)
    trees.put(tmp_path, f"{boards.I2C}/ina3221/1-0040/hwmon/hwmon1/curr1_input", milliamps)
    found = find(tmp_path)
    assert found.sensors == ()
    assert "yet it feeds this machine" in reasons(found)


def test_a_rail_switched_off_may_be_nothing(tmp_path: Path) -> None:
    boards.orin_nano(tmp_path)
    trees.put(tmp_path, f"{boards.I2C}/ina3221/1-0040/hwmon/hwmon1/curr2_input", 0)
    assert "ina3221:VDD_CPU_GPU_CV" in ids(find(tmp_path))


@FAST
@given(text=st.text(max_size=30), label=st.text(st.characters(codec="utf-8"), max_size=60))
def test_whatever_the_files_hold_is_a_sensor_or_a_reason(
    tmp_path: Path, text: str, label: str
) -> None:
    reader = trees.Reader()
    boards.orin_nano(tmp_path)
    reader.faults.update({"curr1_input": text, "in2_label": label, "shunt3_resistor": text})
    found = find(tmp_path, reader=reader)
    assert found.sensors or found.refusals
    for sensor in found.sensors:
        assert sensor.info.id.isprintable()
        assert sensor.info.id.isascii()
