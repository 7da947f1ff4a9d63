"""The rate a device holds once it is hot: pure arithmetic on a measurement kept up for a time.

Whole repetitions are compared and nothing smaller: within one the context grows, and a step at the
end costs more than one at its beginning on the coolest of devices. It reads no clock and no file,
and says of a run too short for it that it is too short.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from . import statistics
from .basis import Unavailable
from .heat import Heat, ThrottleEvent
from .measurement import Measurement
from .statistics import Interval
from .units import NS_PER_S, format_duration, format_rate

MOST_BINS = 60
"""A curve of sixty points shows a device's heating; each is the mean of a sixtieth of the runs."""
BURST_S = 30.0
BURST_SHARE = 0.1
"""The burst is the first 30 seconds, or the first tenth of a run shorter than five minutes."""
LEAST_STEADY_BINS = 3
"""Fewer bins in the last third have no spread worth the name."""
THROTTLED_BELOW = 0.9
"""Below this share of the burst a device is called throttled, if it stays there."""
SLOWED_BELOW = 0.95
"""A steady rate above this share of the burst is not worth a word, however certain it is."""
_NO_HEAT = ("under-voltage", "power limit", "power brake")
"""Words in the evidence of a Raspberry Pi and of NVIDIA that speak of supply and not of heat."""
_STAYED_SHARE = 0.8
_SEARCHED = 1.8
"""Sixty places are looked at for the one: by chance alone one in forty would do. About 1.8 times
the usual distance holds the error of the whole search at that of a single look (Bonferroni)."""
_FALLING_SHARE = 0.03
_SEEN_LATE_NS = 2 * NS_PER_S
"""Evidence is read once a second: what ended with the runs is seen a moment after them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warming:
    """The temperature that best stands for the processor, degrees Celsius, over the timed runs."""

    name: str
    start_celsius: float
    end_celsius: float
    highest_celsius: float
    trip_celsius: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sustained:
    """What became of the rate over time.

    `series` are seconds since the first repetition began, at the middle of a bin, and tokens/s in
    it: decode steps over the time they took, or prompt tokens over theirs, of whole repetitions.
    `burst_tokens_per_s` is the rate of the first `burst_s` seconds, `steady_tokens_per_s` that of
    the last `steady_s`, a third: the t interval of the mean of its bins, wider as they depend on
    each other. `slowed` says that steady lies below burst by more than chance and by 5 % at least,
    `still_falling` that the last third was no plateau. `time_to_throttle_s` is when the rate fell
    below 90 % of the burst and stayed there, None when it did not. `throttle` are the moments at
    which the system itself was seen to throttle meanwhile.
    """

    phase: Literal["decode", "prefill"]
    series: tuple[tuple[float, float], ...]
    duration_s: float
    burst_tokens_per_s: float
    burst_s: float
    steady_tokens_per_s: Interval
    steady_s: float
    slowed: bool
    still_falling: bool
    time_to_throttle_s: float | None
    throttle: tuple[ThrottleEvent, ...] | Unavailable
    warming: Warming | None

    @property
    def ratio(self) -> float:
        """The steady rate over the burst: what is left once the device is hot."""
        return self.steady_tokens_per_s.value / self.burst_tokens_per_s

    @property
    def note(self) -> str:
        """Which rate counts, and what it was held against."""
        return (
            f"steady rate: that of the last {format_duration(self.steady_s)} of"
            f" {format_duration(self.duration_s)}; the first {format_duration(self.burst_s)} ran at"
            f" {format_rate(self.burst_tokens_per_s)} tok/s"
        )

    @property
    def cause(self) -> str:
        """What a rate that fell is put down to, as far as anything was seen of it."""
        held = (
            f"{format_rate(self.steady_tokens_per_s.value)} of"
            f" {format_rate(self.burst_tokens_per_s)} tok/s are left"
        )
        if self.time_to_throttle_s is not None:
            held += f" after {format_duration(self.time_to_throttle_s)}"
        if isinstance(self.throttle, Unavailable):
            return f"heat, most likely: {held} (throttle: {self.throttle.reason})"
        if self._by_power:
            return f"power: {held} ({self.throttle[0].evidence})"
        for event in self.throttle:
            if _is_heat(event):
                return f"heat: {held} ({event.evidence})"
        return f"slows down over time, though no throttling was seen: {held}"

    @property
    def way_out(self) -> str:
        """What to do about it."""
        if self._by_power:
            return "Give it a stronger supply or a higher power limit, or try a smaller model."
        return "Cool the device better, or try a smaller model."

    @property
    def _by_power(self) -> bool:
        """Whether all that was seen speaks of the supply."""
        seen = () if isinstance(self.throttle, Unavailable) else self.throttle
        return bool(seen) and not any(_is_heat(event) for event in seen)


def _is_heat(event: ThrottleEvent) -> bool:
    return not any(words in event.evidence for words in _NO_HEAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bin:
    """Some repetitions one after the other: seconds since the first of all, and their rate."""

    start_s: float
    end_s: float
    tokens_per_s: float

    @property
    def middle_s(self) -> float:
        return (self.start_s + self.end_s) / 2


def sustained(measurement: Measurement) -> Sustained | Unavailable | None:
    """What became of the rate of a measurement that was kept up on purpose; None of any other.

    The repetitions, in order, make up to 60 bins of equally many. Unavailable when fewer than three
    bins lie in the last third of the time: a single long repetition tells heat from a filling
    context as little as it tells noise from either.
    """
    if measurement.sustain_s is None:
        return None
    phase: Literal["decode", "prefill"] = "decode" if measurement.decode_samples else "prefill"
    runs = _whole_runs(measurement, phase)
    bins = _bins(runs)
    duration = bins[-1].end_s if bins else 0.0
    burst_end = min(BURST_S, duration * BURST_SHARE)
    burst = [b for b in bins if b.start_s < burst_end] or bins[:1]
    last = [b for b in bins if b.middle_s >= duration * 2 / 3]
    if len(last) < LEAST_STEADY_BINS or len(burst) + len(last) > len(bins):
        return Unavailable(
            reason=f"too short to tell: {len(runs)} whole repetitions in"
            f" {format_duration(duration)}, {len(last)} of them in the last third",
            remedy="Sustain it for longer, or make each repetition shorter with -n.",
        )
    widen = 2.0 if measurement.noise.disturbed else 1.0
    rates = [b.tokens_per_s for b in last]
    fast = [b.tokens_per_s for b in burst]
    steady = _steady(rates, widen)
    burst_rate = statistics.mean(fast)
    return Sustained(
        phase=phase,
        series=tuple((b.middle_s, b.tokens_per_s) for b in bins),
        duration_s=duration,
        burst_tokens_per_s=burst_rate,
        burst_s=burst[-1].end_s,
        steady_tokens_per_s=steady,
        steady_s=duration - last[0].start_s,
        slowed=steady.value < SLOWED_BELOW * burst_rate and _is_below(rates, fast, widen),
        still_falling=_is_falling(last),
        time_to_throttle_s=_time_to_throttle(bins, fast, widen),
        throttle=throttle_during(measurement),
        warming=warming(measurement),
    )


def warming(measurement: Measurement) -> Warming | None:
    """The leading temperature when the timed runs began and when they ended; None without one."""
    span = timed_span(measurement)
    if span is None or measurement.heat is None or not measurement.heat.zones:
        return None
    zone = measurement.heat.zones[0]
    readings = tuple(zip(zone.celsius.stamps_ns, zone.celsius.values, strict=False))
    before = [(t, c) for t, c in readings if t <= span[0]]
    during = [(t, c) for t, c in readings if span[0] < t <= span[1] + _SEEN_LATE_NS]
    seen = (*before[-1:], *during)
    if not seen or not during:
        return None
    return Warming(
        name=zone.celsius.name,
        start_celsius=seen[0][1],
        end_celsius=seen[-1][1],
        highest_celsius=max(celsius for _, celsius in seen),
        trip_celsius=zone.trip_celsius,
    )


def throttle_during(measurement: Measurement) -> tuple[ThrottleEvent, ...] | Unavailable:
    """The moments of the timed runs at which throttling was noticed, or why none could be.

    What began before them and never ended is no news in them: then it is the moment before.
    """
    span, heat = timed_span(measurement), measurement.heat
    if not isinstance(heat, Heat) or span is None:
        return Unavailable(reason="not observed: the record holds nothing of heat")
    if isinstance(heat.throttle, Unavailable):
        return heat.throttle
    within = tuple(e for e in heat.throttle if span[0] <= e.seen_ns <= span[1] + _SEEN_LATE_NS)
    if not within and measurement.noise.throttled:
        return tuple(e for e in heat.throttle if e.seen_ns < span[0])[-1:]
    return within


def timed_span(measurement: Measurement) -> tuple[int, int] | None:
    """When the timed runs began and ended; None where nothing ran."""
    if not measurement.runs:
        return None
    last = measurement.runs[-1]
    ended = last.token_ns[-1] if last.token_ns else last.prefilled_ns or last.started_ns
    return measurement.runs[0].started_ns, ended


_WholeRun = tuple[int, int, int, int]
"""When a phase of a repetition began and ended, its tokens, and the nanoseconds they took."""


def _whole_runs(measurement: Measurement, phase: str) -> list[_WholeRun]:
    """The repetitions of the usual length: one cut short stopped where steps are still cheap."""
    found: list[_WholeRun] = []
    for run in measurement.runs:
        if phase == "prefill":
            if run.prefilled_ns is not None and run.prefilled_ns > run.started_ns:
                busy = run.prefilled_ns - run.started_ns
                found.append((run.started_ns, run.prefilled_ns, run.prefill_tokens, busy))
        elif (busy := sum(steps := run.step_ns)) > 0:
            found.append((run.token_ns[-1] - busy, run.token_ns[-1], len(steps), busy))
    longest = max((tokens for _, _, tokens, _ in found), default=0)
    return [run for run in found if run[2] == longest]


def _bins(runs: Sequence[_WholeRun]) -> list[_Bin]:
    """As many as there are runs, at most sixty, of equally many runs but for one."""
    count = min(len(runs), MOST_BINS)
    found = []
    for i in range(count):
        part = runs[i * len(runs) // count : (i + 1) * len(runs) // count]
        found.append(
            _Bin(
                start_s=(part[0][0] - runs[0][0]) / NS_PER_S,
                end_s=(part[-1][1] - runs[0][0]) / NS_PER_S,
                tokens_per_s=sum(r[2] for r in part) * NS_PER_S / sum(r[3] for r in part),
            )
        )
    return found


def _steady(rates: Sequence[float], widen: float) -> Interval:
    """The t interval of the mean, for as many bins as are independent of each other."""
    independent = _independent(rates)
    factor = statistics.t95(independent - 1) / math.sqrt(independent)
    usual = statistics.t95(len(rates) - 1) / math.sqrt(len(rates))
    interval = statistics.confidence_interval(rates, widen=widen * factor / usual)
    assert interval is not None
    return interval


def _independent(rates: Sequence[float]) -> int:
    """How many independent samples some in a row are worth: n (1 - r) / (1 + r), at least three.

    r is the correlation of each with the next, about the line through them: a steady fall is no
    dependence. The formula is that of a first-order autoregression (Zwiers and von Storch, Journal
    of Climate 8, 1995). A fan that comes and goes makes r large.
    """
    apart = _about_a_line(range(len(rates)), rates)[1]
    total = math.fsum(a * a for a in apart)
    # What is left by rounding is no pattern.
    if total <= (1e-9 * statistics.mean(rates)) ** 2:
        return len(rates)
    r = math.fsum(a * b for a, b in itertools.pairwise(apart)) / total
    worth = math.floor(len(rates) * (1 - r) / (1 + r)) if r > 0 else len(rates)
    return max(LEAST_STEADY_BINS, worth)


def _about_a_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, list[float], float]:
    """The least-squares slope, what remains of each y, and the slope's standard error."""
    mean_x, mean_y = statistics.mean(x), statistics.mean(y)
    spread = math.fsum((a - mean_x) ** 2 for a in x)
    pairs = tuple(zip(x, y, strict=True))
    slope = math.fsum((a - mean_x) * (b - mean_y) for a, b in pairs) / spread
    apart = [b - mean_y - slope * (a - mean_x) for a, b in pairs]
    error = math.sqrt(math.fsum(r * r for r in apart) / (len(x) - 2) / spread)
    return slope, apart, error


