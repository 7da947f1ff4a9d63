"""Importance matrices of both forms are read as llama.cpp reads them; hostile ones are refused."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ArtifactError, FormatError, ModelNotFoundError
from quantize import imatrix
from quantize.imatrix import ImportanceEntry

UP, EXPERTS = "blk.0.ffn_up.weight", "blk.1.ffn_up_exps.weight"


def made_by_the_reference_library(path: Path, **change: object) -> Path:
    """A file as llama-imatrix writes it, by the gguf package; `change` spoils it."""
    sums = {
        UP: np.array([[2, 4, 6, 8]], np.float32),
        EXPERTS: np.array([[3, 3], [0, 0], [5, 10]], np.float32),
    }
    counts = {UP: np.array([[4]], np.float32), EXPERTS: np.array([[3], [0], [5]], np.float32)}
    sums |= change.get("sums", {})
    counts |= change.get("counts", {})
    writer = gguf.GGUFWriter(path, arch="none")
    writer.kv_data[0].clear()
    if "type" in change:
        writer.add_string("general.type", change["type"])
    if "no metadata" not in change:
        writer.add_array("imatrix.datasets", change.get("datasets", ["one.txt", "two.txt"]))
        writer.add_uint32("imatrix.chunk_count", 12)
        writer.add_uint32("imatrix.chunk_size", 512)
    for name in sums:
        writer.add_tensor(name + ".in_sum2", sums[name])
        if name in counts:
            writer.add_tensor(name + ".counts", counts[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_matrix_is_means_by_expert(tmp_path: Path) -> None:
    read = imatrix.read(made_by_the_reference_library(tmp_path / "m.gguf", type="imatrix"))
    values = {entry.name: entry.values.tolist() for entry in read.entries}
    # An expert that was never used counts every column alike.
    assert values == {UP: [0.5, 1.0, 1.5, 2.0], EXPERTS: [1, 1, 1, 1, 1, 2]}
    assert (read.datasets, read.chunks, read.chunk_tokens) == (("one.txt", "two.txt"), 12, 512)


def legacy(*entries: tuple[bytes, int, list[float]], end: bytes = b"") -> bytes:
    data = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        data += struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(values))
        data += struct.pack(f"<{len(values)}f", *values)
    return data + end


def test_the_older_form_is_means_times_calls(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    end = struct.pack("<ii", 9, 8) + b"wiki.txt"
    path.write_bytes(legacy((UP.encode(), 4, [2, 4]), (b"output.weight", 0, [7]), end=end))
    read = imatrix.read(path)
    assert {e.name: e.values.tolist() for e in read.entries} == {UP: [0.5, 1], "output.weight": [7]}
    assert (read.datasets, read.chunks) == (("wiki.txt",), 9)
    path.write_bytes(legacy((UP.encode(), 4, [2, 4])))
    assert imatrix.read(path).datasets == ()


@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 40)), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_written_reads_back(
    tmp_path: Path, sizes: list[tuple[int, int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    entries = [
        ImportanceEntry(
            name=f"blk.{i}.ffn_up.weight",
            sums=rng.gamma(0.5, 1, size).astype(np.float32),
            counts=rng.integers(0, 9, size[0]).astype(np.float32),
        )
        for i, size in enumerate(sizes)
    ]
    imatrix.write(tmp_path / "m.gguf", entries, datasets=("a", "b"), chunks=3, chunk_tokens=256)
    read = imatrix.read(tmp_path / "m.gguf")
    assert (read.datasets, read.chunks, read.chunk_tokens) == (("a", "b"), 3, 256)
    for wrote, found in zip(entries, read.entries, strict=True):
        assert found.name == wrote.name
        np.testing.assert_array_equal(found.sums, wrote.sums)
        np.testing.assert_array_equal(found.counts, wrote.counts)
    other = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    np.testing.assert_array_equal(other["blk.0.ffn_up.weight.in_sum2"], entries[0].sums)


def test_an_entry_that_is_none_is_not_written(tmp_path: Path) -> None:
    entry = ImportanceEntry(name=UP, sums=np.ones((2, 4), np.float32), counts=np.ones(3, "f4"))
    with pytest.raises(ValueError, match=r"sums \(2, 4\), counts \(3,\)"):
        imatrix.write(tmp_path / "m.gguf", [entry], datasets=(), chunks=1, chunk_tokens=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "model"}, "It says it is a model"),
        ({"no metadata": True}, "imatrix.datasets, .* is missing"),
        ({"datasets": [1, 2]}, "no list of names"),
        ({"sums": {"lone.weight": np.ones((1, 2), np.float32)}}, "sums but no counts"),
        ({"sums": {UP: np.ones((1, 4), np.float16)}}, "F16 instead of F32"),
        ({"sums": {UP: np.array([[1, -1]], np.float32)}}, "negative or not finite"),
        ({"sums": {UP: np.array([[1, np.nan]], np.float32)}}, "negative or not finite"),
        ({"counts": {UP: np.array([[np.inf]], np.float32)}}, "negative or not finite"),
        ({"counts": {EXPERTS: np.ones((5, 1), np.float32)}}, "do not belong together"),
    ],
)
def test_a_spoiled_gguf_matrix_is_refused(tmp_path: Path, change: dict, words: str) -> None:
    path = made_by_the_reference_library(tmp_path / "m.gguf", **change)
    with pytest.raises(FormatError, match=words):
        imatrix.read(path)


GOOD = legacy((UP.encode(), 4, [2, 4]), end=struct.pack("<i", 3))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>not found</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1",
        GOOD[:-9],
        struct.pack("<i", 0),
        struct.pack("<ii", 1, -5),
        struct.pack("<ii", 1, 2**31 - 1) + b"x" * 99,
        struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 2**31 - 1),
        legacy((b"a", -1, [1])),
        legacy((b"a", 1, [-1])),
        legacy((b"a", 1, [float("inf")])),
        legacy((b"a", 1, [1]), (b"a", 1, [1])),
        legacy((b"\xff\xfe", 1, [1])),
        legacy((b"a\0b", 1, [1])),
        GOOD + struct.pack("<i", 2**30),
    ],
)
def test_what_is_no_matrix_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.dat"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"m\.dat"):
        imatrix.read(path)


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        imatrix.read(tmp_path / "none.dat")
    with (tmp_path / "sparse.dat").open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(FormatError, match=r"8\.00 GiB"):
        imatrix.read(tmp_path / "sparse.dat")


@pytest.fixture(scope="module", params=["gguf", "legacy"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "m"
    if request.param == "legacy":
        return GOOD
    return made_by_the_reference_library(path, type="imatrix").read_bytes()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_bytes_are_a_matrix_or_refused(
    sound: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    spoiled = bytearray(sound[: data.draw(st.integers(0, len(sound)))])
    for _ in range(data.draw(st.integers(0, 6))):
        if spoiled:
            at = data.draw(st.integers(0, len(spoiled) - 1))
            spoiled[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "m"
    path.write_bytes(spoiled)
    try:
        read = imatrix.read(path)
    except ArtifactError:
        return
    for entry in read.entries:
        assert np.isfinite(entry.values).all()
        assert (entry.values >= 0).all()
