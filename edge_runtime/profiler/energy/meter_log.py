"""The log of a USB or bench meter beside a measurement: aligned by clock, and made its headline.

A meter in the supply line is the one truth for a board: it counts what the board takes and knows
nothing of what runs on it. `meter_text` reads the file; here its readings are laid over the
measurement's time and integrated. Where the two do not fit together the measurement says why, and
nothing is stretched, shifted or filled to make them.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ...basis import Unavailable
from ...energy import Energy, EnergySeries, Refusal, Scope, SensorInfo, SeriesBreak
from ...measurement import Measurement
from ...timeline import ClockAnchor, Timeline
from ...units import NS_PER_S, format_duration
from .cover import headline
from .integrate import LONGEST_GAP_PERIODS
from .meter_text import MeterLog, read_log

__all__ = ["MeterLog", "attach", "read_log"]

NAME = "meter log"
_LEAST_GAP_S = 0.1
"""A silence shorter than this hides nothing: a meter's packets may come in bursts."""
METER_WINDOW_S = 2.0
_LEAST_SAMPLES = 20
_FEW_LEVELS = 4
_MOST_POINTS_PER_S = 50
"""What is kept of a faster log. The joules at those moments are integrated from all of it."""
_JUMP_S = 0.1
_SLEW = 0.0005
"""NTP slews a clock by at most 500 parts in a million; more between two anchors is a step."""
_MARGIN_S = 2.0
"""Readings this long before and after the measurement are kept with it."""
_COVERS = {
    Scope.DEVICE: ("cpu:*", "dram:*", "gpu:*", "system"),
    Scope.BOARD: ("cpu:*", "dram:*", "system"),
    Scope.MODULE: ("cpu:*", "dram:*", "system"),
    Scope.CHIP: ("cpu:*",),
}
_WIDTH = tuple(Scope)


def attach(
    measurement: Measurement,
    log: MeterLog | Unavailable,
    *,
    scope: Scope = Scope.DEVICE,
    offset_s: float = 0.0,
    start_unix_s: float | None = None,
) -> Measurement:
    """The measurement with the meter's joules in it, or with the reason why they cannot be.

    `scope` is what the meter feeds. `offset_s` is added to the log's times, for a meter whose clock
    is behind by that much. `start_unix_s` says when a log with times of its own began. The energy
    is integrated by trapezoid between readings; its series becomes the headline unless something
    wider was measured. In place of a log that could not be read stands why.
    """
    found = (
        log
        if isinstance(log, Unavailable)
        else _series(measurement, log, scope, offset_s, start_unix_s)
    )
    if isinstance(found, Unavailable):
        others = tuple(r for r in measurement.refusals if r.name != NAME)
        refusals = (Refusal(name=NAME, why=found), *others)
        energy = found if isinstance(measurement.energy, Unavailable) else measurement.energy
        return replace(measurement, energy=energy, refusals=refusals)
    energy = measurement.energy
    if isinstance(energy, Unavailable):
        energy = Energy(series=(), headline=())
    series = (*(s for s in energy.series if s.sensor.id != found.sensor.id), found)
    chosen = _headline(tuple(s.sensor for s in series), found.sensor)
    refusals = tuple(r for r in measurement.refusals if r.name != NAME)
    return replace(
        measurement, energy=replace(energy, series=series, headline=chosen), refusals=refusals
    )


def _headline(sensors: tuple[SensorInfo, ...], meter: SensorInfo) -> tuple[str, ...]:
    """The meter alone where nothing measured is wider, else what `cover` chooses.

    Of two sensors of one scope the meter is the one that somebody connected on purpose.
    """
    widest = max(_WIDTH.index(s.scope) for s in sensors if not s.modelled)
    if _WIDTH.index(meter.scope) >= widest and meter.scope is not Scope.CHIP:
        return (meter.id,)
    return headline(sensors)


