"""A reference in a file: the distributions others are held against, in MiB instead of GiB.

The file holds what it was made of (artifact, engine, options, text), the passages' own token ids,
so that every artifact is scored on the very same, and one row of `kept` for each scored position.
It is checksummed, and appears whole under its name or not at all. A file may come from anyone:
sizes are checked against the file before memory is taken for them.

Layout, little-endian: magic, SHA-256 of all that follows it, length of the JSON header, numbers of
passages, of tokens and of rows; the header; first scored position and length of each passage,
uint32; token ids, uint32; rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import numpy.typing as npt

from ..codec import from_jsonable, to_jsonable
from ..errors import DiskError, FormatError, ModelNotFoundError
from ..measurement import ArtifactRecord, Engine, SessionOptions
from ..scores import ReferenceRecord, TextRecord
from ..units import format_bytes
from .kept import (
    MOST_VOCABULARY,
    ROUNDING,
    Doubles,
    Ids,
    ReferenceRows,
    Singles,
    pack,
    row_type,
    sound,
    unpack,
)
from .text import Passage, tokens_sha256
from .unfinished import begin_file, remove_stale

SCHEMA = 1
"""The number of the layout; a reader refuses one it does not know."""

_MAGIC = b"edge-ref"
_DIGEST = struct.Struct("<8s32s")
_COUNTS = struct.Struct("<QQQQ")
_MOST_HEADER_BYTES = 1 << 20
_SPARE_BYTES = 32 * 1024**2
_READ_BYTES = 1 << 20
_PACKED_BYTES = 32 * 1024**2
"""Of an exact reference the rows of one block take as much as the block."""
_MOST_TOKENS = 1 << 26
_AGAIN = "Remove the file: the next comparison makes it again."


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceHeader:
    """What a reference was made of, and how much of each distribution it keeps.

    `top` of the whole vocabulary is exact, and then nothing is drawn; see `kept.kept`. `seed`
    begins the random numbers that tokens are drawn by. `requested` are the options as they were
    asked for, `options` those in force.
    """

    created: str
    tool_version: str
    artifact: ArtifactRecord
    engine: Engine
    options: SessionOptions
    text: TextRecord
    vocabulary_tokens: int
    top: int
    drawn: int
    seed: int = 0
    requested: SessionOptions | None = None
    schema: int = field(default=SCHEMA)

    def record(self, size_bytes: int) -> ReferenceRecord:
        """The part of it that every score made with it carries."""
        return ReferenceRecord(
            artifact=self.artifact,
            engine=self.engine,
            vocabulary_tokens=self.vocabulary_tokens,
            top=self.top,
            drawn=self.drawn,
            size_bytes=size_bytes,
        )


def scored_tokens(passages: Sequence[Passage]) -> int:
    """How many tokens of some passages are scored."""
    return sum(len(passage.tokens) - 1 - passage.first for passage in passages)


class ReferenceWriter:
    """Writes a reference as its distributions come, in the order of the scored positions.

    The file is there after `finish`, and only then: left otherwise, a `with` block leaves nothing.
    Entering raises DiskError where the whole file has no room.
    """

    def __init__(self, path: Path, header: ReferenceHeader, passages: Sequence[Passage]) -> None:
        faults = _faults(header, passages)
        if faults:
            raise ValueError(faults)
        self._path = path
        self._header = header
        self._kind = row_type(header.vocabulary_tokens, header.top, header.drawn)
        self._left = scored_tokens(passages)
        self._start = _beginning(header, passages)
        self._random = np.random.default_rng(header.seed)
        self._digest = hashlib.sha256()
        self._temporary: Path | None = None
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        size_bytes = len(self._start) + self._left * self._kind.itemsize
        directory = self._path.parent
        try:
            remove_stale(directory)
            free_bytes = shutil.disk_usage(directory).free
            if free_bytes < size_bytes + _SPARE_BYTES:
                raise DiskError(
                    f"There is no room for the reference {self._path}.",
                    cause=f"It needs {format_bytes(size_bytes)} and {format_bytes(_SPARE_BYTES)} to"
                    f" spare; {format_bytes(free_bytes)} are free on that disk.",
                    way_out="Free some space, or take a shorter text.",
                )
            self._temporary, self._file = begin_file(directory)
        except OSError as error:
            self._discard()
            raise self._unwritable(error) from error
        self._write(self._start)
        return self

    def add(self, block: Singles, log_normalizers: Doubles, targets: Ids) -> None:
        """Adds the distributions after some scored positions, logits of (rows, vocabulary).

        `log_normalizers` are float64 of shape (rows,), `targets` the tokens that really follow.
        Raises BackendError for logits that are no numbers, DiskError where the disk is full.
        """
        shape = (len(targets), self._header.vocabulary_tokens)
        if len(targets) > self._left or block.shape != shape or len(log_normalizers) != shape[0]:
            raise ValueError(f"{block.shape} logits for {len(targets)} of {self._left} positions")
        step = max(1, _PACKED_BYTES // self._kind.itemsize)
        for start in range(0, len(targets), step):
            rows = slice(start, start + step)
            wanted = targets[rows]
            at = self._random.random(len(wanted))
            packed = pack(block[rows], log_normalizers[rows], wanted, self._kind, draw_at=at)
            self._write(packed.view(np.uint8).data)
            self._left -= len(wanted)

    def finish(self) -> ReferenceRecord:
        """Gives the file its name and says what it is. Raises DiskError."""
        if self._left or self._file is None or self._temporary is None:
            raise ValueError(f"{self._left} scored positions have no distribution")
        try:
            size_bytes = self._file.tell()
            self._file.seek(0)
            self._file.write(_DIGEST.pack(_MAGIC, self._digest.digest()))
            self._file.flush()
            os.fsync(self._file.fileno())
            if sys.platform == "win32":  # nothing open is renamed there
                self._file.close()
            self._temporary.replace(self._path)
            self._temporary = None
        except OSError as error:
            raise self._unwritable(error) from error
        self._discard()
        return self._header.record(size_bytes)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._discard()

    def _write(self, data: bytes | memoryview) -> None:
        if self._file is None:
            raise ValueError("the reference is not open")
        # The digest's own place is written last, and no part of what it is of.
        self._digest.update(data[_DIGEST.size :] if self._file.tell() == 0 else data)
        try:
            self._file.write(data)
        except OSError as error:
            self._discard()
            raise self._unwritable(error) from error

    def _discard(self) -> None:
        # Closing writes what is left in the buffer, and a full disk refuses that as well.
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None
        with contextlib.suppress(OSError):
            if self._temporary is not None:
                self._temporary.unlink()
        self._temporary = None

    def _unwritable(self, error: OSError) -> DiskError:
        return DiskError(
            f"The reference {self._path} cannot be written.",
            cause=f"{error.strerror or error}.",
            way_out="Free some space, or name another directory.",
        )


class Reference:
    """A reference that was opened: what it was made of, its passages, and its distributions."""

    def __init__(
        self,
        path: Path,
        header: ReferenceHeader,
        passages: tuple[Passage, ...],
        rows: npt.NDArray[np.void],
        size_bytes: int,
    ) -> None:
        self._path = path
        self.header = header
        self.passages = passages
        self._rows = rows
        self.record = header.record(size_bytes)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens a reference and reads it once, for its checksum.

        Raises ModelNotFoundError when nothing is there, FormatError for a file that is cut off,
        damaged or none, DiskError when it cannot be read.
        """
        try:
            if not path.is_file():  # a pipe would never end
                raise ModelNotFoundError(
                    f"There is no reference {path}.", way_out="Name the file of one."
                )
            with path.open("rb") as file:
                return cls(path, *_read(path, file))
        except OSError as error:
            raise DiskError(
                f"The reference {path} cannot be read.", cause=f"{error.strerror or error}."
            ) from error

    def nll(self) -> Doubles:
        """The reference's own negative log-likelihood of each scored token, in nats.

        Raises FormatError where there is none.
        """
        found = -self._rows["target_log_p"].astype(np.float64)
        if not (np.isfinite(found) & (found >= -ROUNDING)).all():
            raise _damaged(self._path, "It names probabilities that are none.")
        return np.maximum(found, 0.0)

    def rows(self, start: int, count: int) -> ReferenceRows:
        """The distributions of `count` scored positions from `start` on, counted over all passages.

        Raises FormatError where they name tokens that are none, or are no probabilities.
        """
        if start < 0 or count < 0 or start + count > len(self._rows):
            raise ValueError(f"{count} rows from {start} of {len(self._rows)}")
        rows = self._rows[start : start + count]
        if not sound(rows, self.header.vocabulary_tokens):
            raise _damaged(self._path, "It names tokens or probabilities that are none.")
        return unpack(rows)

    def close(self) -> None:
        """Lets go of the file; safe to call twice."""
        self._rows = np.zeros(0, self._rows.dtype)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _beginning(header: ReferenceHeader, passages: Sequence[Passage]) -> bytes:
    """The bytes before the rows, with zeros where the digest will be."""
    data = json.dumps(to_jsonable(header), separators=(",", ":"), allow_nan=False).encode()
    tokens = [token for passage in passages for token in passage.tokens]
    table = [(passage.first, len(passage.tokens)) for passage in passages]
    return b"".join(
        (
            _DIGEST.pack(_MAGIC, bytes(32)),
            _COUNTS.pack(len(data), len(passages), len(tokens), scored_tokens(passages)),
            data,
            np.array(table, "<u4").reshape(-1, 2).tobytes(),
            np.array(tokens, "<u4").tobytes(),
        )
    )


