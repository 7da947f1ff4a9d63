"""An importance matrix measured here is the one llama-imatrix and plain arithmetic give.

`tests/data/tiny_imatrix.json` holds what llama-imatrix wrote for the shipped model and its held-out
stories. The model with experts is small enough to be computed again in numpy, routing included.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import gguf
import numpy as np
import psutil
import pytest

from edge_runtime.artifact import Artifact, ModelShape
from edge_runtime.errors import (
    BackendError,
    DiskError,
    EdgeError,
    FormatError,
    ModelNotFoundError,
    UnsupportedError,
    UsageError,
    WorkerError,
)
from edge_runtime.profiler.measure import artifact_record
from quantize import (
    QuantizeOptions,
    calibrate,
    calibration,
    check_apart,
    imatrix,
    requantize,
    synthesize,
)
from quantize.imatrix import Imatrix

pytestmark = pytest.mark.engine

DATA = Path(__file__).parent.parent / "data"
WORDS = "A fox ran over the hill, and 12 small birds flew up from the reeds beside the river. "


def sums_of(matrix: Imatrix) -> dict[str, np.ndarray]:
    return {entry.name: entry.sums for entry in matrix.entries}


def counts_of(matrix: Imatrix) -> dict[str, list[int]]:
    return {entry.name: entry.counts.astype(int).tolist() for entry in matrix.entries}


@pytest.fixture(scope="module")
def stories(tiny_model_dir: Path) -> Path:
    return tiny_model_dir / "heldout.txt"


@pytest.fixture(scope="module")
def measured(tiny_gguf: Path, stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("matrix") / "tiny-imatrix.gguf"
    told: list[float] = []
    matrix = calibrate(
        tiny_gguf, stories, out, context_tokens=128, most_chunks=6, progress=told.append
    )
    assert told == sorted(told)
    assert (len(told), told[-1]) == (7, 1.0)
    assert (matrix.datasets, matrix.chunks, matrix.chunk_tokens) == (("heldout.txt",), 6, 128)
    return out


def test_it_is_what_llama_imatrix_measures(
    measured: Path, stories: Path, tiny_model_dir: Path
) -> None:
    golden = json.loads((DATA / "tiny_imatrix.json").read_text("utf-8"))
    for path, key in ((stories, "text"), (tiny_model_dir / "model.safetensors", "weights")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest == golden[f"{key}_sha256"], "the golden numbers are of other files"
    found = {entry.name: entry for entry in imatrix.read(measured).entries}
    assert found.keys() == golden["entries"].keys()
    for name, wanted in golden["entries"].items():
        entry = found[name]
        assert entry.counts.tolist() == wanted["counts"]
        # Equal to 1e-5 where both run the same kernels; other processors have others.
        assert entry.sums.sum(dtype=np.float64) == pytest.approx(wanted["total"], rel=2e-3)
        assert entry.sums[0, :: golden["every"]] == pytest.approx(wanted["columns"], rel=5e-3)


def test_the_file_is_laid_out_as_llama_imatrix_has_it(measured: Path) -> None:
    reader = gguf.GGUFReader(measured)
    assert reader.get_field("general.type").contents() == "imatrix"
    assert reader.get_field("imatrix.chunk_count").contents() == 6
    assert reader.get_field("imatrix.chunk_size").contents() == 128
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    down = "blk.2.ffn_down.weight"
    assert tensors[f"{down}.in_sum2"].shape.tolist() == [512, 1]
    assert tensors[f"{down}.counts"].data.tolist() == [[768.0]]
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32"}


def test_the_quantizer_takes_it_and_the_record_says_so(
    measured: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    options = QuantizeOptions(imatrix=measured)
    made = requantize(tiny_gguf, tmp_path / "tiny-Q2_K_S.gguf", "Q2_K_S", options=options)
    plain = Artifact.open(tiny_gguf)
    assert [a.imatrix for a in (made, plain)] == [True, False]
    assert [artifact_record(a).imatrix for a in (made, plain)] == [True, False]


# A model with experts whose attention adds nothing: what its experts see is its embeddings.
HIDDEN, INNER, EXPERTS, USED, VOCABULARY, HEADS = 64, 96, 5, 2, 259, 4
BEGIN = 257


@dataclass(frozen=True)
class Mixture:
    path: Path
    embedding: np.ndarray
    attention_gain: np.ndarray
    gain: np.ndarray
    router: np.ndarray
    gate: np.ndarray
    up: np.ndarray


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    path = tmp_path_factory.mktemp("mixture") / "mixture.gguf"
    random = np.random.default_rng(11)

    def some(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    model = Mixture(
        path=path, embedding=some(VOCABULARY, HIDDEN), attention_gain=some(HIDDEN) + 1,
        gain=some(HIDDEN) + 1, router=some(EXPERTS, HIDDEN), gate=some(EXPERTS, INNER, HIDDEN),
        up=some(EXPERTS, INNER, HIDDEN),
    )  # fmt: skip
    model.router[EXPERTS - 1] = 0
    model.router[EXPERTS - 1, 0] = -50  # hardly ever chosen, if ever
    model.embedding[:, 0] = np.abs(model.embedding[:, 0]) + 1
    model.gain[0] = 1
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(USED)
    writer.add_file_type(0)
    add_byte_tokenizer(writer)
    for name, weights in (
        ("token_embd", model.embedding), ("output_norm", np.ones(HIDDEN, np.float32)),
        ("output", some(VOCABULARY, HIDDEN)), ("blk.0.attn_norm", model.attention_gain),
        ("blk.0.attn_q", some(HIDDEN, HIDDEN)), ("blk.0.attn_k", some(HIDDEN, HIDDEN)),
        ("blk.0.attn_v", some(HIDDEN, HIDDEN)),
        ("blk.0.attn_output", np.zeros((HIDDEN, HIDDEN), np.float32)),
        ("blk.0.ffn_norm", model.gain), ("blk.0.ffn_gate_inp", model.router),
        ("blk.0.ffn_gate_exps", model.gate), ("blk.0.ffn_up_exps", model.up),
        ("blk.0.ffn_down_exps", some(EXPERTS, HIDDEN, INNER)),
    ):  # fmt: skip
        writer.add_tensor(f"{name}.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def add_byte_tokenizer(writer: gguf.GGUFWriter) -> None:
    """Token ids are the bytes themselves; a beginning is put before every text."""
    from conftest import SPECIALS, byte_alphabet

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*byte_alphabet(), *SPECIALS])
    writer.add_token_types([1] * 256 + [3] * len(SPECIALS))
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(BEGIN)
    writer.add_add_bos_token(True)


def normed(rows: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).mean(1, keepdims=True) + 1e-5) * gain


def test_every_expert_has_what_it_alone_saw(mixture: Mixture, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(WORDS * 2 + "\n")
    matrix = calibrate(mixture.path, text, tmp_path / "m.gguf", context_tokens=50, threads=1)
    data = list((WORDS * 2).encode())
    # The text after its own beginning, in pieces of 50 whose first token is made the beginning.
    ids = np.array([BEGIN, *data])[: (len(data) + 1) // 50 * 50].reshape(-1, 50)
    ids[:, 0] = BEGIN
    tokens = mixture.embedding.astype(np.float64)[ids.ravel()]
    before, inside = normed(tokens, mixture.attention_gain), normed(tokens, mixture.gain)
    chosen = np.argsort(-(inside @ mixture.router.T.astype(np.float64)), axis=1)[:, :USED]
    seen = np.zeros((EXPERTS, HIDDEN))
    within = np.zeros((EXPERTS, INNER))
    counts = np.zeros(EXPERTS, int)
    for row, experts in zip(inside, chosen, strict=True):
        for e in experts:
            opened = mixture.gate[e].astype(np.float64) @ row
            counts[e] += 1
            seen[e] += row**2
            within[e] += (opened / (1 + np.exp(-opened)) * (mixture.up[e] @ row)) ** 2
    assert counts[-1] == 0
    assert counts.sum() == 2 * ids.size
    sums = sums_of(matrix)
    assert counts_of(matrix) == {
        **{f"blk.0.attn_{m}.weight": [ids.size] for m in ("q", "k", "v", "output")},
        "blk.0.ffn_gate_inp.weight": [ids.size],
        **{f"blk.0.ffn_{m}_exps.weight": counts.tolist() for m in ("gate", "up", "down")},
    }
    assert sums["blk.0.attn_q.weight"][0] == pytest.approx((before**2).sum(0), rel=1e-3)
    assert sums["blk.0.ffn_gate_inp.weight"][0] == pytest.approx((inside**2).sum(0), rel=1e-3)
    assert sums["blk.0.ffn_up_exps.weight"] == pytest.approx(seen, rel=1e-3)
    assert sums["blk.0.ffn_gate_exps.weight"] == pytest.approx(seen, rel=1e-3)
    assert sums["blk.0.ffn_down_exps.weight"] == pytest.approx(within, rel=1e-3, abs=1e-5)
    assert (chosen == EXPERTS - 1).sum() == 0
    unused = next(e for e in matrix.entries if e.name == "blk.0.ffn_up_exps.weight").values
    assert unused.reshape(EXPERTS, -1)[-1].tolist() == [1.0] * HIDDEN


def test_the_output_matrix_is_measured_when_asked(
    make_random_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    model, text = make_random_gguf(), tmp_path / "text.txt"
    text.write_text(WORDS * 2)
    matrix = calibrate(
        model, text, tmp_path / "m.gguf", context_tokens=70, process_output=True, most_chunks=1
    )
    # The last layer, too, has seen every token.
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    names = [f"blk.{layer}.{part}" for layer in (0, 1) for part in parts]
    assert counts_of(matrix) == {f"{name}.weight": [70] for name in (*names, "output")}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(WORDS * 8)
    return path


def calibrators() -> list[psutil.Process]:
    """Our children at this work; other tests' fixtures have children of their own."""

    def calibrates(child: psutil.Process) -> bool:
        try:
            return "quantize.calibrator" in child.cmdline()
        except psutil.NoSuchProcess:  # ended while it was looked at
            return False

    return [child for child in psutil.Process().children() if calibrates(child)]


