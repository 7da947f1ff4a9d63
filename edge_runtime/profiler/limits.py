"""A smaller device, emulated for one measurement: a memory ceiling, fewer processors, the record.

The parent enters `Confinement` before it starts the child and leaves it when the child has ended.
`ceiling` knows how memory is held down; here is decided what is asked of it, what the host then is
for the verdict, and how an end for lack of memory is told. Caches and memory bandwidth stay those
of the host: what is measured is optimistic for a real device of that size.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from ..artifact import Artifact
from ..basis import Unavailable
from ..errors import (
    BackendError,
    EdgeError,
    MemoryLimitError,
    ResourceError,
    UsageError,
    WorkerError,
)
from ..measurement import Emulation, Host, Limits, SessionOptions
from ..units import format_bytes
from .ceiling import Confined, Means, best_means
from .pagecache import COLD_SHARE, drop_from_page_cache, resident_share

LEAST_MEMORY_BYTES = 32 * 1024**2
"""The process itself: interpreter and engine hold 21 MiB privately before there is a model
(llama-cpp-python 0.3.36, onnxruntime 1.31.1), and the code they run must stay resident too."""

_ROOT = Path("/")
_WAY_OUT = "Raise --limit-memory, or choose a smaller level or a shorter context."


def checked_limits(limits: Limits | None, host: Host) -> Limits | None:
    """The limits, None where nothing is limited. Raises UsageError for impossible ones."""
    if limits is None or limits == Limits():
        return None
    memory, cores = limits.memory_bytes, limits.cores
    if memory is not None and memory < LEAST_MEMORY_BYTES:
        raise UsageError(
            f"No model can be measured in {format_bytes(max(memory, 0))} of memory.",
            cause=f"The measuring process itself takes {format_bytes(LEAST_MEMORY_BYTES)}.",
            way_out="Give --limit-memory a larger size, such as 2GiB.",
        )
    if memory is not None and host.ram_bytes and memory > host.ram_bytes:
        raise UsageError(
            f"A device with {format_bytes(memory)} of memory cannot be emulated here.",
            cause=f"This machine has {format_bytes(host.ram_bytes)} in all.",
            way_out="Give --limit-memory a smaller size, or measure on a larger machine.",
        )
    if cores is not None and not 1 <= cores <= host.cores_usable:
        raise UsageError(
            f"A device with {cores} cores cannot be emulated here.",
            cause=f"This process may use {host.cores_usable} of this machine's.",
            way_out=f"Give --limit-cores a number from 1 to {host.cores_usable}.",
        )
    return limits


def limited_host(host: Host, limits: Limits | None) -> Host:
    """The host as the emulated device shows itself: its memory, free memory and cores."""
    if limits is None:
        return host
    memory, free = limits.memory_bytes, host.ram_available_bytes
    if memory is not None:
        host = replace(
            host,
            ram_bytes=min(host.ram_bytes, memory) or memory,
            ram_available_bytes=memory if free is None else min(free, memory),
        )
    return host if limits.cores is None else replace(host, cores_usable=limits.cores)


def confine_cores(cores: int, root: Path = _ROOT) -> None:
    """Keeps this process, and every thread it will start, on that many processors.

    Processors that share a core are taken last: a device's cores are whole ones. Raises
    ResourceError where the system cannot.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise ResourceError(
            "This system cannot keep a process on fewer cores.",
            way_out="Leave --limit-cores out, or measure on Linux.",
        )
    os.sched_setaffinity(0, choose_processors(os.sched_getaffinity(0), cores, root))


def choose_processors(usable: set[int], cores: int, root: Path = _ROOT) -> set[int]:
    """That many of the usable processors, one of each physical core before any second one."""
    seen: dict[str, int] = {}
    ranked = []
    for number in sorted(usable):
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        core = _text(topology / "core_cpus_list") or _text(topology / "thread_siblings_list")
        core = core or f"cpu {number}"
        seen[core] = seen.get(core, -1) + 1
        ranked.append((seen[core], number))
    return {number for _, number in sorted(ranked)[:cores]}


