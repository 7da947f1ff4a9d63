"""Prediction of a time with its deviation, and conditioning on a device's own measurements.

The parts of the coefficients are independent Gaussians around what was learnt; own measurements
condition them by Bayes' rule, linearized where the model bends. With none, a prediction is that of
a device like others; with a few it moves to what the device does, by as much as they say. One piece
of mathematics for both, in the standard library: the systems solved are as large as there are own
measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .coefficients import CostModel, Support
from .features import Demand
from .priors import DEVICE_FREEDOM
from .supply import Supply
from .time_model import (
    ATTENTION,
    CACHE,
    COMPUTE,
    MEMORY,
    ROOF,
    Part,
    Term,
    estimate,
    loads,
    terms_of,
)

BANDWIDTH = Part(name="bandwidth", group="supply.bandwidth", device=True)
OPERATIONS = Part(name="operations", group="supply.operations", device=True)
"""How far the true figures of a supply lie from those that are known, as parts of every term they
stand in."""

LEAST_BANDWIDTH_SPREAD = 0.05
"""Own measurements may correct even an exact bandwidth by so much: data sheets are rounded."""

OWN_SPREADS = {"device.family": 0.25, "device.architecture": 0.5}
"""How far a device that is measured may lie from others at least: its own rows can say more than
published ones do of the few devices that have many. Leaving devices out, calibrated errors are
lower so on every kind of accelerator."""

ROUNDS, CONVERGED = 12, 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """The mean and the variance of one part's logarithm."""

    mean: float
    variance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTime:
    """A measured time of the device itself: the terms it sums, its logarithm, its own scatter."""

    terms: tuple[Term, ...]
    log_seconds: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Posterior:
    """What own measurements say of the parts, as far as predictions need it.

    `means` are the parts' new means, `variances` those that they had before; `slopes` how each
    measurement's time changes with the parts, each times the part's variance; `lower` is the
    Cholesky factor of the measurements' covariance.
    """

    means: Mapping[Part, float]
    variances: Mapping[Part, float]
    slopes: tuple[Mapping[Part, float], ...]
    lower: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A time's logarithm with its standard deviation, and each term's share of the time."""

    log_seconds: float
    deviation: float
    shares: Mapping[str, float]


class Beliefs:
    """What is believed of the parts on a supply before its device measures anything.

    Where it has been `measured`, what others published of such a device only says where to look: it
    may have been another machine, so the parts may lie from there as far as devices do.
    """

    __slots__ = ("_device", "_measured", "_model", "_supply", "device_known")

    def __init__(self, model: CostModel, supply: Supply, *, measured: bool = False) -> None:
        self._model = model
        self._supply = supply
        self._measured = measured
        name = f"{supply.device}|{supply.route.path}"
        self._device = model.devices.get(name, {})
        self.device_known = bool(self._device)

    def of(self, part: Part) -> Belief:
        """The belief of one part: as learnt, else as far as its group scatters."""
        if part is BANDWIDTH:
            return Belief(mean=0.0, variance=self._supply.bandwidth_spread**2)
        if part is OPERATIONS:
            return Belief(mean=0.0, variance=self._supply.compute_spread**2)
        known = self._device.get(part.name) if part.device else self._model.parts.get(part.name)
        spread = self._model.spreads.get(part.group, 0.0)
        if part.device and self._measured:
            spread = max(spread, OWN_SPREADS.get(part.group, 0.0))
            return Belief(mean=known.log if known else 0.0, variance=spread**2)
        if known is not None:
            return Belief(mean=known.log, variance=known.deviation**2)
        return Belief(mean=0.0, variance=spread**2)


def supplied_terms(demand: Demand, supply: Supply) -> tuple[Term, ...]:
    """The terms of a demand on a supply, with the uncertainty of the supply's own figures."""
    return tuple(_uncertain(term) for term in terms_of(demand, supply))


def _uncertain(term: Term) -> Term:
    if term.name in (ROOF, MEMORY, CACHE):
        return Term(name=term.name, seconds=term.seconds, parts=(*term.parts, BANDWIDTH))
    if term.name == ATTENTION or term.name.startswith(COMPUTE):
        return Term(name=term.name, seconds=term.seconds, parts=(*term.parts, OPERATIONS))
    return term


