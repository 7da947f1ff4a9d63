"""Writes GGUF files, version 3: header and tensor table first, then the tensors' bytes in slabs.

Knows the format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) and how llama.cpp names
the parts of a split file, nothing of what a key or a tensor means. Memory does not grow with the
file: slabs are made ahead on threads, a few at a time, and written in order.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edge_runtime.artifact import GGMLType
from edge_runtime.artifact.ggml import ValueType
from edge_runtime.artifact.gguf import DEFAULT_ALIGNMENT, MAGIC, read_header
from edge_runtime.artifact.split import MAX_PARTS, split_paths
from edge_runtime.errors import ArtifactError, DiskError, UsageError

from .whole_file import whole_files

VERSION = 3

NAME_BYTES = 63
"""The longest tensor name llama.cpp keeps (GGML_MAX_NAME less its terminator)."""

Progress = Callable[[float], None]
"""Told now and then what part of the work is done, from 0 to 1; what it raises stops the work."""


def part_of(progress: Progress | None, start: float, end: float) -> Progress | None:
    """Progress of one of several jobs, told as progress of all."""
    if progress is None:
        return None
    return lambda fraction: progress(start + (end - start) * fraction)


_CODES = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """A metadata array: its items' type, and the items."""

    kind: ValueType
    items: Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A whole number stored as a type other than the smallest unsigned one it fits."""

    kind: ValueType
    value: int


Value = str | bool | int | float | Number | Array | tuple[object, ...]
"""A metadata value. An int is stored as UINT32 where it fits, a float as FLOAT32, as llama.cpp's
own keys are; a tuple is an array of what its items are (negative integers make it INT32)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Metadata as another GGUF file has it: how many pairs, and their bytes."""

    count: int
    data: bytes | bytearray


Metadata = Mapping[str, Value] | Pairs
Check = Callable[[Path], None]
"""Told the path to open of files that are whole but not yet named; what it raises stops that."""

Slab = bytes | memoryview
"""A piece of a tensor's data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTensor:
    """A tensor to be written: `dims` in ggml's order (row length first), and where bytes come from.

    `slabs` is called once, when the tensor's turn comes; together its pieces have `size_bytes`. A
    piece may be a function that makes it, to be called on another thread.
    """

    name: str
    dims: tuple[int, ...]
    type: GGMLType
    slabs: Callable[[], Iterable[Slab | Callable[[], Slab]]]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor's data, without padding."""
        return self.type.size_bytes(self.dims)


def file_bytes(metadata: Metadata, tensors: Sequence[PlannedTensor]) -> int:
    """Returns the exact size of the file `write` would make."""
    return len(_header(metadata, tensors)) + sum(padded(t.size_bytes) for t in tensors)


