"""Where a comparison keeps what it made, so that the next one need not: artifacts, references.

On a `Shelf` every thing lies in a folder of its own, named by the key of all it was made from; the
one least recently used goes first when they take more than they may. What a running program uses is
locked and stays. A `KeptFolder` is a directory of the user's, with names they know: nothing there
is ever removed. It refuses to know how anything is made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import DiskError, UsageError
from .whole_file import write_whole

if sys.platform != "win32":
    import fcntl

_KEY = re.compile(r"[0-9a-f]{20}")
_REMOVED = ".removed"
_IN_USE = ".in-use"
_BEING_MADE = ".being-made"
_USED = ".used"
_NOTES = ".edge-compare.json"
_MOST_NOTES_BYTES = 1 << 20
_END_BYTES = 1 << 20
_MOST_TRIES = 1000
_DAY_NS = 86_400 * 10**9


def key_of(*parts: str) -> str:
    """A name for what is made from these and nothing else."""
    return hashlib.sha256(_bytes("\0".join(parts))).hexdigest()[:20]


def digest_of(paths: Iterable[Path]) -> str:
    """What tells some files from others that once had their names, without reading gigabytes.

    Names, sizes, times of change, and the first and the last mebibyte of each. Raises DiskError.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            with path.open("rb") as file:
                told = os.fstat(file.fileno())
                said = f"{path.name}\0{told.st_size}\0{told.st_mtime_ns}\0"
                digest.update(_bytes(said))
                digest.update(file.read(_END_BYTES))
                file.seek(max(0, told.st_size - _END_BYTES))
                digest.update(file.read(_END_BYTES))
        except OSError as error:
            raise DiskError(
                f"{path} cannot be read.", cause=f"{error.strerror or error}."
            ) from error
    return digest.hexdigest()


def _bytes(text: str) -> bytes:
    """Also of names of files that are no Unicode."""
    return text.encode(errors="surrogatepass")


class Shelf:
    """A context manager over a folder of the cache; on leaving, what is too much is removed.

    `limit_bytes` holds for what lies there afterwards: one comparison needs all its levels at once.
    `on_wait` is told the name of what another running program is making just now.
    """

    def __init__(
        self, folder: Path, limit_bytes: int, on_wait: Callable[[str], None] | None = None
    ) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._on_wait = on_wait
        self._locks: list[int] = []

    def __enter__(self) -> Self:
        """Makes the folder. Raises DiskError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self._folder, error) from error
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Unlocks what was held and removes what is too much."""
        for descriptor in self._locks:
            os.close(descriptor)
        self._locks.clear()
        self._remove_down_to(self._limit_bytes)

    def place(self, key: str, name: str) -> Path:
        """Where the thing of that key and file name lies or is to lie; locked until leaving.

        Raises DiskError.
        """
        folder = self._folder / key
        try:
            for tries_left in reversed(range(_MOST_TRIES)):
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    lock = _locked(folder / _IN_USE, shared=True)
                except (FileExistsError, FileNotFoundError):
                    if not tries_left:
                        raise
                    continue  # removed by another program just now
                if lock is None:
                    break
                # Whoever removed the folder meanwhile held the lock of a file that is gone.
                if os.fstat(lock).st_nlink:
                    self._locks.append(lock)
                    break
                os.close(lock)
            (folder / _USED).touch()
        except OSError as error:
            raise _unusable(folder, error) from error
        return folder / name

    @contextlib.contextmanager
    def alone(self, path: Path) -> Iterator[None]:
        """Keeps all other programs from making the same thing while the block runs."""
        try:
            lock = _locked(
                path.parent / _BEING_MADE,
                on_wait=lambda: self._on_wait(path.name) if self._on_wait else None,
            )
        except OSError as error:
            raise _unusable(path.parent, error) from error
        try:
            yield
        finally:
            if lock is not None:
                os.close(lock)

    def made(self, path: Path) -> None:
        """Takes note that it lies there whole: nothing to note, for the key says it all."""

    def make_room(self) -> bool:
        """Removes everything that no running program uses; whether that was anything."""
        return self._remove_down_to(0) > 0

    def _remove_down_to(self, limit_bytes: int) -> int:
        """Removes what was used longest ago until the rest takes no more, and what is empty.

        Returns how many there were.
        """
        things = sorted(_things(self._folder), key=lambda thing: thing.used_ns)
        size_bytes = sum(thing.size_bytes for thing in things)
        removed = 0
        with contextlib.suppress(OSError):
            for folder in self._folder.glob(f"*{_REMOVED}"):  # of a program that was killed
                if _KEY.fullmatch(folder.stem):
                    shutil.rmtree(folder, ignore_errors=True)
        for thing in things:
            if (size_bytes > limit_bytes or not thing.size_bytes) and _removed(thing.folder):
                size_bytes -= thing.size_bytes
                removed += 1
        return removed


