"""The read bandwidth of main memory, measured by reading it.

The C library's `memchr` looks for a byte that is not there: it reads every byte once, in order,
with the widest loads of the processor, and ctypes releases the interpreter's lock meanwhile, so
several threads read at once. That is what decoding does to weights, minus the arithmetic. It is a
streaming rate of one working set, which is stated: where a cache as large as the working set exists
(server processors), the figure lies between cache and memory bandwidth.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
import time
from collections.abc import Callable

from ..errors import MemoryLimitError
from ..measurement import BandwidthReading
from ..statistics import Interval, median

LARGEST_BYTES = 1 << 30
SMALLEST_BYTES = 64 << 20
"""Several times the last-level cache of phones and boards, which often do not tell its size."""
CACHE_MULTIPLE = 4
FILL_BUDGET_S = 0.6
READ_BUDGET_S = 0.6
MIN_PASSES = 3
_CHUNK_BYTES = 32 << 20
_PRESENT, _ABSENT = 1, 0


def memory_bandwidth(threads: int | None = None) -> BandwidthReading:
    """Measures for about a second with as many threads as there are usable cores, unless told.

    The interval is the slowest, the median and the fastest pass over the working set, not a
    confidence interval. Raises MemoryLimitError when there is no memory to read.
    """
    from .host import available_memory_bytes, detect_host

    host = detect_host()
    threads = max(1, threads or host.cores_usable)
    wanted = max(SMALLEST_BYTES, CACHE_MULTIPLE * (host.last_level_cache_bytes or 0))
    size = min(wanted, LARGEST_BYTES, available_memory_bytes() // 4)
    stride = size // threads // mmap.PAGESIZE * mmap.PAGESIZE
    if stride < mmap.PAGESIZE:
        raise MemoryLimitError(
            "There is too little free memory to measure its bandwidth.",
            way_out="Close other programs and try again.",
        )
    memchr, memset = _c_functions()
    block = mmap.mmap(-1, stride * threads)
    view = (ctypes.c_char * (stride * threads)).from_buffer(block)
    address = ctypes.addressof(view)
    try:
        share = _fill(memset, block, address, stride, threads)
        passes = _read_passes(memchr, address, share, threads, stride)
    finally:
        del view
        block.close()
    rates = [share * threads / seconds for seconds in passes]
    return BandwidthReading(
        bytes_per_s=Interval(low=min(rates), value=median(rates), high=max(rates)),
        working_set_bytes=share * threads,
        threads=threads,
        method=f"memchr for an absent byte, {len(rates)} passes: slowest, median, fastest",
    )


def _c_functions() -> tuple[Callable[..., object], Callable[..., object]]:
    library = ctypes.CDLL("msvcrt") if os.name == "nt" else ctypes.CDLL(None)
    memchr, memset = library.memchr, library.memset
    memchr.argtypes = memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    memchr.restype = memset.restype = ctypes.c_void_p
    return memchr, memset


def _fill(
    memset: Callable[..., object], block: mmap.mmap, address: int, share: int, threads: int
) -> int:
    """Writes every thread's share, so that each page is its own; less of it when that takes long.

    Untouched anonymous pages are all one page of zeros, which would be read from the cache.
    """
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Kernels without huge pages fill more slowly, nothing else.
        with contextlib.suppress(OSError):
            block.madvise(mmap.MADV_HUGEPAGE)
    deadline = time.perf_counter() + FILL_BUDGET_S
    filled = [0] * threads

    def fill(index: int) -> None:
        start = address + index * share
        while filled[index] < share:
            length = min(_CHUNK_BYTES, share - filled[index])
            memset(start + filled[index], _PRESENT, length)
            filled[index] += length
            if time.perf_counter() > deadline:
                break

    _in_threads(fill, threads)
    # The shares keep their places: only what every thread filled is read.
    return min(filled)


def _read_passes(
    memchr: Callable[..., object], address: int, share: int, threads: int, stride: int
) -> list[float]:
    """Seconds of each pass of all threads over their shares, the first one left out."""
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) <= MIN_PASSES or time.perf_counter() - began < READ_BUDGET_S:
        started = time.perf_counter()
        _in_threads(lambda i: memchr(address + i * stride, _ABSENT, share), threads)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def _in_threads(work: Callable[[int], object], threads: int) -> None:
    others = [threading.Thread(target=work, args=(i,)) for i in range(1, threads)]
    for thread in others:
        thread.start()
    work(0)
    for thread in others:
        thread.join()
