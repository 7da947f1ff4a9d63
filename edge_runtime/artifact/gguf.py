"""Reads the header of a GGUF file: metadata and the table of tensors, never their data.

Layout and rules are those of the GGUF specification, versions 2 and 3, little-endian. The bytes may
come from anyone: every count, name, dimension and offset is checked before it is believed. This
module knows nothing of architectures.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..errors import FormatError, UnsupportedError
from .ggml import GGMLType, ggml_type
from .gguf_values import AGAIN, Cursor, opened

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32

_MAX_TENSORS = 100_000
_MAX_PAIRS = 100_000
_MAX_KEY_BYTES = 65_535
_MAX_NAME_BYTES = 63  # ggml's own limit
_MAX_DIMS = 4
_MAX_ALIGNMENT = 65_536

_LEAST_PAIR_BYTES = 13  # empty key, type, one byte of value
_LEAST_TENSOR_BYTES = 24  # empty name, number of dims, type, offset


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor of a file: dims with the row length first, and where its bytes lie.

    `offset_bytes` counts from the start of the file of part `part`.
    """

    name: str
    dims: tuple[int, ...]
    type: GGMLType
    offset_bytes: int
    size_bytes: int
    part: int = 0

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFHeader:
    """What the header of one GGUF file says.

    Metadata values are scalars, strings, tuples for short arrays and `ArrayRef` for long ones.
    `digest` is the SHA-256 of the header's bytes and the file's size.
    """

    path: Path
    version: int
    metadata: Mapping[str, object]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset_bytes: int
    file_bytes: int
    digest: str


