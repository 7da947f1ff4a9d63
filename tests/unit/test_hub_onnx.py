"""Fetching ONNX models from a hub: the one meant, all of it, and nothing that could be code."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from edge_runtime import sources
from edge_runtime.artifact import Artifact
from edge_runtime.errors import EdgeError, FormatError, HubError, ModelNotFoundError, UsageError
from tests import onnx_models as made
from tests.fake_hub import REPO, FakeHub, server

__all__ = ["server"]  # a fixture

GRAPH = made.Decoder().model.SerializeToString()
EXPORTS = (
    "onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_q4.onnx", "onnx/model_q4f16.onnx",
    "onnx/model_quantized.onnx", "onnx/model_bnb4.onnx", "onnx/model_uint8.onnx",
)  # fmt: skip
GENAI_FOLDERS = (
    "cpu_and_mobile/cpu-int4-rtn-block-32",
    "cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4",
    "directml/directml-int4-awq-block-128",
)


def export(folder: Path, name: str) -> dict[str, bytes]:
    """The files of a model whose weights lie in a file of their own, by name."""
    made.save(made.Decoder().model, folder / name, external=True)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def genai(**decoder: object) -> bytes:
    model = dict(made.GENAI["model"])  # type: ignore[call-overload]
    return json.dumps({"model": {**model, "decoder": {**model["decoder"], **decoder}}}).encode()


def pointing(location: str) -> bytes:
    """A graph with its weights in the file of that name."""
    model = onnx.ModelProto()
    model.CopyFrom(made.Decoder(layers=1).model)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    return model.SerializeToString()


@pytest.fixture
def exports(server: FakeHub) -> FakeHub:
    """A repository as onnx-community has them."""
    server.files = dict.fromkeys(EXPORTS, GRAPH) | {
        "config.json": json.dumps(made.CONFIG).encode(),
        "tokenizer.json": json.dumps(made.TOKENIZER).encode(),
        "tokenizer_config.json": b"{}",
        "README.md": b"# hello",
        "modeling_mine.py": b"print()",
        "pytorch_model.bin": b"pickle",
    }
    return server


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("q4", "onnx/model_q4.onnx"),
        ("Q4", "onnx/model_q4.onnx"),
        ("int4", "onnx/model_q4.onnx"),
        ("onnx:int4", "onnx/model_q4.onnx"),
        ("int8", "onnx/model_quantized.onnx"),
        ("uint8", "onnx/model_uint8.onnx"),
        ("fp16", "onnx/model_fp16.onnx"),
        ("fp32", "onnx/model.onnx"),
        ("q4f16", "onnx/model_q4f16.onnx"),
        ("onnx/model_bnb4.onnx", "onnx/model_bnb4.onnx"),
    ],
)
def test_an_export_is_chosen_by_level_or_file(exports: FakeHub, choice: str, wanted: str) -> None:
    path = sources.resolve(f"hf:{REPO}:{choice}")
    assert path.as_posix().endswith(f"/{wanted}")
    assert Artifact.open(path).chat_template is None
    snapshot = path.parents[1]
    assert {p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file()} == {
        wanted, "config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.parametrize("choice", ["", ":onnx", ":q5", ":onnx:"])
def test_an_unclear_choice_lists_the_exports(exports: FakeHub, choice: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        sources.resolve(f"hf:{REPO}{choice}")
    assert all(name in str(caught.value) for name in EXPORTS)
    assert not exports.downloads()


def test_the_halves_of_a_merged_decoder_are_no_choice(server: FakeHub) -> None:
    names = ("decoder_model", "decoder_with_past_model", "decoder_model_merged")
    server.files = {f"onnx/{name}.onnx": GRAPH for name in names}
    assert sources.resolve(f"hf:{REPO}").name == "decoder_model_merged.onnx"
    assert sources.resolve(f"hf:{REPO}:onnx/decoder_model.onnx").name == "decoder_model.onnx"


def test_its_data_comes_by_the_names_in_the_graph(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = export(tmp_path / "made", "model_q4.onnx")
    assert set(files) == {"model_q4.onnx", "model_q4.onnx.data"}
    server.files = {f"onnx/{name}": data for name, data in files.items()}
    server.files |= {
        "config.json": json.dumps(made.CONFIG).encode(),
        "onnx/model_fp16.onnx_data": b"of another model",
    }
    told: list[str] = []
    path = sources.resolve(f"hf:{REPO}:q4", on_download=lambda name, _: told.append(name))
    assert told == ["onnx/model_q4.onnx", "onnx/model_q4.onnx.data"]
    artifact = Artifact.open(path)
    assert [file.name for file in artifact.paths] == ["model_q4.onnx", "model_q4.onnx.data"]
    before = len(server.downloads())
    assert sources.resolve(f"hf:{REPO}", on_download=lambda *_: 1 / 0) == path
    assert len(server.downloads()) == before
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert sources.resolve(f"hf:{REPO}:q4") == path


@pytest.mark.parametrize(
    ("choice", "folder"),
    [
        ("cpu-int4-rtn-block-32-acc-level-4", GENAI_FOLDERS[1]),
        ("cpu-int4-rtn-block-32", GENAI_FOLDERS[0]),
        (f"{GENAI_FOLDERS[1]}/", GENAI_FOLDERS[1]),
        ("directml", GENAI_FOLDERS[2]),
        (f"{GENAI_FOLDERS[2]}/model.onnx", GENAI_FOLDERS[2]),
    ],
)
def test_a_folder_of_genai_is_chosen_by_its_name(
    server: FakeHub, tmp_path: Path, choice: str, folder: str
) -> None:
    files = export(tmp_path / "made", "model.onnx")
    files |= {"genai_config.json": genai(), "tokenizer.json": b"{}", "other.onnx": GRAPH}
    server.files = {f"{f}/{name}": data for f in GENAI_FOLDERS for name, data in files.items()}
    server.files |= {"config.json": b"{", "genai_config.json": b"{"}
    path = sources.resolve(f"hf:{REPO}:{choice}")
    assert path.as_posix().endswith(f"/{folder}/model.onnx")
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json",
    ]  # fmt: skip
    assert Artifact.open(path).shape.layers == made.LAYERS
    for unclear in ("", ":int4"):
        with pytest.raises(ModelNotFoundError, match=r"cpu-int4-rtn-block-32/model\.onnx"):
            sources.resolve(f"hf:{REPO}{unclear}")


def test_both_formats_in_one_repository_are_told_apart(server: FakeHub) -> None:
    server.files = {"tiny-q4_0.gguf": b"GGUF", "onnx/model_q4.onnx": GRAPH}
    assert sources.resolve(f"hf:{REPO}:Q4_0").suffix == ".gguf"
    assert sources.resolve(f"hf:{REPO}:q4").suffix == ".onnx"
    with pytest.raises(ModelNotFoundError, match=r"tiny-q4_0\.gguf, onnx/model_q4\.onnx"):
        sources.resolve(f"hf:{REPO}")


@pytest.mark.parametrize(
    ("graph", "error", "words"),
    [
        (pointing("../evil.bin"), FormatError, "outside its folder"),
        (pointing("/etc/passwd"), FormatError, "outside its folder"),
        (pointing("C:\\evil"), FormatError, "outside its folder"),
        (pointing("gone.onnx_data"), HubError, "which the repository lacks"),
        (pointing("pytorch_model.bin"), HubError, "never fetched"),
        (pointing("modeling_mine.py"), HubError, "never fetched"),
        (pointing("sub/x.PKL"), HubError, "never fetched"),
        (GRAPH[:100], FormatError, "no sound ONNX|not a sound ONNX"),
        (b"<!DOCTYPE html>", EdgeError, "web page"),
        (b"", EdgeError, "empty"),
    ],
)
def test_a_hostile_graph_fetches_nothing_more(
    exports: FakeHub, graph: bytes, error: type[EdgeError], words: str
) -> None:
    exports.files["onnx/model_q4.onnx"] = graph
    with pytest.raises(error, match=words):
        Artifact.open(sources.resolve(f"hf:{REPO}:q4"))
    fetched = {path.split("/", 5)[5] for verb, path, _ in exports.requests if "/resolve/" in path}
    assert fetched == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model_q4.onnx",
    }  # fmt: skip


def test_a_reference_says_how_to_write_one() -> None:
    with pytest.raises(UsageError) as caught:
        sources.resolve("hf:owner/repo:../x.onnx")
    assert "hf:owner/repo:q4" in str(caught.value.way_out)
