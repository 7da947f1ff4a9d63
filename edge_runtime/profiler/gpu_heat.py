"""The heat of GPUs over time: their temperatures, and why their drivers hold their clocks down.

Reads through `energy.nvidia` what one reading says; this module keeps the readings, and the moments
at which a reason was new. A machine without a GPU that tells has none of either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..basis import Unavailable
from .energy.nvidia import GpuHeat, heat
from .energy.nvml import NvmlError, open_nvml
from .energy.sysfs import Tree
from .temperature import COLDEST_CELSIUS, HOTTEST_CELSIUS

Readings = Callable[[], tuple[GpuHeat, ...]]


class GpuHeats:
    """The NVIDIA GPUs of a machine, asked through a library that is held until `close`."""

    def __init__(self, tree: Tree, *, module: Any = None) -> None:
        nvml = open_nvml(tree, module=module)
        self._nvml = None if isinstance(nvml, Unavailable) else nvml
        try:
            self._devices = self._nvml.devices()[0] if self._nvml is not None else ()
        except NvmlError:
            self._devices = ()

    @property
    def any_there(self) -> bool:
        """Whether there is any GPU to ask."""
        return bool(self._devices)

    def readings(self) -> tuple[GpuHeat, ...]:
        """What each GPU tells now. Never raises."""
        if self._nvml is None:
            return ()
        return tuple(heat(self._nvml, device) for device in self._devices)

    def close(self) -> None:
        """Lets go of the driver. Does no harm a second time."""
        if self._nvml is not None:
            self._nvml.release()
            self._nvml = None


class GpuHeatLog:
    """What some GPUs told so far."""

    def __init__(self) -> None:
        self.celsius: dict[str, list[tuple[int, float]]] = {}
        self.trips: dict[str, float] = {}
        self.observable = False
        self._slowed_by: dict[str, frozenset[str]] = {}

    def add(self, now: int, readings: tuple[GpuHeat, ...]) -> tuple[str, ...]:
        """Keeps one reading of each GPU; returns what slows one down and did not the last time."""
        news = []
        for reading in readings:
            celsius = reading.celsius
            if celsius and COLDEST_CELSIUS < celsius <= HOTTEST_CELSIUS:
                self.celsius.setdefault(reading.device, []).append((now, float(celsius)))
                if reading.slowdown_celsius:
                    self.trips[reading.device] = float(reading.slowdown_celsius)
            if reading.slowed_by is None:
                continue
            self.observable = True
            before = self._slowed_by.get(reading.device, frozenset())
            news += [
                f"{reading.device}: {reason}"
                for reason in reading.slowed_by
                if reason not in before
            ]
            self._slowed_by[reading.device] = frozenset(reading.slowed_by)
        return tuple(news)
