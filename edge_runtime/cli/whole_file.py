"""Documents as whole files: written in full or not at all, read up to a size or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import DiskError, FormatError, UsageError


def write_whole(path: Path, parts: Iterable[str]) -> None:
    """Writes the parts to a temporary file beside it and renames that. Raises DiskError."""
    partial = path.absolute().with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with partial.open("x", encoding="utf-8") as out:
                for part in parts:
                    out.write(part)
                out.flush()
                os.fsync(out.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DiskError(
            f"{path} was not written.",
            cause=f"{error.strerror or error}.",
            way_out="Name another file, or free some space.",
        ) from error


def read_whole(path: Path, most_bytes: int, what: str, way_out: str) -> bytes:
    """The content of a file that is to be `what`. Raises DiskError, FormatError where too large."""
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise DiskError(f"{path} cannot be read.", cause=f"{error.strerror or error}.") from error
    if len(content) > most_bytes:
        raise FormatError(f"{path} is too large to be {what}.", way_out=way_out)
    return content


def refuse_unwritable(save: Path | None) -> None:
    """Raises UsageError for a failed write that can be foreseen, before anything is computed."""
    if save is not None and (save.is_dir() or not save.absolute().parent.is_dir()):
        raise UsageError(
            f"{save} cannot be written.", way_out="Name a file in a folder that exists."
        )
