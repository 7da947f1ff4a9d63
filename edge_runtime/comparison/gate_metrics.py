"""What a gate can ask of a level: a value with its interval, and its change between two runs.

Each metric knows its own noise. Speeds of two runs are unpaired: Welch's interval over the rounds
of each. Scores of the same tokens are paired token by token. Sizes have no noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from .. import statistics
from ..basis import Unavailable
from ..measurement import Measurement, Workload
from ..phase_energy import PhaseEnergy
from ..scores import Divergence, Scores
from ..statistics import Interval
from ..verdict import Target
from .differences import (
    NEED_NOISE_SHARE,
    exponential,
    mean_interval,
    paired_differences,
    paired_mean_ratio,
)
from .figures import (
    Samples,
    Value,
    decode_energy,
    decode_rates,
    joules_of,
    need_bytes,
    prefill_rates,
    prefill_times,
    quality_figure,
    samples_of,
    why_none,
    why_nothing,
)
from .levels import Level
from .rule import METRICS

_UNKNOWN_FACTOR = 1e6
"""Where too few tokens bound a percentile the interval reaches this far: it resolves nothing."""

Figure = Interval | Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric: its value for a level, and the new level's value as a share of the old one's.

    `change` gives the ratio; 1 is no change. `of_speed` says that it depends on the machine,
    `of_quality` that it depends on the text.
    """

    value: Callable[[Level], Figure]
    change: Callable[[Level, Level], Figure]
    of_speed: bool = False
    of_quality: bool = False


def metric_of(name: str, workloads: Sequence[Workload], target: Target) -> Metric | None:
    """The metric of a name: one of `METRICS`, or a workload's; None where nothing is called so.

    Times and energy are those of the first workload that evaluates a prompt, or decodes.
    """
    if name in _OF_SCORES:
        return _OF_SCORES[name]
    if name == "size":
        return Metric(value=_size, change=lambda new, old: _exact_ratio(_size(new), _size(old)))
    if name == "memory":
        return _memory(target)
    if name == "ttft":
        return _sampled(_first(workloads, prefill=True), prefill_times)
    if name == "j/token":
        return _energy(_first(workloads, prefill=False))
    assert name not in METRICS
    workload = next((w for w in workloads if w.name == name), None)
    if workload is None:
        return None
    return _sampled(workload, decode_rates if workload.generate_tokens else prefill_rates)


def _first(workloads: Sequence[Workload], *, prefill: bool) -> Workload | None:
    kinds = [w for w in workloads if (w.prompt_tokens if prefill else w.generate_tokens)]
    pure = [w for w in kinds if not (w.generate_tokens if prefill else w.prompt_tokens)]
    return next(iter(pure or kinds), None)


# Speeds, times and energy: samples of rounds.


def _sampled(workload: Workload | None, of: Value) -> Metric:
    def samples(level: Level) -> Samples | Unavailable:
        if workload is None:
            return Unavailable(reason="no workload of this kind was measured")
        found = samples_of(level, workload.name, of)
        return found if found.values else why_none(level, workload)

    def value(level: Level) -> Figure:
        found = samples(level)
        if isinstance(found, Unavailable):
            return found
        interval = found.interval
        assert interval is not None
        return interval

    def change(new: Level, old: Level) -> Figure:
        found, before = samples(new), samples(old)
        if isinstance(found, Unavailable):
            return found
        return before if isinstance(before, Unavailable) else found.unpaired_ratio_to(before)

    return Metric(value=value, change=change, of_speed=True)


def _energy(workload: Workload | None) -> Metric:
    def value(level: Level) -> Figure:
        return joules_of(level, workload)[0]

    def change(new: Level, old: Level) -> Figure:
        (now, used), (before, used_before) = joules_of(new, workload), joules_of(old, workload)
        if isinstance(now, Unavailable):
            return now
        if isinstance(before, Unavailable):
            return before
        rests = [
            f"{one.basis.lower()} ({one.source})" for one in (used, used_before) if one is not None
        ]
        if rests[0] != rests[-1]:
            return Unavailable(reason=f"unlike joules: {rests[-1]} before, {rests[0]} now")
        assert workload is not None
        of, to = (samples_of(level, workload.name, _joules) for level in (new, old))
        return of.unpaired_ratio_to(to)

    return Metric(value=value, change=change, of_speed=True)


def _joules(record: Measurement) -> tuple[float, ...]:
    phase, _ = decode_energy(record)
    return (phase.gross_j_per_token.value,) if isinstance(phase, PhaseEnergy) else ()


# Sizes: exact, and memory nearly so.


def _size(level: Level) -> Figure:
    if level.artifact is None:
        return why_nothing(level)
    size = float(level.artifact.size_bytes)
    return Interval(low=size, value=size, high=size)


def _memory(target: Target) -> Metric:
    def value(level: Level) -> Figure:
        found = need_bytes(level, target)
        if isinstance(found, Unavailable):
            return found
        share = NEED_NOISE_SHARE
        return Interval(low=found * (1 - share), value=float(found), high=found * (1 + share))

    def change(new: Level, old: Level) -> Figure:
        ratio = _exact_ratio(value(new), value(old))
        if isinstance(ratio, Unavailable):
            return ratio
        share = NEED_NOISE_SHARE
        middle = ratio.value
        return Interval(low=middle * (1 - share), value=middle, high=middle * (1 + share))

    return Metric(value=value, change=change, of_speed=True)


