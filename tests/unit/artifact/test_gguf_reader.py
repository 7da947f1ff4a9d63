"""The header reader: right about sound files, plain about unsound ones, fast with vocabularies."""

from __future__ import annotations

import os
import struct
import tracemalloc

import gguf
import numpy as np
import pytest

from edge_runtime.artifact.ggml import GGML_TYPES, ValueType
from edge_runtime.artifact.gguf import read_header
from edge_runtime.artifact.gguf_values import ArrayRef
from edge_runtime.errors import FormatError, ModelNotFoundError, UnsupportedError

F32 = 0


def row(name="t", dims=(8,), kind=F32, offset=0):
    return (name, dims, kind, offset)


def test_reads_what_the_reference_library_wrote(tmp_path):
    path = tmp_path / "reference.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("a.u32", 7)
    writer.add_int8("a.i8", -3)
    writer.add_uint64("a.u64", 2**63)
    writer.add_float32("a.f32", 0.5)
    writer.add_float64("a.f64", 1e300)
    writer.add_bool("a.yes", True)
    writer.add_string("a.text", "naïve")
    writer.add_array("a.words", ["one", "zwei", "三"])
    writer.add_array("a.counts", list(range(5000)))
    writer.add_tensor("one", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("two", np.zeros((5, 34), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    meta = header.metadata
    assert header.version == 3
    assert [meta["a.u32"], meta["a.i8"], meta["a.u64"]] == [7, -3, 2**63]
    assert [meta["a.f32"], meta["a.f64"], meta["a.yes"]] == [0.5, 1e300, True]
    assert meta["a.text"] == "naïve"
    assert meta["a.words"] == ("one", "zwei", "三")
    assert isinstance(meta["a.counts"], ArrayRef)
    assert len(meta["a.counts"]) == 5000
    assert tuple(meta["a.counts"]) == tuple(range(5000))
    one, two = header.tensors
    assert (one.name, one.dims, one.type.name, one.size_bytes) == ("one", (4, 3), "F32", 48)
    assert (two.name, two.dims, two.type.name, two.size_bytes) == ("two", (32, 5), "Q8_0", 170)
    data = path.read_bytes()
    stored = np.frombuffer(data[one.offset_bytes : one.offset_bytes + 48], np.float32)
    assert stored.tolist() == list(range(12))


def test_a_long_vocabulary_stays_in_the_file_and_can_be_read_later(write):
    words = [f"w{i}" for i in range(3000)]
    path = write([("tokens", 9, (8, words)), ("after", 4, 9)], [])
    header = read_header(path)
    tokens = header.metadata["tokens"]
    assert isinstance(tokens, ArrayRef)
    assert len(tokens) == 3000
    assert list(tokens) == words
    assert header.metadata["after"] == 9


def test_bytes_that_are_no_text_do_not_stop_the_reader(write):
    path = write([("name", 8, b"\xff\xfe!")], [])
    assert read_header(path).metadata["name"].endswith("!")


def test_a_vocabulary_of_150_000_tokens_is_walked_over_and_not_held(write):
    random = np.random.default_rng(1)
    lengths = random.integers(1, 16, 150_000).tolist()
    strings = b"".join(struct.pack("<Q", n) + b"x" * n for n in lengths)

    def array(key, kind, body):
        name = struct.pack("<Q", len(key)) + key
        return name + struct.pack("<IIQ", 9, kind, 150_000) + body

    body = b"".join(
        (
            array(b"tokens", 8, strings),
            array(b"merges", 8, strings),
            array(b"scores", 6, bytes(4 * 150_000)),
            array(b"types", 5, bytes(4 * 150_000)),
        )
    )
    path = write(b"GGUF" + struct.pack("<IQQ", 3, 0, 4) + body + bytes(64))
    tracemalloc.start()
    try:
        header = read_header(path)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(array) for array in header.metadata.values()] == [150_000] * 4
    # How long it takes is measured by benchmarks/startup.py.
    assert held < 1_000_000


def test_strings_are_followed_across_read_ahead_steps(write):
    big = ["y" * 5_000_000, "z" * 9_000_000, "end"] + ["s"] * 2000
    header = read_header(write([("words", 9, (8, big)), ("last", 8, "ok")], []))
    assert header.metadata["last"] == "ok"
    assert [len(word) for word in header.metadata["words"]][:3] == [5_000_000, 9_000_000, 3]


def test_the_alignment_of_the_file_places_the_data(write):
    path = write([("general.alignment", 4, 128)], [row(offset=128)], alignment=128, data_bytes=160)
    header = read_header(path)
    assert header.alignment == 128
    assert header.tensors[0].offset_bytes == header.data_offset_bytes + 128
    assert header.data_offset_bytes % 128 == 0


def test_a_file_of_version_2_is_read(write):
    assert read_header(write([], [], version=2)).version == 2


def test_the_digest_tells_headers_and_sizes_apart(write, encode):
    one = read_header(write(encode([("a", 4, 1)], []), name="1.gguf")).digest
    other = read_header(write(encode([("a", 4, 2)], []), name="2.gguf")).digest
    longer = read_header(write(encode([("a", 4, 1)], []) + b"\0", name="3.gguf")).digest
    assert len({one, other, longer}) == 3


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"", FormatError, "empty"),
        (b"GG", FormatError, "'GG'"),
        (b"GGUF", FormatError, "ends inside"),
        (b"ONNX" + bytes(60), FormatError, "'ONNX'"),
        (b"version https://git-lfs.github.com/spec/v1\n", UnsupportedError, "git lfs pull"),
        (b"<!DOCTYPE html><html>", UnsupportedError, "web page"),
        (b"lmgg" + bytes(60), UnsupportedError, "old GGML"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(60), UnsupportedError, "big-endian"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(60), UnsupportedError, "version 1"),
        (b"GGUF" + struct.pack("<I", 9) + bytes(60), UnsupportedError, "version 9"),
    ],
)
def test_what_is_no_gguf_file_is_told_what_it_is(write, content, error, said):
    with pytest.raises(error, match=said) as caught:
        read_header(write(content))
    assert "model.gguf" in caught.value.fact


def test_a_missing_file_a_directory_and_a_strange_name_are_told_apart(tmp_path):
    with pytest.raises(ModelNotFoundError, match="no file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(ModelNotFoundError, match="directory"):
        read_header(tmp_path)
    with pytest.raises(Exception, match="cannot be read"):
        read_header("nul\0byte.gguf")


@pytest.mark.parametrize("tensors", [2**64 - 1, 2**32, 100_001, 9])
@pytest.mark.parametrize("pairs", [2**64 - 1, 2**63, 100_001, 9])
def test_counts_the_file_cannot_hold_are_refused(write, tensors, pairs):
    with pytest.raises(FormatError, match="claims"):
        read_header(write([], [], counts=(tensors, pairs), data_bytes=64))


def length(count):
    return struct.pack("<Q", count)


HEAD = b"GGUF" + struct.pack("<I", 3)


@pytest.mark.parametrize("claimed", [2**64 - 1, 2**63, 2**40, 70_000, 60])
def test_a_key_longer_than_the_file_is_refused(write, claimed):
    content = HEAD + length(0) + length(1) + length(claimed) + b"k" + bytes(32)
    with pytest.raises(FormatError, match="not a sound"):
        read_header(write(content))


@pytest.mark.parametrize("claimed", [2**64 - 1, 2**62, 2**40, 100])
@pytest.mark.parametrize("kind", [0, 4, 8, 9, 10])
def test_an_array_longer_than_the_file_is_refused(write, claimed, kind):
    content = HEAD + length(0) + length(1) + length(1) + b"k" + struct.pack("<II", 9, kind)
    with pytest.raises(FormatError, match="not a sound"):
        read_header(write(content + length(claimed) + bytes(40)))


@pytest.mark.parametrize("claimed", [2**64 - 1, 2**64 - 9, 2**63, 2**63 - 1, 2**40])
def test_a_string_in_a_skipped_array_that_overruns_the_file_is_refused(write, claimed):
    strings = length(1) + b"a" + length(claimed) + length(0) * 3000
    content = HEAD + length(0) + length(1) + length(1) + b"k" + struct.pack("<II", 9, 8)
    with pytest.raises(FormatError, match="ends inside"):
        read_header(write(content + length(2000) + strings))


def nested(depth):
    value = (4, [1])
    for _ in range(depth):
        value = (9, [value])
    return value


def test_arrays_may_be_nested_a_little(write):
    header = read_header(write([("k", 9, (9, [(4, [1, 2]), (8, ["a"])])), ("z", 4, 5)], []))
    assert header.metadata["z"] == 5
    assert header.metadata["k"].load() == ((1, 2), ("a",))


@pytest.mark.parametrize("depth", [4, 40])
def test_deeper_nesting_is_refused(write, depth):
    with pytest.raises(FormatError, match="nested"):
        read_header(write([("k", 9, nested(depth))], [], data_bytes=64))


def test_a_flood_of_inner_arrays_is_refused(write):
    inner = struct.pack("<IQ", 4, 0) * 100_001
    content = HEAD + length(0) + length(1) + length(1) + b"k" + struct.pack("<II", 9, 9)
    with pytest.raises(FormatError, match="nested"):
        read_header(write(content + length(100_001) + inner))


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([("k", 4, 1), ("k", 4, 2)], "twice"),
        ([("general.alignment", 4, 0)], "alignment"),
        ([("general.alignment", 4, 48)], "alignment"),
        ([("general.alignment", 4, 2**20)], "alignment"),
        ([("general.alignment", 8, "32")], "alignment"),
    ],
)
def test_metadata_that_cannot_be_is_refused(write, pairs, said):
    with pytest.raises(FormatError, match=said):
        read_header(write(pairs, []))


def test_an_unknown_value_type_is_named(write, encode):
    content = bytearray(encode([("k", 4, 1)], [], data_bytes=32))
    content[24 + 9 : 24 + 13] = struct.pack("<I", 99)
    with pytest.raises(FormatError, match="unknown value type 99"):
        read_header(write(bytes(content)))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(), row(offset=32)], "twice"),
        ([row("a"), row("b", offset=16)], "not aligned"),
        ([row("a", dims=(64,)), row("b", offset=32)], "overlap"),
        ([row(dims=(8, 0))], "impossible"),
        ([row(dims=(2**32, 2**32))], "impossible"),
        ([row(dims=(2**63, 2))], "impossible"),
        ([row(dims=(1, 1, 1, 1, 1))], "dimensions"),
        ([row(dims=(33,), kind=GGML_TYPES["Q8_0"].id)], "multiple"),
        ([row(dims=(64,), kind=GGML_TYPES["Q4_K"].id)], "multiple"),
        ([row(name="n" * 64)], "64 bytes long"),
        ([row(offset=2**64 - 32)], "truncated"),
        ([row(offset=2**40)], "truncated"),
        ([row(dims=(2**40,))], "truncated"),
    ],
)
def test_tensors_that_cannot_be_are_refused(write, rows, said):
    with pytest.raises(FormatError, match=said):
        read_header(write([], rows, data_bytes=256))


@pytest.mark.parametrize("kind", [4, 5, 31, 36, 43, 2**32 - 1])
def test_an_unknown_tensor_type_is_named_with_its_tensor(write, kind):
    with pytest.raises(UnsupportedError, match=f"'t'.*type {kind} is not known"):
        read_header(write([], [row(kind=kind)], data_bytes=64))


def test_a_truncated_file_says_where_it_ends(write, encode):
    whole = encode([("a", 8, "text")], [row(dims=(64, 4))], data_bytes=1024)
    for end in range(len(whole) - 1023 - 8, len(whole) - 1024):
        with pytest.raises(FormatError):
            read_header(write(whole[:end]))
    with pytest.raises(FormatError, match=r"truncated.*the file at byte"):
        read_header(write(whole[:-1]))
    assert read_header(write(whole)).tensors[0].size_bytes == 1024


def test_a_file_that_shrinks_while_its_array_is_used_is_an_error_of_ours(write):
    path = write([("w", 9, (8, ["abc"] * 2000))], [])
    array = read_header(path).metadata["w"]
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FormatError, match="sound"):
        array.load()


def test_sizes_of_all_types_are_those_of_the_reference_library():
    reference = {kind.name: (int(kind), *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    ours = {k.name: (k.id, k.block_elements, k.block_bytes) for k in GGML_TYPES.values()}
    assert reference.items() <= ours.items()
    assert {int(kind) for kind in gguf.GGUFValueType} == {int(kind) for kind in ValueType}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    pipe = tmp_path / "model.gguf"
    os.mkfifo(pipe)
    with pytest.raises(ModelNotFoundError, match="no regular file"):
        read_header(pipe)
