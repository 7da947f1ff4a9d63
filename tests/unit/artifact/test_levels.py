"""Levels and tensor types by name and number."""

from __future__ import annotations

import gguf
import pytest

from edge_runtime.artifact import GGML_TYPES, LEVELS, level, tensor_type
from edge_runtime.artifact.ggml import ggml_type
from edge_runtime.errors import FormatError, UnsupportedError


@pytest.mark.parametrize("name", ["Q4_K_M", "q4_k_m", " q4-k-m "])
def test_a_level_is_found_however_it_is_written(name):
    assert level(name) is LEVELS["Q4_K_M"]


@pytest.mark.parametrize(("name", "usual"), [("Q3_K", "Q3_K_M"), ("q4_k", "Q4_K_M")])
def test_a_kind_of_level_stands_for_its_usual_one(name, usual):
    assert level(name) is LEVELS[usual]


def test_an_unknown_level_names_its_neighbours_and_all():
    with pytest.raises(UnsupportedError, match=r"'Q4_K_XL'.*Nearest: Q4_K") as caught:
        level("Q4_K_XL")
    assert "Q8_0" in caught.value.way_out


def test_file_type_numbers_are_those_of_the_reference_library():
    for item in LEVELS.values():
        if item.name == "Q2_0":  # newer than the reference library
            continue
        names = (f"MOSTLY_{item.name}", f"ALL_{item.name}")
        reference = next(
            gguf.LlamaFileType[n] for n in names if n in gguf.LlamaFileType.__members__
        )
        assert item.ftype == reference.value


def test_levels_that_llama_cpp_refuses_without_an_importance_matrix_are_marked():
    marked = {item.name for item in LEVELS.values() if item.needs_imatrix}
    assert marked == {
        "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S",
    }  # fmt: skip


def test_every_level_is_described():
    assert all(item.description for item in LEVELS.values())
    assert LEVELS["Q4_K_M"].bits_per_weight == 4.5
    assert LEVELS["IQ1_S"].bits_per_weight == 1.5625
    assert (LEVELS["Q8_0"].block_elements, LEVELS["Q8_0"].block_bytes) == (32, 34)


def test_blocks_are_those_of_the_reference_library():
    for item in LEVELS.values():
        if item.name == "Q2_0":  # newer than the reference library
            continue
        kind = gguf.GGMLQuantizationType[item.default.name]
        assert (item.block_elements, item.block_bytes) == gguf.GGML_QUANT_SIZES[kind]


def test_curved_grids_and_lattices_are_known_to_take_long():
    assert LEVELS["Q4_0"].cost == 1
    slow = {item.name for item in LEVELS.values() if item.cost >= 20}
    assert slow == {item.name for item in LEVELS.values() if item.name.startswith("IQ")}


def test_tensor_types_by_name_and_number():
    assert tensor_type("q4_k") is GGML_TYPES["Q4_K"]
    assert ggml_type(12) is GGML_TYPES["Q4_K"]
    assert GGML_TYPES["Q4_K"].bits_per_element == 4.5
    with pytest.raises(UnsupportedError, match="'Q4_Z'"):
        tensor_type("Q4_Z")
    with pytest.raises(UnsupportedError, match="31"):
        ggml_type(31)


def test_a_row_is_whole_blocks_or_refused():
    kind = GGML_TYPES["Q4_K"]
    assert kind.row_bytes(512) == 288
    assert kind.size_bytes((512, 3, 2)) == 6 * 288
    with pytest.raises(FormatError, match="300 elements"):
        kind.row_bytes(300)
