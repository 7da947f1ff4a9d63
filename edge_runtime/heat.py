"""The record of heat: temperatures, clocks and throttle evidence over the time of a measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .basis import Unavailable
from .timeline import Series


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One temperature over time, degrees Celsius, and where the system begins to slow it down."""

    celsius: Series
    trip_celsius: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleEvent:
    """A moment at which the system was first seen to have throttled since the reading before."""

    seen_ns: int
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Whether the device was cool when it began: a hot start flatters nothing but the cooling.

    `unknown` where no temperature can be read. `waited_s` is how long it was left to cool.
    """

    kind: Literal["cool", "hot", "unknown"]
    words: str
    celsius: float | None = None
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """What could be seen of heat. Empty series where the system offers none.

    Of the `zones` the one that best stands for the processor comes first. `clock_hz` is the mean
    present clock of the processors. `throttle` are the moments at which throttling was noticed,
    empty when it is observable and none was; Unavailable when this machine would not tell.
    """

    zones: tuple[Zone, ...]
    clock_hz: Series | None
    throttle: tuple[ThrottleEvent, ...] | Unavailable
    start: Start
