"""What a measurement consumed: joules by phase, gross and net of idling, and per token.

Pure arithmetic on the record. Gross is all that the sensors counted while a phase ran; net is gross
less what the device would have used idle in the same time. A figure that cannot be told honestly is
Unavailable with its reason, never zero. An estimate is made only of a power that the user stated,
only where nothing was measured, and never in a virtual machine, on a shared or an emulated device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .basis import Basis, Unavailable
from .energy import Energy, EnergySeries, Scope
from .measurement import Measurement
from .phase_energy import (
    FOREIGN_LOAD,
    Phase,
    PhaseEnergy,
    headline_joules,
    idle_level,
    phase_energy,
    phase_of,
)
from .statistics import Interval
from .units import NS_PER_S
from .window_joules import joules_within

LEAST_POWER_W, MOST_POWER_W = 1e-3, 1e4
"""No device that runs a model draws less, and none that anybody holds draws more."""
ESTIMATE_BAND = 0.5
"""An estimate is within this share of itself at best."""

_SCOPES = (Scope.CHIP, Scope.MODULE, Scope.BOARD, Scope.DEVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadEnergy:
    """The gross energy of opening the model."""

    window_s: float
    gross_j: float
    gross_u_j: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The gross joules of one sensor by phase: inside the headline, or another level beside it.

    `in_headline` says that it is one of those the headline adds up. None where the workload has
    no such phase. The standard uncertainties are those of the sensor in these very windows.
    """

    sensor: str
    source: str
    scope: Scope
    in_headline: bool
    prefill_j: float | Unavailable | None
    decode_j: float | Unavailable | None
    prefill_j_per_token: float | None
    decode_j_per_token: float | None
    prefill_u_j: float | None = None
    decode_u_j: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumption:
    """What a measurement consumed, by the sensors that cover the widest measured scope.

    `basis` is MEASURED, or ESTIMATED: from a stated power by `formula`, or where a sensor itself is
    a model of its vendor's. `scope` is the narrowest of the sensors added up. A phase is None when
    the workload has none. `idle_w` is the power with no model loaded. `gain` says what is known of
    systematic errors, which no uncertainty here contains.
    """

    basis: Basis
    source: str
    scope: Scope
    method: str
    prefill: PhaseEnergy | Unavailable | None
    decode: PhaseEnergy | Unavailable | None
    load: LoadEnergy | Unavailable | None
    idle_w: Interval | Unavailable
    parts: tuple[Part, ...] = ()
    formula: str = ""
    gain: str = ""
    notes: tuple[str, ...] = ()


def consumption(measurement: Measurement) -> Consumption | Unavailable:
    """What the measurement consumed, measured or, where it was asked for, estimated."""
    if measurement.emulated is not None:
        return Unavailable(
            reason="the energy of an emulated device would be that of this machine",
            remedy="Measure on the device itself.",
        )
    found = measured_consumption(measurement)
    figures = () if isinstance(found, Unavailable) else (found.prefill, found.decode)
    if measurement.stated_power_w is None or any(isinstance(f, PhaseEnergy) for f in figures):
        return found
    why = next((f for f in figures if isinstance(f, Unavailable)), found)
    return _estimated(
        measurement, measurement.stated_power_w, why if isinstance(why, Unavailable) else None
    )


def measured_consumption(measurement: Measurement) -> Consumption | Unavailable:
    """What the sensors say, and no estimate."""
    energy = measurement.energy
    if isinstance(energy, Unavailable):
        return energy
    named = {series.sensor.id: series for series in reversed(energy.series)}
    missing = [name for name in energy.headline if name not in named]
    if missing or not energy.headline:
        return Unavailable(reason=f"no readings of {', '.join(missing) or 'any sensor'}")
    headline = tuple(named[name] for name in dict.fromkeys(energy.headline))
    if _misses_the_work(headline, measurement):
        return Unavailable(
            reason="only a GPU is metered here, and the model ran on the processor",
            remedy="Let the processor's counters be read (edge doctor), or run on the GPU.",
        )
    idle = idle_level(measurement, headline)
    prefill, decode = (phase_of(measurement, prefill=which) for which in (True, False))
    modelled = any(series.sensor.modelled for series in headline)
    return Consumption(
        basis=Basis.ESTIMATED if modelled else Basis.MEASURED,
        source=" + ".join(dict.fromkeys(series.sensor.source for series in headline)),
        scope=min((s.sensor.scope for s in headline), key=_SCOPES.index),
        method=" + ".join(dict.fromkeys(_method(series) for series in headline)),
        prefill=phase_energy(headline, prefill, idle, measurement),
        decode=phase_energy(headline, decode, idle, measurement),
        load=_load(measurement, headline),
        idle_w=idle if isinstance(idle, Unavailable) else idle.interval,
        parts=_parts(energy, headline, prefill, decode),
        formula="the vendor's own model" if modelled else "",
        gain="; ".join(_together((s.sensor.id, f"gain error {s.sensor.gain}") for s in headline)),
        notes=_notes(measurement, headline),
    )


def _misses_the_work(headline: Sequence[EnergySeries], measurement: Measurement) -> bool:
    """Whether all sensors are of GPUs that the engine did not use."""
    parts = [part for series in headline for part in series.sensor.covers]
    if not parts or not all(part.startswith("gpu:") for part in parts):
        return False
    return not measurement.host.gpus or measurement.options.gpu_layers == 0


