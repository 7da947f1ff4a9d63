"""`edge quantize` as a user meets it: files, tables, what is refused, and with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.artifact import LEVELS, Artifact
from edge_runtime.cli.options import complete_level, complete_quantize_level
from edge_runtime.cli.quantizing import stem_of
from quantize import imatrix

pytestmark = pytest.mark.engine
Edge = Callable[..., tuple[int, str, str]]


def test_one_level_makes_one_file_named_after_it(
    edge: Edge, make_random_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_random_gguf("tiny-F32.gguf")
    code, out, err = edge("quantize", source, "--level", "q8_0", "--verify")
    assert (code, err) == (0, "")
    made = Artifact.open(tmp_path / "tiny-Q8_0.gguf")
    assert made.level == "Q8_0"
    (row,) = (line.split() for line in out.splitlines()[1:])
    ratio = made.size_bytes / source.stat().st_size
    assert (row[0], row[4], row[-1]) == ("Q8_0", f"{ratio:.3f}", "tiny-Q8_0.gguf")
    assert row[3] == f"{8 * made.weight_bytes / made.parameters:.2f}"


def test_several_levels_go_into_a_folder_and_one_that_fails_stops_no_other(
    edge: Edge, make_random_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_random_gguf("tiny.f32.gguf")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tiny-Q4_0.gguf").write_bytes(b"mine")
    arguments = ("-l", "Q8_0,Q4_0", "-l", "IQ1_S", "-l", "f16", "--out-dir", "out", "--json")
    code, out, err = edge("quantize", source, *arguments)
    assert code == 4
    rows = json.loads(out)["levels"]
    assert [row["level"] for row in rows] == ["Q8_0", "Q4_0", "IQ1_S", "F16"]
    assert [Path(row["path"]).name for row in rows if "size_bytes" in row] == [
        "tiny-Q8_0.gguf",
        "tiny-F16.gguf",
    ]
    assert "--force" in rows[1]["way_out"]
    assert "importance matrix" in rows[2]["fact"]
    assert (tmp_path / "out" / "tiny-Q4_0.gguf").read_bytes() == b"mine"
    assert "importance matrix" in err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "tiny-F16.gguf",
        "tiny-Q4_0.gguf",
        "tiny-Q8_0.gguf",
    ]
    code, out, _ = edge("quantize", source, "-l", "Q4_0,Q8_0", "--out-dir", "out", "--force")
    assert code == 0
    assert Artifact.open(tmp_path / "out" / "tiny-Q4_0.gguf").level == "Q4_0"


def test_a_dry_run_tells_the_size_to_the_byte_and_writes_nothing(
    edge: Edge, make_random_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_random_gguf("tiny.gguf")
    levels = ("Q8_0", "Q4_K_M", "IQ2_XS")
    code, out, _ = edge("quantize", source, "-l", ",".join(levels), "--dry-run", "--json")
    assert code == 0
    assert list(tmp_path.iterdir()) == [source]
    planned = {row["level"]: row for row in json.loads(out)["levels"]}
    assert planned["IQ2_XS"]["fallbacks"] > 0
    assert edge("quantize", source, "-l", "Q8_0,Q4_K_M")[0] == 0
    for level in ("Q8_0", "Q4_K_M"):
        made = Artifact.open(tmp_path / f"tiny-{level}.gguf")
        assert planned[level]["size_bytes"] == made.size_bytes
        mix = {row["type"]: row["tensors"] for row in planned[level]["mix"]}
        assert mix == {name: count for name, count, _ in made.mix}
    _, page, _ = edge("quantize", source, "-l", "Q4_K_M", "--dry-run")
    assert "take another type" in page
    assert "Nothing was written." in page


def test_types_of_single_tensors_are_chosen(
    edge: Edge, make_random_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_random_gguf("tiny.gguf")
    arguments = (
        "-l", "Q4_0", "-o", "mixed.gguf", "--tensor-type", "ffn_down=q8_0",
        "--tensor-type", r"blk\.0\.attn_v=f16", "--output-tensor-type", "Q5_0",
        "--token-embedding-type", "bf16", "-t", 1,
    )  # fmt: skip
    assert edge("quantize", source, *arguments)[0] == 0
    types = {t.name: t.type.name for t in Artifact.open(tmp_path / "mixed.gguf").tensors}
    assert types["blk.1.ffn_down.weight"] == "Q8_0"
    assert types["blk.0.attn_v.weight"] == "F16"
    assert types["blk.1.attn_v.weight"] == "Q4_0"
    assert types["output.weight"] == "Q5_0"
    assert types["token_embd.weight"] == "BF16"


def test_a_quantized_source_is_taken_only_with_leave_and_a_warning(
    edge: Edge, make_random_gguf: Callable[..., Path]
) -> None:
    assert edge("quantize", make_random_gguf("tiny.gguf"), "-l", "Q8_0")[0] == 0
    code, out, err = edge("quantize", "tiny-Q8_0.gguf", "-l", "Q4_0")
    assert (code, out) == (2, "")
    assert "--allow-requantize" in err
    code, _, err = edge("quantize", "tiny-Q8_0.gguf", "-l", "Q4_0", "--allow-requantize")
    assert code == 0
    assert "what it lost stays lost" in err
    assert Path("tiny-Q4_0.gguf").exists()


def test_levels_are_listed_with_what_they_cost(edge: Edge) -> None:
    code, out, _ = edge("quantize", "--list-levels")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:] if line[:1].isupper()] == list(LEVELS)
    rows = {row["name"]: row for row in json.loads(edge("quantize", "--list-levels", "--json")[1])}
    assert rows["Q4_K_M"]["bits_per_weight"] == 4.5
    assert rows["IQ1_S"]["needs_imatrix"]
    assert [name for name in rows if name not in LEVELS] == [
        "onnx:fp32", "onnx:fp16", "onnx:int8", "onnx:int4", "onnx:int8-dynamic",
    ]  # fmt: skip
    assert rows["onnx:int4"]["bits_per_weight"] == 5.0  # a scale of float32 for 32 weights
    assert "onnx:int8-dynamic" in out
    assert rows["IQ4_XS"]["cost"] > rows["Q4_0"]["cost"] == 1


def test_the_shell_completes_levels() -> None:
    assert [name for name, _ in complete_level("q4_k")] == ["Q4_K_M", "Q4_K_S"]
    made = [name for name, _ in complete_quantize_level("int")]
    assert made == ["int4", "int8", "int8-dynamic"]
    assert len(complete_level("")) == len(LEVELS)


def test_slow_levels_are_announced(edge: Edge, make_random_gguf: Callable[..., Path]) -> None:
    code, _, err = edge("quantize", make_random_gguf("tiny.gguf"), "-l", "IQ4_NL")
    assert code == 0
    assert f"IQ4_NL takes about {LEVELS['IQ4_NL'].cost} times the processor time" in err


def test_a_text_becomes_a_matrix_that_is_kept_and_used(
    edge: Edge, make_random_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    source, text = make_random_gguf("tiny-F32.gguf"), tmp_path / "talk.txt"
    text.write_text("What the model is for: small talk about the weather. " * 25)
    code, out, err = edge("quantize", source, "-l", "Q4_0", "--calibrate", text, "--json")
    assert code == 0
    assert "Importance matrix of 2 passages of 512 tokens in " in err
    assert "tiny-imatrix.gguf" in err
    matrix = imatrix.read(tmp_path / "tiny-imatrix.gguf")
    assert (matrix.datasets, matrix.chunks) == (("talk.txt",), 2)
    assert [row["level"] for row in json.loads(out)["levels"]] == ["Q4_0"]
    made = Artifact.open(tmp_path / "tiny-Q4_0.gguf")
    assert made.metadata["quantize.imatrix.dataset"] == "talk.txt"
    # What would be refused afterwards is refused before the text is read.
    for arguments, words in (
        (("tiny-F32.gguf", "-l", "Q4_1"), "--imatrix tiny-imatrix.gguf"),
        (("tiny-F32.gguf", "-l", "Q4_1,Q4_0", "--imatrix-out", "other.gguf"), "--force"),
        (("tiny-Q4_0.gguf", "-l", "Q4_1", "--imatrix-out", "other.gguf"), "--allow-requantize"),
        (("tiny-F32.gguf", "-l", "Q4_1", "--imatrix-out", source, "--force"), "is made of"),
        (("tiny-F32.gguf", "-l", "Q4_1", "--imatrix-out", text, "--force"), "is made of"),
        (("tiny-F32.gguf", "-l", "Q4_1", "--imatrix-out", "tiny-Q4_1.gguf"), "cannot be both"),
    ):
        code, _, err = edge("quantize", *arguments, "--calibrate", text)
        assert code == 2
        assert words in err
        assert "passages" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "talk.txt", "tiny-F32.gguf", "tiny-Q4_0.gguf", "tiny-imatrix.gguf",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-l", "Q8_0"), 2, "no file to quantize"),
        (("tiny.gguf",), 2, "No level is given"),
        (("tiny.gguf", "-l", "Q9_X"), 2, "'Q9_X'"),
        (("tiny.gguf", "-l", "Q4_K_X"), 2, "Nearest: Q4_K_"),
        (("none.gguf", "-l", "Q8_0"), 4, "There is no none.gguf"),
        (("tiny.gguf", "-l", "Q8_0,Q4_0", "-o", "x.gguf"), 2, "--out-dir"),
        (("tiny.gguf", "-l", "Q8_0", "-o", "x.gguf", "--out-dir", "."), 2, "both say"),
        (("tiny.gguf", "-l", "Q8_0", "--out-dir", "gone"), 2, "mkdir -p gone"),
        (("tiny.gguf", "-l", "Q8_0", "-o", "gone/x.gguf"), 4, "gone"),
        (("tiny.gguf", "-l", "Q8_0", "-o", "tiny.gguf", "--force"), 2, "its own source"),
        (("tiny.gguf", "-l", "Q8_0", "--tensor-type", "ffn_down"), 2, "ffn_down=q6_k"),
        (("tiny.gguf", "-l", "Q8_0", "--tensor-type", "ffn=q9"), 2, "'q9'"),
        (("tiny.gguf", "-l", "Q8_0", "--tensor-type", "(=q8_0"), 2, "no regular expression"),
        (("tiny.gguf", "-l", "Q4_0", "--imatrix", "gone.imatrix"), 4, "gone.imatrix"),
        (("tiny.gguf", "-l", "Q4_0", "--imatrix-out", "m.gguf"), 2, "--calibrate TEXT"),
        (
            ("tiny.gguf", "-l", "Q4_0", "--calibrate", "t.txt", "--imatrix", "m.gguf"),
            2,
            "--imatrix FILE or --calibrate TEXT",
        ),
        (("tiny.gguf", "-l", "Q4_0", "--calibrate", "t.txt", "--dry-run"), 2, "reads no text"),
        (("tiny.gguf", "-l", "Q8_0,F16", "--calibrate", "t.txt"), 2, "no effect at Q8_0 and F16"),
        (("tiny.gguf", "-l", "Q4_0", "--calibrate", "gone.txt"), 2, "gone.txt cannot be read"),
        (("evil.gguf", "-l", "Q4_0"), 4, "not a GGUF file"),
        (("checkpoint", "-l", "Q4_0"), 4, "edge convert checkpoint --level Q4_0 -o"),
    ],
)
def test_mistakes_get_a_sentence_and_a_code(
    edge: Edge,
    make_random_gguf: Callable[..., Path],
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    make_random_gguf("tiny.gguf")
    (tmp_path / "evil.gguf").write_bytes(b"\x1b[31mevil")
    (tmp_path / "checkpoint").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "checkpoint" / name).write_bytes(b"{}")
    before = sorted(tmp_path.rglob("*"))
    got, out, err = edge("quantize", *arguments)
    assert words in err, err
    assert (got, out) == (code, "")
    assert err.startswith("edge: ")
    assert not {"\x1b", "Traceback"} & {*err, *err.split()}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("model-F16.gguf", "model"),
        ("model.f16.GGUF", "model"),
        ("Qwen2.5-0.5B-Instruct-BF16.gguf", "Qwen2.5-0.5B-Instruct"),
        ("model-Q4_K_M.gguf", "model"),
        ("model_q2_k_s.gguf", "model"),
        ("big-F16-00001-of-00003.gguf", "big"),
        ("model.gguf", "model"),
        ("F16.gguf", "F16"),
        ("-F16.gguf", "-F16"),
        ("shelf16.gguf", "shelf16"),
    ],
)
def test_the_stem_leaves_out_level_and_part(name: str, stem: str) -> None:
    assert stem_of(name) == stem


@pytest.mark.skipif(sys.platform == "win32", reason="signals and pseudo-terminals are POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_it_leaves_nothing(
    make_random_gguf: Callable[..., Path], tmp_path: Path, number: int, code: int
) -> None:
    import pty

    source = make_random_gguf("tiny.gguf")
    levels = ",".join(name for name in LEVELS if name[:2] in ("IQ", "Q4", "Q3", "Q5"))
    command = [sys.executable, "-m", "edge_runtime", "quantize", str(source), "-l", levels]
    command += ["--out-dir", str(tmp_path)]
    # A terminal, so that the bar is drawn and its thread runs too.
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs) as process:
        while not list(tmp_path.glob("*Q5*.gguf")) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        process.wait(60)
    os.close(theirs)
    said = os.read(ours, 1 << 20).decode("utf-8", "replace")
    os.close(ours)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert ("Interrupted. Finished levels are kept" in said) == (number == signal.SIGINT)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    for path in tmp_path.glob("*.gguf"):
        Artifact.open(path)
