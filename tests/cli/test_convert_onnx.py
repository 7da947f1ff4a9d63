"""`edge convert` to ONNX as a user meets it: a folder, a sentence, and what is refused and how."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import quantize
from edge_runtime.artifact import Artifact
from edge_runtime.errors import UsageError
from quantize import formats

Edge = Callable[..., tuple[int, str, str]]

LEVELS = ("onnx:fp32", "onnx:fp16", "onnx:int8", "onnx:int4")


@pytest.mark.parametrize("level", LEVELS)
def test_a_checkpoint_becomes_a_folder_named_after_it(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path, level: str
) -> None:
    code, out, err = edge("convert", tiny_model_dir, "--level", level)
    assert (code, err) == (0, "")
    folder = tmp_path / f"tiny_model-{level.replace(':', '-')}"
    assert list(tmp_path.iterdir()) == [folder]
    made = Artifact.open(folder)
    assert (made.format, f"onnx:{made.level}", made.parameters) == ("onnx", level, 2_295_552)
    assert made.chat_template is not None
    first, *following = out.splitlines()
    assert first.startswith(f"{folder.name}: ")
    assert f", {level}, 2.30M parameters, " in first
    assert [line.removeprefix("Next:").strip() for line in following] == [
        f"edge run {folder.name}",
        f"edge check {folder.name}",
    ]


@pytest.mark.parametrize(
    "words", [("--to", "onnx"), ("--to", "ONNX", "-l", "int4"), ("-l", "ONNX:INT4")]
)
def test_a_format_and_a_level_mean_what_the_level_alone_means(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    assert edge("convert", tiny_model_dir, *words)[0] == 0
    assert Artifact.open(tmp_path / "tiny_model-onnx-int4").level == "int4"


def test_what_was_written_is_told_as_one_document(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path
) -> None:
    arguments = ("-o", "my model", "--verify", "-t", 1, "--block-size", 128, "--asymmetric")
    code, out, _ = edge("convert", tiny_model_dir, "--to", "onnx", *arguments, "--json")
    assert code == 0
    found = json.loads(out)
    folder = Path("my model")
    made = Artifact.open(folder)
    assert found["path"] == str(folder)
    assert found["paths"] == [str(folder / "model.onnx"), str(folder / "model.onnx.data")]
    assert (found["level"], found["types"]) == ("onnx:int4", "onnx:int4")
    assert found["options"] == ["blocks of 128", "asymmetric"]
    assert (found["size_bytes"], found["verified"]) == (made.size_bytes, True)
    # 4 bits, a float32 scale and 4 bits of zero point for 128 weights; a few norms in float32.
    assert found["bits_per_weight"] == pytest.approx(4 + 36 / 128, abs=0.05)
    seen = json.loads(edge("inspect", folder, "--json")[1])
    assert seen["bits_per_weight"] == found["bits_per_weight"]
    rotary = next(row for row in seen["mix"] if row["type"] == "rotary")
    assert rotary["size_bytes"] == 2 * 1024 * 32 * 4  # cosines and sines, apart from the weights


def test_an_embedding_of_16_bits_is_halves_apart_from_the_head(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path
) -> None:
    code, out, _ = edge("convert", tiny_model_dir, "-l", "onnx:int8", "--embedding-bits", 16)
    assert code == 0
    assert "onnx:int8 (16-bit embedding)" in out
    artifact = Artifact.open(tmp_path / "tiny_model-onnx-int8")
    kinds = {tensor.name: tensor.type.name for tensor in artifact.tensors}
    assert kinds["token_embd.weight"] == "FP16"
    assert kinds["output.weight"].startswith("INT8")


def test_every_option_reaches_the_graph(edge: Edge, tiny_model_dir: Path, tmp_path: Path) -> None:
    arguments = (
        "--block-size", 64, "--asymmetric", "--algorithm", "k-quant", "--head-bits", 8,
        "--embedding-bits", 8, "--sensitive-bits", 8, "--accuracy-level", 1,
    )  # fmt: skip
    code, out, _ = edge("convert", tiny_model_dir, "-l", "onnx:int4", *arguments)
    assert code == 0
    assert (
        "onnx:int4 (blocks of 64, asymmetric, k-quant, 8-bit head, 8-bit embedding,"
        " 8-bit sensitive matrices, accuracy level 1)"
    ) in out
    said = Artifact.open(tmp_path / "tiny_model-onnx-int4").metadata["metadata_props"]
    assert isinstance(said, dict)
    found = {key.removeprefix("edge_runtime."): value for key, value in said.items()}
    assert found.items() >= {
        "level": "int4", "block_size": "64", "symmetric": "False", "algorithm": "k_quant",
        "head_bits": "8", "embedding_bits": "8", "sensitive_bits": "8", "accuracy_level": "1",
    }.items()  # fmt: skip


def test_an_embedding_that_stays_floats_is_told(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path
) -> None:
    narrow = shutil.copytree(tiny_model_dir, tmp_path / "narrow")
    config = json.loads((narrow / "config.json").read_text())
    config |= {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    config |= {"head_dim": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    (narrow / "config.json").write_text(json.dumps(config))
    sizes = {256: 128, 512: 128}
    weights = load_file(narrow / "model.safetensors")
    cut = {
        name: tensor[tuple(slice(sizes.get(size, size)) for size in tensor.shape)].copy()
        for name, tensor in weights.items()
        if ".layers." not in name or ".layers.0." in name
    }
    for name in cut:
        if "k_proj" in name or "v_proj" in name:
            cut[name] = cut[name][:64].copy()
    save_file(cut, narrow / "model.safetensors")
    code, _, err = edge("convert", narrow, "--to", "onnx", "--block-size", 256)
    assert code == 0, err
    assert (
        "embedding stays fp32 (1.00 MiB): its rows of 128 do not divide into blocks of 256" in err
    )


def test_a_checkpoint_of_a_hub_gets_the_name_of_its_repository(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_runtime import sources

    snapshot = tmp_path / "cache" / "models--some--repo" / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(tiny_model_dir, snapshot)
    asked: list[str] = []

    def resolve(reference: str, **_options: Any) -> Path:
        asked.append(reference)
        return snapshot

    monkeypatch.setattr(sources, "resolve_checkpoint", resolve)
    assert edge("convert", "hf:some/repo", "--to", "onnx")[0] == 0
    assert asked == ["hf:some/repo"]
    assert Artifact.open(tmp_path / "repo-onnx-int4").level == "int4"


def test_what_is_there_is_kept_unless_forced(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path
) -> None:
    assert edge("convert", tiny_model_dir, "--to", "onnx", "-o", "m")[0] == 0
    before = (tmp_path / "m" / "model.onnx").read_bytes()
    code, out, err = edge("convert", tiny_model_dir, "-l", "onnx:int8", "-o", "m")
    assert (code, out) == (2, "")
    assert "--force" in err
    assert (tmp_path / "m" / "model.onnx").read_bytes() == before
    assert edge("convert", tiny_model_dir, "-l", "onnx:int8", "-o", "m", "--force")[0] == 0
    assert Artifact.open(tmp_path / "m").level == "int8"
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]


@pytest.fixture(scope="module")
def awkward(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints with something wrong, and of things that are in the way."""
    root = tmp_path_factory.mktemp("awkward")
    shutil.copytree(tiny_model_dir, root / "tiny")
    (root / "file").write_bytes(b"mine")
    (root / "dangling").symlink_to("nowhere")
    for name in ("empty", "pickled", "strange", "nested/photos"):
        (root / name).mkdir(parents=True)
    (root / "strange" / "letter.txt").write_text("mine")
    (root / "nested" / "model.onnx").write_text("mine")
    shutil.copytree(root / "strange", root / "real")
    (root / "linked").symlink_to("real")
    shutil.copy(tiny_model_dir / "config.json", root / "pickled")
    (root / "pickled" / "pytorch_model.bin").write_bytes(b"\x80")
    for name in ("foreign", "torn", "diverged", "huge", "mute"):
        shutil.copytree(tiny_model_dir, root / name)
    (root / "foreign" / "config.json").write_text('{"architectures": ["MambaForCausalLM"]}')
    (root / "mute" / "tokenizer.json").write_text("{}")
    os.truncate(root / "torn" / "model.safetensors", 4_000_000)
    for name, value in (("diverged", np.nan), ("huge", 1e6)):
        weights = load_file(root / name / "model.safetensors")
        norm = next(n for n in weights if n.endswith("input_layernorm.weight"))
        weights = {n: tensor.astype(np.float32) for n, tensor in weights.items()}
        weights[norm][3] = value
        save_file(weights, root / name / "model.safetensors")
    return root


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("tiny", "--to", "pdf"), 2, "--to gguf or --to onnx"),
        (("tiny", "-l", "int4"), 2, "Write onnx:int4"),
        (("tiny", "-l", "onnx:q4_0"), 2, "fp32, fp16, int8, int4"),
        (("tiny", "-l", "onnx:int3"), 2, "int8"),
        (("tiny", "--to", "onnx", "-l", "Q4_K_M"), 2, "Q4_K_M is a level of GGUF files"),
        (("tiny", "--to", "gguf", "-l", "onnx:int4"), 2, "no level of GGUF files"),
        (("tiny", "--to", "onnx", "--split-max-size", "1GB"), 2, "one data file"),
        (("tiny", "--to", "onnx", "--pre", "gpt-2"), 2, "--pre does not go with onnx:int4"),
        (("tiny", "--to", "onnx", "--imatrix", "x"), 2, "llama.cpp's quantizer"),
        (("tiny", "-l", "Q4_0", "--block-size", "32"), 2, "--block-size does not go with Q4_0"),
        (("tiny", "--symmetric"), 2, "--symmetric does not go with F16"),
        (("tiny", "--asymmetric"), 2, "--asymmetric does not go with F16"),
        (("tiny", "--to", "gguf", "--builder", "genai"), 2, "--builder does not go with F16"),
        (("tiny", "-l", "onnx:fp16", "--asymmetric"), 2, "--asymmetric has no effect"),
        (("tiny", "-l", "onnx:int8", "--algorithm", "k-quant"), 2, "no effect with 8 bits"),
        (("tiny", "--to", "onnx", "--algorithm", "hqq"), 2, "'hqq' is no algorithm"),
        (("tiny", "--to", "onnx", "--block-size", "48"), 2, "16, 32, 64, 128, 256"),
        (("tiny", "--to", "onnx", "--head-bits", "5"), 2, "--head-bits cannot be 5"),
        (("tiny", "--to", "onnx", "--accuracy-level", "9"), 2, "accuracy level 9"),
        (("tiny", "--to", "onnx", "--builder", "llama"), 2, "--builder genai"),
        (("tiny", "--to", "onnx", "-o", "gone/x"), 4, "gone"),
        (("tiny", "--to", "onnx", "-o", "file"), 2, "no folder"),
        (("tiny", "--to", "onnx", "-o", "file", "--force"), 2, "no folder"),
        (("tiny", "--to", "onnx", "-o", "dangling", "--force"), 2, "no folder"),
        (("tiny", "--to", "onnx", "-o", "linked", "--force"), 2, "no folder"),
        (("tiny", "--to", "onnx", "-o", "strange", "--force"), 2, "no model.onnx in it"),
        (("tiny", "--to", "onnx", "-o", "nested", "--force"), 2, "the folder photos"),
        (("tiny", "--to", "onnx", "-o", "tiny", "--force"), 2, "holds what it would be made from"),
        (("tiny", "--to", "onnx", "-o", ".", "--force"), 2, "holds what it would be made from"),
        (("tiny", "--to", "onnx", "-o", 300 * "x"), 4, "name too long"),
        (("gone", "--to", "onnx"), 4, "There is no gone"),
        (("empty", "--to", "onnx"), 4, "config.json"),
        (("pickled", "--to", "onnx"), 4, "pickle"),
        (("torn", "--to", "onnx"), 4, "model.safetensors"),
        (("mute", "--to", "onnx"), 4, "describes no tokenizer"),
        (("diverged", "--to", "onnx"), 4, "no finite numbers"),
        (("huge", "-l", "onnx:fp16"), 4, "too large for fp16"),
        (("foreign", "--to", "onnx"), 4, "edge convert foreign --level onnx:int4 --builder genai"),
        (("foreign", "-l", "onnx:int8"), 4, "pip install 'edge-runtime[genai-builder]'"),
    ],
)
def test_mistakes_get_a_sentence_and_a_code_and_leave_nothing(
    edge: Edge,
    awkward: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(awkward)
    before = sorted(awkward.rglob("*"))
    got, out, err = edge("convert", *arguments)
    assert words in err, err
    assert (got, out) == (code, "")
    assert err.startswith("edge: ")
    assert "Traceback" not in err
    assert sorted(awkward.rglob("*")) == before
    assert (awkward / "file").read_bytes() == b"mine"


def test_the_folder_a_command_runs_in_is_not_replaced(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path
) -> None:
    code, _, err = edge("convert", tiny_model_dir, "--to", "onnx", "-o", ".")
    assert code == 2
    assert "is where this command runs" in err
    assert list(tmp_path.iterdir()) == []


def test_options_of_the_other_format_do_not_reach_the_library(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    for given in ({"pre": "gpt-2"}, {"options": quantize.QuantizeOptions()}, {"split_bytes": 1}):
        with pytest.raises(UsageError, match="ONNX levels take no"):
            quantize.convert(tiny_model_dir, tmp_path / "m", level="onnx:int4", **given)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tiny_model_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    program = (
        "import resource, signal, sys; from edge_runtime.cli import app\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "sys.argv = ['edge', *sys.argv[1:]]; app.main()"
    )
    command = [sys.executable, "-c", program, "convert", str(tiny_model_dir), "--to", "onnx"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.startswith("edge: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_told_before_anything_is_written(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=20_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    code, _, err = edge("convert", tiny_model_dir, "--to", "onnx")
    assert code == 4
    assert "free" in err
    assert list(tmp_path.iterdir()) == []


def test_verify_finds_a_single_wrong_bit(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantize.writers import onnx_folder

    def lying(descriptor: int) -> None:
        # In the middle of the int4 blocks, and only once there are any.
        size = os.fstat(descriptor).st_size
        byte = os.pread(reading(descriptor), 1, size // 2)
        os.pwrite(descriptor, bytes([byte[0] ^ 1]), size // 2)

    def reading(descriptor: int) -> int:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to reopen the file")
    monkeypatch.setattr(onnx_folder.os, "fsync", lying)
    code, _, err = edge("convert", tiny_model_dir, "--to", "onnx", "--verify")
    assert code == 4
    assert "reads back otherwise than it was written" in err
    assert list(tmp_path.iterdir()) == []


def test_verify_lets_onnx_runtime_compute(
    edge: Edge, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantize.writers import onnx

    monkeypatch.setitem(onnx.OPSETS, "", 10_000)  # type: ignore[arg-type]
    code, _, err = edge("convert", tiny_model_dir, "--to", "onnx", "--verify")
    assert code == 4
    assert "ONNX Runtime does not run the model" in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_came_meanwhile_is_not_replaced(tiny_model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"

    def meanwhile(share: float) -> None:
        if share < 1 and not out.exists():
            out.mkdir()
            (out / "model.onnx").write_text("another's")

    with pytest.raises(UsageError, match="is there already"):
        quantize.convert(tiny_model_dir, out, level="onnx:int4", progress=meanwhile)
    assert (out / "model.onnx").read_text() == "another's"
    assert list(tmp_path.iterdir()) == [out]


def test_progress_rises_to_the_end_also_when_verifying(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    told: list[float] = []
    quantize.convert(
        tiny_model_dir, tmp_path / "m", level="onnx:int4", verify=True, progress=told.append
    )
    assert told == sorted(told)
    assert (told[-1], 0 < told[0] < 0.5) == (pytest.approx(1.0), True)


@pytest.mark.skipif(sys.platform == "win32", reason="signals and pseudo-terminals are POSIX")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_stopping_it_leaves_nothing(
    tiny_model_dir: Path, tmp_path: Path, number: int, code: int
) -> None:
    import pty

    out = tmp_path / "out"
    # Slow as a large model would be: the writer tells its progress after each slab.
    program = (
        "import sys, time, quantize; from edge_runtime.cli import app; real = quantize.convert\n"
        "def slow(*given, progress, **more):\n"
        "    return real(*given, progress=lambda f: (progress(f), time.sleep(0.05)), **more)\n"
        "quantize.convert = slow; sys.argv = ['edge', *sys.argv[1:]]; app.main()"
    )
    arguments = ("convert", str(tiny_model_dir), "--to", "onnx", "-o", str(out))
    ours, theirs = pty.openpty()  # a terminal, so that the bar is drawn and its thread runs too
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=theirs,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        while not list(tmp_path.glob(".edge-*.folder")) and process.poll() is None:
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
    assert not out.exists()
    if number == signal.SIGKILL:  # what it could not remove, the next one does
        assert list(tmp_path.iterdir())
        quantize.convert(tiny_model_dir, out, level="onnx:int4")
        assert list(tmp_path.iterdir()) == [out]
    else:
        assert list(tmp_path.iterdir()) == []


def test_the_shell_is_offered_the_levels_of_both_formats() -> None:
    from edge_runtime.cli.options import complete_any_level

    assert [name for name, _ in complete_any_level("onnx")] == list(LEVELS)
    assert [name for name, _ in complete_any_level("ONNX:int")] == ["onnx:int8", "onnx:int4"]
    names = [name for name, _ in complete_any_level("")]
    assert set(names) > {"Q4_K_M", "onnx:int4"}
    assert all(text for _, text in complete_any_level(""))


def test_help_lists_each_formats_options_apart(edge: Edge) -> None:
    code, out, _ = edge("convert", "--help")
    assert code == 0
    panels = out.split("╭─ ")
    titles = [panel.split(" ")[0] for panel in panels[1:]]
    assert titles == ["Arguments", "Options", "Output", "GGUF", "ONNX"]
    assert "--block-size" in panels[-1]
    assert "--imatrix" in panels[-2]


def test_the_level_alone_chooses_the_writer(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = Artifact.open(
        quantize.convert(tiny_model_dir, tmp_path / "m.gguf", level="F32").path
    ).shape
    int4 = quantize.onnx_level("onnx:int4")
    for level in ("onnx:int4", "ONNX:INT4", int4):
        assert quantize.is_onnx_level(level)
        made = quantize.synthesize(shape, level, tmp_path / "s", layers=2)
        assert (made.format, made.synthetic, made.shape.layers) == ("onnx", True, 2)
        data = (tmp_path / "s" / "model.onnx.data").stat().st_size
        assert quantize.synthetic_bytes(shape, level, 2) == data
    assert not quantize.is_onnx_level("Q4_K_M")
    assert quantize.synthesize(shape, "Q4_K_M", tmp_path / "s.gguf").format == "gguf"
    size = (tmp_path / "s.gguf").stat().st_size
    assert quantize.synthetic_bytes(shape, "Q4_K_M") == size
    assert quantize.kept_layers(shape, "onnx:int4", 2) == (0, 1)
    with pytest.raises(UsageError):
        quantize.kept_layers(shape, "onnx:int4", 99)
    assert formats.is_onnx_level(int4.with_options(block_size=64))