def read_header(path: str | os.PathLike[str]) -> GGUFHeader:
    """Reads and checks the header of one GGUF file.

    Raises ModelNotFoundError when there is none, FormatError when it is truncated or malformed,
    UnsupportedError when it is of another format, version or byte order.
    """
    where = Path(path)
    with opened(where) as file:
        cursor = Cursor(file, where)
        version = _read_version(cursor)
        tensor_count = cursor.u64("the number of tensors")
        pair_count = cursor.u64("the number of metadata pairs")
        cursor.expect(tensor_count, _LEAST_TENSOR_BYTES, _MAX_TENSORS, "tensors")
        cursor.expect(pair_count, _LEAST_PAIR_BYTES, _MAX_PAIRS, "metadata pairs")
        metadata = _read_metadata(cursor, pair_count)
        alignment = _alignment(cursor, metadata)
        raw = [_read_tensor(cursor) for _ in range(tensor_count)]
        data_offset = -(-cursor.position // alignment) * alignment
        tensors = _placed(cursor, raw, data_offset, alignment)
        digest = hashlib.sha256(cursor.consumed())
        digest.update(str(cursor.size).encode())
        return GGUFHeader(
            path=where,
            version=version,
            metadata=MappingProxyType(metadata),
            tensors=tensors,
            alignment=alignment,
            data_offset_bytes=data_offset,
            file_bytes=cursor.size,
            digest=digest.hexdigest(),
        )


_OTHER_FORMATS = (
    (b"lmgg", "an old GGML file", "Look for a GGUF version of the model."),
    (b"tjgg", "an old GGJT file", "Look for a GGUF version of the model."),
    (b"fmgg", "an old GGMF file", "Look for a GGUF version of the model."),
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the model itself: git lfs pull"),
    (b"<!DOCTYPE", "a web page", "Download the file itself, not the page about it."),
    (b"<html", "a web page", "Download the file itself, not the page about it."),
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint", "Convert the model first."),
)


def _read_version(cursor: Cursor) -> int:
    name = cursor.path.name
    start = cursor.peek(24)
    if not start.startswith(MAGIC):
        for magic, what, way_out in _OTHER_FORMATS:
            if start.startswith(magic):
                raise UnsupportedError(f"{name} is {what}, not a GGUF file.", way_out=way_out)
        found = start[:4].decode("ascii", "backslashreplace") if start else ""
        raise FormatError(
            f"{name} is not a GGUF file.",
            cause=f"It begins with {found!r} instead of 'GGUF'." if start else "It is empty.",
            way_out=AGAIN,
        )
    cursor.u32("the magic")
    version = cursor.u32("the version")
    if version & 0xFFFF == 0 and version:
        raise UnsupportedError(
            f"{name} is a big-endian GGUF file.",
            cause="It was made for a machine with the other byte order.",
            way_out="Use the little-endian file, or convert the model again without --bigendian.",
        )
    if version not in (2, 3):
        raise UnsupportedError(
            f"{name} is of GGUF version {version}; versions 2 and 3 are read.", way_out=AGAIN
        )
    return version


def _read_metadata(cursor: Cursor, count: int) -> dict[str, object]:
    metadata: dict[str, object] = {}
    for _ in range(count):
        try:
            key = cursor.text("a metadata key", _MAX_KEY_BYTES).decode("utf-8")
        except UnicodeDecodeError:
            cursor.broken("A metadata key is not UTF-8 text.")
        if key in metadata:
            cursor.broken(f"The metadata key {key[:80]!r} stands there twice.")
        kind = cursor.value_type(f"the value of {key[:80]!r}")
        metadata[key] = cursor.value(kind, key[:80])
    return metadata


def _alignment(cursor: Cursor, metadata: Mapping[str, object]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(value) is not int or not 1 <= value <= _MAX_ALIGNMENT or value & (value - 1):
        cursor.broken(f"Its alignment is {value!r}, not a power of two up to {_MAX_ALIGNMENT}.")
    return value


_RawTensor = tuple[str, tuple[int, ...], GGMLType, int]


def _read_tensor(cursor: Cursor) -> _RawTensor:
    try:
        name = cursor.text("a tensor name", _MAX_NAME_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        cursor.broken("A tensor name is not UTF-8 text.")
    dimensions = cursor.u32(f"the tensor {name!r}")
    if dimensions > _MAX_DIMS:
        cursor.broken(f"The tensor {name!r} has {dimensions} dimensions; {_MAX_DIMS} are allowed.")
    dims = tuple(cursor.u64(f"the tensor {name!r}") for _ in range(dimensions)) or (1,)
    if 0 in dims or math.prod(dims) >= 2**63:
        cursor.broken(f"The tensor {name!r} has the impossible dimensions {dims}.")
    try:
        kind = ggml_type(cursor.u32(f"the tensor {name!r}"))
    except UnsupportedError as error:
        raise UnsupportedError(
            f"{cursor.path.name}: the tensor {name!r} is of an unknown type.",
            cause=error.fact,
            way_out=error.way_out,
        ) from None
    if dims[0] % kind.block_elements:
        cursor.broken(
            f"The rows of {name!r} hold {dims[0]} elements, no multiple of the"
            f" {kind.block_elements} of a {kind.name} block."
        )
    return name, dims, kind, cursor.u64(f"the tensor {name!r}")


def _placed(
    cursor: Cursor, raw: list[_RawTensor], data_offset: int, alignment: int
) -> tuple[TensorInfo, ...]:
    """Checks where the tensors lie: aligned, inside the file, apart from each other, named once."""
    tensors = tuple(
        TensorInfo(
            name=name,
            dims=dims,
            type=kind,
            offset_bytes=data_offset + offset,
            size_bytes=kind.size_bytes(dims),
        )
        for name, dims, kind, offset in raw
    )
    if len({tensor.name for tensor in tensors}) < len(tensors):
        names = sorted(tensor.name for tensor in tensors)
        twice = next(a for a, b in itertools.pairwise(names) if a == b)
        cursor.broken(f"The tensor {twice!r} stands there twice.")
    end, before = data_offset, ""
    for tensor in sorted(tensors, key=lambda t: t.offset_bytes):
        if (tensor.offset_bytes - data_offset) % alignment:
            cursor.broken(f"The data of {tensor.name!r} is not aligned to {alignment} bytes.")
        if tensor.offset_bytes < end:
            cursor.broken(f"The data of {tensor.name!r} and {before!r} overlap.")
        end, before = tensor.offset_bytes + tensor.size_bytes, tensor.name
    if end > cursor.size and tensors:
        raise FormatError(
            f"{cursor.path.name} is truncated.",
            cause=f"Its tensors end at byte {end}, the file at byte {cursor.size}.",
            way_out="Download the rest of it, or convert it again.",
        )
    return tensors