def _read(
    path: Path, file: IO[bytes]
) -> tuple[ReferenceHeader, tuple[Passage, ...], npt.NDArray[np.void], int]:
    size_bytes = os.fstat(file.fileno()).st_size
    start = file.read(_DIGEST.size + _COUNTS.size)
    if not start.startswith(_MAGIC):
        raise FormatError(f"{path.name} is no reference.", way_out="Name the file of one.")
    if len(start) < _DIGEST.size + _COUNTS.size:
        raise _damaged(path, "It is cut off.")
    header_bytes, passage_count, token_count, rows = _COUNTS.unpack_from(start, _DIGEST.size)
    before_rows = len(start) + header_bytes + 8 * passage_count + 4 * token_count
    too_much = header_bytes > _MOST_HEADER_BYTES or token_count > _MOST_TOKENS
    # No passage is shorter than two tokens.
    if too_much or 2 * passage_count > token_count or before_rows > size_bytes:
        raise _damaged(path, "It is shorter than it says.")
    header = _header(path, file.read(header_bytes))
    kind = row_type(header.vocabulary_tokens, header.top, header.drawn)
    if size_bytes != before_rows + rows * kind.itemsize:
        raise _damaged(path, f"{format_bytes(size_bytes)} are not what it says it takes.")
    file.seek(_DIGEST.size)
    digest = hashlib.sha256()
    while data := file.read(_READ_BYTES):
        digest.update(data)
    if digest.digest() != _DIGEST.unpack_from(start)[1]:
        raise _damaged(path, "Its checksum is another.")
    file.seek(len(start) + header_bytes)
    table = np.frombuffer(file.read(8 * passage_count), "<u4").reshape(-1, 2).tolist()
    tokens = np.frombuffer(file.read(4 * token_count), "<u4").tolist()
    passages, at = [], 0
    for first, length in table:
        passages.append(Passage(tokens=tuple(tokens[at : at + length]), first=first))
        at += length
    faults = _faults(header, passages)
    if faults or scored_tokens(passages) != rows:
        raise _damaged(path, f"{faults or 'Its rows are not those of its passages'}.")
    mapped = np.memmap(file, kind, "r", before_rows, (rows,))
    return header, tuple(passages), mapped, size_bytes


