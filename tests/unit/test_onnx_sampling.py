"""The ONNX backend's sampler against the same filters written down one token at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.backends import Sampling
from edge_runtime.backends.onnx.sampling import NumpySampler, largest
from edge_runtime.errors import BackendError, UnsupportedError, UsageError

PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)


class Logits:
    """Stands for a session: only what a sampler asks of one."""

    def __init__(self, values: Any, ends: tuple[int, ...] = ()) -> None:
        self.values = np.asarray(values, np.float32)
        self.ends = ends

    def logits_view(self) -> Any:
        return self.values

    def end_tokens(self) -> tuple[int, ...]:
        return self.ends


def sampler(values: Any, sampling: Sampling, ends: tuple[int, ...] = ()) -> NumpySampler:
    return NumpySampler(Logits(values, ends), sampling)  # type: ignore[arg-type]


def shares(values: list[float], sampling: Sampling) -> dict[int, float]:
    """The probability of each token by the definition of the filters, in plain Python."""
    ranked = sorted(range(len(values)), key=lambda i: (-values[i], i))
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    best = values[ranked[0]]
    mass = [math.exp(values[i] - best) for i in ranked]
    total, seen, kept = sum(mass), 0.0, []
    for token, part in zip(ranked, mass, strict=True):
        kept.append(token)
        seen += part
        if sampling.top_p < 1.0 and seen >= sampling.top_p * total:
            break
    kept = [i for i in kept if math.exp(values[i] - best) >= sampling.min_p]
    weights = {i: math.exp((values[i] - best) / sampling.temperature) for i in kept}
    return {i: weight / sum(weights.values()) for i, weight in weights.items()}


def drawn(values: Any, sampling: Sampling, count: int = 1500) -> dict[int, float]:
    one = sampler(values, sampling)
    tokens, counts = np.unique([one.sample() for _ in range(count)], return_counts=True)
    return dict(zip(tokens.tolist(), (counts / count).tolist(), strict=True))


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"temperature": 0.3},
        {"temperature": 3.0},
        {"top_k": 5},
        {"top_k": 10_000},
        {"top_p": 0.6},
        {"min_p": 0.2},
        {"top_k": 30, "top_p": 0.9, "min_p": 0.05, "temperature": 0.8},
        {"top_p": 0.95, "min_p": 0.05, "temperature": 1.5},
    ],
)
@pytest.mark.parametrize("size", [40, 5000])
def test_tokens_come_as_often_as_the_filters_say(knobs: dict[str, Any], size: int) -> None:
    values = (np.random.default_rng(3).standard_normal(size) * 3).astype(np.float32)
    sampling = replace(PLAIN, **knobs)
    wanted = shares([float(v) for v in values], sampling)
    found = drawn(values, sampling)
    assert set(found) <= set(wanted)
    # Four standard deviations of a share among 1500 draws.
    for token, share in wanted.items():
        assert found.get(token, 0.0) == pytest.approx(share, abs=4 * math.sqrt(share / 1500) + 1e-3)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=700), st.integers(1, 80))
@settings(max_examples=150, deadline=None)
def test_the_largest_are_those_of_a_full_sort(values: list[int], count: int) -> None:
    logits = np.array(values, np.float32)
    wanted = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    ids, found = largest(logits, count)
    assert ids == wanted
    assert found == [float(values[i]) for i in wanted]


@pytest.mark.parametrize("size", [63, 64, 65, 4097, 152_000])
def test_the_largest_of_a_large_vocabulary(size: int) -> None:
    logits = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    wanted = np.argsort(-logits, kind="stable")[:40]
    assert largest(logits, 40)[0] == wanted.tolist()


def test_greedy_takes_the_first_of_the_largest() -> None:
    assert sampler([0.0, 3.0, 1.0, 3.0], Sampling(temperature=0.0)).sample() == 1


def test_a_repeated_token_loses_by_each_penalty() -> None:
    greedy = Sampling(temperature=0.0)
    # 3.0 / 1.5 = 2.0, below 2.5; then 2.5 / 1.5 is below 2.0, and so in turns.
    by_factor = sampler([3.0, 2.5, 1.0], replace(greedy, repeat_penalty=1.5))
    assert [by_factor.sample() for _ in range(3)] == [0, 1, 0]
    # A negative logit moves away from zero.
    negative = sampler([-1.0, -1.2], replace(greedy, repeat_penalty=1.5))
    assert [negative.sample() for _ in range(2)] == [0, 1]
    by_count = sampler([3.0, 2.0], replace(greedy, frequency_penalty=0.4))
    assert [by_count.sample() for _ in range(6)] == [0, 0, 0, 1, 0, 1]
    once = sampler([3.0, 2.7, 0.0], replace(greedy, presence_penalty=0.5))
    assert [once.sample() for _ in range(3)] == [0, 1, 0]


def test_penalties_forget_what_is_too_long_ago() -> None:
    sampling = Sampling(temperature=0.0, presence_penalty=5.0, penalty_last_tokens=2)
    one = sampler([3.0, 2.0, 1.0], sampling)
    assert [one.sample() for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    none = sampler([3.0, 2.0], replace(sampling, penalty_last_tokens=0))
    assert [none.sample() for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize(
    "way", [{"temperature": 0.0}, {"top_k": 20}, {"top_p": 0.8}, {"min_p": 0.1}, {}]
)
def test_the_models_own_logits_are_left_as_they_are(way: dict[str, Any]) -> None:
    values = np.random.default_rng(5).standard_normal(200).astype(np.float32) * 4
    values[3] = -0.0
    session = Logits(values, ends=(int(values.argmax()), 3))
    before = session.values.tobytes()
    sampling = replace(
        PLAIN, repeat_penalty=1.7, frequency_penalty=0.3, presence_penalty=0.4,
        penalty_last_tokens=5, ignore_eos=True, **way,
    )  # fmt: skip
    one = NumpySampler(session, sampling)  # type: ignore[arg-type]
    for _ in range(30):
        one.sample()
        assert session.values.tobytes() == before


@pytest.mark.parametrize("way", [{"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.8}, {}])
def test_logits_are_put_back_when_no_token_can_be_chosen(way: dict[str, Any]) -> None:
    session = Logits([3.0, 2.0, 1.0])
    sampling = replace(PLAIN, presence_penalty=1.5, ignore_eos=True, **way)
    one = NumpySampler(session, sampling)  # type: ignore[arg-type]
    one.sample()
    for value in (math.nan, -math.inf):
        session.values[:] = value
        before = session.values.tobytes()
        with pytest.raises(BackendError, match="no finite logits"):
            one.sample()
        assert session.values.tobytes() == before
    # Every token is forbidden.
    session = Logits([3.0, 2.0, 1.0], ends=(0, 1, 2))
    one = NumpySampler(session, sampling)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="no finite logits"):
        one.sample()
    assert session.values.tolist() == [3.0, 2.0, 1.0]


def test_an_end_that_is_ignored_never_comes() -> None:
    for sampling in (PLAIN, replace(PLAIN, top_k=2), replace(PLAIN, temperature=0.0)):
        one = sampler([9.0, 0.0, 0.0], replace(sampling, ignore_eos=True), ends=(0,))
        assert {one.sample() for _ in range(50)} <= {1, 2}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_none_are_an_error(temperature: float, top_k: int, bad: float) -> None:
    sampling = replace(PLAIN, temperature=temperature, top_k=top_k)
    if temperature == 0.0 and bad == math.inf:
        # An infinite logit is the largest: greedy choice is still defined.
        assert sampler([1.0, bad, 0.5] * 100, sampling).sample() == 1
        return
    with pytest.raises(BackendError, match="no finite logits"):
        sampler([1.0, bad, 0.5] * 100, sampling).sample()


def test_grammars_are_refused_in_a_sentence() -> None:
    for wish in ({"grammar": "root ::= [a]"}, {"json_schema": "{}"}):
        with pytest.raises(UnsupportedError, match="knows no grammars"):
            sampler([1.0], Sampling(**wish))  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        sampler([1.0], Sampling(top_p=2.0))
