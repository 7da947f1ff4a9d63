"""What an ONNX model says of itself, gathered into an `Inspection`; also one that reads no text.

Only the graph and the small files beside it are read. Where the model is none of language, or one
that is not run here, everything but the shape still is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..artifact import Artifact, TensorInfo
from ..artifact.checkpoint import CONFIG_NAME
from ..artifact.onnx.artifact import stated_beside
from ..artifact.onnx.folder import (
    GENAI_CONFIG_NAME,
    TOKENIZER_NAME,
    model_name,
    read_json,
    side_file,
)
from ..artifact.onnx.graph import OnnxGraph, read_graph
from ..artifact.onnx.ports import ValueInfo
from ..artifact.onnx.shape import cache_inputs
from ..artifact.onnx.weights import weights_of
from ..artifact.shape import is_rope_table
from ..basis import Unavailable
from ..errors import UnsupportedError
from ..report.inspection import (
    FileFact,
    GraphFacts,
    Inspection,
    MemoryAt,
    PortFact,
    SpecialToken,
    TensorFact,
    TokenizerFacts,
    mix_of,
)
from .gguf_facts import USUAL_CONTEXT_TOKENS

_SIDE_FILES = (
    CONFIG_NAME, GENAI_CONFIG_NAME, TOKENIZER_NAME, "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "generation_config.json",
)  # fmt: skip
_ROLES = (
    ("begin", "bos_token_id"), ("end", "eos_token_id"), ("padding", "pad_token_id"),
)  # fmt: skip


def inspect_onnx(path: Path, contexts: Sequence[int]) -> Inspection:
    """Gathers what an ONNX file and the configs beside it say.

    Raises what `read_graph` raises, and FormatError for a config that contradicts the graph; a
    model of a kind that is not run here has no shape.
    """
    graph = read_graph(path)
    opened = _opened(path)
    stated = stated_beside(path)
    caches = cache_inputs(graph, stated)
    artifact = opened if isinstance(opened, Artifact) else None
    weights = _tensors(weights_of(graph, None).tensors if artifact is None else artifact.tensors)
    inspection = Inspection(
        kind="model",
        path=str(path),
        name=model_name(path),
        format="ONNX",
        architecture=stated.family or "none stated",
        shape=opened if isinstance(opened, Unavailable) else opened.shape,
        level=_types(weights),
        files=_files(graph, path),
        tensors=weights,
        parameters=sum(t.elements for t in weights if not is_rope_table(t.name)),
        cache_type=caches[0].type.lower() if caches else "none",
        tokenizer=Unavailable(reason="It cannot be run as a language model."),
        graph=_graph(graph),
        metadata=dict(graph.metadata_props),
    )
    return inspection if artifact is None else _with_text(inspection, artifact, contexts)


def _with_text(inspection: Inspection, artifact: Artifact, contexts: Sequence[int]) -> Inspection:
    """The same, with what only a language model has."""
    return dataclasses.replace(
        inspection,
        architecture=artifact.shape.architecture,
        level=artifact.level,
        parameters=artifact.parameters,
        memory=_memory(artifact, contexts),
        tokenizer=_tokenizer(artifact),
        chat_template=artifact.chat_template,
    )


def _opened(path: Path) -> Artifact | Unavailable:
    try:
        return Artifact.open(path)
    except UnsupportedError as error:
        return Unavailable(reason=" ".join(filter(None, (error.fact, error.cause))))


def _tensors(tensors: Iterable[TensorInfo]) -> tuple[TensorFact, ...]:
    """Every weight, one that is quantized together with its scales."""
    return tuple(
        TensorFact(
            name=tensor.name,
            type=tensor.type.name,
            dims=tensor.dims,
            elements=tensor.elements,
            size_bytes=tensor.size_bytes,
        )
        for tensor in tensors
    )


def _types(tensors: Sequence[TensorFact]) -> str:
    mix = mix_of((t.type, t.elements, t.size_bytes) for t in tensors)
    return mix[0].type.lower() if mix else "none"


def _memory(artifact: Artifact, contexts: Sequence[int]) -> tuple[MemoryAt, ...]:
    longest = artifact.shape.context_tokens
    asked = tuple(contexts) or (min(USUAL_CONTEXT_TOKENS, longest), longest)
    return tuple(
        MemoryAt(
            context_tokens=count,
            weight_bytes=artifact.weight_bytes,
            kv_bytes=artifact.kv_bytes(count),
        )
        for count in dict.fromkeys(asked)
    )


def _tokenizer(artifact: Artifact) -> TokenizerFacts | Unavailable:
    if artifact.tokenizer_model != TOKENIZER_NAME:
        return Unavailable(
            reason=f"No {TOKENIZER_NAME} lies beside it.",
            remedy="Copy it from where the model was published.",
        )
    stated = stated_beside(artifact.path)
    ids: Mapping[str, object] = stated.config or {}
    model = (stated.genai or {}).get("model")
    file = side_file(artifact.path, TOKENIZER_NAME)
    texts, merges = _words(read_json(file) if file is not None else {})
    special = []
    for role, key in _ROLES:
        value = model.get(key) if isinstance(model, Mapping) else None
        value = ids.get(key) if value is None else value
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, int) and not isinstance(first, bool):
            special.append((role, first))
    return TokenizerFacts(
        model=TOKENIZER_NAME,
        pre=None,
        tokens=len(texts),
        merges=merges,
        add_bos=None,
        add_eos=None,
        special=tuple(
            SpecialToken(role=role, id=number, text=texts.get(number)) for role, number in special
        ),
    )


def _words(tokenizer: Mapping[str, object]) -> tuple[dict[int, str], int | None]:
    """The texts of a tokenizer.json by their ids, and how many merges it has."""
    model = tokenizer.get("model")
    model = model if isinstance(model, Mapping) else {}
    texts: dict[int, str] = {}
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, Mapping):
        texts |= {n: word for word, n in vocabulary.items() if isinstance(n, int)}
    elif isinstance(vocabulary, list):
        texts |= {
            n: str(row[0]) for n, row in enumerate(vocabulary) if isinstance(row, list) and row
        }
    added = tokenizer.get("added_tokens")
    for item in added if isinstance(added, list) else ():
        if isinstance(item, Mapping) and isinstance(item.get("id"), int):
            texts[item["id"]] = str(item.get("content", ""))
    merges = model.get("merges")
    return texts, len(merges) if isinstance(merges, list) else None


def _graph(graph: OnnxGraph) -> GraphFacts:
    return GraphFacts(
        producer=graph.producer,
        ir_version=graph.ir_version,
        opsets=tuple(graph.opsets.items()),
        inputs=tuple(map(_port, graph.inputs)),
        outputs=tuple(map(_port, graph.outputs)),
        operators=graph.operators,
    )


def _port(value: ValueInfo) -> PortFact:
    return PortFact(name=value.name, type=value.type, dims=value.dims)


def _files(graph: OnnxGraph, path: Path) -> tuple[FileFact, ...]:
    """The graph, its data and what belongs to it; names from the graph's folder on."""
    beside = [side_file(path, name) for name in _SIDE_FILES]
    found = []
    for file in (*graph.paths, *filter(None, beside)):
        inside = file.is_relative_to(path.parent)
        name = file.relative_to(path.parent).as_posix() if inside else f"../{file.name}"
        found.append(FileFact(name=name, size_bytes=file.stat().st_size))
    return tuple(found)
