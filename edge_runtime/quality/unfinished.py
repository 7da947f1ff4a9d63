"""Files that are being written, beside the name they will have; and those that never got it.

A file is locked for as long as somebody writes it: one that nobody has locked was left by a process
that was killed, and the next that writes in that directory removes it. It knows names and locks.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

_NAME = ".edge-reference-{}.part"


def begin_file(directory: Path) -> tuple[Path, IO[bytes]]:
    """Makes an empty file with a name of its own, open for writing. Raises OSError."""
    while True:
        path = directory / _NAME.format(secrets.token_hex(8))
        file = path.open("xb")
        if sys.platform != "win32":
            # A filesystem without locks has no other run to tell.
            with contextlib.suppress(OSError):
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another run may have found it before it was locked, and taken it for one left behind.
        if os.fstat(file.fileno()).st_nlink:
            return path, file
        file.close()


def remove_stale(directory: Path) -> None:
    """Removes what killed processes left in a directory; what cannot be removed is left alone."""
    with contextlib.suppress(OSError):
        for path in directory.glob(_NAME.format("*")):
            with contextlib.suppress(OSError), path.open("rb+") as file:
                if sys.platform != "win32":
                    fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
