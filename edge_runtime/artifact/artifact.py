"""A model file as it lies on the disk: its shape, its quantization and where its bytes are.

An `Artifact` is always read back from the file, so it claims nothing that is not there. It holds no
weights and needs no engine.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ArtifactError, FormatError, ModelNotFoundError
from .gguf import TensorInfo
from .levels import LEVEL_OF_FTYPE
from .onnx.folder import is_onnx, models_in
from .shape import ModelShape, is_rope_table
from .split import read_parts

SYNTHETIC_KEY = "edge_runtime.synthetic"
"""Metadata: true when the weights are random, made only to measure speed."""
LAYERS_OF_MODEL_KEY = "edge_runtime.layers_of_model"
"""Metadata: the layers of the whole model when the file holds fewer."""
_IMATRIX_KEYS = ("quantize.imatrix.entries_count", "quantize.imatrix.file")
"""Metadata: what llama.cpp's quantizer notes of an importance matrix it went by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A model file, or all the files of a split one. `path` is what an engine is given.

    `level` is the file's quantization level, or its tensor mix in words when it is none.
    `size_bytes` counts all parts. `fingerprint` tells files apart by header and size, not by data.
    Of an ONNX model `paths` are the graph and its data files, and embedding, output and tables have
    the names that GGUF has for them in `tensors`.
    """

    path: Path
    paths: tuple[Path, ...]
    format: Literal["gguf", "onnx"]
    name: str
    shape: ModelShape
    level: str
    size_bytes: int
    metadata: Mapping[str, object]
    tensors: tuple[TensorInfo, ...]
    vocabulary_tokens: int
    tokenizer_model: str
    chat_template: str | None
    synthetic: bool
    layers_of_model: int
    fingerprint: str
    repeated_parameters: int = 0
    """Elements of an output matrix that the model shares with its embedding, but not the file."""
    cache_bytes_per_token: int | None = None
    """What a graph's KV cache takes for a token; None where the engine decides on its type."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Artifact:
        """Reads what a model says of itself: a GGUF file, or any part of a split one; or ONNX.

        An ONNX model is a file, or a folder that holds one; see `onnx.folder`. Raises
        ModelNotFoundError, FormatError or UnsupportedError.
        """
        given = Path(path)
        if is_onnx(given) or (given.is_dir() and models_in(given)):
            from .onnx.artifact import open_onnx

            return open_onnx(given)
        if given.is_dir():
            raise ModelNotFoundError(
                f"{given} is a directory, not a model file.",
                way_out="Name a GGUF file inside it; list them with: edge models",
            )
        headers = read_parts(given)
        metadata = headers[0].metadata
        tensors = tuple(tensor for header in headers for tensor in header.tensors)
        if not tensors:
            raise FormatError(
                f"{given.name} holds no weights.",
                cause="It is a vocabulary, or the model was cut off.",
                way_out="Give the GGUF file of a whole model.",
            )
        try:
            shape = ModelShape.from_gguf(metadata, tensors)
        except ArtifactError as error:
            raise type(error)(
                f"{given.name}: {error.fact}", cause=error.cause, way_out=error.way_out
            ) from None
        digest = hashlib.sha256("".join(header.digest for header in headers).encode())
        template = metadata.get("tokenizer.chat_template")
        return cls(
            path=headers[0].path,
            paths=tuple(header.path for header in headers),
            format="gguf",
            name=shape.name or headers[0].path.stem,
            shape=shape,
            level=_level_of(metadata, tensors),
            size_bytes=sum(header.file_bytes for header in headers),
            metadata=metadata,
            tensors=tensors,
            vocabulary_tokens=_vocabulary(metadata, shape),
            tokenizer_model=str(metadata.get("tokenizer.ggml.model", "no_vocab")),
            chat_template=template if isinstance(template, str) else None,
            synthetic=metadata.get(SYNTHETIC_KEY) is True,
            layers_of_model=shape.layers_of_model,
            fingerprint=digest.hexdigest()[:16],
        )

    @property
    def parameters(self) -> int:
        """Trained parameters in the file, by its own tensors; what is there twice counts once."""
        stored = sum(t.elements for t in self.tensors if not is_rope_table(t.name))
        return stored - self.repeated_parameters

    @property
    def imatrix(self) -> bool:
        """Whether the file says that it was quantized by an importance matrix."""
        return any(key in self.metadata for key in _IMATRIX_KEYS)

    @property
    def weight_bytes(self) -> int:
        """The bytes of all tensor data, as the file's types have it."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def decode_bytes(self) -> int:
        """The weight bytes that decoding one token reads, as the file's types have it.

        0 for an encoder, which decodes nothing.
        """
        if self.shape.encoder:
            return 0
        return sum(self.shape.bytes_read(t.name, t.size_bytes, t.dims) for t in self.tensors)

    def kv_bytes(self, context_tokens: int, kv_type_k: str = "f16", kv_type_v: str = "f16") -> int:
        """The KV cache of one sequence of that many tokens, bytes.

        An ONNX graph fixes the type, and its cache is not padded; else as `ModelShape.kv_bytes`.
        """
        if self.cache_bytes_per_token is not None:
            return context_tokens * self.cache_bytes_per_token
        if self.format == "onnx":
            return 0
        return self.shape.kv_bytes(context_tokens, kv_type_k, kv_type_v)

    @property
    def mix(self) -> tuple[tuple[str, int, int], ...]:
        """The quantization mix: (type name, tensors, bytes), most bytes first."""
        return _mix(self.tensors)


def _mix(tensors: tuple[TensorInfo, ...]) -> tuple[tuple[str, int, int], ...]:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.type.name] += 1
        sizes[tensor.type.name] += tensor.size_bytes
    return tuple((name, counts[name], size) for name, size in sizes.most_common())


def _level_of(metadata: Mapping[str, object], tensors: tuple[TensorInfo, ...]) -> str:
    """The stated level when its main type really is in the file, else the types there are."""
    mix = _mix(tensors)
    stated = metadata.get("general.file_type")
    found = LEVEL_OF_FTYPE.get(stated) if isinstance(stated, int) else None
    if found is not None and any(name == found.default.name for name, _, _ in mix):
        return found.name
    total = sum(size for _, _, size in mix)
    main = [name for name, _, size in mix if size * 10 >= total]
    return main[0] if len(main) == 1 else " + ".join(main)


def _vocabulary(metadata: Mapping[str, object], shape: ModelShape) -> int:
    tokens = metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, Sized) else shape.vocabulary_tokens
