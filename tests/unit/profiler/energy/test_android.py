"""A phone's texts about energy: rails in their unit, batteries that lie, made-up states."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.basis import Unavailable
from edge_runtime.profiler.energy import android

BEGIN = "============= PowerStats HAL 2.0 energy meter =============="
END = "========== End of PowerStats HAL 2.0 energy meter =========="


def odpm_print(rails: dict[str, int], *, delta: bool = False) -> str:
    """As AOSP prints it: microwatt-seconds through a 32-bit float to milliwatt-seconds."""
    lines = ["", BEGIN]
    if delta:
        lines.append("Elapsed time: 5012 ms")
    lines.append(f"  {'Channel':>32}   {'Cumulative Energy':>18}")
    for name, uws in rails.items():
        printed = struct.unpack("f", struct.pack("f", uws))[0] / 1000.0
        more = " (          1.25)" if delta else ""
        lines.append(f"  {name:>32}   {printed:14.2f} mWs{more}")
    return "\n".join([*lines, END, ""])


CONSUMERS = """
============= PowerStats HAL 2.0 energy consumers ==============
Display      :       99999.00 mWs
       10123 -        1234.00 mWs
========== End of PowerStats HAL 2.0 energy consumers ==========
"""


def phone_print(**changed: object) -> str:
    fields: dict[str, object] = {
        "AC powered": "false",
        "USB powered": "false",
        "Wireless powered": "false",
        "Max charging current": 0,
        "Charge counter": 3_000_000,
        "status": 3,
        "health": 2,
        "present": "true",
        "level": 75,
        "scale": 100,
        "voltage": 4000,
        "temperature": 305,
        "technology": "Li-ion",
    }
    fields.update({name.replace("_", " "): value for name, value in changed.items()})
    lines = [f"  {name}: {value}" for name, value in fields.items()]
    return "\n".join(["Current Battery Service state:", *lines])


def phone(**changed: object) -> android.PhoneBattery:
    read = android.phone_battery(phone_print(**changed))
    assert isinstance(read, android.PhoneBattery)
    return read


def power(current_now: int, **changed: object) -> android.PhonePower | Unavailable:
    return android.phone_power(phone(**changed), android.PhoneGauge(current_now=current_now))


def reason(answer: object) -> str:
    assert isinstance(answer, Unavailable), answer
    assert answer.remedy
    return answer.reason


# -- rails


@pytest.mark.parametrize("delta", [False, True])
def test_rails_are_joules_since_boot(delta: bool) -> None:
    text = odpm_print({"[S2M_VDD_CPUCL2]:CPU(BIG)": 12_345_670, "[S1S]:MIF": 0}, delta=delta)
    rails = android.odpm_rails(CONSUMERS + text)
    assert isinstance(rails, tuple)
    assert [rail.joules for rail in rails] == pytest.approx([12.34567, 0.0])
    assert rails[0].name.startswith("[S2M_VDD_CPUCL2]:CPU")


def test_the_first_version_prints_subsystem_and_rail() -> None:
    text = (
        "============= PowerStats HAL 1.0 rail energy data ==============\n"
        "          Subsys                 Rail    Cumulative Energy\n"
        "             cpu         S4M_VDD_CPU          1500.00 mWs\n"
        "========== End of PowerStats HAL 1.0 rail energy data ==========\n"
    )
    rails = android.odpm_rails(text)
    assert isinstance(rails, tuple)
    assert (rails[0].name, rails[0].joules) == ("cpu S4M_VDD_CPU", pytest.approx(1.5))


@pytest.mark.parametrize("uws", [5_000, 1_000_000_000, 123_456_789_012, 10**12 + 7])
def test_the_step_is_that_of_the_float_it_was_printed_from(uws: int) -> None:
    rails = android.odpm_rails(odpm_print({"rail": uws}))
    assert isinstance(rails, tuple)
    (rail,) = rails
    assert rail.joules == pytest.approx(uws * 1e-6, abs=rail.step_j)
    # The next float after it, told by the machine's own floats.
    bits = struct.unpack("I", struct.pack("f", uws))[0]
    above = struct.unpack("f", struct.pack("I", bits + 1))[0]
    here = struct.unpack("f", struct.pack("f", uws))[0]
    assert rail.step_j == pytest.approx(max(1e-5, (above - here) * 1e-6))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CONSUMERS, "no energy meter"),
        ("", "no energy meter"),
        (odpm_print({"a": 1000}).replace(END, ""), "cut off"),
        (odpm_print({}), "no rails"),
        (odpm_print({"a": 1000}).replace("mWs", "kWh"), "is no rail"),
        (odpm_print({"a": -1000}), "is no rail"),
        (odpm_print({"a": 1000}).replace("1.00 mWs", "nan mWs"), "is no rail"),
        (odpm_print({f"r{n}": n for n in range(600)}), "more than 512"),
        ("x" * (9 * 1024 * 1024), "no print of rails"),
    ],
)
def test_a_print_that_cannot_be_believed_has_a_reason(text: str, said: str) -> None:
    assert said in reason(android.odpm_rails(text))


def test_a_rail_told_twice_is_no_rail() -> None:
    line = "   a   1.00 mWs\n"
    assert "twice" in reason(android.odpm_rails(f"{BEGIN}\n{line}{line}{END}"))


# -- dumpsys battery


def test_what_the_battery_service_says() -> None:
    read = phone()
    assert (read.status, read.powered_by, read.faked) == ("Discharging", (), False)
    assert (read.level, read.volts, read.celsius) == (0.75, 4.0, 30.5)
    assert read.charge_uah == 3_000_000
    assert android.not_on_battery(read) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"USB_powered": "true"}, "usb is connected"),
        ({"status": 2}, "the battery is Charging"),
        ({"status": 5}, "the battery is Full"),
        ({"status": "?"}, "the battery is Unknown"),
    ],
)
def test_on_a_cable_it_tells_nothing(changed: dict[str, object], said: str) -> None:
    why = android.not_on_battery(phone(**changed))
    assert said in reason(why)
    assert said in reason(power(-500_000, **changed))


def test_a_state_that_was_made_up_is_not_believed() -> None:
    text = phone_print().replace("state:", "state:\n  (UPDATES STOPPED -- use 'reset' to restart)")
    read = android.phone_battery(text)
    assert isinstance(read, android.PhoneBattery)
    assert "made up" in reason(android.not_on_battery(read))


def test_a_voltage_in_microvolts_is_told_apart_and_others_are_unknown() -> None:
    assert phone(voltage=4_000_000).volts == 4.0
    assert "microvolts" in phone(voltage=4_000_000).notes[0]
    assert phone(voltage=4).volts is None
    assert phone(voltage="nan").volts is None


def test_other_texts_are_no_battery() -> None:
    assert "no print of dumpsys battery" in reason(android.phone_battery("level: 50"))


def test_of_a_field_told_twice_the_first_counts() -> None:
    read = android.phone_battery(phone_print() + "\n  level: 3")
    assert isinstance(read, android.PhoneBattery)
    assert read.level == 0.75


# -- power


@pytest.mark.parametrize("current_now", [-750_000, 750_000])
def test_the_sign_is_the_vendors_affair(current_now: int) -> None:
    found = power(current_now)
    assert isinstance(found, android.PhonePower)
    assert found.watts == pytest.approx(3.0)
    assert ("inverts the sign" in " ".join(found.notes)) == (current_now > 0)


@pytest.mark.parametrize("current_now", [-750, 750])
def test_milliamperes_for_microamperes_show_against_the_capacity(current_now: int) -> None:
    # 3 Ah left at 75 % is 4 Ah, at 4 V 16 Wh; 3 mW would empty it in seven months.
    found = power(current_now)
    assert isinstance(found, android.PhonePower)
    assert found.watts == pytest.approx(3.0)
    assert "taken for thousandths" in " ".join(found.notes)


def test_a_unit_is_not_guessed_without_a_capacity() -> None:
    assert "no capacity" in reason(power(-750, Charge_counter=0))
    found = android.phone_power(
        phone(Charge_counter=0), android.PhoneGauge(current_now=-750), full_wh=16.0
    )
    assert isinstance(found, android.PhonePower)
    assert found.watts == pytest.approx(3.0)


def test_no_current_and_no_voltage_are_no_power() -> None:
    assert "reads 0 while discharging" in reason(power(0))
    assert "no current" in reason(
        android.phone_power(phone(), android.PhoneGauge(charge_counter=1))
    )
    assert "no voltage" in reason(power(-750_000, voltage=0))


def test_properties_are_read_and_unsupported_ones_left_out() -> None:
    text = (
        "BATTERY_PROPERTY_CURRENT_NOW=-350000\ncurrent_average: -2147483648\n"
        "charge_counter = 2900000 [uAh]\nenergy_counter=-9223372036854775808\n"
    )
    assert android.phone_gauge(text) == android.PhoneGauge(
        current_now=-350_000, charge_counter=2_900_000
    )


@pytest.mark.parametrize("text", ["", "current_now=-2147483648", "current_now=" + "9" * 20])
def test_a_phone_without_properties_has_a_reason(text: str) -> None:
    assert "no property" in reason(android.phone_gauge(text))


WORDS = st.lists(
    st.one_of(
        st.sampled_from([BEGIN, END, "Current Battery Service state:", "  level: 5", "status: 3",
                         "current_now: 5", "  rail    12.00 mWs", "voltage: 4000"]),
        st.text(max_size=40),
    ),
    max_size=12,
).map("\n".join)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(WORDS)
def test_any_text_is_an_answer_or_a_reason(text: str) -> None:
    for parse in (android.odpm_rails, android.phone_battery, android.phone_gauge):
        answer = parse(text)
        assert not isinstance(answer, Unavailable) or answer.reason
