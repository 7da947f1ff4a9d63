"""The numbers of the GGML world: tensor types with their block sizes, and GGUF value types.

Ids and sizes are those of `ggml.h` and of the GGUF specification. This module knows nothing of
files, models or how values are packed inside a block.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import FormatError, UnsupportedError


class ValueType(enum.IntEnum):
    """The type of a metadata value in a GGUF file, by its number there."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class GGMLType:
    """How a tensor's elements are stored: blocks of `block_elements` taking `block_bytes` each."""

    name: str
    id: int
    block_elements: int
    block_bytes: int

    @property
    def bits_per_element(self) -> float:
        """Storage of one element in bits, scales included: 4.5 for Q4_K."""
        return 8 * self.block_bytes / self.block_elements

    def row_bytes(self, elements: int) -> int:
        """The bytes of one row of `elements`.

        Raises FormatError when the row is no whole number of blocks.
        """
        blocks, rest = divmod(elements, self.block_elements)
        if rest:
            raise FormatError(
                f"A row of {elements} elements cannot be stored as {self.name}.",
                cause=f"Its blocks hold {self.block_elements} elements each.",
            )
        return blocks * self.block_bytes

    def size_bytes(self, dims: tuple[int, ...]) -> int:
        """The bytes of a tensor of `dims`, row length first.

        Raises FormatError when a row is no whole number of blocks.
        """
        total = self.row_bytes(dims[0]) if dims else self.row_bytes(1)
        for count in dims[1:]:
            total *= count
        return total


# name, id, elements per block, bytes per block
_ROWS = (
    ("F32", 0, 1, 4),
    ("F16", 1, 1, 2),
    ("Q4_0", 2, 32, 18),
    ("Q4_1", 3, 32, 20),
    ("Q5_0", 6, 32, 22),
    ("Q5_1", 7, 32, 24),
    ("Q8_0", 8, 32, 34),
    ("Q8_1", 9, 32, 40),
    ("Q2_K", 10, 256, 84),
    ("Q3_K", 11, 256, 110),
    ("Q4_K", 12, 256, 144),
    ("Q5_K", 13, 256, 176),
    ("Q6_K", 14, 256, 210),
    ("Q8_K", 15, 256, 292),
    ("IQ2_XXS", 16, 256, 66),
    ("IQ2_XS", 17, 256, 74),
    ("IQ3_XXS", 18, 256, 98),
    ("IQ1_S", 19, 256, 50),
    ("IQ4_NL", 20, 32, 18),
    ("IQ3_S", 21, 256, 110),
    ("IQ2_S", 22, 256, 82),
    ("IQ4_XS", 23, 256, 136),
    ("I8", 24, 1, 1),
    ("I16", 25, 1, 2),
    ("I32", 26, 1, 4),
    ("I64", 27, 1, 8),
    ("F64", 28, 1, 8),
    ("IQ1_M", 29, 256, 56),
    ("BF16", 30, 1, 2),
    ("TQ1_0", 34, 256, 54),
    ("TQ2_0", 35, 256, 66),
    ("MXFP4", 39, 32, 17),
    ("NVFP4", 40, 64, 36),
    ("Q1_0", 41, 128, 18),
    ("Q2_0", 42, 64, 18),
)

GGML_TYPES: Mapping[str, GGMLType] = MappingProxyType(
    {
        name: GGMLType(name=name, id=number, block_elements=elements, block_bytes=size)
        for name, number, elements, size in _ROWS
    }
)
"""Every tensor type a GGUF file may hold, by name."""

_BY_ID = {kind.id: kind for kind in GGML_TYPES.values()}


def ggml_type(number: int) -> GGMLType:
    """The tensor type of that number in `ggml.h`.

    Raises UnsupportedError for a number that is unknown or was withdrawn.
    """
    try:
        return _BY_ID[number]
    except KeyError:
        raise UnsupportedError(
            f"Tensor type {number} is not known.",
            cause="It is newer than this version, was withdrawn, or the file is damaged.",
            way_out="Convert the model again, or update edge-runtime.",
        ) from None


def tensor_type(name: str) -> GGMLType:
    """The tensor type of that name, in either case: `Q4_K`, `f16`.

    Raises UnsupportedError for an unknown name.
    """
    try:
        return GGML_TYPES[name.upper()]
    except KeyError:
        raise UnsupportedError(
            f"There is no tensor type {name!r}.", way_out=f"Known: {', '.join(GGML_TYPES)}."
        ) from None
