"""The energy of one phase of a measurement, and the level of idling that it is held against.

Pure arithmetic: where a phase lies in time, what the headline's sensors counted there together, how
sure that is, and what idling would have used meanwhile. What cannot be told is Unavailable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import statistics
from .basis import Unavailable
from .energy import EnergySeries
from .measurement import Measurement
from .statistics import Interval
from .timeline import Window
from .units import format_duration
from .window_joules import Span, WindowJoules, joules_within

FOREIGN_LOAD = 0.05
"""The share of all CPU time that others may use before idling says nothing about the model."""
MOST_DRIFT = 0.10
"""How far the two idle levels may lie apart, as a share of what the model adds."""
WH_J = 3600.0
"""Joules in a watt-hour."""

NORMAL_95 = 1.960
"""Half of a 95 % interval in standard uncertainties, where these are known."""
_MOST_TOKENS = 10**12
_WIDEST = math.log(1e6)
_IDLE = "Measure with idle windows: edge profile --idle 30s"
_ALONE = "Close other programs and measure again."


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEnergy:
    """The energy of one phase, summed over the repetitions; joules and joules per token.

    `tokens` are prompt tokens of prefill, decode steps of decode. `gross_u_j` and `net_u_j` are
    standard uncertainties, the intervals hold at 95 %; the sensor's gain error is in neither.
    `samples` are the readings within the windows, of the sensor that has the fewest.
    """

    tokens: int
    window_s: float
    repetitions: int
    samples: int
    gross_j: float
    gross_u_j: float
    net_j: float | Unavailable
    net_u_j: float | None
    gross_j_per_token: Interval
    net_j_per_token: Interval | Unavailable

    @property
    def power_w(self) -> float:
        """The mean power while the phase ran, watts."""
        return self.gross_j / self.window_s

    @property
    def tokens_per_wh(self) -> Interval:
        """Tokens of this phase for a watt-hour, by the gross joules."""
        return self.gross_j_per_token.inverse().scaled(WH_J)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """The windows of a phase, one for each repetition that has it, and their tokens."""

    spans: tuple[Span, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleLevel:
    """The power with no model loaded, before and after; the standard uncertainty of their mean."""

    before_w: float
    after_w: float
    u_w: float

    @property
    def power_w(self) -> float:
        """The mean of the two."""
        return (self.before_w + self.after_w) / 2

    @property
    def interval(self) -> Interval:
        """The mean with its 95 % interval."""
        return _positive(self.power_w, NORMAL_95 * self.u_w)


def phase_of(measurement: Measurement, *, prefill: bool) -> Phase:
    """Where prefill or decode lies in each run that has it, in order of time."""
    found = []
    for run in measurement.runs:
        begun = run.started_ns if run.prefilled_ns is None else run.prefilled_ns
        tokens = run.prefill_tokens if prefill else len(run.step_ns)
        ended = begun if prefill else max((begun, *run.token_ns[-1:]))
        started = run.started_ns if prefill else begun
        if 0 < tokens < _MOST_TOKENS and ended > started:
            found.append(((started, ended), tokens))
    found.sort()
    return Phase(spans=tuple(span for span, _ in found), tokens=tuple(n for _, n in found))


def headline_joules(
    headline: Sequence[EnergySeries], spans: Sequence[Span], *, working: bool
) -> tuple[WindowJoules, ...] | Unavailable:
    """What each headline sensor counted; the reason of the first that cannot tell."""
    found = []
    for series in headline:
        joules = joules_within(series, spans, working=working)
        if isinstance(joules, Unavailable):
            return replace(joules, reason=f"{series.sensor.id}: {joules.reason}")
        found.append(joules)
    return tuple(found)


def phase_energy(
    headline: Sequence[EnergySeries],
    phase: Phase,
    idle: IdleLevel | Unavailable,
    measurement: Measurement,
) -> PhaseEnergy | Unavailable | None:
    """One phase by all headline sensors together.

    u^2 = instrument^2 + repetition^2, with instrument^2 the sum over the sensors (edges and
    quantum, see `joules_within`) and repetition = tokens x s / sqrt(n), s being the standard
    deviation of the joules per token over n repetitions. The 95 % half-width takes 1.96 times the
    instruments' part and Student's t times the repetitions'. The gross interval is laid on the
    logarithmic scale, as those of rates are.
    """
    if not phase.spans:
        return None
    found = headline_joules(headline, phase.spans, working=True)
    if isinstance(found, Unavailable):
        return found
    tokens, window_s = sum(phase.tokens), found[0].duration_s
    each = [math.fsum(parts) for parts in zip(*(f.joules for f in found), strict=True)]
    gross = math.fsum(each)
    instrument = math.hypot(*(f.instrument_u_j for f in found))
    if 2 * instrument >= gross:
        return Unavailable(
            reason=f"below sensor resolution: {gross:.3g} J in {format_duration(window_s)} are"
            f" known to ± {NORMAL_95 * instrument:.2g} J only",
            remedy="Measure for longer: a larger --budget or more repetitions.",
        )
    rates = [joules / count for joules, count in zip(each, phase.tokens, strict=True)]
    repetition = tokens * statistics.stddev(rates) / math.sqrt(len(rates))
    gross_u = math.hypot(instrument, repetition)
    spread = statistics.t95(len(rates) - 1) * repetition if len(rates) > 1 else 0.0
    half = math.hypot(NORMAL_95 * instrument, spread)
    idle_u = 0.0 if isinstance(idle, Unavailable) else window_s * idle.u_w
    net = _net(gross, window_s, idle, measurement, math.hypot(instrument, idle_u))
    net_u: float | None = None
    net_per_token: Interval | Unavailable
    if isinstance(net, Unavailable):
        net_per_token = net
    else:
        net_u = math.hypot(gross_u, idle_u)
        net_half = math.hypot(half, NORMAL_95 * idle_u)
        net_per_token = Interval(
            low=(net - net_half) / tokens, value=net / tokens, high=(net + net_half) / tokens
        )
    return PhaseEnergy(
        tokens=tokens,
        window_s=window_s,
        repetitions=len(rates),
        samples=min(f.samples for f in found),
        gross_j=gross,
        gross_u_j=gross_u,
        net_j=net,
        net_u_j=net_u,
        gross_j_per_token=_positive(gross / tokens, half / tokens),
        net_j_per_token=net_per_token,
    )


def _positive(value: float, half: float) -> Interval:
    """The interval of what cannot be negative, laid on the logarithmic scale."""
    relative = min(half / value, _WIDEST)
    return Interval(low=value * math.exp(-relative), value=value, high=value * math.exp(relative))


def _net(
    gross_j: float,
    window_s: float,
    idle: IdleLevel | Unavailable,
    measurement: Measurement,
    u_j: float,
) -> float | Unavailable:
    """Gross less idling for as long, or why that would not be what the model adds.

    `u_j` is the standard uncertainty of the difference by the instruments and the idle level.
    """
    if isinstance(idle, Unavailable):
        return idle
    foreign = measurement.noise.foreign_share
    if foreign is not None and foreign > FOREIGN_LOAD:
        return Unavailable(
            reason=f"foreign load: other programs used {foreign:.0%} of the CPU", remedy=_ALONE
        )
    added_w = gross_j / window_s - idle.power_w
    apart_w = abs(idle.before_w - idle.after_w)
    if added_w <= 0:
        return Unavailable(
            reason=f"running drew no more than idling ({idle.power_w:.3g} W)",
            remedy="Let the device settle first: edge profile --cool-down 2m --idle 30s",
        )
    if apart_w > MOST_DRIFT * added_w:
        return Unavailable(
            reason=f"baseline drift: idling drew {idle.before_w:.3g} W before and"
            f" {idle.after_w:.3g} W after, the model adds {added_w:.3g} W",
            remedy="Let the device settle first: edge profile --cool-down 2m --idle 30s",
        )
    # Not the difference of the joules, which rounding may take to nothing.
    net_j = added_w * window_s
    if 2 * u_j >= net_j:
        return Unavailable(
            reason=f"below sensor resolution: the {net_j:.3g} J that the model adds are known to"
            f" ± {NORMAL_95 * u_j:.2g} J only",
            remedy="Measure for longer: a larger --budget or more repetitions.",
        )
    return net_j


def idle_level(
    measurement: Measurement, headline: Sequence[EnergySeries]
) -> IdleLevel | Unavailable:
    """The power with no model loaded: the mean of before and after.

    u^2 = (u_before^2 + u_after^2) / 4 + (before - after)^2 / 12: somewhere between the two it lay.
    """
    timeline = measurement.timeline
    windows = [timeline.window(name) for name in ("idle_a", "idle_b")] if timeline else [None]
    known = [window for window in windows if window is not None]
    if not known:
        return Unavailable(reason="no idle window was measured", remedy=_IDLE)
    if len(known) < len(windows):
        return Unavailable(reason="only one idle window: drift would go unseen", remedy=_IDLE)
    watts, variances = [], []
    for window in known:
        fault = _unquiet(window)
        if fault is not None:
            return fault
        found = headline_joules(
            headline, ((window.started_ns, window.ended_ns),), working=False
        )  # fmt: skip
        if isinstance(found, Unavailable):
            return Unavailable(reason=f"idling: {found.reason}", remedy=_IDLE)
        if any(2 * f.instrument_u_j >= f.total_j for f in found):
            return Unavailable(reason="idling: below sensor resolution", remedy=_IDLE)
        watts.append(math.fsum(f.total_j for f in found) / window.duration_s)
        variances.append(math.fsum((f.instrument_u_j / window.duration_s) ** 2 for f in found))
    before, after = watts
    u = math.sqrt(math.fsum(variances) / 4 + (before - after) ** 2 / 12)
    return IdleLevel(before_w=before, after_w=after, u_w=u)


def _unquiet(window: Window) -> Unavailable | None:
    """Why an idle window shows no idling."""
    if window.busy_share is not None and window.busy_share > FOREIGN_LOAD:
        return Unavailable(
            reason=f"foreign load: while idling other programs used {window.busy_share:.0%} of the"
            " CPU",
            remedy=_ALONE,
        )
    return None
