"""Tensor bytes are those of the reference implementation; what a type cannot hold is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_runtime.errors import FormatError
from quantize.encoding import ENCODERS, encode, transcode, widen

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
    assert encode(name, "t", rows).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_by_tensor(name: str, value: float) -> None:
    rows = np.zeros((2, 32), np.float32)
    rows[1, 7] = value
    with pytest.raises(FormatError, match=r"blk\.3\.ffn_up"):
        encode(name, "blk.3.ffn_up.weight", rows)


def test_values_too_small_for_a_scale_become_zero() -> None:
    rows = np.full((1, 32), 2.0**-126, np.float32)
    assert encode("Q8_0", "t", rows).tobytes() == bytes(34)


def test_half_precision_overflow_is_refused_with_a_way_out() -> None:
    rows = np.full((1, 32), 1e5, np.float32)
    with pytest.raises(FormatError, match=r"1e\+05, too large for F16.*BF16"):
        encode("F16", "t", rows)
    assert encode("BF16", "t", rows).size
    assert encode("Q8_0", "t", rows).size
    with pytest.raises(FormatError, match="too large for Q8_0"):
        encode("Q8_0", "t", rows * np.float32(100))


def test_halves_between_whole_numbers_go_away_from_zero() -> None:
    # 127 makes the scale 1: quants are the values rounded, as C's roundf does.
    near = [np.nextafter(np.float32(x), np.float32(y)) for x in (0.5, 1.5, 63.5) for y in (0, 127)]
    values = np.array([127, 0.5, 1.5, 2.5, 125.5, 126.5, *near], np.float32)
    row = np.zeros((1, 64), np.float32)
    row[0, : len(values)] = values
    row[0, 32 : 32 + len(values)] = -values
    found = encode("Q8_0", "t", row).reshape(2, 34)[:, 2:].view(np.int8)
    wanted = [127, 1, 2, 3, 126, 127, 0, 1, 1, 2, 63, 64]
    assert found[0, : len(wanted)].tolist() == wanted
    assert found[1, : len(wanted)].tolist() == [-n for n in wanted]


@given(
    rows=arrays.arrays(np.float32, (4, 32), elements=st.floats(-127, 127, width=16)),
    power=st.integers(-20, 10),
)
@settings(max_examples=30, deadline=None)
def test_many_ties_round_as_the_reference_does(rows: np.ndarray, power: int) -> None:
    rows[:, 0] = 127  # a scale of a power of two keeps halves exact
    rows = (np.round(rows * 2) / 2 * 2.0**power).astype(np.float32)
    wanted = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.Q8_0)
    assert encode("Q8_0", "t", rows).tobytes() == wanted.tobytes()


ALL_WORDS = np.arange(2**16, dtype=np.uint32).astype(np.uint16)


def finite(dtype: str) -> np.ndarray:
    values = ALL_WORDS.view(np.float16) if dtype == "F16" else ALL_WORDS
    return values[np.isfinite(widen(dtype, values))].reshape(1, -1)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_the_short_way_is_the_long_way_for_every_value_there_is(dtype: str) -> None:
    raw = finite(dtype)
    for type_name in ENCODERS:
        if type_name == "Q8_0":
            continue
        kept = raw
        if type_name == "F16":
            kept = raw[np.abs(widen(dtype, raw)) < 65520].reshape(1, -1)
        wanted = encode(type_name, "t", widen(dtype, kept)).ravel()
        assert transcode(type_name, "t", dtype, kept).tobytes() == wanted.tobytes()
        # Where few are small, each small one is looked after by itself.
        usual = np.concatenate([kept, np.repeat(kept[:, 17000:17256], 4000)[None]], axis=1)
        found = transcode(type_name, "t", dtype, usual).ravel()[: kept.size]
        assert found.tobytes() == wanted[: kept.size].tobytes()


def test_values_that_have_the_type_already_keep_their_bits() -> None:
    for dtype in ("F16", "BF16"):
        assert transcode(dtype, "t", dtype, finite(dtype)).tobytes() == finite(dtype).tobytes()


@pytest.mark.parametrize("type_name", ENCODERS)
@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("F16", 0x7C00), ("F16", 0xFC00), ("F16", 0x7E00), ("BF16", 0x7F80), ("BF16", 0xFFC0)],
)
def test_no_way_lets_through_what_is_no_number(type_name: str, dtype: str, bits: int) -> None:
    words = np.zeros((2, 32), np.uint16)
    words[1, 5] = bits
    raw = words.view(np.float16) if dtype == "F16" else words
    with pytest.raises(FormatError, match=r"w\.weight holds values that are no finite"):
        transcode(type_name, "w.weight", dtype, raw)


def test_bfloat16_too_large_for_half_precision_is_refused_by_its_value() -> None:
    words = np.full((1, 32), 0x477F, np.uint16)  # 65280, the largest that fits
    assert transcode("F16", "t", "BF16", words).view(np.float16)[0, 0] == 65280
    words[0, 3] = 0xC780  # -65536
    with pytest.raises(FormatError, match=r"6\.554e\+04, too large for F16.*--level BF16"):
        transcode("F16", "t", "BF16", words)


def test_double_precision_is_rounded_to_nearest_and_never_to_infinity() -> None:
    values = np.array([[1 / 3, 1e-60, -(2.0**60)]])
    assert (transcode("F32", "t", "F64", values) == values.astype(np.float32)).all()
    with pytest.raises(FormatError, match="no finite"):
        transcode("F32", "t", "F64", values * 1e200)


def test_what_is_encoded_is_not_changed() -> None:
    for type_name in ENCODERS:
        for dtype in ("F16", "BF16"):
            raw = finite(dtype)[:, :64].copy()
            before = raw.tobytes()
            transcode(type_name, "t", dtype, raw)
            assert raw.tobytes() == before
