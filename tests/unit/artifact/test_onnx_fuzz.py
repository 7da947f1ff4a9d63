"""Whatever an ONNX file and the configs beside it hold, opening ends in a model or our error."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge_runtime.artifact import Artifact
from edge_runtime.artifact.onnx.graph import read_graph
from edge_runtime.errors import EdgeError
from tests import onnx_models as made

MEMORY_LIMIT = 32 * 1024**2
SETTINGS = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SMALL = [0, 1, 2, 5, 7, 8, 0x0A, 0x10, 0x12, 0x2A, 0x3A, 0x4A, 0x6A, 0x70, 0x7F, 0x80, 0xFE, 0xFF]


def open_hostile(path: Path) -> None:
    tracemalloc.start()
    try:
        for read in (read_graph, Artifact.open):
            try:
                found = read(path)
            except EdgeError:
                continue  # the one kind of error that may come out
            if isinstance(found, Artifact):
                found.decode_bytes, found.mix, found.parameters, found.kv_bytes(9)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY_LIMIT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    made.save(made.Decoder(layers=1).model, folder / "model.onnx")
    return folder


@pytest.fixture(scope="module", params=["int4", "dynamic"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    model = made.Decoder(request.param).model
    path = made.save(
        model, folder / "model.onnx", external=True, config=made.CONFIG, tokenizer=True
    )
    assert Artifact.open(path).shape.layers == made.LAYERS
    return path


@SETTINGS
@given(data=st.binary(max_size=400))
@example(data=b"\x3a\x02\x0a\x00")
def test_random_bytes(tmp_path: Path, data: bytes) -> None:
    for content in (data, b"\x08\x0a\x3a" + bytes([len(data) & 0x7F]) + data):
        (tmp_path / "f.onnx").write_bytes(content)
        open_hostile(tmp_path / "f.onnx")


@SETTINGS
@given(data=st.data())
def test_mutations_of_a_sound_file(sound: Path, data: st.DataObject) -> None:
    good = sound.read_bytes()
    content = bytearray(good)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["byte", "bits", "u64", "cut", "insert", "end"]))
        if kind == "byte":
            content[at] = data.draw(st.sampled_from(SMALL))
        elif kind == "bits":
            content[at] ^= data.draw(st.integers(1, 255))
        elif kind == "u64":
            content[at : at + 8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 64))]
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(max_size=16))
        else:
            del content[max(at, 1) :]
        if not content:
            content = bytearray(b"\0")
    try:
        sound.write_bytes(bytes(content))
        open_hostile(sound)
    finally:
        sound.write_bytes(good)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2, 3, 64, 2**20, 2**31, 2**63, 10**30, 1.5, 1e308]),
    st.text(max_size=12),
    st.lists(st.integers(-2, 2**40), max_size=4),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=3),
)
PATHS = [
    ("model",), ("model", "decoder"), ("model", "type"), ("model", "context_length"),
    ("model", "decoder", "filename"), ("model", "decoder", "inputs"),
    ("model", "decoder", "inputs", "input_ids"), ("model", "decoder", "inputs", "past_key_names"),
    ("model", "decoder", "outputs"), ("model", "decoder", "outputs", "logits"),
    ("model", "decoder", "num_hidden_layers"), ("model", "decoder", "num_attention_heads"),
    ("model", "decoder", "head_size"), ("model", "decoder", "hidden_size"),
]  # fmt: skip


@SETTINGS
@given(where=st.sampled_from(PATHS), value=VALUES, bare=st.booleans())
def test_genai_configs_of_any_kind(
    folder: Path, where: tuple[str, ...], value: object, bare: bool
) -> None:
    config = json.loads(json.dumps(made.GENAI))
    inner = config
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    (folder / "genai_config.json").write_text(json.dumps(config))
    (folder / "config.json").unlink(missing_ok=True)
    if not bare:
        (folder / "config.json").write_text(json.dumps({**made.CONFIG, "num_hidden_layers": 1}))
    open_hostile(folder / "model.onnx")
    open_hostile(folder)


@SETTINGS
@given(
    key=st.sampled_from([*made.CONFIG, "text_config", "n_embd", "num_heads", "n_positions"]),
    value=VALUES,
    family=st.sampled_from(["llama", "newlm", "bert", None]),
)
def test_configs_of_any_kind(folder: Path, key: str, value: object, family: str | None) -> None:
    config = {**made.CONFIG, "model_type": family, "architectures": None, key: value}
    (folder / "genai_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    open_hostile(folder / "model.onnx")


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b"[]", b"", b'{"chat_template": 3}']
)
def test_small_files_of_any_kind(tmp_path: Path, name: str, content: bytes) -> None:
    made.save(made.Decoder(layers=1).model, tmp_path / "model.onnx")
    (tmp_path / name).write_bytes(content)
    open_hostile(tmp_path)
