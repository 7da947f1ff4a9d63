"""The resident memory of the present process by phase: peaks, anonymous and file-backed apart.

On Linux the peak is `VmHWM`, the kernel's own high-water mark, which a write of `5` to
`/proc/self/clear_refs` sets back to the present size (proc(5)). `ru_maxrss` is never read: a child
inherits its parent's through fork and exec. Where the mark cannot be reset, or there is none
(macOS), the largest sample stands for the peak and the method says so; on Windows it is the
process's `PeakWorkingSetSize`, which only ever grows.

What a phase had to fetch from the disk comes from `/proc/self/io`, how long the machine's tasks
waited for memory from `/proc/pressure/memory` (PSI, the "some" line) or, where a container hides
that, from the control group's own file. Both are None where they are refused.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from ..basis import Unavailable
from ..memory import Buffer, Memory, PhasePeak
from . import cgroup
from .ticker import Sample

Phase = Literal["load", "loaded", "prefill", "decode", "run"]
_PHASES: tuple[Phase, ...] = get_args(Phase)
_STATUS_BYTES = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """One reading of the process: bytes, and major faults since it began.

    `read_bytes` were fetched from the disk since it began; `stalled_ns` counts from the boot. None
    where the system does not tell.
    """

    resident_bytes: int
    peak_bytes: int | None
    anonymous_bytes: int
    file_bytes: int
    major_faults: int
    read_bytes: int | None = None
    stalled_ns: int | None = None


class MemorySource(Protocol):
    """One system's way of telling a process's memory."""

    method: str

    def sample(self) -> bytes:
        """A raw reading, cheap enough for the sampler thread."""

    def parse_sample(self, raw: bytes) -> Footprint:
        """What a raw reading says; its peak and faults may be unknown."""

    def read(self) -> bytes:
        """A raw, complete reading, cheap enough for a phase boundary inside a timed run."""

    def parse(self, raw: bytes) -> Footprint:
        """What a complete reading says."""

    def reset_peak(self) -> None:
        """Sets the high-water mark back to the present size, where the system can."""


class LinuxMemory:
    """`/proc/self/{status,statm,stat,io,clear_refs}` and the memory pressure.

    Descriptors are opened once. A complete reading takes about 15 microseconds.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        own = root / "proc" / "self"
        self._status = os.open(own / "status", os.O_RDONLY)
        self._statm = os.open(own / "statm", os.O_RDONLY)
        self._stat = os.open(own / "stat", os.O_RDONLY)
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._further = tuple(
            handle
            for handle in (_readable(own / "io"), _readable(*_pressure_files(root)))
            if handle is not None
        )
        self.method = "VmHWM set back at each phase; RssAnon and RssFile sampled at 20 Hz"
        self._clear: int | None = None
        try:
            self._clear = os.open(own / "clear_refs", os.O_WRONLY)
            os.write(self._clear, b"5")
        except OSError:
            self._clear = None
            self.method = (
                "VmRSS sampled at 20 Hz, no high-water mark by phase (clear_refs is refused here)"
            )

    def sample(self) -> bytes:
        """The line of `statm`."""
        return os.pread(self._statm, 256, 0)

    def parse_sample(self, raw: bytes) -> Footprint:
        """Resident and file-backed pages of a `statm` line."""
        fields = raw.split()
        resident, file_backed = (int(fields[i]) * self._page_bytes for i in (1, 2))
        return Footprint(
            resident_bytes=resident, peak_bytes=None, anonymous_bytes=resident - file_backed,
            file_bytes=file_backed, major_faults=0,
        )  # fmt: skip

    def read(self) -> bytes:
        """`stat`, `status` and what there is of `io` and the pressure, one after the other."""
        parts = [
            os.pread(self._stat, 1024, 0).rstrip(b"\n"),
            os.pread(self._status, _STATUS_BYTES, 0),
        ]
        for handle in self._further:
            # Refused later than at the first reading: that part is unknown, the rest is not.
            with contextlib.suppress(OSError):
                parts.append(os.pread(handle, 1024, 0))
        return b"\n".join(parts)

    def parse(self, raw: bytes) -> Footprint:
        """Sizes from `status`, major faults from `stat`, bytes read from `io`, the pressure."""
        stat, _, rest = raw.partition(b"\n")
        sizes: dict[bytes, int] = {}
        read = stalled = None
        for line in rest.splitlines():
            key, _, value = line.partition(b":")
            if key in (b"VmHWM", b"VmRSS", b"RssAnon", b"RssFile", b"RssShmem"):
                sizes[key] = int(value.split()[0]) * 1024
            elif key == b"read_bytes" and value.strip().isdigit():
                read = int(value)
            elif line.startswith(b"some "):
                stalled = _stalled_ns(line)
        return Footprint(
            resident_bytes=sizes[b"VmRSS"],
            peak_bytes=sizes[b"VmHWM"] if self._clear is not None else None,
            anonymous_bytes=sizes[b"RssAnon"],
            file_bytes=sizes[b"RssFile"] + sizes.get(b"RssShmem", 0),
            # Field 12 of proc(5) stat; the command's name before it may hold spaces and brackets.
            major_faults=int(stat.rpartition(b")")[2].split()[9]),
            read_bytes=read,
            stalled_ns=stalled,
        )

    def reset_peak(self) -> None:
        """Writes 5 to `clear_refs`."""
        if self._clear is not None:
            os.write(self._clear, b"5")


