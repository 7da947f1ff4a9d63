"""How much of a file the page cache holds, and a way to drop it: cold and warm loads told apart.

Linux and macOS answer through `mincore` on a mapping that is never touched. Elsewhere, and for
files whose residency the kernel hides, the answer is None, never a guess.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

WARM_SHARE = 0.99
COLD_SHARE = 0.05
"""Up to this share may be resident and a load still counts as cold: the header was read."""

_CHUNK_BYTES = 1 << 30
_PROT_READ = 1
_MAP_SHARED = 1


def page_cache_state(share: float | None) -> Literal["cold", "warm", "mixed", "unknown"]:
    """Names the state of the page cache by the share of resident pages."""
    if share is None:
        return "unknown"
    if share >= WARM_SHARE:
        return "warm"
    return "cold" if share <= COLD_SHARE else "mixed"


def resident_share(paths: Sequence[Path]) -> float | None:
    """The share (0 to 1) of the files' pages in the page cache, or None when it cannot be known."""
    libc = _libc()
    if libc is None:
        return None
    resident = total = 0
    for path in paths:
        counted = _count_resident(libc, path)
        if counted is None:
            return None
        resident += counted[0]
        total += counted[1]
    return resident / total if total else None


def drop_from_page_cache(paths: Sequence[Path]) -> bool:
    """Asks the kernel to forget the files' clean pages; whether the system has that call at all.

    The kernel may decline (another process maps the file): measure the residency afterwards.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            # Dirty pages are never dropped: a file just written must reach the disk first.
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return True


def _libc() -> ctypes.CDLL | None:
    if os.name != "posix":
        return None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
            ctypes.c_int64,
        )  # fmt: skip
        libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    except (OSError, AttributeError):
        return None
    return libc


def _count_resident(libc: ctypes.CDLL, path: Path) -> tuple[int, int] | None:
    # Since Linux 5.2 mincore calls every page resident unless the caller owns or may write the
    # file (mm/mincore.c, can_do_mincore), which would report a cold file as warm.
    info = path.stat()
    if info.st_uid != os.geteuid() and not os.access(path, os.W_OK):
        return None
    resident = total = 0
    handle = os.open(path, os.O_RDONLY)
    try:
        for offset in range(0, info.st_size, _CHUNK_BYTES):
            length = min(_CHUNK_BYTES, info.st_size - offset)
            pages = -(-length // mmap.PAGESIZE)
            address = libc.mmap(None, length, _PROT_READ, _MAP_SHARED, handle, offset)
            if address in (None, ctypes.c_void_p(-1).value):
                return None
            try:
                vector = ctypes.create_string_buffer(pages)
                if libc.mincore(address, length, vector) != 0:
                    return None
                resident += sum(byte & 1 for byte in vector.raw[:pages])
            finally:
                libc.munmap(address, length)
            total += pages
    finally:
        os.close(handle)
    return resident, total
