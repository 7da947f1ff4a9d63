"""`edge models` shows what is there, also what cannot be read, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from edge_runtime.cli.models import models
from edge_runtime.errors import ModelNotFoundError

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    app = typer.Typer()
    app.command()(models)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def test_an_empty_disk_gets_a_way_out(invoke: Invoke) -> None:
    result = invoke()
    assert (result.exit_code, result.stdout) == (0, "")
    assert "edge run hf:" in result.stderr
    assert json.loads(invoke("--json").stdout) == []


def test_the_table_names_each_model_and_each_problem(
    invoke: Invoke, tmp_path: Path, make_random_gguf: Callable[..., Path]
) -> None:
    make_random_gguf("fine.gguf")
    (tmp_path / "broken[red].gguf").write_bytes(b"GGUF\3\0\0\0")
    result = invoke(tmp_path)
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if line.strip().startswith("fine.gguf"))
    assert row.split()[1:5] == ["F32", "424", "KiB", "107k"]
    assert "broken[red].gguf" in result.stdout
    assert "cannot be used" in result.stdout
    assert "It ends inside" in result.stdout


def test_json_carries_every_fact(
    invoke: Invoke, tmp_path: Path, make_random_gguf: Callable[..., Path]
) -> None:
    path = make_random_gguf("fine.gguf")
    (row,) = json.loads(invoke(tmp_path, "--json").stdout)
    assert row == {
        "name": "fine.gguf",
        "path": str(path),
        "source": str(tmp_path),
        "size_bytes": path.stat().st_size,
        "level": "F32",
        "parameters": 107_200,
        "architecture": "llama",
        "problem": None,
    }


def test_a_folder_that_is_none_is_an_error(invoke: Invoke, tmp_path: Path) -> None:
    assert isinstance(invoke(tmp_path / "none").exception, ModelNotFoundError)
