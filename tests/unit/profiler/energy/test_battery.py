"""A machine's battery: its sign, its units, its status, whose it is, and what it holds."""

from __future__ import annotations

import errno
from pathlib import Path

import board_trees as boards
import pytest
import sensor_trees as trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.energy import Battery, Scope
from edge_runtime.profiler.energy import (
    EnergySensor,
    Found,
    SensorBreakError,
    SensorGapError,
    battery,
)
from edge_runtime.profiler.energy.sysfs import Tree

FAST = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def find(root: Path, clock: trees.Clock | None = None, reader: trees.Reader | None = None) -> Found:
    return battery.find(Tree(root, reader or trees.Reader()), clock=clock or trees.Clock())


def only(found: Found) -> EnergySensor:
    assert len(found.sensors) == 1, found.refusals
    return found.sensors[0]


def watts(sensor: EnergySensor, clock: trees.Clock) -> float:
    start = sensor.read()
    clock.advance(1)
    return sensor.read() - start


def measured_w(root: Path) -> float:
    clock = trees.Clock()
    return watts(only(find(root, clock)), clock)


def why(found: Found) -> str:
    assert found.sensors == ()
    (refusal,) = found.refusals
    assert refusal.why.remedy
    return refusal.why.reason


def notes(found: Found) -> str:
    return " ".join(only(found).info.notes)


def capacity(root: Path) -> Battery | None:
    return battery.capacity(Tree(root))


# -- power


def test_a_laptop_on_its_battery_is_measured_as_a_whole(tmp_path: Path) -> None:
    found = find(boards.laptop_on_battery(tmp_path))
    info = only(found).info
    assert (info.id, info.scope, info.method) == ("battery:BAT0", Scope.DEVICE, "power")
    assert set(info.covers) == {"cpu:*", "dram:*", "gpu:*", "system"}
    assert (info.poll_s, info.update_s, info.window_s) == (1.0, 2.0, 200.0)
    assert measured_w(tmp_path) == pytest.approx(12.0)


@pytest.mark.parametrize(("power_now", "sign"), [(12_000_000, "positive"), (-12_000_000, "neg")])
def test_the_sign_of_power_is_the_drivers_affair(tmp_path: Path, power_now: int, sign: str) -> None:
    boards.energy_battery(tmp_path, power_now=power_now)
    assert measured_w(tmp_path) == pytest.approx(12.0)
    assert f"raw sign while discharging is {sign}" in notes(find(tmp_path))


@pytest.mark.parametrize("current_now", [1_000_000, -1_000_000])
def test_current_times_voltage_is_the_power_where_no_power_is_told(
    tmp_path: Path, current_now: int
) -> None:
    boards.charge_battery(tmp_path, current_now=current_now)
    assert measured_w(tmp_path) == pytest.approx(11.0)
    # 1 mA at 11 V.
    assert only(find(tmp_path)).info.step == pytest.approx(0.011)


def test_two_batteries_feed_one_machine(tmp_path: Path) -> None:
    boards.energy_battery(tmp_path, "BAT0", power_now=7_000_000)
    boards.energy_battery(tmp_path, "BAT1", power_now=5_000_000)
    assert only(find(tmp_path)).info.id == "battery:BAT0+BAT1"
    assert measured_w(tmp_path) == pytest.approx(12.0)


def test_a_second_battery_takes_over_from_the_first(tmp_path: Path) -> None:
    clock = trees.Clock()
    boards.energy_battery(tmp_path, "BAT0", power_now=7_000_000)
    boards.energy_battery(tmp_path, "BAT1", power_now=0, status="Not charging")
    sensor = only(find(tmp_path, clock))
    assert watts(sensor, clock) == pytest.approx(7.0)
    boards.supply(tmp_path, "BAT0", status="Not charging", power_now=0)
    boards.supply(tmp_path, "BAT1", status="Discharging", power_now=9_000_000)
    clock.advance(1)
    sensor.read()
    assert watts(sensor, clock) == pytest.approx(9.0)


# -- units


def test_milliamperes_for_microamperes_show_against_the_capacity(tmp_path: Path) -> None:
    # 1000 as microamperes is 11 mW: 48 Wh would last half a year.
    boards.charge_battery(tmp_path, current_now=1000)
    assert measured_w(tmp_path) == pytest.approx(11.0)
    said = notes(find(tmp_path))
    assert "current_now x voltage_now says 0.011 W" in said
    assert "taken for thousandths" in said


