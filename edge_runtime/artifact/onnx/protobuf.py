"""Reads the wire format of protocol buffers from a file whose bytes may come from anyone.

A message is walked field by field without loading it: long payloads are stepped over and stay in
the file. Every length is checked against the message around it before it is believed. It knows
varints and lengths, not what a field means.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from ...errors import FormatError
from ...units import format_bytes

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_WINDOW_BYTES = 1 << 16
_MAX_VARINT_BYTES = 10
_MAX_FIELDS = 4_000_000
_MAX_HEADER_BYTES = 192 * 1024**2
"""What may remain of a file without its payloads: far beyond any real graph."""
_PAYLOAD_BYTES = 1024
"""Payloads from here on are left out of the digest."""


class Field(NamedTuple):
    """One field of a message: its number and wire type, and where its value is.

    `value` is the number of a varint or of a fixed field (its bits); of a field of bytes, `start`
    and `end` say where in the file they lie.
    """

    number: int
    wire: int
    value: int
    start: int
    end: int


class Wire:
    """A file of one message, read through a window; every read is checked against the end."""

    def __init__(self, file: BinaryIO, path: Path, what: str) -> None:
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self._what = what
        self._file = file
        self._fields = 0
        self._start = 0
        self._window = b""
        self._skipped: list[tuple[int, int]] = []
        self._skipped_bytes = 0

    def broken(self, cause: str) -> NoReturn:
        """Raises the FormatError of this file."""
        raise FormatError(
            f"{self.path.name} is not a sound {self._what} file.",
            cause=cause,
            way_out="Download or convert the file again.",
        )

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message between two offsets of the file, in order."""
        position = start
        while position < end:
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                self.broken(f"It has more than {_MAX_FIELDS:,} fields.")
            tag, position = self._varint(position, end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 2**29:
                self.broken(f"A field at byte {position} has the number {number}.")
            if wire == BYTES:
                length, position = self._varint(position, end)
                if length > end - position:
                    self._cut_off(position, length)
                yield Field(number, wire, length, position, position + length)
                position += length
            elif wire == VARINT:
                value, position = self._varint(position, end)
                yield Field(number, wire, value, position, position)
            elif wire in (FIXED64, FIXED32):
                width = 8 if wire == FIXED64 else 4
                if width > end - position:
                    self._cut_off(position, width)
                value = int.from_bytes(self._read(position, width), "little")
                position += width
                yield Field(number, wire, value, position - width, position)
            else:
                self.broken(f"A field at byte {position} is of the unknown wire type {wire}.")

    def data(self, field: Field, most_bytes: int, what: str) -> bytes:
        """The bytes of a field, which may not be longer than `most_bytes`."""
        if field.wire != BYTES:
            self.broken(f"{what.capitalize()} is a number.")
        if field.end - field.start > most_bytes:
            size = format_bytes(field.end - field.start)
            self.broken(f"{what.capitalize()} is said to be {size} long.")
        return self._read(field.start, field.end - field.start)

    def text(self, field: Field, most_bytes: int, what: str) -> str:
        """The text of a field; undecodable bytes become escapes."""
        return self.data(field, most_bytes, what).decode("utf-8", "backslashreplace")

    def numbers(self, field: Field, most: int, what: str) -> tuple[int, ...]:
        """The signed 64-bit numbers of a repeated field, packed or one at a time."""
        if field.wire == VARINT:
            return (signed(field.value),)
        if field.wire != BYTES:
            self.broken(f"{what.capitalize()} is no list of whole numbers.")
        found: list[int] = []
        position = field.start
        while position < field.end:
            value, position = self._varint(position, field.end)
            found.append(signed(value))
            if len(found) > most:
                self.broken(f"{what.capitalize()} has more than {most} numbers.")
        return tuple(found)

    def skip(self, field: Field) -> None:
        """Says that the bytes of a field are data that are not read, in the order of the file."""
        if field.end - field.start >= _PAYLOAD_BYTES:
            self._skipped.append((field.start, field.end))
            self._skipped_bytes += field.end - field.start

    def check_header(self) -> None:
        """Refuses a file that is implausibly large without the payloads skipped so far."""
        if self.size - self._skipped_bytes > _MAX_HEADER_BYTES:
            self.broken(
                f"{format_bytes(self.size - self._skipped_bytes)} of it are no weights; a graph"
                f" has up to {format_bytes(_MAX_HEADER_BYTES)}."
            )

    def digest(self) -> str:
        """The SHA-256 of everything that was not skipped, and of the file's size."""
        self.check_header()
        digest = hashlib.sha256(str(self.size).encode())
        position = 0
        for start, end in (*sorted(self._skipped), (self.size, self.size)):
            while position < start:
                chunk = self._read(position, min(_WINDOW_BYTES, start - position))
                digest.update(chunk)
                position += len(chunk)
            position = max(position, end)
        return digest.hexdigest()

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        at = position - self._start
        if not 0 <= at <= len(self._window) - _MAX_VARINT_BYTES:
            self._load(position)
            at = 0
        value = shift = 0
        for byte in self._window[at : at + min(_MAX_VARINT_BYTES, end - position)]:
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        else:
            if shift < 7 * _MAX_VARINT_BYTES:
                self._cut_off(position, 1)
            self.broken(f"The number before byte {position} has no end.")
        if value >= 2**64:
            self.broken(f"The number before byte {position} is too large.")
        return value, position

    def _read(self, position: int, count: int) -> bytes:
        at = position - self._start
        if at < 0 or at + count > len(self._window):
            if count > _WINDOW_BYTES:
                self._file.seek(position)
                return self._whole(self._file.read(count), count, position)
            self._load(position)
            at = 0
        return self._whole(self._window[at : at + count], count, position)

    def _whole(self, data: bytes, count: int, position: int) -> bytes:
        if len(data) != count:
            self.broken(f"It became shorter while being read, at byte {position}.")
        return data

    def _load(self, position: int) -> None:
        self._file.seek(position)
        self._start = position
        self._window = self._file.read(_WINDOW_BYTES)

    def _cut_off(self, position: int, length: int) -> NoReturn:
        if position + length > self.size:
            self.broken(
                f"It is cut off: a field at byte {position} wants {length} bytes, and the file ends"
                f" at byte {self.size}."
            )
        self.broken(f"A field at byte {position} reaches beyond the message it is in.")


def signed(value: int) -> int:
    """A varint's 64 bits as a signed number."""
    return value - 2**64 if value >= 2**63 else value
