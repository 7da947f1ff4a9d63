"""Joules by phase and per token, against figures worked out by hand, and every reason for none."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.basis import Basis, Unavailable
from edge_runtime.codec import to_jsonable
from edge_runtime.consumption import Consumption, consumption
from edge_runtime.energy import EnergySeries, Scope, SeriesBreak
from edge_runtime.measurement import Emulation, Gpu, Limits, Measurement
from edge_runtime.phase_energy import PhaseEnergy
from edge_runtime.statistics import Interval
from tests.energy_records import (
    MINUTE,
    NO_GROSS,
    NO_NET,
    RUNS,
    SILENT,
    S,
    broken,
    power,
    recorded,
    run,
    sensor,
    series,
    window,
)


def used(one: Measurement) -> Consumption:
    found = consumption(one)
    assert isinstance(found, Consumption), found
    return found


def decoded(one: Measurement) -> PhaseEnergy:
    phase = used(one).decode
    assert isinstance(phase, PhaseEnergy), phase
    return phase


def why_no_decode(one: Measurement) -> str:
    phase = used(one).decode
    assert isinstance(phase, Unavailable), phase
    return phase.reason


def why_no_net(one: Measurement) -> str:
    phase = decoded(one)
    assert isinstance(phase.net_j, Unavailable), phase.net_j
    assert isinstance(phase.net_j_per_token, Unavailable)
    assert phase.net_u_j is None
    return phase.net_j.reason


def test_joules_by_phase_are_those_worked_out_by_hand() -> None:
    found = used(recorded())
    prefill, decode = found.prefill, found.decode
    assert isinstance(prefill, PhaseEnergy)
    assert isinstance(decode, PhaseEnergy)
    # Twice 2 s of 12 W, and twice 4 s of 7 W; idling takes 2 W of each.
    assert prefill.gross_j == pytest.approx(48)
    assert prefill.net_j == pytest.approx(40)
    assert prefill.gross_j_per_token.value == pytest.approx(48 / 200)
    assert (prefill.tokens, prefill.window_s) == (200, 4.0)
    assert decode.gross_j == pytest.approx(56)
    assert decode.net_j == pytest.approx(40)
    assert decode.gross_j_per_token.value == pytest.approx(0.7)
    assert decode.net_j_per_token.value == pytest.approx(0.5)  # type: ignore[union-attr]
    assert (decode.tokens, decode.window_s, decode.repetitions) == (80, 8.0, 2)
    assert decode.samples == 2 * 41
    assert decode.tokens_per_wh.value == pytest.approx(3600 / 0.7)
    assert isinstance(found.idle_w, Interval)
    assert found.idle_w.value == pytest.approx(2)
    assert found.load is not None
    assert not isinstance(found.load, Unavailable)
    assert found.load.gross_j == pytest.approx(24)
    assert (found.basis, found.scope) == (Basis.MEASURED, Scope.CHIP)


def test_the_uncertainty_adds_edges_quantum_idle_and_repetitions_in_squares() -> None:
    # Decode of 3 s at 7 W and of 3 s at 8 W: 21 J and 24 J for 30 tokens each.
    def watts(t: float) -> float:
        return 7.0 if 10 <= t < 13 else 8.0 if 15 <= t < 18 else 2.0 if t < 9 else 2.1

    info = sensor(update_s=0.1, step=0.3)
    one = recorded(
        series(watts, until_s=40, info=info),
        runs=(run(10, 0, 3, prompt=0, steps=30), run(15, 0, 3, prompt=0, steps=30)),
        windows=(window("idle_a", 0, 8), window("idle_b", 20, 40)),
    )
    phase = decoded(one)
    update_j = 45 / 6 * 0.1
    # Four edges, and what is smeared into both windows alike.
    instrument = math.sqrt((4 * (update_j**2 + 0.3**2) + (2 * update_j) ** 2) / 12)
    repetition = 60 * (0.1 / math.sqrt(2)) / math.sqrt(2)  # s of 0.7 and 0.8 J/token
    assert phase.gross_u_j == pytest.approx(math.hypot(instrument, repetition))
    half = math.hypot(1.96 * instrument, 12.706 * repetition)
    gross = phase.gross_j_per_token
    assert math.log(gross.high / gross.value) == pytest.approx(half / 45)
    assert math.log(gross.value / gross.low) == pytest.approx(half / 45)
    u_a = math.sqrt((3 * (2 * 0.1) ** 2 + 2 * 0.3**2) / 12) / 8
    u_b = math.sqrt((3 * (2.1 * 0.1) ** 2 + 2 * 0.3**2) / 12) / 20
    u_idle = math.sqrt((u_a**2 + u_b**2) / 4 + 0.1**2 / 12)
    assert phase.net_j == pytest.approx(45 - 6 * 2.05)
    assert phase.net_u_j == pytest.approx(math.hypot(phase.gross_u_j, 6 * u_idle))
    net = phase.net_j_per_token
    assert isinstance(net, Interval)
    assert net.high - net.low == pytest.approx(2 * math.hypot(half, 1.96 * 6 * u_idle) / 60)


def test_headline_sensors_add_up_and_the_others_are_listed_beside_them() -> None:
    dram = series(lambda _: 1.0, until_s=40, info=sensor("rapl:dram-0"))
    core = series(lambda t: power(t) / 2, until_s=40, info=sensor("rapl:core-0"))
    found = used(recorded(MINUTE, dram, core, headline=("rapl:package-0", "rapl:dram-0")))
    assert isinstance(found.decode, PhaseEnergy)
    assert found.decode.gross_j == pytest.approx(56 + 8)
    assert found.decode.net_j == pytest.approx(40)
    listed = {p.sensor: (p.in_headline, p.decode_j) for p in found.parts}
    assert listed == {
        "rapl:package-0": (True, pytest.approx(56)),
        "rapl:dram-0": (True, pytest.approx(8)),
        "rapl:core-0": (False, pytest.approx(28)),
    }
    assert found.gain == "rapl:package-0, rapl:dram-0: gain error unknown"


@given(order=st.permutations(["rapl:package-0", "rapl:dram-0", "rapl:core-0"]))
def test_the_order_of_sensors_changes_nothing(order: list[str]) -> None:
    all_of = {
        name: series(lambda t, k=k: power(t) / k, until_s=40, info=sensor(name))  # type: ignore[misc]
        for k, name in enumerate(order, start=1)
    }
    one = recorded(*all_of.values(), headline=("rapl:package-0", "rapl:dram-0"))
    other = recorded(*reversed(all_of.values()), headline=("rapl:dram-0", "rapl:package-0"))
    first, second = decoded(one), decoded(other)
    assert first.gross_j == pytest.approx(second.gross_j)
    assert first.net_j == pytest.approx(second.net_j)
    assert first.gross_u_j == pytest.approx(second.gross_u_j)


@given(idle_w=st.floats(0.5, 6), busy_w=st.floats(7, 500), steps=st.integers(1, 200))
def test_net_lies_below_gross_by_exactly_the_idling(
    idle_w: float, busy_w: float, steps: int
) -> None:
    one = recorded(
        series(lambda t: busy_w if 12 <= t < 16 else idle_w, until_s=40),
        runs=(run(12, 0, 4, prompt=0, steps=steps),),
    )
    phase = decoded(one)
    assert isinstance(phase.net_j, float)
    assert phase.gross_j >= phase.net_j
    assert phase.net_j == pytest.approx(phase.gross_j - idle_w * phase.window_s)
    assert phase.gross_j_per_token.low <= phase.gross_j / steps <= phase.gross_j_per_token.high


def test_a_workload_without_a_phase_has_none_for_it() -> None:
    found = used(recorded(runs=(run(14, 0, 4, prompt=0, steps=40),)))
    assert found.prefill is None
    assert isinstance(found.decode, PhaseEnergy)


@pytest.mark.parametrize("name", NO_NET)
def test_net_is_withheld_with_the_reason_and_gross_stays(name: str) -> None:
    one, reason = NO_NET[name]
    assert why_no_net(one).startswith(reason)
    assert decoded(one).gross_j == pytest.approx(56)


def test_a_drift_within_a_tenth_of_what_the_model_adds_is_in_the_uncertainty() -> None:
    slightly = recorded(series(lambda t: 2.4 if t >= 26 else power(t), until_s=40))
    assert decoded(slightly).net_j == pytest.approx(56 - 8 * 2.2)
    assert decoded(slightly).net_u_j > 8 * 0.4 / math.sqrt(12)  # type: ignore[operator]


@pytest.mark.parametrize("name", NO_GROSS)
def test_gross_is_withheld_with_the_reason(name: str) -> None:
    one, reason = NO_GROSS[name]
    assert why_no_decode(one).startswith(reason)


def test_one_failed_sensor_withholds_the_headline_and_not_the_parts() -> None:
    dead = series(lambda _: 0.0, until_s=40, info=sensor("rapl:dram-0"))
    one = recorded(MINUTE, dead)
    assert why_no_decode(one).startswith("rapl:dram-0: counter stalled")
    parts = {part.sensor: part.decode_j for part in used(one).parts}
    assert parts["rapl:package-0"] == pytest.approx(56)
    assert isinstance(parts["rapl:dram-0"], Unavailable)


def test_an_emulated_device_has_no_energy() -> None:
    limits = Emulation(limits=Limits(cores=1), means="affinity")
    found = consumption(replace(recorded(), emulated=limits, stated_power_w=5.0))
    assert isinstance(found, Unavailable)
    assert "emulated" in found.reason


def test_headline_sensors_without_readings_are_named() -> None:
    found = consumption(recorded(MINUTE, headline=("nvml:GPU-1",)))
    assert found == Unavailable(reason="no readings of nvml:GPU-1")
    assert isinstance(consumption(recorded(MINUTE, headline=())), Unavailable)


def test_what_the_vendor_models_is_no_measurement() -> None:
    found = used(broken(sensor=sensor(modelled=True)))
    assert (found.basis, found.formula) == (Basis.ESTIMATED, "the vendor's own model")


# Estimates.


def test_an_estimate_is_the_stated_power_over_the_rate_within_half_of_itself() -> None:
    found = used(SILENT)
    assert found.basis is Basis.ESTIMATED
    assert found.formula == "8 W / (10 tok/s), ± 50% at best"
    assert isinstance(found.decode, PhaseEnergy)
    per_token = found.decode.gross_j_per_token
    assert (per_token.low, per_token.value, per_token.high) == pytest.approx((0.4, 0.8, 1.2))
    assert isinstance(found.decode.net_j, Unavailable)
    assert isinstance(found.idle_w, Unavailable)
    assert consumption(replace(SILENT, stated_power_w=None)) == SILENT.energy


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda m: replace(m, host=replace(m.host, virtualization="kvm")), "virtual machine"),
        (lambda m: replace(m, noise=replace(m.noise, foreign_share=0.06)), "shared machine"),
        (lambda m: replace(m, emulated=Emulation(limits=Limits(), means="x")), "emulated"),
        (lambda m: replace(m, stated_power_w=-1.0), "-1 W is no power"),
        (lambda m: replace(m, stated_power_w=1e308), "is no power"),
    ],
)
def test_an_estimate_is_refused_where_it_means_nothing(
    spoil: Callable[[Measurement], Measurement], word: str
) -> None:
    found = consumption(spoil(SILENT))
    assert isinstance(found, Unavailable)
    assert word in found.reason


def test_an_estimate_never_stands_where_something_was_measured() -> None:
    assert used(replace(recorded(), stated_power_w=100.0)) == used(recorded())
    # A part of the run measured is something measured.
    half = recorded(runs=(run(12, 2, 0.5, prompt=100, steps=4),))
    assert used(replace(half, stated_power_w=100.0)).basis is Basis.MEASURED
    assert used(replace(NO_GROSS["reset"][0], stated_power_w=100.0)).basis is Basis.MEASURED
    none = replace(NO_GROSS["never advanced"][0], stated_power_w=100.0)
    assert used(none).basis is Basis.ESTIMATED
    assert "did not advance" in used(none).notes[0]


def test_all_of_it_has_a_json_form() -> None:
    for one in (recorded(), SILENT, *(m for m, _ in (*NO_NET.values(), *NO_GROSS.values()))):
        json.dumps(to_jsonable(consumption(one)), allow_nan=False)


def test_runs_in_any_order_give_the_same() -> None:
    assert decoded(recorded(runs=RUNS[::-1])).gross_j == pytest.approx(56)


@st.composite
def strange_series(draw: st.DrawFn) -> EnergySeries:
    """What a broken sensor, or a stranger's file, may hold: mostly nearly right."""
    count = draw(st.sampled_from((0, 1, 30, 60, 60)))
    step = st.sampled_from((S // 2, S, S, S, draw(st.integers(-1, S))))
    steps = draw(st.lists(step, min_size=count, max_size=count))
    odd = draw(st.sampled_from((10.0, 10.0, 0.0, -1.0, 1e308, 5e-324)))
    watts = st.floats(1, 100) | st.just(odd)
    added = draw(st.lists(watts, min_size=count, max_size=count))
    stamps = list(itertools.accumulate(steps))
    quantity = st.floats(0, 1) | st.floats(0, 1) | st.sampled_from((-1.0, 1e308, 5e-324))
    return EnergySeries(
        sensor=sensor(
            method=draw(st.sampled_from(("counter", "power"))),
            update_s=draw(quantity), step=draw(quantity), poll_s=draw(quantity),
            window_s=draw(quantity),
        ),
        stamps_ns=tuple(stamps),
        joules=tuple(itertools.accumulate(added)),
        breaks=tuple(
            SeriesBreak(noticed_ns=moment, reason="x")
            for moment in draw(st.lists(st.integers(0, 50 * S), max_size=2))
        ),
    )  # fmt: skip


@given(strange=strange_series(), stated_w=st.none() | st.floats(-10, 1e308))
def test_nothing_a_sensor_says_raises_or_becomes_a_zero(
    strange: EnergySeries, stated_w: float | None
) -> None:
    found = consumption(replace(recorded(strange), stated_power_w=stated_w))
    json.dumps(to_jsonable(found), allow_nan=False)
    if isinstance(found, Unavailable):
        assert found.reason
        return
    for phase in (found.prefill, found.decode):
        if isinstance(phase, PhaseEnergy):
            assert phase.gross_j > 0
            assert 0 < phase.gross_j_per_token.low <= phase.gross_j_per_token.high
            json.dumps(to_jsonable(phase.tokens_per_wh), allow_nan=False)
            if isinstance(phase.net_j, float):
                assert 0 < phase.net_j <= phase.gross_j


def test_a_gpus_joules_are_none_of_a_model_that_ran_on_the_processor() -> None:
    board = sensor("nvml:GPU-1", covers=("gpu:GPU-1",))
    card = Gpu(name="GPU", description="", memory_bytes=None)
    on_cpu = recorded(replace(MINUTE, sensor=board))
    found = consumption(on_cpu)
    assert isinstance(found, Unavailable)
    assert "only a GPU is metered" in found.reason
    offloaded = replace(on_cpu, host=replace(on_cpu.host, gpus=(card,)))
    assert isinstance(used(offloaded).decode, PhaseEnergy)
    kept = replace(offloaded, options=replace(offloaded.options, gpu_layers=0))
    assert isinstance(consumption(kept), Unavailable)


def test_the_joules_of_a_part_are_as_uncertain_as_those_of_a_headline_of_its_own() -> None:
    other = replace(MINUTE, sensor=sensor("rapl:dram-0", covers=("dram:0",)))
    parts = used(recorded(MINUTE, other)).parts
    alone = used(recorded(MINUTE)).decode
    assert isinstance(alone, PhaseEnergy)
    for part in parts:
        assert part.decode_j == pytest.approx(alone.gross_j)
        assert part.decode_u_j is not None
        assert 0 < part.decode_u_j <= alone.gross_u_j
