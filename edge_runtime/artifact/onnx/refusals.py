"""Graphs of language models that cannot be run here whatever their config says, and why.

What gives them away is an operator, or an input that nobody with a text can fill. It knows what
exporters make, and no sizes.
"""

from __future__ import annotations

import re

from ...errors import UnsupportedError
from .graph import OnnxGraph
from .ports import ValueInfo

_SECOND_TEXTS = ("encoder_hidden_states", "encoder_outputs", "decoder_input_ids")
_PAST = re.compile(
    r"(?:^|[._/])past(?:$|[._/])|^past_|^(?:conv|ssm|recurrent|cache)_?stat", re.IGNORECASE
)
_STATES = re.compile(r"conv|ssm|recurrent|mamba|state", re.IGNORECASE)
_FLOATS = ("FP32", "FP16", "BFLOAT16")
EXPORT_AGAIN = (
    "Export it with its cache: optimum's task text-generation-with-past, or edge convert."
)


def refuse_foreign(graph: OnnxGraph) -> None:
    """Raises UnsupportedError for a graph that reads two texts, or keeps another kind of past."""
    name = graph.path.name
    inputs = {value.name for value in graph.inputs}
    second = next((n for n in _SECOND_TEXTS if n in inputs), None)
    if second is not None:
        raise UnsupportedError(
            f"{name} is one half of a model that reads one text and writes another.",
            cause=f"It takes {second}.",
            way_out="Give a decoder, or a model for embeddings.",
        )
    if any(node.op == "PagedAttention" for node in graph.nodes):
        raise UnsupportedError(
            f"{name} keeps its cache in pages, as servers do.",
            cause="Its attention is the operator PagedAttention, which serves many texts at once.",
            way_out="Build it again without paged attention.",
        )
    for value in graph.inputs:
        if value.type in _FLOATS and _PAST.search(value.name) is not None:
            _refuse_memory(name, value)


def _refuse_memory(name: str, value: ValueInfo) -> None:
    if _STATES.search(value.name) is not None:
        raise UnsupportedError(
            f"{name} keeps another memory than keys and values: {value.name}.",
            cause="States of convolutions or recurrences cannot be cut back to an earlier token,"
            " and are not run here.",
            way_out="Run it with onnxruntime-genai, or look for the model as GGUF.",
        )
    if len(value.dims) != 4:
        raise UnsupportedError(
            f"{name} keeps its cache in a layout that is not known: {value.name}.",
            cause=f"It has {len(value.dims)} dimensions; batch, heads, tokens and width were"
            " expected.",
            way_out=EXPORT_AGAIN,
        )
