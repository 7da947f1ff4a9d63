"""A shape becomes an artifact: the true architecture, sizes and types, with random weights.

How fast a dense model decodes and what memory it takes do not depend on its weights' values, so
such a file measures what the real one would. It says of itself that it is synthetic, and has no
vocabulary: nothing it could write would mean anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edge_runtime.artifact import (
    LAYERS_OF_MODEL_KEY,
    SYNTHETIC_KEY,
    Artifact,
    GGMLType,
    Level,
    ModelShape,
    TensorShape,
    levels,
)
from edge_runtime.artifact.keys import rope_table
from edge_runtime.artifact.recipe import types_for
from edge_runtime.artifact.shape import is_rope_table

from .blocks import Pool
from .metadata import model_metadata
from .writers import gguf

KEPT_LAYERS_KEY = "edge_runtime.kept_layers"
"""Metadata of a file cut in depth: the layers of the whole model whose types its layers have."""


def synthesize(
    shape: ModelShape,
    level: str,
    out: Path,
    *,
    layers: int | None = None,
    seed: int = 0,
    progress: gguf.Progress | None = None,
) -> Artifact:
    """Writes a GGUF file of exactly this shape at a level, with random weights, and opens it.

    Tensor names, dims and types are those of the really quantized model. With `layers` only so many
    layers are written; their types are those of `kept_layers`. The same arguments give the same
    bytes. Raises UnsupportedError for an unknown level, UsageError for an impossible depth and
    DiskError when the file cannot be written.
    """
    recipe = levels.level(level)
    metadata, tensors = _plan(shape, recipe, layers, seed)
    gguf.write(Path(out), metadata, tensors, progress=progress)
    return Artifact.open(Path(out))


def synthetic_bytes(shape: ModelShape, level: str, layers: int | None = None) -> int:
    """Returns the exact size of the file `synthesize` would write."""
    return gguf.file_bytes(*_plan(shape, levels.level(level), layers, 0))


def kept_layers(shape: ModelShape, level: str, layers: int) -> tuple[int, ...]:
    """Returns which layers of the whole model a file cut to `layers` stands for, ascending.

    Levels like Q4_K_M give some layers larger types. Layers are grouped by the bytes they take, and
    each group gets its share of the places by largest remainder, so that the mean bytes per layer
    come as near to the whole model's as that many layers allow; the group's layers are taken evenly
    from first to last. Raises UsageError for an impossible depth.
    """
    shape.truncated(layers)
    types = types_for(shape, levels.level(level))
    bytes_of: dict[int, int] = defaultdict(int)
    for tensor in shape.tensors:
        layer, _ = _split(tensor.name)
        if layer is not None:
            bytes_of[layer] += types[tensor.name].size_bytes(tensor.dims)
    groups: dict[int, list[int]] = defaultdict(list)
    for layer in range(shape.layers):
        groups[bytes_of[layer]].append(layer)
    quotas = {size: layers * len(group) / shape.layers for size, group in groups.items()}
    places = {size: int(quota) for size, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda size: (places[size] - quotas[size], -quotas[size]))
    for size in by_remainder[: layers - sum(places.values())]:
        places[size] += 1
    kept = [
        group[(2 * i + 1) * len(group) // (2 * places[size])]
        for size, group in groups.items()
        for i in range(places[size])
    ]
    return tuple(sorted(kept))


def _plan(
    shape: ModelShape, recipe: Level, layers: int | None, seed: int
) -> tuple[dict[str, gguf.Value], list[gguf.PlannedTensor]]:
    types = types_for(shape, recipe)
    kept = tuple(range(shape.layers))
    cut = shape
    if layers is not None and layers != shape.layers:
        kept = kept_layers(shape, recipe.name, layers)
        cut = shape.truncated(layers)
    pool = Pool(seed)
    tensors = []
    for turn, tensor in enumerate(cut.tensors):
        kind = _type_of(tensor.name, kept, types)
        tensors.append(
            gguf.PlannedTensor(
                name=tensor.name,
                dims=tensor.dims,
                type=kind,
                slabs=_Slabs(shape, tensor, kind, pool, turn),
            )
        )
    return _metadata(cut, recipe, kept), tensors


def _metadata(shape: ModelShape, recipe: Level, kept: tuple[int, ...]) -> dict[str, gguf.Value]:
    metadata: dict[str, gguf.Value] = {
        **model_metadata(shape, recipe),
        "tokenizer.ggml.model": "no_vocab",
        SYNTHETIC_KEY: True,
        LAYERS_OF_MODEL_KEY: shape.layers_of_model,
    }
    if len(kept) < shape.layers_of_model:
        metadata[KEPT_LAYERS_KEY] = kept
    return metadata


class _Slabs:
    """Gives one tensor's bytes when its turn to be written comes."""

    def __init__(
        self, shape: ModelShape, tensor: TensorShape, kind: GGMLType, pool: Pool, turn: int
    ) -> None:
        self._shape, self._tensor, self._kind = shape, tensor, kind
        self._pool, self._turn = pool, turn

    def __call__(self) -> Iterator[bytes | memoryview]:
        fixed = _fixed_values(self._shape, self._tensor)
        if fixed is not None:
            yield fixed.astype("<f4").tobytes()
        else:
            size = self._kind.size_bytes(self._tensor.dims)
            yield from self._pool.slabs(self._kind, size, self._turn)


def _fixed_values(shape: ModelShape, tensor: TensorShape) -> np.ndarray | None:
    """The values of tensors whose size matters to the arithmetic; None for all the others."""
    if is_rope_table(tensor.name):
        return np.array(rope_table(shape, tensor.name), np.float32)
    if "norm" in tensor.name and tensor.name.endswith(".weight"):
        return np.ones(tensor.elements, np.float32)
    if tensor.name.endswith(".bias"):
        return np.zeros(tensor.elements, np.float32)
    return None


def _type_of(name: str, kept: tuple[int, ...], types: Mapping[str, GGMLType]) -> GGMLType:
    layer, rest = _split(name)
    return types[name if layer is None else f"blk.{kept[layer]}.{rest}"]


def _split(name: str) -> tuple[int | None, str]:
    if not name.startswith("blk."):
        return None, name
    _, layer, rest = name.split(".", 2)
    return int(layer), rest
