"""`--provider` on every verb that runs a model: what was asked for is used, or it is an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx_decoders import write_folder

Edge = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model").parent


def test_a_run_says_where_it_ran(folder: Path, edge: Edge) -> None:
    code, _, err = edge("run", folder, "Hello", "-n", 4, "--provider", "cpu")
    assert code == 0
    assert "Nodes of the graph: CPU 100 %." in err
    assert "Nodes" not in edge("run", folder, "Hello", "-n", 4)[2]
    assert "Nodes" not in edge("run", folder, "Hello", "-n", 4, "--provider", "cpu", "-q")[2]


@pytest.mark.parametrize(
    "verb", [("run", "MODEL", "Hello"), ("profile", "MODEL"), ("check", "MODEL")]
)
def test_an_unknown_one_is_refused_before_anything_runs(
    verb: tuple[str, ...], folder: Path, edge: Edge
) -> None:
    words = [folder if word == "MODEL" else word for word in verb]
    code, out, err = edge(*words, "--provider", "cpu,warp")
    assert (code, out) == (2, "")
    assert "no execution provider 'warp'" in err
    assert "It offers" in err
    assert "CPU" in err


@pytest.mark.parametrize(
    "verb", [("run", "MODEL", "Hello"), ("profile", "MODEL"), ("check", "MODEL", "--budget", "20s")]
)
def test_it_is_not_for_the_other_engine(
    verb: tuple[str, ...], random_gguf: Path, edge: Edge
) -> None:
    words = [random_gguf if word == "MODEL" else word for word in verb]
    code, _, err = edge(*words, "--provider", "cpu")
    assert code == 2
    assert "execution providers" in err.lower()


def test_a_record_keeps_what_was_asked_for_and_where_it_ran(
    folder: Path, tmp_path: Path, edge: Edge
) -> None:
    saved = tmp_path / "records.jsonl"
    code, _, err = edge(
        "profile", folder, "-p", 8, "-n", 0, "-r", 1, "-t", 1, "--provider", "cpu", "--save", saved
    )
    assert code == 0, err
    (record,) = map(json.loads, saved.read_text("utf-8").splitlines())
    assert record["requested"]["providers"] == ["cpu"]
    assert record["options"]["providers"] == ["CPUExecutionProvider"]
    (placed,) = record["engine"]["placement"]
    assert placed["provider"] == "CPUExecutionProvider"
    assert placed["nodes"] > 30
    assert placed["share"] == 1.0