def test_a_thousandfold_error_is_not_corrected_where_that_gives_nonsense_too(
    tmp_path: Path,
) -> None:
    boards.charge_battery(tmp_path, current_now=5)
    assert "not a reading in its unit" in why(find(tmp_path))


def test_a_unit_is_not_guessed_without_a_capacity(tmp_path: Path) -> None:
    boards.charge_battery(tmp_path, current_now=1000, charge_full=None, charge_full_design=None)
    assert "no capacity" in why(find(tmp_path))
    boards.supply(tmp_path, "BAT0", current_now=1_000_000)
    assert measured_w(tmp_path) == pytest.approx(11.0)


def test_milliwatt_hours_for_microwatt_hours_are_no_capacity(tmp_path: Path) -> None:
    boards.energy_battery(tmp_path, energy_full=48_000, energy_full_design=57_000, energy_now=30)
    found = capacity(tmp_path)
    assert found is not None
    assert (found.full_wh, found.design_wh) == (None, None)


@pytest.mark.parametrize("voltage_now", [11_000, 11, 0, -11_000_000, 10**9])
def test_a_voltage_that_no_battery_has_gives_no_power(tmp_path: Path, voltage_now: int) -> None:
    boards.charge_battery(tmp_path, voltage_now=voltage_now)
    assert "voltage_now" in why(find(tmp_path))


def test_the_possible_one_of_two_contradicting_readings_is_believed(tmp_path: Path) -> None:
    boards.charge_battery(tmp_path, power_now=9_000_000_000)
    assert measured_w(tmp_path) == pytest.approx(11.0)
    # Current in milliamperes beside a power that is right.
    boards.supply(tmp_path, "BAT0", power_now=11_500_000, current_now=1000)
    assert measured_w(tmp_path) == pytest.approx(11.5)


def test_two_possible_readings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    # As seen: power_now at 67.8 W where current times voltage were 4.7 W.
    boards.charge_battery(tmp_path, power_now=67_800_000, current_now=427_000)
    assert "67.8 W" in why(find(tmp_path))
    assert "4.7 W" in why(find(tmp_path))


def test_zero_while_discharging_is_no_reading(tmp_path: Path) -> None:
    boards.energy_battery(tmp_path, power_now=0)
    assert "reads 0 while discharging" in why(find(tmp_path))
    boards.supply(tmp_path, "BAT0", current_now=1_000_000)
    assert measured_w(tmp_path) == pytest.approx(11.8)


def test_a_battery_that_tells_only_its_stock_is_refused(tmp_path: Path) -> None:
    boards.energy_battery(tmp_path, power_now=None)
    assert "tells no power" in why(find(tmp_path))


def test_a_spike_that_the_battery_cannot_give_is_a_gap(tmp_path: Path) -> None:
    clock = trees.Clock()
    boards.energy_battery(tmp_path)
    sensor = only(find(tmp_path, clock))
    for power_now in (400_000_000, 12_000, 0):
        boards.supply(tmp_path, "BAT0", power_now=power_now)
        with pytest.raises(SensorGapError):
            sensor.read()


# -- mains


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_on_mains_the_battery_tells_nothing_of_the_machine(tmp_path: Path, status: str) -> None:
    boards.energy_battery(tmp_path, status=status)
    assert why(find(tmp_path)) == f"on mains power: BAT0 is {status}"
    assert "Unplug" in find(tmp_path).refusals[0].why.remedy


def test_a_status_that_cannot_be_read_is_not_discharging(tmp_path: Path) -> None:
    boards.energy_battery(tmp_path, status=None)
    assert "BAT0 is of unknown status" in why(find(tmp_path))


def test_a_charger_beside_a_discharging_battery_gives_the_rest(tmp_path: Path) -> None:
    boards.laptop_on_battery(tmp_path)
    boards.supply(tmp_path, "AC", online=1)
    assert why(find(tmp_path)) == "on mains power: AC is online beside the battery"


def test_one_battery_that_charges_another_is_no_measurement(tmp_path: Path) -> None:
    boards.energy_battery(tmp_path, "BAT0")
    boards.energy_battery(tmp_path, "BAT1", status="Charging")
    found = find(tmp_path)
    assert why(found) == "on mains power: BAT0 is Discharging, BAT1 is Charging"
    assert "Unplug" in found.refusals[0].why.remedy
    boards.supply(tmp_path, "BAT1", status="Full")
    sensor = only(find(tmp_path))
    boards.supply(tmp_path, "BAT1", status="Charging")
    with pytest.raises(SensorGapError, match="BAT1 is Charging"):
        sensor.read()


