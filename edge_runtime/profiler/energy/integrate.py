"""Watts into joules: what makes a cumulative sensor of one that only tells the present power.

Trapezoids between readings, each stamped in the middle of the time it took: exact for power that
changes linearly, where a sum of rectangles over-reads every rise. It knows nothing of what it
reads, and refuses to bridge a silence in which anything may have happened.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ...units import NS_PER_S
from . import PowerSensor, SensorBreakError, SensorGapError

LONGEST_GAP_PERIODS = 3
"""Readings further apart than so many periods are not joined by a straight line."""
MOST_W = 20_000.0
"""No machine with one operating system takes more; a USB meter has begun with 188 V x 170 A
(fnirsi-usb-power-data-logger PR 4), and misread units lie far above."""


class Integrated:
    """An EnergySensor of a PowerSensor: cumulative joules by trapezoid.

    The joules are zero at the first reading, which has nothing to add to. A failed reading leaves
    the sum as it was; the next one closes the trapezoid over it while no more than
    LONGEST_GAP_PERIODS have passed, else it raises SensorBreakError, once, and counts from there.
    """

    def __init__(
        self, power_sensor: PowerSensor, *, clock: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.info = power_sensor.info
        self._sensor = power_sensor
        self._clock = clock
        self._joules = 0.0
        self._last: tuple[int, float] | None = None

    def read(self) -> float:
        """Joules since the first reading. Raises SensorGapError and SensorBreakError."""
        before = self._clock()
        try:
            watts = self._plausible(self._sensor.read_w())
        except SensorBreakError:
            self._last = None
            raise
        now = (before + self._clock()) // 2
        last, self._last = self._last, (now, watts)
        if last is None:
            return self._joules
        then, watts_then = last
        gap_s = (now - then) / NS_PER_S
        if gap_s < 0:
            raise SensorBreakError("the clock went backwards")
        if gap_s > LONGEST_GAP_PERIODS * self.info.poll_s:
            raise SensorBreakError(
                f"nothing was read for {gap_s:.3g} s, more than {LONGEST_GAP_PERIODS} periods of"
                f" {self.info.poll_s:g} s: the power meanwhile is unknown"
            )
        self._joules += (watts_then + watts) / 2 * gap_s
        return self._joules

    def close(self) -> None:
        """Closes the power sensor."""
        self._sensor.close()

    def _plausible(self, watts: float) -> float:
        """The watts, none where the sensor's own noise has them below zero. Raises SensorGapError.

        A consumer that gives power back is a misread sign: it must not lower the sum.
        """
        if not math.isfinite(watts) or watts > MOST_W:
            raise SensorGapError(f"{self.info.id} reads {watts:g} W, which cannot be")
        if watts < -abs(self.info.step):
            raise SensorGapError(f"{self.info.id} reads {watts:g} W: power below zero")
        return max(0.0, watts)