def _readable(*paths: Path) -> int | None:
    """A descriptor of the first file that can really be read; None where there is none."""
    for path in paths:
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            # /proc/self/io may be opened and still be refused; so may a switched-off pressure.
            if os.pread(handle, 1024, 0):
                return handle
        except OSError:
            pass
        os.close(handle)
    return None


def _pressure_files(root: Path) -> tuple[Path, ...]:
    own = (folder / "memory.pressure" for folder in cgroup.folders(root, ""))
    return (root / "proc/pressure/memory", *own)


def _stalled_ns(line: bytes) -> int | None:
    """The total of a pressure line, which counts microseconds."""
    total = line.rpartition(b"total=")[2].strip()
    return int(total) * 1000 if total.isdigit() else None


class PsutilMemory:
    """macOS and Windows through psutil: the working set, and what of it is private."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._has_peak = sys.platform == "win32"
        self.method = (
            "PeakWorkingSetSize since the process began; private working set as anonymous"
            if self._has_peak
            else "resident size sampled at 20 Hz (no high-water mark by phase on this system)"
        )

    def sample(self) -> bytes:
        """Resident bytes only: the split is too dear for the sampler."""
        return str(self._process.memory_info().rss).encode()

    def parse_sample(self, raw: bytes) -> Footprint:
        """Resident bytes; the split is taken at the phase's end."""
        return Footprint(
            resident_bytes=int(raw), peak_bytes=None, anonymous_bytes=0, file_bytes=0,
            major_faults=0,
        )  # fmt: skip

    def read(self) -> bytes:
        """Resident, peak, private bytes and page-ins as one line."""
        full = self._process.memory_full_info()
        peak = getattr(full, "peak_wset", 0)
        return f"{full.rss} {peak} {full.uss} {getattr(full, 'pageins', 0)}".encode()

    def parse(self, raw: bytes) -> Footprint:
        """The four numbers of `read`."""
        resident, peak, private, faults = map(int, raw.split())
        return Footprint(
            resident_bytes=resident, peak_bytes=peak if self._has_peak else None,
            anonymous_bytes=min(private, resident), file_bytes=max(0, resident - private),
            major_faults=faults,
        )  # fmt: skip

    def reset_peak(self) -> None:
        """Does nothing: neither system can."""


def memory_source() -> MemorySource | Unavailable:
    """The system's source, or why there is none."""
    try:
        return LinuxMemory() if sys.platform == "linux" else PsutilMemory()
    except (OSError, ImportError) as error:
        return Unavailable(
            reason=f"the process's memory cannot be read ({error})",
            remedy="Mount /proc, or install psutil.",
        )


