"""How a finished ONNX model may be quantized: the level, the algorithm, and what each can choose.

It knows names and which go together; the work stands in `block_rewriting` and `official`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edge_runtime.errors import UnsupportedError, UsageError

from .levels import ACCURACY_LEVELS, BLOCK_SIZES, onnx_level

LEVELS: Mapping[str, str] = MappingProxyType(
    {
        "int4": "4 bits with a scale per block, weights only",
        "int8": "8 bits with a scale per block, weights only",
        "int8-dynamic": "8 bits per tensor, activations rounded as well; loses more",
    }
)
ALGORITHMS: Mapping[str, str] = MappingProxyType(
    {
        "rtn": "rounds to nearest",
        "k_quant": "searches scales that lose least, as llama.cpp does",
        "k_quant_mixed": "k_quant, with 8 bits for the output matrix and what loses most",
        "hqq": "fits zero points to the weights (needs torch)",
        "gptq": "lets later weights make up for earlier ones' errors, on a calibration text",
    }
)
OFFICIAL = ("hqq", "gptq")
"""Algorithms that onnxruntime.quantization computes; the others are computed here."""


def onnx_quantize_level(name: str) -> str:
    """The name of a level that a finished model can be quantized to, `onnx:` before it or not.

    Raises UnsupportedError for one it cannot, UsageError for an unknown one.
    """
    short = name.strip().lower().removeprefix("onnx:").replace("_", "-")
    if short in LEVELS:
        return short
    if short in ("fp32", "fp16", "f32", "f16", "bf16"):
        raise UnsupportedError(
            f"{name} is no level to quantize to.",
            cause="Its weights are floats.",
            way_out="Convert the checkpoint: edge convert FOLDER --to onnx --level fp16",
        )
    near = difflib.get_close_matches(short, LEVELS, n=1)
    raise UsageError(
        f"An ONNX model cannot be quantized to {name[:40]!r}.",
        cause=f"Nearest: {near[0]}." if near else "",
        way_out=f"Choose one of {', '.join(LEVELS)}.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxQuantizeOptions:
    """What may be chosen beside the level.

    `symmetric` None leaves it to the algorithm: without zero points for rtn and k_quant, with them
    for hqq and gptq. `exclude` names operators that stay floats. `calibration` is a text file, for
    gptq only.
    """

    algorithm: str = "rtn"
    block_size: int = 32
    symmetric: bool | None = None
    accuracy_level: int = 4
    exclude: tuple[str, ...] = ()
    calibration: Path | None = None

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.algorithm, tuple(ALGORITHMS), "algorithm"),
            (self.block_size, BLOCK_SIZES, "block size"),
            (self.accuracy_level, ACCURACY_LEVELS, "accuracy level"),
        ):
            if value not in known:
                raise UsageError(
                    f"The {what} {value!r} is not offered.",
                    way_out=f"Choose one of {', '.join(map(str, known))}.",
                )

    def check(self, level: str) -> None:
        """Refuses what does not go together. Raises UsageError."""
        dynamic = level == "int8-dynamic"
        if dynamic and self != OnnxQuantizeOptions(exclude=self.exclude):
            raise UsageError(
                "int8-dynamic has no algorithm, blocks or accuracy level to choose.",
                cause="It stores a scale for a whole tensor.",
                way_out="Leave the options out, or choose int8.",
            )
        if self.algorithm != "rtn" and level != "int4" and not dynamic:
            raise UsageError(
                f"{self.algorithm} is for int4.",
                cause="Eight bits are so fine that rounding to nearest loses nothing to it.",
                way_out="Write --level int4, or leave --algorithm out.",
            )
        if self.algorithm == "gptq" and self.calibration is None:
            raise UsageError(
                "gptq needs a calibration text.",
                cause="It weighs each error by what the model computes on real text.",
                way_out="Give a text file: --calibrate TEXT",
            )
        if self.algorithm != "gptq" and self.calibration is not None:
            raise UsageError(
                f"A calibration text has no effect on {self.algorithm}.",
                way_out="Leave --calibrate out, or write --algorithm gptq.",
            )
        if self.algorithm in OFFICIAL and self.symmetric:
            # Measured: onnxruntime's GPTQ rounds symmetric blocks to another grid in the end than
            # the one it spread errors for, and loses four times what rounding to nearest loses.
            raise UsageError(
                f"{self.algorithm} is offered with zero points only.",
                way_out="Leave --symmetric out, or choose k-quant.",
            )

    def bits(self, level: str) -> int:
        """The bits of a weight at a level."""
        return onnx_level(level.removesuffix("-dynamic")).bits
