"""Energy in words and columns: every figure with its uncertainty and source, and never a zero."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from dataclasses import replace

import pytest
from rich.console import Console

from edge_runtime.basis import Unavailable
from edge_runtime.energy import Energy, Scope
from edge_runtime.energy_use import Scenario, energy_report
from edge_runtime.feasibility import Row, RowEnergy, with_energy
from edge_runtime.measurement import Measurement
from edge_runtime.report.check import render_check
from edge_runtime.report.energy import energy_words, render_energy
from edge_runtime.report.records import FORMATS, record_writer
from edge_runtime.report.rows import row
from edge_runtime.verdict import Target
from tests.energy_records import (
    NO_GROSS,
    NO_NET,
    SILENT,
    S,
    power,
    recorded,
    run,
    sensor,
    series,
    window,
)
from tests.records import measurement, tg_run
from tests.unit.test_check_report import evidence, report, rows


def battery(t: float) -> float:
    return 26.0 if 100 <= t < 280 else 7.0


LAPTOP = recorded(
    series(
        battery, until_s=400, period_s=1.0,
        info=sensor(
            "battery:BAT0", source="battery BAT0", scope=Scope.DEVICE, method="power", poll_s=1.0,
            update_s=2.0, step=0.5, window_s=100,
        ),
    ),
    runs=(run(100, 0, 180, prompt=0, steps=1800),),
    windows=(window("idle_a", 0, 100), window("idle_b", 280, 400)),
)  # fmt: skip


def written(form: str, *records: Measurement, side_by_side: bool = False) -> str:
    stream = io.StringIO()
    writer = record_writer(form, stream, side_by_side=side_by_side)
    for record in records:
        writer.write(record)
    writer.close()
    return stream.getvalue()


def test_a_figure_stands_with_net_gross_error_source_scope_and_window() -> None:
    assert energy_words(LAPTOP) == (
        "1.90 J/token net, 2.60 gross ± 0.04 (measured: battery BAT0, whole device, 180 s)"
    )


def test_what_is_not_known_is_said_in_its_place() -> None:
    assert energy_words(measurement((tg_run(3, S),))) == "unavailable (no sensor)"
    words = energy_words(NO_NET["no idle window"][0])
    assert "0.700 J/token gross ± 0.001, 0.240 J/prompt token gross ± " in words
    # One reason for both phases is said once.
    assert words.count("net withheld: no idle window was measured") == 1
    assert energy_words(NO_GROSS["never advanced"][0]).startswith(
        "unavailable (rapl:package-0: the sensor did not advance"
    )


def test_where_the_widest_sensor_is_too_slow_the_others_are_told_beside_the_reason() -> None:
    slow = replace(LAPTOP.energy.series[0].sensor, window_s=200.0)  # type: ignore[union-attr]
    both = recorded(
        series(power, until_s=40, info=slow), series(power, until_s=40), headline=(slow.id,)
    )
    words = energy_words(both)
    assert words.startswith("unavailable (battery:BAT0: below sensor resolution: 8.00 s is shorter")
    assert words.endswith(
        "rapl:package-0 alone 0.700 J/token gross (chip);"
        " rapl:package-0 alone 0.240 J/prompt token gross (chip)"
    )
    assert row(both)["j_per_token_gross"] is None


def test_an_estimate_prints_its_formula_and_its_band() -> None:
    assert energy_words(SILENT) == (
        "0.80 J/token gross (0.40 to 1.2), net withheld: an estimate knows no idle level (estimated"
        " by 8 W / (10 tok/s), ± 50% at best: 8 W as stated, whole device, 5 s)"
    )


def test_a_flat_row_names_units_and_leaves_empty_what_is_unknown() -> None:
    found = row(recorded())
    assert found["energy_joules"] == pytest.approx(104)
    assert found["energy_j_decode_gross"] == pytest.approx(56)
    assert found["energy_j_decode_net"] == pytest.approx(40)
    assert found["energy_j_prefill_gross"] == pytest.approx(48)
    assert found["j_per_token_gross"] == pytest.approx(0.7)
    assert found["j_per_token_gross_low"] < 0.7 < found["j_per_token_gross_high"]  # type: ignore[operator]
    assert found["j_per_token_net"] == pytest.approx(0.5)
    assert found["j_per_prompt_token_gross"] == pytest.approx(0.24)
    assert found["idle_w"] == pytest.approx(2)
    assert found["tokens_per_wh"] == pytest.approx(3600 / 0.7)
    assert found["energy_window_s_decode"] == pytest.approx(8)
    assert (found["energy_basis"], found["energy_scope"]) == ("MEASURED", "chip")
    assert found["energy_source"] == "sensor rapl:package-0"
    assert found["energy_reason"] is found["energy_net_reason"] is None
    none = row(measurement((tg_run(3, S),)))
    assert none["energy_source"] == "unavailable: no sensor"
    assert none["energy_reason"] == "no sensor"
    figures = [n for n in none if n.startswith(("j_per", "energy_j", "idle_w", "tokens_per_wh"))]
    assert len(figures) > 12
    assert all(none[name] is None for name in figures)
    assert row(NO_NET["drift"][0])["energy_net_reason"].startswith("baseline drift")  # type: ignore[union-attr]
    assert row(NO_NET["drift"][0])["energy_j_decode_net"] is None


UNKNOWN = (
    measurement((tg_run(3, S),)),
    replace(SILENT, host=replace(SILENT.host, virtualization="kvm")),
    *(one for one, _ in NO_GROSS.values()),
)
_ZERO = re.compile(r"(?<![\d.])0(\.0+)? ?(J|W|tokens per)\b")


@pytest.mark.parametrize("form", [*FORMATS, "side by side"])
def test_no_format_holds_a_zero_for_what_was_not_measured(form: str) -> None:
    # Only decode, for prefill may well have a figure where decode has none.
    unknown = tuple(
        replace(one, runs=tuple(replace(r, prefilled_ns=None, started_ns=r.prefilled_ns or
                                        r.started_ns) for r in one.runs))
        for one in UNKNOWN
    )  # fmt: skip
    text = written(form.partition(" ")[0].replace("side", "text"), *unknown,
                   side_by_side=" " in form)  # fmt: skip
    assert not _ZERO.search(text)
    if form == "json":
        return  # the raw record holds what a dead counter said; no figure is derived from it
    if form == "csv":
        for line in csv.DictReader(io.StringIO(text)):
            figures = [n for n in line if n.startswith(("j_per", "energy_j")) and "load" not in n]
            assert {line[name] for name in figures} == {""}
    elif form == "sql":
        base = sqlite3.connect(":memory:")
        base.executescript(text)
        query = "SELECT energy_joules, j_per_token_gross, tokens_per_wh FROM edge_measurements"
        assert set(base.execute(query)) == {(None, None, None)}
        base.close()
    elif form != "jsonl":
        assert "unavailable (" in text
        assert "J/token" not in text


def test_text_says_energy_under_its_row_and_the_reason_once_below() -> None:
    text = written("text", recorded(), measurement((tg_run(3, S),)), measurement((tg_run(3, S),)))
    assert "    energy: 0.5" in text
    assert text.count("energy: unavailable (no sensor)") == 1
    assert text.rstrip().endswith("energy: unavailable (no sensor)")
    beside = written("text", recorded(), measurement((tg_run(3, S),)), side_by_side=True)
    assert "    energy: 0.5" in beside
    assert beside.rstrip().endswith("energy: unavailable (no sensor)")


def test_the_page_of_edge_energy_says_at_least_where_the_sensor_sees_a_part() -> None:
    text = render_energy(
        energy_report((recorded(),), Scenario(), tool_version="1", battery_wh=15.0)
    )
    assert "at least 0.700 (0.700 to 0.700) J per generated token, gross" in text
    assert "generated tokens per Wh" in text
    assert "at least 1.30" in text
    assert "unavailable (the sensor does not see the whole device)" in text
    assert "gain error unknown" in text
    assert "80 tokens in 2 repetitions" in text
    device = series(power, until_s=40, info=sensor("battery:BAT0", scope=Scope.DEVICE))
    text = render_energy(
        energy_report((recorded(device),), Scenario(), tool_version="1", battery_wh=15.0)
    )
    assert "at least" not in text
    assert "idle 7.50 h, chatting 3.21 (3.21 to 3.21) h on 15 Wh" in text
    assert "300 prompt + 200 generated tokens, one turn every 60.0 s, idle between" in text
    nothing = energy_report(UNKNOWN[:1], Scenario(), tool_version="1")
    assert render_energy(nothing).count("unavailable (no sensor)") == 2
    hostile = replace(recorded(), artifact=replace(recorded().artifact, name="a\x1b[2Jb\n"))
    assert "\x1b" not in render_energy(energy_report((hostile,), Scenario(), tool_version="1"))


def page(listed: tuple[Row, ...], *measurements: Measurement, width: int = 140) -> str:
    out = io.StringIO()
    shown = replace(
        report(listed), rows=with_energy(listed, measurements), measurements=measurements
    )
    Console(file=out, width=width).print(render_check(shown))
    return out.getvalue()


def test_sources_of_one_kind_name_it_once_and_counts_agree_with_their_nouns() -> None:
    two = tuple(
        series(power, until_s=40, info=sensor(f"rapl:{name}", source=f"RAPL {name} (powercap)"))
        for name in ("package-0", "package-1")
    )
    one = recorded(
        *two, runs=(run(12, 2, 4, prompt=100, steps=40),), headline=tuple(s.sensor.id for s in two)
    )
    text = render_energy(energy_report((one,), Scenario(), tool_version="1"))
    assert "measured: RAPL package-0 + RAPL package-1 (powercap), chip" in text
    assert "40 tokens in 1 repetition, 4 s," in text
    assert text.count("gain error") == 1
    narrow = render_energy(energy_report((one,), Scenario(), tool_version="1"), 80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert narrow.split() == text.split()


def test_a_check_has_an_energy_column_only_where_a_row_has_a_figure() -> None:
    listed = rows(evidence("tiny", "Q4_K_M", 10), evidence("tiny", "Q8_0", 8))
    text = page(listed, recorded())
    assert "J/token" in text
    assert "0.700 ±1%" in text
    assert max(map(len, page(listed, recorded(), width=80).splitlines())) <= 80
    assert "…" not in page(listed, recorded(), width=80)
    assert "energy: gross, measured by sensor rapl:package-0" in text
    without = page(listed, measurement((tg_run(3, S),)))
    assert "J/token" not in without
    assert "energy: unavailable (no sensor)" in without


def test_energy_is_never_projected_nor_taken_from_a_truncated_model() -> None:
    listed = rows(evidence("tiny", "Q4_K_M", 10), evidence("tiny", "Q8_0", 8))
    whole, other = with_energy(listed, (recorded(),))
    assert isinstance(whole.energy, RowEnergy)
    assert isinstance(other.energy, Unavailable)
    cut = replace(recorded(), artifact=replace(recorded().artifact, layers=1))
    assert isinstance(with_energy(listed, (cut,))[0].energy, Unavailable)
    assert whole.verdict == listed[0].verdict


def test_the_target_of_a_check_is_judged_without_energy() -> None:
    listed = rows(evidence("tiny", "Q4_K_M", 10))
    assert [r.verdict for r in with_energy(listed, (recorded(),))] == [r.verdict for r in listed]
    assert Target().decode_tokens_per_s > 0


def test_a_record_from_a_stranger_cannot_break_a_report() -> None:
    hostile = recorded()
    assert isinstance(hostile.energy, Energy)
    first = hostile.energy.series[0]
    for change in (
        {"stamps_ns": ()}, {"joules": (1e308,) * len(first.joules)},
        {"joules": tuple(-1e308 if i % 2 else 1e308 for i in range(len(first.joules)))},
        {"sensor": sensor(step=-1.0, update_s=-1.0, poll_s=-5.0, window_s=-1.0)},
        {"sensor": sensor(method="power", poll_s=0.0)},
    ):  # fmt: skip
        broken = replace(first, **change)  # type: ignore[arg-type]
        one = replace(hostile, energy=replace(hostile.energy, series=(broken,)))
        for form in FORMATS:
            written(form, one)
        made = energy_report((one,), Scenario(), tool_version="1", battery_wh=15.0)
        render_energy(made)
        json.dumps(row(one), allow_nan=False)


@pytest.mark.parametrize("tokens", [0, -5, 10**400])
def test_an_impossible_number_of_tokens_is_no_divisor(tokens: int) -> None:
    odd = recorded(runs=(replace(run(12, 2, 4, prompt=100, steps=40), prefill_tokens=tokens),))
    words = energy_words(odd)
    assert "J/token net" in words
    assert "prompt token" not in words
