"""The energy options of `edge profile`: how long to watch idling, and a power that was stated."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from edge_runtime.cli import profiling
from edge_runtime.cli.profiling import read_idle, read_power
from edge_runtime.errors import UsageError
from edge_runtime.profiler import Progress
from edge_runtime.profiler.energy import Discovery, discovery
from tests.energy_records import sensor


class Meter:
    """A sensor that nobody reads."""

    def __init__(self, name: str, window_s: float) -> None:
        self.info = sensor(name, window_s=window_s)
        self.closed = False

    def read(self) -> float:
        raise AssertionError

    def close(self) -> None:
        self.closed = True


def found(monkeypatch: pytest.MonkeyPatch, *meters: Meter, headline: tuple[str, ...]) -> None:
    one = Discovery(sensors=meters, headline=headline, refusals=())
    monkeypatch.setattr(discovery, "discover", lambda: one)


@pytest.mark.parametrize(("window_s", "idle_s"), [(1.0, 10.0), (20.0, 40.0), (200.0, 60.0)])
def test_auto_takes_twice_what_the_headline_resolves_within_bounds(
    monkeypatch: pytest.MonkeyPatch, window_s: float, idle_s: float
) -> None:
    meters = Meter("a", window_s), Meter("b", 500.0)
    found(monkeypatch, *meters, headline=("a",))
    assert read_idle("auto", emulated=False, run_s=60) == idle_s
    assert all(meter.closed for meter in meters)


def test_auto_waits_for_nothing_where_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, headline=())
    assert read_idle("auto", emulated=False, run_s=60) == 0.0
    found(monkeypatch, Meter("a", 5.0), headline=("a",))
    assert read_idle("auto", emulated=True, run_s=60) == 0.0


def test_a_time_that_was_given_holds_sensor_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, headline=())
    assert read_idle("10s", emulated=False, run_s=60) == 10.0
    assert read_idle("0", emulated=False, run_s=60) == 0.0
    for text in ("99h", "soon", "-5s"):
        with pytest.raises(UsageError):
            read_idle(text, emulated=False, run_s=60)


def test_a_stated_power_is_one_of_a_device() -> None:
    assert read_power(None) is None
    assert read_power(12.5) == 12.5
    for watts in (0.0, -1.0, 1e9, float("nan"), float("inf")):
        with pytest.raises(UsageError):
            read_power(watts)


def test_every_stage_of_a_measurement_has_words() -> None:
    stages = get_args(get_type_hints(Progress)["stage"])
    assert "idle" in stages
    of_quality = {"tokenizing", "answering", "scoring"}
    assert set(stages) - {"running"} - of_quality <= set(profiling._STAGES)
