"""Finding ONNX models on this disk: folders, repositories and the places of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime import sources
from edge_runtime.errors import FormatError, ModelNotFoundError
from tests import onnx_models as made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(Path, "home", lambda: home)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    return home


def test_a_folder_stands_for_its_model(tmp_path: Path) -> None:
    path = made.save(made.Decoder().model, tmp_path / "model.onnx", config=made.CONFIG)
    assert sources.resolve(tmp_path) == path
    assert sources.resolve(path) == path


def test_genais_config_names_the_model_among_others(tmp_path: Path) -> None:
    for name in ("a.onnx", "model.onnx"):
        made.save(made.Decoder().model, tmp_path / name, genai=made.GENAI)
    assert sources.resolve(tmp_path) == tmp_path / "model.onnx"


def test_a_checkpoint_with_an_export_beside_it_runs_as_that(tmp_path: Path) -> None:
    path = made.save(made.Decoder().model, tmp_path / "onnx" / "model_q4.onnx")
    (tmp_path / "config.json").write_text(json.dumps(made.CONFIG))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert sources.resolve(tmp_path) == path
    assert sources.resolve_checkpoint(tmp_path) == tmp_path


def test_models_of_both_formats_must_be_told_apart(tmp_path: Path) -> None:
    made.save(made.Decoder().model, tmp_path / "onnx" / "model.onnx")
    (tmp_path / "model.gguf").write_bytes(b"x")
    with pytest.raises(ModelNotFoundError, match=r"2 models.*model\.gguf, onnx/model\.onnx"):
        sources.resolve(tmp_path)


def test_a_folder_whose_config_is_broken_says_so(tmp_path: Path) -> None:
    made.save(made.Decoder().model, tmp_path / "model.onnx")
    (tmp_path / "genai_config.json").write_text("{")
    with pytest.raises(FormatError, match="no JSON file"):
        sources.resolve(tmp_path)


def test_models_are_listed_with_what_they_are(home: Path, tmp_path: Path) -> None:
    snapshot = home / ".cache/huggingface/hub/models--owner--repo/snapshots" / ("b" * 40)
    for name, level in (("model", "fp32"), ("model_q4f16", "q4f16")):
        made.save(made.Decoder(level).model, snapshot / "onnx" / f"{name}.onnx")
    (snapshot / "config.json").write_text(json.dumps(made.CONFIG))
    own = tmp_path / "own"
    made.save(
        made.Decoder("int4").model, own / "tiny" / "model.onnx", external=True, genai=made.GENAI
    )
    made.save(made.picture_model(), own / "picture" / "model.onnx")
    broken = made.save(made.Decoder().model, own / "broken" / "model.onnx", genai={"model": 1})

    found = {model.name: model for model in sources.installed([own])}
    assert set(found) == {
        "tiny", "broken", "owner/repo:onnx/model.onnx", "owner/repo:onnx/model_q4f16.onnx",
    }  # fmt: skip
    tiny = found["tiny"]
    assert (tiny.level, tiny.architecture, tiny.problem) == ("int4", "llama", None)
    assert tiny.size_bytes == sum(f.stat().st_size for f in (own / "tiny").glob("model.*"))
    assert found["owner/repo:onnx/model_q4f16.onnx"].level == "q4f16"
    assert found["broken"].path == broken
    assert "describes no model" in str(found["broken"].problem)
