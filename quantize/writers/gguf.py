"""Writes GGUF files, version 3: header and tensor table first, then the tensors' bytes in slabs.

Knows the format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), nothing of what a key
or a tensor means. Memory does not grow with the file: a tensor's bytes come from an iterator.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edge_runtime.artifact import GGMLType
from edge_runtime.artifact.ggml import ValueType

from .whole_file import whole_file

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
"""Tensors start at multiples of this: the format's default, so no key has to say it."""

NAME_BYTES = 63
"""The longest tensor name llama.cpp keeps (GGML_MAX_NAME less its terminator)."""

Progress = Callable[[float], None]
"""Told now and then what part of the work is done, from 0 to 1; what it raises stops the work."""


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


Value = str | bool | int | float | Array | tuple[object, ...]
"""A metadata value. An int is stored as UINT32 where it fits, a float as FLOAT32, as llama.cpp's
own keys are; a tuple is an array of what its items are (negative integers make it INT32)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTensor:
    """A tensor to be written: `dims` in ggml's order (row length first), and where bytes come from.

    `slabs` is called once, when the tensor's turn comes; together its pieces have `size_bytes`.
    """

    name: str
    dims: tuple[int, ...]
    type: GGMLType
    slabs: Callable[[], Iterable[bytes | memoryview]]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor's data, without padding."""
        return self.type.size_bytes(self.dims)


def file_bytes(metadata: Mapping[str, Value], tensors: Sequence[PlannedTensor]) -> int:
    """Returns the exact size of the file `write` would make."""
    return len(_header(metadata, tensors)) + sum(_padded(t.size_bytes) for t in tensors)


def write(
    out: Path,
    metadata: Mapping[str, Value],
    tensors: Sequence[PlannedTensor],
    *,
    progress: Progress | None = None,
) -> None:
    """Writes a GGUF file, whole or not at all.

    Raises DiskError when it cannot be written and ValueError when the plan contradicts itself: a
    name twice or too long, a kind of value GGUF has not, slabs of another size than the tensor.
    """
    header = _header(metadata, tensors)
    total = len(header) + sum(_padded(t.size_bytes) for t in tensors)
    with whole_file(out, total) as temporary, temporary.open("wb", buffering=0) as file:
        _write_all(file, header)
        done, told = len(header), 0.0
        for tensor in tensors:
            size = 0
            for slab in tensor.slabs():
                size += _write_all(file, slab)
                fraction = (done + size) / total
                if progress is not None and fraction - told >= 0.01:
                    progress(fraction)
                    told = fraction
            if size != tensor.size_bytes:
                raise ValueError(f"{tensor.name}: {size} bytes came, not {tensor.size_bytes}")
            _write_all(file, bytes(_padded(size) - size))
            done += _padded(size)
    if progress is not None:
        progress(1.0)


def _header(metadata: Mapping[str, Value], tensors: Sequence[PlannedTensor]) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts.append(_string(key))
        parts.extend(_value(key, value))
    offset = 0
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names or len(tensor.name.encode()) > NAME_BYTES:
            raise ValueError(f"the tensor name {tensor.name!r} is used twice or too long")
        names.add(tensor.name)
        parts += [_string(tensor.name), struct.pack("<I", len(tensor.dims))]
        parts.append(struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims))
        parts.append(struct.pack("<IQ", tensor.type.id, offset))
        offset += _padded(tensor.size_bytes)
    size = sum(map(len, parts))
    parts.append(bytes(_padded(size) - size))
    return b"".join(parts)


def _value(key: str, value: Value) -> Iterator[bytes]:
    if isinstance(value, tuple):
        value = Array(kind=_items_kind(key, value), items=value)  # type: ignore[arg-type]
    if isinstance(value, Array):
        yield struct.pack("<IIQ", ValueType.ARRAY, value.kind, len(value.items))
        if value.kind is ValueType.STRING:
            yield from (_string(str(item)) for item in value.items)
        else:
            yield struct.pack(f"<{len(value.items)}{_CODES[value.kind]}", *value.items)
        return
    kind = _kind(key, value)
    yield struct.pack("<I", kind)
    yield _string(value) if isinstance(value, str) else struct.pack("<" + _CODES[kind], value)


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


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _write_all(file: BinaryIO, data: bytes | memoryview) -> int:
    view = memoryview(data).cast("B") if data else memoryview(b"")
    while view:  # a raw write may take only part of the bytes, near a full disk
        view = view[file.write(view) :]
    return len(data) if isinstance(data, bytes) else data.nbytes
