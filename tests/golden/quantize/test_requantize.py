"""The quantizer works in a process of its own: its refusals and its death are sentences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.artifact import Artifact
from edge_runtime.errors import DiskError, UnsupportedError, UsageError, WorkerError
from quantize import convert, requantization, requantize

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def full(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return convert(checkpoint, tmp_path_factory.mktemp("full") / "full.gguf")


def test_progress_grows_to_one_and_one_file_is_left(full: Artifact, tmp_path: Path) -> None:
    told: list[float] = []
    artifact = requantize(full.path, tmp_path / "m.gguf", "q4_k_m", threads=1, progress=told.append)
    assert artifact.level == "Q4_K_M"
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) >= len(full.tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_metadata_and_vocabulary_survive(full: Artifact, tmp_path: Path) -> None:
    artifact = requantize(full.path, tmp_path / "m.gguf", "Q4_0")
    assert artifact.shape == full.shape
    assert artifact.chat_template == full.chat_template
    assert tuple(artifact.metadata["tokenizer.ggml.tokens"]) == tuple(
        full.metadata["tokenizer.ggml.tokens"]
    )


def test_a_quantized_source_needs_a_word(full: Artifact, tmp_path: Path) -> None:
    once = requantize(full.path, tmp_path / "once.gguf", "Q8_0")
    with pytest.raises(UsageError, match="quantized already"):
        requantize(once.path, tmp_path / "twice.gguf", "Q4_0")
    assert requantize(once.path, tmp_path / "twice.gguf", "Q4_0", allow_requantize=True)


def test_requests_that_make_no_sense(full: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="own source"):
        requantize(full.path, full.path, "Q4_0")
    with pytest.raises(UsageError, match="0 threads"):
        requantize(full.path, tmp_path / "m.gguf", "Q4_0", threads=0)
    with pytest.raises(UnsupportedError, match="importance matrix"):
        requantize(full.path, tmp_path / "m.gguf", "IQ1_S")
    with pytest.raises(DiskError, match="mkdir -p"):
        requantize(full.path, tmp_path / "no" / "m.gguf", "Q4_0")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_ends_the_child_and_leaves_nothing(full: Artifact, tmp_path: Path) -> None:
    def interrupt(_fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        requantize(full.path, tmp_path / "m.gguf", "Q4_0", progress=interrupt)
    assert not list(tmp_path.iterdir())


ABORT = "import os; os.write(2, b'GGML_ASSERT(x) failed'); os.abort()"
KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (ABORT, r"signal SIGABRT.*GGML_ASSERT\(x\) failed"),
        (KILL, "SIGKILL.*memory"),
        ("raise SystemExit(3)", "exit status 3"),
    ],
)
def test_a_dying_child_is_a_sentence(
    full: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    start = subprocess.Popen
    monkeypatch.setattr(
        requantization.subprocess,
        "Popen",
        lambda _argv, **options: start([sys.executable, "-c", program], **options),
    )
    with pytest.raises(WorkerError, match=words):
        requantize(full.path, tmp_path / "m.gguf", "Q4_0")
    assert not list(tmp_path.iterdir())


def test_the_child_ends_when_its_parent_is_gone(full: Artifact, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    spec = (
        f'{{"source": "{full.path}", "out": "{out}", "ftype": 2, "threads": 1,'
        ' "allow_requantize": false}\n'
    )
    program = "import quantize.worker as w, time; w._quantize = lambda *_: time.sleep(60); w.main()"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        cwd=Path(requantization.__file__).parents[1],
    )  # fmt: skip
    out.write_bytes(b"partial")
    child.communicate(spec.encode(), timeout=20)
    assert child.returncode == 1
    assert not out.exists()