def _series(
    measurement: Measurement,
    log: MeterLog,
    scope: Scope,
    offset_s: float,
    start_unix_s: float | None,
) -> EnergySeries | Unavailable:
    if measurement.emulated is not None:
        return Unavailable(
            reason="the energy of an emulated device would be that of the machine it ran on",
            remedy="Measure without --limit-memory and --limit-cores, or on the device itself.",
        )
    clock = _Clock.of(measurement.timeline)
    if isinstance(clock, Unavailable):
        return clock
    origin_s = log.start_unix_s if start_unix_s is None else start_unix_s
    if log.is_relative and origin_s is None:
        return Unavailable(
            reason="the log's times count from its own start, and it does not say when that was",
            remedy="Say when it began: --meter-start 2026-01-31T12:00:00+00:00",
        )
    shift_s = offset_s + (origin_s or 0.0 if log.is_relative else 0.0)
    begun, ended = clock.range_s
    first = bisect.bisect_left(log.times_s, begun - _MARGIN_S - shift_s)
    after = bisect.bisect_right(log.times_s, ended + _MARGIN_S - shift_s)
    inside = bisect.bisect_right(log.times_s, ended - shift_s) - bisect.bisect_left(
        log.times_s, begun - shift_s
    )
    if inside < 2:
        return _apart(log, shift_s, begun, ended, inside)
    stamps = tuple(clock.stamp_ns(t + shift_s) for t in log.times_s[first:after])
    watts = log.watts[first:after]
    if not any(watts):
        return Unavailable(
            reason=f"the meter reads 0 W in all {len(watts)} readings of the measurement",
            remedy="Connect the meter between the supply and the device, and measure again.",
        )
    return _integrated(log, scope, stamps, watts, offset_s)


def _apart(
    log: MeterLog, shift_s: float, begun_s: float, ended_s: float, inside: int
) -> Unavailable:
    """Words that log and measurement do not overlap, with the times of both."""
    what = "has one reading" if inside else "has no reading"
    logged = _range(log.times_s[0] + shift_s, log.times_s[-1] + shift_s)
    return Unavailable(
        reason=f"the log runs {logged} and {what} while the measurement ran, "
        + _range(begun_s, ended_s),
        remedy="Say by how many seconds the meter's clock is behind: --meter-offset SECONDS",
    )


def _range(first_s: float, last_s: float) -> str:
    return f"from {_wall_time(first_s)} to {_wall_time(last_s)}"


def _wall_time(unix_s: float) -> str:
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{unix_s:.0f} s since 1970"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clock:
    """Wall time into the measurement's own, by the anchors it took at its two ends."""

    first: ClockAnchor
    last: ClockAnchor
    range_s: tuple[float, float]

    @classmethod
    def of(cls, timeline: Timeline | None) -> _Clock | Unavailable:
        """The clock of a measurement, or why it cannot be told from its record."""
        if timeline is None or len(timeline.anchors) < 2:
            return Unavailable(
                reason="the measurement does not record when it ran by wall time",
                remedy="Measure again with this version, the meter logging meanwhile.",
            )
        first, last = timeline.anchors[0], timeline.anchors[-1]
        span_s = (last.monotonic_ns - first.monotonic_ns) / NS_PER_S
        jump_s = (last.unix_ns - first.unix_ns) / NS_PER_S - span_s
        if abs(jump_s) > _JUMP_S + _SLEW * max(0.0, span_s):
            return Unavailable(
                reason=f"the wall clock was set by {jump_s:+.3f} s during the measurement",
                remedy="Let the clock settle (timedatectl), then measure again.",
            )
        starts = [w.started_ns for w in timeline.windows] or [first.monotonic_ns]
        ends = [w.ended_ns for w in timeline.windows] or [last.monotonic_ns]
        clock = cls(first=first, last=last, range_s=(0.0, 0.0))
        return replace(clock, range_s=(clock.unix_s(min(starts)), clock.unix_s(max(ends))))

    def stamp_ns(self, unix_s: float) -> int:
        """The measurement's own stamp of a moment by wall time."""
        since_ns = round(unix_s * NS_PER_S) - self.first.unix_ns
        return self.first.monotonic_ns + round(since_ns / self._rate)

    def unix_s(self, stamp_ns: int) -> float:
        """The wall time of a stamp."""
        since_ns = (stamp_ns - self.first.monotonic_ns) * self._rate
        return (self.first.unix_ns + since_ns) / NS_PER_S

    @property
    def _rate(self) -> float:
        """Seconds of wall time in one of the monotonic clock: one but for NTP's slewing."""
        span = self.last.monotonic_ns - self.first.monotonic_ns
        return (self.last.unix_ns - self.first.unix_ns) / span if span > 0 else 1.0


