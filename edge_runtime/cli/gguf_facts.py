"""What a GGUF file says of itself, gathered into an `Inspection`; also a file that is no model.

Only headers are read. Where the architecture is not known here, everything but the shape still is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..artifact import Artifact, ModelShape
from ..artifact.gguf import GGUFHeader
from ..artifact.gguf_values import ArrayRef
from ..artifact.shape import is_rope_table
from ..artifact.split import read_parts
from ..basis import Unavailable
from ..errors import ArtifactError
from ..report.inspection import (
    FileFact,
    Inspection,
    Kind,
    MemoryAt,
    SpecialToken,
    TensorFact,
    TokenizerFacts,
    mix_of,
)

USUAL_CONTEXT_TOKENS = 4096
_LISTS = (ArrayRef, tuple, list)
_NOTES: Mapping[str, str] = {
    "vocabulary": "A vocabulary without weights: it can tokenize, and run nothing.",
    "imatrix": "An importance matrix: what edge quantize takes as --imatrix.",
    "adapter": "An adapter (LoRA): it changes a model and is none itself.",
    "projector": "A projector for images or sound: it works beside a model and is none itself.",
}
_ORIGIN = (
    ("licence", ("general.license.name", "general.license")),
    ("author", ("general.author", "general.organization")),
    ("base model", ("general.base_model.0.name", "general.base_model.0.repo_url")),
    ("source", ("general.source.url", "general.repo_url", "general.url")),
    ("converted by", ("general.quantized_by",)),
    ("importance matrix", ("quantize.imatrix.file",)),
    ("its texts", ("quantize.imatrix.dataset", "imatrix.datasets")),
)
_ROLES = (
    ("bos", "begin"), ("eos", "end"), ("eot", "end of turn"), ("eom", "end of message"),
    ("unknown", "unknown"), ("seperator", "separator"), ("padding", "padding"), ("cls", "class"),
    ("mask", "mask"), ("fim_pre", "fill: before"), ("fim_suf", "fill: after"),
    ("fim_mid", "fill: middle"),
)  # fmt: skip


def inspect_gguf(path: Path, contexts: Sequence[int]) -> Inspection:
    """Gathers what the headers of a GGUF file and its other parts say.

    Raises what `Artifact.open` raises, except for an architecture that is not known.
    """
    headers = read_parts(path)
    metadata = headers[0].metadata
    kind = _kind(headers)
    shape = _shape(headers, kind)
    tensors = tuple(
        TensorFact(
            name=tensor.name,
            type=tensor.type.name,
            dims=tensor.dims,
            elements=tensor.elements,
            size_bytes=tensor.size_bytes,
        )
        for header in headers
        for tensor in header.tensors
    )
    weight_bytes = sum(tensor.size_bytes for tensor in tensors)
    known = isinstance(shape, ModelShape)
    return Inspection(
        kind=kind,
        path=str(path),
        name=str(metadata.get("general.name") or headers[0].path.stem),
        format="GGUF",
        architecture=str(metadata.get("general.architecture", "none stated")),
        shape=shape,
        level=Artifact.open(path).level if known else _types(tensors),
        files=tuple(FileFact(name=h.path.name, size_bytes=h.file_bytes) for h in headers),
        tensors=tensors,
        parameters=sum(t.elements for t in tensors if not is_rope_table(t.name)),
        memory=memory_at(shape, weight_bytes, contexts),
        tokenizer=tokenizer_of(metadata),
        chat_template=_text(metadata.get("tokenizer.chat_template")),
        origin=_origin(metadata),
        notes=(_NOTES[kind],) if kind in _NOTES else (),
        metadata={key: _json_value(value) for key, value in metadata.items()},
    )


def inspect_imatrix(path: Path) -> Inspection:
    """Gathers what an importance matrix in the format before GGUF holds.

    Raises FormatError when the file is none.
    """
    from quantize import imatrix

    found = imatrix.read(path)
    entries = tuple(
        TensorFact(
            name=entry.name,
            type="F32",
            dims=(entry.sums.size,),
            elements=entry.sums.size,
            size_bytes=4 * entry.sums.size,
        )
        for entry in found.entries
    )
    return Inspection(
        kind="imatrix",
        path=str(path),
        name=path.name,
        format="imatrix",
        architecture="none stated",
        shape=Unavailable(reason="It is no model."),
        level="F32",
        files=(FileFact(name=path.name, size_bytes=path.stat().st_size),),
        tensors=entries,
        parameters=sum(entry.elements for entry in entries),
        tokenizer=Unavailable(reason="The file holds no vocabulary."),
        origin=(("its texts", ", ".join(found.datasets)),) if found.datasets else (),
        notes=(_NOTES["imatrix"],),
        metadata={"chunks": found.chunks},
    )


def memory_at(
    shape: ModelShape | Unavailable, weight_bytes: int, contexts: Sequence[int]
) -> tuple[MemoryAt, ...]:
    """Weights and KV cache at the contexts asked for; else at a usual one and the model's own."""
    if isinstance(shape, Unavailable):
        return ()
    longest = shape.context_tokens
    asked = tuple(contexts) or (min(USUAL_CONTEXT_TOKENS, longest), longest)
    return tuple(
        MemoryAt(context_tokens=n, weight_bytes=weight_bytes, kv_bytes=shape.kv_bytes(n))
        for n in dict.fromkeys(asked)
    )


