"""When each part of a measurement happened, and readings laid over that time.

All stamps are nanoseconds of the monotonic clock that the runs are stamped with
(`time.perf_counter_ns`), which all processes of a machine share. The wall clock appears only in
anchors, for aligning what another device recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .units import NS_PER_S

WindowName = Literal["idle_a", "load", "warm_up", "runs", "unload", "idle_b"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One part of a measurement. `busy_share` is the share of all CPU time that was in use in it.

    The idle windows have the measuring process waiting with no model loaded; in them `busy_share`
    is what everything else on the machine does. None where the machine does not tell.
    """

    name: WindowName
    started_ns: int
    ended_ns: int
    busy_share: float | None = None

    @property
    def duration_s(self) -> float:
        """Its length in seconds."""
        return (self.ended_ns - self.started_ns) / NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockAnchor:
    """One moment on both clocks: the monotonic one, and wall time since 1970 in nanoseconds."""

    monotonic_ns: int
    unix_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One quantity over time: a stamp and a value for each reading, in the unit of its field."""

    name: str
    stamps_ns: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The windows of a measurement in order, and where its clock stood against wall time."""

    windows: tuple[Window, ...] = ()
    anchors: tuple[ClockAnchor, ...] = ()

    def window(self, name: WindowName) -> Window | None:
        """The window of that name, or None when there was none."""
        return next((window for window in self.windows if window.name == name), None)