def test_plugging_in_on_the_way_leaves_a_gap_and_then_a_break(tmp_path: Path) -> None:
    clock = trees.Clock()
    boards.energy_battery(tmp_path)
    sensor = only(find(tmp_path, clock))
    assert watts(sensor, clock) == pytest.approx(12.0)
    for status in ("Charging", "Full"):
        boards.supply(tmp_path, "BAT0", status=status)
        clock.advance(2)
        with pytest.raises(SensorGapError, match="on mains power"):
            sensor.read()
    boards.supply(tmp_path, "BAT0", status="Discharging")
    with pytest.raises(SensorBreakError):
        sensor.read()
    assert watts(sensor, clock) == pytest.approx(12.0)


@pytest.mark.parametrize("status", ["Charging", "Full"])
def test_however_short_a_time_on_mains_is_not_bridged(tmp_path: Path, status: str) -> None:
    clock = trees.Clock()
    boards.energy_battery(tmp_path)
    sensor = only(find(tmp_path, clock))
    assert watts(sensor, clock) == pytest.approx(12.0)
    boards.supply(tmp_path, "BAT0", status=status)
    clock.advance(1)
    with pytest.raises(SensorGapError):
        sensor.read()
    boards.supply(tmp_path, "BAT0", status="Discharging")
    clock.advance(1)
    with pytest.raises(SensorBreakError, match="meanwhile"):
        sensor.read()
    assert watts(sensor, clock) == pytest.approx(12.0)


def test_of_a_battery_without_power_all_that_was_tried_is_told(tmp_path: Path) -> None:
    boards.energy_battery(tmp_path)
    boards.supply(tmp_path, "BAT0", power_now="n/a")
    assert "power_now holds 'n/a'" in why(find(tmp_path))


# -- whose battery it is


def test_mice_and_negotiations_are_nobodys_battery(tmp_path: Path) -> None:
    boards.laptop_on_battery(tmp_path)
    negotiation = boards.charge_battery(tmp_path, "ucsi-source-psy-USBC000:002")
    assert only(find(tmp_path)).info.id == "battery:BAT0"
    found = capacity(tmp_path)
    assert found is not None
    assert found.id == "BAT0"
    assert negotiation  # it says Battery and Discharging, and still is none


def test_a_machine_with_only_a_mouse_has_no_battery(tmp_path: Path) -> None:
    boards.charge_battery(tmp_path, "hidpp_battery_0", scope="Device")
    said = why(find(tmp_path))
    assert "only of peripherals: hidpp_battery_0" in said
    assert capacity(tmp_path) is None


def test_an_empty_bay_is_no_battery(tmp_path: Path) -> None:
    boards.energy_battery(tmp_path, present=0)
    assert why(find(tmp_path)) == "no battery"


def test_an_empty_class_is_no_battery(tmp_path: Path) -> None:
    (tmp_path / boards.SUPPLIES).mkdir(parents=True)
    assert why(find(tmp_path)) == "no battery"
    assert capacity(tmp_path) is None


# -- the stock as witness


def drain(root: Path, clock: trees.Clock, sensor: EnergySensor, energy_now: int) -> float:
    boards.supply(root, "BAT0", energy_now=energy_now)
    clock.advance(1)
    return sensor.read()


@pytest.mark.parametrize("jump_uwh", [2_500_000, -2_500_000])
def test_a_gauge_that_corrects_itself_breaks_the_series_once(tmp_path: Path, jump_uwh: int) -> None:
    clock = trees.Clock()
    boards.energy_battery(tmp_path)
    sensor = only(find(tmp_path, clock))
    before = drain(tmp_path, clock, sensor, 29_996_000)
    with pytest.raises(SensorBreakError, match="recalibrated"):
        drain(tmp_path, clock, sensor, 29_996_000 + jump_uwh)
    assert drain(tmp_path, clock, sensor, 29_993_000 + jump_uwh) >= before