def tokenizer_of(metadata: Mapping[str, object]) -> TokenizerFacts | Unavailable:
    """The tokenizer that a file's metadata describe."""
    model = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(model, str) or not isinstance(tokens, _LISTS):
        return Unavailable(reason="The file holds no vocabulary.")
    merges = metadata.get("tokenizer.ggml.merges")
    ids = {role: metadata.get(f"tokenizer.ggml.{key}_token_id") for key, role in _ROLES}
    texts = _texts(tokens, [n for n in ids.values() if isinstance(n, int)])
    return TokenizerFacts(
        model=model,
        pre=_text(metadata.get("tokenizer.ggml.pre")),
        tokens=len(tokens),
        merges=len(merges) if isinstance(merges, _LISTS) else None,
        add_bos=_flag(metadata.get("tokenizer.ggml.add_bos_token")),
        add_eos=_flag(metadata.get("tokenizer.ggml.add_eos_token")),
        special=tuple(
            SpecialToken(role=role, id=number, text=texts.get(number))
            for role, number in ids.items()
            if isinstance(number, int)
        ),
    )


def _kind(headers: Sequence[GGUFHeader]) -> Kind:
    metadata = headers[0].metadata
    stated = metadata.get("general.type")
    architecture = metadata.get("general.architecture")
    if stated == "imatrix" or architecture == "imatrix":
        return "imatrix"
    if stated == "adapter":
        return "adapter"
    if stated == "mmproj" or architecture == "clip":
        return "projector"
    if not any(header.tensors for header in headers):
        return "vocabulary"
    return "model"


def _shape(headers: Sequence[GGUFHeader], kind: Kind) -> ModelShape | Unavailable:
    if kind != "model":
        return Unavailable(reason="It is no model.")
    tensors = [tensor for header in headers for tensor in header.tensors]
    try:
        return ModelShape.from_gguf(headers[0].metadata, tensors)
    except ArtifactError as error:
        return Unavailable(reason=" ".join(filter(None, (error.fact, error.cause))))


def _types(tensors: Sequence[TensorFact]) -> str:
    mix = mix_of((t.type, t.elements, t.size_bytes) for t in tensors)
    return " + ".join(row.type for row in mix[:3]) or "none"


def _origin(metadata: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    found = []
    for label, keys in _ORIGIN:
        stated = next((metadata[key] for key in keys if metadata.get(key)), None)
        if isinstance(stated, tuple):
            stated = ", ".join(map(str, stated))
        if isinstance(stated, str):
            found.append((label, stated))
    return tuple(found)


def _texts(tokens: ArrayRef | Sequence[object], wanted: Sequence[int]) -> dict[int, str]:
    """The tokens of these ids; those beyond the vocabulary are left out."""
    if not wanted:
        return {}
    listed = tokens.load() if isinstance(tokens, ArrayRef) else tokens
    return {n: str(listed[n]) for n in wanted if 0 <= n < len(listed)}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _json_value(value: object) -> object:
    """A metadata value as JSON has it: long arrays by type and length, NaN in words."""
    if isinstance(value, ArrayRef):
        return {"type": value.type.name, "count": value.count}
    if isinstance(value, tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
