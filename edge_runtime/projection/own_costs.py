"""What a device's own measurements say of a model without any formula of other devices.

The very file that ran is answered by its own rate. Another one is answered by the costs fitted to
the device's rows, the same fit that a check of the host rests on, where the rows determine it: more
of them than costs, over models of different depth, with every tensor type among them; `settled`
then weighs that with the learnt model conditioned on the same rows. Where they do not determine it,
nothing is said here, and the conditioned model stands alone. Pure functions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from ..errors import UsageError
from ..feasibility import Phase, attention_products, planned_work
from ..fit import EXPECTED_ERROR, EXPECTED_ERROR_FREEDOM, Cell, CostFit, Work, fit_costs
from ..memory_needs import PlannedModel
from ..statistics import Interval, t95
from .calibration import Calibration, OwnRow, usual_threads
from .supply import lineage

SPARE_CELLS = 2
"""The fit has at least so many more cells than costs: below, its own scatter says nothing."""

SAME_DEPTH_TOKENS = 512
"""Contexts that differ by no more are the same where nothing else says what depth costs."""

REPEAT_ERROR = EXPECTED_ERROR / 2
"""By how much a device's rate differs from one day to another, as a relative standard error: half
of the scatter of direct measurements around the fit, of which this is one part."""

DISTURBED_SLOWDOWN = 1.5
"""By how much a device may be faster than in rows that others disturbed, none so much that it does
not count: the share that may be taken, twice over for threads that wait for each other."""

_T95_NORMAL = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRate:
    """Tokens/s with the interval at the confidence asked for; `words` end "The rate is ...".

    `direct` rates are those of the very file that ran.
    """

    tokens_per_s: Interval
    rows: int
    words: str
    direct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """One row's rate in a phase, and the work that had it."""

    row: OwnRow
    rate: Interval
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """The points of one way to compute and one phase, and their cost fit where there is one."""

    points: tuple[_Point, ...]
    costs: CostFit | None


def own_rate(
    own: Calibration,
    planned: PlannedModel,
    *,
    phase: Phase,
    backend: str,
    accelerator: str,
    api: str,
    threads: int | None,
    depth_tokens: int,
    confidence: float,
) -> OwnRate | None:
    """The rate of a planned file from the device's own rows alone; None where they do not suffice.

    `depth_tokens` is the context that decoding happens at, or half of the prompt that is evaluated.
    Only rows of that engine, accelerator and API count, and of so many threads; where these are not
    said, of those that most rows have.
    """
    found = _fit(own, phase, lineage(backend), accelerator, api, threads)
    if not found.points:
        return None
    work = planned_work(planned, phase, depth_tokens)
    same = _quiet([point for point in found.points if _is_same(point.work, work)])
    if same and (rate := _measured(same, found.costs, work, confidence)) is not None:
        return _said(rate, same, "measured on this device itself", direct=True)
    if found.costs is None or (seconds := found.costs.predict(work)) is None:
        return None
    narrowed = _at_confidence(seconds, confidence, found.costs.degrees_of_freedom)
    error = f"{found.costs.pooled_error:.0%}"
    words = f"from costs fitted to {len(found.points)} measurements of this device, error {error}"
    return _said(narrowed.inverse(), found.points, words, direct=False)


def settled(own: OwnRate | None, conditioned: Interval) -> Interval:
    """The rate of a file from the device's own rows and from the learnt model conditioned on them.

    What ran itself needs no model. Otherwise each counts by how narrow it is, on the logarithmic
    scale. Both rest on the same rows, so together they are as sure as the surer one and no more;
    and the further they lie apart, the less either is believed. `benchmarks/own_measurements.py`
    holds the result against each alone on published rows: on processors they are as good as each
    other, on NPUs conditioning is better, on GPUs sometimes one and sometimes the other.
    """
    if own is None:
        return conditioned
    if own.direct or not conditioned.low < conditioned.high:
        return own.tokens_per_s
    fitted = own.tokens_per_s
    apart = abs(math.log(fitted.value / conditioned.value)) / 2
    spreads = [math.hypot(math.log(one.high / one.low) / 2, apart) for one in (fitted, conditioned)]
    first, second = (1 / spread**2 for spread in spreads)
    log_rate = math.log(fitted.value) * first + math.log(conditioned.value) * second
    value, reach = math.exp(log_rate / (first + second)), min(spreads)
    return Interval(low=value * math.exp(-reach), value=value, high=value * math.exp(reach))


def covered_types(
    own: Calibration, *, backend: str, accelerator: str, api: str, phase: Phase = Phase.DECODE
) -> tuple[str, ...]:
    """The tensor types whose costs the device's own rows determine, none where there is no fit."""
    costs = _fit(own, phase, lineage(backend), accelerator, api, None).costs
    types = {t.type.name for row in own.rows for t in row.planned.tensors}
    return () if costs is None else tuple(name for name in costs.terms if name in types)


