"""A Hugging Face checkpoint becomes a GGUF artifact, in slabs of rows: memory stays small.

Every source tensor is mapped or dropped by name, every tensor the architecture has is found with
its right dims, before the first byte is written. Knows no family by name and no tensor type.
"""

from __future__ import annotations

import functools
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edge_runtime.artifact import Artifact, Level, ModelShape, TensorShape, levels
from edge_runtime.artifact.keys import rope_table
from edge_runtime.artifact.recipe import types_for
from edge_runtime.artifact.shape import is_rope_table
from edge_runtime.errors import FormatError

from . import architectures
from .architectures import Architecture, RowTransform
from .checkpoint import Checkpoint, SourceTensor
from .encoding import ENCODERS, encode
from .metadata import model_metadata
from .requantization import needs_importance, requantize
from .tokenizer import vocabulary_metadata
from .writers import gguf
from .writers.whole_file import check_destination

SLAB_ELEMENTS = 1 << 20
"""Elements held at once: large enough that reading is sequential, small enough to stay in cache."""

_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
_DIRECT_SHARE = 0.3
"""What part of the work writing the intermediate file is, when a quantizer follows it."""


def convert(
    checkpoint: Path,
    out: Path,
    *,
    level: str = "F16",
    progress: gguf.Progress | None = None,
) -> Artifact:
    """Converts a checkpoint directory to a GGUF file at a level and opens it.

    F32, F16, BF16 and Q8_0 are written directly; the others by llama.cpp's quantizer from an
    intermediate file beside `out` that loses nothing and is removed. Raises UnsupportedError for an
    architecture, tokenizer or level that cannot be converted, FormatError for a checkpoint that
    contradicts itself, DiskError when the output cannot be written.
    """
    out = Path(out)
    recipe = levels.level(level)
    if recipe.needs_imatrix:
        raise needs_importance(recipe)
    source = Checkpoint.open(Path(checkpoint))
    family = architectures.find(source.config)
    shape = ModelShape.from_config(source.config, name=Path(checkpoint).resolve().name)
    if recipe.default.name in ENCODERS and recipe.name == recipe.default.name:
        _write(source, family, shape, recipe, out, progress=progress)
        return Artifact.open(out)
    lossless = levels.level(source.dtype if source.dtype in ("F16", "BF16") else "F32")
    check_destination(out, shape.weight_bytes(lossless.name) + shape.weight_bytes(recipe.name))
    between = out.parent / f".edge-{secrets.token_hex(8)}.gguf"
    try:
        part = _part(progress, 0.0, _DIRECT_SHARE)
        _write(source, family, shape, lossless, between, progress=part)
        return requantize(between, out, recipe.name, progress=_part(progress, _DIRECT_SHARE, 1.0))
    finally:
        between.unlink(missing_ok=True)


def _write(
    source: Checkpoint,
    family: Architecture,
    shape: ModelShape,
    recipe: Level,
    out: Path,
    *,
    progress: gguf.Progress | None,
) -> None:
    metadata: dict[str, gguf.Value] = {
        **model_metadata(shape, recipe),
        **vocabulary_metadata(source, shape.vocabulary_tokens),
    }
    types = types_for(shape, recipe)
    sources = _sources(source, family, shape)
    tensors = []
    for tensor in shape.tensors:
        kind = types[tensor.name]
        if is_rope_table(tensor.name):  # computed from the config, no checkpoint holds it
            table = np.array([rope_table(shape, tensor.name)], np.float32)
            slabs = functools.partial(iter, (encode(kind.name, tensor.name, table),))
        else:
            found = _found(tensor, sources)
            slabs = functools.partial(
                _slabs, found, kind.name, family.transform(tensor.name, shape)
            )
        tensors.append(
            gguf.PlannedTensor(name=tensor.name, dims=tensor.dims, type=kind, slabs=slabs)
        )
    gguf.write(out, metadata, tensors, progress=progress)


def _sources(
    source: Checkpoint, family: Architecture, shape: ModelShape
) -> Mapping[str, SourceTensor]:
    """Source tensors by the GGUF name each becomes. Raises FormatError for one left over."""
    wanted = {tensor.name for tensor in shape.tensors}
    found: dict[str, SourceTensor] = {}
    for name, tensor in source.tensors.items():
        if name.endswith(family.dropped):
            continue
        number = _LAYER.search(name)
        template = name if number is None else _LAYER.sub("{layer}", name, count=1)
        target = family.names.get(template)
        if target is not None and number is not None:
            target = target.replace("{layer}", number[0])
        if target == "output.weight" and shape.tied_embeddings:
            continue  # what a tied model computes with is the embedding, whatever else it ships
        if target not in wanted:
            raise FormatError(
                f"The checkpoint's tensor {name[:80]} has no place in the model.",
                cause=f"A {shape.architecture} model of its config.json has none like it.",
                way_out="Check that config.json and the weights belong together.",
            )
        found[str(target)] = tensor
    return found


def _found(tensor: TensorShape, sources: Mapping[str, SourceTensor]) -> SourceTensor:
    source = sources.get(tensor.name)
    if source is None:
        raise FormatError(
            f"The checkpoint lacks the tensor that becomes {tensor.name}.",
            cause="The download is incomplete, or config.json is another model's.",
        )
    if source.dims != tensor.dims[::-1]:
        raise FormatError(
            f"The tensor {source.name} has the shape {list(source.dims)}.",
            cause=f"config.json says it should be {list(tensor.dims[::-1])}.",
        )
    return source


def _slabs(source: SourceTensor, type_name: str, transform: RowTransform | None) -> Iterator[bytes]:
    if transform is not None and source.rows == 1:
        column = transform.apply(source.read(0, 1).reshape(-1, 1))
        yield encode(type_name, source.name, column.reshape(1, -1))
        return
    group = 1 if transform is None else transform.group_rows
    count = max(group, SLAB_ELEMENTS // source.columns // group * group)
    for first in range(0, source.rows, count):
        rows = source.read(first, min(count, source.rows - first))
        yield encode(type_name, source.name, rows if transform is None else transform.apply(rows))


def _part(progress: gguf.Progress | None, start: float, end: float) -> gguf.Progress | None:
    """Progress of one of several jobs, told as progress of all."""
    if progress is None:
        return None
    return lambda fraction: progress(start + (end - start) * fraction)
