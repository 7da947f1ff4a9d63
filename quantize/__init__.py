"""Checkpoint or shape to artifact file: the three ways a model file comes into being here.

    convert     a Hugging Face checkpoint becomes a GGUF file or an ONNX folder
    requantize  a GGUF or an ONNX model of floats becomes a smaller one of its own format
    synthesize  a shape becomes one with random weights, to be timed and never to be read

And `calibrate` measures on a text what a GGUF model leans on, for `requantize` to spare that.

The level says which format: `Q4_K_M` is GGUF's, `onnx:int4` ONNX's. Each writes to a temporary
name, renames at the end and returns the `Artifact` read back from the disk. Names are resolved when
they are first used: importing this package loads the standard library only. It refuses to know how
an artifact is run or judged.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calibration import calibrate, check_apart
    from .formats import (
        convert,
        is_onnx_level,
        kept_layers,
        requantize,
        synthesize,
        synthetic_bytes,
    )
    from .onnx.algorithms import OnnxQuantizeOptions
    from .onnx.genai_builder import build_with_genai, genai_notes
    from .onnx.levels import ONNX_LEVELS, OnnxLevel, onnx_level
    from .onnx.requantization import requantize_onnx
    from .options import QuantizeOptions, levels, parse_tensor_type
    from .planning import QuantizePlan, TensorPlan, plan

_HOMES = {
    "ONNX_LEVELS": ".onnx.levels",
    "OnnxLevel": ".onnx.levels",
    "OnnxQuantizeOptions": ".onnx.algorithms",
    "QuantizeOptions": ".options",
    "QuantizePlan": ".planning",
    "TensorPlan": ".planning",
    "build_with_genai": ".onnx.genai_builder",
    "calibrate": ".calibration",
    "check_apart": ".calibration",
    "convert": ".formats",
    "genai_notes": ".onnx.genai_builder",
    "is_onnx_level": ".formats",
    "kept_layers": ".formats",
    "levels": ".options",
    "onnx_level": ".onnx.levels",
    "parse_tensor_type": ".options",
    "plan": ".planning",
    "requantize": ".formats",
    "requantize_onnx": ".onnx.requantization",
    "synthesize": ".formats",
    "synthetic_bytes": ".formats",
}

__all__ = [
    "build_with_genai",
    "calibrate",
    "check_apart",
    "convert",
    "genai_notes",
    "is_onnx_level",
    "kept_layers",
    "levels",
    "onnx_level",
    "parse_tensor_type",
    "plan",
    "requantize",
    "requantize_onnx",
    "synthesize",
    "synthetic_bytes",
    "ONNX_LEVELS",
    "OnnxLevel",
    "OnnxQuantizeOptions",
    "QuantizeOptions",
    "QuantizePlan",
    "TensorPlan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
