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
    ("IQ2_XXS", 19, "IQ2_XXS", True, "just above 2 bits on a lattice"),
    ("TQ2_0", 37, "TQ2_0", False, "ternary, fast; only for models trained ternary"),
    ("IQ1_M", 31, "IQ1_M", True, "about 1.75 bits on a lattice"),
    ("TQ1_0", 36, "TQ1_0", False, "ternary, smallest; only for models trained ternary"),
    ("IQ1_S", 24, "IQ1_S", True, "about 1.6 bits on a lattice"),
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


def level(name: str) -> Level:
    """The level of that name, in either case: `q4_k_m`.

    Raises UnsupportedError with the nearest names, and all of them, for an unknown one.
    """
    wanted = name.strip().upper().replace("-", "_")
    if wanted in LEVELS:
        return LEVELS[wanted]
    near = difflib.get_close_matches(wanted, LEVELS, n=2)
    raise UnsupportedError(
        f"There is no quantization level {name!r}.",
        cause=f"Nearest: {' or '.join(near)}." if near else "",
        way_out=f"Known: {', '.join(LEVELS)}.",
    )
