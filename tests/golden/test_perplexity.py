"""The shipped model scored as llama-perplexity scores it: its numbers for the same files and text.

Made with llama-perplexity of llama.cpp 0.3.36's bindings (libllama 0.5.0) on the shipped model at
F16 and requantized to Q2_K, on the first 5,600 bytes of its held-out stories:

    llama-perplexity -m F16 -f TEXT -c C -t 2 --kl-divergence-base BASE
    llama-perplexity -m Q2_K -c C -t 2 --kl-divergence-base BASE --kl-divergence

On the machine they were made on ours differ in the sixth digit at most, and KL by 0.2 %, for which
it keeps its reference in 16 bits. Other processors round otherwise: llama-perplexity's
own numbers for Q2_K move by 1e-4 with its batch size, and where another build of the engine chooses
other kernels the one place of the largest divergence moves by some percent, and what hangs on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from quality_runs import score_here

import quantize
from edge_runtime.artifact import Artifact
from edge_runtime.quality.text import Text, held_out_stories

pytestmark = pytest.mark.engine


@dataclass(frozen=True)
class Theirs:
    """What llama-perplexity prints; probabilities in percent."""

    context: int
    passages: int
    ppl: float
    ppl_error: float
    level_ppl: float
    ln_ratio: float
    kl: float
    kl_error: float
    kl_p99: float
    kl_max: float
    rms: float
    mean_change: float
    same_top: float


THEIRS = (
    Theirs(
        512, 2, 1.960133, 0.111160, 1.974812, 0.007461,
        0.004926, 0.001837, 0.033263, 0.927721, 3.190, -0.314, 95.490,
    ),
    Theirs(
        64, 22, 1.830481, 0.086982, 1.847779, 0.009405,
        0.005475, 0.001798, 0.048186, 1.196367, 3.163, -0.339, 93.842,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def q2_k(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("perplexity") / "q2_k.gguf"
    return quantize.requantize(tiny_gguf, out, level="Q2_K")


@pytest.fixture(scope="module")
def text() -> Text:
    content = held_out_stories().content.encode()[:5600].decode()
    return Text(name="stories", content=content)


@pytest.mark.parametrize("theirs", THEIRS, ids=lambda theirs: f"-c {theirs.context}")
def test_the_numbers_are_llama_perplexitys(
    tiny_gguf: Path, q2_k: Artifact, text: Text, tmp_path: Path, theirs: Theirs
) -> None:
    reference = tmp_path / "reference"
    base = score_here(
        Artifact.open(tiny_gguf), text,
        context_tokens=theirs.context, make_reference=reference,
    )  # fmt: skip
    nll = np.array(base.nll.values())
    root = math.sqrt(len(nll) - 1)
    assert base.text.passages == theirs.passages
    assert len(nll) == theirs.passages * (theirs.context // 2 - 1)
    ppl = math.exp(nll.mean())
    assert ppl == pytest.approx(theirs.ppl, rel=1e-4)
    assert ppl * nll.std() / root == pytest.approx(theirs.ppl_error, rel=1e-3)

    level = score_here(q2_k, text, context_tokens=theirs.context, reference=reference)
    found = level.divergence
    assert found is not None
    kl, agrees, change = (
        np.array(samples.values()) for samples in (found.kl, found.agrees, found.p_change)
    )
    level_nll = np.array(level.nll.values())
    assert math.exp(level_nll.mean()) == pytest.approx(theirs.level_ppl, rel=3e-4)
    assert level_nll.mean() - nll.mean() == pytest.approx(theirs.ln_ratio, abs=3e-4)
    assert kl.mean() == pytest.approx(theirs.kl, rel=0.03)
    assert kl.std() / root == pytest.approx(theirs.kl_error, rel=0.1)
    assert np.percentile(kl, 99) == pytest.approx(theirs.kl_p99, rel=0.1)
    assert kl.max() == pytest.approx(theirs.kl_max, rel=0.1)
    assert 100 * math.sqrt((change**2).mean()) == pytest.approx(theirs.rms, rel=0.05)
    assert 100 * change.mean() == pytest.approx(theirs.mean_change, rel=0.1)
    assert 100 * agrees.mean() == pytest.approx(theirs.same_top, abs=0.4)
    assert found.reference_nll.values() == pytest.approx(nll, abs=1e-6)
