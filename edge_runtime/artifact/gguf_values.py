"""Reads the values a GGUF file is made of, from bytes that may come from anyone.

Every length and count is checked against the file before it is believed, and memory stays bounded:
long arrays are walked over and left in the file. It knows values, not what a header says with them.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from ..errors import ArtifactError, FormatError, ModelNotFoundError
from ..units import format_bytes
from .ggml import ValueType

# Far beyond any real file, and small enough that a hostile one cannot exhaust memory or patience.
_MAX_HEADER_BYTES = 128 * 1024**2
_MAX_STRING_BYTES = 16 * 1024**2
_MAX_DEPTH = 3
_MAX_INNER_ARRAYS = 100_000
_MAX_KEPT_ELEMENTS = 1_000_000
_SMALL_ARRAY = 1024
_FIRST_READ_BYTES = 16 * 1024**2  # the header of nearly every model, in one read

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

AGAIN = "Download or convert the file again."


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
        with opened(self.path) as file:
            cursor = Cursor(file, self.path, start=self.offset_bytes)
            return cursor.elements(self.type, self.count, depth=1)


class Cursor:
    """A position in a file, read ahead in growing steps; every read is checked against the end."""

    def __init__(self, file: BinaryIO, path: Path, *, start: int = 0) -> None:
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0
        """Counted from `start`; errors name the position in the file."""
        self._start = start
        self._file = file
        self._inner_arrays = 0
        self._kept_elements = 0
        self._limit = max(min(self.size - start, _MAX_HEADER_BYTES), 0)
        file.seek(start)
        self._data = file.read(min(_FIRST_READ_BYTES, self._limit))

    def broken(self, cause: str) -> NoReturn:
        """Raises the FormatError of this file."""
        raise FormatError(f"{self.path.name} is not a sound GGUF file.", cause=cause, way_out=AGAIN)

    def consumed(self) -> memoryview:
        """All bytes read so far, from the start to the position."""
        return memoryview(self._data)[: self.position]

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
            self._kept_elements += count
            if self._kept_elements <= _MAX_KEPT_ELEMENTS:
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
        kind, count = self._inner_head(depth)
        return self.elements(kind, count, depth=depth + 1)

    def _inner_head(self, depth: int) -> tuple[ValueType, int]:
        self._inner_arrays += 1
        if depth >= _MAX_DEPTH or self._inner_arrays > _MAX_INNER_ARRAYS:
            self.broken("Its arrays are nested too deep or too often.")
        return self._array_head("an inner array")

    def _skip(self, kind: ValueType, count: int, *, depth: int) -> None:
        if kind is ValueType.STRING:
            self._skip_strings(count)
        elif kind is ValueType.ARRAY:
            for _ in range(count):
                self._skip(*self._inner_head(depth), depth=depth + 1)
        else:
            self._need(count * _SCALARS[kind].size, "an array")
            self.position += count * _SCALARS[kind].size

    def _skip_strings(self, count: int) -> None:
        # The hot loop of opening a model: a vocabulary and its merges are 300,000 strings.
        position, data, unpack = self.position, self._data, _U64
        steps = iter(range(count))
        more = True
        while more:
            try:
                for _ in steps:
                    position += 8 + unpack(data, position)[0]
                more = False
            except (struct.error, IndexError, OverflowError):
                # The step that failed has been taken off `steps`; it is done here, checked.
                self.position = position
                length = self.u64("a string")
                self._need(length, "a string")
                position, data = self.position + length, self._data
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


def opened(path: Path) -> BinaryIO:
    """Opens a file for reading.

    Raises ModelNotFoundError when there is none, ArtifactError when it cannot be read.
    """
    try:
        # A pipe or a device would block, or never end.
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise ModelNotFoundError(f"{path} is no regular file.")
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
