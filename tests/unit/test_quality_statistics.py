"""The figures of scores, against llama-perplexity's own sums, worked out here in float64."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.basis import Unavailable
from edge_runtime.codec import to_jsonable
from edge_runtime.comparison import Quality, quality_of
from edge_runtime.errors import FormatError
from edge_runtime.scores import Samples
from tests.score_records import artifact, drawn_scores, scores


def as_llama_perplexity_does(
    nll: np.ndarray, base: np.ndarray, kl: np.ndarray, change: np.ndarray, same: np.ndarray
) -> dict[str, tuple[float, float]]:
    """`mean_and_uncertainty` and `covariance` of perplexity.cpp, from its running sums."""
    count = len(nll)

    def mean_and_uncertainty(x: np.ndarray) -> tuple[float, float]:
        f = x.sum() / count
        return f, math.sqrt(max((x * x).sum() / count - f * f, 0) / (count - 1))

    def covariance(a: np.ndarray, b: np.ndarray) -> float:
        return ((a * b).sum() / count - a.sum() / count * b.sum() / count) / (count - 1)

    log_ppl, log_base = mean_and_uncertainty(nll), mean_and_uncertainty(base)
    ratio_error = math.sqrt(log_ppl[1] ** 2 + log_base[1] ** 2 - 2 * covariance(nll, base))
    mse = mean_and_uncertainty(change**2)
    top = same.sum() / count
    return {
        "perplexity": (math.exp(log_ppl[0]), math.exp(log_ppl[0]) * log_ppl[1]),
        "ln_ppl_ratio": (log_ppl[0] - log_base[0], ratio_error),
        "kl": mean_and_uncertainty(kl),
        "p_change_mean": mean_and_uncertainty(change),
        "p_change_rms": (math.sqrt(mse[0]), 0.5 / math.sqrt(mse[0]) * mse[1]),
        "top1_agreement": (top, math.sqrt(top * (1 - top) / (count - 1))),
    }


@pytest.mark.parametrize("tokens", [10, 101, 1020])
def test_every_figure_and_its_error_are_those_of_llama_perplexity(tokens: int) -> None:
    found = drawn_scores(artifact("Q4_K_M"), 0.05, tokens=tokens)
    quality = quality_of(found)
    assert isinstance(quality, Quality)
    divergence = found.divergence
    assert divergence is not None
    expected = as_llama_perplexity_does(*(
        np.array(samples.values(), dtype=np.float64)
        for samples in (found.nll, divergence.reference_nll, divergence.kl, divergence.p_change,
                        divergence.agrees)
    ))  # fmt: skip
    for name, (value, error) in expected.items():
        estimate = getattr(quality, name)
        assert estimate.value == pytest.approx(value, rel=1e-9, abs=1e-12), name
        assert estimate.standard_error == pytest.approx(error, rel=1e-6, abs=1e-12), name


def test_percentiles_are_interpolated_as_llama_perplexity_does() -> None:
    kl = [0.1 * n for n in range(101)]
    random.Random(3).shuffle(kl)
    quality = quality_of(scores(artifact(), nll=[1.0] * 101, kl=kl))
    assert isinstance(quality, Quality)
    assert quality.kl_median == pytest.approx(5.0)
    assert quality.kl_p99 == pytest.approx(9.9)
    assert quality.kl_max == pytest.approx(10.0)
    assert quality.kl_tail_share == pytest.approx(0.1)
    assert quality.scored_tokens == 101


def test_without_a_reference_there_is_only_a_perplexity() -> None:
    quality = quality_of(drawn_scores(artifact("F16"), None))
    assert isinstance(quality, Quality)
    assert quality.kl is quality.top1_agreement is quality.ln_ppl_ratio is None
    assert quality.perplexity.value > 1


def test_too_few_tokens_have_no_figures() -> None:
    quality = quality_of(scores(artifact(), nll=[1.0] * 9, kl=[0.0] * 9))
    assert isinstance(quality, Unavailable)
    assert "only 9 tokens" in quality.reason
    assert quality.remedy


def test_an_identical_artifact_has_no_loss_and_no_error() -> None:
    quality = quality_of(scores(artifact(), nll=[1.0, 2.0] * 10, kl=[0.0] * 20))
    assert isinstance(quality, Quality)
    for estimate in (quality.kl, quality.p_change_rms, quality.ln_ppl_ratio):
        assert estimate is not None
        assert (estimate.value, estimate.standard_error) == (0.0, 0.0)
    assert quality.top1_agreement is not None
    assert quality.top1_agreement.value == 1.0
    assert quality.kl_tail_share is None


def test_damaged_samples_are_refused() -> None:
    found = replace(drawn_scores(artifact(), None), nll=Samples(count=510, packed="AAAA"))
    with pytest.raises(FormatError):
        quality_of(found)


FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=40)
@given(st.lists(FLOAT32, min_size=10, max_size=30), st.lists(FLOAT32, min_size=30, max_size=30))
def test_whatever_a_file_holds_gives_figures_that_can_be_written(
    nll: list[float], others: list[float]
) -> None:
    others = others[: len(nll)]
    found = quality_of(
        scores(
            artifact(), nll=nll, kl=others, agrees=others[::-1], p_change=others,
            reference_nll=others,
        )
    )  # fmt: skip
    to_jsonable(found)  # refuses infinities
