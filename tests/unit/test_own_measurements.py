"""Measurements made on a device: which count, what they are kept as, and what they are worth."""

from __future__ import annotations

import copy
import dataclasses
import math

import own_records
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.cli.engines import planned_model
from edge_runtime.errors import FormatError, UsageError
from edge_runtime.feasibility import Phase
from edge_runtime.measurement import BandwidthReading, Emulation, Engine, Gpu, Limits, Placement
from edge_runtime.memory import Buffer, PhasePeak
from edge_runtime.projection.calibration import Calibration
from edge_runtime.projection.own import PersonalDevice
from edge_runtime.projection.own_costs import (
    OwnRate,
    covered_types,
    own_rate,
    settled,
    student_t,
)
from edge_runtime.projection.own_rows import one_host, own_rows
from edge_runtime.statistics import Interval

CELLS = own_records.bench_cells()


def device_of(measurements) -> PersonalDevice:
    found = own_rows(measurements, planned_model)
    return PersonalDevice(
        id="mine", name="Mine", base="", device_class="server", created="2026-01-02",
        tool_version="0", host=one_host(measurements), clock_hz=2.5e9, models=found.models,
        rows=found.rows,
        bandwidth=BandwidthReading(
            bytes_per_s=Interval(low=1e10, value=2e10, high=2e10), working_set_bytes=1, threads=2,
            method="test",
        ),
    )  # fmt: skip


def calibration_of(measurements) -> Calibration:
    return device_of(measurements).calibration(planned_model)


def decode(own, model, level, *, layers=None, depth=72, confidence=0.8, **changes):
    asked = {
        "phase": Phase.DECODE, "backend": "llama.cpp", "accelerator": "cpu", "api": "",
        "threads": None, "depth_tokens": depth, "confidence": confidence, **changes,
    }  # fmt: skip
    return own_rate(own, planned_model(own_records.shape_of(model, layers), level), **asked)


def truth(model, level, depth=72, phase=Phase.DECODE) -> float:
    planned = planned_model(own_records.shape_of(model), level)
    return 1 / own_records.true_seconds(planned, phase, depth)


OWN = calibration_of(CELLS)


def test_every_cell_of_a_check_becomes_a_row_of_its_model():
    found = own_rows(CELLS, planned_model)
    assert not found.left_out
    assert [shape.name for shape in found.models] == [name for name, _ in own_records.BENCH]
    cut = next(row for row in found.rows if row.model == "llama-3.2-3b")
    assert (cut.layers, cut.depth_tokens, cut.prompt_tokens, cut.threads) == (5, 72, 64, 2)
    assert (cut.accelerator, cut.api, cut.backend) == ("cpu", "", "llama.cpp")
    assert {one.type for one in cut.reads} == {"Q8_0"}
    assert cut.measured_on == "2026-01-01"
    assert cut.synthetic


@pytest.mark.parametrize("level", own_records.LEVELS)
@pytest.mark.parametrize("model", ["qwen2.5-1.5b", "llama-3.1-8b", "gemma-3-1b"])
def test_a_model_that_never_ran_gets_the_rate_it_would_have(model, level):
    found = decode(OWN, model, level)
    assert found.tokens_per_s.value == pytest.approx(truth(model, level), rel=0.10)
    assert found.tokens_per_s.low < truth(model, level) < found.tokens_per_s.high
    assert "fitted to 12 measurements" in found.words


def test_a_prompt_is_projected_from_the_device_too():
    found = decode(OWN, "qwen2.5-1.5b", "Q4_0", depth=128, phase=Phase.PREFILL)
    expected = truth("qwen2.5-1.5b", "Q4_0", 128, Phase.PREFILL)
    assert found.tokens_per_s.value == pytest.approx(expected, rel=0.15)


def test_the_file_that_ran_is_answered_by_its_own_rate_and_narrowly():
    slow = own_records.measured("qwen2.5-1.5b", "Q4_0", slower=1.3)
    own = calibration_of((*CELLS, slow))
    measured = truth("qwen2.5-1.5b", "Q4_0") / 1.3
    found = decode(own, "qwen2.5-1.5b", "Q4_0")
    # The fit says another rate; what was measured wins, though not to the last percent.
    assert found.tokens_per_s.value == pytest.approx(measured, rel=0.08)
    assert "measured on this device itself" in found.words
    other = decode(OWN, "qwen2.5-1.5b", "Q4_0").tokens_per_s
    assert found.tokens_per_s.relative_half_width < other.relative_half_width


