"""`edge profile` as a user types it, on the backend without an engine."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import quantize
from edge_runtime.artifact import ModelShape
from edge_runtime.cli.app import main
from edge_runtime.measurement import CellFailure, Measurement, read_record

QUICK = {"step_ns": 1_000_000, "prefill_ns_per_token": 10_000}
FAST = ("-r", "2", "--warmups", "0", "--backend", "fake")


def environment(script: Mapping[str, object]) -> dict[str, str]:
    return {
        **os.environ,
        "EDGE_RUNTIME_FAKE": json.dumps(script),
        "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path),
    }


Edge = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def edge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Edge:
    """Runs the command in this process."""

    def call(
        *arguments: str, script: Mapping[str, object] = QUICK
    ) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("EDGE_RUNTIME_FAKE", json.dumps(script))
        monkeypatch.setattr(sys, "argv", ["edge", "profile", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out, err)

    return call


@pytest.mark.usefixtures("children_here")
def test_a_sweep_gives_one_row_for_each_cell(edge: Edge, random_gguf: Path) -> None:
    done = edge(
        str(random_gguf), "-p", "16", "-n", "4", "-d", "0,32", "-t", "1-2", "-o", "csv", *FAST
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    tests = ["pp16", "tg4", "pp16 @ d32", "tg4 @ d32"]
    assert [r["test"] for r in rows] == tests * 2
    assert [r["threads"] for r in rows] == ["1"] * 4 + ["2"] * 4
    # Data on stdout, talk on stderr.
    assert "[8/8]" in done.stderr


def test_markdown_is_the_default(edge: Edge, random_gguf: Path) -> None:
    done = edge(str(random_gguf), "-p", "0", "-n", "4", *FAST)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| model")
    assert "tg4" in done.stdout


@pytest.mark.usefixtures("children_here")
def test_chat_like_workloads_by_name(edge: Edge, random_gguf: Path) -> None:
    done = edge(str(random_gguf), "--workload", "chat", "-o", "jsonl", *FAST, script={})
    assert done.returncode == 0, done.stderr
    record = Measurement.from_json(json.loads(done.stdout))
    assert record.workload.name == "chat"
    assert all(len(run.token_ns) == 128 for run in record.runs)


@pytest.mark.usefixtures("children_here")
def test_threads_auto_shows_the_default_against_the_best(edge: Edge, random_gguf: Path) -> None:
    done = edge(str(random_gguf), "-p", "0", "-n", "4", "-t", "auto", "-o", "json", *FAST)
    assert done.returncode == 0, done.stderr
    assert "default" in done.stderr
    assert "t/s by threads: 1:" in done.stderr
    assert len(json.loads(done.stdout)) == 1


@pytest.mark.usefixtures("children_here")
def test_a_sweep_can_be_resumed_and_failed_cells_are_tried_again(
    edge: Edge, random_gguf: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results.jsonl"
    base = (str(random_gguf), "-p", "8", "-n", "4", "-o", "jsonl", *FAST)
    broken = edge(*base, "--save", str(results), script={**QUICK, "crash_after": 0})
    assert broken.returncode == 4
    assert "1 of 2 cells failed" in broken.stderr
    first = [read_record(json.loads(line)) for line in results.read_text().splitlines()]
    assert [type(r) for r in first] == [Measurement, CellFailure]

    again = edge(*base, "--save", str(results))
    assert again.returncode == 2
    assert "--resume" in again.stderr

    kept = edge(*base, "--resume", str(results), "--keep-failed")
    assert kept.returncode == 4
    assert len(results.read_text().splitlines()) == 2

    resumed = edge(*base, "--resume", str(results))
    assert resumed.returncode == 0, resumed.stderr
    shown = [read_record(json.loads(line)) for line in resumed.stdout.splitlines()]
    assert shown[0] == first[0]
    assert isinstance(shown[1], Measurement)
    assert len(results.read_text().splitlines()) == 3


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("form", ["json", "csv"])
def test_ctrl_c_keeps_finished_cells_and_says_how_to_go_on(
    random_gguf: Path, tmp_path: Path, form: str
) -> None:
    results = tmp_path / "results.jsonl"
    arguments = [str(random_gguf), "-p", "8", "-n", "4", "-o", form, *FAST, "--save", str(results)]
    # The prompt cell takes no time, the first decode step of the second cell a minute.
    with subprocess.Popen(
        [sys.executable, "-m", "edge_runtime", "profile", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=environment({"step_ns": 60_000_000_000}),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert process.stdout is not None
        while "[2/2]" not in process.stderr.readline():
            pass
        # As a terminal does it: to the whole group, the measuring child included.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"--resume {results}" in err
    assert "Traceback" not in err
    kept = [json.loads(line) for line in results.read_text().splitlines()]
    assert [record["workload"]["name"] for record in kept] == ["pp8"]
    if form == "json":
        assert json.loads(out) == kept
    else:
        assert [r["test"] for r in csv.DictReader(io.StringIO(out))] == ["pp8"]


@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process and an empty folder: for what ends before any child."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edge", "profile", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("-p", "4-1"), "runs backwards"),
        (("-p", "0", "-n", "0"), "nothing to measure"),
        (("-r", "0"), "no number of runs"),
        (("-r", "5-2"), "repetitions"),
        (("-ctk", "q9_9"), "q9_9"),
        (("-fa", "maybe"), "maybe"),
        (("-t", "0"), "-t"),
        (("-o", "yaml"), "yaml"),
        (("--workload", "essay"), "essay"),
        (("--budget", "soon"), "duration"),
        (("--save", "a", "--resume", "b"), "--resume"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(
    typed: Callable[..., tuple[int, str, str]],
    random_gguf: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    word: str,
) -> None:
    code, out, err = typed(str(random_gguf), *arguments, "--backend", "fake")
    assert code == 2, err
    assert word in err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("missing.gguf",), "missing.gguf"),
        (("{model}", "--resume", "missing.jsonl"), "missing.jsonl"),
        (("{model}", "--save", "no/such/folder.jsonl"), "cannot be written"),
    ],
)
def test_what_is_not_there_is_one_sentence_and_exit_4(
    typed: Callable[..., tuple[int, str, str]],
    random_gguf: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    word: str,
) -> None:
    given = [a.format(model=random_gguf) for a in arguments]
    code, _, err = typed(*given, "--backend", "fake")
    assert code == 4, err
    assert word in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def onnx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ONNX model with random weights."""
    folder = tmp_path_factory.mktemp("onnx") / "small-onnx-int4"
    quantize.synthesize(SMALL, "onnx:int4", folder)
    return folder


