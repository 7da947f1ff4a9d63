"""An output file that appears whole under its name, or not at all.

Knows disks: room, permissions, durability, renaming. Refuses to know what is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.errors import DiskError
from edge_runtime.units import format_bytes

SPARE_BYTES = 32 * 1024**2
"""Room that must be left on the disk beside the file: filling one to the brim harms its owner."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def whole_file(out: Path, needed_bytes: int) -> Iterator[Path]:
    """Lends an empty temporary file beside `out`, which becomes `out` when the block ends well.

    Room for `needed_bytes` is checked first. The bytes are on the disk (fsync) before the rename,
    and whatever interrupts the block, the temporary file goes. An OSError inside the block is taken
    for one of the output: whoever reads other files there words its own failures.
    Raises DiskError.
    """
    check_destination(out, needed_bytes)
    # A fixed short name: the limit on a name's length is the user's to use up, not ours.
    temporary = out.parent / f".edge-{secrets.token_hex(8)}.part"
    try:
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield temporary
            _sync(temporary)
            temporary.replace(out)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise disk_error(out, needed_bytes, error) from error
    # The rename has happened; on filesystems where a directory cannot be synced it stays so.
    with contextlib.suppress(OSError):
        _sync(out.parent)


def check_destination(out: Path, needed_bytes: int) -> None:
    """Raises DiskError unless `out` can be made where it is said to be, with room to spare."""
    if out.is_dir():
        raise DiskError(
            f"{out} cannot be written.",
            cause="It is a directory.",
            way_out=f"Name a file in it, such as {out / 'model.gguf'}.",
        )
    try:
        free_bytes = shutil.disk_usage(out.parent).free
    except OSError as error:
        raise disk_error(out, needed_bytes, error) from error
    if free_bytes < needed_bytes + SPARE_BYTES:
        raise _no_room(out, needed_bytes, free_bytes)


def disk_error(out: Path, needed_bytes: int, error: OSError) -> DiskError:
    """Words an operating system's refusal to write `out`."""
    if error.errno in _FULL:
        with contextlib.suppress(OSError):
            return _no_room(out, needed_bytes, shutil.disk_usage(out.parent).free)
    fact = f"{out} cannot be written."
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return DiskError(
            fact,
            cause=f"There is no directory {out.parent}.",
            way_out=f"Make it first: mkdir -p {out.parent}",
        )
    if error.errno in _FORBIDDEN:
        return DiskError(
            fact,
            cause=f"{out.parent} does not allow it ({error.strerror}).",
            way_out="Choose a directory that you may write to.",
        )
    return DiskError(
        fact, cause=f"{error.strerror or error}.", way_out="Choose a directory on another disk."
    )


def _no_room(out: Path, needed_bytes: int, free_bytes: int) -> DiskError:
    return DiskError(
        f"There is no room for {out}.",
        cause=f"It needs {format_bytes(needed_bytes)} and {format_bytes(SPARE_BYTES)} to spare; "
        f"{format_bytes(free_bytes)} are free on that disk.",
        way_out="Free some space, or choose a directory on another disk.",
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
