"""A results file: one record per line of JSON, appended as soon as there is one.

Each line is written in one call and forced to the disk, so an interrupted sweep keeps everything
that was finished. A last line without its end (the power failed) is dropped when resuming.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..codec import Saved
from ..errors import DiskError, FormatError, UsageError
from ..measurement import CellFailure, Measurement, read_record

MAX_FILE_BYTES = 1 << 30


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
    """Every record of a results file, in order.

    A last line that was cut off is left out, and with `repair` removed from the file. Raises
    DiskError when the file cannot be read, FormatError when a whole line is no record.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise FormatError(f"{path} is too large to be a results file.")
        content = path.read_bytes()
        whole, newline, rest = content.rpartition(b"\n")
        if rest and repair:
            with path.open("r+b") as file:
                file.truncate(len(whole) + len(newline))
    except OSError as error:
        raise DiskError(f"{path} cannot be read.", cause=f"{error.strerror or error}.") from error
    records = []
    for number, line in enumerate(whole.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            records.append(read_record(json.loads(line)))
        except (ValueError, RecursionError):
            raise FormatError(
                f"Line {number} of {path} is no JSON.",
                way_out="Give a file that edge profile --save wrote, or save to a new one.",
            ) from None
        except FormatError as error:
            raise FormatError(
                f"Line {number} of {path}: {error.fact}", cause=error.cause, way_out=error.way_out
            ) from None
    return tuple(records)


def _unwritable(path: Path, error: OSError) -> DiskError:
    return DiskError(
        f"{path} cannot be written.",
        cause=f"{error.strerror or error}.",
        way_out="Name another file, or free some space.",
    )
