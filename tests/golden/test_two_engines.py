"""Both engines on the shipped model: what a file means must not depend on who runs it.

The same checkpoint is written as GGUF and as ONNX by the converters here, and opened by llama.cpp
and by ONNX Runtime. Neither knows of the other, so whatever they agree on is right in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import quantize
from edge_runtime.artifact import Artifact
from edge_runtime.backends import GREEDY, Session, backend
from edge_runtime.measurement import SessionOptions
from edge_runtime.model import load

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.engine

Logits = npt.NDArray[np.float64]
Opened = Callable[[str], Session]

PROMPTS = (
    "Once upon a time",
    "Lily and her dog went to the park. ",
    "The little boy was sad because",
    'Tom said, "I',
    "It was",
)  # fmt: skip
STEPS = 64
HELDOUT = Path(__file__).resolve().parents[2] / "edge_runtime" / "tiny_model" / "heldout.txt"

# Nats, of the unquantized model in llama.cpp. benchmarks/two_engines.py measures 2.7e-5 for Q8_0
# and 2.8e-5 for int8; 7.2e-4 for Q4_0, whose output matrix has 6 bits, and 6.6e-4 for int4 with 8.
MOST_KL = {"F16": 1e-5, "onnx:fp16": 1e-5, "Q8_0": 1e-4, "onnx:int8": 1e-4}
GOOD_HEAD = "onnx:int4, 8 bits in the head"


@pytest.fixture(scope="module")
def written(
    tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The shipped model at a level of either engine, written once."""
    folder = tmp_path_factory.mktemp("two-engines")
    made: dict[str, Path] = {}

    def at(level: str) -> Path:
        if level not in made:
            onnx = level.startswith("onnx:")
            out = folder / (level.replace(":", "-") if onnx else f"{level}.gguf")
            chosen: str | quantize.OnnxLevel = level
            if level == GOOD_HEAD:
                chosen = quantize.onnx_level("int4").with_options(head_bits=8)
            quantize.convert(tiny_model_dir, out, level=chosen)
            made[level] = out
        return made[level]

    return at


@pytest.fixture(scope="module")
def opened(written: Callable[[str], Path]) -> Iterator[Opened]:
    """A session of a level, with the engine of its format."""
    sessions: dict[str, Session] = {}

    def at(level: str) -> Session:
        if level not in sessions:
            artifact = Artifact.open(written(level))
            engine = "onnx" if artifact.format == "onnx" else "llama_cpp"
            options = SessionOptions(
                context_tokens=256, threads=1, kv_type_k="f32", kv_type_v="f32"
            )
            if level == "onnx:fp16":  # the graph's own
                options = SessionOptions(context_tokens=256, threads=1)
            sessions[level] = backend(engine).open(artifact, options)
        return sessions[level]

    yield at
    for session in sessions.values():
        session.close()


def greedy(session: Session, prompt: str) -> list[int]:
    session.reset()
    session.prefill(session.tokenize(prompt))
    tokens = []
    for _ in range(STEPS):
        tokens.append(int(np.argmax(session.logits())))
        session.step(tokens[-1])
    return tokens


def continuations(session: Session, tokens: list[int]) -> Logits:
    """Log-probabilities after each of some tokens, shape (tokens, vocabulary)."""
    session.reset()
    rows = []
    for token in tokens:
        session.step(token)
        rows.append(np.asarray(session.logits(), np.float64))
    logits = np.array(rows)
    logits -= logits.max(axis=1, keepdims=True)
    normal: Logits = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return normal


def divergence(right: Logits, found: Logits) -> float:
    """The mean Kullback-Leibler divergence of what is found from what is right, nats."""
    return float((np.exp(right) * (right - found)).sum(axis=1).mean())


@pytest.mark.parametrize("prompt", PROMPTS)
def test_unquantized_both_engines_write_the_same_text(opened: Opened, prompt: str) -> None:
    ggml, onnx = opened("F32"), opened("onnx:fp32")
    assert ggml.tokenize(prompt) == onnx.tokenize(prompt)
    ours, theirs = greedy(ggml, prompt), greedy(onnx, prompt)
    assert ours == theirs
    assert ggml.detokenize(ours) == onnx.detokenize(theirs)


def test_unquantized_logits_are_equal_but_for_rounding(opened: Opened) -> None:
    ggml, onnx = opened("F32"), opened("onnx:fp32")
    ggml.reset()
    onnx.reset()
    for token in ggml.tokenize(HELDOUT.read_text("utf-8"))[:96]:
        ggml.step(token)
        onnx.step(token)
        one, other = np.asarray(ggml.logits()), np.asarray(onnx.logits())
        assert np.abs(one - other).max() <= 1e-3 * np.ptp(one)


def test_a_prompt_in_one_batch_and_token_by_token_come_to_the_same(opened: Opened) -> None:
    for level in ("F32", "onnx:fp32"):
        session = opened(level)
        tokens = session.tokenize(HELDOUT.read_text("utf-8"))[:100]
        session.reset()
        session.prefill(tokens)
        at_once = np.asarray(session.logits())
        one_by_one = continuations(session, tokens)[-1]
        at_once = at_once - np.log(np.exp(at_once - at_once.max()).sum()) - at_once.max()
        assert np.abs(at_once - one_by_one).max() < 1e-2


@pytest.mark.parametrize("level", MOST_KL)
def test_levels_that_store_alike_lose_alike(opened: Opened, level: str) -> None:
    tokens = opened("F32").tokenize(HELDOUT.read_text("utf-8"))[:200]
    right = continuations(opened("F32"), tokens)
    assert divergence(right, continuations(opened(level), tokens)) < MOST_KL[level]


def test_four_bits_lose_about_as_much_in_either_engine(opened: Opened) -> None:
    tokens = opened("F32").tokenize(HELDOUT.read_text("utf-8"))[:200]
    right = continuations(opened("F32"), tokens)
    ggml, onnx = (
        divergence(right, continuations(opened(level), tokens)) for level in ("Q4_0", GOOD_HEAD)
    )
    assert 1e-4 < onnx < 2 * ggml
    assert ggml < 2 * onnx
    # The plain level has 4 bits in the head as well, and pays for it.
    plain = divergence(right, continuations(opened("onnx:int4"), tokens))
    assert onnx < plain < 1e-2


def test_an_app_loads_either_format_by_the_same_call(written: Callable[[str], Path]) -> None:
    texts = []
    for level in ("F32", "onnx:fp32"):
        with load(written(level), context_tokens=128) as model:
            texts.append("".join(model.stream("Once upon a time", max_tokens=24, sampling=GREEDY)))
    assert texts[0] == texts[1]