def test_steps_of_a_percent_are_how_coarse_gauges_move(tmp_path: Path) -> None:
    clock = trees.Clock()
    boards.energy_battery(tmp_path)
    sensor = only(find(tmp_path, clock))
    sensor.read()
    for energy_now in (30_000_000, 29_520_000, 29_520_000, 29_040_000):
        drain(tmp_path, clock, sensor, energy_now)


def test_a_voltage_that_sags_under_load_is_no_recalibration(tmp_path: Path) -> None:
    clock = trees.Clock()
    boards.charge_battery(tmp_path, voltage_min_design=None, voltage_now=12_400_000)
    sensor = only(find(tmp_path, clock))
    sensor.read()
    boards.supply(tmp_path, "BAT0", voltage_now=10_600_000, current_now=3_000_000)
    clock.advance(1)
    sensor.read()
    assert watts(sensor, clock) == pytest.approx(31.8)


def test_a_long_discharge_is_explained_by_its_power(tmp_path: Path) -> None:
    clock = trees.Clock()
    boards.energy_battery(tmp_path)
    sensor = battery.find(Tree(tmp_path), clock=clock).sensors[0]
    sensor.read()
    boards.supply(tmp_path, "BAT0", energy_now=24_000_000)  # 12 W for half an hour
    clock.advance(1800)
    with pytest.raises(SensorBreakError, match="nothing was read"):  # not the gauge's fault
        sensor.read()


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENODEV, errno.ENOENT, "n/a"])
def test_a_battery_pulled_out_is_a_gap(tmp_path: Path, fault: int | str) -> None:
    clock, reader = trees.Clock(), trees.Reader()
    boards.energy_battery(tmp_path)
    sensor = only(find(tmp_path, clock, reader))
    for file in ("power_now", "status"):
        reader.faults = {f"BAT0/{file}": fault}
        with pytest.raises(SensorGapError):
            sensor.read()


# -- capacity


def test_capacity_is_the_worn_one_and_the_one_it_was_made_for(tmp_path: Path) -> None:
    boards.energy_battery(tmp_path)
    assert capacity(tmp_path) == Battery(
        id="BAT0", full_wh=48.0, design_wh=57.0, status="Discharging"
    )


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging"])
def test_capacity_is_told_on_mains_too(tmp_path: Path, status: str) -> None:
    boards.energy_battery(tmp_path, status=status)
    found = capacity(tmp_path)
    assert found is not None
    assert (found.full_wh, found.status) == (48.0, status)


def test_ampere_hours_are_watt_hours_at_the_design_voltage(tmp_path: Path) -> None:
    boards.charge_battery(tmp_path)
    found = capacity(tmp_path)
    assert found is not None
    assert (found.full_wh, found.design_wh) == (pytest.approx(48.0), pytest.approx(60.0))
    boards.charge_battery(tmp_path, "BAT0", voltage_min_design=0)
    found = capacity(tmp_path)
    assert found is not None
    assert found.full_wh == pytest.approx(44.0)


def test_capacities_add_and_one_unknown_leaves_the_sum_unknown(tmp_path: Path) -> None:
    boards.energy_battery(tmp_path, "BAT0")
    boards.charge_battery(tmp_path, "BAT1", charge_full_design=None, status="Full")
    found = capacity(tmp_path)
    assert found is not None
    assert (found.id, found.status) == ("BAT0+BAT1", "Discharging")
    assert found.full_wh == pytest.approx(96.0)
    assert found.design_wh is None


@FAST
@given(
    values=st.dictionaries(
        st.sampled_from(
            ["status", "power_now", "current_now", "voltage_now", "energy_now", "energy_full",
             "charge_full", "present", "online", "type", "scope"]
        ),
        st.one_of(st.integers().map(str), st.text(max_size=20),
                  st.sampled_from([errno.EACCES, errno.EIO, errno.ENODEV])),
    )
)  # fmt: skip
def test_whatever_the_files_hold_is_a_sensor_or_a_reason(
    tmp_path: Path, values: dict[str, int | str]
) -> None:
    reader = trees.Reader()
    boards.laptop_on_battery(tmp_path)
    boards.charge_battery(tmp_path, "BAT1")
    reader.faults.update({f"/{file}": value for file, value in values.items()})
    found = find(tmp_path, reader=reader)
    assert bool(found.sensors) != bool(found.refusals)
    whole = battery.capacity(Tree(tmp_path, reader))
    assert whole is None or whole.full_wh is None or 0.5 <= whole.full_wh <= 4000
