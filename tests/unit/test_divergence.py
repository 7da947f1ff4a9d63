"""Distributions against a reference's: exact, from a compact one, and what neither may do.

The truth is worked out here in float64 by the definition, a distribution at a time.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_runtime.errors import BackendError
from edge_runtime.quality.divergence import Diverged, diverge
from edge_runtime.quality.kept import kept, pack, row_type, unpack
from edge_runtime.quality.logprobs import log_normalizers


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def full_kl(reference: np.ndarray, model: np.ndarray) -> np.ndarray:
    log_p, log_q = log_softmax(reference), log_softmax(model)
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=1)


def held_against(
    reference: np.ndarray,
    model: np.ndarray,
    targets: np.ndarray,
    *,
    top: int,
    drawn: int = 0,
    draw_at: float = 0.5,
) -> Diverged:
    kind = row_type(reference.shape[1], top, drawn)
    at = np.full(len(reference), draw_at)
    rows = unpack(pack(reference, log_normalizers(reference), targets, kind, draw_at=at))
    return diverge(rows, model, log_normalizers(model), targets)


def peaked(rows: int, vocabulary: int, *, seed: int = 0, noise: float = 0.3) -> tuple:
    """Logits as language models have them: a few likely tokens over a wide floor; and a copy."""
    random = np.random.default_rng(seed)
    likely = random.pareto(3, (rows, vocabulary)).clip(max=9)
    reference = (random.standard_normal((rows, vocabulary)) + likely).astype(np.float32)
    model = reference + noise * random.standard_normal(reference.shape).astype(np.float32)
    return reference, model, random.integers(0, vocabulary, rows)


LOGITS = st.floats(-60, 60, width=32)
PAIRS = st.tuples(st.integers(1, 4), st.integers(2, 40)).flatmap(
    lambda shape: st.tuples(*2 * (arrays(np.float32, shape, elements=LOGITS),))
)


@settings(deadline=None)
@given(pair=PAIRS)
def test_an_exact_reference_gives_the_divergence_by_its_definition(pair: tuple) -> None:
    reference, model = pair
    rows, vocabulary = reference.shape
    targets = np.arange(rows) % vocabulary
    found = held_against(reference, model, targets, top=vocabulary)
    truth = full_kl(reference, model)
    assert found.kl == pytest.approx(truth, rel=2e-5, abs=2e-5)
    assert (found.kl_least == found.kl).all()
    log_p, log_q = log_softmax(reference), log_softmax(model)
    at = (np.arange(rows), targets)
    assert found.reference_nll == pytest.approx(-log_p[at], rel=1e-5, abs=2e-6)
    assert found.p_change == pytest.approx(np.exp(log_q[at]) - np.exp(log_p[at]), abs=1e-5)
    assert (found.agrees == (reference.argmax(axis=1) == model.argmax(axis=1))).all()


@settings(deadline=None)
@given(pair=PAIRS, top=st.integers(1, 39), at=st.floats(0, 1, exclude_max=True))
def test_a_compact_reference_bounds_the_divergence_from_below(
    pair: tuple, top: int, at: float
) -> None:
    reference, model = pair
    rows, vocabulary = reference.shape
    top = min(top, vocabulary - 1)
    targets = np.zeros(rows, np.int64)
    found = held_against(reference, model, targets, top=top, drawn=3, draw_at=at)
    truth = full_kl(reference, model)
    assert (found.kl_least >= -1e-9).all()
    assert (found.kl_least <= truth * 1.001 + 1e-4).all()
    assert (found.kl >= found.kl_least).all()
    without = held_against(reference, model, targets, top=top)
    assert (without.kl == without.kl_least).all()
    assert without.kl_least == pytest.approx(found.kl_least)


@pytest.mark.parametrize("noise", [0.05, 0.3, 3.0])
def test_the_estimate_of_the_rest_is_right_in_the_mean(noise: float) -> None:
    reference, model, targets = peaked(3, 500, seed=1, noise=noise)
    places = (np.arange(1000) + 0.5) / 1000
    kind = row_type(500, 16, 4)
    normalizers, ours = log_normalizers(reference), log_normalizers(model)
    found = []
    for at in places:
        rows = unpack(pack(reference, normalizers, targets, kind, draw_at=np.full(3, at)))
        found.append(diverge(rows, model, ours, targets).kl)
    mean = np.mean(found, axis=0)
    truth = full_kl(reference, model)
    assert mean == pytest.approx(truth, rel=5e-3, abs=3e-7)
    assert np.std(found, axis=0).min() > 0  # each by itself is an estimate
    least = held_against(reference, model, targets, top=16).kl_least
    assert (least < truth).all()  # what is kept does not tell it all


@pytest.mark.parametrize(("vocabulary", "top"), [(3000, 64), (70_000, 224)])
def test_over_many_positions_the_mean_is_that_of_the_full_vocabulary(
    vocabulary: int, top: int
) -> None:
    reference, model, targets = peaked(40, vocabulary)
    found = held_against(reference, model, targets, top=top, drawn=32)
    assert found.kl.mean() == pytest.approx(full_kl(reference, model).mean(), rel=0.02)


def test_what_is_kept_is_the_most_likely_and_draws_follow_probability() -> None:
    reference, _, targets = peaked(1, 30_000)
    # Equals around the last place kept: any of them, but no more and nothing less.
    reference[0, :500] = np.sort(reference[0])[-200]
    kind = row_type(30_000, 224, 8)
    normalizers = log_normalizers(reference)
    counts = np.zeros(30_000)
    for at in (np.arange(200) + 0.5) / 200:
        packed = pack(reference, normalizers, targets, kind, draw_at=np.array([at]))
        np.add.at(counts, packed["drawn_ids"][0].astype(np.intp), 1)
    rows = unpack(packed)
    assert rows.ids is not None
    assert len(set(rows.ids[0])) == 224
    assert sorted(reference[0, rows.ids[0]]) == sorted(np.sort(reference[0])[-224:])
    log_p = log_softmax(reference)[0]
    assert rows.log_p[0] == pytest.approx(log_p[rows.ids[0]], abs=3e-4)
    rest = np.exp(log_p)
    rest[rows.ids[0]] = 0
    assert np.exp(rows.rest_log_p) == pytest.approx(rest.sum(), rel=1e-5)
    assert counts[rows.ids[0]].sum() == 0
    # 1,600 points evenly over the cumulated probability: each token has its share within one.
    assert np.abs(counts - 1600 * rest / rest.sum()).max() <= 1.01


def test_a_model_against_itself_does_not_diverge() -> None:
    reference, _, targets = peaked(8, 2000)
    for top, drawn in ((224, 32), (2000, 0)):
        found = held_against(reference, reference.copy(), targets, top=top, drawn=drawn)
        assert found.kl == pytest.approx(np.zeros(8), abs=1e-6)
        assert found.p_change == pytest.approx(np.zeros(8), abs=1e-6)
        assert (found.agrees == 1).all()


@pytest.mark.parametrize("shift", [-30.0, -14.0, 14.0, 30.0])
def test_a_rest_that_one_side_all_but_rules_out_is_no_wild_number(shift: float) -> None:
    reference, model, targets = peaked(16, 2000, noise=0.1)
    best = np.argsort(reference, axis=1)[:, -100:]
    raised = model.copy()
    np.put_along_axis(raised, best, np.take_along_axis(raised, best, 1) + abs(shift), 1)
    pair = (reference, raised) if shift > 0 else (raised, reference)
    found = held_against(*pair, targets, top=100, drawn=32)
    truth = full_kl(*pair)
    assert found.kl.mean() == pytest.approx(truth.mean(), rel=0.05)
    assert (found.kl <= 3 * truth + 1e-6).all()


def test_tokens_of_no_probability_cost_nothing_where_both_rule_them_out() -> None:
    reference, model, targets = peaked(4, 1000)
    targets %= 500
    reference[:, 500:] = model[:, 500:] = -np.inf
    truth = full_kl(reference[:, :500], model[:, :500])
    for top, drawn in ((1000, 0), (600, 4), (64, 64)):
        found = held_against(reference, model, targets, top=top, drawn=drawn)
        assert found.kl == pytest.approx(truth, rel=0.2 if top == 64 else 1e-3)
    reference[:, 450:] = -np.inf  # only the model has them
    found = held_against(reference, model, targets % 450, top=600, drawn=4)
    log_p, log_q = log_softmax(reference)[:, :450], log_softmax(model)[:, :450]
    assert found.kl == pytest.approx((np.exp(log_p) * (log_p - log_q)).sum(axis=1), rel=1e-3)


def test_numbers_that_are_none_are_refused() -> None:
    reference, model, targets = peaked(2, 300)
    rows = unpack(
        pack(reference, log_normalizers(reference), targets, row_type(300, 64, 4),
             draw_at=np.zeros(2))
    )  # fmt: skip
    normalizers = log_normalizers(model)
    ruled_out = model.copy()
    ruled_out[1, reference[1].argmax()] = -np.inf
    with pytest.raises(BackendError, match="no numbers"):
        diverge(rows, ruled_out, normalizers, targets)
    with pytest.raises(BackendError, match="no numbers"):
        diverge(rows, model, np.array([np.nan, 1.0]), targets)
    with pytest.raises(BackendError, match="no numbers"):
        pack(
            reference, np.array([1.0, np.inf]), targets, row_type(300, 64, 4),
            draw_at=np.zeros(2),
        )  # fmt: skip


def test_how_much_is_kept() -> None:
    assert kept(151_936) == (224, 32)
    assert row_type(151_936, *kept(151_936)).itemsize * 1000 <= 2 * 1024**2
    assert kept(151_936, top=None) == (151_936, 0)
    assert kept(1000, top=2000) == (1000, 0)
    assert kept(200) == (200, 0)  # all of it takes less room than its best 224
    assert row_type(65_536, 8, 8)["ids"].base == np.dtype("<u2")
    assert row_type(65_537, 8, 8)["ids"].base == np.dtype("<u4")


def test_the_very_last_draw_is_a_token_with_probability_whatever_was_rounded() -> None:
    reference, _, targets = peaked(200, 128)
    reference[:, 100:] = -np.inf
    last = np.full(200, np.nextafter(1.0, 0.0))
    packed = pack(
        reference, log_normalizers(reference), targets % 100, row_type(128, 8, 1), draw_at=last
    )
    assert packed["drawn_ids"].max() < 100
    assert np.isfinite(packed["drawn_log_p"]).all()
