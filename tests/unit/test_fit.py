"""The cost model finds the costs that made its cells, and says when it cannot know."""

import random

import pytest

from edge_runtime.errors import UsageError
from edge_runtime.fit import Cell, Work, extend_depth, fit_costs
from edge_runtime.statistics import Interval

COSTS = {"layer": 20e-6, "Q8_0": 1 / 20e9, "Q4_K": 1 / 12e9, "Q6_K": 1 / 9e9, "attention": 1 / 2e9}


def exactly(seconds: float, error: float = 0.0) -> Interval:
    return Interval(low=seconds * (1 - error), value=seconds, high=seconds * (1 + error))


def works() -> list[Work]:
    return [
        Work(layers=layers, bytes_by_type=mix, attention=seen)
        for layers, size, seen, head in (
            (30, 1.3e8, 0, 0.4),
            (24, 5e8, 4e6, 0.25),
            (4, 9e8, 0, 0.15),
            (16, 1.2e9, 6e7, 0.3),
        )
        for mix in ({"Q8_0": size}, {"Q4_K": size * (0.6 - head), "Q6_K": size * head})
    ]


def seconds_of(work: Work) -> float:
    return sum(COSTS[name] * amount for name, amount in work.terms().items())


def test_exact_cells_give_back_the_costs() -> None:
    fit = fit_costs([Cell(label="", work=w, seconds=exactly(seconds_of(w))) for w in works()])
    for name, coefficient in zip(fit.terms, fit.coefficients, strict=True):
        # The prior pulls towards the mean cost; what costs least feels it most.
        tolerance = 0.4 if name == "layer" else 0.1
        assert coefficient == pytest.approx(COSTS[name], rel=tolerance)
    for work in works():
        predicted = fit.predict(work)
        assert predicted is not None
        assert predicted.value == pytest.approx(seconds_of(work), rel=0.04)
    new = Work(layers=32, bytes_by_type={"Q4_K": 3e9, "Q6_K": 7e8}, attention=1e8)
    predicted = fit.predict(new)
    assert predicted is not None
    assert predicted.value == pytest.approx(seconds_of(new), rel=0.04)
    assert predicted.low < predicted.value < predicted.high


def test_types_that_always_come_together_still_predict_their_mix() -> None:
    mixes = [
        Work(layers=layers, bytes_by_type={"Q4_K": size * 0.8, "Q6_K": size * 0.2})
        for layers, size in ((10, 1e8), (24, 5e8), (4, 9e8), (30, 2e9))
    ]
    fit = fit_costs([Cell(label="", work=w, seconds=exactly(seconds_of(w))) for w in mixes])
    new = Work(layers=16, bytes_by_type={"Q4_K": 8e8, "Q6_K": 2e8})
    predicted = fit.predict(new)
    assert predicted is not None
    assert predicted.value == pytest.approx(seconds_of(new), rel=0.02)
    assert predicted.relative_half_width < 0.4


def test_intervals_cover_unseen_work_as_often_as_they_claim() -> None:
    rng = random.Random(7)
    new = Work(layers=28, bytes_by_type={"Q4_K": 1.5e9, "Q6_K": 4e8}, attention=1e7)
    covered = 0
    for _ in range(200):
        cells = [
            Cell(label="", work=w, seconds=exactly(seconds_of(w) * rng.gauss(1, 0.05)))
            for w in works()
        ]
        predicted = fit_costs(cells).predict(new)
        assert predicted is not None
        covered += predicted.low <= seconds_of(new) * rng.gauss(1, 0.05) <= predicted.high
    assert covered >= 180


def test_no_cost_is_negative() -> None:
    # Deeper cells that are *faster* would want a negative cost per layer.
    cells = [
        Cell(
            label="", work=Work(layers=layers, bytes_by_type={"Q8_0": size}), seconds=exactly(time)
        )
        for layers, size, time in ((2, 1e8, 0.010), (30, 1e8, 0.008), (40, 2e8, 0.018))
    ]
    fit = fit_costs(cells)
    assert min(fit.coefficients) >= 0


def test_an_unmeasured_type_is_not_guessed() -> None:
    fit = fit_costs([Cell(label="", work=w, seconds=exactly(seconds_of(w))) for w in works()])
    assert fit.predict(Work(layers=10, bytes_by_type={"Q4_0": 1e9})) is None
    assert fit.rate("Q4_0") is None


def test_too_few_or_equal_cells_are_refused() -> None:
    one = works()[1]
    with pytest.raises(UsageError, match="cannot determine"):
        fit_costs([Cell(label="", work=one, seconds=exactly(0.1))])
    proportional = [
        Work(layers=n, bytes_by_type={"Q8_0": size}, attention=n * 1e6)
        for n, size in ((2, 1e8), (4, 3e8), (8, 2e8))
    ]
    with pytest.raises(UsageError, match="too much alike"):
        fit_costs([Cell(label="", work=w, seconds=exactly(0.1)) for w in proportional])


def test_depth_is_extended_along_the_line() -> None:
    def t(layers: int) -> Interval:
        return exactly(0.004 + layers * 0.0011, error=0.01)

    full = extend_depth((1, t(1)), (6, t(6)), 32)
    assert full.value == pytest.approx(0.004 + 32 * 0.0011)
    assert full.low < full.value < full.high
    with pytest.raises(UsageError):
        extend_depth((3, t(3)), (3, t(3)), 32)
