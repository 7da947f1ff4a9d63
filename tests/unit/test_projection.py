"""What a projection promises: a rate below the roof, an interval, a cause, what would settle it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import profiles
from edge_runtime.artifact import LEVELS, ModelShape
from edge_runtime.basis import Basis, Unavailable
from edge_runtime.errors import UsageError
from edge_runtime.measurement import SessionOptions
from edge_runtime.memory_needs import PlannedModel, planned_gguf
from edge_runtime.projection import Calibration, OwnRow, project
from edge_runtime.statistics import Interval
from edge_runtime.verdict import Target, VerdictKind
from profiles.devices import Accelerator, DeviceProfile, Figure, device

SHAPES = {
    name: ModelShape.from_config(entry.config, name=name)
    for name, entry in profiles.models().items()
}


def planned(model: str = "qwen2.5-1.5b", level: str = "Q4_K_M") -> PlannedModel:
    return planned_gguf(SHAPES[model], level)


def figure(low: float, high: float | None = None) -> Figure:
    return Figure(
        low=low, high=high or low, kind="stated", source="a test", as_of=dt.date(2026, 1, 1)
    )


def made_up(bandwidth: Figure | None, *apis: str, kind: str = "gpu") -> DeviceProfile:
    """A device of which nothing is known but a bandwidth and how it is reached."""
    return dataclasses.replace(
        device("rtx4090"),
        id="made-up",
        name="Made up",
        maker="",
        accelerators=MappingProxyType(
            {
                kind: Accelerator(
                    kind=kind,
                    name="",
                    apis=apis,
                    memory_bytes=(16 << 30,),
                    bandwidth_bytes_per_s=bandwidth,
                )
            }
        ),
    )


def rate_of(projection) -> Interval:
    rate = projection.decode_tokens_per_s
    assert isinstance(rate, Interval), rate
    return rate


@settings(max_examples=40, deadline=None)
@given(
    bandwidth=st.floats(2e9, 9e12),
    api=st.sampled_from(("cuda", "metal", "vulkan", "opencl", "rocm")),
    model=st.sampled_from(("smollm2-135m", "qwen2.5-1.5b", "llama-3.1-8b", "qwen3-30b-a3b")),
    level=st.sampled_from(("Q8_0", "Q4_K_M", "IQ2_XXS", "F16")),
    confidence=st.floats(0.05, 0.99),
)
def test_no_rate_is_ever_above_the_roof(bandwidth, api, model, level, confidence):
    found = project(planned(model, level), made_up(figure(bandwidth), api), confidence=confidence)
    rate, roof = rate_of(found), found.roof_tokens_per_s
    assert roof == pytest.approx(bandwidth / found.bytes_per_token, rel=1e-6)
    assert 0 < rate.low <= rate.value < roof
    assert rate.value <= rate.high <= roof
    assert sum(share.share for share in found.shares) == pytest.approx(1)


def test_more_bandwidth_is_faster_and_more_model_is_slower():
    slow, fast = (made_up(figure(b), "cuda") for b in (200e9, 1000e9))
    assert rate_of(project(planned(), fast)).value > rate_of(project(planned(), slow)).value
    for smaller, larger in (("qwen3-0.6b", "qwen3-1.7b"), ("qwen3-1.7b", "qwen3-8b")):
        few, many = (rate_of(project(planned(m), fast)).value for m in (smaller, larger))
        assert few > many
    shallow, deep = (
        project(planned(), fast, target=Target(prompt_tokens=n, context_tokens=32768))
        for n in (64, 30000)
    )
    assert rate_of(shallow).value > rate_of(deep).value
    assert deep.depth_s_per_token > 0
    lost_s = 1 / rate_of(deep).value - 1 / rate_of(shallow).value
    assert lost_s == pytest.approx(deep.depth_s_per_token * (30000 - 64), rel=0.05)


def test_a_mixture_of_experts_is_as_fast_as_what_it_reads():
    card = made_up(figure(1000e9), "cuda")
    mixture, dense = planned("qwen3-30b-a3b"), planned("qwen3-8b")
    assert mixture.weight_bytes > 3 * dense.weight_bytes
    found = project(mixture, card)
    assert found.bytes_per_token < 0.2 * mixture.weight_bytes
    assert rate_of(found).value > rate_of(project(dense, card)).value
    assert any("8 are read per token" in text for text in found.assumptions)
    # Where it must fit, all of it counts.
    assert found.memory.weights_bytes == mixture.weight_bytes
    assert found.memory.kind is VerdictKind.NOT_VIABLE


def test_an_interval_widens_with_the_confidence_asked_for():
    phone = device("pixel-9-pro")
    half, usual, sure = (rate_of(project(planned(), phone, confidence=c)) for c in (0.5, 0.8, 0.95))
    assert half.value == usual.value == sure.value
    assert sure.low < usual.low < half.low < half.high < usual.high
    for wrong in (0.0, 1.0, -1.0, 2.0):
        with pytest.raises(UsageError, match="between 0 and 1"):
            project(planned(), phone, confidence=wrong)


def test_what_nobody_published_is_wide_and_says_what_would_settle_it():
    known = project(planned(), device("rtx3090"))
    assert known.nearness.device_known
    assert known.settles == ""
    near = project(planned(), made_up(figure(936e9), "cuda"))
    assert not near.nearness.device_known
    assert near.nearness.devices > 10
    assert "edge check qwen2.5-1.5b --level Q4_K_M --save device.json" in near.settles
    far = project(planned(), made_up(figure(936e9), "cann"), accelerator="gpu")
    assert far.nearness.rows == far.nearness.devices == 0
    assert "on any device" in far.settles
    widths = [rate_of(p).high / rate_of(p).low for p in (known, near, far)]
    assert widths == sorted(widths)


def test_rows_of_unlike_devices_say_little():
    # Vulkan is published of cards and of a desktop, never of a phone's graphics part.
    phone = project(planned(level="Q4_0"), device("pixel-9-pro"), accelerator="gpu")
    assert (phone.nearness.afar, phone.nearness.devices > 1) == (True, True)
    assert phone.verdict(Target()).kind is VerdictKind.BORDERLINE
    assert "of a device like Google Pixel 9 Pro" in phone.settles
    card = project(planned(level="Q4_0"), device("rtx4060"), api="vulkan")
    assert not card.nearness.afar
    spread = [rate_of(p).value / rate_of(p).low for p in (card, phone)]
    assert spread[1] > spread[0] ** 1.5
    # CUDA is one engine wherever there is CUDA.
    assert not project(planned(), made_up(figure(200e9), "cuda")).nearness.afar


def test_a_phone_is_not_told_to_run_what_it_cannot():
    found = project(planned(), device("iphone-15-pro"))
    assert "llama-bench" in found.settles
    assert "edge check" not in found.settles


def test_a_device_without_a_bandwidth_gets_no_rate_but_its_memory():
    found = project(planned(), made_up(None, "cuda"))
    rate = found.decode_tokens_per_s
    assert isinstance(rate, Unavailable)
    assert "bandwidth" in rate.reason
    assert "edge calibrate" in rate.remedy
    assert found.prefill_tokens_per_s is None
    assert found.roof_tokens_per_s is None
    assert found.memory.weights_bytes > 0
    assert found.memory.available_bytes
    verdict = found.verdict(Target())
    assert verdict.kind is VerdictKind.BORDERLINE
    assert verdict.basis is Basis.PROJECTED


def test_the_range_of_a_bandwidth_is_in_the_interval_and_said():
    exact, ranged = (
        project(planned("llama-3.1-8b"), made_up(figure(*ends), "cuda"))
        for ends in ((300e9,), (200e9, 450e9))
    )
    narrow, wide = rate_of(exact), rate_of(ranged)
    assert wide.value == pytest.approx(narrow.value, rel=0.02)
    assert wide.high / wide.low > narrow.high / narrow.low
    assert any("between 200 and 450 GB/s" in text for text in ranged.assumptions)


def test_where_nobody_chose_the_way_is_one_that_is_used_on_such_devices():
    # Nobody published llama.cpp on the graphics part of such a board or of such a phone.
    assert project(planned(), device("raspberry-pi-5-8gb")).accelerator == "cpu"
    assert project(planned(), device("pixel-9-pro")).accelerator == "cpu"
    card = project(planned(), device("rtx4080"))
    assert (card.accelerator, card.api) == ("gpu", "cuda")
    assert project(planned(), device("apple-m3-max")).api == "metal"
    asked = project(planned(), device("pixel-9-pro"), accelerator="gpu", api="vulkan")
    assert (asked.accelerator, asked.api) == ("gpu", "vulkan")


@pytest.mark.parametrize(
    ("device_name", "asked", "said"),
    [
        ("rtx4080", {"accelerator": "npu"}, "gpu through cuda"),
        ("rtx4080", {"api": "metal"}, "gpu through cuda"),
        ("raspberry-pi-5-8gb", {"backend": "mlx"}, "nothing that mlx"),
        ("rtx4080", {"backend": "no-such-engine"}, "Known: llama.cpp"),
    ],
)
def test_a_way_the_device_has_not_is_refused_with_those_it_has(device_name, asked, said):
    with pytest.raises(UsageError) as caught:
        project(planned(), device(device_name), **asked)
    assert said in str(caught.value)


def test_an_engine_is_known_by_the_names_people_type():
    phone = device("iphone-17-pro")
    for name in ("llama.cpp", "llama_cpp", "Ollama"):
        assert project(planned(), phone, backend=name).backend == "llama.cpp"
    assert project(planned(), phone, backend="MLX").api == "metal"


def test_threads_that_are_not_used_do_not_count():
    board = device("raspberry-pi-5-8gb")
    one, all_of_them = (
        rate_of(project(planned(), board, options=SessionOptions(threads=n))) for n in (1, 4)
    )
    assert one.value < all_of_them.value


def test_all_models_at_three_levels_are_projected_within_a_moment():
    plans = [planned(name, level) for name in SHAPES for level in ("Q8_0", "Q4_K_M", "Q4_0")]
    phone = device("pixel-9-pro")
    project(plans[0], phone)
    started = time.process_time()
    for plan in plans:
        project(plan, phone)
    assert time.process_time() - started < 0.7


def test_every_level_is_projected():
    card = device("rtx4080")
    for level in LEVELS:
        if level not in ("Q1_0",):
            assert rate_of(project(planned("llama-3.1-8b", level), card)).value > 0


def own(plan: PlannedModel, tokens_per_s: float, **changes) -> OwnRow:
    row = OwnRow(
        planned=plan,
        accelerator="cpu",
        api="",
        backend="llama.cpp",
        threads=None,
        depth_tokens=64,
        prompt_tokens=512,
        decode=Interval(low=tokens_per_s * 0.98, value=tokens_per_s, high=tokens_per_s * 1.02),
        prefill=None,
        measured_on="2026-11-22",
    )
    return dataclasses.replace(row, **changes)


def test_an_own_measurement_moves_the_projection_and_narrows_it():
    board = device("raspberry-pi-5-8gb")
    before = project(planned("llama-3.2-3b"), board, accelerator="cpu")
    value = rate_of(project(planned("qwen2.5-1.5b"), board, accelerator="cpu")).value
    for factor in (0.6, 1.4):
        rows = (own(planned("qwen2.5-1.5b"), value * factor),)
        after = project(
            planned("llama-3.2-3b"),
            board,
            accelerator="cpu",
            own=Calibration(device=board.id, rows=rows),
        )
        assert after.nearness.own_rows == 1
        assert after.settles == ""
        moved = rate_of(after).value / rate_of(before).value
        assert min(factor, 1) < moved < max(factor, 1)
        assert abs(moved - factor) < abs(moved - 1)
        assert rate_of(after).high / rate_of(after).low < rate_of(before).high / rate_of(before).low
        assert "corrected by one measurement" in " ".join(after.assumptions)


WAYS = (
    ("epyc-7352", "cpu", ""),
    ("ryzen-7950x", "cpu", ""),
    ("raspberry-pi-5-8gb", "cpu", ""),
    ("snapdragon-8-gen-2", "cpu", ""),
    ("snapdragon-8-elite-gen-5", "npu", "hexagon"),
    ("apple-m2", "gpu", "metal"),
    ("rtx4090", "gpu", "cuda"),
    ("rtx4080", "gpu", "vulkan"),
)
LARGER = ("llama-3.2-1b", "qwen2.5-1.5b", "gemma-3-1b", "llama-3.2-3b", "llama-3.1-8b")


@settings(max_examples=40, deadline=None)
@given(
    way=st.sampled_from(WAYS),
    level=st.sampled_from(("Q8_0", "Q4_0", "Q4_K_M")),
    factor=st.floats(0.02, 1.2),
    threads=st.sampled_from((None, 2, 8)),
    model=st.sampled_from(LARGER),
)
def test_no_larger_model_is_faster_than_a_smaller_one_was(way, level, factor, threads, model):
    name, kind, api = way
    asked = {
        "device": device(name), "accelerator": kind, "api": api or None,
        "options": SessionOptions(threads=threads), "target": Target(prompt_tokens=64),
    }  # fmt: skip
    small = planned("qwen2.5-0.5b", level)
    rate = factor * rate_of(project(small, **asked)).value
    row = own(small, rate, accelerator=kind, api=api, threads=threads if kind == "cpu" else None)
    found = project(planned(model, level), own=Calibration(device=name, rows=(row,)), **asked)
    assert rate_of(found).value <= 1.2 * rate


@pytest.mark.parametrize("factor", [0.1, 0.5])
@pytest.mark.parametrize("name", ["epyc-7352", "ryzen-7950x", "raspberry-pi-4"])
def test_own_measurements_outweigh_what_others_published_of_such_a_device(name, factor):
    board = device(name)
    stranger = dataclasses.replace(board, id="nobody-published-it")
    values = {
        model: rate_of(project(planned(model, "Q8_0"), stranger, accelerator="cpu")).value
        for model in ("smollm2-135m", "qwen2.5-0.5b", "qwen2.5-1.5b", "llama-3.2-3b")
    }
    rows = tuple(own(planned(model, "Q8_0"), factor * rate) for model, rate in values.items())
    own_rows = Calibration(device=name, rows=rows[:-1])
    found = project(planned("llama-3.2-3b", "Q8_0"), board, accelerator="cpu", own=own_rows)
    assert rate_of(found).value == pytest.approx(factor * values["llama-3.2-3b"], rel=0.25)


def test_where_threads_are_not_said_they_are_those_that_were_measured():
    board = device("epyc-7352")
    rows = (own(planned("qwen2.5-0.5b", "Q8_0"), 12.0, threads=2),)
    asked = {"accelerator": "cpu", "own": Calibration(device=board.id, rows=rows)}
    silent = project(planned(), board, **asked)
    said = project(planned(), board, options=SessionOptions(threads=2), **asked)
    assert silent.decode_tokens_per_s == said.decode_tokens_per_s
    assert "The 2 fastest cores work" in " ".join(silent.assumptions)


def test_a_measurement_of_another_way_says_nothing():
    board = device("raspberry-pi-5-8gb")
    before = project(planned(), board, accelerator="cpu")
    elsewhere = (
        own(planned("qwen3-0.6b"), 900.0, accelerator="gpu", api="vulkan"),
        own(planned("qwen3-0.6b"), 900.0, backend="onnx-runtime"),
    )
    after = project(
        planned(), board, accelerator="cpu", own=Calibration(device=board.id, rows=elsewhere)
    )
    assert after.decode_tokens_per_s == before.decode_tokens_per_s
    assert after.nearness.own_rows == 0


def test_the_verdict_names_the_cause_and_what_would_settle_it():
    board, target = device("raspberry-pi-5-8gb"), Target()
    slow = project(planned("llama-3.1-8b"), board).verdict(target)
    assert slow.kind is VerdictKind.NOT_VIABLE
    assert slow.basis is Basis.PROJECTED
    assert "memory bandwidth: reading" in slow.cause
    small = project(planned("smollm2-135m"), board).verdict(target)
    assert small.kind is VerdictKind.VIABLE
    between = project(planned("qwen3-0.6b"), board)
    limit = rate_of(between).value
    borderline = between.verdict(Target(decode_tokens_per_s=limit))
    assert borderline.kind is VerdictKind.BORDERLINE
    assert borderline.next_step == between.settles != ""
