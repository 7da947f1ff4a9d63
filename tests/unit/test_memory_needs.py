"""What a model will need before it is made: plans equal the files made later, for both engines."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

import profiles
import quantize
from edge_runtime.artifact import ModelShape
from edge_runtime.cli.engines import planned_model, planned_of
from edge_runtime.feasibility import Phase, planned_work, work_of
from edge_runtime.measurement import SessionOptions
from edge_runtime.memory import Memory, PhasePeak
from edge_runtime.memory_needs import ONNX_SESSION_BYTES, compute_buffer_bytes, memory_fit
from edge_runtime.verdict import Target, evidence_of
from tests.records import measurement, tg_run

MIB = 1024**2
TARGET = Target(context_tokens=2048)


def shape_of(name: str, layers: int | None = None) -> ModelShape:
    shape = ModelShape.from_config(profiles.models()[name].config, name=name)
    return shape if layers is None else shape.truncated(layers)


def narrow(name: str) -> ModelShape:
    """The family of a model at a hundredth of its size."""
    shape = shape_of(name, 2)
    experts: dict[str, int] = {}
    if shape.experts:
        experts = {"experts": 4, "experts_used": 2, "expert_intermediate": 128}
    return dataclasses.replace(
        shape, hidden=256, intermediate=512, vocabulary_tokens=640, heads=4,
        kv_heads=2 if shape.kv_heads < shape.heads else 4, head_dim=64, rope_scaling=None,
        rope_dimensions=shape.rope_dimensions and 64, context_tokens=256,
        sliding_window=shape.sliding_window and 64, layers_of_model=2, **experts,
    )  # fmt: skip


FAMILIES = ("smollm2-135m", "qwen2.5-0.5b", "qwen2.5-7b", "qwen3-0.6b", "phi-4-mini", "gpt2",
            "olmo-2-1b", "granite-3.3-2b", "olmoe-1b-7b")  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("level", ["onnx:int4", "onnx:int8", "onnx:fp16"])
def test_a_plan_has_the_bytes_of_the_file_made_later(tmp_path: Path, name: str, level: str) -> None:
    shape = narrow(name)
    planned = planned_model(shape, level)
    made = quantize.synthesize(shape, level, tmp_path / "model")
    counted: Counter[str] = Counter()
    for tensor in made.tensors:
        if not tensor.name.startswith("rope_cache."):
            counted[tensor.type.name] += tensor.size_bytes
    expected: Counter[str] = Counter()
    for tensor in planned.tensors:
        expected[tensor.type.name] += tensor.size_bytes
    assert expected == counted
    assert planned.cache_bytes_per_token == made.cache_bytes_per_token
    for phase in Phase:
        ahead = planned_work(planned, phase, 100)
        after = work_of(made.shape, made.tensors, phase, 100)
        assert ahead.bytes_by_type == pytest.approx(after.bytes_by_type)
        assert ahead.attention == after.attention


def test_no_two_matrices_of_a_synthetic_model_are_alike(tmp_path: Path) -> None:
    # ONNX Runtime would keep them once, and the model would look smaller and faster than it is.
    shape = dataclasses.replace(narrow("smollm2-135m"), tied_embeddings=False)
    for level in ("onnx:int4", "onnx:fp32"):
        made = quantize.synthesize(shape, level, tmp_path / level.replace(":", "-"))
        data = made.paths[1].read_bytes()
        blocks = [
            data[t.offset_bytes : t.offset_bytes + t.dims[0] * t.dims[1] // 2]
            for t in made.tensors
            if len(t.dims) == 2 and not t.name.startswith("rope_cache.")
        ]
        assert len(blocks) > 8
        assert len(set(blocks)) == len(blocks)


def test_a_gguf_plan_is_the_recipe() -> None:
    shape = shape_of("qwen2.5-0.5b")
    planned = planned_model(shape, "q4_k_m")
    assert planned.level == "Q4_K_M"
    assert planned.weight_bytes == shape.weight_bytes("Q4_K_M")
    need = memory_fit(planned, TARGET, SessionOptions(), available_bytes=None)
    assert need.kv_bytes == shape.kv_bytes(2048)
    assert need.compute_bytes == compute_buffer_bytes(shape, 2048, 512)


# Anonymous memory of a measuring process at its peak (a prompt of 256 tokens in a context of 2,048,
# the cache's touched part left out), MiB: onnxruntime 1.31.1, x86-64, synthetic weights.
MEASURED_MIB = {
    ("smollm2-135m", "onnx:int4"): 145, ("smollm2-135m", "onnx:int8"): 209,
    ("smollm2-135m", "onnx:fp32"): 558, ("smollm2-135m", "onnx:fp16"): 719,
    ("qwen2.5-0.5b", "onnx:int4"): 424, ("qwen2.5-0.5b", "onnx:int8"): 660,
    ("qwen2.5-0.5b", "onnx:fp16"): 2690,
}  # fmt: skip


@pytest.mark.parametrize(("name", "level"), MEASURED_MIB)
def test_what_onnx_runtime_needs_is_about_what_was_measured(name: str, level: str) -> None:
    planned = planned_model(shape_of(name), level)
    need = memory_fit(planned, TARGET, SessionOptions(), available_bytes=None, process_bytes=0)
    private = need.weights_bytes + need.compute_bytes
    assert private / MIB == pytest.approx(MEASURED_MIB[name, level], rel=0.1)
    assert need.compute_bytes > ONNX_SESSION_BYTES


def test_the_graph_decides_on_the_cache() -> None:
    shape = shape_of("smollm2-135m")
    sizes = [
        memory_fit(planned_model(shape, level), TARGET, SessionOptions(kv_type_k="q8_0"),
                   available_bytes=None).kv_bytes
        for level in ("onnx:fp16", "onnx:int4")
    ]  # fmt: skip
    assert sizes[0] == 2048 * 30 * 2 * 3 * 64 * 2
    assert sizes[1] == 2 * sizes[0]


def test_a_file_is_a_plan_of_itself(tmp_path: Path) -> None:
    made = quantize.synthesize(narrow("smollm2-135m"), "onnx:int4", tmp_path / "model")
    planned = planned_of(made)
    assert (planned.level, planned.weight_bytes) == ("onnx:int4", made.weight_bytes)
    assert planned.cache_bytes_per_token == made.cache_bytes_per_token


def test_unlisted_memory_of_onnx_runtime_counts() -> None:
    # It lists weights and cache only; what it holds beside them is what the process shows.
    record = measurement((tg_run(4, 1000),), context=1024, model_bytes=100 * MIB, kv_bytes=64 * MIB)
    onnx = dataclasses.replace(
        record,
        artifact=dataclasses.replace(record.artifact, format="onnx", level="int4"),
        memory=Memory(
            baseline_bytes=50 * MIB,
            phases=(
                PhasePeak(phase="load", peak_bytes=0, anonymous_bytes=180 * MIB, file_bytes=90,
                          major_faults=0),
                PhasePeak(phase="decode", peak_bytes=0, anonymous_bytes=150 * MIB, file_bytes=90,
                          major_faults=0),
            ),
            buffers=() if not isinstance(record.memory, Memory) else record.memory.buffers,
            method="test",
        ),
    )  # fmt: skip
    need = evidence_of(onnx, Target(context_tokens=2048)).memory
    assert need.weights_bytes == 100 * MIB
    assert need.kv_bytes == 128 * MIB
    # 180 held; 100 are weights, and of the cache's 64 MiB four tokens of 1,024 were touched.
    assert need.compute_bytes == 180 * MIB - 100 * MIB - 64 * MIB * 4 // 1024
    assert need.process_bytes == 50 * MIB