SMALL = ModelShape.from_config(
    {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    },
    name="small",
)  # fmt: skip


@pytest.mark.usefixtures("children_here")
def test_models_of_both_formats_make_one_table(
    edge: Edge, random_gguf: Path, onnx_folder: Path
) -> None:
    models = (str(random_gguf), str(onnx_folder), str(onnx_folder / "model.onnx"))
    done = edge(*models, "-p", "0", "-n", "4", "-o", "text", *FAST)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if " tg4 " in line]
    assert sum("engine" in line for line in done.stdout.splitlines()) == 1
    assert ["F32" in row for row in rows] == [True, False, False]
    assert ["int4" in row for row in rows] == [False, True, True]
    assert "onnx:int4, tg4" in done.stderr


@pytest.mark.engine
def test_each_model_runs_with_the_engine_of_its_format(
    edge: Edge, random_gguf: Path, onnx_folder: Path
) -> None:
    done = edge(
        str(random_gguf), str(onnx_folder), "-p", "0", "-n", "2", "-r", "1", "-t", "1",
        "-ub", "64", "-c", "128", "-o", "csv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [r["backend"] for r in rows] == ["llama_cpp", "onnx"]
    assert [r["threads"] for r in rows] == ["1", "1"]
    assert [r["micro_batch_tokens"] for r in rows] == ["64", "64"]
    # llama.cpp rounds a context up, a graph has what was asked for.
    assert [int(r["context_tokens"]) >= 128 for r in rows] == [True, True]


@pytest.mark.engine
@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("-fa", "on"), "Flash attention cannot be turned on."),
        (("-ctk", "bf16"), "The graph keeps it as f32."),
        (("--no-mmap",), "The weights cannot be read without mapping them."),
        (("-c", "4096"), "cannot have a context of 4096 tokens"),
        (("--backend", "llama_cpp"), "The engine llama_cpp runs no ONNX models."),
    ],
)
def test_what_an_engine_cannot_do_fails_its_cell_alone(
    edge: Edge, random_gguf: Path, onnx_folder: Path, option: tuple[str, ...], words: str
) -> None:
    done = edge(
        str(onnx_folder), str(random_gguf), "-p", "0", "-n", "2", "-r", "1", "-t", "1", "--warmups",
        "0", "-o", "csv", *option,
    )  # fmt: skip
    assert done.returncode == 4
    failed, measured = csv.DictReader(io.StringIO(done.stdout))
    assert failed["status"] == "failed"
    assert words in failed["error"]
    assert (measured["status"], measured["backend"]) == ("measured", "llama_cpp")


@pytest.mark.usefixtures("children_here")
def test_a_sweep_of_an_onnx_folder_is_resumed_until_its_weights_change(
    edge: Edge, onnx_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "copy"
    shutil.copytree(onnx_folder, model)
    results = tmp_path / "results.jsonl"
    base = (str(model), "-p", "8", "-n", "0", "-o", "jsonl", *FAST)
    assert edge(*base, "--save", str(results)).returncode == 0
    assert edge(*base, "--resume", str(results)).returncode == 0
    assert len(results.read_text().splitlines()) == 1
    # The same graph over other weights of the same size: another model.
    quantize.synthesize(SMALL, "onnx:int4", model, seed=1)
    assert edge(*base, "--resume", str(results)).returncode == 0
    assert len(results.read_text().splitlines()) == 2
