"""Shapes and fillings of a graph's inputs: given, following from others, assumed, or asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from vision_model import write_encoder, write_vision_model

from edge_runtime.artifact.onnx.graph import OnnxGraph, read_graph
from edge_runtime.backends.onnx.plain import _values
from edge_runtime.errors import MemoryLimitError, UnsupportedError, UsageError
from edge_runtime.latency import InputRecord
from edge_runtime.profiler.latency_inputs import Feed, feed, parse_shapes

Dims = list[int | str | None]


def graph_of(
    path: Path,
    inputs: Mapping[str, tuple[int, Dims | None]],
    nodes: list[onnx.NodeProto] | None = None,
    tensors: list[onnx.TensorProto] | None = None,
) -> OnnxGraph:
    """A graph with these inputs, each copied to an output where no nodes are given."""
    made = nodes or [helper.make_node("Identity", [name], [f"{name}.out"]) for name in inputs]
    first = next(iter(inputs.values()), (T.FLOAT, [1]))
    graph = helper.make_graph(
        made, "g",
        [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in inputs.items()],
        [helper.make_tensor_value_info(made[-1].output[0], first[0], None)],
        tensors or [],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return read_graph(path)


def shapes(fed: Feed) -> dict[str, tuple[int, ...]]:
    return {item.name: item.shape for item in fed.inputs}


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["1x3x224x224"], {"": (1, 3, 224, 224)}),
        (["image=1X3\u00d72,2"], {"image": (1, 3, 2, 2)}),
        (["a=b=2"], {"a=b": (2,)}),
        (["input:0=7", "x=1"], {"input:0": (7,), "x": (1,)}),
        ([], {}),
    ],
)
def test_shapes_as_they_are_typed(texts: list[str], found: dict[str, tuple[int, ...]]) -> None:
    assert parse_shapes(texts) == found


@pytest.mark.parametrize(
    "text", ["", "x=", "x=1x", "x=-1", "x=1xax2", "x=1.5", "1 x 3", "x=9999999999999", "x=٣"]
)
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="shape"):
        parse_shapes([text])


@given(st.text(max_size=30))
def test_any_text_is_a_shape_or_a_usage_error(text: str) -> None:
    try:
        found = parse_shapes([text])
    except UsageError:
        return
    assert all(dims and min(dims) >= 0 for dims in found.values())


def test_one_shape_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_shapes(["x=1", "x=2"])


def test_an_open_batch_is_one_and_said(tmp_path: Path) -> None:
    fed = feed(read_graph(write_vision_model(tmp_path / "v.onnx", width=0.25)), {})
    assert shapes(fed) == {"image": (1, 3, 224, 224)}
    assert "batch 1" in fed.notes[0]


def test_a_given_shape_needs_no_note(tmp_path: Path) -> None:
    fed = feed(
        read_graph(write_vision_model(tmp_path / "v.onnx", width=0.25)), {"": (2, 3, 224, 224)}
    )
    assert shapes(fed) == {"image": (2, 3, 224, 224)}
    assert fed.notes == ()


def test_an_encoder_reads_128_tokens_below_its_vocabulary_and_a_mask_of_ones(
    tmp_path: Path,
) -> None:
    fed = feed(read_graph(write_encoder(tmp_path / "e.onnx", tokens=50)), {})
    assert shapes(fed) == {"input_ids": (1, 128), "attention_mask": (1, 128)}
    ids, mask = fed.inputs
    assert (ids.fill, ids.below) == ("below", 50)
    assert mask.fill == "ones"
    assert "sequence_length 128" in fed.notes[0]


def test_a_text_is_no_longer_than_the_model_has_positions(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "model.onnx")
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 40}))
    assert shapes(feed(read_graph(path), {}))["input_ids"] == (1, 40)


@pytest.mark.parametrize(
    "asked", [{"input_ids": (2, 9)}, {"sequence_length": (9,), "batch_size": (2,)}]
)
def test_dimensions_of_one_name_have_one_size(
    tmp_path: Path, asked: dict[str, tuple[int, ...]]
) -> None:
    fed = feed(read_graph(write_encoder(tmp_path / "e.onnx")), asked)
    assert shapes(fed) == {"input_ids": (2, 9), "attention_mask": (2, 9)}
    assert fed.notes == ()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"image": (1, 3, 224)}, "4 dimensions, not 3"),
        ({"image": (1, 4, 224, 224)}, "does not fit"),
        ({"image": (0, 3, 224, 224)}, "dimension of 0"),
        ({"picture": (1, 3, 224, 224)}, "no input 'picture'"),
        ({"batch": (1, 2)}, "no input 'batch'"),
        ({"batch": (2,), "image": (1, 3, 224, 224)}, "contradict"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_in_words(
    tmp_path: Path, asked: dict[str, tuple[int, ...]], words: str
) -> None:
    graph = read_graph(write_vision_model(tmp_path / "v.onnx", width=0.25))
    with pytest.raises(UsageError, match=words):
        feed(graph, asked)


def test_a_bare_shape_needs_one_input_it_can_be_meant_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 inputs"):
        feed(read_graph(write_encoder(tmp_path / "e.onnx")), {"": (1, 9)})
    one_open = graph_of(tmp_path / "o.onnx", {"size": (T.INT64, [2]), "x": (T.FLOAT, ["n", "w"])})
    assert shapes(feed(one_open, {"": (1, 5)})) == {"size": (2,), "x": (1, 5)}
    none = graph_of(tmp_path / "n.onnx", {}, [helper.make_node(
        "RandomNormal", [], ["y"], shape=[2])])  # fmt: skip
    assert feed(none, {}).inputs == ()
    with pytest.raises(UsageError, match="no inputs"):
        feed(none, {"": (1,)})


def test_a_size_that_nobody_can_guess_is_asked_for_with_a_command(tmp_path: Path) -> None:
    graph = graph_of(tmp_path / "i.onnx", {"pixels": (T.FLOAT, ["n", 3, "h", "w"])})
    with pytest.raises(UsageError) as caught:
        feed(graph, {})
    assert "--shape pixels=1x3x224x224" in caught.value.way_out
    unnamed = graph_of(tmp_path / "u.onnx", {"audio": (T.FLOAT, [None, None])})
    with pytest.raises(UsageError, match="--shape audio=1x"):
        feed(unnamed, {})


@pytest.mark.parametrize("kind", [T.STRING, T.COMPLEX64, T.FLOAT8E4M3FN, T.UINT4])
def test_inputs_that_cannot_be_made_up_are_refused(tmp_path: Path, kind: int) -> None:
    with pytest.raises(UnsupportedError, match="made-up"):
        feed(graph_of(tmp_path / "s.onnx", {"x": (kind, [2])}), {})


@pytest.mark.parametrize(
    ("made", "word"),
    [
        (helper.make_tensor_sequence_value_info("x", T.FLOAT, None), "sequence"),
        (helper.make_value_info("x", helper.make_optional_type_proto(
            helper.make_tensor_type_proto(T.FLOAT, [2]))), "optional"),
    ],
)  # fmt: skip
def test_inputs_that_are_no_tensors_are_refused(
    tmp_path: Path, made: onnx.ValueInfoProto, word: str
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", [made],
        [helper.make_tensor_value_info("y", T.FLOAT, None)],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match=word):
        feed(read_graph(tmp_path / "m.onnx"), {})


def test_indices_stay_within_the_table_they_are_looked_up_in(tmp_path: Path) -> None:
    table = numpy_helper.from_array(np.zeros((7, 2), np.float32), "table")
    turned = numpy_helper.from_array(np.zeros((2, 5), np.float32), "turned")
    graph = graph_of(
        tmp_path / "g.onnx",
        {"ids": (T.INT32, [1, 4]), "columns": (T.INT64, [3]), "length": (T.INT64, [1])},
        [
            helper.make_node("Cast", ["ids"], ["wide"], to=T.INT64),
            helper.make_node("Gather", ["table", "wide"], ["a"]),
            helper.make_node("Gather", ["turned", "columns"], ["b"], axis=1),
            helper.make_node("Identity", ["length"], ["c"]),
        ],
        [table, turned],
    )
    ids, columns, length = feed(graph, {}).inputs
    assert (ids.fill, ids.below) == ("below", 7)
    assert (columns.fill, columns.below) == ("below", 5)
    assert length.fill == "ones"


@pytest.mark.parametrize(
    ("name", "kind", "fill"),
    [
        ("token_type_ids", T.INT64, "zeros"),
        ("position_ids", T.INT64, "positions"),
        ("attention_mask", T.FLOAT, "ones"),
        ("use_cache", T.BOOL, "true"),
        ("pixels", T.UINT8, "bytes"),
        ("x", T.FLOAT16, "normal"),
        ("x", T.BFLOAT16, "normal"),
        ("x", T.DOUBLE, "normal"),
    ],
)
def test_what_fills_an_input(tmp_path: Path, name: str, kind: int, fill: str) -> None:
    fed = feed(graph_of(tmp_path / "f.onnx", {name: (kind, [1, 4])}), {})
    assert fed.inputs[0].fill == fill


@pytest.mark.parametrize("dims", [(1, 3, 10**9, 10**9), (10**12, 10**12, 10**12, 10**12)])
def test_more_than_memory_holds_is_refused_before_it_is_allocated(
    tmp_path: Path, dims: tuple[int, ...]
) -> None:
    graph = graph_of(tmp_path / "i.onnx", {"x": (T.FLOAT, ["n", "c", "h", "w"])})
    with pytest.raises(MemoryLimitError, match="inputs take"):
        feed(graph, {"x": dims}).check_memory(1 << 34)


@pytest.mark.parametrize(
    ("kind", "fill", "below"),
    [
        ("FP32", "normal", None), ("FP16", "normal", None), ("FP64", "normal", None),
        ("BFLOAT16", "normal", None), ("BFLOAT16", "ones", None), ("INT8", "bytes", None),
        ("UINT8", "bytes", None), ("INT64", "below", 9), ("INT32", "below", 1),
        ("UINT16", "below", 2**20), ("BOOL", "true", None), ("INT64", "positions", None),
        ("UINT64", "zeros", None), ("FP32", "ones", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 5)])
def test_values_are_the_same_for_a_seed_and_within_their_bounds(
    kind: str, fill: str, below: int | None, shape: tuple[int, ...]
) -> None:
    item = InputRecord(name="x", type=kind, shape=shape, fill=fill, below=below)  # type: ignore[arg-type]
    first, again = _values(item, (1, 0)), _values(item, (1, 0))
    assert np.array_equal(first, again)
    assert np.shape(first) == shape
    if below is not None and first.size:
        assert 0 <= first.min() <= first.max() < below
    if fill == "positions" and first.size:
        assert first.max() == (shape or (1,))[-1] - 1
    if fill == "bytes" and first.size > 1:
        assert np.ptp(_values(item, (2, 0)).astype(int)) > 16
    if fill == "normal" and first.size:
        assert not np.array_equal(first, _values(item, (1, 1)))
