"""Text that comes out of tokens: held back when unsure, never lost, never torn."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edge_runtime.backends import Sampling
from edge_runtime.backends.generation import MAX_SEED, TextAssembler, check_sampling, check_tokens
from edge_runtime.errors import UsageError


def shown(chunks: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    text = TextAssembler(stop)
    pieces = []
    for chunk in chunks:
        pieces.append(text.push(chunk))
        if text.stopped:
            return pieces, True
    return [*pieces, text.flush()], False


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.text(), st.lists(st.integers(min_value=0), max_size=12))
def test_any_cutting_gives_the_same_text(text: str, places: list[int]) -> None:
    text = text.encode("utf-8", "replace").decode()
    pieces, stopped = shown(cut(text.encode(), places))
    assert "".join(pieces) == text
    assert not stopped


@given(
    st.text(alphabet="ab\u00e9", max_size=40),
    st.lists(st.text(alphabet="ab\u00e9", min_size=1, max_size=5), min_size=1, max_size=3),
    st.lists(st.integers(min_value=0), max_size=20),
)
def test_stop_strings_end_the_text_wherever_it_is_cut(
    text: str, stop: list[str], places: list[int]
) -> None:
    pieces, stopped = shown(cut(text.encode(), places), tuple(stop))
    found = "".join(pieces)
    assert stopped == any(word in text for word in stop)
    assert not any(word in found for word in stop)
    assert text.startswith(found)
    if not stopped:
        assert found == text


def test_nothing_that_may_become_a_stop_string_is_shown_early() -> None:
    text = TextAssembler(("<|end|>", "END"))
    assert text.push(b"hello <") == "hello "
    assert text.push(b"|en") == ""
    assert text.push(b"x E") == "<|enx "
    assert text.push(b"N") == ""
    assert text.flush() == "EN"


def test_the_earliest_stop_string_counts() -> None:
    assert shown([b"one two three"], ("three", "two")) == (["one "], True)


def test_bytes_that_are_no_text_become_a_replacement_character() -> None:
    assert shown([b"a\xff", b"b"]) == (["a\ufffd", "b", ""], False)


def test_an_unfinished_character_at_the_end_is_left_out() -> None:
    assert shown([b"ab\xe6\x9d"]) == (["ab", ""], False)


def test_after_a_stop_nothing_comes() -> None:
    text = TextAssembler(("x",))
    assert text.push(b"ax") == "a"
    assert text.push(b"more") == ""
    assert text.flush() == ""


def test_tokens_may_be_any_integers() -> None:
    import numpy as np

    assert check_tokens(np.array([1, 2]), 3) == [1, 2]
    assert check_tokens((), 3) == []
    for wrong in (["a"], [1.5], [None]):
        with pytest.raises(UsageError):
            check_tokens(wrong, 3)


def test_seeds_reach_as_far_as_stated() -> None:
    check_sampling(Sampling(seed=MAX_SEED))
    with pytest.raises(UsageError, match="seed"):
        check_sampling(Sampling(seed=MAX_SEED + 1))
