"""What hardware a model needs: it agrees with the verdicts, the cheapest class comes first."""

from __future__ import annotations

import dataclasses
import json

import pytest
from projections import SHARE, by_the_roof, the_roof, with_bandwidth

from edge_runtime.artifact import ModelShape
from edge_runtime.errors import UsageError
from edge_runtime.memory_needs import planned_gguf
from edge_runtime.projection import hardware
from edge_runtime.projection.hardware import CHEAPEST_FIRST, MEMORY_SIZES, plan_among, with_memory
from edge_runtime.projection.rows import Asked, project_rows
from edge_runtime.units import GIB
from edge_runtime.verdict import HEADROOM_SHARE, Target, VerdictKind
from profiles import model
from profiles.devices import CLASSES, device

pytestmark = pytest.mark.usefixtures("the_roof")
__all__ = ["the_roof"]

DEVICES = (
    "rtx4090",
    "raspberry-pi-5",
    "raspberry-pi-4",
    "apple-m1",
    "apple-m4-pro",
    "h100-80gb-pcie",
)


def plans(*levels: str, name: str = "qwen2.5-1.5b"):
    shape = ModelShape.from_config(model(name).config, name=name)
    return [planned_gguf(shape, level) for level in levels or ("Q4_K_M",)]


def plan(*levels: str, tokens_per_s: float = 20.0, devices=DEVICES, name: str = "qwen2.5-1.5b"):
    found = [device(one) if isinstance(one, str) else one for one in devices]
    asked = Asked(target=Target(decode_tokens_per_s=tokens_per_s))
    return plan_among(plans(*levels, name=name), found, asked)


def test_the_bandwidth_needed_is_the_one_at_which_the_verdict_turns():
    needs = plan(devices=("raspberry-pi-5",)).needs[0]
    need = needs.bandwidths[0]
    read = needs.bytes_per_token
    # By the roof: tokens/s = half the bandwidth over the bytes; the ends at 3/4 and 4/3 of that.
    assert need.likely == pytest.approx(20 * read / SHARE, rel=1e-3)
    assert need.sure == pytest.approx(20 * read / SHARE / 0.75, rel=1e-3)
    assert need.least == pytest.approx(20 * read / SHARE * 0.75, rel=1e-3)
    asked = Asked(target=Target())
    for factor, end, kind in (
        (1.01, need.sure, VerdictKind.VIABLE),
        (0.99, need.sure, VerdictKind.BORDERLINE),
        (0.99, need.least, VerdictKind.NOT_VIABLE),
    ):
        near = with_bandwidth("raspberry-pi-5", factor * end / 1e9)
        assert project_rows(plans(), near, asked)[0].verdict.kind is kind


def test_nothing_below_the_roof_can_read():
    needs = plan().needs[0]
    assert needs.roof_bytes_per_s == pytest.approx(20 * needs.bytes_per_token)
    assert all(need.least > needs.roof_bytes_per_s for need in needs.bandwidths)


def test_no_bandwidth_is_enough_where_something_else_takes_too_long():
    need = plan(tokens_per_s=1e15).needs[0].bandwidths[0]
    assert need.least is need.likely is need.sure is None


def test_compute_is_turned_up_with_the_bandwidth(monkeypatch):
    asked_about = []

    def noted(planned, device, **asked):
        asked_about.append(device)
        return by_the_roof(planned, device, **asked)

    monkeypatch.setattr(hardware, "project", noted)
    plan(devices=("rtx4090",))
    card = device("rtx4090").accelerators["gpu"]
    factors = set()
    for one in asked_about:
        unit = one.accelerators["gpu"]
        changed = [
            getattr(unit, name).value / getattr(card, name).value
            for name in ("bandwidth_bytes_per_s", "fp32_flop_per_s", "fp16_flop_per_s")
        ]
        assert changed == pytest.approx([changed[0]] * 3)
        factors.add(changed[0])
    assert len(factors) > 10


def test_memory_needed_keeps_the_headroom_and_is_a_size_that_is_sold():
    needs = plan().needs[0]
    assert needs.free_bytes * (1 - HEADROOM_SHARE) == pytest.approx(needs.memory.need_bytes)
    assert needs.memories
    for need in needs.memories:
        assert need.ram_bytes in MEMORY_SIZES
        assert need.ram_bytes > needs.memory.need_bytes
    cards = [need for need in needs.memories if need.own]
    assert [need.ram_bytes for need in cards] == [2 * GIB]
    smaller, larger = (
        next(n for n in plan(name=name).needs[0].memories if n.system == "Linux").ram_bytes
        for name in ("qwen2.5-1.5b", "llama-3.1-8b")
    )
    assert smaller < larger