def test_a_single_run_says_less_than_the_other_cells():
    once = own_records.measured("qwen2.5-1.5b", "Q4_0", slower=2.0)
    once = dataclasses.replace(once, runs=once.runs[:1])
    found = decode(calibration_of((*CELLS, once)), "qwen2.5-1.5b", "Q4_0").tokens_per_s
    assert found.value > 0.75 * truth("qwen2.5-1.5b", "Q4_0")


def test_depth_costs_what_the_device_says():
    shallow, deep = (decode(OWN, "qwen3-0.6b", "Q8_0", depth=d).tokens_per_s for d in (72, 2000))
    expected = truth("qwen3-0.6b", "Q8_0", 2000) / truth("qwen3-0.6b", "Q8_0", 72)
    assert deep.value / shallow.value == pytest.approx(expected, rel=0.10)


def test_a_higher_confidence_is_a_wider_interval():
    widths = [
        decode(OWN, "qwen2.5-1.5b", "Q4_0", confidence=share).tokens_per_s.relative_half_width
        for share in (0.5, 0.8, 0.95)
    ]
    assert widths == sorted(widths)
    assert widths[0] < 0.6 * widths[2]
    ran = [
        decode(OWN, "qwen2.5-0.5b", "Q4_0", confidence=share).tokens_per_s for share in (0.5, 0.95)
    ]
    assert ran[0].relative_half_width < 0.6 * ran[1].relative_half_width


def test_what_ran_by_one_api_says_nothing_of_another():
    cells = own_rows([changed(), on_gpu(29, ["CUDA0"])], planned_model)
    own = dataclasses.replace(device_of(CELLS[:1]), rows=cells.rows).calibration(planned_model)
    asked = {"accelerator": "gpu", "model": "qwen3-0.6b", "level": "Q8_0"}
    assert decode(own, api="cuda", **asked).direct
    assert decode(own, api="vulkan", **asked) is None


@pytest.mark.parametrize(
    ("model", "level", "changes"),
    [
        ("qwen2.5-1.5b", "F16", {}),
        ("qwen2.5-1.5b", "Q2_K", {}),
        ("qwen2.5-1.5b", "Q4_0", {"accelerator": "gpu", "api": "vulkan"}),
        ("qwen2.5-1.5b", "Q4_0", {"backend": "ONNX Runtime"}),
        ("qwen2.5-1.5b", "Q4_0", {"threads": 1}),
    ],
)
def test_what_was_not_measured_is_not_guessed(model, level, changes):
    assert decode(OWN, model, level, **changes) is None


def test_one_model_alone_gives_no_costs():
    own = calibration_of([one for one in CELLS if one.artifact.name == "qwen3-0.6b"])
    assert decode(own, "qwen2.5-1.5b", "Q8_0") is None
    assert decode(own, "qwen3-0.6b", "Q8_0") is not None
    assert covered_types(own, backend="llama.cpp", accelerator="cpu", api="") == ()
    assert "Q6_K" in covered_types(OWN, backend="llama_cpp", accelerator="cpu", api="")


def test_disturbed_measurements_leave_the_device_room_to_be_faster():
    noisy = calibration_of(own_records.bench_cells(flags=("other processes used 60% of the CPU",)))
    quiet, loud = (decode(own, "qwen2.5-1.5b", "Q4_0") for own in (OWN, noisy))
    assert loud.tokens_per_s.high > 1.4 * quiet.tokens_per_s.high
    assert "disturbed" in loud.words


def test_disturbed_rows_do_not_count_where_quiet_ones_say_it():
    noisy = own_records.bench_cells(flags=("late",), slower=3.0)
    mixed = calibration_of((*noisy, *CELLS))
    for model in ("qwen2.5-1.5b", "qwen3-0.6b"):
        found = decode(mixed, model, "Q4_0").tokens_per_s.value
        assert found == pytest.approx(decode(OWN, model, "Q4_0").tokens_per_s.value, rel=0.01)


def test_what_others_left_of_the_device_does_not_count():
    noise = dataclasses.replace(CELLS[0].noise, foreign_share=0.5, flags=("others",))
    spoilt = [dataclasses.replace(one, noise=noise) for one in CELLS]
    rows = own_rows(spoilt, planned_model).rows
    assert len(rows) == 12
    assert {row.taken_share for row in rows} == {0.5}
    assert calibration_of(spoilt).rows == ()
    assert len(calibration_of([*spoilt[:6], *CELLS[6:]]).rows) == 6
    # One thread of two cores has a core for itself.
    alone = dataclasses.replace(spoilt[0].options, threads=1)
    assert calibration_of([dataclasses.replace(spoilt[0], options=alone)]).rows


