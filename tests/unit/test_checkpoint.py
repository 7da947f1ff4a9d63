"""Checkpoints are read exactly; damaged, hostile and pickled ones are refused in one sentence."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ArtifactError, FormatError, ModelNotFoundError, UnsupportedError
from quantize.checkpoint import Checkpoint, read_safetensors

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def safetensors_bytes(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(*span: int, dtype: str = "F32", shape: tuple[int, ...] = (1,)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


def test_reads_what_the_safetensors_library_writes(tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    wanted = {
        "m": rng.normal(size=(7, 5)).astype(np.float32),
        "h": rng.normal(size=(4, 3, 2)).astype(np.float16),
        "v": rng.normal(size=9),
        "empty": np.zeros((0, 4), np.float32),
    }
    numpy.save_file(wanted, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = {t.name: t for t in read_safetensors(tmp_path / "model.safetensors")}
    assert {name: t.dims for name, t in found.items()} == {n: w.shape for n, w in wanted.items()}
    for name, weight in wanted.items():
        tensor = found[name]
        rows = tensor.read(0, tensor.rows)
        assert (rows == weight.astype(np.float32).reshape(rows.shape)).all()
    assert (found["m"].read(2, 3) == wanted["m"][2:5]).all()


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3e38, 1e-38, 0.0], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    file = tmp_path / "m.safetensors"
    file.write_bytes(
        safetensors_bytes({"b": entry(0, 10, dtype="BF16", shape=(5,))}, halves.tobytes())
    )
    (tensor,) = read_safetensors(file)
    assert (tensor.read(0, 1)[0].view(np.uint32) == halves.astype(np.uint32) << 16).all()


def test_integers_are_no_weights(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    file.write_bytes(safetensors_bytes({"q": entry(0, 4, dtype="I8", shape=(4,))}, b"abcd"))
    with pytest.raises(UnsupportedError, match="I8"):
        read_safetensors(file)[0].read(0, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x01\x00", safetensors_bytes({}, length=2**63), safetensors_bytes({}, length=10**9),
        safetensors_bytes(b"{"), safetensors_bytes(b"[]"), safetensors_bytes(b"[" * 100_000),
        safetensors_bytes({"a": 1}), safetensors_bytes({"a": {}}),
        safetensors_bytes({"a": entry(0, 4, dtype="F7")}, b"1234"),
        safetensors_bytes({"a": entry(0, 8)}, b"12345678"),
        safetensors_bytes({"a": entry(0, 4)}, b"123"),
        safetensors_bytes({"a": entry(0, 4)}, b"12345"),
        safetensors_bytes({"a": entry(4, 8)}, b"12345678"),
        safetensors_bytes({"a": entry(0, 4), "b": entry(2, 6)}, b"12345678"),
        safetensors_bytes({"a": entry(0, 4), "b": entry(0, 4)}, b"1234"),
        safetensors_bytes({"a": entry(0, 4, shape=(2**62, 2**62))}, b"1234"),
        safetensors_bytes({"a": entry(0, 4, shape=(-1, -1))}, b"1234"),
        safetensors_bytes({"a": entry(0, 4, shape=(True,))}, b"1234"),
        safetensors_bytes(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
                          b'"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', b"1234"),
    ],
)  # fmt: skip
def test_damaged_and_hostile_headers_are_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "m.safetensors"
    file.write_bytes(data)
    with pytest.raises(FormatError, match="damaged"):
        read_safetensors(file)


@given(data=st.binary(max_size=200), valid=st.booleans(), at=st.integers(0, 80))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, valid: bool, at: int
) -> None:
    if valid:  # one changed byte in a sound file
        sound = bytearray(safetensors_bytes({"a": entry(0, 4)}, b"1234"))
        sound[at % len(sound)] = data[0] if data else 0
        data = bytes(sound)
    file = tmp_path_factory.mktemp("fuzz") / "m.safetensors"
    file.write_bytes(data)
    try:
        tensors = read_safetensors(file)
    except FormatError:
        return
    assert all(t.offset_bytes + t.size_bytes <= len(data) for t in tensors)


def checkpoint(path: Path, **files: bytes | object) -> Path:
    (path / "config.json").write_text(json.dumps(CONFIG))
    for name, content in files.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (path / name.replace("__", ".").replace("_OF_", "-of-")).write_bytes(data)
    return path


ONE = safetensors_bytes({"a": entry(0, 4)}, b"1234")
TWO = safetensors_bytes({"b": entry(0, 4)}, b"1234")


def test_shards_are_joined(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}
    path = checkpoint(tmp_path, x__safetensors=ONE, y__safetensors=TWO)
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(Checkpoint.open(path).tensors) == {"a", "b"}


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ({"a": "../evil.safetensors"}, FormatError),
        ({"a": "/etc/passwd"}, FormatError),
        ({"a": 5}, FormatError),
        ([], FormatError),
        ({"a": "missing.safetensors"}, ModelNotFoundError),
    ],
)
def test_an_index_names_only_files_beside_it(tmp_path: Path, names: object, kind: type) -> None:
    path = checkpoint(tmp_path)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(kind):
        Checkpoint.open(path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, x__safetensors=ONE, y__safetensors=ONE)
    names = {"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(names))
    with pytest.raises(FormatError, match="there twice"):
        Checkpoint.open(path)


def test_pickles_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, pytorch_model__bin=b"whatever")
    with pytest.raises(UnsupportedError, match=r"pytorch_model\.bin.*pickle.*runs any code"):
        Checkpoint.open(path)


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="holds no weights"):
        Checkpoint.open(checkpoint(tmp_path))
    with pytest.raises(ModelNotFoundError, match="Nothing is there"):
        Checkpoint.open(tmp_path / "no")
    with pytest.raises(ArtifactError):
        Checkpoint.open(Path(__file__).parent)