def test_devices_that_read_stand_by_class_and_those_that_do_not_are_only_counted():
    found = plan()
    classes = [one.device.device_class for one in found.devices]
    assert classes == sorted(classes, key=CHEAPEST_FIRST.index)
    kinds = {one.row.verdict.kind for one in found.devices}
    assert VerdictKind.NOT_VIABLE not in kinds
    assert len(found.devices) + found.misses == len(DEVICES)
    assert found.exit_code == 0
    assert plan(tokens_per_s=1e6).devices == ()
    assert plan(tokens_per_s=1e6).exit_code == 1


def test_within_a_class_the_least_that_reads_comes_first_and_then_the_most_that_may():
    macs = ("apple-m1", "apple-m2-pro", "apple-m3-max", "apple-m4", "apple-m2", "apple-m1-max")
    found = [
        (one.row.verdict.kind, one.row.projection.decode_tokens_per_s.value)
        for one in plan(tokens_per_s=50, devices=macs).devices
    ]
    reads = [rate for kind, rate in found if kind is VerdictKind.VIABLE]
    may = [rate for kind, rate in found if kind is VerdictKind.BORDERLINE]
    assert [kind for kind, _ in found] == [VerdictKind.VIABLE] * len(reads) + [
        VerdictKind.BORDERLINE
    ] * len(may)
    assert len(reads) > 1
    assert reads == sorted(reads)
    assert len(may) > 1
    assert may == sorted(may, reverse=True)


def test_every_class_has_its_place():
    assert sorted(CHEAPEST_FIRST) == sorted(CLASSES)


def test_the_smallest_memory_that_suffices_counts_with_the_products_that_have_it():
    roomy = plan("Q8_0", tokens_per_s=0.1, devices=("raspberry-pi-5",), name="llama-3.1-8b")
    (one,) = roomy.devices
    assert one.memory_bytes == 16 * GIB
    assert one.products == ("Raspberry Pi 5 (16 GB)",)
    (small,) = plan("Q8_0", tokens_per_s=0.1, devices=("raspberry-pi-5",)).devices
    assert small.memory_bytes == min(device("raspberry-pi-5").ram_bytes)
    assert len(small.products) > 1


def test_of_several_levels_the_one_with_the_most_bits_that_reads_is_listed():
    levels = {one.device.id: one.row.row.level for one in plan("Q8_0", "Q4_0").devices}
    assert levels["rtx4090"] == "Q8_0"
    assert [needs.level for needs in plan("Q8_0", "Q4_0").needs] == ["Q8_0", "Q4_0"]


def test_what_is_not_known_is_named_apart():
    blind = with_bandwidth("raspberry-pi-5", None)
    found = plan(devices=(blind, "rtx4090"))
    assert found.unknown == ("raspberry-pi-5",)
    assert [one.device.id for one in found.devices] == ["rtx4090"]


def test_devices_without_the_accelerator_asked_for_are_passed_over():
    asked = Asked(target=Target(decode_tokens_per_s=1), accelerator="npu")
    found = plan_among(plans(), [device("rtx4090"), device("apple-m1")], asked)
    assert [one.device.id for one in found.devices] == ["apple-m1"]
    for cards in (["rtx4090"], ["rtx4090", "rtx4080"]):
        with pytest.raises(UsageError, match="npu"):
            plan_among(plans(), [device(card) for card in cards], asked)


ENCODER = {
    "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 384, "vocab_size": 30522,
    "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 1536,
    "max_position_embeddings": 512, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
}  # fmt: skip


def test_a_model_that_decodes_nothing_has_no_plan():
    plans = [planned_gguf(ModelShape.from_config(ENCODER, name="minilm"), "F16")]
    with pytest.raises(UsageError, match="minilm makes embeddings"):
        plan_among(plans, [device("rtx4090")], Asked(target=Target()))


def test_memory_of_a_card_is_its_own_and_of_the_rest_ram():
    assert with_memory(device("rtx4090"), GIB).accelerators["gpu"].memory_bytes == (GIB,)
    assert with_memory(device("raspberry-pi-5"), GIB).ram_bytes == (GIB,)


def test_the_document_is_plain_json():
    document = json.loads(json.dumps(plan("Q8_0", "Q4_0").to_json(), allow_nan=False))
    assert document["schema"] == 1
    assert document["model"] == "qwen2.5-1.5b"
    assert [need["level"] for need in document["needs"]] == ["Q8_0", "Q4_0"]
    row = document["rows"][0]
    assert row["basis"] == "PROJECTED"
    assert row["class"] in CLASSES
    assert row["verdict"] in ("VIABLE", "BORDERLINE")
    assert {field.name for field in dataclasses.fields(plan().needs[0])} == set(
        document["needs"][0]
    )
