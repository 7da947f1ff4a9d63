"""`edge inspect` of ONNX: language models in their folders, other networks, and what is broken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import onnx_models as made

Edge = Callable[..., tuple[int, str, str]]


def folder(where: Path, level: str = "int4") -> Path:
    made.save(
        made.Decoder(level).model,
        where / "model.onnx",
        external=True,
        config=made.CONFIG,
        genai=made.GENAI,
        tokenizer=True,
    )
    return where


def rows(page: str) -> dict[str, str]:
    found = {}
    for line in page.splitlines():
        label, _, words = line.strip().partition("  ")
        found.setdefault(label.strip() or "-", words.strip())
    return found


def test_a_page_says_what_the_model_is(edge: Edge, tmp_path: Path) -> None:
    code, out, err = edge("inspect", folder(tmp_path / "tiny"))
    assert (code, err) == (0, "")
    shown = rows(out)
    assert shown["What it is"] == "ONNX model"
    assert shown["Architecture"] == "llama"
    assert shown["Level"].startswith("int4, ")
    assert shown["Layers"] == "2"
    assert shown["Made by"] == "test"
    assert "2 SimplifiedLayerNormalization" in out
    assert "past_key_values.0.key  FP32 [batch, 2, past, 16]" in out
    assert "KV cache, fp32" in out
    assert shown["begin"] == '1 "<s>"'
    assert "model.onnx.data" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_json_has_the_graph_and_the_figures(edge: Edge, tmp_path: Path) -> None:
    code, out, _ = edge("inspect", folder(tmp_path / "m"), "--json", "-c", 100)
    document = json.loads(out)
    assert code == 0
    assert (document["format"], document["level"]) == ("ONNX", "int4")
    assert document["memory"][0]["kv_bytes"] == 100 * 2 * 2 * 2 * 16 * 4
    assert ["MatMulNBits", 9] in document["graph"]["operators"]
    assert document["graph"]["inputs"][0]["dims"] == ["batch", "sequence"]
    assert document["cache_type"] == "fp32"


def test_a_network_that_reads_no_text_is_shown_too(edge: Edge, tmp_path: Path) -> None:
    path = made.save(made.picture_model(), tmp_path / "model.onnx")
    code, out, _ = edge("inspect", path)
    assert code == 0
    assert "is no language model" in out
    assert "pixels  FP32 [1, 3, 32, 32]" in out
    assert "1 Conv" in out
    assert "Tokenizer" not in out


def test_a_config_that_contradicts_the_graph_is_one_sentence(edge: Edge, tmp_path: Path) -> None:
    made.save(made.Decoder().model, tmp_path / "model.onnx", config={**made.CONFIG, "head_dim": 32})
    for command in (("inspect",), ("run", "-p", "x")):
        code, out, err = edge(command[0], tmp_path, *command[1:])
        assert (code, out) == (4, "")
        assert "config.json contradicts model.onnx." in err
        assert "It says head_dim 32; the graph has 16." in err


def test_a_language_model_that_is_not_run_is_still_called_one(edge: Edge, tmp_path: Path) -> None:
    made.save(made.Decoder(cache=False).model, tmp_path / "model.onnx", config=made.CONFIG)
    code, out, _ = edge("inspect", tmp_path)
    assert code == 0
    shown = rows(out)
    assert shown["Architecture"] == "llama"
    assert "keeps no cache" in shown["Shape"]
    assert "Tokenizer" not in shown


@pytest.mark.parametrize("spoil", ["cut", "missing", "garbage"])
def test_a_broken_model_is_one_sentence(edge: Edge, tmp_path: Path, spoil: str) -> None:
    folder(tmp_path)
    graph, data = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    if spoil == "cut":
        data.write_bytes(data.read_bytes()[:-5])
    elif spoil == "missing":
        data.unlink()
    else:
        graph.write_bytes(b"\x07" * 300)
    fact = {
        "cut": "model.onnx.data is truncated",
        "missing": "model.onnx.data is missing",
        "garbage": "model.onnx is not a sound ONNX file",
    }
    for command in (("inspect",), ("profile",), ("run", "-p", "x")):
        code, out, err = edge(command[0], tmp_path, *command[1:])
        assert (code, out) == (4, "")
        assert fact[spoil] in err
        assert "Traceback" not in err


def test_texts_of_a_file_never_move_the_cursor(edge: Edge, tmp_path: Path) -> None:
    model = made.picture_model()
    model.producer_name = "evil\x1b[31m\u202e"
    model.graph.input[0].name = "in\x1b]0;owned\x07"
    model.graph.node[0].op_type = "Co\x9bnv\n"
    path = made.save(model, tmp_path / "model.onnx")
    code, out, _ = edge("inspect", path, "--tensors")
    assert code == 0
    assert all(char.isprintable() or char == "\n" for char in out)


def test_names_in_errors_never_move_the_cursor(edge: Edge, tmp_path: Path) -> None:
    model = made.encoder()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="evil\x1b]0;owned\x07\u202e")
    path = made.save(model, tmp_path / "model.onnx")
    code, _, err = edge("inspect", path)
    assert code == 4
    assert "is missing" in err
    assert all(char.isprintable() or char == "\n" for char in err)


def test_checksums_are_those_of_every_file(edge: Edge, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    path = made.save(made.Decoder().model, repository / "onnx" / "model.onnx")
    (repository / "config.json").write_text(json.dumps(made.CONFIG))
    code, out, _ = edge("inspect", repository, "--checksums")
    assert code == 0
    assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  model.onnx" in out
    assert "../config.json" in out
