"""Learns the parts of the time model's coefficients from observations, with numpy.

Every part of a coefficient's logarithm is Gaussian around what is known beforehand; the spreads of
the groups are learnt with them (empirical Bayes by expectation and maximization), the times'
logarithms scatter with heavy tails. So a device with a hundred rows and one with two are each one
device, a group with few devices stays near the wider one, and one wild device moves nothing. This
is the only module of the package that needs numpy; no projection imports it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from .observations import Observation
from .priors import DEVICE_FREEDOM, ROW_FREEDOM, Prior
from .time_model import Part, Term, terms_of

Array = NDArray[np.float64]

PRIOR_WORTH = 4.0
"""A group's spread is that of its members and of so many imagined ones with the prior spread."""

ROUNDS, SPREAD_ROUNDS_FROM, LONGEST_STEP, CONVERGED = 40, 6, 0.7, 1e-3
FIRST_NOISE = 0.12


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What a fit found: each part's logarithm and standard deviation, and the groups' spreads.

    Parts of a device are named `device|path|part`. `noise` is the scatter of rows around it all.
    """

    parts: Mapping[str, tuple[float, float]]
    spreads: Mapping[str, float]
    noise: float


@dataclass(frozen=True, slots=True)
class _Block:
    """One device's rows as arrays.

    `seconds` are those of each term at coefficients of one, 0 where a row lacks it; `uses` says
    which parts each row's term has, first those of all devices, then the device's own `names`.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    seconds: Array
    uses: Array
    log_seconds: Array


@dataclass(slots=True)
class _State:
    """Where a fit stands: the parts of all devices, and those of each device."""

    shared: Array
    own: list[Array]


def learn(
    observations: Sequence[Observation],
    priors: Mapping[str, Prior],
    *,
    start: Learnt | None = None,
) -> Learnt:
    """Fits all parts to some observations.

    With `start`, its spreads and noise are kept and its parts are the first guess: for leaving
    devices out, where they hardly change.
    """
    shared, blocks = _blocks(observations)
    spreads = {group: prior.spread for group, prior in priors.items()}
    noise = FIRST_NOISE
    if start is not None:
        spreads |= start.spreads
        noise = start.noise
    state = _first(shared, blocks, priors, start)
    fitted = _Round(shared, blocks, priors)
    for number in range(ROUNDS):
        longest = fitted.step(state, spreads, noise)
        if start is not None:
            if longest < CONVERGED:
                break
        elif number >= SPREAD_ROUNDS_FROM:
            spreads = fitted.spreads(state)
            noise = fitted.noise()
    parts = dict(fitted.parts(state))
    return Learnt(parts=MappingProxyType(parts), spreads=MappingProxyType(spreads), noise=noise)


def part_name(part: Part, observation: Observation) -> str:
    """A part's name over all devices."""
    if not part.device:
        return part.name
    return f"{observation.supply.device}|{observation.supply.route.path}|{part.name}"


