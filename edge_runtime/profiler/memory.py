"""The resident memory of the present process by phase: peaks, anonymous and file-backed apart.

On Linux the peak is `VmHWM`, the kernel's own high-water mark, which a write of `5` to
`/proc/self/clear_refs` sets back to the present size (proc(5)). `ru_maxrss` is never read: a child
inherits its parent's through fork and exec. Where the mark cannot be reset, or there is none
(macOS), the largest sample stands for the peak and the method says so; on Windows it is the
process's `PeakWorkingSetSize`, which only ever grows.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from ..measurement import Buffer, Memory, PhasePeak, Unavailable
from .ticker import Sample

Phase = Literal["load", "loaded", "prefill", "decode", "run"]
_PHASES: tuple[Phase, ...] = get_args(Phase)
_STATUS_BYTES = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """One reading of the process: bytes, and major faults since it began."""

    resident_bytes: int
    peak_bytes: int | None
    anonymous_bytes: int
    file_bytes: int
    major_faults: int


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
    """`/proc/self/{status,statm,stat,clear_refs}` through descriptors opened once."""

    def __init__(self, root: Path = Path("/")) -> None:
        own = root / "proc" / "self"
        self._status = os.open(own / "status", os.O_RDONLY)
        self._statm = os.open(own / "statm", os.O_RDONLY)
        self._stat = os.open(own / "stat", os.O_RDONLY)
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
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
        """`stat` and `status`, one after the other."""
        stat = os.pread(self._stat, 1024, 0)
        return stat.rstrip(b"\n") + b"\n" + os.pread(self._status, _STATUS_BYTES, 0)

    def parse(self, raw: bytes) -> Footprint:
        """Sizes from `status` and major faults from `stat`."""
        stat, _, status = raw.partition(b"\n")
        sizes = {
            key: int(value.split()[0]) * 1024
            for key, _, value in (line.partition(b":") for line in status.splitlines())
            if key in (b"VmHWM", b"VmRSS", b"RssAnon", b"RssFile", b"RssShmem")
        }
        return Footprint(
            resident_bytes=sizes[b"VmRSS"],
            peak_bytes=sizes[b"VmHWM"] if self._clear is not None else None,
            anonymous_bytes=sizes[b"RssAnon"],
            file_bytes=sizes[b"RssFile"] + sizes.get(b"RssShmem", 0),
            # Field 12 of proc(5) stat; the command's name before it may hold spaces and brackets.
            major_faults=int(stat.rpartition(b")")[2].split()[9]),
        )

    def reset_peak(self) -> None:
        """Writes 5 to `clear_refs`."""
        if self._clear is not None:
            os.write(self._clear, b"5")


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


class PhaseMeter:
    """Collects raw readings at phase boundaries and sums them up once nothing is timed any more."""

    def __init__(self, source: MemorySource) -> None:
        self._source = source
        self._baseline = source.read()
        self._open: tuple[Phase, int, bytes] | None = None
        self._closed: list[tuple[Phase, int, int, bytes, bytes]] = []

    def begin(self, phase: Phase) -> None:
        """Ends the open phase, if any, and begins another: about ten microseconds on Linux."""
        raw = self._source.read()
        now = time.perf_counter_ns()
        self._close(now, raw)
        self._source.reset_peak()
        self._open = (phase, now, raw)

    def end(self) -> None:
        """Ends the open phase."""
        raw = self._source.read()
        self._close(time.perf_counter_ns(), raw)

    def _close(self, now: int, raw: bytes) -> None:
        if self._open is not None:
            phase, started, before = self._open
            self._closed.append((phase, started, now, before, raw))
            self._open = None

    def memory(self, samples: Sequence[Sample], buffers: tuple[Buffer, ...]) -> Memory:
        """The record: one peak per phase, over all its occurrences."""
        parse = self._source.parse
        sampled = [(s.taken_ns, self._source.parse_sample(s.raw)) for s in samples]
        phases = []
        for phase in _PHASES:
            seen: list[Footprint] = []
            faults = 0
            for name, started, ended, before, after in self._closed:
                if name == phase:
                    last = parse(after)
                    faults += last.major_faults - parse(before).major_faults
                    seen += [last, *(f for t, f in sampled if started <= t < ended)]
            if seen:
                phases.append(_peak(phase, seen, faults))
        return Memory(
            baseline_bytes=parse(self._baseline).resident_bytes,
            phases=tuple(phases),
            buffers=buffers,
            method=self._source.method,
        )


def _peak(phase: Phase, seen: list[Footprint], faults: int) -> PhasePeak:
    marks = [f.peak_bytes for f in seen if f.peak_bytes is not None]
    return PhasePeak(
        phase=phase,
        peak_bytes=max(marks or [f.resident_bytes for f in seen]),
        anonymous_bytes=max(f.anonymous_bytes for f in seen),
        file_bytes=max(f.file_bytes for f in seen),
        major_faults=max(0, faults),
    )
