"""Heat for people: the rate of a burst and the one a device holds, how warm it got, what slowed it.

Columns of a flat row, and sentences below the row of a measurement. All of it is arithmetic of
`edge_runtime.sustained`; what could not be seen is said to be so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..basis import Unavailable
from ..heat import ThrottleEvent
from ..measurement import Measurement
from ..statistics import Interval
from ..sustained import Sustained, Warming, sustained, throttle_during, timed_span, warming
from ..timeline import Series
from ..units import NS_PER_S, format_duration, format_rate

SYMMETRIC_LIMIT = 0.1
"""An interval is lopsided when it is wide: beyond this half-width both bounds are shown."""
_CURVE_POINTS = 30
_CURVE = "▁▂▃▄▅▆▇█"


def heat_words(measurement: Measurement) -> tuple[str, ...]:
    """What a reader must know of heat: everything of a sustained run, of others only the news."""
    events, warmed = throttle_during(measurement), warming(measurement)
    found = sustained(measurement)
    words = []
    if isinstance(found, Sustained):
        words += [_rates(found), curve_words(found)]
    elif found is not None:
        words.append(f"steady rate: {found.reason}. {found.remedy}")
    if found is not None and warmed is not None:
        words.append(_warming(warmed))
    if found is not None and measurement.heat is not None and measurement.heat.clock_hz is not None:
        words += _clock(measurement.heat.clock_hz, measurement)
    if found is not None or (not isinstance(events, Unavailable) and events):
        words.append(_throttle(events, measurement))
    start = measurement.heat.start if measurement.heat is not None else None
    if start is not None and (found is not None or start.kind == "hot"):
        words.append(f"start: {start.kind}, {start.words}")
    return tuple(words)


def _rates(found: Sustained) -> str:
    words = (
        f"steady {_steady(found.steady_tokens_per_s)} t/s"
        f" (last {format_duration(found.steady_s)} of {format_duration(found.duration_s)}),"
        f" burst {format_rate(found.burst_tokens_per_s)} t/s"
        f" (first {format_duration(found.burst_s)}), ratio {found.ratio:.2f}"
    )
    if found.time_to_throttle_s is not None:
        words += f", below 90 % of the burst after {format_duration(found.time_to_throttle_s)}"
    if found.still_falling:
        words += ", still falling at the end"
    return words


def _steady(rate: Interval) -> str:
    if rate.is_hopeless:
        return f"{format_rate(rate.value)} (too noisy)"
    if rate.relative_half_width > SYMMETRIC_LIMIT:
        return f"{format_rate(rate.value)} ({format_rate(rate.low)} to {format_rate(rate.high)})"
    return f"{rate.value:.2f} ± {(rate.high - rate.low) / 2:.2f}"


def curve_words(found: Sustained) -> str:
    """The rate over time as one line of bars from zero to the highest, and its two ends."""
    rates = [rate for _, rate in found.series]
    size = min(len(rates), _CURVE_POINTS)
    parts = [rates[i * len(rates) // size : (i + 1) * len(rates) // size] for i in range(size)]
    means = [sum(part) / len(part) for part in parts]
    top = max(means)
    bars = "".join(_CURVE[min(int(mean / top * len(_CURVE)), len(_CURVE) - 1)] for mean in means)
    return f"t/s over time: {format_rate(rates[0])} {bars} {format_rate(rates[-1])}"


def _warming(warmed: Warming) -> str:
    words = f"{warmed.name}: {warmed.start_celsius:.1f} -> {warmed.end_celsius:.1f} °C"
    if warmed.highest_celsius > max(warmed.start_celsius, warmed.end_celsius):
        words += f", at most {warmed.highest_celsius:.1f} °C"
    if warmed.trip_celsius is not None:
        words += f" (slows down from {warmed.trip_celsius:.0f} °C)"
    return words


def _clock(clock: Series, measurement: Measurement) -> tuple[str, ...]:
    """The mean clock of the processors at both ends of the timed runs."""
    begun, ended = timed_span(measurement) or (0, 0)
    seen = [
        value
        for stamp, value in zip(clock.stamps_ns, clock.values, strict=False)
        if begun <= stamp <= ended
    ]
    if not seen:
        return ()
    return (f"CPU clock: {seen[0] / 1e9:.2f} -> {seen[-1] / 1e9:.2f} GHz",)


def _throttle(events: tuple[ThrottleEvent, ...] | Unavailable, measurement: Measurement) -> str:
    if isinstance(events, Unavailable):
        return f"throttle: {events.reason}"
    if not events:
        return "throttle: observable, none seen"
    first = (events[0].seen_ns - measurement.runs[0].started_ns) / NS_PER_S
    if first < 0:
        return f"throttle: since before the runs: {events[0].evidence}"
    times = f"{len(events)} times, first " if len(events) > 1 else ""
    return f"throttle: seen {times}after {format_duration(first)}: {events[0].evidence}"


def _held(value: Callable[[Sustained], float | None]) -> Callable[[Measurement], float | None]:
    def column(measurement: Measurement) -> float | None:
        found = sustained(measurement)
        return value(found) if isinstance(found, Sustained) else None

    return column


def _warmed(value: Callable[[Warming], float]) -> Callable[[Measurement], float | None]:
    def column(measurement: Measurement) -> float | None:
        found = warming(measurement)
        return value(found) if found is not None else None

    return column


def throttled(measurement: Measurement) -> bool | None:
    """Whether throttling was seen during the timed runs; None where nothing would have told."""
    events, by_noise = throttle_during(measurement), measurement.noise.throttled
    if isinstance(events, Unavailable):
        return by_noise
    return bool(events) or bool(by_noise)


HEAT_COLUMNS: Mapping[str, tuple[Callable[[Measurement], float | bool | None], str]] = {
    "sustain_s": (lambda m: m.sustain_s, "REAL"),
    "burst_tokens_per_s": (_held(lambda s: s.burst_tokens_per_s), "REAL"),
    "steady_tokens_per_s": (_held(lambda s: s.steady_tokens_per_s.value), "REAL"),
    "steady_tokens_per_s_low": (_held(lambda s: s.steady_tokens_per_s.low), "REAL"),
    "steady_tokens_per_s_high": (_held(lambda s: s.steady_tokens_per_s.high), "REAL"),
    "time_to_throttle_s": (_held(lambda s: s.time_to_throttle_s), "REAL"),
    "temperature_start_c": (_warmed(lambda w: w.start_celsius), "REAL"),
    "temperature_end_c": (_warmed(lambda w: w.end_celsius), "REAL"),
    "throttled": (throttled, "INTEGER"),
}  # fmt: skip
"""Column name -> its value in a measurement, and its SQL type. Temperatures in degrees Celsius."""