def _header(path: Path, data: bytes) -> ReferenceHeader:
    try:
        header = from_jsonable(ReferenceHeader, json.loads(data), schema=SCHEMA)
    except (ValueError, RecursionError):
        raise _damaged(path, "What it says of itself is no JSON.") from None
    except FormatError as error:
        raise _damaged(path, error.fact) from None
    faults = _faults(header, None)
    if faults:
        raise _damaged(path, f"{faults}.")
    return header


def _faults(header: ReferenceHeader, passages: Sequence[Passage] | None) -> str:
    """What contradicts itself in a reference, or nothing. None for passages not yet known."""
    vocabulary, top = header.vocabulary_tokens, header.top
    exact = top == vocabulary
    if not 2 <= vocabulary <= MOST_VOCABULARY:
        return f"A vocabulary of {vocabulary} tokens is none"
    if not (1 <= top <= vocabulary and 0 <= header.drawn <= vocabulary) or exact * header.drawn:
        return f"It keeps {top} and draws {header.drawn} of {vocabulary} tokens"
    if header.seed < 0:
        return f"{header.seed} is no seed"
    if passages is None:
        return ""
    if not passages:
        return "It has no passages"
    for passage in passages:
        if not 0 <= passage.first < len(passage.tokens) - 1:
            return "A passage has nothing to score"
        if not 0 <= min(passage.tokens) <= max(passage.tokens) < vocabulary:
            return "A passage has tokens outside the vocabulary"
    named = header.text.tokens_sha256, header.text.scored_tokens
    if named != (tokens_sha256(passages), scored_tokens(passages)):
        return "Its tokens are not those of the text it names"
    return ""


def _damaged(path: Path, cause: str) -> FormatError:
    return FormatError(f"The reference {path.name} is damaged.", cause=cause, way_out=_AGAIN)