class KeptFolder:
    """A user's own directory, made if need be, in which things keep plain names.

    A hidden file there notes the key of each and what it looked like, so that only what was made of
    the same, and nobody has changed since, is used again or replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskError(
                f"{folder} cannot be made.",
                cause=f"{error.strerror or error}.",
                way_out="Name a folder that can be written: --keep DIR",
            ) from error
        self._keys: dict[str, str] = {}

    def place(self, key: str, name: str) -> Path:
        """Where the thing of that key lies or is to lie.

        Raises UsageError when something else has the name there.
        """
        path = self._folder / name
        self._keys[name] = key
        noted = self._notes().get(name)
        if os.path.lexists(path) and (noted is None or noted != _note(key, path)):
            raise UsageError(
                f"{path} is there already, and was not made of this model in this way.",
                cause="It is somebody else's, or of another version, or was changed since.",
                way_out="Name another folder: --keep DIR",
            )
        return path

    @contextlib.contextmanager
    def alone(self, path: Path) -> Iterator[None]:
        """Does nothing: a directory that two programs are told to write is their owner's affair."""
        yield

    def made(self, path: Path) -> None:
        """Notes of what the thing was made. Raises DiskError."""
        notes = self._notes()
        note = _note(self._keys[path.name], path)
        if notes.get(path.name) != note:
            text = json.dumps(notes | {path.name: note}, indent=1)
            write_whole(self._folder / _NOTES, (text, "\n"))

    def make_room(self) -> bool:
        """Nothing here is ours to remove."""
        return False

    def _notes(self) -> dict[str, str]:
        try:
            with (self._folder / _NOTES).open("rb") as file:
                found = json.loads(file.read(_MOST_NOTES_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {name: key for name, key in found.items() if isinstance(key, str)}


def _note(key: str, path: Path) -> str:
    """What a thing was made of, and what it looks like. Raises DiskError."""
    try:
        files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
        return key_of(key, digest_of(files))
    except OSError as error:
        raise DiskError(f"{path} cannot be read.", cause=f"{error.strerror or error}.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Thing:
    folder: Path
    used_ns: int
    size_bytes: int


def _things(shelf: Path) -> Iterator[_Thing]:
    """What lies there; folders that others may have put there are none of ours."""
    with contextlib.suppress(OSError):
        for folder in shelf.iterdir():
            if _KEY.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                with contextlib.suppress(OSError):
                    mark = folder / _USED
                    used_ns = (mark if mark.exists() else folder).stat().st_mtime_ns
                    if used_ns > time.time_ns() + _DAY_NS:
                        used_ns = 0  # a clock that was wrong would keep it for ever
                    files = (path for path in folder.rglob("*") if not path.is_dir())
                    sizes = (path.lstat().st_size for path in files)
                    yield _Thing(folder=folder, used_ns=used_ns, size_bytes=sum(sizes))


def _removed(folder: Path) -> bool:
    """Removes a folder unless a running program uses it.

    It loses its name first: nobody, not even after a crash, finds half of it.
    """
    gone = folder.with_name(folder.name + _REMOVED)
    lock: int | None = None
    try:
        if sys.platform != "win32":
            lock = os.open(folder / _IN_USE, os.O_CREAT | os.O_RDWR, 0o666)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(lock).st_nlink:
                return False  # removed by another, and perhaps made again since
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    except OSError:
        return False  # in use, or not ours to remove
    finally:
        if lock is not None:
            os.close(lock)
    return True


def _locked(
    path: Path, *, shared: bool = False, on_wait: Callable[[], None] | None = None
) -> int | None:
    """Takes a lock that ends with the process; None where there are none (Windows).

    There files that somebody has open cannot be removed, which is what the lock is for.
    """
    if sys.platform == "win32":
        return None
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                on_wait()
            fcntl.flock(descriptor, kind)
        except OSError:
            return descriptor  # a filesystem without locks: nobody there can take one
    except BaseException:  # also of Ctrl-C while waiting: nothing is left open
        os.close(descriptor)
        raise
    return descriptor


def _unusable(folder: Path, error: OSError) -> DiskError:
    return DiskError(
        f"{folder} cannot be used.",
        cause=f"{error.strerror or error}.",
        way_out="Set EDGE_CACHE_DIR to a folder that can be written.",
    )
