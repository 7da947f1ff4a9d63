"""What a few measured cells say about models that were not run: the cost model of one machine.

Time of one decode step = layers * (fixed time per layer)
                        + sum over tensor types of (bytes of that type / rate of that type)
                        + attention products / their rate

Bytes are counted per tensor type, not per level, because a level is a mix: Q4_K_M is mostly Q4_K
with some Q6_K, and on rows that are no multiple of 256 it is Q5_0. The coefficients are found by
least squares on relative errors, none allowed below zero, with a weak prior that tensor types run
at like rates: types that always come together could not be told apart otherwise. Every prediction
carries the interval that the residuals of the fit and the leverage of the new point give it. Pure
functions of numbers: no clock, no file, the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import UsageError
from .statistics import Interval, median, t95

LAYER = "layer"
ATTENTION = "attention"

EXPECTED_ERROR = 0.12
EXPECTED_ERROR_FREEDOM = 6
"""What is expected of the fit before it is made, as a relative standard error worth so many degrees
of freedom: ten cells alone say too little of their own scatter. It is about the scatter of direct
measurements around projections that `benchmarks/catalogue.py` found."""


PRIOR_SPREAD = 0.5
"""The prior's standard deviation: a type's cost per byte lies within half of the mean cost. Kernels
of one machine differ by less than a factor of two or so; the cells correct what they can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one decode step, or the prefill of one token, has to do.

    `bytes_by_type` maps a tensor type's name to the bytes of weights read per step (for prefill: to
    the number of weights multiplied per token); `attention` counts the products of queries with
    keys and of weights with values over all heads and layers.
    """

    layers: int
    bytes_by_type: Mapping[str, float]
    attention: float = 0.0

    def terms(self) -> dict[str, float]:
        """The regressors of this work by name."""
        terms = {LAYER: float(self.layers), **self.bytes_by_type}
        if self.attention:
            terms[ATTENTION] = self.attention
        return terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measured point: the work and the seconds it took, with its own interval."""

    label: str
    work: Work
    seconds: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFit:
    """The fitted coefficients of one machine, seconds per unit of each term.

    `relative_error` is the residual standard error of the fit, relative to the measured times;
    `degrees_of_freedom` the cells beyond the coefficients. `covariance` is that of the
    coefficients, in the order of `terms`.
    """

    terms: tuple[str, ...]
    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    relative_error: float
    degrees_of_freedom: int
    cells: int

    def rate(self, term: str) -> float | None:
        """Units per second of a term, such as bytes/s of a tensor type; None when it is free."""
        for name, coefficient in zip(self.terms, self.coefficients, strict=True):
            if name == term:
                return 1 / coefficient if coefficient > 0 else None
        return None

    @property
    def pooled_error(self) -> float:
        """The residual error pooled with the expected one, by degrees of freedom."""
        freedom = self.degrees_of_freedom
        return math.sqrt(
            (freedom * self.relative_error**2 + EXPECTED_ERROR_FREEDOM * EXPECTED_ERROR**2)
            / (freedom + EXPECTED_ERROR_FREEDOM)
        )

    def predict(self, work: Work) -> Interval | None:
        """Seconds for some work with its 95 % prediction interval.

        None when the work uses a tensor type that no cell has measured: nothing is guessed.
        """
        terms = work.terms()
        if any(name not in self.terms and amount > 0 for name, amount in terms.items()):
            return None
        x = [terms.get(name, 0.0) for name in self.terms]
        seconds = math.fsum(a * b for a, b in zip(x, self.coefficients, strict=True))
        if seconds <= 0:
            return None
        variance = math.fsum(
            x[i] * x[j] * self.covariance[i][j] for i in range(len(x)) for j in range(len(x))
        )
        relative = math.sqrt(max(variance, 0.0) / seconds**2 + self.pooled_error**2)
        half = t95(self.degrees_of_freedom + EXPECTED_ERROR_FREEDOM) * relative
        # Multiplicative bounds: a time cannot be negative, and a rate's interval is its mirror.
        return Interval(low=seconds * math.exp(-half), value=seconds, high=seconds * math.exp(half))


