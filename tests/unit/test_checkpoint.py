"""Checkpoints are read exactly; damaged, hostile and pickled ones are refused in one sentence."""

from __future__ import annotations

import json
import struct
import tracemalloc
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
    assert (found["m"].read_columns(1, 3) == wanted["m"][:, 1:4]).all()
    assert (found["h"].rows, found["h"].columns) == (12, 2)


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3e38, 1e-38, 0.0], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    file = tmp_path / "m.safetensors"
    file.write_bytes(
        safetensors_bytes({"b": entry(0, 10, dtype="BF16", shape=(5,))}, halves.tobytes())
    )
    (tensor,) = read_safetensors(file)
    assert (tensor.rows, tensor.columns) == (5, 1)
    read = tensor.read(0, 5).ravel().view(np.uint32)
    assert (read == halves.astype(np.uint32) << 16).all()


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


@given(data=st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    reads_or_refuses(tmp_path_factory.mktemp("fuzz") / "m.safetensors", data)


NUMBERS = st.integers(-1, 40) | st.sampled_from([2**31, 2**63 - 1, 2**64, 10**30])
DIMS = st.lists(NUMBERS, max_size=9)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I8", "F7", "", "\ud800"]),
        "shape": DIMS,
        "data_offsets": st.lists(NUMBERS, max_size=3),
    },
)
ANYTHING = st.recursive(st.none() | st.booleans() | NUMBERS | st.text(max_size=5), st.lists)


@given(
    header=st.dictionaries(st.text(max_size=8), ENTRIES | ANYTHING, max_size=4),
    length=st.none() | NUMBERS.filter(lambda n: 0 <= n < 2**64),
    data=st.binary(max_size=64),
)
@settings(max_examples=150, deadline=None)
def test_any_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: dict, length: int | None, data: bytes
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "m.safetensors"
    reads_or_refuses(file, safetensors_bytes(header, data, length=length))


SOUND = safetensors_bytes(
    {"a": entry(0, 16, shape=(2, 2)), "b": entry(16, 22, dtype="BF16", shape=(3,))}, bytes(22)
)


@given(at=st.integers(0, len(SOUND) - 1), byte=st.integers(0, 255), cut=st.booleans())
@settings(max_examples=150, deadline=None)
def test_one_changed_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, cut: bool
) -> None:
    data = bytearray(SOUND)
    data[at] = byte
    file = tmp_path_factory.mktemp("fuzz") / "m.safetensors"
    reads_or_refuses(file, bytes(data[:at] if cut else data))


def reads_or_refuses(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    tracemalloc.start()
    try:
        tensors = read_safetensors(file)
    except FormatError as error:
        str(error).encode()  # can be printed
        return
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * 1024**2  # whatever the numbers in it claim
    for tensor in tensors:
        assert tensor.offset_bytes + tensor.size_bytes <= len(data)
        if tensor.dtype == "F32":
            assert tensor.read(0, tensor.rows).shape == (tensor.rows, tensor.columns)


def test_names_that_would_steer_a_terminal_are_shown_harmlessly(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    for name in ("\x1b[2Jevil", "line\nbreak", "\ud800", "x" * 10**5):
        file.write_bytes(safetensors_bytes({name: entry(0, 8)}, b"12345678"))
        with pytest.raises(FormatError) as caught:
            read_safetensors(file)
        assert str(caught.value).encode().isascii()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


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


@pytest.mark.parametrize(
    ("located", "words"),
    [
        ({"a": "y.safetensors", "b": "y.safetensors"}, r"a into y.*which does not hold it"),
        ({"a": "y.safetensors", "b": "x.safetensors"}, r"a into y.*; x.safetensors holds it"),
        ({"a": "x.safetensors", "b": "y.safetensors", "c": "y.safetensors"}, "puts c into y"),
        ({"a": "x.safetensors", "d": "y.safetensors"}, "puts d into y"),
        ({"a": "x.safetensors", "c": "z.safetensors"}, "leaves out b, which z.safetensors holds"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, located: dict, words: str) -> None:
    both = safetensors_bytes({"b": entry(0, 4), "c": entry(4, 8)}, b"12341234")
    path = checkpoint(tmp_path, x__safetensors=ONE, y__safetensors=TWO, z__safetensors=both)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": located}))
    with pytest.raises(FormatError, match=words):
        Checkpoint.open(path)


def test_shards_without_an_index_are_joined_by_their_names(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    (path / "model-00001-of-00002.safetensors").write_bytes(ONE)
    with pytest.raises(ModelNotFoundError, match=r"model-00002-of-00002.* is missing"):
        Checkpoint.open(path)
    (path / "model-00002-of-00002.safetensors").write_bytes(TWO)
    assert set(Checkpoint.open(path).tensors) == {"a", "b"}


def test_links_lead_nowhere_but_into_the_directory_and_the_hubs_own_store(tmp_path: Path) -> None:
    cache = tmp_path / "models--owner--small-model"
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for name, data in (("config.json", json.dumps(CONFIG).encode()), ("model.safetensors", ONE)):
        (cache / "blobs" / f"hash-of-{name}").write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/hash-of-{name}")
    opened = Checkpoint.open(snapshot)
    assert set(opened.tensors) == {"a"}
    assert opened.name == "small-model"
    secret = tmp_path / "secret.json"
    secret.write_text('{"password": "x"}')
    (snapshot / "tokenizer.json").symlink_to(secret)
    with pytest.raises(FormatError, match=r"tokenizer\.json lies outside"):
        opened.json("tokenizer.json")
    with pytest.raises(FormatError, match="lies outside"):
        opened.text("../../../secret.json")
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).unlink()
        (snapshot / name).symlink_to(secret)
        with pytest.raises(FormatError, match=f"{name} lies outside"):
            Checkpoint.open(snapshot)
        (snapshot / name).unlink()
        (snapshot / name).symlink_to(f"../../blobs/hash-of-{name}")


def test_a_directory_reached_by_a_link_is_opened(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    checkpoint(tmp_path / "real", model__safetensors=ONE)
    (tmp_path / "link").symlink_to("real")
    assert set(Checkpoint.open(tmp_path / "link").tensors) == {"a"}
    (tmp_path / "real" / "loop.json").symlink_to("loop.json")
    assert Checkpoint.open(tmp_path / "link").json("loop.json") is None


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_files_without_a_byte_are_refused(tmp_path: Path, name: str) -> None:
    path = checkpoint(tmp_path, model__safetensors=ONE, tokenizer__json=b"{}")
    (path / name).write_bytes(b"")
    with pytest.raises(FormatError):
        Checkpoint.open(path).json("tokenizer.json")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    tensor = Checkpoint.open(checkpoint(tmp_path, model__safetensors=ONE)).tensors["a"]
    (tmp_path / "model.safetensors").write_bytes(ONE[:-1])
    with pytest.raises(FormatError, match="ends before its last byte"):
        tensor.read(0, 1)


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
