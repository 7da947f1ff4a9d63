"""`edge cost` as a user types it: the published accounts, records, batteries, and bad numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.basis import Unavailable
from edge_runtime.cli.cost import cost
from edge_runtime.energy import Scope
from edge_runtime.errors import UsageError
from edge_runtime.measurement import Measurement
from tests.energy_records import power, recorded, sensor, series

Edge = Callable[..., tuple[int, str, str]]

DEVICE = recorded(series(power, until_s=40, info=sensor("battery:BAT0", scope=Scope.DEVICE)))
"""0.24 J for a prompt token at 50 tok/s, 0.7 J for a generated one at 10 tok/s; 2 W idle."""
NO_ENERGY = replace(
    DEVICE, energy=Unavailable(reason="no powercap: virtual machine", remedy="Use the machine.")
)

PHONE = """
id = "some-phone"
name = "Some Phone"
maker = "Somebody"
class = "mobile"
soc = "SoC"
os = ["Android"]
as_of = "2026-11-22"

[cpu]
clusters = [ { name = "Core", count = 4, max = "2 GHz" } ]
isa = ["neon"]
source = "spec"

[power]
battery = { value = "18 Wh", kind = "stated", source = "spec" }

[sources]
spec = "https://example.org/phone"
"""


def saved(path: Path, *records: Measurement) -> Path:
    path.write_text("".join(json.dumps(r.to_json()) + "\n" for r in records), "utf-8")
    return path


def told(edge: Edge, *arguments: object) -> dict[str, object]:
    code, out, err = edge("cost", *arguments, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert isinstance(document, dict)
    return document


def line(out: str, label: str) -> str:
    """The line of that label, with the next one where its words go on."""
    found = re.search(rf"^ +{re.escape(label)}(?=\s).*(?:\n {{26}}\S.*)*", out, re.M)
    assert found, out
    return " ".join(found[0].split())


def test_the_account_of_a_405b_service(edge: Edge) -> None:
    code, out, err = edge(
        "cost", "--gpu-tokens-per-s", 30, "--batch", 10, "--gpus", 8, "--gpu-price", 3.49,
        "--api-price-in", 2.8, "--api-price-out", 2.8, "--ratio", "10:1",
    )  # fmt: skip
    assert code == 0, err
    assert "285,120,000" in line(out, "with their prompts")
    assert "798.34" in line(out, "API, all the GPU can do")
    assert "670.08" in line(out, "rented around the clock")


def test_the_account_of_eight_experts_is_a_bound_until_a_utilization_is_stated(edge: Edge) -> None:
    said = ("cost", "--parameters", "8x222e9", "--flops", "312 TFLOP/s", "--gpu-price", 2.2659)
    code, out, err = edge(*said)
    assert code == 0, err
    assert "at least 0.00717" in line(out, "for 1,000 of them")
    assert "assumed" in line(out, "for 1,000 of them")
    assert "--utilization 0.4" in out
    _, out, _ = edge(*said, "--utilization", 1)
    assert line(out, "for 1,000 of them").startswith("for 1,000 of them 0.00717")


def test_the_account_of_an_a10(edge: Edge) -> None:
    code, out, err = edge("cost", "--gpu-price", 0.6, "--gpu-tokens-per-s", 2500)
    assert code == 0, err
    assert "0.0667" in line(out, "rented GPU, always busy")
    assert "5,256" in line(out, "for a year")


def test_a_saved_measurement_costs_what_was_measured(edge: Edge, tmp_path: Path) -> None:
    runs = saved(tmp_path / "runs.jsonl", DEVICE)
    code, out, err = edge("cost", runs, "--kwh-price", 0.36, "--currency", "EUR", "--explain")
    assert code == 0, err
    assert "EUR per million generated tokens" in out
    assert line(out, "electricity") == "electricity 0.0700 derived: measured, stated"
    assert "measured (sensor battery:BAT0, device)" in line(out, "energy")
    assert "1e6 x J/token / 3.6e6 J/kWh" in out
    assert "unavailable (no price of the device is stated). State it: --hardware-price" in out


def test_missing_energy_is_unavailable_with_its_remedy_and_never_zero(
    edge: Edge, tmp_path: Path
) -> None:
    runs = saved(tmp_path / "runs.jsonl", NO_ENERGY)
    code, out, err = edge("cost", runs, "--kwh-price", 0.3, "--battery", "15Wh")
    assert code == 0, err
    assert "unavailable (no powercap: virtual machine)" in line(out, "energy")
    assert "--watts" in line(out, "energy")
    assert "unavailable" in line(out, "electricity")
    assert not re.search(r"(?<![\d.])0(?:\.0*)?(?![\d.])", out)
    document = told(edge, runs, "--kwh-price", 0.3)
    (device,) = document["devices"]  # type: ignore[misc]
    assert device["electricity"]["reason"] == "no powercap: virtual machine"


def test_every_model_of_the_files_stands_below_its_name(edge: Edge, tmp_path: Path) -> None:
    other = replace(DEVICE, artifact=replace(DEVICE.artifact, fingerprint="x", level="Q8_0"))
    one, two = saved(tmp_path / "a.jsonl", DEVICE), saved(tmp_path / "b.jsonl", other)
    code, out, err = edge("cost", one, two, "--kwh-price", 0.36)
    assert code == 0, err
    assert out.count("electricity") == 2
    assert re.findall(r"^  tiny (\w+)$", out, re.M)[:2] == ["Q4_K_M", "Q8_0"]


def test_a_strangers_name_moves_no_cursor(edge: Edge, tmp_path: Path) -> None:
    artifact = replace(DEVICE.artifact, name="\x1b[2Jevil[bold]")
    runs = saved(tmp_path / "runs.jsonl", replace(DEVICE, artifact=artifact))
    code, out, err = edge("cost", runs, "--kwh-price", 0.36)
    assert code == 0, err
    assert "\x1b" not in out
    assert "evil[bold]" in out


def test_the_battery_of_a_device_that_is_known(edge: Edge, tmp_path: Path) -> None:
    phone = tmp_path / "some-phone.toml"
    phone.write_text(PHONE, "utf-8")
    code, out, err = edge("cost", "--j-per-token", 0.18, "--tokens-per-s", 10, "--device", phone)
    assert code == 0, err
    assert "18.00 Wh stated (profile of Some Phone)" in line(out, "a full one holds")
    # 180 of 64,800 J; 1.8 W for 10 h.
    assert "0.278 %" in line(out, "1,000 generated tokens")
    assert "10.00 h" in line(out, "generating nonstop")
    phone.write_text(
        PHONE.replace('battery = { value = "18 Wh", kind', 'tdp = { value = "5 W", kind')
    )
    code, _, err = edge("cost", "--watts", 5, "--device", phone)
    assert code == 2
    assert "no battery of Some Phone is known." in err
    assert "--battery" in err


def test_a_model_costs_what_it_is_projected_to_do_on_a_device_nobody_ran_it_on(
    edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CONFIG_DIR", str(tmp_path))
    said = ("--model", "qwen2.5-1.5b", "--device", "pixel-9-pro", "--watts", 5, "--kwh-price", 0.36)
    (device,) = told(edge, *said)["devices"]  # type: ignore[misc]
    rate, joules = device["tokens_per_s"], device["j_per_token"]
    assert rate["basis"] == "projected"
    assert "80% interval" in rate["rests_on"][0]["source"]
    assert rate["low"] < rate["value"] < rate["high"]
    assert joules["high"] == pytest.approx(5 / rate["low"])
    assert device["electricity"]["value"] == pytest.approx(0.1 * joules["value"])
    assert device["battery"]["percent"]["low"] > 0
    code, out, err = edge("cost", *said)
    assert code == 0, err
    assert "qwen2.5-1.5b Q4_K_M on pixel-9-pro" in out
    assert "projected" in line(out, "rate")


def test_a_model_that_does_not_fit_a_card_without_a_battery_has_a_cost_and_a_caution(
    edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CONFIG_DIR", str(tmp_path))
    said = ("--model", "qwen2.5-7b", "--level", "F16", "--device", "rtx3060-12gb", "--watts", 170)
    code, out, err = edge("cost", *said)
    assert code == 0, err
    assert out.startswith("It does not run there: "), "before all costs"
    assert line(out, "1,000 generated tokens").endswith('State it: --battery "15 Wh"')


def test_the_json_form_names_units_currency_and_grounds(edge: Edge) -> None:
    document = told(edge, "--watts", 5, "--tokens-per-s", 10, "--kwh-price", 0.36)
    assert document["schema"] == 1
    assert document["currency"] == "USD"
    (device,) = document["devices"]  # type: ignore[misc]
    assert device["electricity"]["value"] == pytest.approx(0.05)
    assert device["electricity"]["unit"] == "USD per million generated tokens"
    assert [g["name"] for g in device["electricity"]["rests_on"]] == [
        "power", "rate", "price of a kWh",
    ]  # fmt: skip
    assert device["hardware"]["remedy"].startswith("State it: --hardware-price")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "Nothing is stated that has a cost."),
        ({"ratio": "10:1"}, "Nothing is stated that has a cost."),
        ({"watts": -5.0}, "--watts: -5 W makes no sense."),
        ({"watts": math.nan}, "--watts: nan W makes no sense."),
        ({"tokens_per_s": math.inf}, "--tokens-per-s: inf tokens/s makes no sense."),
        ({"kwh_price": 0.0}, "Leave out what costs nothing."),
        ({"api_price_out": 1e300}, "--api-price-out: 1e+300 makes no sense."),
        ({"hours_per_day": 25.0}, "between 0.01 and 24 hours"),
        ({"parameters": "8x"}, "--parameters: '8x' is not a number."),
        ({"parameters": "-8B"}, "--parameters: '-8B' is not a number."),
        ({"parameters": "9" * 400}, "is not a number."),
        ({"parameters": "1e99", "flops": "1T"}, "--parameters: 1e+99 parameters makes no sense."),
        ({"flops": "312 W"}, "--flops: '312 W' is no rate of computing."),
        ({"utilization": 40.0, "flops": "1T"}, "0.4 is 40 %"),
        ({"utilization": 0.4}, "--utilization is a share of --flops."),
        ({"battery": "4700 mAh"}, "is a charge, not an energy"),
        ({"battery": "15"}, "--battery: '15' is no energy."),
        ({"battery": "0Wh"}, "--battery: 0 Wh makes no sense."),
        ({"battery": "15Wh", "device": "x"}, "state one of them"),
        ({"device": "no-such-device"}, "'no-such-device'"),
        ({"reading": "skimming"}, "--reading: There is no reading preset 'skimming'."),
        ({"ratio": "1:0"}, "--ratio: '1:0' is none."),
        ({"ratio": "1:2:3"}, "--ratio: '1:2:3' is none."),
        ({"model": "qwen2.5-1.5b"}, "--model needs the device it is for."),
        (
            {"model": "llama-3.2-3b", "device": "iphone-15-pro", "tokens_per_s": 62.0},
            "physically impossible",
        ),
        ({"currency": "[red]"}, "--currency: '[red]' is no name of one."),
        ({"watts": 5.0, "j_per_token": 1.0}, "state one of them"),
        (
            {"gpu_tokens_per_s": 1e6, "parameters": "8B", "flops": "312T"},
            "physically impossible",
        ),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_is_one_clear_sentence(
    said: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as refused:
        cost(**said)  # type: ignore[arg-type]
    assert words in str(refused.value)
    assert capsys.readouterr() == ("", "")


def test_a_wrong_number_ends_as_wrong_usage(edge: Edge) -> None:
    code, out, err = edge("cost", "--watts", "nan")
    assert (code, out) == (2, "")
    assert err.startswith("edge: --watts: nan W makes no sense.\n")


def test_a_file_that_is_no_record_is_refused(edge: Edge, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}\n", "utf-8")
    (tmp_path / "empty.jsonl").write_text("", "utf-8")
    for name in ("x.jsonl", "empty.jsonl", "missing.jsonl"):
        code, out, err = edge("cost", tmp_path / name)
        assert (code, out) == (4, "")
        assert name in err
