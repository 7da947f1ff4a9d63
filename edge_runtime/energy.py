"""The record of energy: what each sensor counted over the time of a measurement, and no statistic.

A sensor's series is cumulative joules from an arbitrary origin. Joules of a phase, per token, gross
and net of idling are computed from it by `consumption`, and can be computed again by tomorrow's
rules. This module reads no clock and no file.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

from .basis import Unavailable


class Scope(enum.StrEnum):
    """What a sensor's joules are the joules of. Scopes nest: they are listed, never summed."""

    CHIP = "chip"
    MODULE = "module"
    BOARD = "board"
    DEVICE = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorInfo:
    """What is known of one sensor before it is read.

    `id` names it (`rapl:package-0`), `source` says in words what it is. `covers` lists what lies
    inside its reading, each part as fine as overlaps need (`cpu:0`, `dram:0`, `gpu:GPU-1f3c`).
    A `counter` counts joules itself; a `power` sensor's watts are integrated by trapezoid.
    `update_s` is how often its value changes; `step` the smallest change, joules of a counter and
    watts of a power sensor; `poll_s` how often it is read; `window_s` the shortest window it can
    honestly resolve. `gain` says what is known of its systematic error. A `modelled` reading is the
    vendor's estimate of energy, not a measurement of current.
    """

    id: str
    source: str
    scope: Scope
    covers: tuple[str, ...]
    method: Literal["counter", "power"]
    update_s: float
    step: float
    poll_s: float
    window_s: float
    gain: str = "unknown"
    modelled: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesBreak:
    """A place where a series lost its thread: readings on both sides cannot be compared.

    It lies between the last reading before `noticed_ns` and the first one after it.
    """

    noticed_ns: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergySeries:
    """Cumulative joules of one sensor at some moments, from an arbitrary origin, wraps undone.

    A reading that failed leaves a gap in the stamps, which a counter survives; `failures` counts
    them and `last_failure` says what the last one was.
    """

    sensor: SensorInfo
    stamps_ns: tuple[int, ...]
    joules: tuple[float, ...]
    breaks: tuple[SeriesBreak, ...] = ()
    failures: int = 0
    last_failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Every sensor that was read, and which of them make up the headline figure.

    `headline` are ids of sensors that do not overlap and together cover the widest measured scope.
    The others are parts of it, or other levels: they are shown beside it and never added to it.
    `sampler_share` is the CPU time of reading them over wall time, `lateness_p90_ns` how late the
    readings were.
    """

    series: tuple[EnergySeries, ...]
    headline: tuple[str, ...]
    sampler_share: float | None = None
    lateness_p90_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A kind of sensor that was looked for and gives no reading, and why."""

    name: str
    why: Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """A battery's capacity, watt-hours: `full_wh` as it is today, `design_wh` when it was new.

    None where the system does not tell. `status` is its own word: Discharging, Charging, Full.
    """

    id: str
    full_wh: float | None
    design_wh: float | None
    status: str