class Confinement:
    """What is limited for one child, from entering to leaving the context.

    Without limits it changes nothing. `options` are those the child is to open the model with,
    `command` goes before the child's own. Entering raises UsageError for impossible limits and
    ResourceError where there is no honest way to hold them.
    """

    def __init__(
        self,
        limits: Limits | None,
        artifact: Artifact,
        options: SessionOptions,
        host: Host,
        *,
        root: Path = _ROOT,
    ) -> None:
        self._limits = checked_limits(limits, host)
        self._artifact = artifact
        self._root = root
        self._stack = contextlib.ExitStack()
        self._confined: Confined | None = None
        self._counts_refusals = False
        self._words: list[str] = []
        self.options = options
        self.host = limited_host(host, self._limits)
        self.notes: tuple[str, ...] = ()

    @property
    def limits(self) -> Limits | None:
        """The limits in force."""
        return self._limits

    @property
    def command(self) -> tuple[str, ...]:
        """What goes before the child's own command."""
        return self._confined.command if self._confined else ()

    @property
    def emulation(self) -> Emulation | None:
        """The record of what was limited, and by which means."""
        if self._limits is None:
            return None
        return Emulation(limits=self._limits, means="; ".join(self._words))

    def __enter__(self) -> Self:
        """Makes the ceiling ready for the child."""
        if self._limits is None:
            return self
        if self._limits.memory_bytes is not None:
            self._hold_memory(self._limits.memory_bytes)
        if self._limits.cores is not None:
            self._refuse_threads(self._limits.cores)
            self._words.append("processor affinity")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Takes the ceiling away again."""
        self._stack.close()

    def explained(self, error: EdgeError) -> EdgeError:
        """The child's failure, told as what it is under a ceiling."""
        memory = self._limits.memory_bytes if self._limits else None
        if memory is None or self._confined is None:
            return error
        under = f"the ceiling of {format_bytes(memory)} (--limit-memory)"
        if isinstance(error, WorkerError) and self._confined.kills() > 0:
            return MemoryLimitError(
                f"{self._artifact.name} does not fit under {under}.",
                cause="The kernel ended the measuring process when it met the ceiling.",
                way_out=_WAY_OUT,
            )
        if isinstance(error, MemoryLimitError):
            return MemoryLimitError(
                f"{self._artifact.name} does not fit under {under}.",
                cause=f"{error.fact} {error.cause}".strip(),
                way_out=_WAY_OUT,
            )
        if self._counts_refusals and isinstance(error, BackendError | WorkerError):
            # Engines tell a refused allocation in many ways, and some do not survive it.
            kind = type(error)
            return kind(
                error.fact,
                cause=f"{error.cause} It ran under {under}, which may be why.".strip(),
                way_out=_WAY_OUT,
            )
        return error

    def _hold_memory(self, memory_bytes: int) -> None:
        means = best_means(self._root)
        if isinstance(means, Unavailable):
            raise ResourceError(
                "A memory ceiling cannot be held on this system.",
                cause=f"{means.reason}.",
                way_out=means.remedy,
            )
        if means.counts_page_cache:
            self._start_cold()
        else:
            self._keep_weights_anonymous(means)
        try:
            self._confined = self._stack.enter_context(means.confine(memory_bytes))
        except OSError as error:
            raise ResourceError(
                "The memory ceiling could not be set.",
                cause=f"{error.strerror or error}: {error.filename}.",
                way_out="Run edge doctor to see which means work here.",
            ) from error
        self._words.append(f"{means.name}: {means.words}")

    def _start_cold(self) -> None:
        """Takes the file out of the page cache: its pages belong to whoever read them first."""
        drop_from_page_cache(self._artifact.paths)
        share = resident_share(self._artifact.paths)
        if share is not None and share > COLD_SHARE:
            cached = f"{share:.0%} of the file stayed in the page cache"
            self.notes += (f"{cached} and did not count against the memory ceiling",)

    def _keep_weights_anonymous(self, means: Means) -> None:
        if self._artifact.format == "onnx":
            raise ResourceError(
                "A memory ceiling cannot be held for an ONNX model here.",
                cause=f"ONNX Runtime maps files of weights, which {means.name} does not count.",
                way_out="Run as root or in a systemd session, where a control group can count"
                " them: edge doctor shows which means work.",
            )
        self._counts_refusals = True
        if self.options.memory_map:
            self.options = replace(self.options, memory_map=False)
            self.notes += (
                f"the weights were read, not mapped: {means.name} counts no mapped file",
            )

    def _refuse_threads(self, cores: int) -> None:
        asked = max(self.options.threads or 0, self.options.threads_prefill or 0)
        if asked > cores:
            raise UsageError(
                f"{asked} threads cannot run on {cores} core{'s' if cores > 1 else ''}"
                " of an emulated device.",
                cause="They would only wait for each other.",
                way_out=f"Ask for at most {cores}, or leave the threads out.",
            )


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
