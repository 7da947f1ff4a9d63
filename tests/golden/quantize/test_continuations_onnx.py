"""Written as ONNX at fp32, a checkpoint continues a prompt as transformers does, token by token.

continuations.json has 64 greedy tokens of transformers for each case of `cases`, and the logits the
last one was chosen by: written by scripts/reference_continuations.py, with nothing of torch here.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from golden.quantize.onnx_graphs import BY_NAME, WRITTEN, Array, Convert, Model, shape_of

from quantize.onnx.details import DECODERS

pytest.importorskip("onnxruntime")

STORED = json.loads(Path(__file__).with_name("continuations.json").read_text("utf-8"))["cases"]
CONTINUED = [
    pytest.param(name, entry, id=f"{name}-{entry['length']}")
    for name in WRITTEN
    for entry in STORED.get(BY_NAME[name].twin or name, ())
]
PROMISED = 1e-3
"""Of the range of the logits: what every family promises. What is found is a hundredth of it."""
FOUND = 1e-5


def greedy(model: Model, prompt: list[int], steps: int) -> tuple[list[int], Array]:
    """The tokens, and the logits the last was chosen by."""
    logits, past = model.run(prompt)
    tokens = [int(logits[-1].argmax())]
    while len(tokens) < steps:
        logits, past = model.run(tokens[-1:], past)
        tokens.append(int(logits[-1].argmax()))
    return tokens, logits[-1]


def test_every_family_is_continued_for_64_tokens() -> None:
    names = [param.values[0] for param in CONTINUED]
    assert {shape_of(BY_NAME[name]).architecture for name in names} == set(DECODERS)
    assert all(len(param.values[1]["tokens"]) == 64 for param in CONTINUED)


@pytest.mark.parametrize(("name", "entry"), CONTINUED)
def test_greedy_tokens_are_those_of_transformers(
    converted: Convert, name: str, entry: dict[str, object]
) -> None:
    prompt = BY_NAME[name].sequence(entry["length"] + entry["shift"])[entry["shift"] :]
    tokens, last = greedy(Model(converted(name)), prompt, len(entry["tokens"]))
    assert tokens == entry["tokens"]
    wanted = np.frombuffer(base64.b64decode(entry["last"]), "<f4")
    assert np.abs(last - wanted).max() <= min(PROMISED, FOUND) * np.ptp(wanted)
