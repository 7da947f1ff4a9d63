"""Quantization levels: the recipes llama.cpp offers, by the name people ask for them.

A level is not a tensor type: `Q4_K_M` mixes Q4_K, Q6_K and F32 tensors. Which tensor gets which
type is decided in `recipe`. File type numbers are those of `llama_ftype` in `llama.h`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import UnsupportedError
from .ggml import GGML_TYPES, GGMLType


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A quantization level.

    `ftype` is the number stored as `general.file_type`, `default` the type most matrices get.
    With `needs_imatrix` llama.cpp refuses to quantize real weights without an importance matrix.
    """

    name: str
    ftype: int
    default: GGMLType
    needs_imatrix: bool
    description: str

    @property
    def bits_per_weight(self) -> float:
        """Bits of storage for a weight of the main type, scales included; a model's mix differs."""
        return self.default.bits_per_element

    @property
    def block_elements(self) -> int:
        """Weights in one block of the main type; rows that are no multiple of it get another."""
        return self.default.block_elements

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of the main type."""
        return self.default.block_bytes

    @property
    def cost(self) -> int:
        """About how much CPU time quantizing to the main type takes, in units of Q4_0's."""
        return _COST.get(self.default.name, 1)


# name, ftype, default type, needs an importance matrix, description; largest first
_ROWS = (
    ("F32", 0, "F32", False, "single precision, twice the size of what models are published in"),
    ("BF16", 32, "BF16", False, "the precision most models are published in, no loss"),
    ("F16", 1, "F16", False, "half precision, practically no loss"),
    ("Q8_0", 7, "Q8_0", False, "8 bits, loss too small to notice"),
    ("Q6_K", 18, "Q6_K", False, "6 bits, very small loss"),
    ("Q5_1", 9, "Q5_1", False, "5 bits with offset, an older format"),
    ("Q5_K_M", 17, "Q5_K", False, "5 bits, sensitive tensors at 6, small loss"),
    ("Q5_K_S", 16, "Q5_K", False, "5 bits throughout, small loss"),
    ("Q5_0", 8, "Q5_0", False, "5 bits, an older format"),
    ("Q4_1", 3, "Q4_1", False, "4 bits with offset, an older format"),
    ("Q4_K_M", 15, "Q4_K", False, "4 bits, sensitive tensors at 6: the usual choice"),
    ("Q4_K_S", 14, "Q4_K", False, "4 bits, a few early tensors at 5"),
    ("IQ4_NL", 25, "IQ4_NL", False, "4 bits on a curved grid, blocks of 32"),
    ("Q4_0", 2, "Q4_0", False, "4 bits, the simplest and on many CPUs the fastest"),
    ("IQ4_XS", 30, "IQ4_XS", False, "4 bits on a curved grid, smaller than Q4_0"),
    ("Q3_K_L", 13, "Q3_K", False, "3 bits, sensitive tensors at 5, noticeable loss"),
    ("MXFP4_MOE", 38, "MXFP4", False, "4-bit floats for experts, everything else at 8 bits"),
    ("Q3_K_M", 12, "Q3_K", False, "3 bits, sensitive tensors at 4 and 5, noticeable loss"),
    ("IQ3_M", 27, "IQ3_S", False, "3 bits on a lattice, sensitive tensors at 4"),
    ("IQ3_S", 26, "IQ3_S", False, "3 bits on a lattice"),
    ("Q3_K_S", 11, "Q3_K", False, "3 bits throughout, large loss"),
    ("IQ3_XS", 22, "IQ3_S", True, "3 bits on a lattice, some tensors below"),
    ("IQ3_XXS", 23, "IQ3_XXS", True, "just above 3 bits on a lattice"),
    ("Q2_K", 10, "Q2_K", False, "2 bits, sensitive tensors at 3 and 4, large loss"),
    ("IQ2_M", 29, "IQ2_S", True, "between 2 and 3 bits on a lattice"),
    ("Q2_K_S", 21, "Q2_K", True, "2 bits throughout, very large loss"),
    ("IQ2_S", 28, "IQ2_XS", True, "about 2.5 bits on a lattice"),
    ("IQ2_XS", 20, "IQ2_XS", True, "about 2.3 bits on a lattice"),
    ("Q2_0", 41, "Q2_0", False, "2 bits without offset, blocks of 64; only for models trained so"),
    ("IQ2_XXS", 19, "IQ2_XXS", True, "just above 2 bits on a lattice"),
    ("TQ2_0", 37, "TQ2_0", False, "ternary, fast; only for models trained ternary"),
    ("IQ1_M", 31, "IQ1_M", True, "about 1.75 bits on a lattice"),
    ("TQ1_0", 36, "TQ1_0", False, "ternary, smallest; only for models trained ternary"),
    ("IQ1_S", 24, "IQ1_S", True, "about 1.6 bits on a lattice"),
    ("Q1_0", 40, "Q1_0", False, "signs alone, blocks of 128; only for models trained so"),
)

# Measured on one x86-64 core with llama.cpp's quantizer of llama-cpp-python 0.3.36: nanoseconds a
# weight with 7 for reading it, over those of Q4_0 (9.7), rounded. Types not named cost 1 or 2.
_COST = MappingProxyType(
    {
        "Q3_K": 3,
        "Q6_K": 5,
        "Q5_K": 8,
        "Q4_K": 10,
        "Q2_K": 10,
        "IQ1_M": 20,
        "IQ1_S": 20,
        "IQ2_S": 30,
        "IQ4_XS": 30,
        "IQ4_NL": 35,
        "IQ2_XXS": 40,
        "IQ3_S": 45,
        "IQ3_XXS": 70,
        "IQ2_XS": 100,
    }
)

LEVELS: Mapping[str, Level] = MappingProxyType(
    {
        name: Level(
            name=name,
            ftype=ftype,
            default=GGML_TYPES[default],
            needs_imatrix=needs_imatrix,
            description=description,
        )
        for name, ftype, default, needs_imatrix, description in _ROWS
    }
)
"""Every level, by name, largest first as a common 7B model comes out."""

LEVEL_OF_FTYPE: Mapping[int, Level] = MappingProxyType({lv.ftype: lv for lv in LEVELS.values()})
"""Levels by the number a file states as `general.file_type`."""


_ALIASES = MappingProxyType({f"Q{bits}_K": f"Q{bits}_K_M" for bits in (3, 4, 5)})
"""What `llama-quantize` takes for another name of a level."""


def level(name: str) -> Level:
    """The level of that name, in either case: `q4_k_m`. `Q4_K` is the usual one of its kind.

    Raises UnsupportedError with the nearest names, and all of them, for an unknown one.
    """
    wanted = name.strip().upper().replace("-", "_")
    wanted = _ALIASES.get(wanted, wanted)
    if wanted in LEVELS:
        return LEVELS[wanted]
    near = difflib.get_close_matches(wanted, LEVELS, n=2)
    raise UnsupportedError(
        f"There is no quantization level {name!r}.",
        cause=f"Nearest: {' or '.join(near)}." if near else "",
        way_out=f"Known: {', '.join(LEVELS)}.",
    )
