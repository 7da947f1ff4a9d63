"""Joules of one sensor within stretches of time, or the reason why they cannot be told.

Knows what a series of readings can resolve: where it breaks, vanishes, stalls or is read too
seldom. Refuses to know tokens, idling and other sensors. Nothing is ever extrapolated, and a
counter that never advanced is no measurement of 0 J.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from .basis import Unavailable
from .energy import EnergySeries, SeriesBreak
from .units import NS_PER_S, format_duration

Span = tuple[int, int]
"""Where a stretch of time begins and ends, nanoseconds of the measurement's clock."""

LEAST_SAMPLES = 20
"""The fewest readings of a power sensor that make an integral."""
MOST_GAP_PERIODS = 3
"""A power sensor left unread for longer may have missed anything."""
MOST_W = 20_000.0
"""No machine with one operating system takes more: a counter that says so was set, not counted."""
STALLED_UPDATES = 20
"""A counter that misses so many of its updates while the device works has stopped counting,"""
STALLED_READINGS = 10
"""if it also stood still over so many readings: two or three alike may be a slow update."""

_LEAST_GAP_S = 0.1
"""A silence shorter than this hides nothing: a fast meter sends its readings in packets."""
_LONGER = "Measure for longer: a larger --budget, more repetitions or longer outputs."
_STAMP_LIMIT = 1 << 63
_LEAST_J, _MOST_J = 1e-12, 1e15
"""No run of a model is outside of these; a record may come from anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowJoules:
    """What one sensor counted in some spans: joules of each, and how well they are known.

    `instrument_u_j` is the standard uncertainty of their sum by the edges of the spans and the
    sensor's quantum; `samples` how many readings lie within the spans.
    """

    joules: tuple[float, ...]
    duration_s: float
    samples: int
    instrument_u_j: float

    @property
    def total_j(self) -> float:
        """The joules of all spans together."""
        return math.fsum(self.joules)


def joules_within(
    series: EnergySeries, spans: Sequence[Span], *, working: bool
) -> WindowJoules | Unavailable:
    """The joules of each span, by linear interpolation of the cumulative series at its edges.

    `working` says that the device was busy in all of them: only then is a flat counter a stalled
    one. The spans do not overlap and are at least one. The uncertainty adds in squares, for each
    edge of each span:

    - (P x u)^2 / 12: the value is up to one update old; P is the mean power, u the sensor's own
      update_s or, where a counter was seen to stand still for longer, that;
    - step^2 / 12 for a counter: its quantum.

    Three things go wrong the same way in every span, and count once for all n of them. The power
    steps where a phase begins, and a straight line between readings cuts that corner:
    (sum of dJ x f x (1 - f))^2 / 3, for an edge at the fraction f between two readings dJ apart and
    power on both sides that differs by at most its mean. A power sensor rounds a steady power
    alike: (step x duration)^2 / 12. And old values smear into a span what was drawn before it:
    (n x P x v)^2 / 12, for the power before was between 0 and 2 P; v is u, or a power sensor's
    period if that is longer, over which a trapezoid makes a ramp of a step.
    """
    spans = sorted(spans)
    fault = _malformed(series, spans) or _incomplete(series, spans)
    if fault is not None:
        return fault
    duration_s = sum(end - start for start, end in spans) / NS_PER_S
    samples = sum(
        bisect_right(series.stamps_ns, end) - bisect_left(series.stamps_ns, start)
        for start, end in spans
    )
    fault = _unresolved(series, spans, duration_s, samples)
    update_s = series.sensor.update_s
    if fault is None and working and series.sensor.method == "counter":
        flat_s = _longest_flat_s(series, spans)
        update_s = max(update_s, flat_s)
        fault = _stalled(series, flat_s)
    if fault is not None:
        return fault
    edges = [(_at(series, start), _at(series, end)) for start, end in spans]
    joules = tuple(end.joules - start.joules for start, end in edges)
    total = math.fsum(joules) if max(joules) < _MOST_J else math.inf
    if total <= 0:
        return Unavailable(
            reason=f"the sensor did not advance in {format_duration(duration_s)}", remedy=_LONGER
        )
    update_j = total / duration_s * update_s
    quantum_j = series.sensor.step if series.sensor.method == "counter" else 0.0
    spreads = [edge.spread_j for pair in edges for edge in pair]
    variance = len(spreads) * (update_j * update_j + quantum_j * quantum_j) / 12
    variance += math.fsum(spreads) ** 2 / 3
    smeared_j = len(spans) * update_j
    if series.sensor.method == "power":
        smeared_j = max(smeared_j, len(spans) * total / duration_s * series.sensor.poll_s)
        rounding_j = series.sensor.step * duration_s
        variance += rounding_j * rounding_j / 12
    variance += smeared_j * smeared_j / 12
    if not (_LEAST_J < total < _MOST_J and math.isfinite(variance)):
        return Unavailable(reason="its readings are beyond any sense")
    return WindowJoules(
        joules=joules,
        duration_s=duration_s,
        samples=samples,
        instrument_u_j=math.sqrt(variance),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edge:
    joules: float
    spread_j: float


def _around(series: EnergySeries, moment: int) -> tuple[int, int]:
    """The indices of the last reading up to a moment and of the first one from it on."""
    before = bisect_right(series.stamps_ns, moment) - 1
    after = bisect_left(series.stamps_ns, moment)
    return min(before, after), max(before, after)


def _at(series: EnergySeries, moment: int) -> _Edge:
    before, after = _around(series, moment)
    start, end = series.stamps_ns[before], series.stamps_ns[after]
    low, high = series.joules[before], series.joules[after]
    share = (moment - start) / (end - start) if end > start else 0.0
    return _Edge(
        joules=low + (high - low) * share, spread_j=(high - low) * share * (1 - share)
    )  # fmt: skip


def _malformed(series: EnergySeries, spans: Sequence[Span]) -> Unavailable | None:
    """Refuses what no sensor ever wrote: a record may come from anywhere."""
    stamps = series.stamps_ns
    ordered = all(a <= b for a, b in itertools.pairwise(stamps))
    moments = (*stamps[:1], *stamps[-1:], spans[0][0], spans[-1][1])
    within = all(-_STAMP_LIMIT < moment < _STAMP_LIMIT for moment in moments)
    if len(stamps) != len(series.joules) or not ordered or not within:
        return Unavailable(reason="its readings are not in order of time")
    if any(one[1] > following[0] for one, following in itertools.pairwise(spans)):
        return Unavailable(reason="what is to be metered overlaps in time")
    return None


def _incomplete(series: EnergySeries, spans: Sequence[Span]) -> Unavailable | None:
    """Why the series does not reach from before each span to after it in one piece."""
    stamps = series.stamps_ns
    said = f": {series.last_failure}" if series.last_failure else ""
    if not stamps:
        return Unavailable(reason=f"it gave no reading{said}")
    breaks = sorted(series.breaks, key=_noticed)
    for start, end in spans:
        if stamps[0] > start:
            return Unavailable(reason=f"its first reading came too late{said}")
        if stamps[-1] < end:
            return Unavailable(
                reason="it stopped giving readings before the end" + (said or ": it vanished")
            )
        first, last = _around(series, start)[0], _around(series, end)[1]
        broken = bisect_left(breaks, stamps[first], key=_noticed)
        if broken < len(breaks) and breaks[broken].noticed_ns <= stamps[last]:
            return Unavailable(reason=f"it lost its thread: {breaks[broken].reason}")
        fault = _impossible(series, first, last)
        if fault is not None:
            return fault
    return None


def _noticed(broken: SeriesBreak) -> int:
    return broken.noticed_ns


def _impossible(series: EnergySeries, first: int, last: int) -> Unavailable | None:
    """Why some step of the joules cannot have been energy."""
    moved = first
    for i in range(first, last):
        step_j = series.joules[i + 1] - series.joules[i]
        if step_j < 0:
            return Unavailable(reason="its joules ran backwards")
        if step_j == 0:
            continue
        # What a counter of slow updates shows in one step was drawn since the step before.
        passed_s = (series.stamps_ns[i + 1] - series.stamps_ns[moved]) / NS_PER_S
        moved = i + 1
        if step_j > MOST_W * (passed_s + series.sensor.update_s):
            return Unavailable(
                reason=f"its joules jumped by {step_j:.3g} J within {format_duration(passed_s)}"
            )
    return None


def _unresolved(
    series: EnergySeries, spans: Sequence[Span], duration_s: float, samples: int
) -> Unavailable | None:
    """Why the sensor is too slow for so short a time."""
    sensor = series.sensor
    if duration_s < sensor.window_s:
        return Unavailable(
            reason=f"below sensor resolution: {format_duration(duration_s)} is shorter than the"
            f" {format_duration(sensor.window_s)} it resolves",
            remedy=_LONGER,
        )
    if sensor.method != "power":
        return None
    if samples < LEAST_SAMPLES:
        return Unavailable(
            reason=f"below sensor resolution: {samples} samples, at least {LEAST_SAMPLES} are"
            " needed",
            remedy=_LONGER,
        )
    most_ns = max(MOST_GAP_PERIODS * sensor.poll_s, _LEAST_GAP_S) * NS_PER_S
    for start, end in spans:
        first, last = _around(series, start)[0], _around(series, end)[1]
        gap = max(b - a for a, b in itertools.pairwise(series.stamps_ns[first : last + 1]))
        if gap > most_ns:
            said = f": {series.last_failure}" if series.last_failure else ""
            return Unavailable(
                reason=f"it was not read for {format_duration(gap / NS_PER_S)}, more than"
                f" {MOST_GAP_PERIODS} of its periods{said}"
            )
    return None


def _longest_flat_s(series: EnergySeries, spans: Sequence[Span]) -> float:
    """How long the counter stood still at most, seconds of the time the device worked."""
    starts = [start for start, _ in spans]
    gone = list(itertools.accumulate((end - start for start, end in spans), initial=0))

    def worked_ns(moment: int) -> int:
        i = bisect_right(starts, moment) - 1
        return gone[i] + min(moment, spans[i][1]) - starts[i] if i >= 0 else 0

    first, last = _around(series, spans[0][0])[0], _around(series, spans[-1][1])[1]
    flat_from = first
    longest = 0
    for i in range(first + 1, last + 1):
        if series.joules[i] != series.joules[flat_from]:
            flat_from = i
        else:
            stretch = worked_ns(series.stamps_ns[i]) - worked_ns(series.stamps_ns[flat_from])
            longest = max(longest, stretch)
    return longest / NS_PER_S


def _stalled(series: EnergySeries, flat_s: float) -> Unavailable | None:
    """Whether the counter stood still for too many updates, and too many readings, of work."""
    sensor = series.sensor
    if flat_s > max(STALLED_UPDATES * sensor.update_s, STALLED_READINGS * sensor.poll_s):
        return Unavailable(
            reason=f"counter stalled: it stood still for {format_duration(flat_s)} while the model"
            " ran"
        )
    return None
