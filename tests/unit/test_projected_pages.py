"""The pages of projections: they fit 80 columns, and say that nothing ran and how sure it is."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
from projections import the_roof, with_bandwidth
from rich.console import Console

from edge_runtime.artifact import ModelShape
from edge_runtime.memory_needs import planned_gguf
from edge_runtime.projection.device_fit import fit_shapes
from edge_runtime.projection.hardware import plan_among
from edge_runtime.projection.rows import Asked, ProjectionReport, project_rows
from edge_runtime.report.projected_hardware import render_fit, render_plan
from edge_runtime.report.projection import memory_words, render_projection
from edge_runtime.units import GIB
from edge_runtime.verdict import MemoryFit, Target
from profiles import model, models
from profiles.devices import device

pytestmark = pytest.mark.usefixtures("the_roof")
__all__ = ["the_roof"]

PHONES = ("raspberry-pi-5-8gb", "apple-m1", "rtx4090", "jetson-orin-nano-super")
ASKED = Asked(target=Target())


def shape(name: str) -> ModelShape:
    return ModelShape.from_config(model(name).config, name=name)


def report(*names: str, on=PHONES, levels=("Q8_0", "Q4_K_M")) -> ProjectionReport:
    devices = [device(one) if isinstance(one, str) else one for one in on]
    plans = [[planned_gguf(shape(name), level) for level in levels] for name in names]
    found = [row for one in devices for some in plans for row in project_rows(some, one, ASKED)]
    return ProjectionReport(
        tool_version="0", asked=ASKED, devices=tuple(devices), rows=tuple(found)
    )


def page(shown, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(shown)
    return out.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


def test_one_model_on_several_devices_is_one_table_of_eighty_columns():
    text = page(render_projection(report("qwen2.5-1.5b")), 80)
    assert max(map(len, text.splitlines())) <= 80
    table = [line for line in text.splitlines() if line.rstrip().endswith(("VIABLE", "BORDERLINE"))]
    assert len(table) == 8
    assert text.count("tok/s (80 %)") == 1
    assert [line.split()[0] for line in table[::2]] == list(PHONES)


def test_several_models_are_a_table_for_each_device():
    text = page(render_projection(report("qwen2.5-1.5b", "smollm2-135m")), 80)
    assert text.count("tok/s (80 %)") == len(PHONES)
    assert max(map(len, text.splitlines())) <= 80


def test_the_page_says_that_nothing_ran_what_the_interval_is_and_what_it_rests_on():
    text = words(page(render_projection(report("qwen2.5-1.5b")), 80))
    assert "Projected for llama.cpp" in text
    assert "nothing was run for this page" in text
    assert "An interval holds for 80 % of unseen devices" in text
    assert "published of the roof: Q8_0 12 rows of 3 devices, Q4_K_M 12 of 3" in text
    assert text.count("assumed: half the roof is reached") == 1
    assert "would settle it: One run on it: edge check --save" in text
    assert "cpu at 17.0 GB/s (stated)" in text
    assert "rtx4090: Best choice: qwen2.5-1.5b at Q8_0" in text
    assert "95 %" not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "published measurements of other devices; nothing was run"),
        ({"device_known": True}, "published measurements; nothing was run"),
        ({"own_rows": 3}, "of other devices and your own; nothing was run"),
    ],
)
def test_whose_measurements_they_are_is_said_truly(changes, said):
    shown = report("qwen2.5-1.5b", on=("rtx4090",))
    near = dataclasses.replace(shown.rows[0].projection.nearness, device_known=False, own_rows=0)
    rows = tuple(
        dataclasses.replace(
            row,
            projection=dataclasses.replace(
                row.projection, nearness=dataclasses.replace(near, **changes)
            ),
        )
        for row in shown.rows
    )
    assert said in words(page(render_projection(dataclasses.replace(shown, rows=rows)), 80))


def test_evidence_that_differs_from_model_to_model_is_a_range():
    shown = report("qwen2.5-1.5b", "gpt2", on=("rtx4090",))
    last = shown.rows[-1]
    scarce = dataclasses.replace(last.projection.nearness, rows=1, devices=1)
    last = dataclasses.replace(
        last, projection=dataclasses.replace(last.projection, nearness=scarce)
    )
    text = words(
        page(render_projection(dataclasses.replace(shown, rows=(*shown.rows[:-1], last))), 80)
    )
    assert "published of the roof: Q8_0 12 rows of 3 devices, Q4_K_M 1 to 12 of 1 to 3" in text


def test_what_is_said_of_a_device_stands_below_its_name_and_of_some_rows_below_theirs():
    shown = report("qwen2.5-1.5b", "gpt2", on=("rtx4090", "raspberry-pi-5-8gb"))
    first = shown.rows[0].projection
    own = (*first.assumptions, "It is warm.")
    rows = (
        dataclasses.replace(shown.rows[0], projection=dataclasses.replace(first, assumptions=own)),
        *shown.rows[1:],
    )
    text = page(render_projection(dataclasses.replace(shown, rows=rows)), 80)
    card, board = text.index("\nrtx4090:\n"), text.index("\nraspberry-pi-5-8gb:\n")
    assert card < text.index("  gpt2: judged at 1024 tokens of context") < board
    assert card < text.index("qwen2.5-1.5b Q8_0: It is warm.") < board
    assert text.count("It is warm.") == 1


def test_memory_is_shown_against_what_the_system_leaves():
    fit = MemoryFit(
        weights_bytes=GIB, kv_bytes=0, compute_bytes=GIB // 4, process_bytes=0,
        available_bytes=int(5.62 * GIB),
    )  # fmt: skip
    assert memory_words(fit) == "1.25/5.6"
    assert memory_words(dataclasses.replace(fit, available_bytes=None)) == "1.25/?"
    assert memory_words(dataclasses.replace(fit, weights_bytes=40 * GIB)) == "40.2/5.6"


def test_an_unknown_row_says_why_and_what_to_do():
    blind = with_bandwidth("raspberry-pi-5", None)
    text = words(page(render_projection(report("qwen2.5-1.5b", on=(blind,))), 80))
    assert "unknown" in text
    assert "cpu at unknown bandwidth" in text
    assert "unknown: its memory bandwidth is not known. Run edge doctor on it." in text
    assert "VIABLE" not in text


def test_a_strangers_model_name_cannot_move_the_cursor():
    shown = report("qwen2.5-1.5b", on=("rtx4090",))
    evil = [
        dataclasses.replace(row, row=dataclasses.replace(row.row, model="evil\x1b[2J"))
        for row in shown.rows
    ]
    for rows in (evil, [*evil, *shown.rows]):
        text = page(render_projection(dataclasses.replace(shown, rows=tuple(rows))), 80)
        assert "\x1b" not in text
        assert "evil" in text


def fit(on, *, everything: bool = False, most: int = 100) -> str:
    some = [shape(name) for name in list(models())[:most]]
    found = fit_shapes(some, on, ASKED, levels=("Q8_0", "Q4_0"))
    return page(render_fit(found, everything=everything), 80)


def test_what_reads_is_listed_largest_first_and_what_just_misses_with_the_reason():
    text = fit(with_bandwidth("raspberry-pi-5-16gb", 100))
    assert max(map(len, text.splitlines())) <= 80
    assert text.index("Read at 20.0 tok/s") < text.index("May read") < text.index("Just miss")
    assert "further models: --all" in text
    assert "llama-2-7b" in text[text.index("Just miss") :]
    assert ": memory bandwidth (half the roof)" in words(text)
    assert "Of each model the level with the most bits of Q8_0, Q4_0." in words(text)


def test_all_lists_every_model():
    on = device("raspberry-pi-5-8gb")
    text = fit(on, everything=True, most=20)
    assert "--all" not in text
    assert all(name in text for name in list(models())[:20])


def test_a_device_on_which_nothing_reads_is_told_plainly():
    on = with_bandwidth("raspberry-pi-5-8gb", 0.5)
    assert "No model of the catalogue reads at 20.0 tok/s there." in fit(on, most=4)


def plan(*levels: str, on=PHONES, everything: bool = False) -> str:
    devices = [device(one) if isinstance(one, str) else one for one in on]
    plans = [planned_gguf(shape("qwen2.5-1.5b"), level) for level in levels]
    return page(render_plan(plan_among(plans, devices, ASKED), everything=everything), 80)


def test_a_plan_says_the_need_and_who_has_it():
    text = plan("Q4_K_M")
    assert max(map(len, text.splitlines())) <= 80
    said = words(text)
    assert "GB/s at the very least, on anything" in said
    assert "GB/s (80 %)" in said
    sizes = re.findall(r"^    (\d+) GiB: ", text, re.MULTILINE)
    assert len(sizes) > 1
    assert list(map(int, sizes)) == sorted(map(int, sizes))
    assert "2 GiB: a graphics card's own" in said
    assert text.index("Boards") < text.index("Graphics cards")
    assert "nothing was run for this page" in said
    assert "raspberry-pi-5" not in text[text.index("Devices that have it") :]


def test_memory_is_told_by_class_where_a_system_takes_more_on_one_than_on_another():
    text = words(plan("Q4_K_M", on=("raspberry-pi-5", "ryzen-7600", "apple-m1", "apple-a17pro")))
    assert "3 GiB: Linux boards, iOS" in text
    assert "4 GiB: Linux desktops" in text
    assert re.search(r"6 GiB: Windows(, macOS)? ", text)


def test_of_the_ways_to_an_accelerator_the_easiest_is_shown_and_phones_by_their_names():
    cards = ("rtx4090", "rx7900xtx", "apple-a17pro")
    text = plan("Q4_0", on=cards)
    assert "--all lists" not in text
    assert "iphone-15-pro +1" in text
    assert "apple-a17pro" not in text[text.index("Devices that have it") :]
    easiest = re.findall(r"^ *gpu +gpu (\w+)", text, re.MULTILINE)
    every = re.findall(r"^ *gpu +gpu (\w+)", plan("Q4_0", on=cards, everything=True), re.MULTILINE)
    assert len(easiest) == 1 < len(every) == 2


def test_a_plan_for_what_nothing_has_says_so():
    text = plan("Q8_0", on=("raspberry-pi-5-8gb",))
    assert "No known device reads at 20.0 tok/s with it." in text


def test_a_class_is_cut_to_a_few_unless_all_are_asked_for():
    cards = ("rtx4090", "rtx4080", "rtx3090", "rtx3060-12gb", "rx7900xtx", "rtx4060ti", "rtx5060")
    assert "and 2 more, 2 viable" in words(plan("Q4_0", on=cards))
    full = plan("Q4_0", on=cards, everything=True)
    assert "more," not in full
    assert all(card in full for card in cards)


def test_too_little_known_is_named():
    text = words(plan("Q4_0", on=(with_bandwidth("raspberry-pi-5", None), "rtx4090")))
    assert "Too little is known to project onto 1 device: raspberry-pi-5." in text