@pytest.mark.parametrize(
    ("freedom", "confidence", "expected"),
    [(6, 0.8, 1.440), (6, 0.95, 2.447), (12, 0.8, 1.356), (12, 0.5, 0.695), (30, 0.9, 1.697)],
)
def test_quantiles_of_students_t_are_those_of_the_tables(freedom, confidence, expected):
    assert student_t(confidence, freedom) == pytest.approx(expected, rel=0.005)


def changed(**changes):
    return dataclasses.replace(CELLS[0], **changes)


def on_gpu(layers, names, buffers=()):
    host = dataclasses.replace(
        own_records.HOST,
        gpus=tuple(Gpu(name=n, description="A card", memory_bytes=1 << 33) for n in names),
    )
    options = dataclasses.replace(CELLS[0].options, gpu_layers=layers)
    kept = tuple(Buffer(device=name, purpose="model", size_bytes=1) for name in buffers)
    memory = dataclasses.replace(CELLS[0].memory, buffers=kept)
    return changed(host=host, options=options, memory=memory)


def onnx(*placed):
    places = tuple(Placement(provider=name, nodes=1, share=share) for name, share in placed)
    return changed(engine=Engine(name="onnxruntime", version="1", placement=places))


PAGED = dataclasses.replace(
    CELLS[0].memory,
    phases=(
        PhasePeak(phase="decode", peak_bytes=1, anonymous_bytes=1, file_bytes=0, major_faults=0,
                  read_bytes=1 << 40),
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (changed(emulated=Emulation(limits=Limits(cores=1), means="affinity")), "emulates"),
        (changed(engine=Engine(name="fake", version="1")), "fake measures no device"),
        (changed(memory=PAGED), "read back from the disk"),
        (changed(runs=()), "no rate"),
        (
            changed(artifact=dataclasses.replace(CELLS[0].artifact, parameters=7)),
            "not in the catalogue",
        ),
        (
            changed(artifact=dataclasses.replace(CELLS[0].artifact, decode_bytes=7)),
            "tensor types are not those",
        ),
        (
            changed(artifact=dataclasses.replace(CELLS[0].artifact, level="UD-Q9")),
            "UD-Q9",
        ),
        (on_gpu(28, ["CUDA0"]), "only 28 of 29 layers"),
        (on_gpu(29, ["Weird0"]), "does not say by which API"),
        (on_gpu(29, ["CUDA0", "Vulkan0"]), "does not say by which API"),
        (onnx(("CUDAExecutionProvider", 0.7), ("CPUExecutionProvider", 0.3)), "several execution"),
        (onnx(("OddExecutionProvider", 1.0)), "odd computes on is not known"),
    ],
)
def test_what_says_nothing_of_the_device_is_left_out_with_its_reason(one, reason):
    found = own_rows([one, CELLS[1]], planned_model)
    assert len(found.rows) == 1
    assert reason in found.left_out[0].reason
    assert "qwen3-0.6b" in found.left_out[0].what


@pytest.mark.parametrize(
    ("one", "route"),
    [
        (on_gpu(29, ["CUDA0"]), ("gpu", "cuda")),
        (on_gpu(29, ["CUDA0", "Vulkan0"], ["CPU_Mapped", "Vulkan0"]), ("gpu", "vulkan")),
        (on_gpu(29, ["Metal"], ["CPU", "MTL0_Mapped"]), ("gpu", "metal")),
        (on_gpu(29, ["HTP0"]), ("npu", "hexagon")),
        (on_gpu(0, ["CUDA0"]), ("cpu", "")),
    ],
)
def test_what_computed_is_read_from_the_record(one, route):
    row = own_rows([one], planned_model).rows[0]
    assert (row.accelerator, row.api) == route
    assert (row.threads is None) == (row.accelerator != "cpu")


def test_a_prompt_behind_a_context_says_nothing_of_one_that_begins_it():
    deep = changed(workload=dataclasses.replace(CELLS[0].workload, depth_tokens=4096))
    row = own_rows([deep], planned_model).rows[0]
    assert row.prefill_tokens_per_s is None
    assert row.depth_tokens == 4096 + own_rows(CELLS[:1], planned_model).rows[0].depth_tokens


def test_measurements_of_two_machines_are_refused_by_name():
    other = dataclasses.replace(own_records.HOST, cpu="Intel N100")
    with pytest.raises(UsageError, match="2 machines") as error:
        one_host([CELLS[0], changed(host=other)])
    assert "AMD EPYC 9B14" in error.value.cause
    assert "Intel N100" in error.value.cause