def predict(
    terms: tuple[Term, ...], beliefs: Beliefs, noise: float, own: Posterior | None = None
) -> Prediction:
    """The time of some terms; `noise` is how far a single row scatters around its device."""
    parts = {part for term in terms for part in term.parts}
    believed = {part: beliefs.of(part) for part in parts}
    means = {part: belief.mean for part, belief in believed.items()}
    if own is not None:
        means |= {part: mean for part, mean in own.means.items() if part in parts}
    found = estimate(terms, means)
    slope = loads(terms, found.shares)
    variances = {part: belief.variance for part, belief in believed.items()}
    if own is not None:
        variances |= {part: one for part, one in own.variances.items() if part in parts}
    variance = math.fsum(load**2 * variances[part] for part, load in slope.items())
    if own is not None:
        across = [
            math.fsum(load * weighted.get(part, 0.0) for part, load in slope.items())
            for weighted in own.slopes
        ]
        solved = _forward(own.lower, across)
        variance = max(variance - math.fsum(value * value for value in solved), 0.0)
    shares: dict[str, float] = {}
    for term, share in zip(terms, found.shares, strict=True):
        name = term.name.partition(":")[0]
        shares[name] = shares.get(name, 0.0) + share
    return Prediction(
        log_seconds=found.log_seconds,
        deviation=math.hypot(math.sqrt(variance), noise),
        shares=shares,
    )


def condition(own: Sequence[OwnTime], beliefs: Beliefs) -> Posterior:
    """What measured times of the device say of its parts; at least one time.

    Devices scatter as Student's t, as when the coefficients were learnt: one that is far from all
    others is believed. Its rows are not doubted as published ones are: doubt takes the slow rows of
    a slow machine for mistakes.
    """
    parts = {part for time in own for term in time.terms for part in term.parts}
    prior = {part: beliefs.of(part) for part in parts}
    usual = {part: belief.variance for part, belief in prior.items()}
    if BANDWIDTH in usual:
        usual[BANDWIDTH] = max(usual[BANDWIDTH], LEAST_BANDWIDTH_SPREAD**2)
    means = {part: belief.mean for part, belief in prior.items()}
    variances = usual
    slopes: list[dict[Part, float]] = []
    lower: list[list[float]] = []
    for number in range(ROUNDS):
        before = means
        slopes, misses = [], []
        for time in own:
            found = estimate(time.terms, means)
            slope = loads(time.terms, found.shares)
            moved = math.fsum(load * (means[p] - prior[p].mean) for p, load in slope.items())
            slopes.append(slope)
            misses.append(time.log_seconds - found.log_seconds + moved)
        if number:
            variances = {
                part: _tailed(usual[part], means[part] - belief.mean, DEVICE_FREEDOM)
                if part.device and part not in (BANDWIDTH, OPERATIONS)
                else usual[part]
                for part, belief in prior.items()
            }
        covariance = [
            [
                math.fsum(load * two.get(part, 0.0) * variances[part] for part, load in one.items())
                + (own[i].deviation ** 2 if i == j else 0.0)
                for j, two in enumerate(slopes)
            ]
            for i, one in enumerate(slopes)
        ]
        lower = _cholesky(covariance)
        weights = _backward(lower, _forward(lower, misses))
        means = {
            part: belief.mean
            + variances[part]
            * math.fsum(w * s.get(part, 0.0) for w, s in zip(weights, slopes, strict=True))
            for part, belief in prior.items()
        }
        longest = max(abs(mean - before[part]) for part, mean in means.items())
        if number and longest < CONVERGED:
            break
    return Posterior(
        means,
        variances,
        tuple({p: load * variances[p] for p, load in slope.items()} for slope in slopes),
        tuple(map(tuple, lower)),
    )


def _tailed(variance: float, off: float, freedom: float) -> float:
    """The variance of the Gaussian that pulls as Student's t does on what lies so far off."""
    return (freedom * variance + off * off) / (freedom + 1)


def nearest_support(model: CostModel, supply: Supply, demand: Demand) -> Support:
    """The rows and devices behind the family that works most, on this route; none at all is 0."""
    main = max(demand.weights, key=demand.weights.__getitem__, default="")
    none = Support(rows=0, devices=0)
    return model.support.get(f"{supply.route.path}:{main}", none)


def _cholesky(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """The lower factor of a symmetric matrix whose diagonal has some scatter in it."""
    size = len(matrix)
    lower = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i][j] - math.fsum(lower[i][k] * lower[j][k] for k in range(j))
            lower[i][j] = math.sqrt(rest) if i == j else rest / lower[j][j]
    return lower


def _forward(lower: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    found: list[float] = []
    for i, row in enumerate(lower):
        found.append((right[i] - math.fsum(row[k] * found[k] for k in range(i))) / row[i])
    return found


def _backward(lower: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    size = len(lower)
    found = [0.0] * size
    for i in reversed(range(size)):
        rest = math.fsum(lower[k][i] * found[k] for k in range(i + 1, size))
        found[i] = (right[i] - rest) / lower[i][i]
    return found
