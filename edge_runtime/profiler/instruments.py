"""The observers of one measurement, in the measuring process: memory by phase, sampler, noise."""

from __future__ import annotations

import contextlib

from ..basis import Unavailable
from ..measurement import Noise
from ..memory import Buffer, Memory
from .memory import MemorySource, Phase, PhaseMeter, memory_source
from .noise import NoiseMeter, load_average
from .ticker import Ticker


class Instruments:
    """The observers of one measurement: memory by phase, the sampler, the machine's noise.

    When they are switched off every method does nothing, and the record says why it is empty.
    """

    def __init__(self, *, switched_on: bool) -> None:
        self._load_average = load_average()
        self._on = switched_on
        self._noise = NoiseMeter() if switched_on else None
        source = memory_source() if switched_on else _SWITCHED_OFF
        self._unavailable = source if isinstance(source, Unavailable) else None
        self._source: MemorySource | None = None if isinstance(source, Unavailable) else source
        self._meter = PhaseMeter(self._source) if self._source else None
        self._ticker = Ticker(self._source.sample) if self._source else None

    def begin(self, phase: Phase) -> None:
        """Marks a phase boundary."""
        if self._meter is not None:
            self._meter.begin(phase)

    def end(self) -> None:
        """Ends the open phase."""
        if self._meter is not None:
            self._meter.end()

    def sampling(self) -> contextlib.AbstractContextManager[object]:
        """Samples while the context is entered."""
        return self._ticker or contextlib.nullcontext()

    def start_runs(self) -> None:
        """Tells the noise meter that timing begins."""
        if self._noise is not None:
            self._noise.start()

    def stop_runs(self) -> None:
        """Tells the noise meter that timing is over."""
        if self._noise is not None:
            self._noise.stop()

    def memory(self, buffers: tuple[Buffer, ...]) -> Memory | Unavailable:
        """The memory record with what the engine says of its own buffers."""
        if self._meter is None:
            return self._unavailable or _SWITCHED_OFF
        samples = self._ticker.samples if self._ticker else ()
        return self._meter.memory(samples, buffers)

    def noise(self, *, heat_disturbs: bool = True) -> Noise:
        """The noise record; what heat does is no disturbance of a run that is to find it out."""
        if self._noise is None:
            return Noise(
                load_average=self._load_average, steal_share=None, foreign_share=None,
                frequency_hz_start=None, frequency_hz_end=None, throttled=None,
                lateness_p90_ns=None, sampler_share=None,
            )  # fmt: skip
        ticker = self._ticker
        return self._noise.noise(
            lateness_p90_ns=ticker.lateness_p90_ns if ticker else None,
            sampler_share=ticker.cpu_share if ticker else None,
            heat_disturbs=heat_disturbs,
        )


_SWITCHED_OFF = Unavailable(
    reason="the instruments were switched off", remedy="Measure with Plan(instruments=True)."
)
