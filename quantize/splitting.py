"""A GGUF file becomes several, its metadata and tensor bytes as they are: llama.cpp's split files.

Knows how to copy; decides neither types nor names, and understands no key.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.artifact import TensorInfo
from edge_runtime.artifact.gguf import read_header
from edge_runtime.artifact.gguf_values import Cursor, opened

from .safetensors import read_bytes
from .writers import gguf

_SLAB_BYTES = 4 * 1024**2


def split(
    source: Path,
    out: Path,
    split_bytes: int,
    *,
    overwrite: bool = False,
    check: gguf.Check | None = None,
    progress: gguf.Progress | None = None,
) -> Path:
    """Copies a GGUF file into parts of at most `split_bytes` of tensor data; see `gguf.write`.

    Returns the path to open: `out` itself when one part is enough. Raises what reading and writing
    GGUF files raise.
    """
    tensors = [
        gguf.PlannedTensor(
            name=tensor.name,
            dims=tensor.dims,
            type=tensor.type,
            slabs=functools.partial(_slabs, source, tensor),
        )
        for tensor in read_header(source).tensors
    ]
    return gguf.write(
        out,
        _pairs(source),
        tensors,
        split_bytes=split_bytes,
        overwrite=overwrite,
        check=check,
        progress=progress,
    )


def _pairs(source: Path) -> gguf.Pairs:
    with opened(source) as file:
        cursor = Cursor(file, source)
        cursor.u32("the magic")
        cursor.u32("the version")
        cursor.u64("the number of tensors")
        count = cursor.u64("the number of metadata pairs")
        start = cursor.position
        for _ in range(count):
            cursor.text("a metadata key", cursor.size)
            cursor.value(cursor.value_type("a value"), "a key")
        return gguf.Pairs(count=count, data=bytes(cursor.consumed()[start:]))


def _slabs(source: Path, tensor: TensorInfo) -> Iterator[memoryview]:
    for start in range(0, tensor.size_bytes, _SLAB_BYTES):
        size = min(_SLAB_BYTES, tensor.size_bytes - start)
        yield memoryview(read_bytes(source, tensor.offset_bytes + start, size))
