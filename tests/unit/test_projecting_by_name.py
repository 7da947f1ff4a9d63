"""Projection by name, as a program embeds it: records for names, one error for every mistake."""

from __future__ import annotations

import pytest
from projections import by_the_roof, the_roof

import edge_runtime as edge
from edge_runtime.artifact import ModelShape
from edge_runtime.projection import door
from profiles import model
from profiles.devices import device

pytestmark = pytest.mark.usefixtures("the_roof")
__all__ = ["the_roof"]

BOARD = "raspberry-pi-5-8gb"


@pytest.fixture(autouse=True)
def by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "project_planned", by_the_roof)


def test_names_and_the_things_themselves_give_the_same():
    shape = ModelShape.from_config(model("qwen2.5-1.5b").config, name="qwen2.5-1.5b")
    by_name = edge.project("qwen2.5-1.5b", "q4_k_m", BOARD)
    assert by_name == edge.project(shape, "Q4_K_M", device(BOARD))
    assert by_name.level == "Q4_K_M"
    assert by_name.memory.available_bytes == int(by_name.available.low)


def test_the_context_is_what_memory_is_asked_for():
    short, long = (edge.project("qwen2.5-1.5b", "Q4_0", BOARD, "llama.cpp", n) for n in (512, 8192))
    assert long.memory.kv_bytes == 16 * short.memory.kv_bytes
    asked = edge.Target(decode_tokens_per_s=5, context_tokens=512)
    assert edge.project("qwen2.5-1.5b", "Q4_0", BOARD, target=asked).memory == short.memory


def test_a_device_is_asked_what_reads_there_and_a_model_what_it_needs(monkeypatch):
    some = {name: device(name) for name in ("raspberry-pi-5", "rtx4090")}
    monkeypatch.setattr(door, "devices", lambda: some)
    target = edge.Target(decode_tokens_per_s=5)
    report = edge.fit_device(BOARD, target, models=("qwen2.5-0.5b", "llama-3.1-8b"))
    assert [row.row.model for row in report.viable] == ["qwen2.5-0.5b"]
    assert [row.row.model for row in report.misses] == ["llama-3.1-8b"]
    plan = edge.plan_hardware("qwen2.5-0.5b", target, levels=("q8_0",))
    assert [need.level for need in plan.needs] == ["Q8_0"]
    assert "raspberry-pi-5" in {one.device.id for one in plan.devices}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("qwen2.5-1.6b", "Q4_0", BOARD), "qwen2.5-1.5b"),
        (("qwen2.5-1.5b", "Q4_9", BOARD), "Q4_9"),
        (("qwen2.5-1.5b", "Q4_0", "raspbery-pi-5"), "raspberry-pi-5"),
        (("qwen2.5-1.5b", "Q4_0", "no/such/file.toml"), "no/such/file.toml"),
    ],
)
def test_every_mistake_is_a_usage_error(arguments, said):
    with pytest.raises(edge.UsageError, match=said):
        edge.project(*arguments)


def test_no_level_is_no_question():
    for ask in (
        lambda: edge.plan_hardware("gpt2", levels=()),
        lambda: edge.fit_device("a2", levels=()),
    ):
        with pytest.raises(edge.UsageError, match="No level is named"):
            ask()


def test_levels_of_a_fit_are_checked():
    with pytest.raises(edge.UsageError, match="Q4_9"):
        edge.fit_device(BOARD, levels=("Q4_9",))
