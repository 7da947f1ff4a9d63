"""Finding models on this disk: paths, directories, and the folders of other programs."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime import sources
from edge_runtime.artifact.checkpoint import checkpoint_name
from edge_runtime.errors import ModelNotFoundError, UnsupportedError, UsageError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(Path, "home", lambda: home)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    return home


def test_a_file_is_itself(random_gguf: Path) -> None:
    assert sources.resolve(random_gguf) == random_gguf
    assert sources.resolve(str(random_gguf)) == random_gguf


def test_a_directory_stands_for_the_one_model_in_it(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "mmproj-f16.gguf").write_bytes(b"x")
    model = tmp_path / "model-00001-of-00002.gguf"
    model.write_bytes(b"x")
    (tmp_path / "model-00002-of-00002.gguf").write_bytes(b"x")
    assert sources.resolve(tmp_path) == model


def test_a_directory_of_several_models_lists_them(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.GGUF"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ModelNotFoundError, match=r"holds 2 models.*a\.gguf, b\.GGUF"):
        sources.resolve(tmp_path)


def test_a_checkpoint_directory_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="holds no model"):
        sources.resolve(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert sources.is_checkpoint(tmp_path)
    with pytest.raises(UnsupportedError, match="checkpoint") as caught:
        sources.resolve(tmp_path)
    name = tmp_path.name
    assert caught.value.way_out == (
        f"edge convert {shlex.quote(str(tmp_path))} --level Q4_K_M"
        f" -o {shlex.quote(f'{name}-Q4_K_M.gguf')}"
    )
    assert sources.resolve_checkpoint(tmp_path) == tmp_path
    assert checkpoint_name(tmp_path) == name


def test_what_is_no_checkpoint_is_said_with_a_way_out(tmp_path: Path, random_gguf: Path) -> None:
    with pytest.raises(UsageError, match="edge quantize"):
        sources.resolve_checkpoint(random_gguf)
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"edge quantize .* --level int4"):
        sources.resolve_checkpoint(graph)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"x")
    with pytest.raises(ModelNotFoundError, match=f"holds it: {shlex.quote(str(tmp_path))}"):
        sources.resolve_checkpoint(weights)
    with pytest.raises(ModelNotFoundError, match="hf:owner/repo"):
        sources.resolve_checkpoint("owner/repo")
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        sources.resolve_checkpoint(tmp_path / "none")
    for reference in ("", "a\0b"):
        with pytest.raises(UsageError):
            sources.resolve_checkpoint(reference)


def test_a_folder_of_the_hubs_cache_is_called_like_its_repository(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--Some-Model-1.5B" / "snapshots" / ("a" * 40)
    assert checkpoint_name(snapshot) == "Some-Model-1.5B"


@pytest.mark.parametrize("reference", ["", "a\0b"])
def test_what_is_no_path_is_refused(reference: str) -> None:
    with pytest.raises(UsageError):
        sources.resolve(reference)


def test_what_is_not_there_is_said_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        sources.resolve(tmp_path / "none.gguf")
    assert "edge models" in caught.value.way_out
    with pytest.raises(ModelNotFoundError, match="hf:owner/repo"):
        sources.resolve("owner/repo")
    with pytest.raises(ModelNotFoundError, match="no regular file"):
        sources.resolve("/dev/null")


def test_models_are_found_in_every_known_place(
    home: Path, random_gguf: Path, make_random_gguf: Callable[..., Path]
) -> None:
    snapshot = home / ".cache/huggingface/hub/models--owner--repo/snapshots" / ("b" * 40)
    snapshot.mkdir(parents=True)
    blob = snapshot.parent.parent / "blobs" / "abc"
    blob.parent.mkdir()
    shutil.copy(random_gguf, blob)
    (snapshot / "tiny.gguf").symlink_to(blob)
    (snapshot / "gone.gguf").symlink_to(blob.parent / "deleted")

    digest = "sha256:" + "c" * 64
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "d" * 64},
        {"mediaType": "application/vnd.ollama.image.model", "digest": digest},
    ]
    for place in ("library/smol/latest", "someone/other/v2"):
        manifest = home / ".ollama/models/manifests/registry.ollama.ai" / place
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"layers": layers}))
    blobs = home / ".ollama/models/blobs"
    blobs.mkdir()
    shutil.copy(random_gguf, blobs / digest.replace(":", "-"))

    studio = home / ".lmstudio/models/publisher/model"
    studio.mkdir(parents=True)
    shutil.copy(random_gguf, studio / "studio.gguf")

    own = make_random_gguf("own.gguf", context=256)
    own.with_name("broken.gguf").write_bytes(b"GGUF, but not really")
    found = sources.installed([own.parent, own.parent])

    by_name = {(model.name, model.source): model for model in found}
    assert set(by_name) >= {
        ("own.gguf", str(own.parent)),
        ("broken.gguf", str(own.parent)),
        ("owner/repo:tiny.gguf", "Hugging Face cache"),
        ("smol:latest", "Ollama"),
        ("studio", "LM Studio"),
    }
    assert len(found) == len({model.path.resolve() for model in found})
    good = by_name["smol:latest", "Ollama"]
    assert (good.architecture, good.level, good.problem) == ("llama", "F32", None)
    assert good.parameters == 107_200
    assert good.size_bytes == random_gguf.stat().st_size
    broken = by_name["broken.gguf", str(own.parent)]
    assert broken.problem
    assert broken.parameters is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"layers": 3}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model"}]}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "../../x"}]}',
        b"\xff" * 100,
    ],
)
def test_strange_ollama_manifests_are_passed_over(home: Path, content: bytes) -> None:
    manifest = home / ".ollama/models/manifests/host/library/m/latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(content)
    assert sources.installed() == ()


def test_the_environment_moves_the_known_places(
    home: Path, random_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = home / "moved/hub/models--a--b/snapshots/x"
    snapshot.mkdir(parents=True)
    shutil.copy(random_gguf, snapshot / "m.gguf")
    assert sources.installed() == ()
    monkeypatch.setenv("HF_HOME", str(home / "moved"))
    assert [model.name for model in sources.installed()] == ["a/b:m.gguf"]
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "nowhere"))
    assert sources.installed() == ()


def test_a_given_folder_must_exist(home: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no directory"):
        sources.installed([home / "none"])


def test_the_cache_lies_where_the_system_wants_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_CACHE_DIR", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert sources.cache_directory() == home / ".cache/edge-runtime"
    monkeypatch.setattr("sys.platform", "darwin")
    assert sources.cache_directory() == home / "Library/Caches/edge-runtime"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert sources.cache_directory() == home / "xdg/edge-runtime"
