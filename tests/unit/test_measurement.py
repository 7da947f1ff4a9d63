"""The record: rates from raw stamps, JSON both ways, nothing absent turned into zero."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import chat_run, measurement, tg_run

from edge_runtime.basis import Basis
from edge_runtime.errors import FormatError
from edge_runtime.measurement import Measurement, decode_workload, prefill_workload


def test_decode_rate_of_a_bench_run_counts_every_step() -> None:
    run = tg_run(tokens=100, step_ns=10_000_000)
    assert run.decode_tokens_per_s == pytest.approx(100)
    assert len(run.step_ns) == 100
    assert run.prefill_tokens_per_s is None
    assert run.ttft_ns is None


def test_a_record_that_prefilled_no_tokens_has_no_rate() -> None:
    run = chat_run(prompt=200, prefill_ns=2_000_000_000, tokens=11, step_ns=50_000_000)
    assert replace(run, prefill_tokens=0).prefill_tokens_per_s is None
    assert replace(run, prefill_tokens=-1).prefill_tokens_per_s is None


def test_the_first_token_of_a_chat_run_belongs_to_the_prefill() -> None:
    run = chat_run(prompt=200, prefill_ns=2_000_000_000, tokens=11, step_ns=50_000_000)
    assert run.prefill_tokens_per_s == pytest.approx(100)
    assert len(run.step_ns) == 10
    assert run.decode_tokens_per_s == pytest.approx(20)
    assert run.ttft_ns == 2_000_000_000


def test_a_prefill_run_has_no_decode_rate() -> None:
    run = chat_run(prompt=512, prefill_ns=1_000_000_000, tokens=0, step_ns=1)
    assert run.decode_tokens_per_s is None
    assert measurement((run,), workload=prefill_workload()).decode_tokens_per_s is None


def test_interval_of_three_runs_against_hand_arithmetic() -> None:
    runs = tuple(tg_run(10, step) for step in (10_000_000, 12_500_000, 8_000_000))
    interval = measurement(runs).decode_tokens_per_s
    assert interval is not None
    # Rates 100, 80, 125: mean 101.667, sd of logarithms 0.22314; 4.303 * that / sqrt(3) = 0.5544.
    assert interval.value == pytest.approx(101.667, abs=1e-3)
    assert interval.high / interval.value == pytest.approx(1.7408, abs=1e-3)
    assert interval.value / interval.low == pytest.approx(1.7408, abs=1e-3)


def test_disturbance_widens_the_interval_instead_of_hiding() -> None:
    runs = tuple(tg_run(10, step) for step in (10_000_000, 10_100_000, 10_200_000))
    quiet = measurement(runs).decode_tokens_per_s
    noisy = measurement(runs, flags=("other processes used 40 % of the CPU",)).decode_tokens_per_s
    assert quiet is not None
    assert noisy is not None
    assert noisy.high / noisy.value == pytest.approx((quiet.high / quiet.value) ** 2)
    assert noisy.value / noisy.low == pytest.approx((quiet.value / quiet.low) ** 2)


def test_one_run_alone_is_no_certainty() -> None:
    interval = measurement((tg_run(10, 10_000_000),)).decode_tokens_per_s
    assert interval is not None
    assert (interval.low, interval.high) == (50, 200)


def test_percentiles_come_from_single_steps() -> None:
    run = tg_run(100, 10_000_000)
    slow = tg_run(100, 60_000_000)
    both = measurement((run, slow))
    assert both.itl_s(50) == pytest.approx(0.035)
    assert both.itl_s(90) == pytest.approx(0.060)


def test_names_are_llama_benchs() -> None:
    assert prefill_workload(512).name == "pp512"
    assert decode_workload(128, depth=4096).name == "tg128 @ d4096"


def test_synthetic_weights_are_called_synthetic() -> None:
    assert measurement((tg_run(2, 5),), synthetic=True).basis is Basis.SYNTHETIC
    assert measurement((tg_run(2, 5),)).basis is Basis.MEASURED


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=20), st.booleans())
def test_json_round_trip(steps: list[int], synthetic: bool) -> None:
    record = measurement(tuple(tg_run(3, step) for step in steps), synthetic=synthetic)
    assert Measurement.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_another_schema_is_refused() -> None:
    data = measurement((tg_run(2, 5),)).to_json()
    with pytest.raises(FormatError, match="schema"):
        Measurement.from_json({**data, "schema": 999})


@pytest.mark.parametrize(
    ("path", "value"),
    [(("host", "ram_bytes"), "much"), (("runs",), 3), (("runs", 0, "token_ns"), [1, None]),
     (("artifact", "format"), "pickle"), (("memory",), {"peak": 0}), (("host", "extra"), 1),
     (("noise", "load_average"), 10**400), (("runs", 0, "started_ns"), 10**400)],
)  # fmt: skip
def test_a_strangers_file_is_checked_field_by_field(
    path: tuple[object, ...], value: object
) -> None:
    data = json.loads(json.dumps(measurement((tg_run(2, 5),)).to_json()))
    spot = data
    for key in path[:-1]:
        spot = spot[key]
    spot[path[-1]] = value
    with pytest.raises(FormatError):
        Measurement.from_json(data)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_no_json_at_all_makes_a_traceback(data: object) -> None:
    with pytest.raises(FormatError):
        Measurement.from_json(data)


def test_infinity_is_never_written() -> None:
    from edge_runtime.codec import to_jsonable

    with pytest.raises(ValueError, match="infinity"):
        to_jsonable({"x": float("inf")})
