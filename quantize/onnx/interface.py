"""What goes into a decoder's graph and what comes out: names, types and dims.

They are those onnxruntime-genai gives and takes, and two inputs more that need not be given, since
they have defaults. Knows nothing of what lies between.
"""

from __future__ import annotations

from edge_runtime.artifact import ModelShape

from ..writers.onnx import Element, Initializer, Value

LAST_ONLY = "num_logits_to_keep"
"""An input with a default: of how many positions at the end logits are wanted, 0 for all."""

WHOLE_LENGTH = "rotary_tokens"
"""An input with a default, of models that turn long contexts otherwise than short ones: how long
the context will be, so that a prompt given in chunks is turned as the whole is; 0 when unknown."""


def inputs_of(shape: ModelShape, element: Element) -> tuple[Value, ...]:
    """The graph's inputs; those after the cache have defaults and need not be given."""
    optional = [LAST_ONLY]
    if shape.rope_scaling is not None and shape.rope_scaling.kind == "longrope":
        optional.append(WHOLE_LENGTH)
    return (
        Value(name="input_ids", element=Element.INT64, dims=("batch", "sequence")),
        Value(name="attention_mask", element=Element.INT64, dims=("batch", "total")),
        *_cache(shape, element, "past_key_values", "past"),
        *(Value(name=name, element=Element.INT64, dims=()) for name in optional),
    )


def outputs_of(shape: ModelShape, element: Element) -> tuple[Value, ...]:
    """The graph's outputs. Logits are float32 whatever the activations are."""
    return (
        Value(
            name="logits",
            element=Element.FLOAT,
            dims=("batch", "positions", shape.vocabulary_tokens),
        ),
        *_cache(shape, element, "present", "total"),
    )


def _cache(shape: ModelShape, element: Element, name: str, length: str) -> tuple[Value, ...]:
    return tuple(
        Value(
            name=f"{name}.{layer}.{part}",
            element=element,
            dims=("batch", shape.kv_heads, length, shape.head_dim),
        )
        for layer in range(shape.layers)
        for part in ("key", "value")
    )


def unless_given(name: str) -> Initializer:
    """The default of an input that need not be given: zero."""
    return Initializer(name=name, element=Element.INT64, dims=(), data=bytes(8))
