"""`edge check` as a user runs it: answers, exit codes, files left behind, and what goes wrong.

The fake backend gives every machine the same speed, so that verdicts are known beforehand; the
synthetic files, the fits and the tables are the real ones, and where it matters the child process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import quantize
from edge_runtime.artifact import ModelShape
from edge_runtime.cli import catalogue_check, cells, model_check
from edge_runtime.cli.app import main
from edge_runtime.measurement import Host

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256,
    "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
}  # fmt: skip

Edge = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder / "config.json"


@pytest.fixture
def edge(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Edge:
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    pace(monkeypatch, step_ms=2)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edge", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def pace(monkeypatch: pytest.MonkeyPatch, *, step_ms: float, **script: object) -> None:
    fields = {"step_ns": int(step_ms * 1e6), "prefill_ns_per_token": 100_000, **script}
    monkeypatch.setenv("EDGE_RUNTIME_FAKE", json.dumps(fields))


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least a catalogue can be projected from."""
    shapes = (("smollm2-135m", 1), ("smollm2-135m", 4), ("smollm2-360m", 1))
    monkeypatch.setattr(catalogue_check, "BENCH_SHAPES", shapes)
    monkeypatch.setattr(catalogue_check, "SHORTEST_CELL_S", 0.5)


PLAIN = ("--backend", "fake", "--budget", "2s", "-c", "512", "-p", "64")
BRIEF = ("--backend", "fake", "--budget", "1s", "-c", "128", "-p", "64")
FAST = (*PLAIN, "--level", "Q4_K_M")
BOTH = (*PLAIN, "--level", "Q8_0,Q4_K_M")


def test_a_fast_machine_is_viable_and_nothing_synthetic_is_left_behind(
    edge: Edge, config: Path, tmp_path: Path
) -> None:
    code, out, _ = edge("check", config, *BOTH)
    assert code == 0
    assert "my-model" in out
    assert "VIABLE" in out
    assert "synthetic" in out
    assert "Best choice: my-model at Q8_0" in out
    assert list((tmp_path / "cache").rglob("*.gguf")) == []


