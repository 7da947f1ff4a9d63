"""Energy: the protocol a sensor fulfils. What reads one kind of sensor has a file of its own.

`discovery` looks for every kind and keeps the reasons of those that cannot be read; `cover` decides
which of those found make up the headline; `integrate` turns watts into joules. Nothing here is ever
estimated from a data sheet, and what cannot be read is never zero joules.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ...basis import Unavailable
from ...energy import Battery, Refusal, SensorInfo

METER_REMEDY = (
    "Record a USB or wall meter beside the run: edge energy RESULTS.jsonl --meter LOG.csv"
)
"""What helps where nothing in the machine can be read."""


class SensorGapError(Exception):
    """Nothing could be read this time, and why. A counter goes on underneath; watts do not."""


class SensorBreakError(Exception):
    """The counter was reset or jumped: what is read from now on does not compare with before."""


@runtime_checkable
class EnergySensor(Protocol):
    """One physical energy counter, or a power sensor that `integrate` made one of."""

    info: SensorInfo

    def read(self) -> float:
        """Joules since an arbitrary origin, never falling: wrapping is already dealt with.

        Raises SensorGapError when there is no reading now, and SensorBreakError, once, when the
        origin was lost; the next call then counts from a new one.
        """

    def close(self) -> None:
        """Gives back what reading it holds open."""


@runtime_checkable
class PowerSensor(Protocol):
    """One sensor of power that counts nothing itself."""

    info: SensorInfo

    def read_w(self) -> float:
        """The present power in watts. Raises SensorGapError when there is no reading now."""

    def close(self) -> None:
        """Gives back what reading it holds open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one kind of sensor has to offer here: sensors that can be read, and reasons for none.

    Every search gives at least one of the two.
    """

    sensors: tuple[EnergySensor, ...] = ()
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What was found on this machine. Refusals of what is present come before what is absent."""

    sensors: tuple[EnergySensor, ...]
    headline: tuple[str, ...]
    refusals: tuple[Refusal, ...]
    battery: Battery | None = None

    def unavailable(self) -> Unavailable:
        """The one reason to show where a reading is missing: that of the first refusal."""
        return self.refusals[0].why

    def close(self) -> None:
        """Closes every sensor. Never raises."""
        for sensor in self.sensors:
            # A driver may raise anything, and a sensor that is done with has nothing to lose.
            with contextlib.suppress(Exception):
                sensor.close()
