"""What a Hugging Face checkpoint is, and whether it can be converted, gathered into a record.

Configs, safetensors headers and tokenizer files are read, no weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..artifact import ModelShape
from ..artifact.checkpoint import read_config
from ..artifact.departures import departures
from ..basis import Unavailable
from ..errors import EdgeError, ModelNotFoundError
from ..report.inspection import (
    Conversion,
    FileFact,
    Inspection,
    TensorFact,
    mix_of,
)
from ..sources import CHECKPOINT_FILES
from .gguf_facts import memory_at, tokenizer_of

if TYPE_CHECKING:
    from quantize.checkpoint import Checkpoint

USUAL_LEVELS = ("BF16", "Q8_0", "Q6_K", "Q4_K_M", "Q4_0")
_Read = TypeVar("_Read")


def inspect_checkpoint(path: Path, name: str, contexts: Sequence[int]) -> Inspection:
    """Gathers what the config, the headers of the weights and the tokenizer files say.

    Weights that are missing or damaged make it a checkpoint that cannot be converted, not an error.
    Raises ModelNotFoundError or FormatError when there is no config that can be read.
    """
    from quantize.conversion import examine

    config = read_config(path)
    checkpoint = _told(lambda: _open(path))
    examined = _told(lambda: examine(path))
    vocabulary: Mapping[str, object] | Unavailable
    if isinstance(examined, Unavailable):
        shape = _told(lambda: ModelShape.from_config(config, name=name))
        vocabulary = _told(lambda: _vocabulary(checkpoint, shape))
    else:
        shape, vocabulary = examined
    tensors = () if isinstance(checkpoint, Unavailable) else _tensors(checkpoint)
    mix = mix_of((t.type, t.elements, t.size_bytes) for t in tensors)
    template = None
    if not isinstance(vocabulary, Unavailable):
        vocabulary = {key: _plain_value(value) for key, value in vocabulary.items()}
        template = vocabulary.get("tokenizer.chat_template")
    return Inspection(
        kind="checkpoint",
        path=str(path),
        name=name,
        format="safetensors",
        architecture=_class_names(config),
        shape=shape,
        level=" + ".join(row.type for row in mix[:3]) or "none",
        files=_files(path, checkpoint),
        tensors=tensors,
        parameters=shape.parameters
        if isinstance(shape, ModelShape)
        else sum(tensor.elements for tensor in tensors),
        memory=memory_at(shape, sum(tensor.size_bytes for tensor in tensors), contexts),
        tokenizer=vocabulary if isinstance(vocabulary, Unavailable) else tokenizer_of(vocabulary),
        chat_template=template if isinstance(template, str) else None,
        conversion=examined if isinstance(examined, Unavailable) else _conversion(examined[0]),
        notes=() if isinstance(examined, Unavailable) else departures(config),
        metadata={"config": config},
    )


def _told(read: Callable[[], _Read]) -> _Read | Unavailable:
    """What `read` gives, or the error's own words where it refuses."""
    try:
        return read()
    except EdgeError as error:
        return Unavailable(
            reason=" ".join(filter(None, (error.fact, error.cause))), remedy=error.way_out
        )


def _open(path: Path) -> Checkpoint:
    from quantize.checkpoint import Checkpoint

    return Checkpoint.open(path)


def _vocabulary(
    checkpoint: Checkpoint | Unavailable, shape: ModelShape | Unavailable
) -> Mapping[str, object] | Unavailable:
    """The vocabulary keys of a checkpoint that cannot be converted for another reason."""
    from quantize import architectures
    from quantize.tokenizers import vocabulary_metadata

    from ..artifact.config import class_values

    if isinstance(checkpoint, Unavailable):
        return checkpoint
    if isinstance(shape, Unavailable):
        return shape
    family = architectures.find(checkpoint.config)
    _, config = class_values(checkpoint.config)
    return vocabulary_metadata(
        checkpoint, config, family.vocabulary, vocabulary_tokens=shape.vocabulary_tokens
    )


def _plain_value(value: object) -> object:
    """A metadata value as a reader of GGUF files gives it: arrays and numbers without a type."""
    return getattr(value, "items", getattr(value, "value", value))


def _conversion(shape: ModelShape) -> Conversion:
    sizes = tuple((level, shape.weight_bytes(level)) for level in USUAL_LEVELS)
    return Conversion(family=shape.architecture, sizes=sizes)


def _tensors(checkpoint: Checkpoint) -> tuple[TensorFact, ...]:
    return tuple(
        TensorFact(
            name=tensor.name,
            type=tensor.dtype,
            dims=tensor.dims,
            elements=math.prod(tensor.dims),
            size_bytes=tensor.size_bytes,
        )
        for tensor in checkpoint.tensors.values()
    )


def _files(path: Path, checkpoint: Checkpoint | Unavailable) -> tuple[FileFact, ...]:
    """The weights that are read, and the small files beside them; others count for nothing."""
    weights: set[Path] = set()
    if not isinstance(checkpoint, Unavailable):
        weights = {tensor.path for tensor in checkpoint.tensors.values()}
    beside = {path / name for name in CHECKPOINT_FILES if (path / name).is_file()}
    try:
        return tuple(
            FileFact(name=file.relative_to(path).as_posix(), size_bytes=file.stat().st_size)
            for file in (*sorted(weights), *sorted(beside))
        )
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"{path} cannot be read.", cause=f"{error}.") from error


def _class_names(config: Mapping[str, object]) -> str:
    stated = config.get("architectures")
    names = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    return ", ".join(names) or str(config.get("model_type", "none stated"))
