"""The sampler: on schedule, honest about lateness and cost, never in the way of an error."""

from __future__ import annotations

import time
from itertools import pairwise

from edge_runtime.profiler.ticker import Ticker


def test_samples_come_at_the_asked_rate_without_drift() -> None:
    with Ticker(lambda: b"x", period_s=0.02) as ticker:
        time.sleep(0.5)
    stamps = [sample.taken_ns for sample in ticker.samples]
    assert stamps == sorted(stamps)
    # A busy machine may drop ticks; it never adds any.
    assert 8 <= len(stamps) <= 25
    assert ticker.failure is None


def test_the_places_are_jittered() -> None:
    with Ticker(lambda: b"", period_s=0.01, seed=3) as ticker:
        time.sleep(0.3)
    stamps = [sample.taken_ns for sample in ticker.samples]
    gaps = {round((b - a) / 1e5) for a, b in pairwise(stamps)}
    assert len(gaps) > 5


def test_lateness_is_that_of_a_slow_reading() -> None:
    with Ticker(lambda: (time.sleep(0.03), b"")[1], period_s=0.01) as ticker:
        time.sleep(0.4)
    # Each reading outlasts the period: missed ticks are dropped, not caught up on.
    assert len(ticker.samples) <= 14


def test_the_cost_is_confessed() -> None:
    with Ticker(lambda: b"", period_s=0.01) as idle:
        time.sleep(0.3)

    def burn() -> bytes:
        end = time.thread_time() + 0.005
        while time.thread_time() < end:
            pass
        return b""

    with Ticker(burn, period_s=0.01) as busy:
        time.sleep(0.3)
    assert idle.cpu_share is not None
    assert busy.cpu_share is not None
    assert idle.cpu_share < 0.05 < busy.cpu_share
    assert idle.lateness_p90_ns is not None


def test_a_failing_reading_ends_sampling_and_nothing_else() -> None:
    def fail() -> bytes:
        raise OSError("gone")

    with Ticker(fail, period_s=0.005) as ticker:
        time.sleep(0.05)
    assert ticker.samples == ()
    assert ticker.failure == "gone"


def test_an_unused_ticker_has_nothing_to_say() -> None:
    with Ticker(lambda: b"", period_s=60.0) as ticker:
        pass
    assert ticker.lateness_p90_ns is None
