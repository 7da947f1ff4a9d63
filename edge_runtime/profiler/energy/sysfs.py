"""Reading small files of the kernel below an injectable root, so that every sensor can be tested.

A tree of files stands in for `/`; a `read` function stands in for what files cannot fake, such as
EIO. Nothing is cached: a file that vanishes is noticed at the next reading.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from . import SensorGapError

_MOST_BYTES = 64 * 1024
# int() would also take "1_000" and digits of other scripts, which no kernel writes.
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")


def read_file(path: Path) -> str:
    """The file's text, at most 64 KiB of it. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, _MOST_BYTES).decode(errors="replace")
    finally:
        os.close(descriptor)


class Tree:
    """The kernel's files as one sensor sees them. Paths are given relative to the root."""

    def __init__(self, root: Path = Path("/"), read: Callable[[Path], str] = read_file) -> None:
        self.root = root
        self._read = read
        # Joining paths takes longer than reading what lies there, twenty times a second.
        self._paths: dict[str, Path] = {}

    def text(self, path: str) -> str:
        """The file's text without white space around it. Raises OSError."""
        place = self._paths.get(path)
        if place is None:
            place = self._paths[path] = self.root / path
        return self._read(place).strip()

    def word(self, path: str, default: str = "") -> str:
        """The file's text, or the default where it cannot be read."""
        try:
            return self.text(path)
        except OSError:
            return default

    def number(self, path: str) -> int:
        """The file's whole number. Raises SensorGapError that names the file and the cause."""
        try:
            text = self.text(path)
        except OSError as error:
            raise SensorGapError(f"{self.shown(path)}: {error.strerror or error}") from error
        if not _WHOLE.fullmatch(text):
            raise SensorGapError(f"{self.shown(path)} holds {text[:40]!r}, which is no number")
        return int(text)

    def glob(self, pattern: str) -> tuple[str, ...]:
        """The paths that match, sorted, relative to the root; none where it may not be looked."""
        try:
            return tuple(sorted(str(p.relative_to(self.root)) for p in self.root.glob(pattern)))
        except OSError:
            return ()

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder. Not so when it may not be looked."""
        return os.path.exists(self.root / path)  # noqa: PTH110 -- Path.exists raises EACCES

    def shown(self, path: str) -> str:
        """The path as a person would type it."""
        return str(self.root / path)

    def is_virtual(self) -> bool:
        """Whether the processor says that a hypervisor runs below this kernel (x86 only)."""
        return " hypervisor" in self.word("proc/cpuinfo")
