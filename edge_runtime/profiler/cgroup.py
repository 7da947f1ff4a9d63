"""What the control group this process lives in allows: memory and processor time, cgroup v1 and v2.

Limits apply along the whole path up to the root, so the tightest counts. Inside a container the
path of `/proc/self/cgroup` often does not exist below the mount; the mount's own root is the
container's group then. Everything is read below an injectable root.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")
# cgroup v1 writes "no limit" as the largest page-aligned 63-bit number (mm/page_counter.c).
_V1_UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """A memory limit in bytes, and what can be taken before it is met.

    Page cache that can be given back counts as free.
    """

    limit_bytes: int
    free_bytes: int


def memory_limits(root: Path = _ROOT) -> tuple[MemoryLimit, ...]:
    """Every memory limit in force, from the process's group up to the root; empty without one."""
    v1 = folders(root, "memory")
    found = [_memory_limit(f, "memory.limit_in_bytes", "memory.usage_in_bytes") for f in v1]
    found += [_memory_limit(f, "memory.max", "memory.current") for f in folders(root, "")]
    return tuple(limit for limit in found if limit is not None)


def cpu_quota(root: Path = _ROOT) -> float | None:
    """How many processors' worth of time the group may use; None without a quota."""
    quotas = []
    for folder in folders(root, ""):
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    for folder in folders(root, "cpu"):
        quota = _integer(folder / "cpu.cfs_quota_us")
        period = _integer(folder / "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            quotas.append(quota / period)
    return min(quotas) if quotas else None


def usable_cores(cores: int, root: Path = _ROOT) -> int:
    """Whole cores left by the quota: a thread stopped half of the time would stall all others."""
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.floor(quota + 1e-6)))


def _memory_limit(folder: Path, limit_name: str, usage_name: str) -> MemoryLimit | None:
    limit = _integer(folder / limit_name)
    if limit is None or limit >= _V1_UNLIMITED:
        return None
    usage = _integer(folder / usage_name) or 0
    reclaimable = 0
    for line in _text(folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        # v1 has the sum over the subtree beside the group's own figure; v2 has the sum only.
        if key in ("inactive_file", "total_inactive_file") and value.isdigit():
            reclaimable = max(reclaimable, int(value))
    return MemoryLimit(limit_bytes=limit, free_bytes=max(0, limit - max(0, usage - reclaimable)))


def folders(root: Path, controller: str) -> Iterator[Path]:
    """The group's folder and its ancestors in one hierarchy, existing ones only.

    `controller` empty means v2.
    """
    path = _group_path(root, controller)
    if path is None:
        return
    base = root / "sys/fs/cgroup"
    homes = [base / "unified", base] if not controller else [base / controller]
    if controller == "cpu":
        homes.append(base / "cpu,cpuacct")
    for home in homes:
        if not home.is_dir():
            continue
        inner = home
        parts = [part for part in path.split("/") if part not in ("", "..")]
        chain = [home]
        for part in parts:
            inner = inner / part
            chain.append(inner)
        yield from (folder for folder in reversed(chain) if folder.is_dir())


def _group_path(root: Path, controller: str) -> str | None:
    for line in _text(root / "proc/self/cgroup").splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            _, controllers, path = fields
            if controller in controllers.split(","):
                return path
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _integer(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None
