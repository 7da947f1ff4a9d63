"""What is written is ONNX, as the onnx package reads it; folders appear whole or not at all."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import DiskError, UsageError
from quantize.onnx.weights import StoredTensor, StoredWeights
from quantize.writers import onnx_folder
from quantize.writers.folder import whole_folder
from quantize.writers.onnx import Element, Initializer, Model, Node, Value, model_bytes
from quantize.writers.onnx_folder import Plan, write_folder

onnx = pytest.importorskip("onnx")


def small_model(**changes: object) -> Model:
    parts: dict[str, object] = {
        "name": "sums",
        "nodes": (
            Node(op="Add", inputs=("x", "w"), outputs=("y",)),
            Node(
                op="FusedMatMul",
                inputs=("y", "w"),
                outputs=("z",),
                domain="com.microsoft",
                attributes=(("transB", 1), ("alpha", -0.5), ("note", "é"), ("axes", (0, -1))),
            ),
        ),
        "initializers": (
            Initializer(
                name="w",
                element=Element.FLOAT,
                dims=(2, 3),
                data=np.arange(6, dtype="<f4").tobytes(),
            ),
            Initializer(name="far", element=Element.UINT8, dims=(300, 7), offset_bytes=4096),
        ),
        "inputs": (Value(name="x", element=Element.FLOAT, dims=("batch", 3)),),
        "outputs": (Value(name="z", element=Element.FLOAT16, dims=()),),
        "metadata": {"edge_runtime.level": "fp32"},
        "producer_version": "1.2",
    }
    return Model(**{**parts, **changes})


def test_the_onnx_package_reads_every_field_back() -> None:
    found = onnx.load_from_string(model_bytes(small_model(), "beside.bin"))
    assert (found.ir_version, found.producer_name, found.producer_version) == (
        9,
        "edge-runtime",
        "1.2",
    )
    assert {o.domain: o.version for o in found.opset_import} == {"": 21, "com.microsoft": 1}
    assert {p.key: p.value for p in found.metadata_props} == {"edge_runtime.level": "fp32"}
    add, product = found.graph.node
    assert (add.op_type, list(add.input), list(add.output), add.domain) == (
        "Add",
        ["x", "w"],
        ["y"],
        "",
    )
    assert product.domain == "com.microsoft"
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in product.attribute}
    assert attributes == {"transB": 1, "alpha": -0.5, "note": "é".encode(), "axes": [0, -1]}
    weight, far = found.graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), [[0, 1, 2], [3, 4, 5]])
    assert (list(far.dims), far.data_type) == ([300, 7], onnx.TensorProto.UINT8)
    assert far.data_location == onnx.TensorProto.EXTERNAL
    places = {p.key: p.value for p in far.external_data}
    assert places == {"location": "beside.bin", "offset": "4096", "length": "2100"}
    (x,) = found.graph.input
    dims = x.type.tensor_type.shape.dim
    assert (x.name, dims[0].dim_param, dims[1].dim_value) == ("x", "batch", 3)
    (z,) = found.graph.output
    assert z.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert z.type.tensor_type.HasField("shape")


def test_the_onnx_package_finds_nothing_wrong() -> None:
    plain = small_model(
        nodes=(Node(op="Add", inputs=("x", "w"), outputs=("z",)),),
        initializers=small_model().initializers[:1],
        outputs=(Value(name="z", element=Element.FLOAT, dims=("batch", 3)),),
    )
    onnx.checker.check_model(onnx.load_from_string(model_bytes(plain, "x")), full_check=True)


def weights(
    name: str, values: np.ndarray, pieces: int = 1, alias: str | None = None
) -> StoredWeights:
    tensors = [StoredTensor(name=name, element=Element.FLOAT, dims=values.shape)]
    if alias is not None:
        tensors.append(
            StoredTensor(name=alias, element=Element.FLOAT, dims=(values.size,), alias_of=name)
        )
    return StoredWeights(
        tensors=tuple(tensors),
        slabs=lambda: (
            functools.partial(tuple, (part,)) for part in np.array_split(values, pieces)
        ),
    )


def plan(*groups: StoredWeights) -> Plan:
    return Plan(
        name="weights",
        nodes=(Node(op="Identity", inputs=("x",), outputs=("y",)),),
        constants=(),
        weights=groups,
        inputs=(Value(name="x", element=Element.FLOAT, dims=(1,)),),
        outputs=(Value(name="y", element=Element.FLOAT, dims=(1,)),),
        metadata={},
        version="0",
    )


def test_tensors_made_in_pieces_are_read_back_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    large, small = rng.random((2000, 3), np.float32), rng.random((5, 2), np.float32)
    told: list[float] = []
    write_folder(
        tmp_path / "out",
        plan(weights("small", small), weights("large", large, 7, alias="flat")),
        {"tokenizer.json": b"{}"},
        threads=2,
        progress=told.append,
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert (tmp_path / "out/tokenizer.json").read_bytes() == b"{}"
    found = onnx.load(tmp_path / "out/model.onnx")
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in found.graph.initializer}
    np.testing.assert_array_equal(arrays["small"], small)
    np.testing.assert_array_equal(arrays["large"], large)
    np.testing.assert_array_equal(arrays["flat"], large.ravel())
    # The alias takes no room of its own, and large tensors begin where they can be mapped.
    size = (tmp_path / "out/model.onnx.data").stat().st_size
    assert size == 4096 + large.nbytes
    assert told == sorted(told)
    assert told[-1] == 1.0


def failing() -> StoredWeights:
    def slabs():
        yield functools.partial(tuple, (np.zeros((1, 3), np.float32),))
        raise RuntimeError("the checkpoint ends here")

    made = weights("broken", np.zeros((2, 3), np.float32))
    return StoredWeights(tensors=made.tensors, slabs=slabs)


@pytest.mark.parametrize("threads", [1, 3])
def test_nothing_is_left_of_a_failure(tmp_path: Path, threads: int) -> None:
    with pytest.raises(RuntimeError, match="ends here"):
        write_folder(tmp_path / "out", plan(failing()), {}, threads=threads)
    assert list(tmp_path.iterdir()) == []


def test_slabs_must_fill_their_tensors(tmp_path: Path) -> None:
    short = weights("short", np.zeros((2, 3), np.float32))
    short = StoredWeights(tensors=short.tensors, slabs=tuple)
    with pytest.raises(ValueError, match="0 bytes came, not 24"):
        write_folder(tmp_path / "out", plan(short), {})
    assert list(tmp_path.iterdir()) == []


def test_an_old_folder_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(out, plan(weights("w", np.ones((2, 2), np.float32))), {})
    before = (out / "model.onnx").read_bytes()
    with pytest.raises(RuntimeError):
        write_folder(out, plan(failing()), {}, overwrite=True)
    assert (out / "model.onnx").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_is_replaced_only_when_asked_and_only_a_models(tmp_path: Path) -> None:
    out = tmp_path / "out"
    model = plan(weights("w", np.ones((2, 2), np.float32)))
    write_folder(out, model, {"old.txt": b"old"})
    with pytest.raises(UsageError, match="--force"):
        write_folder(out, model, {})
    write_folder(out, model, {}, overwrite=True)
    assert not (out / "old.txt").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]

    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="something else"):
        write_folder(papers, model, {}, overwrite=True)
    assert (papers / "thesis.txt").read_text() == "years of work"
    (papers / "model.onnx").write_bytes(b"")
    (papers / "figures").mkdir()
    with pytest.raises(UsageError, match="the folder figures"):
        write_folder(papers, model, {}, overwrite=True)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UsageError, match="no folder"):
        write_folder(tmp_path / "file", model, {}, overwrite=True)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out", plan(weights("w", np.ones((2, 2), np.float32))), {})
    assert (tmp_path / "out/model.onnx").exists()


def test_no_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "quantize.writers.whole_file.shutil.disk_usage",
        lambda path: type("Usage", (), {"free": 1024})(),
    )
    with pytest.raises(DiskError, match="no room"):
        write_folder(tmp_path / "out", plan(weights("w", np.ones((2, 2), np.float32))), {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_folder, "_write_data", full)
    with pytest.raises(DiskError):
        write_folder(tmp_path / "out", plan(weights("w", np.ones((2, 2), np.float32))), {})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".edge-0011223344556677.part.folder"
    left.mkdir()
    (left / "model.onnx.data").write_bytes(b"half")
    with whole_folder(tmp_path / "out", 0, holds="model.onnx") as folder:
        (folder / "model.onnx").write_bytes(b"")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
