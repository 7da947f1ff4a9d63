"""`edge quantize` of ONNX models as a user meets it: folders, tables, refusals, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx_decoders import Layout, write_decoder, write_folder

from edge_runtime.artifact import Artifact
from edge_runtime.cli import quantizing_onnx

Edge = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder in the layout of onnxruntime-genai."""
    return write_folder(tmp_path / "toy-fp32").parent


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_becomes_a_folder_named_after_model_and_level(
    edge: Edge, model: Path, tmp_path: Path
) -> None:
    code, out, err = edge("quantize", model, "--level", "int4", "--verify")
    assert (code, err) == (0, "")
    assert names(tmp_path) == ["toy-fp32", "toy-onnx-int4"]
    made = Artifact.open(tmp_path / "toy-onnx-int4")
    assert made.level == "int4"
    (row,) = (line.split() for line in out.splitlines()[1:])
    assert (row[0], row[-1]) == ("int4", "toy-onnx-int4")
    code, out, _ = edge("inspect", "toy-onnx-int4", "--json")
    assert (code, json.loads(out)["level"]) == (0, "int4")
    assert edge("run", "toy-onnx-int4", "hello", "-n", "3")[0] == 0


def test_several_levels_go_into_a_folder_with_nodes_and_memory_in_json(
    edge: Edge, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "toy-onnx-int8").mkdir()
    (tmp_path / "out" / "toy-onnx-int8" / "mine").write_text("mine")
    arguments = ("-l", "int8,onnx:int4", "-l", "int8-dynamic", "--out-dir", "out", "--json")
    code, out, err = edge("quantize", model / "model.onnx", *arguments)
    assert code == 4
    rows = json.loads(out)["levels"]
    assert [row["level"] for row in rows] == ["int8", "int4", "int8-dynamic"]
    assert "holds something else" in rows[0]["fact"]
    assert "holds something else" in err
    assert [row["nodes"] for row in rows[1:]] == [15, 15]
    assert all(10 * 2**20 < row["peak_memory_bytes"] < 2**30 for row in rows[1:])
    assert names(tmp_path / "out" / "toy-onnx-int8") == ["mine"]


def test_what_stays_floats_is_told(edge: Edge, model: Path) -> None:
    import onnx

    graph = onnx.load(model / "model.onnx").graph
    name = next(node.name for node in graph.node if node.op_type == "MatMul")
    code, out, _ = edge("quantize", model, "-l", "int8", "--exclude", name, "-o", "made")
    assert code == 0
    assert "1 stay floats" in out
    assert f"{name} among them: it is excluded" in " ".join(out.split())


def test_a_dry_run_says_the_size_and_writes_nothing(
    edge: Edge, model: Path, tmp_path: Path
) -> None:
    code, out, _ = edge("quantize", model, "-l", "int4,int8", "--dry-run")
    assert code == 0
    assert out.rstrip().endswith("Nothing was written.")
    assert names(tmp_path) == ["toy-fp32"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-l", "Q4_K_M"), 2, "int4, int8"),
        (("-l", "int4", "--pure"), 2, "--pure is not for ONNX models"),
        (("-l", "int4", "--threads", "2"), 2, "--threads is not for ONNX models"),
        (("-l", "int4", "--block-size", "33"), 2, "16, 32"),
        (("-l", "int4", "--algorithm", "awq"), 2, "rtn, k_quant"),
        (("-l", "int4", "--algorithm", "gptq"), 2, "--calibrate TEXT"),
        (("-l", "int4,int8", "-o", "one"), 2, "--out-dir"),
        (("-l", "int4", "--out-dir", "nowhere"), 2, "mkdir"),
        (("-l", "int4", "--exclude", "nobody"), 2, "'nobody'"),
        (
            ("-l", "int4", "--algorithm", "gptq", "--calibrate", "no.txt"),
            2,
            "no.txt cannot be read",
        ),
    ],
)
def test_what_is_refused_takes_a_sentence_and_leaves_nothing(
    edge: Edge, model: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    found, out, err = edge("quantize", model, *arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert "Traceback" not in err
    assert names(tmp_path) == ["toy-fp32"]


def test_gguf_files_refuse_what_is_for_onnx(
    edge: Edge, make_random_gguf: Callable[..., Path]
) -> None:
    source = make_random_gguf("tiny-F32.gguf")
    code, _, err = edge("quantize", source, "-l", "Q8_0", "--asymmetric")
    assert code == 2
    assert "--asymmetric is not for GGUF files" in err


def test_a_quantized_model_is_refused(edge: Edge, tmp_path: Path) -> None:
    write_folder(tmp_path / "done", Layout(int4=True))
    code, _, err = edge("quantize", "done", "-l", "int4")
    assert code == 2
    assert "quantized already" in err


def test_a_model_of_an_onnx_folder_beside_its_tokenizer(edge: Edge, tmp_path: Path) -> None:
    write_folder(tmp_path / "repo")
    (tmp_path / "repo" / "model.onnx").unlink()
    (tmp_path / "repo" / "genai_config.json").unlink()
    write_decoder(tmp_path / "repo" / "onnx", Layout(fused=False, position_ids=True))
    code, _, _ = edge("quantize", "repo", "-l", "int8", "-o", "made")
    assert code == 0
    assert names(tmp_path / "made") == [
        "config.json", "model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_interrupted_it_leaves_nothing(
    edge: Edge, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import contextlib

    @contextlib.contextmanager
    def job(_label: str, _bytes: int):
        def told(_share: float) -> None:
            raise KeyboardInterrupt

        yield told

    monkeypatch.setattr(quantizing_onnx, "job", job)
    code, _, err = edge("quantize", model, "-l", "int4")
    assert code == 130
    assert "nothing else was left behind" in err
    assert names(tmp_path) == ["toy-fp32"]
