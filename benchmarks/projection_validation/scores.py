"""Scores of projected rates against measured ones: errors, coverage, flipped verdicts.

An error is |projected / measured - 1|, as a reader of tokens per second would see it. Every figure
comes twice: over rows, where a phone with 150 rows weighs as much as 150 cards, and over devices,
where each device counts once. Nothing here knows how a rate was projected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edge_runtime.statistics import Interval, mean, median

QUARTER, TWICE = 0.25, 2.0
TARGET_TOKENS_PER_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One published rate, tokens/s, and what was projected for it without its device.

    `path` is the kind of accelerator, the engine and the API, as `gpu/llama.cpp/cuda`; `family` is
    the quantization's. `rivals` are other methods' rates by name, without those that have none.
    `remarks` say what may explain a miss.
    """

    phase: str
    device: str
    device_class: str
    path: str
    architecture: str
    family: str
    model: str
    level: str
    depth_tokens: int
    source: str
    measured: float
    projected: Interval
    rivals: tuple[tuple[str, float], ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of accelerator: cpu, gpu or npu."""
        return self.path.partition("/")[0]

    @property
    def ratio(self) -> float:
        """Projected over measured."""
        return self.projected.value / self.measured

    @property
    def covered(self) -> bool:
        """Whether the measured rate lies in the projected interval, its ends included."""
        return self.projected.low <= self.measured <= self.projected.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Errors of some rates, over rows and over devices.

    Shares are between 0 and 1. Over devices: the median of the devices' medians, the mean of their
    means, the mean of their shares. `median_ratio` is projected over measured.
    """

    rows: int
    devices: int
    median_error: float
    mean_error: float
    within_quarter: float
    within_twice: float
    median_ratio: float
    device_median_error: float
    device_mean_error: float
    device_within_quarter: float
    device_within_twice: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How often the measured rate lies in the interval, and how wide that is.

    `median_width` is the high end over the low one. `devices` is the mean of the devices' shares.
    """

    rows: float
    devices: float
    median_width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """Verdicts on a target speed that measurements contradict.

    `too_good` were projected to be fast enough and are not, `too_bad` the other way round.
    `share` is of all rows, `share_of_decided` of those that were not BORDERLINE.
    """

    target_tokens_per_s: float
    too_good: int
    too_bad: int
    share: float
    share_of_decided: float
    borderline: float
    device_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What was scored together: the projection, and on the very same rows each rival.

    A rival that has no rate for some rows has fewer; `ours` of it is the projection on just those.
    """

    name: str
    accuracy: Accuracy
    coverage: Coverage
    flips: Flips | None
    rivals: tuple[Rival, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Another method's errors and flips, and the projection's own on the rows it has a rate for."""

    name: str
    accuracy: Accuracy
    flips: Flips | None
    ours: Accuracy


def score(name: str, cases: Sequence[Case], *, target: float | None = None) -> Group:
    """Scores at least one case and the rivals on the same rows; flips where a target is given."""
    names = dict.fromkeys(rival for case in cases for rival, _ in case.rivals)
    return Group(
        name=name,
        accuracy=accuracy((c.device, c.projected.value, c.measured) for c in cases),
        coverage=coverage(cases),
        flips=None if target is None else flips(cases, target),
        rivals=tuple(_rival(rival, cases, target) for rival in names),
    )


def _rival(name: str, cases: Sequence[Case], target: float | None) -> Rival:
    found = [(case, dict(case.rivals)[name]) for case in cases if name in dict(case.rivals)]
    return Rival(
        name=name,
        accuracy=accuracy((case.device, rate, case.measured) for case, rate in found),
        flips=None
        if target is None
        else _flips(
            [(c.device, Interval(low=r, value=r, high=r), c.measured) for c, r in found], target
        ),
        ours=accuracy((case.device, case.projected.value, case.measured) for case, _ in found),
    )


def accuracy(triples: Iterable[tuple[str, float, float]]) -> Accuracy:
    """The errors of (device, projected, measured), of which there is at least one."""
    found = list(triples)
    errors = [(device, abs(projected / measured - 1)) for device, projected, measured in found]
    factors = [
        (device, math.exp(abs(math.log(projected / measured))))
        for device, projected, measured in found
    ]
    all_errors = [error for _, error in errors]
    near = [(device, float(error <= QUARTER)) for device, error in errors]
    twice = [(device, float(factor <= TWICE)) for device, factor in factors]
    return Accuracy(
        rows=len(found),
        devices=len({device for device, _ in errors}),
        median_error=median(all_errors),
        mean_error=mean(all_errors),
        within_quarter=mean([share for _, share in near]),
        within_twice=mean([share for _, share in twice]),
        median_ratio=median([projected / measured for _, projected, measured in found]),
        device_median_error=median(by_device(errors, median)),
        device_mean_error=mean(by_device(errors, mean)),
        device_within_quarter=mean(by_device(near, mean)),
        device_within_twice=mean(by_device(twice, mean)),
    )


def coverage(cases: Sequence[Case]) -> Coverage:
    """How often the intervals of at least one case hold the measured rate."""
    held = [(case.device, float(case.covered)) for case in cases]
    return Coverage(
        rows=mean([share for _, share in held]),
        devices=mean(by_device(held, mean)),
        median_width=median([case.projected.high / case.projected.low for case in cases]),
    )


def flips(cases: Sequence[Case], target: float = TARGET_TOKENS_PER_S) -> Flips:
    """The verdicts on a target that the measured rates of at least one case contradict."""
    return _flips([(case.device, case.projected, case.measured) for case in cases], target)


def _flips(found: Sequence[tuple[str, Interval, float]], target: float) -> Flips:
    good = [rate.low >= target > measured for _, rate, measured in found]
    bad = [rate.high < target <= measured for _, rate, measured in found]
    open_ = [rate.low < target <= rate.high for _, rate, _ in found]
    flipped = [
        (device, float(one or other))
        for (device, _, _), one, other in zip(found, good, bad, strict=True)
    ]
    wrong, decided = sum(good) + sum(bad), len(found) - sum(open_)
    return Flips(
        target_tokens_per_s=target,
        too_good=sum(good),
        too_bad=sum(bad),
        share=wrong / len(found),
        share_of_decided=wrong / decided if decided else 0.0,
        borderline=sum(open_) / len(found),
        device_share=mean(by_device(flipped, mean)),
    )


def by_device(
    values: Iterable[tuple[str, float]], summary: Callable[[Sequence[float]], float]
) -> list[float]:
    """One summary of each device's values, in the order the devices first come."""
    found: dict[str, list[float]] = {}
    for device, value in values:
        found.setdefault(device, []).append(value)
    return [summary(own) for own in found.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A device on one path whose rates were projected furthest from the measured ones.

    `rows` were scored there for that architecture, at a median of `median_ratio` projected over
    measured; `case` is the row that lies in the middle.
    """

    rows: int
    median_ratio: float
    covered: float
    case: Case


def worst(cases: Sequence[Case], count: int) -> tuple[Miss, ...]:
    """The device, path and architecture groups with the largest median miss, the largest first."""
    groups: dict[tuple[str, str, str, str], list[Case]] = {}
    for case in cases:
        key = (case.phase, case.device, case.path, case.architecture)
        groups.setdefault(key, []).append(case)
    misses = []
    for own in groups.values():
        middle = sorted(own, key=lambda case: case.ratio)[len(own) // 2]
        misses.append(
            Miss(
                rows=len(own),
                median_ratio=median([case.ratio for case in own]),
                covered=mean([float(case.covered) for case in own]),
                case=middle,
            )
        )
    misses.sort(key=lambda miss: -abs(math.log(miss.median_ratio)))
    return tuple(misses[:count])
