"""Rows to tensor bytes, for the types that need no search: F32, F16, BF16 and Q8_0.

Bit for bit what ggml's C code gives (a test compares). Values a type cannot hold are refused, never
written as infinity. Everything below 8 bits is llama.cpp's quantizer's work, in `requantization`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import FormatError

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint16]
Encoded = npt.NDArray[Any]
"""Bytes of a tensor's rows, as an array of whatever they are made of; C-contiguous."""

_AT_ONCE = 1 << 16
"""Elements worked on at once: what is made of them on the way stays in the processor's cache."""

_Q8_0_BLOCK = 32
_BELOW_HALF = np.float32(0.49999997)  # the largest float32 below one half

# Bits of the 16-bit formats without their sign: from here on they are no finite numbers.
_INFINITY = MappingProxyType({"F16": 0x7C00, "BF16": 0x7F80})
_MAGNITUDE = np.uint16(0x7FFF)
_SIGN = np.uint16(0x8000)
_BF16_LEAST_NORMAL_F16 = 0x3880  # 2^-14
_BF16_LEAST_ABOVE_F16 = 0x4780  # 2^16; the number before it is 65280


def widen(dtype: str, raw: npt.NDArray[Any]) -> Floats:
    """Returns stored values as float32: exact but for F64, which is rounded to nearest.

    bfloat16 is given as the uint16 of its bits: the upper half of a float32.
    """
    if dtype == "BF16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(over="ignore"):  # what is not finite is refused where it is written, by name
        return raw.astype(np.float32, copy=False)


def encode(type_name: str, name: str, rows: Floats) -> Encoded:
    """Returns rows of a tensor in a type's bytes; `rows` has shape (rows, row length).

    Raises FormatError naming the tensor when a value is no number or does not fit the type.
    """
    encoded = ENCODERS[type_name](np.ascontiguousarray(rows))
    if encoded is None:
        _refuse(type_name, name, rows)
    return encoded


