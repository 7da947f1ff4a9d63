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
    pairs = metadata_pairs(source)
    return gguf.write(
        out,
        gguf.Pairs(count=len(pairs), data=b"".join(data for _, data in pairs)),
        tensors,
        split_bytes=split_bytes,
        overwrite=overwrite,
        check=check,
        progress=progress,
    )


def metadata_pairs(source: Path) -> tuple[tuple[str, bytes], ...]:
    """Each metadata key of a GGUF file that can be read, with the bytes of its pair."""
    spans = []
    with opened(source) as file:
        cursor = Cursor(file, source)
        cursor.u32("the magic")
        cursor.u32("the version")
        cursor.u64("the number of tensors")
        for _ in range(cursor.u64("the number of metadata pairs")):
            start = cursor.position
            key = cursor.text("a metadata key", 65_535).decode("utf-8")
            cursor.value(cursor.value_type(f"the value of {key!r}"), key)
            spans.append((key, start, cursor.position))
        data = cursor.consumed()
    return tuple((key, bytes(data[start:end])) for key, start, end in spans)


def _slabs(source: Path, tensor: TensorInfo) -> Iterator[memoryview]:
    for start in range(0, tensor.size_bytes, _SLAB_BYTES):
        size = min(_SLAB_BYTES, tensor.size_bytes - start)
        yield memoryview(read_bytes(source, tensor.offset_bytes + start, size))
