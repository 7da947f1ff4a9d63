"""Output folders that appear whole under their names, or not at all.

A folder is filled under a temporary name beside its place, on the same disk, and renamed at the
end. What a killed process left is removed by the next run there. Refuses to know what is in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.errors import DiskError, UsageError

from .whole_file import check_destination, disk_error, scratch_file

_ENDING = ".folder"


@contextlib.contextmanager
def whole_folder(
    out: Path, needed_bytes: int, *, holds: str, overwrite: bool = False
) -> Iterator[Path]:
    """Lends an empty folder beside `out`, which becomes `out` when the block ends well.

    A folder that is there is replaced with `overwrite` only, and only when it holds the file
    `holds` and no folders, or nothing, so that no other directory is ever removed. An OSError
    inside the block is taken for one of the output. Raises DiskError and UsageError.
    """
    check_folder(out, needed_bytes, holds=holds, overwrite=overwrite)
    try:
        with scratch_file(out) as lock:
            _remove_stale(out.parent)
            folder = lock.with_name(lock.name + _ENDING)
            folder.mkdir()
            try:
                yield folder
                for path in folder.iterdir():
                    _sync(path)
                with contextlib.suppress(OSError):  # not every system syncs directories
                    _sync(folder)
                # Another run may have been faster; what it wrote is not ours to replace.
                check_folder(out, 0, holds=holds, overwrite=overwrite)
                _take_place(folder, out)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise disk_error(out, needed_bytes, error) from error


def check_folder(out: Path, needed_bytes: int, *, holds: str, overwrite: bool) -> None:
    """Refuses an `out` that cannot be made, or that would take another's place.

    Raises DiskError, and UsageError for what is there already.
    """
    if not os.path.lexists(out):
        check_destination(out, needed_bytes)
        return
    if not out.is_dir() or out.is_symlink():
        raise UsageError(
            f"{out} is there already, and no folder.",
            cause="An ONNX model is a folder: the graph, its weights, the tokenizer.",
            way_out="Choose another name.",
        )
    if Path.cwd().is_relative_to(out.resolve()):
        raise UsageError(
            f"{out} is where this command runs.",
            cause="A model's folder is made, or replaced, as a whole.",
            way_out=f"Name a folder in it, such as {out / 'model-onnx'}.",
        )
    try:
        found = [path.name for path in out.iterdir()]
        nested = next((path.name for path in out.iterdir() if path.is_dir()), None)
    except OSError as error:
        raise disk_error(out, needed_bytes, error) from error
    if found and (holds not in found or nested is not None):
        raise UsageError(
            f"{out} is there already and holds something else.",
            cause=f"There is no {holds} in it."
            if nested is None
            else f"It holds the folder {nested}, which a model's does not.",
            way_out="Choose another name, or one in that folder.",
        )
    if found and not overwrite:
        raise UsageError(
            f"{out} is there already.",
            way_out="Choose another name, or overwrite it with --force.",
        )
    check_destination(out / holds, needed_bytes)


def _take_place(folder: Path, out: Path) -> None:
    if not os.path.lexists(out):
        folder.rename(out)
        return
    # A folder that is not empty cannot be renamed over: the old one steps aside first. Killed just
    # then, the process leaves it under a name that nobody removes.
    aside = out.with_name(f"{out.name}.old-{secrets.token_hex(4)}")
    out.rename(aside)
    try:
        folder.rename(out)
    except OSError:
        aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _remove_stale(directory: Path) -> None:
    """Removes folders whose lock file is gone: `scratch_file` removes those of dead processes."""
    for path in directory.glob(f".edge-*.part{_ENDING}*"):
        owner = path.with_name(path.name.partition(".part")[0] + ".part")
        if not owner.exists():
            shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unreliable(out: Path, cause: str) -> DiskError:
    """The refusal of an output that reads back otherwise than it was written."""
    return DiskError(
        f"{out} reads back otherwise than it was written.",
        cause=cause,
        way_out="Check the disk, or choose a directory on another.",
    )
