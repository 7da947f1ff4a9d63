"""A results file: one record per line of JSON, appended as soon as there is one.

Each line is written in one call and forced to the disk, so an interrupted sweep keeps everything
that was finished. A last line without its end (the power failed) is dropped when resuming. Records
of any kind are also found in the documents that the verbs print; what they say is not looked at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..codec import Saved
from ..errors import DiskError, FormatError, UsageError
from ..measurement import CellFailure, Measurement, read_record
from ..saved import DOCUMENT_SCHEMA, SavedRecord, read_saved

Kind = TypeVar("Kind")

MAX_FILE_BYTES = 1 << 30
_CHUNK_BYTES = 16 << 20
_SAVED_BY = "Give a file that edge compare or edge profile wrote: --save FILE, --json or -o jsonl."


def create_results(path: Path) -> None:
    """Makes an empty results file. Raises UsageError when it exists, DiskError when it cannot."""
    try:
        with path.open("xb"):
            pass
    except FileExistsError:
        raise UsageError(
            f"{path} is there already.", way_out=f"Go on with it: --resume {path}"
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from error


def append_result(path: Path, record: Saved) -> None:
    """Adds one record at the end of the file. Raises DiskError; then nothing of it is left."""
    line = json.dumps(record.to_json(), separators=(",", ":"), allow_nan=False).encode() + b"\n"
    try:
        with path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                if file.write(line) != len(line):
                    raise OSError("the disk is full")
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(before)
                raise
    except OSError as error:
        raise _unwritable(path, error) from error


def read_results(path: Path, *, repair: bool = True) -> tuple[Measurement | CellFailure, ...]:
    """Every record of the results file of `edge profile`, in order.

    A last line that was cut off is left out, and with `repair` removed from the file. Raises
    DiskError when the file cannot be read, FormatError when a whole line is no record.
    """
    way_out = "Give a file that edge profile --save wrote, or save to a new one."
    return _resumed(path, read_record, way_out, repair=repair)


def read_saved_results(path: Path, *, repair: bool = True) -> tuple[SavedRecord, ...]:
    """Every record of a results file, of whichever kind, in order; else as `read_results`."""
    return _resumed(path, read_saved, _SAVED_BY, repair=repair)


def read_saved_file(path: Path) -> tuple[SavedRecord, ...]:
    """Every record in a file that a verb saved or printed, in order; the file is left as it is.

    A results file, the document of `edge compare --json` with its `records`, the list of `edge
    profile -o json`, or a single record. Of a results file a last line that was cut off is left
    out. Raises DiskError when it cannot be read, FormatError when it is none of these.
    """
    content = _content(path)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        # Several lines are no document, unless there is but one.
        return _resumed(path, read_saved, _SAVED_BY, repair=False)
    if isinstance(document, dict) and "records" in document:
        if document.get("schema") != DOCUMENT_SCHEMA:
            raise FormatError(
                f"{path} is no document of schema {DOCUMENT_SCHEMA}.",
                cause=f"Its schema is {str(document.get('schema'))[:40]!r}.",
                way_out="Read it with the version that wrote it.",
            )
        document = document["records"]
    if isinstance(document, dict):
        document = [document]
    if not isinstance(document, list):
        raise FormatError(f"{path} holds no records.", way_out=_SAVED_BY)
    records = []
    for number, data in enumerate(document, start=1):
        try:
            records.append(read_saved(data))
        except FormatError as error:
            raise _told(f"Record {number} of {path}", error) from None
    return tuple(records)


def _content(path: Path) -> bytes:
    chunks, size = [], 0
    try:
        with path.open("rb") as file:
            # Chunk by chunk: what is no regular file states no size beforehand.
            while chunk := file.read(_CHUNK_BYTES):
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_FILE_BYTES:
                    raise FormatError(f"{path} is too large to be a results file.")
    except OSError as error:
        raise DiskError(f"{path} cannot be read.", cause=f"{error.strerror or error}.") from error
    return b"".join(chunks)


def _resumed(
    path: Path, read: Callable[[object], Kind], way_out: str, *, repair: bool
) -> tuple[Kind, ...]:
    """The records of a results file; with `repair` a last line that was cut off is removed."""
    whole, newline, rest = _content(path).rpartition(b"\n")
    records = _records(path, tuple(whole.splitlines()), read, way_out)
    if rest and not rest.startswith(b"{"):
        raise FormatError(f"{path} ends in something that is no record.", way_out=way_out)
    if rest and repair:  # only now: what is no results file must not be touched
        try:
            with path.open("r+b") as file:
                file.truncate(len(whole) + len(newline))
        except OSError as error:
            raise _unwritable(path, error) from error
    return records


def _records(
    path: Path, lines: tuple[bytes, ...], read: Callable[[object], Kind], way_out: str
) -> tuple[Kind, ...]:
    """The record on each line that is not blank. Raises FormatError, which names the line."""
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"Line {number} of {path}"
        try:
            records.append(read(json.loads(line)))
        except (ValueError, RecursionError):
            raise FormatError(f"{where} is no JSON.", way_out=way_out) from None
        except FormatError as error:
            raise _told(where, error) from None
    return tuple(records)


def _told(where: str, error: FormatError) -> FormatError:
    return FormatError(f"{where}: {error.fact}", cause=error.cause, way_out=error.way_out)


def _unwritable(path: Path, error: OSError) -> DiskError:
    return DiskError(
        f"{path} cannot be written.",
        cause=f"{error.strerror or error}.",
        way_out="Name another file, or free some space.",
    )
