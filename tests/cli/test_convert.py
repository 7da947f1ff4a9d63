"""`edge convert` as a user meets it: one file, one sentence, and what is refused and how."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import quantize
from edge_runtime.artifact import Artifact

pytestmark = pytest.mark.engine
Edge = Callable[..., tuple[int, str, str]]


def test_a_checkpoint_becomes_a_file_named_after_it(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path
) -> None:
    code, out, err = edge("convert", tiny_model_dir)
    assert (code, err) == (0, "")
    made = Artifact.open(tmp_path / "tiny_model-F16.gguf")
    assert made.level == "F16"
    first, *following = out.splitlines()
    assert first.startswith("tiny_model-F16.gguf: 4.44 MiB, F16, 2.30M parameters, 16.01 bits per")
    assert [line.removeprefix("Next:").strip() for line in following] == [
        "edge run tiny_model-F16.gguf",
        "edge check tiny_model-F16.gguf",
    ]


def test_a_level_of_the_quantizers_is_one_command(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path
) -> None:
    arguments = ("--to", "gguf", "--level", "q4_k_m", "-o", "my model.gguf", "--verify", "-t", 1)
    code, out, _ = edge("convert", tiny_model_dir, *arguments, "--json")
    assert code == 0
    found = json.loads(out)
    made = Artifact.open(tmp_path / "my model.gguf")
    assert list(tmp_path.iterdir()) == [made.path]
    assert found["level"] == made.level == "Q4_K_M"
    assert (found["size_bytes"], found["parameters"]) == (made.size_bytes, made.parameters)
    assert found["bits_per_weight"] == pytest.approx(8 * made.weight_bytes / 2_295_552, rel=1e-3)
    assert found["verified"]
    assert found["seconds"] > 0


def test_a_split_output_and_its_parts_are_told(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path
) -> None:
    code, out, _ = edge("convert", tiny_model_dir, "-l", "Q8_0", "--split-max-size", "1MiB")
    assert code == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"tiny_model-Q8_0-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert out.startswith(f"{names[0]}: 2.39 MiB, 3 files, Q8_0")
    assert Artifact.open(tmp_path / names[2]).parameters == 2_295_552


def test_what_is_there_is_kept_unless_forced(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"mine")
    code, out, err = edge("convert", tiny_model_dir, "-o", mine)
    assert (code, out) == (2, "")
    assert "--force" in err
    assert mine.read_bytes() == b"mine"
    assert edge("convert", tiny_model_dir, "-o", mine, "--force")[0] == 0
    assert Artifact.open(mine).level == "F16"


def test_a_folder_as_output_gets_the_usual_name(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    assert edge("convert", tiny_model_dir, "-o", "models", "-l", "BF16")[0] == 0
    assert Artifact.open(tmp_path / "models" / "tiny_model-BF16.gguf").level == "BF16"


def test_every_option_reaches_the_library(
    edge: Edge, tiny_model_dir: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def convert(checkpoint: Path, out: Path, **options: Any) -> Artifact:
        given.update(options, checkpoint=checkpoint, out=out)
        options["progress"](0.5)
        return Artifact.open(tiny_gguf)

    monkeypatch.setattr(quantize, "convert", convert)
    arguments = (
        "-l", "iq2_xs", "-o", "x.gguf", "--pre", "llama-bpe", "--split-max-size", "2GB",
        "--imatrix", "m.imatrix", "--verify", "--force", "--threads", 3,
    )  # fmt: skip
    code, _, err = edge("convert", tiny_model_dir, *arguments)
    assert code == 0
    assert "times the processor time of Q4_0" in err
    options = given.pop("options")
    assert (options.imatrix, options.threads) == (Path("m.imatrix"), 3)
    assert given.pop("progress")
    assert given == {
        "checkpoint": tiny_model_dir,
        "out": Path("x.gguf"),
        "level": "IQ2_XS",
        "pre": "llama-bpe",
        "split_bytes": 2_000_000_000,
        "overwrite": True,
        "verify": True,
        "threads": 3,
    }


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("tiny", "--to", "pdf"), 2, "--to gguf or --to onnx"),
        (("tiny", "-l", "Q9_X"), 2, "'Q9_X'"),
        (("tiny", "-l", "IQ1_S"), 4, "importance matrix"),
        (("tiny", "-l", "Q8_0", "--imatrix", "x"), 2, "no effect at Q8_0"),
        (("tiny", "--split-max-size", "much"), 2, "is not a size"),
        (("tiny", "--split-max-size", "0"), 2, "hold no tensor"),
        (("tiny", "--pre", "no-such-name"), 2, "no-such-name"),
        (("tiny", "-o", "gone/x.gguf"), 4, "gone"),
        (("gone",), 4, "There is no gone"),
        (("some/repo",), 4, "hf:some/repo"),
        (("hf:some/repo:file.gguf",), 2, "whole repository"),
        (("model.gguf",), 2, "edge quantize model.gguf --level"),
        (("tiny/config.json",), 4, "holds it: tiny"),
        (("empty",), 4, "config.json"),
        (("pickled",), 4, "pickle"),
        (("foreign",), 4, "MambaForCausalLM"),
        (("torn",), 4, "model.safetensors"),
        (("tiny", "-o", "tiny/model.safetensors", "--force"), 2, "of the checkpoint itself"),
        (("tiny", "-o", f"{300 * 'x'}.gguf"), 4, "name too long"),
        ((300 * "x",), 4, "name too long"),
    ],
)
def test_mistakes_get_a_sentence_and_a_code_and_leave_nothing(
    edge: Edge,
    tiny_model_dir: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "tiny")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for name in ("empty", "pickled", "foreign", "torn"):
        (tmp_path / name).mkdir()
    shutil.copy(tiny_model_dir / "config.json", tmp_path / "pickled")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80")
    for name in ("foreign", "torn"):
        shutil.copytree(tiny_model_dir, tmp_path / name, dirs_exist_ok=True)
    (tmp_path / "foreign" / "config.json").write_text('{"architectures": ["MambaForCausalLM"]}')
    os.truncate(tmp_path / "torn" / "model.safetensors", 4_000_000)
    before = sorted(tmp_path.rglob("*"))
    got, out, err = edge("convert", *arguments)
    assert words in err, err
    assert (got, out) == (code, "")
    assert err.startswith("edge: ")
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals and pseudo-terminals are POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_it_leaves_nothing(
    tiny_model_dir: Path, tmp_path: Path, number: int, code: int
) -> None:
    import pty

    out = tmp_path / "out.gguf"
    # Slow as a large model would be: the writer tells its progress after each slab.
    program = (
        "import sys, time, quantize; from edge_runtime.cli import app; real = quantize.convert\n"
        "def slow(*given, progress, **more):\n"
        "    return real(*given, progress=lambda f: (progress(f), time.sleep(0.05)), **more)\n"
        "quantize.convert = slow; sys.argv = ['edge', *sys.argv[1:]]; app.main()"
    )
    command = [sys.executable, "-c", program, "convert", str(tiny_model_dir), "-o", str(out)]
    # A terminal, so that the bar is drawn and its thread runs too.
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs) as process:
        while not list(tmp_path.iterdir()) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.1)
        process.send_signal(number)
        process.wait(60)
    os.close(theirs)
    said = os.read(ours, 1 << 20).decode("utf-8", "replace")
    os.close(ours)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert ("edge: Interrupted. Nothing was left behind." in said) == (number == signal.SIGINT)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_is_inspected_says_whether_it_can_be_converted(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path
) -> None:
    code, out, _ = edge("inspect", tiny_model_dir, "--json", "--checksums")
    assert code == 0
    found = json.loads(out)
    assert (found["kind"], found["parameters"], found["level"]) == ("checkpoint", 2_295_552, "F16")
    assert found["conversion"]["family"] == "llama"
    assert dict(found["conversion"]["sizes"])["Q8_0"] > 2_295_552
    assert (found["tokenizer"]["pre"], found["tokenizer"]["tokens"]) == ("gpt-2", 2048)
    assert "<|im_start|>" in found["chat_template"]
    assert {file["name"] for file in found["files"]} >= {"model.safetensors", "config.json"}
    assert all(len(file["sha256"]) == 64 for file in found["files"])
    _, page, _ = edge("inspect", tiny_model_dir)
    assert "yes, as llama" in page
    assert max(map(len, page.splitlines())) <= 80


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", '{"architectures": ["MambaForCausalLM"]}', "MambaForCausalLM"),
        ("tokenizer.json", "{", "tokenizer.json"),
        ("model.safetensors", "torn", "model.safetensors"),
    ],
)
def test_a_checkpoint_that_cannot_be_converted_is_shown_with_the_reason(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path, name: str, content: str, words: str
) -> None:
    copied = shutil.copytree(tiny_model_dir, tmp_path / "copied")
    (copied / name).write_text(content)
    code, out, _ = edge("inspect", copied, "--json")
    assert code == 0
    assert words in json.loads(out)["conversion"]["reason"]
    code, page, _ = edge("inspect", copied)
    assert code == 0
    assert re.search(r"^Convertible +no:", page, re.MULTILINE)


def test_a_checkpoint_of_pickles_is_shown_with_the_reason(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_model_dir / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    code, out, _ = edge("inspect", tmp_path, "--json")
    assert code == 0
    found = json.loads(out)
    assert "pickle" in found["conversion"]["reason"]
    assert found["shape"]["layers"] == 3