def fit_costs(cells: Sequence[Cell]) -> CostFit:
    """Fits the cost model to measured cells by non-negative least squares on relative errors.

    Raises UsageError when the cells do not determine the coefficients.
    """
    names = sorted({name for cell in cells for name, amount in cell.work.terms().items() if amount})
    if len(cells) < len(names):
        raise UsageError(
            f"{len(cells)} cells cannot determine {len(names)} costs.",
            way_out="Measure more cells: a larger --budget.",
        )
    rows, wanted = _equations(cells, names)
    # Columns are scaled to unit length: bytes and layers differ by nine orders of magnitude.
    scales = [math.sqrt(math.fsum(row[j] ** 2 for row in rows)) for j in range(len(names))]
    rows = [[value / scales[j] for j, value in enumerate(row)] for row in rows]
    active, solution, inverse = _solve(rows, wanted)
    scaled = dict(zip(active, solution, strict=True))
    residuals = [
        math.fsum(r[j] * scaled[j] for j in active) - y
        for r, y in zip(rows[: len(cells)], wanted, strict=False)
    ]
    freedom = len(cells) - len(active)
    error = math.sqrt(math.fsum(e * e for e in residuals) / freedom) if freedom else 0.0
    spread = max(error, EXPECTED_ERROR) ** 2
    place = {j: k for k, j in enumerate(active)}
    covariance = tuple(
        tuple(
            spread * inverse[place[i]][place[j]] / (scales[i] * scales[j])
            if i in place and j in place
            else 0.0
            for j in range(len(names))
        )
        for i in range(len(names))
    )
    return CostFit(
        terms=tuple(names),
        coefficients=tuple(scaled.get(j, 0.0) / scales[j] for j in range(len(names))),
        covariance=covariance,
        relative_error=error,
        degrees_of_freedom=freedom,
        cells=len(cells),
    )


def _equations(
    cells: Sequence[Cell], names: Sequence[str]
) -> tuple[list[list[float]], list[float]]:
    """A row per cell, divided by its time so that residuals are relative, then the prior's rows.

    A cell weighs less the wider its own interval is: one that was run once says less.
    """
    rows, wanted = [], []
    for cell in cells:
        own = min(cell.seconds.relative_half_width / 2, 2 * EXPECTED_ERROR)
        weight = EXPECTED_ERROR / math.hypot(EXPECTED_ERROR, own)
        terms = cell.work.terms()
        rows.append([weight * terms.get(name, 0.0) / cell.seconds.value for name in names])
        wanted.append(weight)
    typical = median([cell.seconds.value / sum(cell.work.bytes_by_type.values()) for cell in cells])
    weight = EXPECTED_ERROR / PRIOR_SPREAD
    for j, name in enumerate(names):
        if name not in {LAYER, ATTENTION}:
            rows.append([weight / typical if k == j else 0.0 for k in range(len(names))])
            wanted.append(weight)
    return rows, wanted


def _solve(
    rows: list[list[float]], wanted: list[float]
) -> tuple[list[int], list[float], list[list[float]]]:
    """The columns that cost something, their coefficients, and the inverse of their Gram matrix.

    Lawson and Hanson's active set, one coefficient at a time: a cost below zero is none.
    """
    active = list(range(len(rows[0])))
    while True:
        gram = [[math.fsum(r[i] * r[j] for r in rows) for j in active] for i in active]
        inverse = _inverse(gram)
        if inverse is None:
            raise UsageError(
                "The measured cells are too much alike to tell their costs apart.",
                way_out="Measure models of different depth and width.",
            )
        target = [math.fsum(r[i] * y for r, y in zip(rows, wanted, strict=True)) for i in active]
        solution = [math.fsum(a * b for a, b in zip(row, target, strict=True)) for row in inverse]
        worst = min(range(len(active)), key=solution.__getitem__)
        if solution[worst] >= 0:
            return active, solution, inverse
        del active[worst]


def extend_depth(
    shallow: tuple[int, Interval], deep: tuple[int, Interval], layers: int
) -> Interval:
    """Seconds per step of a model of `layers` layers from two truncations (layers, seconds).

    Time per layer is linear, and what does not depend on depth (embedding, output) cancels:
    t(L) = t2 + (L - L2) * (t2 - t1) / (L2 - L1). Bounds follow by first-order propagation of
    independent errors. Raises UsageError when the two depths are equal.
    """
    (l1, t1), (l2, t2) = shallow, deep
    if l1 == l2:
        raise UsageError("Two different depths are needed to extend to the full depth.")
    gain = (layers - l2) / (l2 - l1)
    value = t2.value + gain * (t2.value - t1.value)
    half = math.hypot((1 + gain) * (t2.high - t2.low) / 2, gain * (t1.high - t1.low) / 2)
    return Interval(low=max(value - half, 0.0), value=value, high=value + half)


def _inverse(matrix: list[list[float]]) -> list[list[float]] | None:
    """The inverse by Gauss-Jordan elimination with partial pivoting; None when singular."""
    n = len(matrix)
    rows = [[*row, *(1.0 if i == j else 0.0 for j in range(n))] for i, row in enumerate(matrix)]
    for column in range(n):
        pivot = max(range(column, n), key=lambda r: abs(rows[r][column]))
        if abs(rows[pivot][column]) < 1e-12:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        divisor = rows[column][column]
        rows[column] = [value / divisor for value in rows[column]]
        for other in range(n):
            if other != column and (factor := rows[other][column]):
                rows[other] = [
                    a - factor * b for a, b in zip(rows[other], rows[column], strict=True)
                ]
    return [row[n:] for row in rows]
