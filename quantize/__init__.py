"""Checkpoint or shape to artifact file: the three ways a model file comes into being here.

    convert     a Hugging Face checkpoint becomes a GGUF
    requantize  a GGUF becomes a smaller one, by llama.cpp's own quantizer
    synthesize  a shape becomes a GGUF with random weights, to be timed and never to be read

Each writes to a temporary name, renames at the end and returns the `Artifact` read back from the
disk. Names are resolved when they are first used: importing this package loads the standard library
only. It refuses to know how an artifact is run or judged.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conversion import convert
    from .options import QuantizeOptions, levels, parse_tensor_type
    from .planning import QuantizePlan, TensorPlan, plan
    from .requantization import requantize
    from .synthesis import kept_layers, synthesize, synthetic_bytes

_HOMES = {
    "QuantizeOptions": ".options",
    "QuantizePlan": ".planning",
    "TensorPlan": ".planning",
    "convert": ".conversion",
    "kept_layers": ".synthesis",
    "levels": ".options",
    "parse_tensor_type": ".options",
    "plan": ".planning",
    "requantize": ".requantization",
    "synthesize": ".synthesis",
    "synthetic_bytes": ".synthesis",
}

__all__ = [
    "convert",
    "kept_layers",
    "levels",
    "parse_tensor_type",
    "plan",
    "requantize",
    "synthesize",
    "synthetic_bytes",
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
