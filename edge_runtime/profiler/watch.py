"""The parent's side of one measurement: what it watches, and the windows it makes itself.

Between the child's events the parent does nothing but read sensors at their slow rate. At every
event, while the child waits, it takes a reading of each sensor, so that windows begin and end with
one. Settling and idling are waits of the parent: the child sleeps in a read meanwhile.
"""

from __future__ import annotations

import time
from dataclasses import replace
from types import TracebackType
from typing import Self

from ..basis import Unavailable
from ..energy import Battery, Energy, Refusal
from ..heat import Heat, Start
from ..measurement import Gpu, Limits
from ..memory import Memory
from ..timeline import ClockAnchor, Timeline, Window, WindowName
from .energy import Discovery
from .energy.cover import resolved_headline
from .energy.discovery import discover, sensor_root
from .energy.gpu_memory import GpuMemoryGauge
from .energy.meter_log import METER_WINDOW_S
from .energy.sysfs import Tree
from .heat import ThermalGauge
from .noise import CpuTimes, cpu_times
from .observer import Gauge, Observer
from .wire import Listener, Plan, Progress

_GRACE_S = 120.0
"""What a child may take beyond the time it is told to wait and to sustain."""
_FALL_BACK_S = 5.0
"""Clocks, and with them power, stay up for some seconds after work: what idling costs cannot be
seen before."""
_EMULATED = Unavailable(
    reason="the energy of an emulated device would be that of this machine",
    remedy="Measure without --limit-memory and --limit-cores, or on the device itself.",
)
_SWITCHED_OFF = Unavailable(
    reason="the instruments were switched off", remedy="Measure with Plan(instruments=True)."
)
_NOBODY = Discovery(sensors=(), headline=(), refusals=())


