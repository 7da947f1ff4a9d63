"""Output files that appear whole under their names, or not at all.

Temporary files lie beside the output under names of their own and are locked while they are being
written: one that nobody has locked was left by a process that was killed, and the next run in that
directory removes it. Knows disks: room, permissions, durability, renaming. Refuses to know what is
written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_runtime.artifact.split import split_paths
from edge_runtime.errors import DiskError, UsageError
from edge_runtime.units import format_bytes

if sys.platform != "win32":
    import fcntl

SPARE_BYTES = 32 * 1024**2
"""Room that must be left on the disk beside the file: filling one to the brim harms its owner."""

_TEMPORARY = ".edge-{}.part"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def whole_files(
    outs: Sequence[Path], needed_bytes: int, *, overwrite: bool = True
) -> Iterator[tuple[Path, ...]]:
    """Lends an empty temporary file for each of `outs`, which it becomes when the block ends well.

    `outs` lie in one directory; several temporaries have the names of a split file's parts. Room
    for `needed_bytes` is checked first. The bytes are on the disk (fsync) before the renames, which
    go from the last to the first, so that the first is there only when all are. Whatever interrupts
    the block, the temporaries go. An OSError inside it is taken for one of the output: whoever
    reads other files there words its own failures.
    Raises DiskError, and UsageError for a file that is there unless `overwrite`.
    """
    for out in outs:
        check_destination(out, needed_bytes, overwrite=overwrite)
    try:
        with scratch_file(outs[0]) as scratch:
            temporaries = split_paths(scratch, len(outs))
            for temporary in temporaries:
                temporary.touch()
            yield temporaries
            for temporary in temporaries:
                _sync(temporary)
            if not overwrite:  # another run may have been faster
                for out in outs:
                    _refuse_existing(out)
            if len(outs) > 1:  # an old first part must never stand before new ones
                outs[0].unlink(missing_ok=True)
            for temporary, out in reversed(tuple(zip(temporaries, outs, strict=True))):
                temporary.replace(out)
    except OSError as error:
        raise disk_error(outs[0], needed_bytes, error) from error
    # The renames have happened; on filesystems where a directory cannot be synced they stay so.
    with contextlib.suppress(OSError):
        _sync(outs[0].parent)


@contextlib.contextmanager
def scratch_file(beside: Path) -> Iterator[Path]:
    """Lends an empty file in the directory of `beside` and removes it afterwards.

    Its lock holds for files whose names begin with its own as well, and they are removed with it.
    What killed processes left there is removed first. Raises OSError.
    """
    remove_stale(beside.parent)
    path, descriptor = _locked_file(beside.parent)
    try:
        yield path
    finally:
        for left in (*path.parent.glob(f"{path.name}?*"), path):
            with contextlib.suppress(OSError):
                left.unlink()
        if descriptor is not None:
            os.close(descriptor)


def remove_stale(directory: Path) -> None:
    """Removes temporary files whose process is gone. What cannot be removed is left alone."""
    with contextlib.suppress(OSError):
        for path in directory.glob(_TEMPORARY.format("*") + "*"):
            with contextlib.suppress(OSError):
                _remove_if_unlocked(path)


def check_destination(
    out: Path, needed_bytes: int | None = None, *, overwrite: bool = True
) -> None:
    """Refuses an `out` that cannot be made where it is said to be, with room to spare.

    `needed_bytes` is None where they are not known yet: then room is not asked for.
    Raises DiskError, and UsageError for a file that is there already unless `overwrite`.
    """
    try:
        if out.is_dir():
            raise DiskError(
                f"{out} cannot be written.",
                cause="It is a directory.",
                way_out=f"Name a file in it, such as {out / 'model.gguf'}.",
            )
        if not overwrite:
            _refuse_existing(out)
        if not stat.S_ISDIR(out.parent.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(out.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        remove_stale(out.parent)  # what they take up is room for this one
        free_bytes = shutil.disk_usage(out.parent).free
    except OSError as error:
        raise disk_error(out, needed_bytes or 0, error) from error
    if needed_bytes is not None and free_bytes < needed_bytes + SPARE_BYTES:
        raise _no_room(out, needed_bytes, free_bytes)


def _refuse_existing(out: Path) -> None:
    if os.path.lexists(out):
        raise UsageError(
            f"{out} is there already.",
            way_out="Choose another name, or overwrite it with --force.",
        )


def disk_error(out: Path, needed_bytes: int, error: OSError) -> DiskError:
    """Words an operating system's refusal to write `out`."""
    if error.errno in _FULL:
        with contextlib.suppress(OSError):
            return _no_room(out, needed_bytes, shutil.disk_usage(out.parent).free)
    fact = f"{out} cannot be written."
    if error.errno == errno.ENOTDIR:
        return DiskError(
            fact, cause=f"{out.parent} is no directory.", way_out="Name a file in a directory."
        )
    if error.errno == errno.ENOENT:
        return DiskError(
            fact,
            cause=f"There is no directory {out.parent}.",
            way_out=f"Make it first: mkdir -p {shlex.quote(str(out.parent))}",
        )
    if error.errno in _FORBIDDEN:
        return DiskError(
            fact,
            cause=f"{out.parent} does not allow it ({error.strerror}).",
            way_out="Choose a directory that you may write to.",
        )
    if error.errno == errno.ENAMETOOLONG:
        return DiskError(fact, cause=f"{error.strerror}.", way_out="Choose a shorter name.")
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


def _locked_file(directory: Path) -> tuple[Path, int | None]:
    """Makes an empty file that says it is in use until its descriptor is closed.

    A lock belongs to the open file, so it ends with the process, however that ends. Without one
    (Windows) there is no descriptor: there a file that somebody has open cannot be removed.
    """
    while True:
        # A fixed short name: the limit on a name's length is the user's to use up, not ours.
        path = directory / _TEMPORARY.format(secrets.token_hex(8))
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        if sys.platform == "win32":
            os.close(descriptor)
            return path, None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        except OSError as error:
            # Another run holds it, or this filesystem has no locks and nobody can take one.
            ours = not isinstance(error, BlockingIOError)
        # Another run may have found it before it was locked, and taken it for one left behind.
        if ours and os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)


def _remove_if_unlocked(path: Path) -> None:
    owner = path.with_name(path.name.partition(".part")[0] + ".part")
    if sys.platform == "win32" or not owner.exists():
        path.unlink()
        return
    descriptor = os.open(owner, os.O_WRONLY | os.O_NONBLOCK)  # a pipe would block
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    # Windows syncs only what is open for writing; a directory can be opened for reading alone.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