def refused(model: Path, text: Path, out: Path, **options: object) -> EdgeError:
    """The refusal, having left nothing and touched nothing."""
    folder = text.parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(EdgeError) as caught:
        calibrate(model, text, out, **options)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not calibrators()
    return caught.value


def test_a_text_that_is_none_is_refused(
    make_random_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    model, text, out = make_random_gguf(), tmp_path / "t.txt", tmp_path / "m.gguf"
    assert isinstance(refused(model, text, out), UsageError)
    for content, words in (
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\xff\xfe", "no UTF-8"),
        (f"{WORDS}\n".encode(), "is too short"),
    ):
        text.write_bytes(content)
        error = refused(model, text, out)
        assert isinstance(error, UsageError)
        assert words in error.fact
    assert error.cause == f"It has {len(WORDS)} tokens; 2 passages of 512 make 1024."
    with text.open("wb") as file:
        file.truncate(17 * 1024**2)
    assert "17.0 MiB long" in refused(model, text, out).fact
    # What is no file has no length, and may have no end.
    (tmp_path / "folder").mkdir()
    assert "is no file" in refused(model, tmp_path / "folder", out).fact
    if os.name == "posix":
        with pytest.raises(UsageError, match="is no file"):
            calibrate(model, "/dev/zero", out)


def test_what_cannot_be_measured_is_refused(
    make_random_gguf: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    model, out = make_random_gguf(), tmp_path / "m.gguf"
    for options in ({"context_tokens": 31}, {"most_chunks": 0}, {"threads": 0}):
        assert isinstance(refused(model, text, out, **options), UsageError)
    out.write_bytes(b"mine")
    assert "--force" in refused(model, text, out).way_out
    assert isinstance(refused(model, text, tmp_path / "no" / "m.gguf"), DiskError)
    assert isinstance(refused(tmp_path / "no.gguf", text, out), ModelNotFoundError)
    shape = {
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 256, "vocab_size": 64,
        "num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 1,
    }  # fmt: skip
    empty = tmp_path / "random.gguf"
    synthesize(ModelShape.from_config(shape, name="random"), "F16", empty)
    error = refused(empty, text, tmp_path / "other.gguf")
    assert isinstance(error, UnsupportedError)
    assert "random weights" in error.fact


def test_weights_that_are_no_numbers_are_named(
    make_random_gguf: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    model = make_random_gguf()
    tensor = next(t for t in Artifact.open(model).tensors if t.name == "blk.1.ffn_norm.weight")
    with model.open("r+b") as file:
        file.seek(tensor.offset_bytes)
        file.write(np.float32("nan").tobytes())
    error = refused(model, text, tmp_path / "m.gguf", context_tokens=64)
    assert isinstance(error, FormatError)
    assert "blk.1.ffn_" in error.cause


def test_a_child_that_dies_is_named_and_leaves_nothing(
    make_random_gguf: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    def kill(_share: float) -> None:
        for child in calibrators():
            os.kill(child.pid, signal.SIGKILL)

    model, out = make_random_gguf(), tmp_path / "m.gguf"
    text.write_text(WORDS * 150)  # far from done when it is killed
    error = refused(model, text, out, context_tokens=64, progress=kill)
    assert isinstance(error, WorkerError)
    assert "SIGKILL" in error.fact


def test_what_progress_raises_stops_the_work(
    make_random_gguf: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    def interrupt(_share: float) -> None:
        raise KeyboardInterrupt

    model, out = make_random_gguf(), tmp_path / "m.gguf"
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, text, out, context_tokens=64, progress=interrupt)
    assert not calibrators()
    assert not out.exists()


class FakeChild:
    """Answers as the child process would."""

    messages: tuple[dict[str, object], ...] = ()

    def __init__(self, _module: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, _job: object) -> Iterator[dict[str, object]]:
        yield from self.messages


@pytest.mark.parametrize(
    ("messages", "kind", "words"),
    [
        (({"unreachable": "A tensor takes 400 bytes in it."},), UnsupportedError, "--imatrix FILE"),
        (({"refused": "unknown model architecture"},), BackendError, "unknown model architecture"),
        (({"chunks": 2}, {"done": True}), BackendError, "No matrix of the model was seen"),
        (
            (
                {"chunks": 2},
                {"entry": "blk.0.ffn_up.weight", "counts": [9], "sums": "AACAPw=="},
                {"done": True},
            ),
            BackendError,
            "1 inputs were seen for blk.0.ffn_up.weight",
        ),
    ],
)
def test_an_engine_that_is_not_understood_is_not_believed(
    messages: tuple[dict[str, object], ...],
    kind: type[EdgeError],
    words: str,
    make_random_gguf: Callable[..., Path],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "Child", FakeChild)
    monkeypatch.setattr(FakeChild, "messages", messages)
    error = refused(make_random_gguf(), text, tmp_path / "m.gguf")
    assert isinstance(error, kind)
    assert words in str(error)


def test_a_text_is_not_judged_on_what_it_was_calibrated_on(stories: Path) -> None:
    text = stories.read_text("utf-8")
    half = len(text) // 2
    for calibration_text, evaluation in (
        (text, text),
        (text, text[half : half + 500]),
        (text[: half // 2], text),  # a quarter of it
        ("Something else. " * 99 + text.replace("\n", "\n  "), text),
    ):
        with pytest.raises(UsageError, match=r"cal.txt holds .* % of the text eval.txt"):
            check_apart(calibration_text, evaluation, names=("cal.txt", "eval.txt"))
    check_apart(text[:half], text[half:], names=("a", "b"))
    check_apart(WORDS * 90, text, names=("a", "b"))
    check_apart(text, "", names=("a", "b"))
