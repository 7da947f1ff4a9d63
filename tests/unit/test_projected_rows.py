"""Rows of projections: judged as measurements are, with reasons a reader can act on."""

from __future__ import annotations

import dataclasses
import json

import pytest
from projections import by_the_roof, the_roof, with_bandwidth

from edge_runtime.artifact import ModelShape
from edge_runtime.basis import Unavailable
from edge_runtime.memory_needs import planned_gguf
from edge_runtime.projection import rows
from edge_runtime.projection.rows import Asked, ProjectionReport, project_rows
from edge_runtime.verdict import Target, VerdictKind
from profiles import model
from profiles.devices import device

pytestmark = pytest.mark.usefixtures("the_roof")
__all__ = ["the_roof"]

LEVELS = ("Q8_0", "Q4_K_M", "Q4_0")
PI = "raspberry-pi-5-8gb"


def asked(tokens_per_s: float = 20.0, context: int = 4096) -> Asked:
    return Asked(target=Target(decode_tokens_per_s=tokens_per_s, context_tokens=context))


def plans(name: str = "qwen2.5-1.5b", levels: tuple[str, ...] = LEVELS):
    shape = ModelShape.from_config(model(name).config, name=name)
    return [planned_gguf(shape, level) for level in levels]


def report(*devices, wanted: Asked, name: str = "qwen2.5-1.5b") -> ProjectionReport:
    found = [row for one in devices for row in project_rows(plans(name), one, wanted)]
    return ProjectionReport(tool_version="0", asked=wanted, devices=devices, rows=tuple(found))


def test_the_interval_decides():
    # Half of 17 GB/s over 0.92 GB at Q4_K_M: 9.3 tok/s, from 6.9 to 12.4.
    kinds = {}
    for limit in (6.5, 9.0, 13.0):
        row = project_rows(plans(levels=("Q4_K_M",)), device(PI), asked(limit))[0]
        kinds[limit] = row.verdict.kind
    assert kinds == {
        6.5: VerdictKind.VIABLE,
        9.0: VerdictKind.BORDERLINE,
        13.0: VerdictKind.NOT_VIABLE,
    }


def test_a_row_that_may_read_says_what_would_settle_it_or_which_level_reads():
    eight, four, simple = project_rows(plans(), device(PI), asked(6.5))
    assert eight.verdict.kind is VerdictKind.BORDERLINE
    assert eight.verdict.cause == "memory bandwidth (half the roof)"
    assert eight.verdict.next_step == "Q4_K_M would read."
    assert four.verdict.kind is simple.verdict.kind is VerdictKind.VIABLE
    alone = project_rows(plans(levels=("Q8_0",)), device(PI), asked(6.5))[0]
    assert alone.verdict.next_step == alone.projection.settles


def test_a_level_that_only_may_read_is_not_promised():
    # At Q4_K_M 6.5 to 11.6 tok/s, most likely 8.7.
    eight, four, _ = project_rows(plans(), device(PI), asked(8.6))
    assert four.projection.decode_tokens_per_s.value > 8.6
    assert eight.verdict.kind is VerdictKind.NOT_VIABLE
    assert eight.verdict.next_step == "Try a smaller model."


def test_what_does_not_fit_names_what_the_system_leaves_and_no_program_to_close():
    row = project_rows(plans("llama-3.1-8b", ("Q8_0",)), device(PI), asked(0.1))[0]
    assert row.verdict.kind is VerdictKind.NOT_VIABLE
    assert row.verdict.cause.startswith("memory: needs 8.66 GiB of the ")
    assert row.verdict.cause.endswith(" that Linux leaves")
    assert row.verdict.next_step == "Try a smaller model."
    card = project_rows(plans("llama-3.1-8b", ("F16",)), device("rtx3060-12gb"), asked(0.1))[0]
    assert card.verdict.cause.endswith(" that the card gives")


def test_too_slow_outweighs_memory_that_is_only_tight(monkeypatch):
    def tight(*arguments, **options):
        found = by_the_roof(*arguments, **options)
        need = found.memory.need_bytes
        return dataclasses.replace(
            found, memory=dataclasses.replace(found.memory, available_bytes=int(need * 1.05))
        )

    monkeypatch.setattr(rows, "project", tight)
    slow = project_rows(plans(levels=("Q8_0",)), device(PI), asked(100))[0]
    assert slow.verdict.kind is VerdictKind.NOT_VIABLE
    assert slow.verdict.cause == "memory bandwidth (half the roof)"
    fast = project_rows(plans(levels=("Q8_0",)), device(PI), asked(0.1))[0]
    assert fast.verdict.kind is VerdictKind.BORDERLINE
    assert fast.verdict.cause.startswith("memory: needs ")