def _load(
    measurement: Measurement, headline: Sequence[EnergySeries]
) -> LoadEnergy | Unavailable | None:
    window = measurement.timeline.window("load") if measurement.timeline else None
    if window is None or window.ended_ns <= window.started_ns:
        return None
    found = headline_joules(headline, ((window.started_ns, window.ended_ns),), working=True)
    if isinstance(found, Unavailable):
        return found
    return LoadEnergy(
        window_s=window.duration_s,
        gross_j=math.fsum(f.total_j for f in found),
        gross_u_j=math.hypot(*(f.instrument_u_j for f in found)),
    )


def _parts(
    energy: Energy, headline: Sequence[EnergySeries], prefill: Phase, decode: Phase
) -> tuple[Part, ...]:
    """Every sensor by itself: unless it is the headline already, all alone."""
    names = {series.sensor.id for series in headline}
    alone = names if len(names) == 1 else set()

    def part(series: EnergySeries) -> Part:
        (prefill_j, prefill_u_j), (decode_j, decode_u_j) = (
            _gross_j(series, phase) for phase in (prefill, decode)
        )
        return Part(
            sensor=series.sensor.id,
            source=series.sensor.source,
            scope=series.sensor.scope,
            in_headline=series.sensor.id in names,
            prefill_j=prefill_j,
            decode_j=decode_j,
            prefill_j_per_token=_each_j(prefill_j, prefill),
            decode_j_per_token=_each_j(decode_j, decode),
            prefill_u_j=prefill_u_j,
            decode_u_j=decode_u_j,
        )

    return tuple(part(series) for series in energy.series if series.sensor.id not in alone)


def _gross_j(series: EnergySeries, phase: Phase) -> tuple[float | Unavailable | None, float | None]:
    """The joules of one phase and their standard uncertainty."""
    if not phase.spans:
        return None, None
    found = joules_within(series, phase.spans, working=True)
    return (
        (found, None) if isinstance(found, Unavailable) else (found.total_j, found.instrument_u_j)
    )


def _each_j(joules: float | Unavailable | None, phase: Phase) -> float | None:
    return joules / sum(phase.tokens) if isinstance(joules, float) else None


def _together(said: Iterable[tuple[str, str]]) -> list[str]:
    """What is said of sensors, once for all of whom the same is said."""
    of: dict[str, dict[str, None]] = {}
    for sensor, words in said:
        of.setdefault(words, {})[sensor] = None
    return [f"{', '.join(sensors)}: {words}" for words, sensors in of.items()]


def _method(series: EnergySeries) -> str:
    if series.sensor.method == "counter":
        return "counter difference"
    if series.sensor.poll_s <= 0:
        return "trapezoid"
    return f"trapezoid at {1 / series.sensor.poll_s:.3g} Hz"


def _notes(measurement: Measurement, headline: Sequence[EnergySeries]) -> tuple[str, ...]:
    notes = _together((s.sensor.id, note) for s in headline for note in s.sensor.notes)
    notes += [
        f"{s.sensor.id}: {s.failures} readings failed, the last: {s.last_failure}"
        for s in headline
        if s.failures
    ]
    if len(measurement.runs) == 1:
        notes.append("one repetition: how far repetitions differ is not known")
    foreign = measurement.noise.foreign_share
    if foreign is not None and foreign > FOREIGN_LOAD:
        notes.append(f"gross includes other programs, which used {foreign:.0%} of the CPU")
    return tuple(notes)


def _estimated(
    measurement: Measurement, watts: float, missing: Unavailable | None
) -> Consumption | Unavailable:
    """The stated power times the time, where that says anything. Its formula is W / (tok/s)."""
    noise, host = measurement.noise, measurement.host
    why = missing or Unavailable(reason="nothing was measured")
    refusal = ""
    if not LEAST_POWER_W <= watts <= MOST_POWER_W:
        refusal = f"{watts:g} W is no power of a device"
    elif host.virtualization is not None:
        refusal = "no estimate in a virtual machine"
    elif noise.foreign_share is not None and noise.foreign_share > FOREIGN_LOAD:
        refusal = f"no estimate on a shared machine: others used {noise.foreign_share:.0%} of it"
    if refusal:
        return replace(why, reason=f"{why.reason}; {refusal}")
    prefill, decode = (
        _estimated_phase(phase_of(measurement, prefill=which), watts) for which in (True, False)
    )
    rates = [f"{p.tokens / p.window_s:.3g} tok/s" for p in (prefill, decode) if p is not None]
    if not rates:
        return why
    return Consumption(
        basis=Basis.ESTIMATED,
        source=f"{watts:g} W as stated",
        scope=Scope.DEVICE,
        method="stated power x time",
        prefill=prefill,
        decode=decode,
        load=None,
        idle_w=Unavailable(reason="an estimate knows no idle level"),
        formula=" and ".join(f"{watts:g} W / ({rate})" for rate in rates)
        + f", ± {ESTIMATE_BAND:.0%} at best",
        gain="nobody measured the stated power",
        notes=(f"nothing was measured: {why.reason}",),
    )


def _estimated_phase(phase: Phase, watts: float) -> PhaseEnergy | None:
    if not phase.spans:
        return None
    window_s = sum(end - start for start, end in phase.spans) / NS_PER_S
    tokens, gross = sum(phase.tokens), watts * window_s
    no_net = Unavailable(reason="an estimate knows no idle level")
    value = gross / tokens
    return PhaseEnergy(
        tokens=tokens,
        window_s=window_s,
        repetitions=len(phase.spans),
        samples=0,
        gross_j=gross,
        gross_u_j=ESTIMATE_BAND * gross / math.sqrt(3),
        net_j=no_net,
        net_u_j=None,
        gross_j_per_token=Interval(
            low=value * (1 - ESTIMATE_BAND), value=value, high=value * (1 + ESTIMATE_BAND)
        ),
        net_j_per_token=no_net,
    )