def test_an_emulated_smaller_machine_is_the_same_machine():
    small = dataclasses.replace(own_records.HOST, ram_bytes=1 << 30)
    limits = Emulation(limits=Limits(memory_bytes=1 << 30), means="a control group")
    assert one_host([CELLS[0], changed(host=small, emulated=limits)]) == own_records.HOST


def test_a_machine_stays_itself_when_its_kernel_changes():
    host = dataclasses.replace(
        own_records.HOST, release="7.0", ram_bytes=own_records.HOST.ram_bytes - 9
    )
    assert one_host([CELLS[0], changed(host=host)]).release == "7.0"


def test_a_device_is_read_back_as_it_was_written():
    device = device_of(CELLS)
    assert PersonalDevice.from_json(device.to_json()) == device


DOCUMENT = device_of(CELLS[:2]).to_json()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("schema",), 2, "schema"),
        (("kind",), "measurement", "kind"),
        (("rows",), [], "no rows"),
        (("rows", 0, "model"), "gpt-9", "none of its models"),
        (("rows", 0, "layers"), 29, "29 of 28 layers"),
        (("rows", 0, "threads"), 0, "0 threads"),
        (("rows", 0, "depth_tokens"), -1, "context"),
        (("rows", 0, "decode_tokens_per_s", "low"), 0.0, "interval"),
        (("rows", 0, "decode_tokens_per_s", "value"), 1e9, "interval"),
        (("bandwidth", "bytes_per_s", "high"), 1e99, "interval"),
        (("models", 0, "layers"), 10**9, "shape"),
        (("models", 0, "kv_heads"), 0, "shape"),
        (("device_class",), "toaster", "'toaster' is no class"),
        (("models", 0, "vocabulary_tokens"), 10**12, "shape"),
        (("host", "ram_bytes"), -5, "memory or cores"),
        (("clock_hz",), 1.0, "clock"),
        (("rows", 0, "taken_share"), -1.0, "processor time"),
        (("new",), 1, "unknown field"),
    ],
)  # fmt: skip
def test_a_number_that_no_device_has_is_named(path, value, words):
    data = copy.deepcopy(DOCUMENT)
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(FormatError, match=words):
        PersonalDevice.from_json(data)


def test_a_file_of_another_recipe_is_told_from_this_one():
    data = copy.deepcopy(DOCUMENT)
    data["rows"][0]["reads"][0]["bytes"] *= 1.2
    with pytest.raises(FormatError, match="other tensor types"):
        PersonalDevice.from_json(data).calibration(planned_model)


def paths_of(value, here=()):
    yield here
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths_of(inner, (*here, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from paths_of(inner, (*here, number))


PATHS = [path for path in paths_of(DOCUMENT) if path]
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=9),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=1),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from(PATHS), value=JUNK)
def test_whatever_stands_in_a_file_is_a_device_or_a_format_error(path, value):
    data = copy.deepcopy(DOCUMENT)
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    try:
        own = PersonalDevice.from_json(data).calibration(planned_model)
    except FormatError:
        return
    found = decode(own, "qwen3-0.6b", "Q8_0")
    assert found is None or math.isfinite(found.tokens_per_s.high)


def interval(low, value, high):
    return Interval(low=low, value=value, high=high)


def fitted(rate, *, direct=False):
    return OwnRate(tokens_per_s=rate, rows=12, words="", direct=direct)


def test_a_fit_and_the_conditioned_model_are_weighed_by_how_sure_they_are():
    narrow, wide = interval(9.0, 10.0, 11.1), interval(6.0, 12.0, 24.0)
    found = settled(fitted(narrow), wide)
    assert 10.0 < found.value < 10.5
    assert found.low < 9.5
    assert found.high > 10.9
    assert settled(fitted(wide), narrow).value == pytest.approx(found.value)
    # What ran itself is asked of no model.
    assert settled(fitted(wide, direct=True), narrow) == wide
    assert settled(None, narrow) == narrow


def test_two_that_contradict_each_other_are_both_believed_less():
    one, other = interval(9.5, 10.0, 10.5), interval(38.0, 40.0, 42.0)
    found = settled(fitted(one), other)
    assert found.value == pytest.approx(20.0, rel=0.05)
    assert found.low < 12
    assert found.high > 35


def test_a_rate_held_at_its_roof_does_not_outweigh_what_was_measured():
    held = interval(10.0, 10.0, 10.0)
    assert settled(fitted(interval(11.0, 12.0, 13.0)), held).value == 12.0
