"""Folders and graphs as publishers lay them out: which file is meant, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.artifact import Artifact
from edge_runtime.artifact.onnx.folder import models_in
from edge_runtime.artifact.onnx.graph import read_data_names
from edge_runtime.errors import EdgeError, FormatError, ModelNotFoundError, UnsupportedError
from tests import onnx_models as made


def saved(path: Path, *, config: Any = made.CONFIG, **changes: Any) -> Path:
    """A sound decoder with some of its inputs renamed, added or reshaped."""
    model = onnx.ModelProto()
    model.CopyFrom(made.Decoder().model)
    for name, dims in changes.get("add", {}).items():
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    for value in model.graph.input:
        if "past" in value.name and "rename" in changes:
            value.name = changes["rename"](value.name)
        if "past" in value.name and "dims" in changes:
            kind = helper.make_tensor_value_info(value.name, TensorProto.FLOAT, changes["dims"])
            value.CopyFrom(kind)
    return made.save(model, path, config=config)


def genai(**model: object) -> dict[str, object]:
    whole = made.GENAI["model"]
    assert isinstance(whole, dict)
    decoder = {**whole["decoder"], **model.pop("decoder", {})}  # type: ignore[dict-item]
    return {"model": {**whole, **model, "decoder": decoder}}


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("decoder_model", "decoder_with_past_model"), ("decoder_with_past_model",)),
        (
            ("decoder_model", "decoder_with_past_model", "decoder_model_merged"),
            ("decoder_model_merged",),
        ),
        (
            ("decoder_model_q4", "decoder_with_past_model_q4", "decoder_model"),
            ("decoder_model", "decoder_with_past_model_q4"),
        ),
        (("model_q4", "model", "model_fp16"), ("model", "model_fp16", "model_q4")),
        (("decoder_model",), ("decoder_model",)),
    ],
)
def test_halves_of_a_decoder_are_no_models_of_their_own(
    names: tuple[str, ...], wanted: tuple[str, ...], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / f"{name}.onnx").write_bytes(b"x")
    assert tuple(path.stem for path in models_in(tmp_path)) == wanted


@pytest.mark.parametrize("part", ["vision", "speech", "embedding", "encoder"])
def test_a_folder_of_several_parts_is_refused(part: str, tmp_path: Path) -> None:
    made.save(
        made.Decoder().model, tmp_path / "model.onnx", genai=genai(**{part: {"filename": "p.onnx"}})
    )
    with pytest.raises(UnsupportedError, match=f"several parts.*{part}"):
        Artifact.open(tmp_path)


def test_what_genais_config_names_must_be_a_file(tmp_path: Path) -> None:
    made.save(made.Decoder().model, tmp_path / "other.onnx", genai=made.GENAI)
    with pytest.raises(ModelNotFoundError, match=r"model\.onnx is missing"):
        Artifact.open(tmp_path)
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"model\.onnx is no regular file"):
        Artifact.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n  <!doctype HTML><html>", "a web page"),
        (b"\xef\xbb\xbf<HTML>", "a web page"),
        (b"<?xml version='1.0'?><Error/>", "an XML document"),
        (b'{"error": "no such file"}', "a JSON text"),
        (b"Not found: the file that was asked for is not on this server. Sorry.", "a text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x1f\x8b\x08" + bytes(80), "a gzip archive"),
        (b"\x1c\0\0\0TFL3" + bytes(80), "a TensorFlow Lite model"),
        (b"%PDF-1.7" + bytes(80), "a PDF document"),
    ],
)
def test_what_is_no_model_is_called_what_it_is(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UnsupportedError, match=f"is {words}, not"):
        Artifact.open(path)


def test_a_pointer_in_the_place_of_weights_is_called_so(tmp_path: Path) -> None:
    path = made.save(made.Decoder().model, tmp_path / "model.onnx", external=True)
    (tmp_path / "model.onnx.data").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FormatError, match="Git LFS pointer"):
        Artifact.open(path)


@pytest.mark.parametrize("name", ["past.0.conv", "past_conv.3", "past_ssm.0", "past_recurrent.1"])
def test_memory_of_another_kind_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.onnx", add={name: ["batch", 64, 2]})
    with pytest.raises(UnsupportedError, match=f"another memory than keys and values: {name}"):
        Artifact.open(path)


def test_a_cache_of_other_dimensions_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.onnx", dims=["batch x heads", "past", 16])
    with pytest.raises(UnsupportedError, match="has 3 dimensions"):
        Artifact.open(path)


def test_a_cache_in_pages_is_refused(tmp_path: Path) -> None:
    model = made.Decoder().model
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            node.op_type = "PagedAttention"
    with pytest.raises(UnsupportedError, match="cache in pages"):
        Artifact.open(made.save(model, tmp_path / "model.onnx", config=made.CONFIG))


def test_names_and_dims_of_the_newest_exporters(tmp_path: Path) -> None:
    def renamed(name: str) -> str:
        _, layer, role = name.split(".")
        return f"input.past_key_values.layers.{layer}.{role}s"

    dims = [1, str(made.KV_HEADS), "s16", str(made.HEAD_DIM)]
    path = saved(tmp_path / "model.onnx", rename=renamed, dims=dims)
    artifact = Artifact.open(path)
    assert artifact.kv_bytes(10) == 10 * 2 * made.LAYERS * made.KV_HEADS * made.HEAD_DIM * 4
    dims[1] = "3"
    with pytest.raises(FormatError, match="num_key_value_heads 2; the graph has 3"):
        Artifact.open(saved(tmp_path / "model.onnx", rename=renamed, dims=dims))


@pytest.mark.parametrize("stated", ["genai", "config"])
def test_a_graph_that_lost_its_window_reaches_no_farther(stated: str, tmp_path: Path) -> None:
    section = {"window_size": 24, "layers": []}
    mistral = {**made.CONFIG, "architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    for window, context in ((-1, 24), (24, made.CONTEXT)):
        folder = tmp_path / f"{window}"
        made.save(
            made.Decoder(window=window).model,
            folder / "model.onnx",
            genai=genai(decoder={"sliding_window": section}) if stated == "genai" else None,
            config={**mistral, "sliding_window": 24} if stated == "config" else None,
        )
        assert Artifact.open(folder).shape.context_tokens == context


def test_families_that_count_from_padding_have_fewer_places(tmp_path: Path) -> None:
    config = {
        "model_type": "xlm-roberta", "hidden_size": made.HIDDEN, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": made.TOKENS, "max_position_embeddings": 514,
        "pad_token_id": 1,
    }  # fmt: skip
    path = made.save(made.encoder(), tmp_path / "model.onnx", config=config)
    assert Artifact.open(path).shape.context_tokens == 512


def test_data_files_are_named_before_they_are_there(tmp_path: Path) -> None:
    def pointing(*locations: str) -> Path:
        tensors = []
        for number, location in enumerate(locations):
            tensor = numpy_helper.from_array(np.ones(4, np.float32), f"w{number}")
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=location)
            tensors.append(tensor)
        graph = helper.make_graph([], "g", [], [], tensors)
        onnx.save(helper.make_model(graph, ir_version=10), tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    names = ("m.onnx_data", "m.onnx_data_1", "sub/more")
    assert read_data_names(pointing(*names, names[0])) == names
    assert read_data_names(pointing()) == ()
    for outside in ("../x", "/x", "a/../../x", "C:/x", ""):
        with pytest.raises(FormatError):
            read_data_names(pointing(names[0], outside))


@pytest.mark.parametrize(
    "hostile",
    [
        {"decoder": {"sliding_window": 5}},
        {"decoder": {"sliding_window": {"window_size": "x"}}},
        {"decoder": {"sliding_window": {"window_size": 10**30}}},
        {"context_length": "many"},
        {"decoder": {"inputs": "x"}},
        {"decoder": {"filename": ["model.onnx"]}},
        {"decoder": {"head_size": -5}},
    ],
)
def test_hostile_values_of_genais_config_are_errors_of_ours(
    hostile: dict[str, Any], tmp_path: Path
) -> None:
    made.save(made.Decoder().model, tmp_path / "model.onnx")
    (tmp_path / "genai_config.json").write_text(json.dumps(genai(**hostile)))
    with pytest.raises(EdgeError):
        Artifact.open(tmp_path)
