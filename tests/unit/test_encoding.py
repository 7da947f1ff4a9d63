"""Tensor bytes are those of the reference implementation; what a type cannot hold is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_runtime.errors import FormatError
from quantize.encoding import ENCODERS, encode

gguf = pytest.importorskip("gguf")

# Where a block's scale has no inverse in single precision, C's result is undefined.
SMALLEST = 2.0**-100
MAGNITUDES = st.floats(SMALLEST, 60000, width=32)
ROWS = arrays.arrays(
    np.float32, (3, 64), elements=MAGNITUDES | MAGNITUDES.map(lambda x: -x) | st.just(0.0)
)


@pytest.mark.parametrize("name", ENCODERS)
@given(rows=ROWS)
@settings(max_examples=30, deadline=None)
def test_bytes_equal_the_reference(name: str, rows: np.ndarray) -> None:
    wanted = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[name])
    assert encode(name, "t", rows) == wanted.tobytes()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_by_tensor(name: str, value: float) -> None:
    rows = np.zeros((2, 32), np.float32)
    rows[1, 7] = value
    with pytest.raises(FormatError, match=r"blk\.3\.ffn_up"):
        encode(name, "blk.3.ffn_up.weight", rows)


def test_values_too_small_for_a_scale_become_zero() -> None:
    rows = np.full((1, 32), 2.0**-126, np.float32)
    assert encode("Q8_0", "t", rows) == bytes(34)


def test_half_precision_overflow_is_refused_with_a_way_out() -> None:
    rows = np.full((1, 32), 1e5, np.float32)
    with pytest.raises(FormatError, match=r"1e\+05, too large for F16.*BF16"):
        encode("F16", "t", rows)
    assert encode("BF16", "t", rows)
    assert encode("Q8_0", "t", rows)
    with pytest.raises(FormatError, match="too large for Q8_0"):
        encode("Q8_0", "t", rows * np.float32(100))
