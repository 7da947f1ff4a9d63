"""The record of memory: peaks by phase, what had to be read back, and who else was short of it.

Plain arithmetic on what was read, no clock and no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PAGE_BYTES = 4096
"""The least that a major fault reads: no system this runs on has smaller pages."""

MAPPED = "_Mapped"
"""How engines name buffers, of any device, that are the mapped file."""

HOST_DEVICES = ("CPU", "AMX")
"""How engines name buffers in main memory: llama.cpp's CPU, CPU_REPACK and its like, and AMX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePeak:
    """The memory of the measuring process in one phase, bytes.

    `peak_bytes` is the kernel's high-water mark of resident memory since the phase began.
    Anonymous memory cannot be given back; file-backed pages (mapped weights) can be read again.
    The two are the largest values sampled, or read at the phase's end. A model that generates runs
    in `prefill` and `decode`; any other lies idle in `loaded` and then works in `run`.
    `read_bytes` had to be fetched from the disk by this process, `stalled_ns` is how long tasks of
    the machine waited for memory meanwhile (pressure stall information, "some"). Both are None
    where the system does not tell.
    """

    phase: Literal["load", "loaded", "prefill", "decode", "run"]
    peak_bytes: int
    anonymous_bytes: int
    file_bytes: int
    major_faults: int
    read_bytes: int | None = None
    stalled_ns: int | None = None

    @property
    def fetched_bytes(self) -> int:
        """What came from the disk in this phase at the least: read, or a page for each major fault.

        Some file systems and compressed swap serve a fault without being counted as a read.
        """
        return max(self.read_bytes or 0, self.major_faults * PAGE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """One buffer the engine says it allocated: on which device, for what, how large."""

    device: str
    purpose: Literal["model", "kv", "compute", "output", "recurrent"]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """The most memory of one GPU in use: by the measuring process, or what the device's use grew.

    A `device delta` counts everybody who came or went meanwhile.
    """

    device: str
    peak_bytes: int
    method: Literal["process", "device delta"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Peaks by phase, the idle process before loading, and the engine's own list of buffers."""

    baseline_bytes: int
    phases: tuple[PhasePeak, ...]
    buffers: tuple[Buffer, ...]
    method: str
    gpu: tuple[GpuMemory, ...] = ()

    @property
    def peak_bytes(self) -> int:
        """The largest high-water mark of any phase; before the first it is the idle process."""
        return max((phase.peak_bytes for phase in self.phases), default=self.baseline_bytes)

    @property
    def need_bytes(self) -> int:
        """What must really be free for this run, bytes: less, and something is read back or ends.

            need = largest anonymous size + max(0, mapped weights - their copies)

        Anonymous memory (cache, activations, copies of weights, the interpreter) cannot be given
        back. Mapped weights can, but each decode step would have to fetch them again, so they count
        too; where the engine keeps a rearranged copy (CPU_REPACK), only the copy is worked with
        and the mapped original may go. The mapping spans the whole file, copied weights included,
        so the copies are taken from it. ONNX Runtime lists no mapping: it works on copies of its
        own, which are anonymous, and nothing is added.
        """
        held = [b for b in self.buffers if b.purpose == "model"]
        mapped = sum(b.size_bytes for b in held if b.device.endswith(MAPPED))
        copies = sum(
            b.size_bytes
            for b in held
            if b.device.startswith(HOST_DEVICES) and not b.device.endswith(MAPPED)
        )
        anonymous = max((phase.anonymous_bytes for phase in self.phases), default=0)
        return anonymous + max(0, mapped - copies)

    @property
    def read_bytes(self) -> int | None:
        """What all phases together had to fetch from the disk; None where any does not tell."""
        return _sum([phase.read_bytes for phase in self.phases])

    @property
    def stalled_ns(self) -> int | None:
        """How long tasks waited for memory in all phases together; None where any does not tell."""
        return _sum([phase.stalled_ns for phase in self.phases])


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
