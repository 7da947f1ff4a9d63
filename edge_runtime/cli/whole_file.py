"""A document that is written in full or not at all: a reader never sees half of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import DiskError


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
