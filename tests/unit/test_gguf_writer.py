"""A written GGUF file says what it was told to, to two readers; a failed one leaves nothing."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.artifact import GGML_TYPES, ValueType
from edge_runtime.artifact.gguf import read_header
from edge_runtime.artifact.split import read_parts, split_paths
from edge_runtime.errors import DiskError, FormatError, UsageError
from quantize.splitting import split
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


def in_pieces(tensor: gguf.PlannedTensor, data: bytes, pieces: int) -> gguf.PlannedTensor:
    """The same tensor, its slabs made by functions that end in another order than they began."""
    bounds = [len(data) * i // pieces for i in range(pieces + 1)]

    def maker(i: int):
        def make() -> bytes:
            time.sleep(0.002 * ((pieces - i) % 3))
            return data[bounds[i] : bounds[i + 1]]

        return make

    return dataclasses.replace(tensor, slabs=lambda: [maker(i) for i in range(pieces)])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_slabs_made_on_threads_are_written_in_order(tmp_path: Path, threads: int) -> None:
    gguf.write(tmp_path / "one.gguf", METADATA, [tensor for tensor, _ in TENSORS])
    pieces = [in_pieces(tensor, data, 7) for tensor, data in TENSORS]
    gguf.write(tmp_path / "many.gguf", METADATA, pieces, threads=threads)
    assert (tmp_path / "many.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()


def test_slabs_are_made_only_a_few_ahead(tmp_path: Path) -> None:
    made: list[int] = []
    lock = threading.Lock()

    def maker(i: int):
        def make() -> bytes:
            with lock:
                made.append(i)
            return bytes(32)

        return make

    asked: list[int] = []

    def slabs():
        for i in range(64):
            asked.append(i)
            assert i <= len(made) + 5  # those that wait to be made or written, for two threads
            yield maker(i)
            time.sleep(0.001)

    tensor = gguf.PlannedTensor(name="t", dims=(512,), type=GGML_TYPES["F32"], slabs=slabs)
    gguf.write(tmp_path / "m.gguf", {}, [tensor], threads=2)
    assert len(asked) == len(made) == 64


@pytest.mark.parametrize("failure", [KeyboardInterrupt, FormatError, MemoryError])
def test_a_failure_on_a_thread_ends_the_work_and_leaves_nothing(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    begun: list[int] = []

    def fails() -> bytes:
        raise failure("no")

    def slabs():
        for i in range(1000):
            begun.append(i)
            yield fails if i == 3 else lambda: bytes(32)

    tensor = gguf.PlannedTensor(name="t", dims=(8000,), type=GGML_TYPES["F32"], slabs=slabs)
    with pytest.raises(failure):
        gguf.write(tmp_path / "m.gguf", {}, [tensor], threads=2)
    assert len(begun) < 20
    assert not list(tmp_path.iterdir())
    assert threading.active_count() == 1


MANY = [planned(f"t{i}", dims=(8, i + 1)) for i in range(12)]


@pytest.mark.parametrize("split_bytes", [1, 400, 1000])
def test_parts_join_to_the_whole_with_the_formats_own_types(
    tmp_path: Path, split_bytes: int
) -> None:
    reader = pytest.importorskip("gguf").GGUFReader
    told: list[float] = []
    first = gguf.write(
        tmp_path / "m.gguf", METADATA, [t for t, _ in MANY], split_bytes=split_bytes,
        progress=told.append,
    )  # fmt: skip
    parts = read_parts(first)
    assert len(parts) == len(list(tmp_path.iterdir())) > 1
    assert first.name == f"m-00001-of-{len(parts):05d}.gguf"
    assert [t.name for part in parts for t in part.tensors] == [t.name for t, _ in MANY]
    assert told == sorted(told)
    assert told[-1] == 1.0
    data = {tensor.name: data for tensor, data in MANY}
    for number, part in enumerate(parts):
        assert sum(t.size_bytes for t in part.tensors) <= split_bytes or len(part.tensors) == 1
        assert ("general.name" in part.metadata) == (number == 0)
        fields = reader(part.path).fields
        for key, kind, value in (
            ("split.no", "UINT16", number), ("split.count", "UINT16", len(parts)),
            ("split.tensors.count", "INT32", len(MANY)),
        ):  # fmt: skip
            assert (fields[key].types[0].name, fields[key].contents()) == (kind, value)
        for tensor in part.tensors:
            found = part.path.read_bytes()[tensor.offset_bytes :][: tensor.size_bytes]
            assert found == data[tensor.name]


def test_what_fits_into_one_part_is_not_split(tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    assert gguf.write(out, METADATA, [t for t, _ in MANY], split_bytes=10**6) == out
    assert "split.count" not in read_header(out).metadata


def test_parts_without_number_are_refused(tmp_path: Path) -> None:
    tensors = [planned(f"t{i}", dims=(1,))[0] for i in range(1001)]
    with pytest.raises(UsageError, match="larger parts"):
        gguf.write(tmp_path / "m.gguf", {}, tensors, split_bytes=1)


def test_a_part_that_is_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    tensors = [t for t, _ in MANY]
    second = split_paths(tmp_path / "m.gguf", 12)[1]
    second.write_text("mine")
    with pytest.raises(UsageError, match=r"00002-of-00012\.gguf is there already"):
        gguf.write(tmp_path / "m.gguf", {}, tensors, split_bytes=1, overwrite=False)
    assert second.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_split_file_is_split_again_from_a_whole_one(tmp_path: Path) -> None:
    whole = gguf.write(tmp_path / "whole.gguf", METADATA, [t for t, _ in MANY])
    direct = gguf.write(tmp_path / "m.gguf", METADATA, [t for t, _ in MANY], split_bytes=900)
    copied = split(whole, tmp_path / "n.gguf", 900)
    for ours, theirs in zip(read_parts(copied), read_parts(direct), strict=True):
        assert ours.path.read_bytes() == theirs.path.read_bytes()


def test_what_the_disk_gives_back_is_compared_before_the_file_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(path: Path, *, at: int, by: bytes) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(by)

    write_parts = gguf._write_parts
    for at, by in ((0, b"X"), (8, b"\x02"), (-1, b"")):

        def spoiled(paths, *rest, at: int = at, by: bytes = by) -> None:
            write_parts(paths, *rest)
            if at < 0:
                os.truncate(paths[0], paths[0].stat().st_size - 1)
            else:
                spoil(paths[0], at=at, by=by)

        monkeypatch.setattr(gguf, "_write_parts", spoiled)
        with pytest.raises(DiskError, match="reads back otherwise"):
            gguf.write(tmp_path / "m.gguf", METADATA, [t for t, _ in TENSORS])
        assert not list(tmp_path.iterdir())


def test_a_check_sees_whole_files_and_can_refuse_them(tmp_path: Path) -> None:
    seen: list[int] = []

    def check(first: Path) -> None:
        seen.extend(len(header.tensors) for header in read_parts(first))
        raise FormatError("no good")

    with pytest.raises(FormatError, match="no good"):
        gguf.write(
            tmp_path / "m.gguf", METADATA, [t for t, _ in MANY], split_bytes=1000, check=check
        )
    assert sum(seen) == len(MANY)
    assert not list(tmp_path.iterdir())