def transcode(type_name: str, name: str, dtype: str, raw: npt.NDArray[Any]) -> Encoded:
    """Returns rows as a file stores them in a type's bytes, by the shortest exact way.

    Values that have the type already are taken as they are. Raises as `encode` does.
    """
    raw = np.ascontiguousarray(raw)
    count = max(1, _AT_ONCE // max(raw.shape[-1], 1))
    pieces = [raw[first : first + count] for first in range(0, len(raw), count)]
    if type_name == dtype:
        for piece in pieces:
            _require_finite(name, dtype, piece)
        return raw
    encoded = [_transcode(type_name, name, dtype, piece) for piece in pieces]
    return encoded[0] if len(encoded) == 1 else np.concatenate(encoded)


def _transcode(type_name: str, name: str, dtype: str, raw: npt.NDArray[Any]) -> Encoded:
    if (dtype, type_name) == ("BF16", "F16"):
        halves = _halves_of_bf16(raw)
        if halves is not None:
            return halves
    return encode(type_name, name, widen(dtype, raw))


def _require_finite(name: str, dtype: str, raw: npt.NDArray[Any]) -> None:
    if dtype in _INFINITY:
        finite = _largest(raw.view(np.uint16)) < _INFINITY[dtype]
    else:
        finite = _f32(raw) is not None
    if not finite:
        _refuse(dtype, name, widen(dtype, raw))


def _refuse(type_name: str, name: str, rows: Floats) -> NoReturn:
    largest = float(np.abs(rows).max(initial=0.0))
    if not np.isfinite(largest):
        raise FormatError(
            f"The tensor {name} holds values that are no finite numbers.",
            cause="The checkpoint is damaged or its training diverged.",
            way_out="Download it again, or take an earlier revision of it.",
        )
    raise FormatError(
        f"The tensor {name} holds {largest:.4g}, too large for {type_name}.",
        way_out="Convert to F32, or to BF16 where that holds it: --level BF16",
    )


def _largest(words: Words) -> int:
    """The largest magnitude among 16-bit floats, as the bits of it."""
    return int((words & _MAGNITUDE).max(initial=0))


def _halves_of_bf16(words: Words) -> Words | None:
    """bfloat16 to half precision in integers; None when a value is too large or no number.

    A bfloat16 has fewer digits than a half, so only halves below the normal ones need rounding:
    there the two are widened and rounded as any float32 is.
    """
    magnitude = words & _MAGNITUDE
    if int(magnitude.max(initial=0)) >= _BF16_LEAST_ABOVE_F16:
        return None
    small = np.flatnonzero(magnitude < np.uint16(_BF16_LEAST_NORMAL_F16))
    if len(small) > words.size // 16:  # one by one they would take longer than all
        return widen("BF16", words).astype(np.float16).view(np.uint16)
    # Exponents are counted from 127 in one and from 15 in the other; three more digits follow.
    magnitude <<= np.uint16(3)
    magnitude -= np.uint16((112 << 10) & 0xFFFF)
    magnitude &= _MAGNITUDE
    magnitude |= words & _SIGN
    rounded = widen("BF16", words.reshape(-1)[small]).astype(np.float16)
    magnitude.reshape(-1)[small] = rounded.view(np.uint16)
    return magnitude


def _f32(rows: Floats) -> Encoded | None:
    # The sum of two extremes tells all: numpy passes on what is no number.
    low, high = float(rows.min(initial=0.0)), float(rows.max(initial=0.0))
    return rows if np.isfinite(low) and np.isfinite(high) else None


def _f16(rows: Floats) -> Encoded | None:
    with np.errstate(over="ignore"):
        words = rows.astype("<f2").view(np.uint16)
    return words if _largest(words) < _INFINITY["F16"] else None


def _bf16(rows: Floats) -> Encoded | None:
    bits = rows.view(np.uint32)
    # Round to nearest, ties to even: half of what is cut off, less one where what stays is even.
    rounding = bits >> np.uint32(16)
    rounding &= np.uint32(1)
    rounding += np.uint32(0x7FFF)
    rounding += bits
    rounding >>= np.uint32(16)
    words = rounding.astype(np.uint16)
    # Rounding can carry the bits of what is no number past the sign.
    low, high = float(rows.min(initial=0.0)), float(rows.max(initial=0.0))
    finite = np.isfinite(low) and np.isfinite(high)
    return words if finite and _largest(words) < _INFINITY["BF16"] else None


def _q8_0(rows: Floats) -> Encoded | None:
    blocks = rows.reshape(-1, _Q8_0_BLOCK)
    out = np.empty((len(blocks), 2 + _Q8_0_BLOCK), np.uint8)
    # Floats of one sign sort as the integers their bits are, and integers are compared faster;
    # what is no number sorts above all that are.
    scale = (blocks.view(np.int32) & np.int32(0x7FFFFFFF)).max(axis=1, keepdims=True)
    scale = scale.view(np.float32) / np.float32(127)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        halves = scale.astype("<f2")
        inverse = np.float32(1) / scale
    if _largest(halves.view(np.uint16)) >= _INFINITY["F16"]:
        return None
    # No inverse: a block of zeros, or of values whose scale is zero in half precision.
    inverse[~np.isfinite(inverse)] = 0
    values = blocks * inverse
    # C's roundf takes halves away from zero. Just less than a half is added, so that what lies just
    # below a half is not carried over it; the cast then cuts.
    rounding = values.view(np.uint32) & np.uint32(0x80000000)
    rounding |= _BELOW_HALF.view(np.uint32)
    values += rounding.view(np.float32)
    out[:, :2] = halves.view(np.uint8)
    np.copyto(out[:, 2:].view(np.int8), values, casting="unsafe")
    return out


ENCODERS: Mapping[str, Callable[[Floats], Encoded | None]] = MappingProxyType(
    {"F32": _f32, "F16": _f16, "BF16": _bf16, "Q8_0": _q8_0}
)
"""The types written here directly, by name. None is returned for values the type cannot hold."""
