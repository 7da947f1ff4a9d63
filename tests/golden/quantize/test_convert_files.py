"""Whatever files a conversion is asked for, llama.cpp reads them; none is ever half there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.artifact import Artifact
from edge_runtime.errors import BackendError, FormatError, UsageError
from quantize import QuantizeOptions, convert, requantize, verification

pytestmark = pytest.mark.engine

TOKENS = [int(t) for t in np.random.default_rng(3).integers(5, 400, 16)]


def logits(engine, path: Path, tmp_path: Path) -> np.ndarray:
    engine(path, tokens=TOKENS, logits=str(tmp_path / "l.npy"), exact=True)
    return np.load(tmp_path / "l.npy")


@pytest.mark.parametrize("level", ["F16", "Q8_0", "Q4_K_M"])
def test_a_split_file_computes_what_the_whole_one_does(
    engine, checkpoint: Path, tmp_path: Path, level: str
) -> None:
    whole = convert(checkpoint, tmp_path / "whole.gguf", level=level, verify=True)
    told: list[float] = []
    parts = convert(
        checkpoint, tmp_path / "parts.gguf", level=level, split_bytes=300_000, verify=True,
        progress=told.append,
    )  # fmt: skip
    assert len(parts.paths) > 2
    assert (logits(engine, parts.path, tmp_path) == logits(engine, whole.path, tmp_path)).all()
    assert dict(whole.metadata).items() <= dict(parts.metadata).items() or level == "Q4_K_M"
    assert told == sorted(told)
    assert told[-1] == 1.0
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"whole.gguf", "l.npy", *(path.name for path in parts.paths)}


def test_one_command_gives_what_two_give(checkpoint: Path, tmp_path: Path) -> None:
    one = convert(checkpoint, tmp_path / "one.gguf", level="Q4_K_M")
    full = convert(checkpoint, tmp_path / "full.gguf", level="F16")
    two = requantize(full.path, tmp_path / "two.gguf", "Q4_K_M")
    assert one.path.read_bytes() == two.path.read_bytes()


def test_wishes_only_the_quantizer_grants_are_granted_at_a_direct_level(
    checkpoint: Path, tmp_path: Path
) -> None:
    options = QuantizeOptions(tensor_types=(("ffn_down", "q5_0"),), token_embedding_type="f16")
    artifact = convert(checkpoint, tmp_path / "m.gguf", level="Q8_0", options=options)
    types = {tensor.name: tensor.type.name for tensor in artifact.tensors}
    assert types["blk.0.ffn_down.weight"] == "Q5_0"
    assert types["blk.0.ffn_up.weight"] == "Q8_0"
    assert types["token_embd.weight"] == "F16"
    with pytest.raises(UsageError, match="no effect at F16"):
        convert(tmp_path / "unread", tmp_path / "n.gguf", level="F16", options=options)


def spoiled(artifact: Artifact, name: str, data: bytes) -> Path:
    (tensor,) = (t for t in artifact.tensors if t.name == name)
    with artifact.path.open("r+b") as file:
        file.seek(tensor.offset_bytes + tensor.size_bytes // 2)
        file.write(data)
    return artifact.path


@pytest.mark.parametrize(
    ("level", "name", "data"),
    [
        ("F32", "blk.1.attn_norm.weight", b"\x00\x00\xc0\x7f"),
        ("F16", "blk.0.ffn_up.weight", b"\x00\x7c"),
        ("BF16", "token_embd.weight", b"\x80\xff"),
        ("Q8_0", "blk.1.ffn_down.weight", b"\x00\xfe" * 17),
        ("Q4_K_M", "blk.1.attn_q.weight", b"\x00\x7e" * 144),
    ],
)
def test_a_value_that_is_no_number_is_found_wherever_it_is(
    checkpoint: Path, tmp_path: Path, level: str, name: str, data: bytes
) -> None:
    artifact = convert(checkpoint, tmp_path / "m.gguf", level=level)
    verification.verify(artifact.path)
    with pytest.raises(FormatError, match=f"{name} holds values that are no finite"):
        verification.verify(spoiled(artifact, name, data))


def test_finite_weights_that_compute_nothing_finite_are_found(
    checkpoint: Path, tmp_path: Path
) -> None:
    artifact = convert(checkpoint, tmp_path / "m.gguf", level="F32")
    huge = np.full(32, 3e38, np.float32).tobytes()
    with pytest.raises(FormatError, match="does not compute finite numbers"):
        verification.verify(spoiled(artifact, "output_norm.weight", huge))


def test_a_file_llama_cpp_does_not_load_is_refused_in_its_words(
    checkpoint: Path, tmp_path: Path
) -> None:
    path = convert(checkpoint, tmp_path / "m.gguf").path
    path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    with pytest.raises(BackendError, match=r"'blk\.1\.ffn_up\.weight'"):
        verification.verify(path)


def test_what_does_not_pass_gets_no_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise BackendError("no")

    monkeypatch.setattr(verification, "Child", refuse)
    for level in ("F16", "Q4_0"):
        with pytest.raises(BackendError):
            convert(checkpoint, tmp_path / "m.gguf", level=level, verify=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.6])
def test_an_interrupt_at_any_time_leaves_nothing(
    checkpoint: Path, tmp_path: Path, fraction: float
) -> None:
    def stop(done: float) -> None:
        if done >= fraction:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, tmp_path / "m.gguf", level="Q4_K_M", progress=stop)
    assert not list(tmp_path.iterdir())


CHILD = """
import sys, time
from pathlib import Path
from quantize import convert

def stop(done):
    if done >= float(sys.argv[3]):
        print("there", flush=True)
        time.sleep(60)

convert(Path(sys.argv[1]), Path(sys.argv[2]), level="Q4_K_M", progress=stop)
"""


@pytest.mark.parametrize("fraction", [0.1, 0.6])
def test_a_process_killed_at_any_time_leaves_nothing_the_next_does_not_remove(
    checkpoint: Path, tmp_path: Path, fraction: float
) -> None:
    out = tmp_path / "m.gguf"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(checkpoint), str(out), str(fraction)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(verification.__file__).parents[1])},
    )
    assert child.stdout.readline() == "there\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not out.exists()
    assert list(tmp_path.iterdir())
    time.sleep(0.3)  # the quantizer's process ends when it notices
    convert(checkpoint, out)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
