"""An ONNX model as an `Artifact`: the graph, its data files and what lies beside them, in one.

It puts together what `graph`, `weights`, `shape` and `folder` know, and reads no weight.
"""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from types import MappingProxyType

from ...errors import UnsupportedError
from ..artifact import LAYERS_OF_MODEL_KEY, SYNTHETIC_KEY, Artifact
from ..shape import ModelShape
from .folder import (
    TOKENIZER_NAME,
    chat_template,
    genai_config,
    model_config,
    model_in,
    model_name,
    side_file,
)
from .graph import OnnxGraph, read_graph
from .shape import Stated, cache_bytes_per_token, cache_inputs, shape_of, token_input
from .weights import OUTPUT, Weights, weights_of

LEVEL_KEY = "edge_runtime.level"
"""Metadata of a graph: the level it was written at."""
NO_TOKENIZER = "none"


def open_onnx(path: Path) -> Artifact:
    """Reads what an ONNX model and the configs beside it say.

    Raises ModelNotFoundError, FormatError or UnsupportedError, the last one also for a sound model
    that is none of language.
    """
    model = model_in(path) if path.is_dir() else path
    graph = read_graph(model)
    stated = stated_beside(model)
    tokens = token_input(graph, stated)
    if tokens is None:
        raise _no_language_model(graph)
    weights = weights_of(graph, tokens)
    caches = cache_inputs(graph, stated)
    shape = shape_of(
        graph,
        weights,
        caches,
        stated,
        name=model_name(model),
        layers_of_model=_count(graph.metadata_props.get(LAYERS_OF_MODEL_KEY)),
    )
    metadata = {
        "metadata_props": dict(graph.metadata_props),
        "producer": graph.producer,
        "ir_version": graph.ir_version,
        "opsets": dict(graph.opsets),
        "operators": dict(graph.operators),
        **({"config": stated.config} if stated.config is not None else {}),
        **({"genai_config": stated.genai} if stated.genai is not None else {}),
    }
    return Artifact(
        path=graph.path,
        paths=graph.paths,
        format="onnx",
        name=shape.name,
        shape=shape,
        level=_level(graph, weights),
        size_bytes=graph.size_bytes,
        metadata=MappingProxyType(metadata),
        tensors=weights.tensors,
        vocabulary_tokens=shape.vocabulary_tokens,
        tokenizer_model=TOKENIZER_NAME if side_file(model, TOKENIZER_NAME) else NO_TOKENIZER,
        chat_template=chat_template(model),
        synthetic=graph.metadata_props.get(SYNTHETIC_KEY, "").lower() in ("true", "1"),
        layers_of_model=shape.layers_of_model,
        fingerprint=hashlib.sha256(graph.digest.encode()).hexdigest()[:16],
        repeated_parameters=_repeated(weights, stated, shape),
        cache_bytes_per_token=cache_bytes_per_token(caches, shape),
    )


def _no_language_model(graph: OnnxGraph) -> UnsupportedError:
    name = graph.path.name
    if any(value.name == "inputs_embeds" for value in graph.inputs):
        return UnsupportedError(
            f"{name} is one part of a model that is cut into several.",
            cause="It takes embeddings (inputs_embeds), which another part makes of the tokens.",
            way_out="Give a model in one piece, which takes input_ids.",
        )
    inputs = ", ".join(f"{v.name} ({v.type})" for v in graph.inputs[:4]) or "nothing"
    return UnsupportedError(
        f"{name} is no language model.",
        cause=f"It takes no token ids: its inputs are {inputs}.",
        way_out=f"To see what it is: edge inspect {shlex.quote(str(graph.path))}",
    )


def stated_beside(model: Path) -> Stated:
    """The configs beside a model, genai's only where it names this very file."""
    genai = genai_config(model.parent)
    if genai is not None:
        found = Stated(model=model, config=None, genai=genai)
        if found.decoder.get("filename") != model.name:
            genai = None
    return Stated(model=model, config=model_config(model), genai=genai)


def _level(graph: OnnxGraph, weights: Weights) -> str:
    """The stated level when the weights bear it out, else what they are."""
    stated = graph.metadata_props.get(LEVEL_KEY, "")
    plain = stated.isascii() and stated.isprintable() and len(stated) <= 40
    return stated if plain and stated.startswith(weights.level) else weights.level


def _repeated(weights: Weights, stated: Stated, shape: ModelShape) -> int:
    """What of an output matrix the model shares with its embedding, but the file holds apart."""
    if weights.tied is not False or stated.config is None:
        return 0
    try:
        tied = ModelShape.from_config(stated.config, name=shape.name).tied_embeddings
    except UnsupportedError:
        tied = stated.config.get("tie_word_embeddings") is True
    return sum(t.elements for t in weights.tensors if t.name == OUTPUT) if tied else 0


def _count(text: str | None) -> int | None:
    """A small positive number a graph states, None for anything else."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 4:
        return None
    return int(text) or None