def _exact_ratio(new: Figure, old: Figure) -> Figure:
    if isinstance(new, Unavailable):
        return new
    if isinstance(old, Unavailable):
        return old
    if old.value <= 0:
        return Unavailable(reason="the baseline's value is zero")
    ratio = new.value / old.value
    return Interval(low=ratio, value=ratio, high=ratio)


# Quality: scores of the same tokens.


def _scored(level: Level, *, against_reference: bool) -> Scores | Unavailable:
    quality = quality_figure(level)
    if isinstance(quality, Unavailable):
        return quality
    assert level.scores is not None
    if against_reference and level.scores.divergence is None:
        return Unavailable(reason="it was held against no reference")
    return level.scores


def _perplexity() -> Metric:
    def value(level: Level) -> Figure:
        scores = _scored(level, against_reference=False)
        if isinstance(scores, Unavailable):
            return scores
        return exponential(mean_interval(scores.nll.values()))

    def change(new: Level, old: Level) -> Figure:
        sides = _both(new, old, against_reference=False)
        if isinstance(sides, Unavailable):
            return sides
        of, to = (scores.nll.values() for scores in sides)
        return exponential(mean_interval(paired_differences(of, to)))

    return Metric(value=value, change=change, of_quality=True)


def _both(
    new: Level, old: Level, *, against_reference: bool
) -> tuple[Scores, Scores] | Unavailable:
    found = _scored(new, against_reference=against_reference)
    if isinstance(found, Unavailable):
        return found
    base = _scored(old, against_reference=against_reference)
    return base if isinstance(base, Unavailable) else (found, base)


def _diverging(
    samples: Callable[[Divergence], Sequence[float]],
    interval: Callable[[Sequence[float]], Interval],
    ratio: Callable[[Sequence[float], Sequence[float]], Interval | None],
) -> Metric:
    def value(level: Level) -> Figure:
        scores = _scored(level, against_reference=True)
        if isinstance(scores, Unavailable):
            return scores
        assert scores.divergence is not None
        return interval(samples(scores.divergence))

    def change(new: Level, old: Level) -> Figure:
        sides = _both(new, old, against_reference=True)
        if isinstance(sides, Unavailable):
            return sides
        of, to = (samples(s.divergence) for s in sides if s.divergence is not None)
        found = ratio(of, to)
        return found or Unavailable(reason="a share of nothing: one of the values is zero")

    return Metric(value=value, change=change, of_quality=True)


def _p99(samples: Sequence[float]) -> Interval:
    """The 99th percentile with its distribution-free interval, open where the samples end."""
    found = statistics.percentile_interval(samples, 99)
    value = statistics.percentile(samples, 99)
    return Interval(
        low=min(value, value / _UNKNOWN_FACTOR if found.low is None else found.low),
        value=value,
        high=max(value, value * _UNKNOWN_FACTOR if found.high is None else found.high),
    )


def _p99_ratio(of: Sequence[float], to: Sequence[float]) -> Interval | None:
    """The ratio of two 99th percentiles over the same tokens; None where one is not positive.

    The intervals of both are put together on the logarithmic scale as Zou does for correlated
    estimates (Psychological Methods 12, 2007, 399-413), the correlation being that of which tokens
    lie below their percentile: hard tokens are hard for both.
    """
    new, old = _p99(of), _p99(to)
    if min(new.low, old.low) <= 0:
        return None
    together = statistics.mean(
        [float(a <= new.value and b <= old.value) for a, b in zip(of, to, strict=True)]
    )
    shares = [
        statistics.mean([float(x <= side.value) for x in samples])
        for samples, side in ((of, new), (to, old))
    ]
    spread = math.sqrt(math.prod(share * (1 - share) for share in shares))
    alike = (together - math.prod(shares)) / spread if spread else 0.0
    alike = min(max(alike, -1.0), 1.0)
    centre = math.log(new.value / old.value)

    def half(one: float, other: float) -> float:
        return math.sqrt(max(one * one + other * other - 2 * alike * one * other, 0.0))

    down = half(math.log(new.value / new.low), math.log(old.high / old.value))
    up = half(math.log(new.high / new.value), math.log(old.value / old.low))
    return exponential(Interval(low=centre - down, value=centre, high=centre + up))


def _wilson(samples: Sequence[float]) -> Interval:
    """The score interval of a share (Wilson 1927): it has a width also where all agree."""
    count, share = len(samples), statistics.mean(samples)
    z2 = statistics.t95(count - 1) ** 2 / count
    centre = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(max(z2 * (share * (1 - share) + z2 / 4), 0.0)) / (1 + z2)
    return Interval(low=min(centre - half, share), value=share, high=max(centre + half, share))


_OF_SCORES: Mapping[str, Metric] = MappingProxyType({
    "kl": _diverging(lambda d: d.kl.values(), mean_interval, paired_mean_ratio),
    "kl_p99": _diverging(lambda d: d.kl.values(), _p99, _p99_ratio),
    "ppl": _perplexity(),
    "top1": _diverging(lambda d: d.agrees.values(), _wilson, paired_mean_ratio),
})  # fmt: skip
