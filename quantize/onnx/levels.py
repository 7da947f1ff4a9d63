"""The levels an ONNX model can be written at: what its matrices are stored as, in blocks of what.

A level says nothing of any one model. Names are `fp32`, `fp16`, `int8` and `int4`; a command line
writes them behind `onnx:`. It refuses to know how blocks are made.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from edge_runtime.errors import UnsupportedError, UsageError

BLOCK_SIZES = (16, 32, 64, 128, 256)
"""Weights that may share a scale: what MatMulNBits takes."""
ACCURACY_LEVELS = (0, 1, 2, 3, 4)
"""What activations may be rounded to while computing, by MatMulNBits's numbers: 0 leaves it to the
engine, 1 float32, 2 float16, 3 bfloat16, 4 int8."""

Algorithm = Literal["rtn", "k_quant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxLevel:
    """What matrices are stored as: `bits` 32 and 16 are floats, 8 and 4 integers with scales.

    `head_bits` and `embedding_bits` are those of the output matrix and of the embedding, where
    they differ; an embedding of 16 is floats, which loses nothing and is not shared with the
    output matrix. `symmetric` blocks have no zero point. `sensitive_bits`, where given, are those
    of the matrices that lose most, in the layers llama.cpp's Q4_K_M gives more bits as well.
    """

    name: str
    bits: int
    block_size: int = 32
    symmetric: bool = True
    accuracy_level: int = 4
    algorithm: Algorithm = "rtn"
    head_bits: int | None = None
    embedding_bits: int | None = None
    sensitive_bits: int | None = None

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.block_size, BLOCK_SIZES, "block size"),
            (self.accuracy_level, ACCURACY_LEVELS, "accuracy level"),
            (self.algorithm, ("rtn", "k_quant"), "algorithm"),
            (self.embedding_bits, (None, 4, 8, 16), "number of bits"),
            *(
                (bits, (None, 4, 8), "number of bits")
                for bits in (self.head_bits, self.sensitive_bits)
            ),
        ):
            if value not in known:
                raise UsageError(
                    f"The {what} {value!r} is not offered.",
                    way_out=f"Choose one of {', '.join(str(k) for k in known if k is not None)}.",
                )

    @property
    def quantized(self) -> bool:
        """Whether matrices are stored as integers."""
        return self.bits < 16

    def with_options(self, **options: object) -> OnnxLevel:
        """The level with some of its fields changed.

        Raises UsageError for values that are not offered, and at levels of floats.
        """
        if not options:
            return self
        if not self.quantized:
            raise UsageError(
                f"{self.name} has no {', '.join(sorted(options))} to choose.",
                cause="Its matrices are stored as floats.",
                way_out="Choose int4 or int8, or leave the options out.",
            )
        return dataclasses.replace(self, **options)  # type: ignore[arg-type] # checked when made


ONNX_LEVELS: Mapping[str, OnnxLevel] = MappingProxyType(
    {
        level.name: level
        for level in (
            OnnxLevel(name="fp32", bits=32),
            OnnxLevel(name="fp16", bits=16),
            OnnxLevel(name="int8", bits=8),
            OnnxLevel(name="int4", bits=4),
        )
    }
)
"""Every level by its name."""

USES: Mapping[str, str] = MappingProxyType(
    {
        "fp32": "floats of 32 bits: to compare others with",
        "fp16": "floats of 16 bits: for providers that compute in half precision, GPUs and NPUs",
        "int8": "8 bits in blocks of 32: hardly to be told from fp32",
        "int4": "4 bits in blocks of 32: the smallest, and on most processors the fastest",
    }
)
"""What each level is for."""


def onnx_level(name: str) -> OnnxLevel:
    """The level of a name, with or without `onnx:` before it, in any case.

    Raises UnsupportedError naming the nearest.
    """
    short = name.lower().removeprefix("onnx:")
    try:
        return ONNX_LEVELS[short]
    except KeyError:
        near = difflib.get_close_matches(short, ONNX_LEVELS, n=1)
        raise UnsupportedError(
            f"There is no ONNX level {name[:40]!r}.",
            cause=f"Nearest: {near[0]}." if near else "",
            way_out=f"Known: {', '.join(ONNX_LEVELS)}.",
        ) from None
