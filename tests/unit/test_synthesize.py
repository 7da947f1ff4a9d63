"""A synthetic artifact has the real one's sizes and types, says what it is, and is cut fairly."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.artifact import LEVELS, Artifact, ModelShape, level
from edge_runtime.artifact.recipe import types_for
from edge_runtime.errors import DiskError, UnsupportedError, UsageError
from quantize import kept_layers, synthesize, synthetic_bytes
from quantize.writers import whole_file


def shape_of(layers: int = 3, **changes: object) -> ModelShape:
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 300, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    return ModelShape.from_config({**config, **changes}, name="small")


@pytest.mark.parametrize("name", LEVELS)
def test_it_is_what_was_asked_for(tmp_path: Path, name: str) -> None:
    shape = shape_of()
    artifact = synthesize(shape, name, tmp_path / "m.gguf")
    assert artifact.synthetic
    assert (artifact.name, artifact.layers_of_model) == ("small", 3)
    assert artifact.shape == shape
    assert artifact.tokenizer_model == "no_vocab"
    assert artifact.vocabulary_tokens == 300
    assert artifact.weight_bytes == shape.weight_bytes(name)
    assert artifact.decode_bytes == shape.decode_bytes(name)
    assert artifact.size_bytes == synthetic_bytes(shape, name) == artifact.path.stat().st_size
    if name != "MXFP4_MOE":  # a dense model has no experts for it
        assert artifact.level == name


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first, second, other = (
        synthesize(shape_of(), "Q4_K_M", tmp_path / f"{i}.gguf", seed=seed).path.read_bytes()
        for i, seed in enumerate((1, 1, 2))
    )
    assert first == second
    assert len(first) == len(other)
    assert first != other


def test_a_cut_file_states_the_whole_models_layers(tmp_path: Path) -> None:
    shape = shape_of(24)
    artifact = synthesize(shape, "Q4_K_M", tmp_path / "m.gguf", layers=4)
    assert (artifact.shape.layers, artifact.layers_of_model) == (4, 24)
    assert artifact.size_bytes == synthetic_bytes(shape, "Q4_K_M", 4)
    kept = artifact.metadata["edge_runtime.kept_layers"]
    assert tuple(kept) == kept_layers(shape, "Q4_K_M", 4)
    whole = types_for(shape, level("Q4_K_M"))
    for tensor in artifact.tensors:
        name = tensor.name
        if name.startswith("blk."):
            _, layer, rest = name.split(".", 2)
            name = f"blk.{kept[int(layer)]}.{rest}"
        assert tensor.type == whole[name]


def layer_bytes(shape: ModelShape, name: str) -> list[int]:
    types = types_for(shape, level(name))
    sizes = [0] * shape.layers
    for tensor in shape.tensors:
        if tensor.name.startswith("blk."):
            sizes[int(tensor.name.split(".")[1])] += types[tensor.name].size_bytes(tensor.dims)
    return sizes


@given(
    layers=st.integers(1, 40),
    part=st.floats(0.01, 1.0),
    name=st.sampled_from(["Q4_K_M", "Q3_K_L", "Q5_K_M", "Q2_K", "IQ4_XS", "F16"]),
)
@settings(max_examples=80, deadline=None)
def test_bytes_per_layer_come_as_near_as_they_can(layers: int, part: float, name: str) -> None:
    shape = shape_of(layers)
    count = max(1, round(part * layers))
    kept = kept_layers(shape, name, count)
    assert len(set(kept)) == len(kept) == count
    assert list(kept) == sorted(kept)
    assert set(kept) <= set(range(layers))
    sizes = layer_bytes(shape, name)
    mean = sum(sizes) / layers
    spread = max(sizes) - min(sizes)
    # One layer more or less of a kind is the best any choice can promise.
    assert abs(sum(sizes[i] for i in kept) / count - mean) <= spread / count
    if count == layers:
        assert kept == tuple(range(layers))


def test_a_cut_of_the_usual_level_is_near() -> None:
    shape = shape_of(32)
    sizes = layer_bytes(shape, "Q4_K_M")
    kept = kept_layers(shape, "Q4_K_M", 4)
    assert sum(sizes[i] for i in kept) / 4 == pytest.approx(sum(sizes) / 32, rel=1e-9)


def test_impossible_requests_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    with pytest.raises(UsageError):
        synthesize(shape_of(), "Q4_K_M", out, layers=4)
    with pytest.raises(UsageError):
        synthesize(shape_of(), "Q4_K_M", out, layers=0)
    with pytest.raises(UnsupportedError, match="Q4_K_X"):
        synthesize(shape_of(), "Q4_K_X", out)
    with pytest.raises(DiskError):
        synthesize(shape_of(), "Q4_K_M", tmp_path / "no" / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_the_spare_room_is_part_of_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_file, "SPARE_BYTES", 2**60)
    with pytest.raises(DiskError, match="to spare"):
        synthesize(shape_of(), "Q4_0", tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(shape_of(), "Q8_0", tmp_path / "m.gguf", progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_experts_are_routed_by_rows_that_differ(tmp_path: Path) -> None:
    import numpy as np

    shape = shape_of(
        architectures=["Qwen3MoeForCausalLM"], num_experts=16, num_experts_per_tok=2,
        moe_intermediate_size=256, decoder_sparse_step=1, head_dim=64,
    )  # fmt: skip
    artifact: Artifact = synthesize(shape, "Q4_0", tmp_path / "m.gguf")
    gate = next(t for t in artifact.tensors if t.name == "blk.0.ffn_gate_inp.weight")
    data = artifact.path.read_bytes()[gate.offset_bytes :][: gate.size_bytes]
    rows = np.frombuffer(data, np.float32).reshape(16, 256)
    assert np.unique(rows, axis=0).shape == (16, 256)