class _Tally:
    """One phase over all its occurrences, of which only their times are kept apart.

    Ten minutes of short repetitions are a hundred thousand of them, in the measured process.
    """

    def __init__(self) -> None:
        self._times = array("q")
        self._mark: int | None = None
        self._resident = self._anonymous = self._file = self._faults = 0
        self._read: int | None = 0
        self._stalled: int | None = 0

    def add(self, started_ns: int, ended_ns: int, before: Footprint, after: Footprint) -> None:
        """Adds an occurrence; none begins before the last one ended."""
        self._times.extend((started_ns, ended_ns))
        self.see(after)
        self._faults += max(0, after.major_faults - before.major_faults)
        self._read = _grown(self._read, before.read_bytes, after.read_bytes)
        self._stalled = _grown(self._stalled, before.stalled_ns, after.stalled_ns)

    def holds(self, taken_ns: int) -> bool:
        """Whether a moment lies within an occurrence: an odd number of boundaries came before."""
        return bisect_right(self._times, taken_ns) % 2 == 1

    def see(self, footprint: Footprint) -> None:
        """Takes note of the process's size at one moment."""
        if footprint.peak_bytes is not None:
            self._mark = max(self._mark or 0, footprint.peak_bytes)
        self._resident = max(self._resident, footprint.resident_bytes)
        self._anonymous = max(self._anonymous, footprint.anonymous_bytes)
        self._file = max(self._file, footprint.file_bytes)

    def peak(self, phase: Phase) -> PhasePeak:
        """The record of the phase."""
        return PhasePeak(
            phase=phase,
            peak_bytes=self._resident if self._mark is None else self._mark,
            anonymous_bytes=self._anonymous,
            file_bytes=self._file,
            major_faults=self._faults,
            read_bytes=self._read,
            stalled_ns=self._stalled,
        )


def _grown(total: int | None, before: int | None, after: int | None) -> int | None:
    """A total and what a counter grew by; None once an end was not told."""
    if total is None or before is None or after is None:
        return None
    return total + max(0, after - before)


class PhaseMeter:
    """Collects raw readings at phase boundaries and sums them up once nothing is timed any more."""

    def __init__(self, source: MemorySource) -> None:
        self._source = source
        self._baseline = source.read()
        self._open: tuple[Phase, int, bytes] | None = None
        self._raw: list[tuple[Phase, int, int, bytes, bytes]] = []
        self._tallies: dict[Phase, _Tally] = {}

    def begin(self, phase: Phase) -> None:
        """Ends the open phase, if any, and begins another: about twenty microseconds on Linux."""
        raw = self._source.read()
        now = time.perf_counter_ns()
        self._close(now, raw)
        self._source.reset_peak()
        self._open = (phase, now, raw)

    def end(self) -> None:
        """Ends the open phase, where nothing is timed.

        Readings are parsed here: thousands of them would otherwise weigh more than what they tell.
        """
        raw = self._source.read()
        self._close(time.perf_counter_ns(), raw)
        self._parse()

    def _parse(self) -> None:
        parse = self._source.parse
        for phase, started, ended, before, after in self._raw:
            tally = self._tallies.setdefault(phase, _Tally())
            tally.add(started, ended, parse(before), parse(after))
        self._raw.clear()

    def _close(self, now: int, raw: bytes) -> None:
        if self._open is not None:
            phase, started, before = self._open
            self._raw.append((phase, started, now, before, raw))
            self._open = None

    def memory(self, samples: Sequence[Sample], buffers: tuple[Buffer, ...]) -> Memory:
        """The record: one peak per phase, over all its occurrences."""
        self._parse()
        for sample in samples:
            for tally in self._tallies.values():
                if tally.holds(sample.taken_ns):
                    tally.see(self._source.parse_sample(sample.raw))
        return Memory(
            baseline_bytes=self._source.parse(self._baseline).resident_bytes,
            phases=tuple(
                self._tallies[phase].peak(phase) for phase in _PHASES if phase in self._tallies
            ),
            buffers=buffers,
            method=self._source.method,
        )
