"""A request to quantize that makes no sense is refused in a sentence, before anything is done."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import quantize
from edge_runtime.artifact import LEVELS
from edge_runtime.errors import UsageError
from quantize import QuantizeOptions, parse_tensor_type
from quantize.options import TARGET_TYPES, lowered, target_type


def test_all_levels_are_listed_from_the_one_list() -> None:
    assert quantize.levels() == tuple(LEVELS.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": 0}, "0 threads"),
        ({"tensor_types": (("ffn_down", "q4k"),)}, "'q4k' is no tensor type.*Nearest: Q4_K"),
        ({"tensor_types": (("ffn_(down", "q4_k"),)}, r"'ffn_\(down' is no regular expression"),
        ({"tensor_types": (("", "q4_k"),)}, "no pattern"),
        ({"output_tensor_type": "Q4_K_M"}, "It is a level.*main one is Q4_K"),
        ({"token_embedding_type": "I32"}, "not as a type to quantize to"),
        ({"leave_output_tensor": True, "output_tensor_type": "F16"}, "Ask for one"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        QuantizeOptions(**options)


def test_every_type_offered_is_accepted_in_either_case() -> None:
    for name in TARGET_TYPES:
        assert target_type(name.lower()) is target_type(f" {name} ")
        QuantizeOptions(output_tensor_type=name, tensor_types=(("ffn", name.lower()),))


def test_posix_classes_are_left_to_the_quantizer() -> None:
    assert QuantizeOptions(tensor_types=(("blk.[[:digit:]].ffn", "Q8_0"),)).overrides


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ffn_down=q6_k", ("ffn_down", "q6_k")),
        (r"blk\.(?=1)=F16", (r"blk\.(?=1)", "F16")),
    ],
)
def test_a_pattern_and_a_type_are_taken_apart(text: str, parts: tuple[str, str]) -> None:
    assert parse_tensor_type(text) == parts


@pytest.mark.parametrize("text", ["", "=", "ffn_down", "ffn_down=", "=q8_0"])
def test_half_of_a_tensor_type_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="ffn_down=q6_k"):
        parse_tensor_type(text)


def test_patterns_are_lowered_but_not_their_escapes() -> None:
    assert lowered(r"BLK\.\D+\.FFN_[A-Z]\S") == r"blk\.\D+\.ffn_[a-z]\S"


@given(st.text(max_size=30))
@example("[[")
def test_any_pattern_is_taken_or_refused(pattern: str) -> None:
    try:
        options = QuantizeOptions(tensor_types=((pattern, "q8_0"),))
    except UsageError:
        return
    assert len(options.overrides) == 1