def _said(rate: Interval, points: Sequence[_Point], words: str, *, direct: bool) -> OwnRate:
    days = sorted({point.row.measured_on for point in points})
    dated = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    told = f"{words} ({dated})"
    if 2 * sum(point.row.disturbed for point in points) > len(points):
        rate = Interval(low=rate.low, value=rate.value, high=rate.high * DISTURBED_SLOWDOWN)
        told += "; other programs disturbed most of that, and the device may be much faster"
    return OwnRate(tokens_per_s=rate, rows=len(points), words=told, direct=direct)


@functools.lru_cache(maxsize=64)
def _fit(
    own: Calibration, phase: Phase, engine: str, accelerator: str, api: str, threads: int | None
) -> _Fit:
    points = [
        _Point(row=row, rate=rate, work=_work(row, phase))
        for row in own.rows
        if (lineage(row.backend), row.accelerator, row.api) == (engine, accelerator, api)
        and (rate := _rate(row, phase)) is not None
    ]
    usual = usual_threads(point.row for point in points)
    if usual is not None:
        points = [point for point in points if point.row.threads == (threads or usual)]
    quiet = _quiet(points)
    costs = _costs(quiet)
    if costs is None and len(quiet) < len(points):
        return _Fit(points=tuple(points), costs=_costs(points))
    return _Fit(points=tuple(quiet), costs=costs)


def _quiet(points: Sequence[_Point]) -> list[_Point]:
    """The points that nothing disturbed, else all of them."""
    return [point for point in points if not point.row.disturbed] or list(points)


def _costs(points: Sequence[_Point]) -> CostFit | None:
    terms = {name for one in points for name, amount in one.work.terms().items() if amount}
    # What a layer reads tells its fixed time from its bytes, if it differs.
    per_layer = {math.fsum(p.work.bytes_by_type.values()) / p.work.layers for p in points}
    models = {(p.row.planned.shape.name, p.row.planned.shape.layers) for p in points}
    if len(points) < len(terms) + SPARE_CELLS or len(models) < 2 or len(per_layer) < 2:
        return None
    try:
        return fit_costs(
            [
                Cell(
                    label=f"{point.row.planned.shape.name} {point.row.planned.level}",
                    work=point.work,
                    seconds=point.rate.inverse(),
                )
                for point in points
            ]
        )
    except UsageError:
        return None  # too much alike to tell their costs apart


def _work(row: OwnRow, phase: Phase) -> Work:
    depth = row.depth_tokens if phase is Phase.DECODE else row.prompt_tokens // 2
    return planned_work(row.planned, phase, depth)


def _rate(row: OwnRow, phase: Phase) -> Interval | None:
    return row.decode if phase is Phase.DECODE else row.prefill


def _is_same(one: Work, other: Work) -> bool:
    """Whether they are of the same file: as many layers, and of each tensor type as many bytes."""
    return one.layers == other.layers and one.bytes_by_type == other.bytes_by_type


def _measured(
    points: Sequence[_Point], costs: CostFit | None, work: Work, confidence: float
) -> Interval | None:
    """The rate of a file that ran, at another context as the fit says that depth costs.

    Each point counts by how sure it is, and so does the fit: a single disturbed run says less than
    costs found from all rows. None where the contexts lie apart and there is no fit.
    """
    here = costs.predict(work) if costs else None
    known: list[tuple[float, float]] = []
    for point in points:
        there = costs.predict(point.work) if costs else None
        if there is not None and here is not None:
            change = math.log(there.value / here.value)
        elif abs(_further_tokens(point, work)) <= SAME_DEPTH_TOKENS:
            change = 0.0
        else:
            continue
        own = math.log(point.rate.high / point.rate.low) / 2 / _T95_NORMAL
        known.append((math.log(point.rate.value) + change, math.hypot(own, REPEAT_ERROR)))
    if not known:
        return None
    if here is not None and costs is not None:
        freedom = costs.degrees_of_freedom + EXPECTED_ERROR_FREEDOM
        known.append((-math.log(here.value), math.log(here.high / here.value) / t95(freedom)))
    total = math.fsum(1 / spread**2 for _, spread in known)
    log_rate = math.fsum(log / spread**2 for log, spread in known) / total
    # Every row shares its day: however many there are, the next day is another one.
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * math.hypot(total**-0.5, REPEAT_ERROR)
    value = math.exp(log_rate)
    return Interval(low=value * math.exp(-reach), value=value, high=value * math.exp(reach))


def _further_tokens(point: _Point, work: Work) -> float:
    """How many tokens of context lie between a point and some work of the same file."""
    per_token = attention_products(point.row.planned.shape, 1)
    return (work.attention - point.work.attention) / per_token if per_token else 0.0


def _at_confidence(seconds: Interval, confidence: float, freedom: int) -> Interval:
    """A fit's 95 % interval as one at another confidence, by Student's t of its own freedom."""
    freedom += EXPECTED_ERROR_FREEDOM
    share = student_t(confidence, freedom) / t95(freedom)
    return Interval(
        low=seconds.value * (seconds.low / seconds.value) ** share,
        value=seconds.value,
        high=seconds.value * (seconds.high / seconds.value) ** share,
    )


def student_t(confidence: float, freedom: int) -> float:
    """The two-sided quantile of Student's t by the Cornish-Fisher expansion to three terms.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5: within 0.5 % from six degrees
    of freedom on, for confidences from 0.5 to 0.95.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    n = float(freedom)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )
