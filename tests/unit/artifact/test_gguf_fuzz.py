"""Whatever bytes a file holds, opening it ends in an artifact or in an error of ours."""

from __future__ import annotations

import struct
import tracemalloc

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge_runtime.artifact import Artifact
from edge_runtime.artifact.keys import metadata_of
from edge_runtime.errors import EdgeError

MEMORY_LIMIT = 64 * 1024**2
SETTINGS = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = st.sampled_from(
    [0, 1, 2, 3, 7, 8, 9, 12, 13, 31, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
)


def open_hostile(path, content):
    path.write_bytes(content)
    tracemalloc.start()
    try:
        artifact = Artifact.open(path)
        artifact.decode_bytes, artifact.mix, artifact.shape.parameters  # noqa: B018
    except EdgeError:
        pass  # the one kind of error that may come out
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY_LIMIT


@pytest.fixture(scope="module")
def sound(tmp_path_factory, encode, tiny):
    path = tmp_path_factory.mktemp("fuzz") / "sound.gguf"
    writer = gguf.GGUFWriter(path, tiny.architecture)
    for key, kind, value in metadata_of(tiny):
        writer.add_key_value(key, value, gguf.GGUFValueType(int(kind)))
    writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(40)])
    writer.add_array("tokenizer.ggml.merges", [f"a b{i}" for i in range(1100)])
    for tensor in tiny.tensors:
        writer.add_tensor(tensor.name, np.zeros(tensor.dims[::-1], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert Artifact.open(path).shape.parameters == tiny.parameters
    return path.read_bytes()


@SETTINGS
@given(data=st.binary(max_size=400))
@example(data=b"GGUF")
def test_random_bytes(tmp_path, data):
    open_hostile(tmp_path / "f.gguf", data)
    open_hostile(tmp_path / "f.gguf", b"GGUF" + struct.pack("<I", 3) + data)


@SETTINGS
@given(data=st.data())
def test_mutations_of_a_sound_file(tmp_path, sound, data):
    content = bytearray(sound)
    header_end = 24_000
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, header_end))
        kind = data.draw(st.sampled_from(["byte", "u32", "u64", "cut", "insert"]))
        if kind == "byte":
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "u32":
            content[at : at + 4] = struct.pack("<I", data.draw(NUMBERS) & 0xFFFFFFFF)
        elif kind == "u64":
            content[at : at + 8] = struct.pack("<Q", data.draw(NUMBERS))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 64))]
        else:
            content[at:at] = data.draw(st.binary(max_size=16))
    open_hostile(tmp_path / "f.gguf", bytes(content))


@SETTINGS
@given(data=st.data())
def test_metadata_of_any_type_under_the_keys_that_count(tmp_path, write_model, tiny, data):
    keys = [key for key, _, _ in metadata_of(tiny)] + [
        "general.architecture",
        "general.name",
        "general.file_type",
        "general.alignment",
        "llama.attention.sliding_window",
        "llama.expert_count",
        "llama.expert_used_count",
        "llama.rope.scaling.type",
        "split.count",
        "split.no",
        "split.tensors.count",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
        "tokenizer.chat_template",
        "edge_runtime.layers_of_model",
        "edge_runtime.synthetic",
    ]
    key = data.draw(st.sampled_from(keys))
    kind, value = data.draw(
        st.one_of(
            st.tuples(st.just(4), NUMBERS.map(lambda n: n & 0xFFFFFFFF)),
            st.tuples(st.just(10), NUMBERS),
            st.tuples(st.just(11), st.integers(-(2**63), 2**63 - 1)),
            st.tuples(st.just(6), st.floats(width=32)),
            st.tuples(st.just(12), st.floats()),
            st.tuples(st.just(7), st.booleans()),
            st.tuples(st.just(8), st.text(max_size=20)),
            st.tuples(st.just(9), st.tuples(st.just(4), st.lists(st.integers(0, 9), max_size=9))),
            st.tuples(st.just(9), st.tuples(st.just(8), st.lists(st.text(max_size=3), max_size=3))),
        )
    )
    path = write_model(tiny, (key, kind, value))
    open_hostile(path, path.read_bytes())