def _is_below(later: Sequence[float], burst: Sequence[float], widen: float) -> bool:
    """Whether a mean lies below that of the burst by more than chance, at 97.5 % confidence.

    Welch's test on the logarithms. What scatters about the line through the later rates is noise;
    their fall is none. A burst is too few bins to know its spread by: it has at least as much.
    """
    later_logs, burst_logs = ([math.log(rate) for rate in rates] for rates in (later, burst))
    apart = _about_a_line(range(len(later)), later_logs)[1]
    spread = math.sqrt(math.fsum(a * a for a in apart) / (len(later) - 2))
    first = max(spread, statistics.stddev(burst_logs))
    independent = _independent(later)
    error = math.sqrt(spread**2 / independent + first**2 / len(burst))
    gap = statistics.mean(burst_logs) - statistics.mean(later_logs)
    return gap > widen * statistics.t95(independent - 1) * error


def _time_to_throttle(bins: Sequence[_Bin], burst: Sequence[float], widen: float) -> float | None:
    """The beginning of the first bin from which on the rate is below 90 % of the burst.

    It is, when the bin is below, four in five of the next five are and of all that follow, those
    are three at least and a tenth of all bins, and their mean lies below the burst by more than
    chance. So neither a hiccup nor a noisy end counts, nor a fall that the device recovered from.
    """
    limit = THROTTLED_BELOW * statistics.mean(burst)
    rates = [b.tokens_per_s for b in bins]
    least = max(LEAST_STEADY_BINS, len(bins) // 10)
    for k in range(len(burst), len(bins) - least + 1):
        rest = rates[k:]
        if (
            rest[0] < limit
            and all(_share_below(part, limit) >= _STAYED_SHARE for part in (rest[:5], rest))
            and statistics.mean(rest) < limit
            and _is_below(rest, burst, _SEARCHED * widen)
        ):
            return bins[k].start_s
    return None


def _share_below(rates: Sequence[float], limit: float) -> float:
    return sum(rate < limit for rate in rates) / len(rates)


def _is_falling(last: Sequence[_Bin]) -> bool:
    """Whether the last third lost 3 % or more along its length, by a line laid through it.

    The slope must differ from zero by more than chance. Three bins are too few for a slope.
    """
    if len(last) <= LEAST_STEADY_BINS:
        return False
    times = [b.middle_s for b in last]
    slope, _, error = _about_a_line(times, [math.log(b.tokens_per_s) for b in last])
    length = times[-1] - times[0]
    return -slope * length > max(_FALLING_SHARE, statistics.t95(len(last) - 2) * error * length)
