"""How many threads decoding should use when nobody says: physical cores this process may use.

An engine's threads meet at barriers that spin, so a second thread on the same core slows all of
them, and so does a thread the scheduler will not run. It reads the affinity mask, the core list and
the container's CPU quota; it measures nothing.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import os
import sys
from pathlib import Path

MAX_THREADS = 512
"""ggml aborts the process above this (GGML_MAX_N_THREADS in ggml.h); no engine gains by more."""


def default_threads(*, system_root: Path = Path("/")) -> int:
    """Physical cores in this process's affinity mask, within the container's quota; at least 1."""
    if sys.platform.startswith("linux"):
        cores = _linux_cores(system_root)
        quota = _cgroup_cores(system_root)
        cores = min(cores, quota) if quota is not None else cores
    elif sys.platform == "darwin":
        cores = _apple_performance_cores() or os.cpu_count() or 1
    else:
        # Windows tells the two apart only through a long native call; two hardware threads per
        # core is the usual case there above four.
        logical = os.cpu_count() or 1
        cores = logical if logical <= 4 else logical // 2
    return max(1, min(cores, MAX_THREADS))


def _linux_cores(root: Path) -> int:
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    cores = set()
    for cpu in usable:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        siblings = _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list")
        cores.add(siblings or f"cpu {cpu}")
    return len(cores) or 1


def _cgroup_cores(root: Path) -> int | None:
    """Whole cores of the CPU quota at the root of this process's control group, if there is one."""
    words = _read(root / "sys/fs/cgroup/cpu.max").split()
    if len(words) != 2:
        folder = root / "sys/fs/cgroup/cpu"
        words = [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
    try:
        quota, period = int(words[0]), int(words[1])
    except ValueError:
        return None
    return max(1, math.ceil(quota / period)) if quota > 0 and period > 0 else None


def _apple_performance_cores() -> int | None:
    """The performance cores of an Apple processor: the slow ones would hold up every barrier."""
    system = ctypes.CDLL(ctypes.util.find_library("c"))
    value = ctypes.c_int32()
    for name in (b"hw.perflevel0.physicalcpu", b"hw.physicalcpu"):
        size = ctypes.c_size_t(ctypes.sizeof(value))
        if system.sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0) == 0:
            return value.value
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
