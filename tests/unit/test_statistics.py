"""Statistics against numbers worked out elsewhere."""

import math
import statistics as reference

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import statistics

samples = st.lists(st.floats(0.01, 1e6), min_size=2, max_size=60)


def test_t_quantiles_equal_published_tables() -> None:
    # NIST/SEMATECH e-Handbook table 1.3.6.7.2, two-sided 95 %.
    for freedom, quantile in {
        1: 12.706,
        2: 4.303,
        9: 2.262,
        30: 2.042,
        60: 2.000,
        100: 1.984,
    }.items():
        assert statistics.t95(freedom) == pytest.approx(quantile, abs=0.0015)
    assert statistics.t95(0) == math.inf


def test_confidence_interval_of_a_worked_example() -> None:
    # Mean 100, sd 1.5811, n 5: the ordinary half width is 2.776 * 1.5811 / 2.2361 = 1.963.
    interval = statistics.confidence_interval([98, 99, 100, 101, 102])
    assert interval is not None
    assert interval.value == 100
    assert interval.high - interval.value == pytest.approx(1.963, rel=0.02)
    assert interval.value - interval.low == pytest.approx(1.963, rel=0.02)


def test_a_wild_spread_never_reaches_zero() -> None:
    interval = statistics.confidence_interval([1.0, 80.0])
    assert interval is not None
    assert 0 < interval.low < 1


def test_one_sample_has_no_interval() -> None:
    assert statistics.confidence_interval([7.0]) is None


@given(samples)
def test_moments_equal_the_standard_library(values: list[float]) -> None:
    assert statistics.mean(values) == pytest.approx(reference.fmean(values))
    assert statistics.stddev(values) == pytest.approx(reference.stdev(values), abs=1e-6)
    assert statistics.median(values) == pytest.approx(reference.median(values))


@given(samples, st.floats(0, 100))
def test_percentiles_stay_inside_and_rise(values: list[float], percent: float) -> None:
    at = statistics.percentile(values, percent)
    assert min(values) <= at <= max(values) or at == pytest.approx(max(values))
    assert statistics.percentile(values, 0) == min(values)
    assert statistics.percentile(values, 100) == max(values)


@given(samples)
def test_intervals_hold_their_value_and_stay_positive(values: list[float]) -> None:
    interval = statistics.confidence_interval(values)
    assert interval is not None
    assert 0 < interval.low <= interval.value <= interval.high
    wide = statistics.confidence_interval(values, widen=2)
    assert wide is not None
    assert wide.low <= interval.low
    assert wide.high >= interval.high
