"""Tokens for a watt-hour, the battery's share, hours of chat: as worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edge_runtime.basis import Basis, Unavailable
from edge_runtime.codec import to_jsonable
from edge_runtime.energy import Battery, Scope
from edge_runtime.energy_use import EnergyUse, Scenario, energy_report, energy_uses
from edge_runtime.measurement import Measurement, decode_workload, prefill_workload
from edge_runtime.statistics import Interval
from tests.energy_records import S, power, recorded, run, sensor, series
from tests.records import measurement, tg_run

BATTERY = Battery(id="BAT0", full_wh=15.0, design_wh=20.0, status="Discharging")
DEVICE = replace(
    recorded(series(power, until_s=40, info=sensor("battery:BAT0", scope=Scope.DEVICE))),
    battery=BATTERY,
)
"""0.24 J for a prompt token at 50 tok/s, 0.7 J for a generated one at 10 tok/s; 2 W idle."""


def only(*measurements: Measurement, **changes: object) -> EnergyUse:
    found = energy_uses(measurements, **changes)  # type: ignore[arg-type]
    assert len(found) == 1
    return found[0]


def value(figure: object) -> float:
    assert isinstance(figure, Interval), figure
    return figure.value


def test_the_battery_share_uses_the_capacity_as_it_is_today() -> None:
    use = only(DEVICE)
    assert value(use.tokens_per_wh) == pytest.approx(3600 / 0.7)
    assert value(use.battery_percent) == pytest.approx(100 * 1000 * 0.7 / (3600 * 15))
    assert use.battery_wh == 15.0
    assert not use.partial
    assert value(only(DEVICE, battery_wh=30.0).battery_percent) == pytest.approx(0.6481, abs=1e-4)


def test_the_published_example_of_a_phone_comes_out() -> None:
    # 2.6 J/token on 15 Wh: 1,385 tokens/Wh and 4.8 % for 1000 tokens.
    def watts(t: float) -> float:
        return 26.0 if 10 <= t < 20 else 2.0

    one = recorded(
        series(watts, until_s=40, info=sensor("b", scope=Scope.DEVICE)),
        runs=(run(10, 0, 10, prompt=0, steps=100),),
    )
    use = only(replace(one, battery=BATTERY))
    assert value(use.tokens_per_wh) == pytest.approx(1385, abs=0.5)
    assert value(use.battery_percent) == pytest.approx(4.8, abs=0.02)


def test_hours_of_chat_are_those_of_the_scenario_beside_idle_hours() -> None:
    use = only(DEVICE, scenario=Scenario(prompt_tokens=300, generate_tokens=200, cycle_s=60))
    chat = use.chat
    assert not isinstance(chat, Unavailable)
    assert chat.turn_s == pytest.approx(300 / 50 + 200 / 10)
    assert chat.turn_j.value == pytest.approx(300 * 0.24 + 200 * 0.7)
    assert chat.mean_w.value == pytest.approx((212 + 2 * (60 - 26)) / 60)
    assert chat.chatting_h.value == pytest.approx(15 / chat.mean_w.value)
    assert chat.idle_h.value == pytest.approx(7.5)
    assert chat.chatting_h.low < chat.chatting_h.value < chat.chatting_h.high
    assert chat.unhurried


def test_a_turn_that_takes_longer_than_its_cycle_follows_at_once() -> None:
    use = only(DEVICE, scenario=Scenario(prompt_tokens=0, generate_tokens=1000, cycle_s=60))
    chat = use.chat
    assert not isinstance(chat, Unavailable)
    assert not chat.unhurried
    assert chat.mean_w.value == pytest.approx(7.0)


def test_prefill_and_decode_of_two_measurements_belong_together() -> None:
    split = (
        replace(
            DEVICE, workload=prefill_workload(100), runs=(run(12, 2, 0, prompt=100, steps=0),),
            requested=replace(DEVICE.options, context_tokens=None),
        ),
        replace(
            DEVICE, workload=decode_workload(40), runs=(run(14, 0, 4, prompt=0, steps=40),),
            options=replace(DEVICE.options, context_tokens=40), requested=None,
        ),
    )  # fmt: skip
    use = only(*split)
    assert value(use.prompt_j_per_token) == pytest.approx(0.24)
    assert value(use.generated_j_per_token) == pytest.approx(0.7)
    assert not isinstance(use.chat, Unavailable)
    # Not of another machine, file or number of threads.
    for change in (
        {"host": replace(DEVICE.host, cpu="Other CPU")},
        {"artifact": replace(DEVICE.artifact, fingerprint="1" * 16)},
        {"options": replace(DEVICE.options, threads=1)},
    ):
        assert len(energy_uses((split[0], replace(split[1], **change)))) == 2  # type: ignore[arg-type]


def test_figures_of_different_sensors_are_never_added() -> None:
    chip = replace(recorded(), workload=prefill_workload(100),
                   runs=(run(12, 2, 0, prompt=100, steps=0),))  # fmt: skip
    device = replace(DEVICE, runs=(run(14, 0, 4, prompt=0, steps=40),))
    use = only(chip, device)
    assert value(use.generated_j_per_token) == pytest.approx(0.7)
    assert isinstance(use.prompt_j_per_token, Unavailable)
    assert isinstance(use.chat, Unavailable)


def test_a_sensor_of_the_chip_gives_bounds() -> None:
    use = only(replace(recorded(), battery=BATTERY))
    assert use.partial
    assert use.scope is Scope.CHIP
    assert value(use.battery_percent) == pytest.approx(1.296, abs=1e-3)
    # The screen and the radio are not in it: hours would be far too many.
    assert isinstance(use.chat, Unavailable)
    assert use.chat.reason == "the sensor does not see the whole device"


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (replace(DEVICE, battery=None), "no battery capacity is known"),
        (replace(DEVICE, battery=replace(BATTERY, full_wh=None)), "no battery capacity is known"),
        *(
            (replace(DEVICE, battery=replace(BATTERY, full_wh=wh)), "no battery capacity is known")
            for wh in (0.0, -15.0, 1e-308)
        ),
        (replace(DEVICE, timeline=None), "no idle window was measured"),
        (
            replace(DEVICE, runs=(run(14, 0, 4, prompt=0, steps=40),)),
            "no prompt was measured",
        ),
        (measurement((tg_run(5, S),)), "no sensor"),
    ],
)
def test_hours_that_cannot_be_told_say_why(one: Measurement, reason: str) -> None:
    chat = only(one).chat
    assert isinstance(chat, Unavailable)
    assert chat.reason == reason


def test_an_estimate_has_a_band_and_no_hours() -> None:
    use = only(replace(measurement((tg_run(50, S // 10),)), stated_power_w=8.0, battery=BATTERY))
    assert use.basis is Basis.ESTIMATED
    assert value(use.generated_j_per_token) == pytest.approx(0.8)
    assert isinstance(use.chat, Unavailable)


def test_the_report_has_a_json_form_with_units_in_its_names() -> None:
    report = energy_report((DEVICE, recorded()), Scenario(), tool_version="1")
    document = json.loads(json.dumps(to_jsonable(report), allow_nan=False))
    assert document["schema"] == 1
    assert document["scenario"] == {"prompt_tokens": 300, "generate_tokens": 200, "cycle_s": 60.0}
    decode = document["records"][0]["consumption"]["decode"]
    assert decode["gross_j"] == pytest.approx(56)
    assert decode["net_j"] == pytest.approx(40)
    assert document["records"][0]["consumption"]["scope"] == "device"
    # The same file under the same options on the same machine: one model.
    assert len(document["models"]) == 1
