"""A written GGUF file says what it was told to, to two readers; a failed one leaves nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.artifact import GGML_TYPES, ValueType
from edge_runtime.artifact.gguf import read_header
from edge_runtime.errors import DiskError
from quantize.writers import gguf, whole_file

METADATA: dict[str, gguf.Value] = {
    "general.architecture": "llama",
    "general.name": "naïve 模型",
    "a.count": 7,
    "a.negative": -7,
    "a.large": 2**40,
    "a.flag": True,
    "a.rate": 1e-5,
    "a.flags": (True, False),
    "a.signed": (1, -1),
    "a.tokens": gguf.Array(kind=ValueType.STRING, items=["", "Ġthe", "é"]),
    "a.types": gguf.Array(kind=ValueType.INT32, items=[1, 3, 1]),
}


def planned(name: str = "t", *, kind: str = "F32", dims: tuple[int, ...] = (32, 3)):
    """A tensor of random bytes, which come in two slabs."""
    size = GGML_TYPES[kind].size_bytes(dims)
    data = np.random.default_rng(size).bytes(size)
    slabs = lambda: iter([data[: size // 3], memoryview(data)[size // 3 :]])  # noqa: E731
    return gguf.PlannedTensor(name=name, dims=dims, type=GGML_TYPES[kind], slabs=slabs), data


TENSORS = [planned("a"), planned("b", kind="Q4_K", dims=(256, 2, 3)), planned("c", dims=(5,))]


def test_our_reader_reads_what_was_written(tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    gguf.write(out, METADATA, [tensor for tensor, _ in TENSORS])
    header = read_header(out)
    for key in ("general.name", "a.count", "a.negative", "a.large", "a.flag", "a.signed"):
        assert header.metadata[key] == METADATA[key]
    assert header.metadata["a.rate"] == pytest.approx(1e-5)
    assert tuple(header.metadata["a.tokens"]) == ("", "Ġthe", "é")
    for info, (tensor, data) in zip(header.tensors, TENSORS, strict=True):
        assert (info.name, info.dims, info.type) == (tensor.name, tensor.dims, tensor.type)
        assert info.offset_bytes % 32 == 0
        assert out.read_bytes()[info.offset_bytes :][: info.size_bytes] == data


def test_an_independent_reader_reads_it_too(tmp_path: Path) -> None:
    reader = pytest.importorskip("gguf").GGUFReader
    out = tmp_path / "m.gguf"
    gguf.write(out, METADATA, [tensor for tensor, _ in TENSORS])
    found = reader(out)
    assert found.fields["general.name"].contents() == "naïve 模型"
    assert found.fields["a.tokens"].contents() == ["", "Ġthe", "é"]
    assert found.fields["a.types"].types[-1].name == "INT32"
    assert found.fields["a.rate"].types[-1].name == "FLOAT32"
    assert found.fields["a.large"].types[-1].name == "UINT64"
    for info, (tensor, data) in zip(found.tensors, TENSORS, strict=True):
        assert (info.name, tuple(info.shape.tolist())) == (tensor.name, tensor.dims)
        assert info.data.tobytes() == data


@given(
    names=st.lists(st.text("abc._", min_size=1, max_size=20), unique=True, max_size=5),
    text=st.text(max_size=50),
)
@settings(max_examples=25, deadline=None)
def test_the_size_is_known_beforehand(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], text: str
) -> None:
    out = tmp_path_factory.mktemp("size") / "m.gguf"
    tensors = [planned(name, dims=(len(name), 2))[0] for name in names]
    metadata: dict[str, gguf.Value] = {"general.architecture": "llama", "text": text}
    gguf.write(out, metadata, tensors)
    assert out.stat().st_size == gguf.file_bytes(metadata, tensors)


def test_progress_grows_to_one(tmp_path: Path) -> None:
    told: list[float] = []
    gguf.write(tmp_path / "m.gguf", {}, [t for t, _ in TENSORS], progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_interruption_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    def slabs():
        yield b"x" * 64
        raise failure

    out = tmp_path / "m.gguf"
    out.write_bytes(b"old")
    broken = gguf.PlannedTensor(name="t", dims=(32,), type=GGML_TYPES["F32"], slabs=slabs)
    with pytest.raises(failure):
        gguf.write(out, {}, [broken])
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_a_tensor_of_another_size_than_planned_is_no_file(tmp_path: Path) -> None:
    short = gguf.PlannedTensor(
        name="t", dims=(32,), type=GGML_TYPES["F32"], slabs=lambda: iter([b"x" * 100])
    )
    with pytest.raises(ValueError, match="100 bytes came, not 128"):
        gguf.write(tmp_path / "m.gguf", {}, [short])
    assert not list(tmp_path.iterdir())


def test_a_name_twice_or_too_long_is_refused(tmp_path: Path) -> None:
    for tensors in ([planned()[0]] * 2, [planned("n" * 64)[0]]):
        with pytest.raises(ValueError, match="twice or too long"):
            gguf.write(tmp_path / "m.gguf", {}, tensors)


def test_too_little_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=10**9, used=10**9, free=1000)
    monkeypatch.setattr(whole_file.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(DiskError, match=r"needs 1\.00 MiB and .* are free"):
        whole_file.check_destination(tmp_path / "m.gguf", 1024**2)
    with pytest.raises(DiskError):
        gguf.write(tmp_path / "m.gguf", {}, [planned()[0]])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no room"),
        (errno.EROFS, "does not allow"),
        (errno.EACCES, "does not allow"),
        (errno.EIO, "another disk"),
    ],
)
def test_a_disk_that_fails_midway_is_worded(tmp_path: Path, number: int, words: str) -> None:
    def slabs():
        yield b"x" * 64
        raise OSError(number, os.strerror(number))

    broken = gguf.PlannedTensor(name="t", dims=(32,), type=GGML_TYPES["F32"], slabs=slabs)
    with pytest.raises(DiskError, match=words):
        gguf.write(tmp_path / "m.gguf", {}, [broken])
    assert not list(tmp_path.iterdir())


def test_a_missing_directory_and_a_directory_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="mkdir -p"):
        gguf.write(tmp_path / "no" / "m.gguf", {}, [])
    with pytest.raises(DiskError, match="is a directory"):
        gguf.write(tmp_path, {}, [])


def test_a_file_as_directory_is_worded(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        gguf.write(tmp_path / "file" / "m.gguf", {}, [])


def test_values_gguf_has_not_are_refused() -> None:
    for value in (2**64, (), (1, "a"), None):
        with pytest.raises(ValueError, match="key"):
            gguf.file_bytes({"key": value}, [])