def write(
    out: Path,
    metadata: Metadata,
    tensors: Sequence[PlannedTensor],
    *,
    threads: int = 1,
    split_bytes: int | None = None,
    overwrite: bool = True,
    check: Check | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes a GGUF file, whole or not at all, and reads its header back before it gets its name.

    With `split_bytes`, tensors go to as many files as keep each part's tensor data within that, a
    larger tensor having one of its own; metadata goes to the first. Slabs that are functions are
    called on `threads`. Returns the path to open.
    Raises DiskError when it cannot be written, UsageError for a file that is there unless
    `overwrite`, and ValueError when the plan contradicts itself: a name twice or too long, a kind
    of value GGUF has not, slabs of another size than the tensor.
    """
    parts = _parts(metadata, tensors, split_bytes)
    del metadata  # a vocabulary of strings, large and now in the header
    outs = split_paths(out, len(parts))
    total = sum(part.size_bytes for part in parts)
    with whole_files(outs, total, overwrite=overwrite) as temporaries:
        _write_parts(temporaries, parts, threads, progress)
        for temporary, part in zip(temporaries, parts, strict=True):
            _read_back(temporary, part, out)
        if check is not None:
            check(temporaries[0])
    if progress is not None:
        progress(1.0)
    return outs[0]


def write_into(
    path: Path,
    metadata: Metadata,
    tensors: Sequence[PlannedTensor],
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> None:
    """Writes a GGUF file into one that is there and is the caller's to remove.

    Raises OSError when it cannot be written, ValueError as `write` does.
    """
    parts = _parts(metadata, tensors, None)
    del metadata
    _write_parts((path,), parts, threads, progress)
    _read_back(path, parts[0], path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    header: bytearray
    tensors: tuple[PlannedTensor, ...]

    @property
    def size_bytes(self) -> int:
        return len(self.header) + sum(padded(t.size_bytes) for t in self.tensors)


def _parts(
    metadata: Metadata, tensors: Sequence[PlannedTensor], split_bytes: int | None
) -> list[_Part]:
    groups: list[list[PlannedTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if split_bytes is not None and groups[-1] and size + tensor.size_bytes > split_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.size_bytes
    count = len(groups)
    if count == 1:
        return [_Part(header=_header(metadata, tensors), tensors=tuple(tensors))]
    if count > MAX_PARTS:
        raise UsageError(
            f"Parts of {split_bytes} bytes would be {count}, more than {MAX_PARTS}.",
            way_out="Choose larger parts.",
        )
    parts = []
    for i, group in enumerate(groups):
        place = _pairs(
            {
                "split.no": Number(kind=ValueType.UINT16, value=i),
                "split.count": Number(kind=ValueType.UINT16, value=count),
                "split.tensors.count": Number(kind=ValueType.INT32, value=len(tensors)),
            }
        )
        own = _pairs(metadata if i == 0 else {})
        keys = Pairs(count=own.count + place.count, data=own.data + place.data)
        parts.append(_Part(header=_header(keys, group), tensors=tuple(group)))
    return parts


def _write_parts(
    paths: Sequence[Path], parts: Sequence[_Part], threads: int, progress: Progress | None
) -> None:
    total = sum(part.size_bytes for part in parts)
    done = 0
    for path, part in zip(paths, parts, strict=True):
        with path.open("r+b", buffering=0) as file:
            end = done + part.size_bytes
            _write_part(file, part, threads, part_of(progress, done / total, end / total))
        done = end


def _write_part(file: BinaryIO, part: _Part, threads: int, progress: Progress | None) -> None:
    _write_all(file, part.header)
    done, told, size = len(part.header), 0.0, 0
    for tensor, slab in _in_order(_jobs(part.tensors), threads):
        if slab is not None:
            size += _write_all(file, slab)
        else:  # the tensor's end
            if size != tensor.size_bytes:
                raise ValueError(f"{tensor.name}: {size} bytes came, not {tensor.size_bytes}")
            _write_all(file, bytes(padded(size) - size))
            done += padded(size)
            size = 0
        fraction = (done + size) / part.size_bytes
        if progress is not None and fraction - told >= 0.01:
            progress(fraction)
            told = fraction


_Job = tuple[PlannedTensor, Slab | Callable[[], Slab] | None]


def _jobs(tensors: Iterable[PlannedTensor]) -> Iterator[_Job]:
    for tensor in tensors:
        for slab in tensor.slabs():
            yield tensor, slab
        yield tensor, None


def _in_order(jobs: Iterator[_Job], threads: int) -> Iterator[tuple[PlannedTensor, Slab | None]]:
    """Makes slabs on threads, a few ahead of the one that is taken."""
    ahead = 2 * threads
    waiting: deque[tuple[PlannedTensor, Slab | Future[Slab] | None]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for tensor, slab in jobs:
                waiting.append((tensor, pool.submit(slab) if callable(slab) else slab))
                if len(waiting) > ahead:
                    yield _made(*waiting.popleft())
            while waiting:
                yield _made(*waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _made(
    tensor: PlannedTensor, slab: Slab | Future[Slab] | None
) -> tuple[PlannedTensor, Slab | None]:
    return tensor, slab.result() if isinstance(slab, Future) else slab


def _read_back(path: Path, part: _Part, out: Path) -> None:
    """Compares what is in the file with what was meant to be written."""
    try:
        header = read_header(path)
    except ArtifactError as error:
        raise _unreliable(out, error.cause or error.fact) from error
    found = [(t.name, t.dims, t.type, t.size_bytes) for t in header.tensors]
    if found != [(t.name, t.dims, t.type, t.size_bytes) for t in part.tensors]:
        raise _unreliable(out, "Its table of tensors is another.")
    if header.file_bytes != part.size_bytes:
        raise _unreliable(out, f"It has {header.file_bytes} bytes, not {part.size_bytes}.")


def _unreliable(out: Path, cause: str) -> DiskError:
    return DiskError(
        f"{out} reads back otherwise than it was written.",
        cause=cause,
        way_out="Check the disk, or choose a directory on another.",
    )


def _header(metadata: Metadata, tensors: Sequence[PlannedTensor]) -> bytearray:
    pairs = _pairs(metadata)
    header = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), pairs.count))
    header += pairs.data
    offset = 0
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names or len(tensor.name.encode()) > NAME_BYTES:
            raise ValueError(f"the tensor name {tensor.name!r} is used twice or too long")
        names.add(tensor.name)
        header += _string(tensor.name) + struct.pack("<I", len(tensor.dims))
        header += struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims)
        header += struct.pack("<IQ", tensor.type.id, offset)
        offset += padded(tensor.size_bytes)
    header += bytes(padded(len(header)) - len(header))
    return header


def _pairs(metadata: Metadata) -> Pairs:
    if isinstance(metadata, Pairs):
        return metadata
    # One growing array: a vocabulary is hundreds of thousands of strings.
    data = bytearray()
    for key, value in metadata.items():
        data += _string(key)
        _add_value(data, key, value)
    return Pairs(count=len(metadata), data=data)


def _add_value(header: bytearray, key: str, value: Value) -> None:
    if isinstance(value, tuple):  # of one type, which `_items_kind` finds and no checker follows
        value = Array(kind=_items_kind(key, value), items=value)  # type: ignore[arg-type]
    if isinstance(value, Array):
        header += struct.pack("<IIQ", ValueType.ARRAY, value.kind, len(value.items))
        if value.kind is ValueType.STRING:
            for item in value.items:
                header += _string(str(item))
        else:
            header += struct.pack(f"<{len(value.items)}{_CODES[value.kind]}", *value.items)
        return
    kind = value.kind if isinstance(value, Number) else _kind(key, value)
    header += struct.pack("<I", kind)
    if isinstance(value, Number):
        value = value.value
    header += _string(value) if isinstance(value, str) else struct.pack("<" + _CODES[kind], value)


def _kind(key: str, value: object) -> ValueType:
    if isinstance(value, bool):
        return ValueType.BOOL
    if isinstance(value, str):
        return ValueType.STRING
    if isinstance(value, float):
        return ValueType.FLOAT32
    if isinstance(value, int):
        for kind in (ValueType.UINT32, ValueType.INT32, ValueType.UINT64, ValueType.INT64):
            bits = 8 * struct.calcsize(_CODES[kind])
            low = -(2 ** (bits - 1)) if kind in (ValueType.INT32, ValueType.INT64) else 0
            if low <= value < low + 2**bits:
                return kind
    raise ValueError(f"{key}: {value!r:.60} has no GGUF type")


def _items_kind(key: str, items: tuple[object, ...]) -> ValueType:
    kinds = {_kind(key, item) for item in items}
    if kinds == {ValueType.UINT32, ValueType.INT32}:
        return ValueType.INT32
    if len(kinds) != 1:
        raise ValueError(f"{key}: an array holds values of one kind, at least one")
    return kinds.pop()


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def padded(size: int) -> int:
    """Bytes up to where the next tensor starts: the format's default, so no key has to say it."""
    return -(-size // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _write_all(file: BinaryIO, data: Slab | bytearray) -> int:
    view = memoryview(data).cast("B") if data else memoryview(b"")
    size = view.nbytes
    while view:  # a raw write may take only part of the bytes, near a full disk
        view = view[file.write(view) :]
    return size
