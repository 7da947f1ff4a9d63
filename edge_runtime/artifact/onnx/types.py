"""The element types of ONNX tensors by their numbers in `onnx.proto`, and names for stored weights.

Names are those of this program's ONNX levels (FP32, INT4), not GGUF's: what a type costs in one
engine says nothing of the other. It knows nothing of files or models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..ggml import GGMLType

NO_ID = -1
"""The id of a type that ggml does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementType:
    """How one number of a tensor is stored; elements below 8 bits are packed without gaps."""

    name: str
    id: int
    bits: int
    kind: str
    """`float`, `int` or `other`."""

    def size_bytes(self, elements: int) -> int:
        """The bytes of so many elements."""
        return -(-self.bits * elements // 8)


# name, number, bits, kind
_ROWS = (
    ("FP32", 1, 32, "float"),
    ("UINT8", 2, 8, "int"),
    ("INT8", 3, 8, "int"),
    ("UINT16", 4, 16, "int"),
    ("INT16", 5, 16, "int"),
    ("INT32", 6, 32, "int"),
    ("INT64", 7, 64, "int"),
    ("STRING", 8, 0, "other"),
    ("BOOL", 9, 8, "other"),
    ("FP16", 10, 16, "float"),
    ("FP64", 11, 64, "float"),
    ("UINT32", 12, 32, "int"),
    ("UINT64", 13, 64, "int"),
    ("COMPLEX64", 14, 64, "other"),
    ("COMPLEX128", 15, 128, "other"),
    ("BFLOAT16", 16, 16, "float"),
    ("FP8_E4M3", 17, 8, "float"),
    ("FP8_E4M3_UZ", 18, 8, "float"),
    ("FP8_E5M2", 19, 8, "float"),
    ("FP8_E5M2_UZ", 20, 8, "float"),
    ("UINT4", 21, 4, "int"),
    ("INT4", 22, 4, "int"),
    ("FP4_E2M1", 23, 4, "float"),
    ("FP8_E8M0", 24, 8, "float"),
    ("UINT2", 25, 2, "int"),
    ("INT2", 26, 2, "int"),
    ("FP6_E2M3", 27, 6, "float"),
    ("FP6_E3M2", 28, 6, "float"),
)

ELEMENT_TYPES: Mapping[int, ElementType] = MappingProxyType(
    {number: ElementType(name=n, id=number, bits=bits, kind=k) for n, number, bits, k in _ROWS}
)
"""Every element type known here, by its number in a file."""


def plain_type(element: ElementType) -> GGMLType:
    """The stored type of a tensor that is not made of blocks."""
    together = 8 // math.gcd(8, element.bits) if element.bits else 1
    return GGMLType(
        name=element.name,
        id=NO_ID,
        block_elements=together,
        block_bytes=together * element.bits // 8,
    )


def block_type(
    name: str, *, bits: int, block_elements: int, scale_bits: int, offset_bits: int
) -> GGMLType:
    """The stored type of blocks of integers with a scale each, and perhaps an offset.

    Several make one unit where the bits of one are no whole number of bytes.
    """
    each = bits * block_elements + scale_bits + offset_bits
    blocks = 8 // math.gcd(8, each)
    return GGMLType(
        name=name,
        id=NO_ID,
        block_elements=blocks * block_elements,
        block_bytes=blocks * each // 8,
    )