def test_an_unknown_bandwidth_is_unknown_and_not_zero():
    blind = with_bandwidth("raspberry-pi-5", None)
    shown = report(blind, wanted=asked())
    row = shown.rows[0]
    assert not row.is_known
    assert row.verdict.kind is VerdictKind.BORDERLINE
    assert row.verdict.cause == "unknown: its memory bandwidth is not known"
    assert row.verdict.next_step == "Run edge doctor on it."
    assert row.to_json()["decode_tokens_per_s"] == {
        "reason": "its memory bandwidth is not known",
        "remedy": "Run edge doctor on it.",
    }
    assert row.to_json()["ttft_s"] is None
    assert shown.exit_code == 3


def test_unknown_memory_leaves_it_open_unless_it_is_too_slow_anyway(monkeypatch):
    def blind(*arguments, **options):
        found = by_the_roof(*arguments, **options)
        return dataclasses.replace(
            found,
            available=None,
            memory=dataclasses.replace(found.memory, available_bytes=None),
        )

    monkeypatch.setattr(rows, "project", blind)
    open_, between, slow = (
        project_rows(plans(levels=("Q4_0",)), device(PI), asked(limit))[0].verdict
        for limit in (5.0, 10.0, 100.0)
    )
    assert between.cause == "memory bandwidth (half the roof)"
    assert open_.kind is VerdictKind.BORDERLINE
    assert open_.cause == "memory: how much Raspberry Pi 5 (8 GB) leaves free is not known"
    assert slow.kind is VerdictKind.NOT_VIABLE
    assert slow.cause == "memory bandwidth (half the roof)"


def test_a_model_made_for_less_context_is_judged_at_its_own():
    row = project_rows(plans("gpt2", ("Q8_0",)), device(PI), asked(context=4096))[0]
    assert row.verdict.context_tokens == 1024
    assert row.verdict.notes[-1].startswith("judged at 1024 tokens of context")


@pytest.mark.parametrize(("limit", "code"), [(6.0, 0), (11.0, 3), (50.0, 1)])
def test_the_exit_code_is_that_of_the_best_row(limit, code):
    assert report(device(PI), wanted=asked(limit)).exit_code == code


def test_the_document_is_plain_json_with_a_unit_in_every_name():
    shown = report(device(PI), device("rtx4090"), wanted=asked())
    document = json.loads(json.dumps(shown.to_json(), allow_nan=False))
    assert document["schema"] == 1
    assert document["basis"] == "PROJECTED"
    assert [one["id"] for one in document["devices"]] == [PI, "rtx4090"]
    row = document["rows"][0]
    assert (row["device"], row["model"], row["level"]) == (PI, "qwen2.5-1.5b", "Q8_0")
    assert (row["accelerator"], row["api"], row["basis"]) == ("cpu", "", "PROJECTED")
    rate = row["decode_tokens_per_s"]
    assert rate["low"] < rate["value"] < rate["high"]
    assert rate["confidence"] == 0.8
    # The first token comes after the prompt: 256 tokens at the prefill rate.
    prefill = row["prefill_tokens_per_s"]
    assert row["ttft_s"]["value"] == pytest.approx(256 / prefill["value"])
    assert row["ttft_s"]["high"] == pytest.approx(256 / prefill["low"])
    memory = row["memory"]
    parts = ("weights_bytes", "kv_bytes", "compute_bytes", "process_bytes")
    assert memory["need_bytes"] == sum(memory[part] for part in parts)
    assert memory["available_bytes"] == int(memory["available"]["low"])
    assert memory["available"]["source"]
    assert (row["evidence"]["rows"], row["evidence"]["devices"]) == (12, 3)
    assert row["settles"]
    assert row["assumptions"] == ["half the roof is reached"]
    assert document["recommendations"]["rtx4090"].startswith("Best choice: qwen2.5-1.5b at Q8_0")


def test_own_measurements_reach_the_projection_of_their_device(monkeypatch):
    seen = {}

    def record(planned, device, *, own, **options):
        seen[device.id] = own
        return by_the_roof(planned, device, **options)

    monkeypatch.setattr(rows, "project", record)
    mine = object()
    wanted = dataclasses.replace(asked(), own={"rtx4090": mine})
    for name in (PI, "rtx4090"):
        project_rows(plans(levels=("Q4_0",)), device(name), wanted)
    assert seen == {"raspberry-pi-5": None, "rtx4090": mine}


def test_unavailable_is_what_stands_for_a_rate_that_is_not_known():
    row = project_rows(plans(), with_bandwidth("raspberry-pi-5", None), asked())[0]
    assert isinstance(row.projection.decode_tokens_per_s, Unavailable)
