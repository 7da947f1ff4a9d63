"""Reads the header of a GGUF file: metadata and the table of tensors, never their data.

The bytes may come from anyone, so every count, length and offset is checked against the file before
it is believed, and memory stays bounded by the header. Large arrays (a vocabulary) are walked over
and left in the file. Layout: the GGUF specification, versions 2 and 3, little-endian. This module
knows nothing of architectures.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, NoReturn

from ..errors import ArtifactError, FormatError, ModelNotFoundError, UnsupportedError
from ..units import format_bytes
from .ggml import GGMLType, ValueType, ggml_type

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32

# Far beyond any real file, and small enough that a hostile one cannot exhaust memory or patience.
_MAX_HEADER_BYTES = 256 * 1024**2
_MAX_TENSORS = 100_000
_MAX_PAIRS = 100_000
_MAX_STRING_BYTES = 16 * 1024**2
_MAX_KEY_BYTES = 65_535
_MAX_NAME_BYTES = 63  # ggml's own limit
_MAX_DIMS = 4
_MAX_DEPTH = 3
_MAX_ALIGNMENT = 65_536
_SMALL_ARRAY = 1024
_FIRST_READ_BYTES = 1024**2

_LEAST_PAIR_BYTES = 13  # empty key, type, one byte of value
_LEAST_TENSOR_BYTES = 24  # empty name, number of dims, type, offset

_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from
_SCALARS: Mapping[ValueType, struct.Struct] = {
    ValueType.UINT8: struct.Struct("<B"),
    ValueType.INT8: struct.Struct("<b"),
    ValueType.UINT16: struct.Struct("<H"),
    ValueType.INT16: struct.Struct("<h"),
    ValueType.UINT32: struct.Struct("<I"),
    ValueType.INT32: struct.Struct("<i"),
    ValueType.FLOAT32: struct.Struct("<f"),
    ValueType.BOOL: struct.Struct("<?"),
    ValueType.UINT64: struct.Struct("<Q"),
    ValueType.INT64: struct.Struct("<q"),
    ValueType.FLOAT64: struct.Struct("<d"),
}
_AGAIN = "Download or convert the file again."


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
class ArrayRef:
    """A large array left in the file: its element type, length, and where its elements begin."""

    path: Path
    type: ValueType
    count: int
    offset_bytes: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[object]:
        return iter(self.load())

    def load(self) -> tuple[object, ...]:
        """Reads the elements. Strings come as str, undecodable bytes replaced.

        Raises FormatError when the file has changed underneath.
        """
        with _opened(self.path) as file:
            cursor = _Cursor(file, self.path, start=self.offset_bytes)
            return cursor.elements(self.type, self.count, depth=1)


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
    with _opened(where) as file:
        cursor = _Cursor(file, where)
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


class _Cursor:
    """A position in a file, read ahead in growing steps; every read is checked against the end."""

    def __init__(self, file: BinaryIO, path: Path, *, start: int = 0) -> None:
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0
        """Counted from `start`; errors name the position in the file."""
        self._start = start
        self._file = file
        self._limit = max(min(self.size - start, _MAX_HEADER_BYTES), 0)
        file.seek(start)
        self._data = file.read(min(_FIRST_READ_BYTES, self._limit))

    def broken(self, cause: str) -> NoReturn:
        """Raises the FormatError of this file."""
        raise FormatError(
            f"{self.path.name} is not a sound GGUF file.", cause=cause, way_out=_AGAIN
        )

    def consumed(self) -> bytes:
        """All bytes read so far, from the start to the position."""
        return self._data[: self.position]

    def peek(self, count: int) -> bytes:
        """The first bytes of the file, fewer where it ends."""
        return self._data[:count]

    def expect(self, count: int, least_bytes: int, most: int, what: str) -> None:
        """Refuses a count that the rest of the file cannot hold, before anything is made of it."""
        if count > most or count * least_bytes > self.size - self._start - self.position:
            self.broken(
                f"It claims {count} {what}; its {format_bytes(self.size)} cannot hold them."
            )

    def u32(self, what: str) -> int:
        """An unsigned 32-bit number."""
        self._need(4, what)
        value: int = _U32(self._data, self.position)[0]
        self.position += 4
        return value

    def u64(self, what: str) -> int:
        """An unsigned 64-bit number."""
        self._need(8, what)
        value: int = _U64(self._data, self.position)[0]
        self.position += 8
        return value

    def text(self, what: str, most_bytes: int) -> bytes:
        """A length and that many bytes."""
        length = self.u64(f"the length of {what}")
        if length > most_bytes:
            self.broken(f"{what.capitalize()} is said to be {length} bytes long.")
        self._need(length, what)
        value = self._data[self.position : self.position + length]
        self.position += length
        return value

    def value_type(self, what: str) -> ValueType:
        """The number of a value type."""
        number = self.u32(f"the type of {what}")
        try:
            return ValueType(number)
        except ValueError:
            self.broken(f"{what.capitalize()} has the unknown value type {number}.")

    def value(self, kind: ValueType, key: str) -> object:
        """A metadata value of that type; a long array is skipped and referred to."""
        if kind is ValueType.STRING:
            return self.text(f"the value of {key!r}", _MAX_STRING_BYTES).decode("utf-8", "replace")
        if kind is ValueType.ARRAY:
            return self._array(key)
        return self.elements(kind, 1, depth=0)[0]

    def elements(self, kind: ValueType, count: int, *, depth: int) -> tuple[object, ...]:
        """The elements of an array that fits in memory."""
        if kind is ValueType.STRING:
            return tuple(
                self.text("a string", _MAX_STRING_BYTES).decode("utf-8", "replace")
                for _ in range(count)
            )
        if kind is ValueType.ARRAY:
            return tuple(self._inner_array(depth) for _ in range(count))
        scalar = _SCALARS[kind]
        self._need(count * scalar.size, "a value")
        values = struct.unpack_from(f"<{count}{scalar.format[1]}", self._data, self.position)
        self.position += count * scalar.size
        return values

    def _array(self, key: str) -> object:
        kind, count = self._array_head(f"the array {key!r}")
        if count <= _SMALL_ARRAY and kind is not ValueType.ARRAY:
            return self.elements(kind, count, depth=1)
        start = self._start + self.position
        self._skip(kind, count, depth=1)
        return ArrayRef(path=self.path, type=kind, count=count, offset_bytes=start)

    def _array_head(self, what: str) -> tuple[ValueType, int]:
        kind = self.value_type(what)
        count = self.u64(f"the length of {what}")
        width = _SCALARS[kind].size if kind in _SCALARS else 8
        self.expect(count, width, _MAX_HEADER_BYTES, f"elements in {what}")
        return kind, count

    def _inner_array(self, depth: int) -> tuple[object, ...]:
        if depth >= _MAX_DEPTH:
            self.broken(f"Its arrays are nested more than {_MAX_DEPTH} deep.")
        kind, count = self._array_head("an inner array")
        return self.elements(kind, count, depth=depth + 1)

    def _skip(self, kind: ValueType, count: int, *, depth: int) -> None:
        if kind is ValueType.STRING:
            self._skip_strings(count)
        elif kind is ValueType.ARRAY:
            if depth >= _MAX_DEPTH:
                self.broken(f"Its arrays are nested more than {_MAX_DEPTH} deep.")
            for _ in range(count):
                inner, inner_count = self._array_head("an inner array")
                self._skip(inner, inner_count, depth=depth + 1)
        else:
            self._need(count * _SCALARS[kind].size, "an array")
            self.position += count * _SCALARS[kind].size

    def _skip_strings(self, count: int) -> None:
        # The hot loop of opening a model: a vocabulary and its merges are 300,000 strings.
        position, data, unpack = self.position, self._data, _U64
        left = count
        while left:
            try:
                for left in range(left, 0, -1):  # noqa: B020 - the rest to do after a refill
                    position += 8 + unpack(data, position)[0]
                left = 0
            except (struct.error, IndexError, OverflowError):
                self.position = position
                self._need(8, "a string")
                data = self._data
        self.position = position
        self._need(0, "a string")

    def _need(self, count: int, what: str) -> None:
        end = self.position + count
        if end <= len(self._data):
            return
        if end > self._limit:
            if end > self.size - self._start:
                self.broken(f"It ends inside {what}, at byte {self.size}.")
            self.broken(f"Its header is larger than {format_bytes(_MAX_HEADER_BYTES)}.")
        wanted = min(max(end, 2 * len(self._data)), self._limit)
        self._data += self._file.read(wanted - len(self._data))
        if end > len(self._data):
            self.broken(f"It became shorter while being read, inside {what}.")


def _opened(path: Path) -> BinaryIO:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ModelNotFoundError(
            f"There is no file {path}.", way_out="See what is on this disk: edge models"
        ) from None
    except IsADirectoryError:
        raise ModelNotFoundError(f"{path} is a directory, not a GGUF file.") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read.", cause=f"{error}.") from error
    return file


_OTHER_FORMATS = (
    (b"lmgg", "an old GGML file", "Look for a GGUF version of the model."),
    (b"tjgg", "an old GGJT file", "Look for a GGUF version of the model."),
    (b"fmgg", "an old GGMF file", "Look for a GGUF version of the model."),
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the model itself: git lfs pull"),
    (b"<!DOCTYPE", "a web page", "Download the file itself, not the page about it."),
    (b"<html", "a web page", "Download the file itself, not the page about it."),
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint", "Convert the model first."),
)


def _read_version(cursor: _Cursor) -> int:
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
            way_out=_AGAIN,
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
            f"{name} is of GGUF version {version}; versions 2 and 3 are read.", way_out=_AGAIN
        )
    return version


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, object]:
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


def _alignment(cursor: _Cursor, metadata: Mapping[str, object]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(value) is not int or not 1 <= value <= _MAX_ALIGNMENT or value & (value - 1):
        cursor.broken(f"Its alignment is {value!r}, not a power of two up to {_MAX_ALIGNMENT}.")
    return value


_RawTensor = tuple[str, tuple[int, ...], GGMLType, int]


def _read_tensor(cursor: _Cursor) -> _RawTensor:
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
    kind = ggml_type(cursor.u32(f"the tensor {name!r}"))
    if dims[0] % kind.block_elements:
        cursor.broken(
            f"The rows of {name!r} hold {dims[0]} elements, no multiple of the"
            f" {kind.block_elements} of a {kind.name} block."
        )
    return name, dims, kind, cursor.u64(f"the tensor {name!r}")


def _placed(
    cursor: _Cursor, raw: list[_RawTensor], data_offset: int, alignment: int
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
        twice = next(a for a, b in zip(names, names[1:], strict=False) if a == b)
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
