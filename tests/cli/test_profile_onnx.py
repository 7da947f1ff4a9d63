"""`edge profile` of models that are none of language, as typed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import Decoder, save
from vision_model import write_encoder, write_vision_model

from edge_runtime.latency import LatencyFailure, LatencyMeasurement, read_latency

Edge = Callable[..., tuple[int, str, str]]
QUICK = ("-r", "6", "--warmups", "0")


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision_model(tmp_path_factory.mktemp("vision") / "mobilenet.onnx", width=0.25)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "encoder.onnx")


def broken_model(path: Path) -> Path:
    """A sound file with an operator that no provider has."""
    graph = helper.make_graph(
        [helper.make_node("Whatever", ["x"], ["y"], domain="acme")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def test_a_page_with_latency_throughput_memory_and_operators(edge: Edge, vision: Path) -> None:
    code, out, err = edge("profile", vision, *QUICK, "-o", "text")
    assert code == 0, err
    for words in ("mobilenet", "1 x 3 x 224 x 224", "P50", "P90", "P99", "inferences/s",
                  "after loading", "Where the time goes", "Conv", "between operators",
                  "batch 1"):  # fmt: skip
        assert words in out
    assert "[1/1] mobilenet.onnx" in err


def test_json_carries_every_sample(edge: Edge, vision: Path, tmp_path: Path) -> None:
    saved = tmp_path / "kept.jsonl"
    code, out, err = edge(
        "profile", vision, *QUICK, "-t", "1", "--json", "--save", saved,
        "--shape", "image=2x3x224x224",
    )  # fmt: skip
    assert code == 0, err
    (found,) = map(read_latency, json.loads(out))
    assert isinstance(found, LatencyMeasurement)
    assert len(found.latencies_ns) == 6
    assert found.warmups == 0
    assert found.options.threads == 1
    assert found.inputs[0].shape == (2, 3, 224, 224)
    assert found.outputs[0].shape == (2, 100)
    assert read_latency(json.loads(saved.read_text())) == found
    again, _, err = edge("profile", vision, *QUICK, "--save", saved)
    assert again == 2
    assert "there already" in err


def test_several_models_and_threads_make_a_row_each(
    edge: Edge, vision: Path, encoder: Path
) -> None:
    code, out, err = edge("profile", encoder, "-t", "1,2", *QUICK, "-o", "csv")
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["model"], row["threads"]) for row in rows] == [("encoder", "1"), ("encoder", "2")]
    assert all(float(row["latency_s_p50"]) > 0 for row in rows)
    assert rows[0]["inputs"] == "input_ids 1 x 128; attention_mask 1 x 128"
    assert "MatMul" in rows[0]["operator_shares"]


def test_a_folder_with_one_model_and_markdown_by_default(edge: Edge, encoder: Path) -> None:
    code, out, err = edge("profile", encoder.parent, *QUICK, "--shape", "sequence_length=7")
    assert code == 0, err
    assert out.startswith("| model | what it is |")
    assert "input_ids 1 x 7" in out
    assert "| between operators |" in out


def test_a_failure_is_a_record_beside_the_others_and_exit_4(
    edge: Edge, encoder: Path, tmp_path: Path
) -> None:
    broken = broken_model(tmp_path / "broken.onnx")
    code, out, err = edge("profile", broken, encoder, *QUICK, "-o", "jsonl")
    assert code == 4
    assert "1 of 2 models failed" in err
    first, second = (read_latency(json.loads(line)) for line in out.splitlines())
    assert isinstance(first, LatencyFailure)
    assert "Whatever" in first.cause
    assert isinstance(second, LatencyMeasurement)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "5", "-d", "0"), "-p, -d: not for mobilenet.onnx"),
        (("-w", "chat"), "-w: not for"),
        (("-ctk", "q8_0"), "-ctk: not for"),
        (("--no-mmap",), "--mmap: not for"),
        (("--resume", "x.jsonl"), "--resume: not for"),
        (("--backend", "llama_cpp"), "does not run mobilenet.onnx"),
        (("-t", "auto"), "-t 1,2,4"),
        (("-t", "0"), "not possible"),
        (("-t", "100000"), "threads is 100000"),
        (("-o", "sql"), "no output format 'sql'"),
        (("--json", "-o", "csv"), "two formats"),
        (("--shape", "0x3x224x224"), "dimension of 0"),
        (("--shape", "1x3x224"), "4 dimensions, not 3"),
        (("--shape", "picture=1x3x224x224"), "no input 'picture'"),
        (("--shape", "big"), "no shape"),
        (("-r", "0"), "no number of runs"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(
    edge: Edge, vision: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = edge("profile", vision, *arguments)
    assert code == 2
    assert words in err
    assert out == ""


def test_shapes_are_not_for_language_models(edge: Edge, random_gguf: Path) -> None:
    code, _, err = edge("profile", random_gguf, "--shape", "1x2")
    assert code == 2
    assert "generate no text" in err


def test_language_models_and_others_are_profiled_in_two_calls(
    edge: Edge, vision: Path, random_gguf: Path, tmp_path: Path
) -> None:
    decoder = save(Decoder().model, tmp_path / "decoder")
    for other in (random_gguf, decoder):
        code, _, err = edge("profile", vision, other)
        assert code == 2
        assert "two calls" in err
        assert f"in inferences/s: {vision.name}" in err


def test_more_than_memory_holds_is_refused_before_anything_runs(edge: Edge, encoder: Path) -> None:
    code, out, err = edge(
        "profile", encoder, "--shape", "batch_size=1000000", "--shape", "sequence_length=10000000"
    )
    assert (code, out) == (4, "")
    assert "inputs take" in err


def test_a_model_that_is_cut_short_is_refused(edge: Edge, vision: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(vision.read_bytes()[:5000])
    code, _, err = edge("profile", cut)
    assert code == 4
    assert "cut.onnx" in err
