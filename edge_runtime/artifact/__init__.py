"""What a model file is, and what shape the model in it has: everything knowable without an engine.

`Artifact.open` reads a GGUF file's header; `ModelShape` says what a model weighs, at any
quantization level, from a header, a `config.json` or a catalogue entry. This package reads model
files and configs; it writes none, times nothing and decides nothing.
"""

from .artifact import LAYERS_OF_MODEL_KEY, SYNTHETIC_KEY, Artifact
from .ggml import GGML_TYPES, GGMLType, ValueType, tensor_type
from .gguf import TensorInfo
from .levels import LEVELS, Level, level
from .recipe import types_for
from .shape import ModelShape, RopeScaling, TensorShape

__all__ = [
    "GGML_TYPES",
    "LAYERS_OF_MODEL_KEY",
    "LEVELS",
    "SYNTHETIC_KEY",
    "Artifact",
    "GGMLType",
    "Level",
    "ModelShape",
    "RopeScaling",
    "TensorInfo",
    "TensorShape",
    "ValueType",
    "level",
    "tensor_type",
    "types_for",
]
