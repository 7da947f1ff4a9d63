"""Fetching GGUF files and checkpoints from a hub, against the fake one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_runtime import hub, sources
from edge_runtime.artifact.checkpoint import checkpoint_name
from edge_runtime.errors import (
    EdgeError,
    FormatError,
    HubError,
    ModelNotFoundError,
    UnsupportedError,
    UsageError,
)
from tests.fake_hub import REPO, FakeHub, constants, server

__all__ = ["server"]  # a fixture


@pytest.fixture
def model_bytes(random_gguf: Path) -> bytes:
    return random_gguf.read_bytes()


def test_the_only_file_of_a_repository_is_fetched_once(server: FakeHub, model_bytes: bytes) -> None:
    server.files = {"tiny.gguf": model_bytes, "README.md": b"hello"}
    told: list[tuple[str, int | None]] = []
    path = sources.resolve(f"hf:{REPO}", on_download=lambda *what: told.append(what))
    assert path.read_bytes() == model_bytes
    assert told == [("tiny.gguf", len(model_bytes))]
    assert sources.resolve(f"hf:{REPO}", on_download=lambda *what: told.append(what)) == path
    assert len(told) == 1
    assert len(server.downloads()) == 1


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (":tiny-q4_0.gguf", "tiny-q4_0.gguf"),
        (":Q4_0", "tiny-q4_0.gguf"),
        (":q8_0", "sub/tiny-q8_0.gguf"),
        ("", "tiny-q4_k_m.gguf"),
    ],
)
def test_a_file_is_chosen_by_name_by_level_or_by_preference(
    server: FakeHub, choice: str, wanted: str
) -> None:
    names = ("tiny-q4_k_m.gguf", "tiny-q4_0.gguf", "sub/tiny-q8_0.gguf", "mmproj-f16.gguf")
    server.files = {name: name.encode() for name in names}
    assert sources.resolve(f"hf:{REPO}{choice}").read_text() == wanted


def test_an_unclear_choice_lists_what_there_is(server: FakeHub) -> None:
    server.files = {"a-q5_0.gguf": b"a", "b-q5_0.gguf": b"b", "c-q6_k.gguf": b"c"}
    for choice in ("", ":Q5_0", ":Q3_K_M"):
        with pytest.raises(ModelNotFoundError) as caught:
            sources.resolve(f"hf:{REPO}{choice}")
        assert "a-q5_0.gguf" in str(caught.value)
    assert not server.downloads()


def test_a_repository_without_gguf_is_refused(server: FakeHub) -> None:
    server.files = {"model.safetensors": b"x"}
    with pytest.raises(ModelNotFoundError, match="holds no GGUF"):
        sources.resolve(f"hf:{REPO}")


def test_all_parts_of_a_split_model_come(server: FakeHub) -> None:
    names = [f"big-Q4_0-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    server.files = {name: name.encode() for name in names}
    path = sources.resolve(f"hf:{REPO}:Q4_0")
    assert [entry.name for entry in sorted(path.parent.iterdir())] == names
    del server.files[names[2]]
    with pytest.raises(HubError, match="lacks"):
        sources.resolve(f"hf:{REPO}:Q4_0")


def test_a_broken_connection_is_resumed(
    server: FakeHub, model_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    server.files = {"tiny.gguf": model_bytes}
    server.cut_after = 100_000
    assert sources.resolve(f"hf:{REPO}").read_bytes() == model_bytes
    assert server.downloads() == [None, "bytes=100000-"]


@pytest.mark.parametrize("lie", ["promised_size", "promised_sha256"])
def test_what_differs_from_the_promise_is_removed(
    server: FakeHub, tmp_path: Path, lie: str
) -> None:
    server.files = {"tiny.gguf": b"not what was promised"}
    setattr(server, lie, 4711 if lie == "promised_size" else "0" * 64)
    with pytest.raises(HubError, match="did not arrive as the hub promised"):
        sources.resolve(f"hf:{REPO}")
    assert not list(tmp_path.rglob("*.gguf"))
    assert not list(tmp_path.rglob("*.incomplete"))
    assert not [path for path in tmp_path.rglob("blobs/*") if path.is_file()]


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", "has no owner/tiny-GGUF"),
        (401, "RepoNotFound", "has no owner/tiny-GGUF"),
        (403, "GatedRepo", "gated"),
        (404, "RevisionNotFound", "has no owner/tiny-GGUF"),
        (500, "", "status 500"),
    ],
)
def test_refusals_are_told_apart(server: FakeHub, status: int, code: str, words: str) -> None:
    server.error = (status, code)
    with pytest.raises(HubError, match=words):
        sources.resolve(f"hf:{REPO}")


def test_without_a_connection_the_cache_serves(
    server: FakeHub, model_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = {"tiny.gguf": model_bytes}
    path = sources.resolve(f"hf:{REPO}")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert sources.resolve(f"hf:{REPO}") == path
    with pytest.raises(HubError, match="cannot be reached"):
        sources.resolve("hf:someone/else")


@pytest.mark.parametrize(
    "reference",
    [
        "hf:",
        "hf:owner",
        "hf:owner/",
        "hf:a/b/c",
        "hf:../etc",
        "hf:owner/..",
        "hf:owner/repo:../../x.gguf",
        "hf:owner/repo:/etc/x.gguf",
        "hf:owner/repo:a\\b.gguf",
        "hf:owner/repo@../x",
        "hf:ow ner/repo",
    ],
)
def test_hostile_references_are_refused(reference: str) -> None:
    with pytest.raises(UsageError, match="names nothing on a hub"):
        sources.resolve(reference)


def test_hostile_names_from_the_hub_are_never_used(server: FakeHub, tmp_path: Path) -> None:
    server.files = {"../../../evil.gguf": b"x", "a/../../b.gguf": b"x", "/root.gguf": b"x"}
    with pytest.raises(EdgeError):
        sources.resolve(f"hf:{REPO}")
    assert not server.downloads()
    assert not list(tmp_path.rglob("*.gguf"))


def test_a_reference_may_name_a_revision() -> None:
    assert hub.parse("hf:a/b@v1.2/x:Q4_0") == hub.HubReference(
        repo="a/b", revision="v1.2/x", choice="Q4_0"
    )


def test_the_librarys_environment_variables_count(
    server: FakeHub, model_bytes: bytes, tmp_path: Path
) -> None:
    server.files = {"tiny.gguf": model_bytes}
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
    }
    environment.pop("HF_HUB_CACHE", None)
    code = (
        "from edge_runtime import sources;"
        f"print(sources.resolve('hf:{REPO}'));"
        "print(sources.installed()[0].name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path, name = done.stdout.splitlines()
    assert Path(path).is_relative_to(tmp_path / "home")
    assert name == f"{REPO}:tiny.gguf"


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def index(*names: object) -> bytes:
    return json.dumps({"weight_map": {f"w{i}": name for i, name in enumerate(names)}}).encode()


@pytest.fixture
def checkpoint(server: FakeHub) -> dict[str, bytes]:
    """The files of a sharded checkpoint that must arrive, on a hub among others that must not."""
    wanted = {
        "config.json": b"{}",
        "generation_config.json": b"{}",
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "additional_chat_templates/tools.jinja": b"{{ tools }}",
        "1_Pooling/config.json": b"{}",
        "modules.json": b"[]",
        "model.safetensors.index.json": index(*SHARDS, SHARDS[0]),
        SHARDS[0]: b"one",
        SHARDS[1]: b"the other",
    }
    others = {
        "pytorch_model.bin": b"pickle",
        "modeling_mine.py": b"print()",
        "consolidated.safetensors": b"the same weights once more",
        "onnx/model.onnx": b"x",
        "README.md": b"x",
        "training_args.bin": b"pickle",
    }
    server.files = {**others, **wanted}
    return wanted


def test_a_checkpoint_comes_whole_and_without_code_or_pickles(
    server: FakeHub, checkpoint: dict[str, bytes]
) -> None:
    told: list[tuple[str, int | None]] = []
    folder = sources.resolve_checkpoint(f"hf:{REPO}", on_download=lambda *what: told.append(what))
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == checkpoint
    small = sum(len(data) for name, data in checkpoint.items())
    assert told[0] == (f"{len(checkpoint)} files of {REPO}", small)
    assert (SHARDS[1], len(b"the other")) in told
    assert checkpoint_name(folder) == "tiny-GGUF"
    before = len(server.downloads())
    assert sources.resolve_checkpoint(f"hf:{REPO}", on_download=lambda *_: 1 / 0) == folder
    assert len(server.downloads()) == before


def test_a_checkpoint_of_one_file_needs_no_index(server: FakeHub) -> None:
    server.files = {"config.json": b"{}", "model.safetensors": b"x", "other.safetensors": b"y"}
    folder = sources.resolve_checkpoint(f"hf:{REPO}")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_a_checkpoint_fetched_before_serves_without_a_connection(
    server: FakeHub, checkpoint: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sources.resolve_checkpoint(f"hf:{REPO}")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert sources.resolve_checkpoint(f"hf:{REPO}") == folder
    with pytest.raises(HubError, match="cannot be reached"):
        sources.resolve_checkpoint("hf:someone/else")


@pytest.mark.usefixtures("checkpoint")
def test_a_checkpoints_weights_are_checked_against_the_promise(
    server: FakeHub, tmp_path: Path
) -> None:
    server.promised_sha256 = "0" * 64
    with pytest.raises(HubError, match="did not arrive as the hub promised"):
        sources.resolve_checkpoint(f"hf:{REPO}")
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("hostile", "error"),
    [
        (index("../../evil.safetensors"), HubError),
        (index("/etc/passwd.safetensors"), HubError),
        (index("pytorch_model.bin"), HubError),
        (index("modeling_mine.py"), HubError),
        (index("gone.safetensors"), HubError),
        (index(7), HubError),
        (index([1]), FormatError),
        (b"{}", FormatError),
        (b"[" * 100_000, FormatError),
        (b'{"weight_map": 3}', FormatError),
        (b"\xff", FormatError),
    ],
)
def test_a_hostile_index_fetches_nothing(
    server: FakeHub, checkpoint: dict[str, bytes], tmp_path: Path, hostile: bytes, error: type
) -> None:
    server.files["model.safetensors.index.json"] = hostile
    with pytest.raises(error):
        sources.resolve_checkpoint(f"hf:{REPO}")
    assert {path.name for path in tmp_path.rglob("snapshots/*/*")} <= {
        "model.safetensors.index.json"
    }


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        (("config.json", "pytorch_model.bin"), UnsupportedError, "only as pickles"),
        (("a.gguf", "README.md"), UnsupportedError, f"edge run hf:{REPO}"),
        (("model.safetensors",), ModelNotFoundError, "no config.json"),
        (("config.json",), ModelNotFoundError, "no model.safetensors"),
    ],
)
def test_a_repository_that_cannot_be_converted_says_why(
    server: FakeHub, files: tuple[str, ...], error: type[EdgeError], words: str
) -> None:
    server.files = dict.fromkeys(files, b"x")
    with pytest.raises(error, match=words):
        sources.resolve_checkpoint(f"hf:{REPO}")
    assert not server.downloads()


def test_a_checkpoint_is_no_single_file() -> None:
    with pytest.raises(UsageError, match=f"Write hf:{REPO}"):
        sources.resolve_checkpoint(f"hf:{REPO}:model.safetensors")


def test_running_a_checkpoints_repository_names_the_command(server: FakeHub) -> None:
    server.files = {"config.json": b"{}", "model.safetensors": b"x"}
    with pytest.raises(UnsupportedError) as caught:
        sources.resolve(f"hf:{REPO}")
    assert caught.value.way_out == (
        f"edge convert hf:{REPO} --level Q4_K_M -o tiny-GGUF-Q4_K_M.gguf"
    )
