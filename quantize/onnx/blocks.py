"""Blocks of integers with scales, as ONNX Runtime's MatMulNBits stores matrices.

Rounding to nearest gives bit for bit what ONNX Runtime's own quantizer gives (a test compares), in
a fifth of its time; the search for better scales follows llama.cpp's idea. Rows are a matrix's
outputs; blocks run along a row. Refuses to know which matrix it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]
Parts = tuple[npt.NDArray[Any], ...]

_STEPS = 9
"""Scales tried on either side of the one that just holds the largest value, a tenth apart."""
_SPANS = np.linspace(0.7, 1.05, 8, dtype=np.float32)
"""Parts of a block's span that its codes are tried to cover, when it has a zero point."""
_LEAST = np.float32(1e-30)
"""Blocks whose largest magnitude is below this are searched as if they were zeros."""
_BELOW_HALF = np.float32(0.49999997)  # the largest float32 below one half, so that the cast rounds
_AT_ONCE = 1 << 16
"""Elements searched at once: what is made of them on the way stays in the processor's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormat:
    """Integers of 4 or 8 bits, `block_size` of them to a scale; a zero point too unless symmetric.

    Low bits come first in a byte. Without zero points a code stands for itself less 2^(bits - 1).
    """

    bits: int
    block_size: int
    symmetric: bool = True
    algorithm: str = "rtn"

    def count(self, columns: int) -> int:
        """Blocks of a row."""
        return -(-columns // self.block_size)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block's integers."""
        return self.block_size * self.bits // 8

    def zero_bytes(self, columns: int) -> int:
        """Bytes of a row's zero points."""
        return -(-self.count(columns) * self.bits // 8)

    def data_dims(self, rows: int, columns: int) -> tuple[int, int, int]:
        """Dims of the integers' bytes: rows, blocks, bytes of a block."""
        return rows, self.count(columns), self.block_bytes

    def quantize(self, rows: Floats) -> Parts:
        """Returns a slab's bytes, scales and, unless symmetric, zero points; first dim its rows."""
        count, columns = rows.shape
        width = self.count(columns) * self.block_size
        if width != columns:
            rows = np.pad(rows, ((0, 0), (0, width - columns)))
        flat = rows.reshape(-1, self.block_size)
        code = _round_to_nearest
        if self.algorithm == "k_quant" and self.bits == 4:  # 8 are so fine that it gains nothing
            code = _searched
        data = np.empty((len(flat), self.block_bytes), np.uint8)
        scales = np.empty(len(flat), np.float32)
        zeros = np.empty(len(flat), np.uint8)
        step = max(1, _AT_ONCE // self.block_size)
        for at in range(0, len(flat), step):
            # Blocks as columns: what is done to all of a block is then done to long rows.
            turned = np.ascontiguousarray(flat[at : at + step].T)
            codes, scales[at : at + step], zeros[at : at + step] = code(self, turned)
            data[at : at + step] = (codes if self.bits == 8 else _packed(codes, axis=0)).T
        found = (data.reshape(self.data_dims(count, columns)), scales.reshape(count, -1))
        if self.symmetric:
            return found
        points = zeros.reshape(count, -1)
        return (*found, points if self.bits == 8 else _packed(points, axis=1))


def _packed(codes: Codes, *, axis: int) -> Codes:
    """Two codes of 4 bits to a byte along an axis, the first in the lower half."""
    if codes.shape[axis] % 2:  # the last byte's upper half stands for none
        codes = np.pad(codes, [(0, 1) if i == axis else (0, 0) for i in range(codes.ndim)])
    turned = codes.swapaxes(0, axis)
    both = turned[0::2] | turned[1::2] << np.uint8(4)
    packed: Codes = np.ascontiguousarray(both.swapaxes(0, axis))
    return packed


def _round_to_nearest(blocks: BlockFormat, turned: Floats) -> Parts:
    """Codes by the block's largest magnitude, or by its span when there is a zero point."""
    middle, top = np.float32(2 ** (blocks.bits - 1)), np.float32(2**blocks.bits - 1)
    high = np.maximum(turned.max(axis=0), np.float32(0))
    low = np.minimum(turned.min(axis=0), np.float32(0))
    if blocks.symmetric:
        # The largest magnitude takes the end that reaches further, so its code is the lowest.
        scales = np.where(high > -low, high, low) / -middle
        zeros = np.full_like(scales, middle)
    else:
        scales = (high - low) / top
        safe = np.where(scales != 0, scales, np.float32(1))
        zeros = np.floor(np.clip(-low / safe, np.float32(0), top) + _BELOW_HALF)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scales
    inverse[~np.isfinite(inverse)] = 0  # a block of zeros, or of values hardly larger
    values = turned * inverse
    values += zeros
    np.clip(values, 0, top, out=values)
    values += _BELOW_HALF
    return values.astype(np.uint8), scales, zeros.astype(np.uint8)


def _searched(blocks: BlockFormat, turned: Floats) -> Parts:
    """Codes by the scale, of several, that loses least; large values count more."""
    high, low = turned.max(axis=0), turned.min(axis=0)
    size = np.maximum(high, -low)
    nothing = size < _LEAST
    size[nothing] = 1
    values = turned / size  # so that no square can overflow
    values[:, nothing] = 0
    search = _Search(values)
    if blocks.symmetric:
        # The largest magnitude takes the end that reaches further, so its code is negative.
        sign = np.where(high > -low, np.float32(-1), np.float32(1))
        zeros = np.full_like(size, 8)
        for step in range(-_STEPS, _STEPS + 1):
            search.consider(sign * np.float32(8 + 0.1 * step), zeros)
    else:
        high = np.maximum(values.max(axis=0), np.float32(0))
        low = np.minimum(values.min(axis=0), np.float32(0))
        span = np.where(high > low, high - low, np.float32(1))
        for part in _SPANS:
            inverse = np.float32(15) / (span * part)
            search.consider(inverse, np.clip(np.rint(-low * inverse), 0, 15))
    codes = search.codes(search.inverse, search.zeros) + search.zeros
    return codes.astype(np.uint8), search.scales * size, search.zeros.astype(np.uint8)


class _Search:
    """Finds for each block, a column of `values`, the scale and zero point that lose least.

    For fixed codes q the weighted squared error is least at the scale sum(w x q) / sum(w q q), and
    it is then smaller by sum(w x q)^2 / sum(w q q) than that of all zeros: the gain compared here.
    """

    def __init__(self, values: Floats) -> None:
        self._values = values
        # What an error in a weight costs, as llama.cpp weighs it without knowing activations.
        self._weights = np.abs(values) + np.sqrt((values * values).mean(axis=0))
        self._weighted = self._weights * values
        count = values.shape[1]
        self._gains = np.full(count, -1, np.float32)
        self.scales = np.zeros(count, np.float32)
        self.inverse = np.zeros(count, np.float32)
        self.zeros = np.zeros(count, np.float32)

    def codes(self, inverse: Floats, zeros: Floats) -> Floats:
        """Codes less their zero points."""
        codes = self._values * inverse
        np.rint(codes, out=codes)
        np.maximum(codes, -zeros, out=codes)
        np.minimum(codes, 15 - zeros, out=codes)
        return codes

    def consider(self, inverse: Floats, zeros: Floats) -> None:
        """Takes over one over a scale, and zero points, where they are better."""
        codes = self.codes(inverse, zeros)
        along = np.einsum("ij,ij->j", self._weighted, codes)
        np.multiply(codes, codes, out=codes)
        across = np.einsum("ij,ij->j", self._weights, codes)
        safe = np.where(across > 0, across, np.float32(1))
        gains = along * along / safe
        better = gains > self._gains
        for best, found in (
            (self._gains, gains),
            (self.scales, along / safe),
            (self.inverse, inverse),
            (self.zeros, zeros),
        ):
            np.copyto(best, found, where=better)
