"""The metadata every artifact made here begins with: what it is, at which level, of which shape."""

from __future__ import annotations

from edge_runtime.artifact import Level, ModelShape, ValueType
from edge_runtime.artifact.keys import metadata_of

from .writers.gguf import Value

QUANTIZATION_VERSION = 2
"""The version of ggml's block layouts (GGML_QNT_VERSION)."""


def general_metadata(shape: ModelShape, recipe: Level) -> dict[str, Value]:
    """Returns the `general.*` keys."""
    return {
        "general.architecture": shape.architecture,
        "general.type": "model",
        "general.name": shape.name,
        "general.file_type": recipe.ftype,
        "general.quantization_version": QUANTIZATION_VERSION,
    }


def model_metadata(shape: ModelShape, recipe: Level) -> dict[str, Value]:
    """Returns the general keys and those of the architecture that follow from a shape alone."""
    metadata = general_metadata(shape, recipe)
    for key, kind, value in metadata_of(shape):
        # A whole number where the format wants a float would be stored as an integer; the kind of a
        # pair says what its value is, which the type checker cannot follow.
        metadata[key] = float(value) if kind is ValueType.FLOAT32 else value  # type: ignore[arg-type]
    return metadata
