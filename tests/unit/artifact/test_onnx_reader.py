"""Reading ONNX files field by field, and what is said of those that are none."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.artifact.onnx import protobuf
from edge_runtime.artifact.onnx.graph import read_graph
from edge_runtime.artifact.onnx.types import ELEMENT_TYPES
from edge_runtime.errors import FormatError, ModelNotFoundError, UnsupportedError
from tests import onnx_models as made


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, dims: Sequence[int], kind: int = 1, raw: bytes | None = None) -> bytes:
    body = b"".join(field(1, dim) for dim in dims) + field(2, kind) + field(8, name.encode())
    return body + (field(9, raw) if raw is not None else b"")


def model(*tensors: bytes, graph: bytes = b"") -> bytes:
    return field(1, 10) + field(7, b"".join(field(5, t) for t in tensors) + graph)


@pytest.fixture
def written(tmp_path: Path):
    def write(content: bytes) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        return path

    return write


def test_a_graph_is_read_as_the_onnx_package_wrote_it(tmp_path: Path) -> None:
    source = made.Decoder("int4", metadata={"a": "b"}).model
    graph = read_graph(made.save(source, tmp_path / "model.onnx"))
    assert graph.ir_version == 10
    assert graph.producer == "test"
    assert graph.metadata_props == {"a": "b"}
    assert graph.opsets == {o.domain or "ai.onnx": o.version for o in source.opset_import}
    assert [v.name for v in graph.inputs] == [v.name for v in source.graph.input]
    assert graph.inputs[2].dims == ("batch", 2, "past", 16)
    assert graph.inputs[2].type == "FP32"
    assert [n.op for n in graph.nodes] == [n.op_type for n in source.graph.node]
    for node, theirs in zip(graph.nodes, source.graph.node, strict=True):
        assert node.inputs == tuple(theirs.input)
        assert node.outputs == tuple(theirs.output)
        assert node.ints == {a.name: a.i for a in theirs.attribute if a.type == 2}
    for read, theirs in zip(graph.initializers, source.graph.initializer, strict=True):
        assert (read.name, read.dims) == (theirs.name, tuple(theirs.dims))
        data = graph.path.read_bytes()[read.offset_bytes :][: read.size_bytes]
        assert data == theirs.raw_data


def test_places_of_external_data_are_those_of_the_bytes(tmp_path: Path) -> None:
    path = made.save(made.Decoder().model, tmp_path / "model.onnx", external=True)
    arrays = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    graph = read_graph(path)
    assert any(t.part == 1 for t in graph.initializers)
    for t in graph.initializers:
        data = graph.paths[t.part].read_bytes()[t.offset_bytes :][: t.size_bytes]
        assert data == arrays[t.name].tobytes()


def test_every_element_type_has_the_size_the_onnx_package_gives_it() -> None:
    packed = {"UINT4": 4, "INT4": 4, "UINT2": 2, "INT2": 2, "FLOAT4E2M1": 4,
              "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}  # fmt: skip
    for name, number in TensorProto.DataType.items():
        if name not in ("UNDEFINED", "STRING"):
            whole = 8 * np.dtype(helper.tensor_dtype_to_np_dtype(number)).itemsize
            assert ELEMENT_TYPES[number].bits == packed.get(name, whole), name


def test_dims_may_be_packed_or_not(written) -> None:
    packed = field(1, varint(2) + varint(300)) + field(2, 1) + field(8, b"w")
    graph = read_graph(written(model(packed, tensor("v", (2, 300)))))
    assert [t.dims for t in graph.initializers] == [(2, 300), (2, 300)]
    assert graph.initializers[0].size_bytes == 2400


def test_old_files_list_their_weights_as_inputs_too(tmp_path: Path) -> None:
    source = made.picture_model()
    source.graph.input.append(
        helper.make_tensor_value_info("kernel", TensorProto.FLOAT, [8, 3, 3, 3])
    )
    graph = read_graph(made.save(source, tmp_path / "model.onnx"))
    assert [value.name for value in graph.inputs] == ["pixels"]


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", FormatError, "is empty"),
        (b"GGUF" + bytes(40), UnsupportedError, "a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", UnsupportedError, "LFS pointer"),
        (b"<!DOCTYPE html>", UnsupportedError, "a web page"),
        (b"\x20\0\0\0ORTM" + bytes(40), UnsupportedError, "own format"),
        (bytes(100), FormatError, "the number 0"),
        (field(1, 10), FormatError, "no graph"),
        (field(7, b"") * 2, FormatError, "2 graphs"),
        (varint(7 << 3 | 2) + varint(1 << 40), FormatError, "cut off"),
        (b"\x80" * 11, FormatError, "has no end"),
        (b"\x0b", FormatError, "wire type 3"),
        (field(7, b"\x2a\x7f") + field(6, bytes(200)), FormatError, "beyond the message"),
        (model(tensor("w", (2,), kind=99)), UnsupportedError, "unknown type 99"),
        (model(tensor("w", (2**64 - 1,))), FormatError, "impossible dimensions"),
        (model(tensor("w", (2**40, 2**40))), FormatError, "impossible dimensions"),
        (model(tensor("w", [1] * 100)), FormatError, "more than 64 dimensions"),
        (model(tensor("w", (4,), raw=bytes(15))), FormatError, "holds 15 bytes.*want 16"),
        (model(graph=field(15, b"")), UnsupportedError, "sparse"),
        (model(graph=field(12, field(1, b"x" * 20_000))), FormatError, "is said to be 19.5 KiB"),
    ],
)
def test_what_is_no_sound_model_is_said_in_a_sentence(
    written, content: bytes, error: type, words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        read_graph(written(content))
    assert caught.value.way_out or "type" in str(caught.value) or "sparse" in str(caught.value)


def test_nothing_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        read_graph(tmp_path / "none.onnx")


def test_graphs_nested_without_end_are_refused(written) -> None:
    graph = b""
    for _ in range(40):
        graph = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, graph)))
    with pytest.raises(FormatError, match="nested too deep"):
        read_graph(written(field(7, graph)))


def test_operators_with_more_graphs_than_any_has_are_refused(written) -> None:
    branches = field(5, field(6, b"")) * 17
    with pytest.raises(FormatError, match="more than 16 graphs in one operator"):
        read_graph(written(field(7, field(1, field(4, b"If") + branches))))


def test_a_file_of_nothing_but_fields_is_given_up(written, monkeypatch) -> None:
    monkeypatch.setattr(protobuf, "_MAX_FIELDS", 1000)
    with pytest.raises(FormatError, match="1,000 fields"):
        read_graph(written(field(1, 10) * 2000))


def test_what_is_no_weight_is_bounded(written, monkeypatch) -> None:
    monkeypatch.setattr(protobuf, "_MAX_HEADER_BYTES", 10_000)
    data = bytes(40_000)
    assert read_graph(written(model(tensor("w", (10_000,), raw=data)))).size_bytes > 40_000
    with pytest.raises(FormatError, match="are no weights"):
        read_graph(written(model() + field(99, data)))


def test_large_weights_inside_are_stepped_over(written) -> None:
    count = 20 * 1024**2
    path = written(
        model(tensor("a", (count // 4,), raw=bytes(count)), tensor("b", (1,), raw=b"abcd"))
    )
    tracemalloc.start()
    graph = read_graph(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1024**2
    assert [t.elements for t in graph.initializers] == [count // 4, 1]


def test_the_digest_leaves_weights_out_and_nothing_else(written) -> None:
    data = random.Random(0).randbytes(4096)
    first = read_graph(written(model(tensor("w", (1024,), raw=data)))).digest
    assert read_graph(written(model(tensor("w", (1024,), raw=data[::-1])))).digest == first
    assert read_graph(written(model(tensor("v", (1024,), raw=data)))).digest != first
    assert read_graph(written(model(tensor("w", (1024,), raw=data)) + field(5, 1))).digest != first