class _Round:
    """One Gauss-Newton step after the other, the devices' own parts eliminated.

    Given the shared parts the devices are independent, so each is solved by itself and leaves its
    Schur complement to the shared ones: the cost is linear in the number of devices.
    """

    def __init__(
        self, shared: Mapping[str, str], blocks: Sequence[_Block], priors: Mapping[str, Prior]
    ) -> None:
        self._names = tuple(shared)
        self._groups = tuple(shared.values())
        self._blocks = blocks
        self._priors = priors
        self._means = np.array([priors[group].mean for group in self._groups])
        self._shared_cov: Array = np.zeros((0, 0))
        self._own_cov: list[Array] = []
        self._across: list[Array] = []
        self._pulls: list[Array] = []
        self._scatter: list[tuple[Array, Array]] = []

    def step(self, state: _State, spreads: Mapping[str, float], noise: float) -> float:
        """Moves all parts by one step; the size of the largest move."""
        count = len(self._names)
        base = np.array([spreads[group] for group in self._groups])
        precision = np.diag(base**-2.0)
        wanted = (self._means - state.shared) / base**2
        kept = []
        self._pulls, self._scatter = [], []
        for block, own in zip(self._blocks, state.own, strict=True):
            slopes, residuals = _linearized(block, np.concatenate([state.shared, own]))
            weights = (ROW_FREEDOM + 1) / (ROW_FREEDOM + (residuals / noise) ** 2)
            scales = np.array([spreads[group] for group in block.groups])
            pull = (DEVICE_FREEDOM + 1) / (DEVICE_FREEDOM + (own / scales) ** 2)
            weighted = slopes * (weights / noise**2)[:, None]
            told = weighted.T @ slopes
            right = weighted.T @ residuals
            alone = np.linalg.inv(told[count:, count:] + np.diag(pull / scales**2))
            own_right = right[count:] - pull * own / scales**2
            across = told[:count, count:] @ alone
            precision = precision + told[:count, :count] - across @ told[count:, :count]
            wanted = wanted + right[:count] - across @ own_right
            kept.append((alone, across, own_right))
            self._pulls.append(pull)
            self._scatter.append((weights, np.concatenate([residuals[:, None], slopes], axis=1)))
        self._shared_cov = np.asarray(np.linalg.inv(precision), dtype=np.float64)
        move = self._shared_cov @ wanted
        moves = [alone @ right - across.T @ move for alone, across, right in kept]
        self._own_cov = [alone + across.T @ self._shared_cov @ across for alone, across, _ in kept]
        self._across = [across for _, across, _ in kept]
        longest = max(float(np.max(np.abs(part), initial=0.0)) for part in (move, *moves))
        factor = min(1.0, LONGEST_STEP / longest) if longest else 1.0
        state.shared = state.shared + factor * move
        state.own = [own + factor * one for own, one in zip(state.own, moves, strict=True)]
        return longest

    def spreads(self, state: _State) -> dict[str, float]:
        """The spreads of the groups that their members ask for."""
        sums = {
            group: [PRIOR_WORTH * prior.spread**2, PRIOR_WORTH]
            for group, prior in self._priors.items()
        }
        offsets = state.shared - self._means
        ones = np.ones_like(offsets)
        members = [(self._groups, offsets, np.diag(self._shared_cov), ones)]
        for block, own, covariance, pull in zip(
            self._blocks, state.own, self._own_cov, self._pulls, strict=True
        ):
            members.append((block.groups, own, np.diag(covariance), pull))
        for groups, values, variances, pulls in members:
            for group, value, variance, pull in zip(groups, values, variances, pulls, strict=True):
                sums[group][0] += float(pull * (value**2 + variance))
                sums[group][1] += 1.0
        return {
            group: prior.spread if prior.fixed else math.sqrt(sums[group][0] / sums[group][1])
            for group, prior in self._priors.items()
        }

    def noise(self) -> float:
        """The scatter of rows around the fit, heavy tails weighed down."""
        total, rows = 0.0, 0
        for own, across, (weights, left) in zip(
            self._own_cov, self._across, self._scatter, strict=True
        ):
            both = -self._shared_cov @ across
            joint = np.block([[self._shared_cov, both], [both.T, own]])
            slopes = left[:, 1:]
            explained = np.einsum("ij,jk,ik->i", slopes, joint, slopes)
            total += float(np.sum(weights * (left[:, 0] ** 2 + explained)))
            rows += len(left)
        return math.sqrt(total / rows)

    def parts(self, state: _State) -> Iterator[tuple[str, tuple[float, float]]]:
        """Every part's logarithm and standard deviation, by name."""
        everything = [(self._names, state.shared, self._shared_cov)]
        for block, own, covariance in zip(self._blocks, state.own, self._own_cov, strict=True):
            everything.append((block.names, own, covariance))
        for names, logs, covariance in everything:
            deviations = np.sqrt(np.diag(covariance))
            for name, log, deviation in zip(names, logs, deviations, strict=True):
                yield name, (float(log), float(deviation))


def _linearized(block: _Block, logs: Array) -> tuple[Array, Array]:
    """The slopes of the log times with the parts, and what is left of the observed ones."""
    costs = block.seconds * np.exp(block.uses @ logs)
    totals = costs.sum(axis=1)
    slopes = np.einsum("rt,rtp->rp", costs / totals[:, None], block.uses)
    return slopes, block.log_seconds - np.log(totals)


def _first(
    shared: Mapping[str, str],
    blocks: Sequence[_Block],
    priors: Mapping[str, Prior],
    start: Learnt | None,
) -> _State:
    known = start.parts if start is not None else {}

    def guess(names: Iterable[str], groups: Iterable[str]) -> Array:
        pairs = zip(names, groups, strict=True)
        return np.array([known.get(n, (priors[g].mean, 0.0))[0] for n, g in pairs], dtype=float)

    return _State(guess(shared.keys(), shared.values()), [guess(b.names, b.groups) for b in blocks])


def _blocks(observations: Sequence[Observation]) -> tuple[dict[str, str], list[_Block]]:
    """The groups of the shared parts by name, and the rows of each device."""
    shared: dict[str, str] = {}
    terms: dict[str, int] = {}
    devices: dict[str, list[tuple[Observation, tuple[Term, ...]]]] = {}
    for one in observations:
        found = terms_of(one.demand, one.supply)
        devices.setdefault(one.supply.device, []).append((one, found))
        for term in found:
            terms.setdefault(term.name, len(terms))
            shared.update((part.name, part.group) for part in term.parts if not part.device)
    index = {name: k for k, name in enumerate(shared)}
    return shared, [_block(rows, index, terms) for rows in devices.values()]


def _block(
    rows: Sequence[tuple[Observation, tuple[Term, ...]]],
    shared: Mapping[str, int],
    terms: Mapping[str, int],
) -> _Block:
    own = {
        part_name(part, one): part.group
        for one, found in rows
        for term in found
        for part in term.parts
        if part.device
    }
    index = {**shared, **{name: len(shared) + k for k, name in enumerate(own)}}
    seconds = np.zeros((len(rows), len(terms)))
    uses = np.zeros((len(rows), len(terms), len(index)))
    for i, (one, found) in enumerate(rows):
        for term in found:
            seconds[i, terms[term.name]] = term.seconds
            for part in term.parts:
                uses[i, terms[term.name], index[part_name(part, one)]] = 1.0
    return _Block(
        tuple(own),
        tuple(own.values()),
        seconds,
        uses,
        np.array([one.log_seconds for one, _ in rows]),
    )