class Watch:
    """Observes one measurement from entering to leaving the context.

    Whatever ends it, a child that dies or Ctrl-C, leaving ends the readings and closes the sensors.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        limits: Limits | None = None,
        on_event: Listener | None = None,
    ) -> None:
        self._plan = plan
        self._forward = on_event
        self._windows: list[Window] = []
        self._anchors: list[ClockAnchor] = []
        self._why_not: Unavailable | None = None
        if not plan.instruments:
            self._why_not = _SWITCHED_OFF
        elif limits is not None:
            self._why_not = _EMULATED
        self._discovery = _NOBODY
        self._headline: tuple[str, ...] = ()
        self._observer = Observer(())
        self._gauge: ThermalGauge | None = None
        self._start: Start | None = None
        self._gpu_memory: GpuMemoryGauge | None = None

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The sensors that were looked for and give no reading."""
        return self._discovery.refusals

    @property
    def battery(self) -> Battery | None:
        """The capacity of this device's battery."""
        return self._discovery.battery

    @property
    def least_run_s(self) -> float:
        """How long each phase must run, all runs together, for the headline to resolve it.

        Zero where the budget could never reach it: then nothing is gained by spending all of it.
        Idle windows without a sensor are made for a meter's log.
        """
        sensors = self._discovery.sensors
        needed = max((s.info.window_s for s in sensors if s.info.id in self._headline), default=0.0)
        if self._why_not is not None:
            needed = METER_WINDOW_S if self._plan.idle_s else 0.0
        return needed if self._plan.extend and needed <= self._plan.budget_s else 0.0

    @property
    def timeout_s(self) -> float:
        """When a child that has not answered is given up."""
        plan = self._plan
        waits = plan.settle_s + 2 * (plan.idle_s + self._fall_back_s) + (plan.sustain_s or 0.0)
        return plan.timeout_s + waits + (_GRACE_S if waits else 0.0)

    def __enter__(self) -> Self:
        """Looks for sensors and begins to watch."""
        if self._why_not is None:
            self._discovery = discover()
            self._headline = resolved_headline(
                [sensor.info for sensor in self._discovery.sensors],
                max(self._plan.budget_s, self._plan.sustain_s or 0.0),
            )
            if not self._headline:
                self._why_not = self._discovery.unavailable()
        try:
            if self._plan.instruments or self._plan.settle_s:
                self._gauge = ThermalGauge()
            if self._plan.instruments:
                self._gpu_memory = GpuMemoryGauge(Tree(sensor_root()))
            sensors = () if self._why_not else self._discovery.sensors
            self._observer = Observer(sensors, self._gauges)
            self._anchor()
            self._observer.__enter__()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops watching and closes the sensors."""
        try:
            self._observer.__exit__(kind, error, trace)
            self._anchor()
        finally:
            self._close()

    def on_start(self, pid: int) -> None:
        """Learns which process is measured."""
        if self._gpu_memory is not None:
            self._gpu_memory.watch(pid)

    def on_event(self, progress: Progress) -> bool | None:
        """Deals with an event of the child, which waits until this returns."""
        self._observer.mark()
        enough = self._forward(progress) if self._forward is not None else None
        if progress.stage == "settling" and self._gauge is not None:
            self._start = self._gauge.settle(self._plan.settle_s)
        elif self._gauge is not None and self._start is None:
            self._start = self._gauge.settle(0.0)
        if progress.stage == "idle":
            time.sleep(self._fall_back_s)
            self._idle("idle_b" if self._windows else "idle_a")
        return enough

    def energy(self) -> Energy | Unavailable:
        """What the sensors said, or why there is nothing."""
        return self._why_not or self._observer.energy(self._headline)

    def memory(self, told: Memory | Unavailable, gpus: tuple[Gpu, ...]) -> Memory | Unavailable:
        """What the child told of its memory, with what was seen here of the GPUs'.

        `gpus` are those the engine's build can use.
        """
        if self._gpu_memory is None or isinstance(told, Unavailable):
            return told
        return replace(told, gpu=self._gpu_memory.memory(engine_uses_gpus=bool(gpus)))

    def heat(self) -> Heat | None:
        """What was seen of heat; None with the instruments switched off."""
        if self._gauge is None or not self._plan.instruments:
            return None
        return self._gauge.heat(self._start or self._gauge.settle(0.0))

    def timeline(self, windows: tuple[Window, ...]) -> Timeline:
        """The child's windows and the parent's own, in order."""
        together = sorted((*self._windows, *windows), key=lambda window: window.started_ns)
        return Timeline(windows=tuple(together), anchors=tuple(self._anchors))

    @property
    def _gauges(self) -> tuple[Gauge, ...]:
        """The gauges of heat and of GPU memory, where they are wanted and have anything to see."""
        gauges: list[Gauge] = []
        if self._gauge is not None and self._plan.instruments and self._gauge.sees_anything:
            gauges.append(self._gauge)
        if self._gpu_memory is not None and self._gpu_memory.is_of_use:
            gauges.append(self._gpu_memory)
        return tuple(gauges)

    def _close(self) -> None:
        """Lets go of everything that is read."""
        self._discovery.close()
        if self._gauge is not None:
            self._gauge.close()
        if self._gpu_memory is not None:
            self._gpu_memory.close()

    @property
    def _fall_back_s(self) -> float:
        """How long the device is left alone after work, starting the child too, to be idle."""
        return min(_FALL_BACK_S, self._plan.idle_s / 4)

    def _idle(self, name: WindowName) -> None:
        """Waits with no model loaded, between two readings of every sensor."""
        self._observer.mark()
        before, started = cpu_times(), time.perf_counter_ns()
        time.sleep(self._plan.idle_s)
        after, ended = cpu_times(), time.perf_counter_ns()
        self._observer.mark()
        self._windows.append(
            Window(
                name=name, started_ns=started, ended_ns=ended, busy_share=_busy_share(before, after)
            )
        )

    def _anchor(self) -> None:
        self._anchors.append(
            ClockAnchor(monotonic_ns=time.perf_counter_ns(), unix_ns=time.time_ns())
        )


def _busy_share(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """The share of all CPU time that was in use between two readings."""
    if before is None or after is None or after.total_s <= before.total_s:
        return None
    share = (after.busy_s - before.busy_s) / (after.total_s - before.total_s)
    return min(1.0, max(0.0, share))