def _integrated(
    log: MeterLog,
    scope: Scope,
    stamps: tuple[int, ...],
    watts: tuple[float, ...],
    offset_s: float,
) -> EnergySeries:
    """Cumulative joules by trapezoid, a break in every silence, no more points than need be."""
    period_s = _period_s(stamps)
    longest_ns = max(LONGEST_GAP_PERIODS * period_s, _LEAST_GAP_S) * NS_PER_S
    apart_ns = NS_PER_S / _MOST_POINTS_PER_S
    kept: list[tuple[int, float]] = [(stamps[0], 0.0)]
    breaks: list[SeriesBreak] = []
    joules = 0.0
    for i, (then, now) in enumerate(itertools.pairwise(stamps)):
        if now - then > longest_ns:
            if kept[-1][0] != then:
                kept.append((then, joules))
            breaks.append(_silence(then, now, period_s))
            kept.append((now, joules))
            continue
        joules += (watts[i] + watts[i + 1]) / 2 * (now - then) / NS_PER_S
        if now - kept[-1][0] >= apart_ns or i == len(stamps) - 2:
            kept.append((now, joules))
    return EnergySeries(
        sensor=_info(log, scope, period_s, watts, offset_s),
        stamps_ns=tuple(stamp for stamp, _ in kept),
        joules=tuple(joule for _, joule in kept),
        breaks=tuple(breaks),
        failures=log.failures,
        last_failure=log.last_failure,
    )


def _silence(then_ns: int, now_ns: int, period_s: float) -> SeriesBreak:
    gap_s = (now_ns - then_ns) / NS_PER_S
    return SeriesBreak(
        noticed_ns=(then_ns + now_ns) // 2,
        reason=f"the log is silent for {format_duration(gap_s)}, more than"
        f" {LONGEST_GAP_PERIODS} of its periods of {format_duration(period_s)}",
    )


def _period_s(stamps: tuple[int, ...]) -> float:
    """The usual distance of readings: nine tenths of them are no further apart.

    Not their median: a meter that sends four at a time leaves a longer one after each packet.
    """
    steps = sorted(b - a for a, b in itertools.pairwise(stamps))
    return max(steps[len(steps) * 9 // 10 if len(steps) > 10 else len(steps) // 2], 1) / NS_PER_S


def _info(
    log: MeterLog, scope: Scope, period_s: float, watts: tuple[float, ...], offset_s: float
) -> SensorInfo:
    # Few levels say how the power changed, and not how finely it was measured.
    steps = [abs(b - a) for a, b in itertools.pairwise(watts) if a != b]
    digit_w = [log.digit_w] if log.digit_w and len(set(watts)) <= _FEW_LEVELS else []
    moved = (f"its clock moved by {offset_s:+g} s",) if offset_s else ()
    return SensorInfo(
        id=f"meter:{log.name}",
        source=f"meter log {log.name} ({log.quantity})",
        scope=scope,
        covers=_COVERS[scope],
        method="power",
        update_s=period_s,
        step=min((*steps, *digit_w), default=statistics.median(watts)),
        poll_s=period_s,
        window_s=max(METER_WINDOW_S, _LEAST_SAMPLES * period_s),
        gain="the meter's own",
        notes=(*log.notes, *moved),
    )
