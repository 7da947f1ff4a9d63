"""The ways to hold one child process below a ceiling of memory, and which of them work here.

A control group counts everything a device's memory would hold, mapped weights included: what does
not fit is evicted and read again, as on the real thing. `RLIMIT_DATA` needs no privilege and counts
private writable memory only, so the weights must be in it. `RLIMIT_AS` fails the mapping itself and
`RLIMIT_RSS` does nothing (setrlimit(2)); neither is used.

The command of the child is wrapped, so that its interpreter is inside from its first page on. Each
way is proved by starting something under it. This module knows nothing of what the child does.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..basis import Unavailable
from . import cgroup
from .host import is_running

_ROOT = Path("/")
_PREFIX = "edge-runtime-"
_PROBE_BYTES = 64 * 1024**2
_PROBE_TIMEOUT_S = 5.0
_REMOVE_S = 2.0
"""How long a group may stay busy after its last process was reaped."""
_JOIN = 'echo $$ >"$0" && exec "$@"'
_DATA = 'ulimit -d "$0" && export OPENBLAS_NUM_THREADS=1 && exec "$@"'
"""Address space counts here, and numpy's OpenBLAS, which no engine computes with, would reserve
40 MiB of it for each processor of the host."""

_numbers = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Confined:
    """What a child is started with, and how many were ended under the ceiling for memory."""

    command: tuple[str, ...]
    kills: Callable[[], int]


class Means(Protocol):
    """One way that works here. `words` go into the record; see `Emulation.means`."""

    name: str
    words: str
    counts_page_cache: bool

    def confine(self, memory_bytes: int) -> AbstractContextManager[Confined]:
        """Holds what is started with the command given below that many bytes while entered."""


def find_means(root: Path = _ROOT) -> tuple[tuple[str, Means | Unavailable], ...]:
    """Every way by its name, best first: ready to use, or why it is not there."""
    return tuple((name, find(root)) for name, find in _WAYS)


def best_means(root: Path = _ROOT) -> Means | Unavailable:
    """The best way that works here, or the reasons why none does."""
    reasons = []
    for name, find in _WAYS:
        found = find(root)
        if not isinstance(found, Unavailable):
            return found
        reasons.append(f"{name}: {found.reason}")
    return Unavailable(
        reason="; ".join(reasons), remedy="Emulate a smaller device on Linux, or in a container."
    )


class ControlGroup:
    """A fresh child group below a `folder` of the version 1 or 2 hierarchy."""

    counts_page_cache = True

    def __init__(self, folder: Path, version: int, root: Path = _ROOT) -> None:
        self.name = f"control group v{version}"
        self.words = "no swap; the page cache of mapped weights counts"
        self.folder = folder
        self._version = version
        self._root = root

    @contextlib.contextmanager
    def confine(self, memory_bytes: int) -> Iterator[Confined]:
        """A group of its own for one child; removed on leaving, whatever became of the child.

        Raises OSError where the group cannot be made.
        """
        self._remove_abandoned()
        group = self._make()
        try:
            self._limit(group, memory_bytes)
            join = ("/bin/sh", "-c", _JOIN, str(group / "cgroup.procs"))
            yield Confined(command=join, kills=lambda: self._kills(group))
        finally:
            self._remove_patiently(group)

    def _make(self) -> Path:
        """A new group: a killed parent that had this very number may have left its own."""
        while True:
            group = self.folder / f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
            with contextlib.suppress(FileExistsError):
                group.mkdir()
                return group

    def _limit(self, group: Path, memory_bytes: int) -> None:
        if self._version == 2:
            write_control(group / "memory.max", memory_bytes)
            try:
                write_control(group / "memory.swap.max", 0)
            except OSError:
                # A kernel without swap has no such file; with swap the ceiling would leak.
                if _has_swap(self._root):
                    raise
            return
        write_control(group / "memory.limit_in_bytes", memory_bytes)
        try:
            write_control(group / "memory.memsw.limit_in_bytes", memory_bytes)
        except OSError:
            # Without swap accounting a group can only be told not to swap.
            write_control(group / "memory.swappiness", 0)

    def _kills(self, group: Path) -> int:
        file = "memory.events" if self._version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError, ValueError):
            for line in (group / file).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        return 0

    def _remove_patiently(self, group: Path) -> None:
        deadline = time.monotonic() + _REMOVE_S
        while True:
            try:
                return remove_group(group)
            except FileNotFoundError:
                return None
            except OSError:
                # The kernel takes a moment to let go of a process that was killed. What stays
                # busy is removed by the next measurement.
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.01)

    def _remove_abandoned(self) -> None:
        """Removes the groups of parents that were killed; one with a process in it stays."""
        for group in self.folder.glob(f"{_PREFIX}*"):
            pid = group.name.removeprefix(_PREFIX).partition("-")[0]
            if pid.isdigit() and not is_running(int(pid)):
                with contextlib.suppress(OSError):
                    remove_group(group)


class SystemdScope:
    """A transient scope of the user's service manager, or of the system's for root."""

    name = "systemd scope"
    words = "MemoryMax, no swap; the page cache of mapped weights counts"
    counts_page_cache = True

    def __init__(self, program: str, root: Path = _ROOT) -> None:
        self._program = program
        self._root = root

    @contextlib.contextmanager
    def confine(self, memory_bytes: int) -> Iterator[Confined]:
        """The scope is made when the child starts and is gone when it ends."""
        before = oom_kills(self._root) or 0
        manager = ("--user",) if os.geteuid() else ()
        yield Confined(
            command=(
                self._program, *manager, "--scope", "--quiet", "--collect",
                "-p", f"MemoryMax={memory_bytes}", "-p", "MemorySwapMax=0", "--",
            ),
            kills=lambda: (oom_kills(self._root) or 0) - before,
        )  # fmt: skip


class DataLimit:
    """`RLIMIT_DATA`: private writable address space, so that nothing is ever evicted."""

    name = "RLIMIT_DATA"
    words = (
        "private writable address space, weights included; a hard ceiling, where a real device"
        " would evict and read again"
    )
    counts_page_cache = False

    @contextlib.contextmanager
    def confine(self, memory_bytes: int) -> Iterator[Confined]:
        """The shell that becomes the child sets it, in KiB."""
        yield Confined(command=("/bin/sh", "-c", _DATA, str(memory_bytes // 1024)), kills=lambda: 0)


def oom_kills(root: Path = _ROOT) -> int | None:
    """How many processes the kernel has killed for memory since the boot; None when untold."""
    try:
        for line in (root / "proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


def _group_v2(root: Path) -> Means | Unavailable:
    """The nearest group above this process that hands the memory controller down and lets us in."""
    folders = tuple(cgroup.folders(root, ""))
    last = Unavailable(reason="the memory controller is not in the version 2 hierarchy")
    if any("memory" in _text(folder / "cgroup.controllers").split() for folder in folders):
        last = Unavailable(
            reason="no group above this process hands the memory controller down",
            remedy="As root: echo +memory > /sys/fs/cgroup/cgroup.subtree_control",
        )
    for folder in folders:
        if "memory" in _text(folder / "cgroup.subtree_control").split():
            found = _proved(ControlGroup(folder, 2, root), "Run as root, or in a delegated group.")
            if not isinstance(found, Unavailable):
                return found
            last = found
    return last


def _group_v1(root: Path) -> Means | Unavailable:
    folder = next(cgroup.folders(root, "memory"), None)
    if folder is None or not (folder / "memory.limit_in_bytes").exists():
        return Unavailable(reason="there is no version 1 memory hierarchy")
    return _proved(ControlGroup(folder, 1, root), "Run as root.")


def _systemd_scope(root: Path) -> Means | Unavailable:
    """A scope is believed when a process in it sees the ceiling: properties may be ignored."""
    program = shutil.which("systemd-run")
    if sys.platform != "linux" or program is None:
        return Unavailable(reason="there is no systemd-run")
    seen = 'cat "/sys/fs/cgroup$(sed -n s/^0::// /proc/self/cgroup)/memory.max"'
    scope = SystemdScope(program, root)
    with scope.confine(_PROBE_BYTES) as confined:
        said, complaint = _try((*confined.command, "/bin/sh", "-c", seen))
    if said == str(_PROBE_BYTES):
        return scope
    return Unavailable(
        reason=complaint or "the scope's ceiling is not in force",
        remedy="Log in with a session of systemd's that has the memory controller.",
    )


def _data_limit(_root: Path) -> Means | Unavailable:
    if sys.platform != "linux":
        return Unavailable(reason="only Linux counts mapped memory in it")
    means = DataLimit()
    with means.confine(_PROBE_BYTES) as confined:
        said, complaint = _try((*confined.command, "/bin/sh", "-c", "ulimit -d"))
    if said == str(_PROBE_BYTES // 1024):
        return means
    return Unavailable(reason=complaint or "the shell cannot set it")


_WAYS: tuple[tuple[str, Callable[[Path], Means | Unavailable]], ...] = (
    ("control group v2", _group_v2),
    (SystemdScope.name, _systemd_scope),
    ("control group v1", _group_v1),
    (DataLimit.name, _data_limit),
)


def _proved(means: ControlGroup, remedy: str) -> Means | Unavailable:
    """The means, once a process has joined a group of it."""
    try:
        with means.confine(_PROBE_BYTES) as confined:
            said, complaint = _try((*confined.command, "/bin/sh", "-c", "echo inside"))
    except OSError as error:
        # The name of the group tried would be another one each time.
        return Unavailable(reason=f"{error.strerror or error} in {means.folder}", remedy=remedy)
    if said == "inside":
        return means
    return Unavailable(reason=complaint or "a process cannot join a group", remedy=remedy)


def _try(command: tuple[str, ...]) -> tuple[str, str]:
    """What a command prints, and its last complaint where it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    words = done.stderr.strip().splitlines()
    return (done.stdout.strip(), "") if done.returncode == 0 else ("", words[-1] if words else "")


def _has_swap(root: Path) -> bool:
    # The first line of the file is its heading.
    return len(_text(root / "proc/swaps").splitlines()) > 1


def write_control(path: Path, value: int) -> None:
    """Writes one control file of a group. Raises OSError."""
    path.write_text(f"{value}\n")


def remove_group(group: Path) -> None:
    """Removes an empty group, whose control files the kernel takes along. Raises OSError."""
    group.rmdir()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
