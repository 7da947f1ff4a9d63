"""Android's `dumpsys thermalservice`, made-up devices in the format of AOSP's service."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.profiler.thermalservice import PhoneHeat, parse_thermalservice

PHONE = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
\tkilled: false
ThermalStatusListeners:
\tcallbacks: 1
Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=30.0, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL AIDL 3 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=71.5, mType=0, mName=BIG, mStatus=0}
\tTemperature{mValue=44.25, mType=3, mName=VIRTUAL-SKIN, mStatus=2}
\tTemperature{mValue=1900.0, mType=7, mName=ibat, mStatus=0}
\tTemperature{mValue=0.0, mType=1, mName=G3D, mStatus=0}
\tTemperature{mValue=3276.7, mType=1, mName=GPU1, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
\tCoolingDevice{mValue=4, mType=2, mName=thermal-cpufreq-2}
Temperature static thresholds from HAL:
\tTemperatureThreshold{mType=3, mName=VIRTUAL-SKIN, mHotThrottlingThresholds=[NaN, 39.0, 43.0, \
45.0, 47.0, 52.0, 55.0], mColdThrottlingThresholds=[NaN, NaN, NaN, NaN, NaN, NaN, NaN]}
\tTemperatureThreshold{mType=0, mName=BIG, mHotThrottlingThresholds=[NaN, NaN, NaN, NaN, NaN, NaN, \
115.0], mColdThrottlingThresholds=[NaN, NaN, NaN, NaN, NaN, NaN, NaN]}
"""


def test_a_phones_sensors_are_those_it_has_now() -> None:
    found = parse_thermalservice(PHONE)
    assert found.severity == 2
    assert [(s.name, s.kind, s.celsius, s.severity, s.light_celsius) for s in found.sensors] == [
        ("BIG", "CPU", 71.5, 0, None),
        ("VIRTUAL-SKIN", "skin", 44.25, 2, 39.0),
    ]
    assert found.coolers_at_work == ("thermal-cpufreq-2",)
    assert found.evidence == (
        "Android's thermal status is 2 (moderate)", "at work to cool: thermal-cpufreq-2",
    )  # fmt: skip


def test_cached_temperatures_stand_in_where_there_are_no_others() -> None:
    found = parse_thermalservice(PHONE.partition("HAL Ready")[0])
    assert [(s.name, s.celsius) for s in found.sensors] == [("VIRTUAL-SKIN", 30.0)]


def test_lines_of_windows_are_lines() -> None:
    assert parse_thermalservice(PHONE.replace("\n", "\r\n")).severity == 2


def test_no_status_is_not_a_good_status() -> None:
    silent = parse_thermalservice("Can't find service: thermalservice\n")
    assert silent == PhoneHeat(severity=None, sensors=(), coolers_at_work=())
    assert parse_thermalservice("Thermal Status: 9\n").severity is None
    cool = parse_thermalservice("Thermal Status: 0\n")
    assert cool.severity == 0
    assert cool.evidence == ()


@given(st.text(alphabet="Temprau{}mValue=,.-0123456789NS \n[]", max_size=300))
def test_no_text_breaks_it(text: str) -> None:
    for sensor in parse_thermalservice(f"Temperature{{mValue={text}" + text).sensors:
        assert -30 < sensor.celsius <= 150
