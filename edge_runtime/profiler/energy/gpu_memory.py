"""How much GPU memory the measuring process takes, or what the use of each GPU grew.

NVML lists processes with their memory where it can; under Windows' display driver model it lists
them without, and inside a container under numbers of the host. Then only the growth of the whole
device is known, which counts everybody, and is called what it is. No NVML, no figure.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...basis import Unavailable
from ...memory import GpuMemory
from .nvml import Device, Nvml, NvmlError, open_nvml
from .sysfs import Tree

_PERIOD_S = 0.5
_LISTS = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
_NOT_AVAILABLE = 2**64 - 1


class GpuMemoryGauge:
    """Looks at every GPU now and then. Begun before the measuring process exists."""

    period_s = _PERIOD_S

    def __init__(self, tree: Tree | None = None, *, module: Any = None) -> None:
        nvml = open_nvml(Tree(Path("/")) if tree is None else tree, module=module)
        self._nvml = None if isinstance(nvml, Unavailable) else nvml
        self._pid: int | None = None
        self._tracks: tuple[_Track, ...] = ()
        if self._nvml is not None:
            try:
                devices, _refused = self._nvml.devices()
            except NvmlError:
                devices = ()
            self._tracks = tuple(_Track(self._nvml, device) for device in devices)

    @property
    def is_of_use(self) -> bool:
        """Whether there is any GPU to look at."""
        return bool(self._tracks)

    def watch(self, pid: int) -> None:
        """Tells which process is measured."""
        self._pid = pid

    def sample(self) -> None:
        """Takes a reading of each GPU. Never raises."""
        for track in self._tracks:
            track.sample(self._pid)

    def memory(self, *, engine_uses_gpus: bool) -> tuple[GpuMemory, ...]:
        """The most seen of each GPU. Where the engine uses none, growth is somebody else's."""
        found = (track.memory(engine_uses_gpus=engine_uses_gpus) for track in self._tracks)
        return tuple(memory for memory in found if memory is not None)

    def close(self) -> None:
        """Lets go of the driver. Does no harm a second time."""
        if self._nvml is not None:
            self._nvml.release()
            self._nvml = None
            # What was seen stays; nothing is looked at any more.
            for track in self._tracks:
                track.stop()


class _Track:
    """One GPU: the most the process had, and the most that was in use altogether."""

    def __init__(self, nvml: Nvml, device: Device) -> None:
        self._nvml: Nvml | None = nvml
        self._device = device
        self._before_bytes = self._used_bytes()
        # A number that was listed before the process existed is another's, seen from the host.
        self._strangers = frozenset(self._listed())
        self._most_bytes = self._before_bytes
        self._own_bytes: int | None = None

    def sample(self, pid: int | None) -> None:
        used = self._used_bytes()
        if used is not None:
            self._most_bytes = max(self._most_bytes or 0, used)
        if pid is not None and pid not in self._strangers:
            own = self._listed().get(pid)
            if own is not None:
                self._own_bytes = max(self._own_bytes or 0, own)

    def memory(self, *, engine_uses_gpus: bool) -> GpuMemory | None:
        title = self._device.title
        if self._own_bytes:
            return GpuMemory(device=title, peak_bytes=self._own_bytes, method="process")
        if not engine_uses_gpus or self._before_bytes is None or self._most_bytes is None:
            return None
        grown = self._most_bytes - self._before_bytes
        if grown <= 0:
            return None
        return GpuMemory(device=title, peak_bytes=grown, method="device delta")

    def stop(self) -> None:
        self._nvml = None

    def _used_bytes(self) -> int | None:
        if self._nvml is None:
            return None
        try:
            used = self._nvml.of(self._device, "nvmlDeviceGetMemoryInfo").used
        except NvmlError:
            return None
        return int(used) if 0 <= used < _NOT_AVAILABLE else None

    def _listed(self) -> dict[int, int]:
        """Bytes by process. One that computes and draws is in both lists with the same figure."""
        bytes_by_pid: dict[int, int] = {}
        for call in _LISTS if self._nvml is not None else ():
            assert self._nvml is not None
            try:
                entries = self._nvml.of(self._device, call)
            except NvmlError:
                continue
            for pid, used in _summed(entries).items():
                bytes_by_pid[pid] = max(bytes_by_pid.get(pid, 0), used)
        return bytes_by_pid


def _summed(entries: Iterable[Any]) -> dict[int, int]:
    """Bytes by process: one with work on several instances of a GPU has an entry for each."""
    summed: dict[int, int] = {}
    for entry in entries:
        used = entry.usedGpuMemory
        if used is not None and 0 <= used < _NOT_AVAILABLE:
            summed[entry.pid] = summed.get(entry.pid, 0) + int(used)
    return summed