@pytest.mark.usefixtures("children_here")
def test_a_slow_machine_is_not_and_the_exit_code_says_so(
    edge: Edge, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace(monkeypatch, step_ms=250)
    code, out, _ = edge("check", config, *FAST)
    # A neighbour that disturbed it can hold the verdict back: undisturbed it might be faster.
    assert code == 1 or (code == 3 and "disturbed while measuring" in out), out
    assert ("NOT VIABLE" in out) == (code == 1)
    assert f"Nothing {'here' if code == 1 else 'surely'} reaches 20.0 tok/s" in out


@pytest.mark.usefixtures("children_here")
def test_near_the_limit_it_is_borderline(
    edge: Edge, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The budget allows one run, and one run has no spread: its interval is half to double.
    pace(monkeypatch, step_ms=35)
    code, out, _ = edge("check", config, *FAST, "--budget", "0.1s")
    assert code == 3, out
    assert "BORDERLINE" in out


@pytest.mark.usefixtures("children_here")
def test_json_is_one_document_that_holds_the_raw_record_and_saving_writes_the_same(
    edge: Edge, config: Path, tmp_path: Path
) -> None:
    target = tmp_path / "report.json"
    code, out, _ = edge("check", config, *BOTH, "--json", "--save", target)
    report = json.loads(out)
    assert code == 0
    assert {row["level"] for row in report["rows"]} == {"Q8_0", "Q4_K_M"}
    assert report["rows"][0]["verdict"]["basis"] == "SYNTHETIC"
    assert [m["workload"]["name"] for m in report["measurements"][:3]] == [
        "pp64", "tg32 @ d64", "tg16 @ d256",
    ]  # fmt: skip
    stamps = report["measurements"][1]["runs"][0]["token_ns"]
    assert stamps == sorted(stamps)
    assert len(stamps) > 10
    assert report["measurements"][0]["energy"]["reason"]
    assert json.loads(target.read_text()) == report
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith(".report")] == []
    plain = tmp_path / "plain"
    plain.touch()
    assert target.stat().st_mode == plain.stat().st_mode


@pytest.mark.usefixtures("children_here")
def test_a_real_file_is_measured_as_it_is(edge: Edge, tiny_gguf: Path) -> None:
    code, out, _ = edge("check", tiny_gguf, *FAST, "--json")
    report = json.loads(out)
    assert code in {0, 3}
    assert [row["verdict"]["basis"] for row in report["rows"]] == ["MEASURED"]
    assert report["measurements"][0]["artifact"]["file"] == tiny_gguf.name
    assert report["peak_disk_bytes"] == 0


@pytest.mark.usefixtures("children_here")
def test_without_a_model_the_catalogue_is_projected(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    pace(monkeypatch, step_ms=4)
    code, out, err = edge("check", "--backend", "fake", "--budget", "3s", "--json", "-c", "2048")
    report = json.loads(out)
    kinds = {row["verdict"]["kind"] for row in report["rows"]}
    assert code == (0 if "VIABLE" in kinds else 3 if "BORDERLINE" in kinds else 1), err
    models = {row["model"] for row in report["rows"]}
    assert {"smollm2-135m", "qwen2.5-1.5b", "llama-3.1-8b"} <= models
    assert {row["verdict"]["basis"] for row in report["rows"]} == {"PROJECTED"}
    assert {fit["what"] for fit in report["fits"]} == {"decode", "prefill"}
    assert report["peak_disk_bytes"] < cells.DISK_LIMIT_BYTES
    sizes = [row["parameters"] for row in report["rows"]]
    assert sizes == sorted(sizes)


def test_a_killed_child_leaves_a_row_with_its_reason(
    edge: Edge, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pace(monkeypatch, step_ms=1, crash="kill", crash_after=3)
    code, out, _ = edge("check", config, *FAST)
    assert code == 4
    assert "SIGKILL" in out
    assert "unknown" in out
    assert "VIABLE" not in out
    assert list((tmp_path / "cache").rglob("*.gguf")) == []


def test_a_full_disk_is_told_before_anything_is_written(
    edge: Edge, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(cells.shutil, "disk_usage", lambda _path: Usage)
    code, out, _ = edge("check", config, *FAST)
    assert code == 4
    assert "of disk" in out
    assert "EDGE_CACHE_DIR" in out


@pytest.mark.usefixtures("children_here")
def test_too_little_memory_is_the_stated_cause(
    edge: Edge, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_runtime import profiler

    real = profiler.detect_host

    def poor(**given: Any) -> Host:
        return dataclasses.replace(real(**given), ram_available_bytes=8 * 1024**2)

    monkeypatch.setattr(profiler, "detect_host", poor)
    pace(monkeypatch, step_ms=2, prefill_ns_per_token=10_000)
    code, out, _ = edge("check", config, "--backend", "fake", "-l", "Q8_0", "-c", "8192")
    assert code == 1
    assert "memory: needs" in out


@pytest.mark.usefixtures("children_here")
def test_levels_of_both_engines_stand_in_one_table(
    edge: Edge, config: Path, tmp_path: Path
) -> None:
    code, out, _ = edge(
        "check", config, *BRIEF, "-l", "onnx:int4,onnx:FP32", "-l", "q4_k_m", "--json"
    )
    report = json.loads(out)
    assert code == 0
    assert [row["level"] for row in report["rows"]] == ["onnx:int4", "onnx:fp32", "Q4_K_M"]
    assert {row["model"] for row in report["rows"]} == {"my-model"}
    assert {row["verdict"]["basis"] for row in report["rows"]} == {"SYNTHETIC"}
    sizes = [row["weights_bytes"] for row in report["rows"]]
    assert sizes[1] > 5 * sizes[0]
    assert {m["artifact"]["format"] for m in report["measurements"]} == {"onnx", "gguf"}
    assert {m["artifact"]["name"] for m in report["measurements"]} == {"my-model"}
    assert list((tmp_path / "cache").rglob("*.onnx*")) == []
    _, page, _ = edge("check", config, *BRIEF, "-l", "onnx:int4,Q4_K_M")
    rows = [line.split() for line in page.splitlines() if "VIABLE" in line]
    assert [row[2] for row in rows[:1]] == ["onnx:int4"]
    assert [row[0] for row in rows[1:]] == ["Q4_K_M"]


def test_a_level_gets_the_engine_of_its_format(edge: Edge, config: Path) -> None:
    code, out, _ = edge(
        "check", config, "-l", "onnx:int4,Q4_0", "--budget", "1s", "-c", "128", "-p", "64",
        "-t", "1", "--json",
    )  # fmt: skip
    report = json.loads(out)
    assert code in {0, 1, 3}, report["failures"]
    engines = {m["artifact"]["format"]: m["engine"]["name"] for m in report["measurements"]}
    assert engines == {"onnx": "onnxruntime", "gguf": "llama.cpp"}
    asked = {m["artifact"]["format"]: m["requested"]["backend"] for m in report["measurements"]}
    assert asked == {"onnx": "onnx", "gguf": "llama_cpp"}


@pytest.mark.usefixtures("children_here")
def test_a_model_too_large_is_extended_from_its_depth_at_onnx_levels_too(
    edge: Edge, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_check, "DISK_LIMIT_BYTES", 1)
    monkeypatch.setattr(model_check, "TRUNCATED_BYTES", 1_000_000)
    _, out, _ = edge("check", config, *BRIEF, "-l", "onnx:int4", "--json")
    report = json.loads(out)
    assert {m["artifact"]["layers"] for m in report["measurements"]} == {1, 2}
    assert {m["artifact"]["layers_of_model"] for m in report["measurements"]} == {4}
    (row,) = report["rows"]
    assert "of 4 layers and extended to all of them" in row["verdict"]["notes"][0]
    # The whole model's memory, not that of the layers that ran.
    assert row["verdict"]["memory"]["weights_bytes"] == row["weights_bytes"]


@pytest.mark.usefixtures("children_here")
def test_a_family_without_a_graph_gets_a_row_that_says_so(
    edge: Edge, config: Path, tmp_path: Path
) -> None:
    phi = tmp_path / "phi"
    phi.mkdir()
    own = {**CONFIG, "model_type": "phi", "architectures": ["PhiForCausalLM"],
           "num_key_value_heads": 4, "tie_word_embeddings": False, "layer_norm_eps": 1e-5,
           "partial_rotary_factor": 0.5}  # fmt: skip
    (phi / "config.json").write_text(json.dumps(own))
    code, out, _ = edge("check", phi, config, *BRIEF, "-l", "onnx:int4,Q8_0", "--json")
    report = json.loads(out)
    assert code == 0
    unable, *others = report["rows"]
    assert (unable["model"], unable["level"]) == ("phi", "onnx:int4")
    assert "not written as ONNX" in unable["verdict"]["cause"]
    assert unable["weights_bytes"] > 0
    assert [row["verdict"]["kind"] for row in others] == ["VIABLE"] * 3


@pytest.mark.usefixtures("children_here")
def test_onnx_folders_and_gguf_files_are_checked_as_they_are(
    edge: Edge, config: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    shape = ModelShape.from_config(CONFIG, name="mine")
    folder = tmp_path / "mine-onnx"
    quantize.synthesize(shape, "onnx:int8", folder)
    code, out, _ = edge("check", folder, tiny_gguf, folder / "model.onnx", *BRIEF, "--json")
    report = json.loads(out)
    assert code == 0
    assert [row["level"] for row in report["rows"]] == ["onnx:int8", "F16", "onnx:int8"]
    assert [row["verdict"]["basis"] for row in report["rows"]] == [
        "SYNTHETIC", "MEASURED", "SYNTHETIC",
    ]  # fmt: skip
    assert report["peak_disk_bytes"] == 0


def test_an_engine_asked_for_by_name_runs_no_other_format(
    edge: Edge, config: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    code, out, _ = edge("check", config, "--backend", "onnx", "-l", "Q4_0", "--budget", "2s")
    assert code == 4
    assert "The engine onnx runs no GGUF models" in out
    code, out, err = edge("check", tiny_gguf, "--backend", "onnx")
    assert (code, out) == (2, "")
    assert "The engine onnx runs no GGUF models" in err
    code, _, err = edge("check", "--backend", "llama_cpp", "-l", "onnx:int4")
    assert code == 2
    assert "The engine llama_cpp runs no ONNX models" in err


@pytest.mark.usefixtures("children_here")
def test_the_catalogue_is_projected_by_each_engines_own_costs(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    pace(monkeypatch, step_ms=4)
    levels = ("-l", "onnx:int4,Q4_0")
    code, out, err = edge(
        "check", "--backend", "fake", "--budget", "3s", "--json", "-c", "2048", *levels
    )
    report = json.loads(out)
    assert code in {0, 1, 3}, err
    assert [(fit["engine"], fit["what"]) for fit in report["fits"]] == [
        ("fake", "decode"), ("fake", "prefill"), ("fake", "decode"), ("fake", "prefill"),
    ]  # fmt: skip
    names = [{name for name, _ in fit["rates"]} for fit in report["fits"]]
    assert names[0] <= {"INT4", "INT8", "FP32"}
    assert names[2] <= {"Q4_0", "Q4_1", "Q6_K", "Q8_0"}
    rows = {(row["model"], row["level"]): row for row in report["rows"]}
    assert ("llama-3.1-8b", "onnx:int4") in rows
    assert ("llama-3.1-8b", "Q4_0") in rows
    assert {row["verdict"]["basis"] for row in report["rows"]} == {"PROJECTED"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check", "qwen2.5-0.5b", "-l", "onnx:int5"], 2, "There is no ONNX level"),
        (["check", "qwen2.5-0.5b", "-l", "int4"], 2, "Write onnx:int4."),
        (["check", "qwen2.5-1.5"], 2, "Did you mean qwen2.5-1.5b"),
        (["check", "/nowhere/model.gguf"], 2, "neither a file nor a catalogue name"),
        (["check", "qwen2.5-0.5b", "-l", "Q9_X"], 2, "Q9_X"),
        (["check", "-c", "100", "-p", "200"], 2, "does not fit a context"),
        (["check", "--budget", "soon"], 2, "is not a duration"),
        (["check", "--target", "warp"], 2, "warp"),
        (["check", "--target", "-3"], 2, "makes no sense"),
        (["check", "--kv-type", "q7"], 2, "no type of a KV cache"),
        (["check", "--save", "/nowhere/at/all.json"], 2, "cannot be written"),
        (["check", "qwen2.5-0.5b", "--backend", "warp"], 2, "no backend named"),
    ],
)
def test_mistakes_get_a_sentence_and_a_code(
    edge: Edge, arguments: list[str], code: int, words: str
) -> None:
    got, out, err = edge(*arguments)
    assert words in err, err
    assert got == code
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF", b"GGUF" + b"\xff" * 100, b"not a model at all", os.urandom(4096)],
)
def test_hostile_files_get_a_sentence(edge: Edge, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "evil.gguf"
    path.write_bytes(content)
    code, _, err = edge("check", path, "--backend", "fake")
    assert code == 4
    assert err.startswith("edge: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model_type": "mamba"}', '{"model_type": "llama"']
)
def test_hostile_configs_get_a_sentence(edge: Edge, tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    code, _, err = edge("check", tmp_path / "config.json", "--backend", "fake")
    assert code == 4
    assert err.startswith("edge: ")


@pytest.mark.usefixtures("children_here")
def test_a_model_made_for_less_context_is_judged_at_its_own_and_says_so(
    edge: Edge,
    config: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pace(monkeypatch, step_ms=2, prefill_ns_per_token=10_000)
    note = "judged at 1024 tokens of context, all it was made for, not at 4096"
    quantize.convert(tiny_model_dir, tmp_path / "tiny", level="onnx:int4")
    code, out, err = edge("check", tmp_path / "tiny", "--backend", "fake", "--budget", "1s")
    assert code == 0, err
    assert note in " ".join(out.split())
    config.write_text(json.dumps(CONFIG | {"max_position_embeddings": 1024}))
    levels = ("--backend", "fake", "--budget", "1s", "--level", "onnx:int4,Q4_K_M", "--json")
    code, out, err = edge("check", config, *levels)
    assert code == 0, err
    verdicts = [row["verdict"] for row in json.loads(out)["rows"]]
    assert [(v["context_tokens"], note in v["notes"]) for v in verdicts] == [(1024, True)] * 2


def test_a_directory_without_a_model_is_refused(edge: Edge, tmp_path: Path) -> None:
    code, _, err = edge("check", tmp_path)
    assert code == 4
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_it_cleans_up(config: Path, tmp_path: Path, number: int, code: int) -> None:
    environment = {
        **os.environ,
        "EDGE_CACHE_DIR": str(tmp_path / "cache"),
        "EDGE_RUNTIME_FAKE": json.dumps({"step_ns": 200_000_000}),
    }
    command = [sys.executable, "-m", "edge_runtime", "check", str(config), "--backend", "fake"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "measuring" in line:
                break
        time.sleep(0.3)
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == code, rest
    assert "Traceback" not in rest
    assert list((tmp_path / "cache").rglob("*.gguf")) == []
