"""Float32 rows to tensor bytes, for the types that need no search: F32, F16, BF16 and Q8_0.

Bit for bit what ggml's C code gives (a test compares). Values a type cannot hold are refused, never
written as infinity. Everything below 8 bits is llama.cpp's quantizer's work, in `requantization`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import FormatError

Floats = npt.NDArray[np.float32]

_F16_MAX = 65504.0
_BF16_MAX = 3.3895e38
_Q8_0_BLOCK = 32


def encode(type_name: str, name: str, rows: Floats) -> bytes:
    """Returns rows of a tensor in a type's bytes; `rows` has shape (rows, row length).

    Raises FormatError naming the tensor when a value is no number or does not fit the type.
    """
    low, high = float(rows.min(initial=0.0)), float(rows.max(initial=0.0))
    if not np.isfinite(low) or not np.isfinite(high):
        raise FormatError(
            f"The tensor {name} holds values that are no finite numbers.",
            cause="The checkpoint is damaged or its training diverged.",
        )
    # A Q8_0 scale is the largest magnitude over 127, kept in half precision.
    limit = {"F16": _F16_MAX, "BF16": _BF16_MAX, "Q8_0": 127 * _F16_MAX}.get(type_name, np.inf)
    if max(high, -low) > limit:
        raise FormatError(
            f"The tensor {name} holds {max(high, -low):.4g}, too large for {type_name}.",
            way_out="Convert to F32, or to BF16 where that holds it.",
        )
    return ENCODERS[type_name](rows)


def _f32(rows: Floats) -> bytes:
    return rows.astype("<f4", copy=False).tobytes()


def _f16(rows: Floats) -> bytes:
    return rows.astype("<f2").tobytes()


def _bf16(rows: Floats) -> bytes:
    bits = np.ascontiguousarray(rows).view(np.uint32)
    # Round to nearest, ties to even: half of what is cut off, less one where what stays is even.
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2").tobytes()


def _q8_0(rows: Floats) -> bytes:
    blocks = rows.reshape(-1, _Q8_0_BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    # No inverse: a block of zeros, or of values whose scale is zero in half precision.
    values = blocks * np.where(np.isfinite(inverse), inverse, np.float32(0))
    # C's roundf takes halves away from zero, numpy's rint to the even neighbour.
    whole = np.trunc(values)
    whole += np.trunc(2 * (values - whole))
    out = np.empty((len(blocks), 2 + _Q8_0_BLOCK), np.uint8)
    out[:, :2] = scale.astype("<f2").view(np.uint8)
    out[:, 2:] = whole.astype(np.int8).view(np.uint8)
    return out.tobytes()


ENCODERS: Mapping[str, Callable[[Floats], bytes]] = MappingProxyType(
    {"F32": _f32, "F16": _f16, "BF16": _bf16, "Q8_0": _q8_0}
)
"""The types written here directly, by name."""
