"""Log-probabilities of many positions at once, against the same sums in numbers twice as long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_runtime.errors import BackendError
from edge_runtime.quality import logprobs


def exact(block: np.ndarray) -> np.ndarray:
    """Log-probabilities in long doubles, by the definition."""
    long = block.astype(np.longdouble)
    long -= long.max(axis=1, keepdims=True)
    return long - np.log(np.exp(long).sum(axis=1, keepdims=True))


@st.composite
def blocks(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 300)))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0, 1e4]))
    unit = draw(arrays(np.float32, shape, elements=st.floats(-1, 1, width=32)))
    return unit * np.float32(scale)


@given(block=blocks(), threads=st.integers(1, 4), numbers=st.sampled_from([1, 64, 1 << 18]))
def test_any_logits_in_any_number_of_spans(block: np.ndarray, threads: int, numbers: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs, "_threads", lambda: threads)
        patch.setattr(logprobs, "_NUMBERS_PER_THREAD", numbers)
        patch.setattr(logprobs, "_PIECE_NUMBERS", 128)
        kept = block.copy()
        normalizers = logprobs.log_normalizers(block)
        targets = np.arange(len(block)) * 7 % block.shape[1]
        found = logprobs.log_probabilities(block, normalizers, targets)
        likeliest = logprobs.likeliest(block)
    assert np.array_equal(block, kept)
    wanted = exact(block)[np.arange(len(block)), targets]
    # The difference of two float32 numbers is rounded to one.
    assert np.allclose(found.astype(np.longdouble), wanted, rtol=2e-7, atol=1e-6)
    assert (found <= 0).all()
    assert likeliest.tolist() == block.argmax(axis=1).tolist()


def test_a_vocabulary_of_a_large_model() -> None:
    random = np.random.default_rng(5)
    block = (random.standard_normal((6, 151_936)) * 4).astype(np.float32)
    targets = block.argmax(axis=1)
    found = logprobs.log_probabilities(block, logprobs.log_normalizers(block), targets)
    wanted = exact(block)[np.arange(6), targets]
    assert np.abs(found - wanted).max() < 1e-6


def test_what_is_left_beside_a_certain_token_is_not_rounded_away() -> None:
    block = np.full((1, 10_000), -25.0, np.float32)
    block[0, 77] = 0.0
    left = logprobs.log_normalizers(block)[0]
    assert left == pytest.approx(np.log1p(9_999 * np.exp(-25.0)), rel=1e-5)
    assert logprobs.log_probabilities(block, np.array([left]), [77])[0] == -left


def test_a_block_need_not_lie_in_one_piece() -> None:
    random = np.random.default_rng(6)
    block = random.standard_normal((40, 90)).astype(np.float32)
    whole = logprobs.log_normalizers(np.ascontiguousarray(block[::2, :50]))
    assert np.array_equal(logprobs.log_normalizers(block[::2, :50]), whole)


@pytest.mark.parametrize("rows", [0, 1])
def test_no_rows_and_one(rows: int) -> None:
    block = np.zeros((rows, 8), np.float32)
    assert logprobs.log_normalizers(block) == pytest.approx([np.log(8)] * rows)
    assert logprobs.likeliest(block).tolist() == [0] * rows


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(bad: float) -> None:
    block = np.zeros((5, 9), np.float32)
    block[3, 4] = bad
    with pytest.raises(BackendError, match="Row 3 of 5"):
        logprobs.log_normalizers(block)


def test_a_row_that_rules_out_everything_is_refused() -> None:
    with pytest.raises(BackendError, match="no numbers"):
        logprobs.log_normalizers(np.full((2, 9), -np.inf, np.float32))


def test_a_token_that_is_ruled_out_is_only_refused_where_the_text_has_it() -> None:
    block = np.zeros((2, 4), np.float32)
    block[:, 1] = -np.inf
    normalizers = logprobs.log_normalizers(block)
    assert normalizers == pytest.approx([np.log(3)] * 2)
    assert logprobs.log_probabilities(block, normalizers, [0, 2]) == pytest.approx([-np.log(3)] * 2)
    # Rounding does not make a token more than certain.
    assert logprobs.log_probabilities(np.zeros((1, 1), np.float32), np.array([-1e-7]), [0]) == 0
    with pytest.raises(BackendError, match="token 1 a probability of exactly 0"):
        logprobs.log_probabilities(block, normalizers, [0, 1])
