"""Blocks of integers are those of ONNX Runtime's own quantizer; searching for scales loses less."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.capi import _pybind_state

from quantize.onnx.blocks import BlockFormat

FORMATS = [
    BlockFormat(bits=bits, block_size=size, symmetric=symmetric)
    for bits in (4, 8)
    for size in (16, 32, 128)
    for symmetric in (True, False)
]


def of_onnxruntime(blocks: BlockFormat, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same by the function onnxruntime's MatMulNBits tools call: outputs are columns there."""
    count, columns = rows.shape
    data = np.zeros(blocks.data_dims(count, columns), np.uint8)
    scales = np.zeros(count * blocks.count(columns), np.float32)
    zeros = np.zeros(count * blocks.zero_bytes(columns), np.uint8)
    quantizer = getattr(_pybind_state, f"quantize_matmul_{blocks.bits}bits")
    turned = np.ascontiguousarray(rows.T)
    quantizer(data, turned, scales, zeros, blocks.block_size, count, columns, blocks.symmetric)
    return data, scales.reshape(count, -1), zeros.reshape(count, -1)


def widened(blocks: BlockFormat, parts: tuple[np.ndarray, ...], columns: int) -> np.ndarray:
    """The numbers that blocks stand for, by the operator's documentation."""
    data, scales = parts[:2]
    codes = data.reshape(len(data), -1)
    if blocks.bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(data), -1)
    zeros = np.full(scales.shape, 2 ** (blocks.bits - 1), np.float32)
    if not blocks.symmetric:
        points = parts[2]
        if blocks.bits == 4:
            points = np.stack([points & 15, points >> 4], axis=-1).reshape(len(data), -1)
        zeros = points[:, : scales.shape[1]].astype(np.float32)
    spread = [np.repeat(part, blocks.block_size, axis=1) for part in (zeros, scales)]
    return ((codes - spread[0]) * spread[1])[:, :columns]


def rows(kind: str, columns: int) -> np.ndarray:
    values = np.random.default_rng(3).standard_normal((64, columns)).astype(np.float32)
    return {
        "normal": values,
        "bfloat16": (values.view(np.uint32) & 0xFFFF0000).view(np.float32),
        "ties": np.round(values * 8) / 8,
        "one sign": np.abs(values),
        "zeros": np.where(np.arange(64)[:, None] % 2, values, 0).astype(np.float32),
    }[kind]


@pytest.mark.parametrize("kind", ["normal", "bfloat16", "ties", "one sign", "zeros"])
@pytest.mark.parametrize("blocks", FORMATS, ids=str)
def test_every_byte_is_that_of_onnxruntime(blocks: BlockFormat, kind: str) -> None:
    values = rows(kind, 256)
    for ours, theirs in zip(blocks.quantize(values), of_onnxruntime(blocks, values), strict=False):
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.integers(1, 5),
    st.integers(1, 300),
    st.integers(0, 2**32 - 1),
    st.floats(-30, 30),
)
def test_what_blocks_stand_for_is_that_of_onnxruntime(
    blocks: BlockFormat, count: int, columns: int, seed: int, exponent: float
) -> None:
    values = np.random.default_rng(seed).standard_normal((count, columns))
    values = (values * 2.0**exponent).astype(np.float32)
    ours = widened(blocks, blocks.quantize(values), columns)
    np.testing.assert_array_equal(ours, widened(blocks, of_onnxruntime(blocks, values), columns))


@pytest.mark.parametrize("blocks", FORMATS, ids=str)
def test_a_value_is_off_by_no_more_than_its_block_allows(blocks: BlockFormat) -> None:
    values = rows("normal", 256)
    parts = blocks.quantize(values)
    off = np.abs(widened(blocks, parts, 256) - values)
    # Half a step; a whole one at the end that a symmetric block cannot reach, and in zero points.
    steps = np.abs(np.repeat(parts[1], blocks.block_size, axis=1))
    assert (off <= steps * 1.001).all()
    assert np.median(off / steps) < 0.3


@pytest.mark.parametrize("symmetric", [True, False])
def test_searched_scales_lose_less(symmetric: bool) -> None:
    values = rows("normal", 256)
    weights = np.abs(values) + np.sqrt((values**2).mean())

    def loss(algorithm: str) -> float:
        blocks = BlockFormat(bits=4, block_size=32, symmetric=symmetric, algorithm=algorithm)
        return float(
            (weights * (widened(blocks, blocks.quantize(values), 256) - values) ** 2).sum()
        )

    assert loss("k_quant") < 0.95 * loss("rtn")


def test_searching_takes_zeros_and_short_rows() -> None:
    blocks = BlockFormat(bits=4, block_size=32, symmetric=False, algorithm="k_quant")
    values = np.zeros((3, 40), np.float32)
    values[1] = np.linspace(-1, 2, 40)
    found = widened(blocks, blocks.quantize(values), 40)
    assert not found[[0, 2]].any()
    np.testing.assert_allclose(found[1], values[1], atol=0.11)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-12, 1e20, 1e38])
def test_searching_takes_values_of_any_size(size: float, symmetric: bool) -> None:
    blocks = BlockFormat(bits=4, block_size=32, symmetric=symmetric, algorithm="k_quant")
    values = (rows("normal", 64)[:8] / 4 * size).astype(np.float32)
    off = np.abs(widened(blocks, blocks.quantize(values), 64) - values).max()
    assert off <= (1e-30 if size < 1e-29 else 0.2 * size)


def test_values_too_small_for_a_scale_become_zero() -> None:
    values = np.full((1, 32), 1e-44, np.float32)
    values[0, 3] = -3e-44
    found = widened(
        BlockFormat(bits=8, block_size=32), BlockFormat(bits=8, block_size=32).quantize(values), 32
    )
    assert np.abs(found).max() <= 3e-44
