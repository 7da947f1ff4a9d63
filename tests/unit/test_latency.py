"""What a latency record says: arithmetic on stamps, JSON both ways, intervals of percentiles."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from latency_records import failure, measurement, operators
from rich.console import Console

from edge_runtime.basis import Unavailable
from edge_runtime.errors import FormatError, UsageError
from edge_runtime.latency import (
    LatencyFailure,
    LatencyMeasurement,
    NodeTime,
    OperatorTimes,
    Round,
    read_latency,
)
from edge_runtime.report.latency import bounds_words, render_latency
from edge_runtime.report.latency_rows import latency_writer
from edge_runtime.statistics import order_ranks, percentile_interval

MS = 1_000_000


def binomial(count: int, share: float, below: int) -> float:
    """P(B < below), term by term from exact binomial coefficients."""
    return math.fsum(
        math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(below)
    )


@given(st.integers(1, 300), st.sampled_from((0.1, 0.5, 0.9, 0.99)))
def test_ranks_enclose_the_quantile_with_the_stated_confidence_and_no_more(
    count: int, share: float
) -> None:
    low, high = order_ranks(count, share)
    slack = 1e-9
    if low is None:
        assert binomial(count, share, 1) > 0.025 - slack
    else:
        assert 1 <= low <= count
        assert binomial(count, share, low) <= 0.025 + slack
        assert low == count or binomial(count, share, low + 1) > 0.025 - slack
    if high is None:
        assert binomial(count, share, count) < 0.975 + slack
    else:
        assert 1 <= high <= count
        assert binomial(count, share, high) >= 0.975 - slack
        assert high == 1 or binomial(count, share, high - 1) < 0.975 + slack


@pytest.mark.parametrize(
    ("count", "share", "ranks"),
    [
        # Tables of the median's interval, for example Conover, table A3.
        (5, 0.5, (None, None)), (6, 0.5, (1, 6)), (20, 0.5, (6, 15)), (100, 0.5, (40, 61)),
        # 0.99 ** 367 is the last that is above 2.5 %.
        (367, 0.99, (359, None)), (368, 0.99, (360, 368)),
    ],
)  # fmt: skip
def test_ranks_of_published_tables(
    count: int, share: float, ranks: tuple[int | None, int | None]
) -> None:
    assert order_ranks(count, share) == ranks


def test_ranks_of_a_hundred_thousand_samples_are_those_of_the_normal_distribution() -> None:
    low, high = order_ranks(100_000, 0.99)
    half = 1.96 * math.sqrt(100_000 * 0.99 * 0.01)
    assert low == pytest.approx(99_000 - half, abs=3)
    assert high == pytest.approx(99_001 + half, abs=3)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=400), st.sampled_from((50, 90, 99)))
def test_a_percentile_lies_between_its_bounds_which_are_samples(
    samples: list[int], percent: int
) -> None:
    found = percentile_interval(samples, percent)
    assert found.low is None or (found.low in samples and found.low <= found.value)
    assert found.high is None or (found.high in samples and found.high >= found.value)


def test_latencies_are_what_lies_between_stamps() -> None:
    record = measurement(rounds=(Round(started_ns=100, ended_ns=(110, 130)), Round(
        started_ns=1000, ended_ns=(1005, 1010))))  # fmt: skip
    assert record.latencies_ns == (10, 20, 5, 5)
    assert record.mean_s == pytest.approx(10e-9)
    assert record.least_s == pytest.approx(5e-9)
    assert record.rounds[0].inferences_per_s == pytest.approx(2 / 30e-9)


def test_the_rate_is_one_over_the_mean_latency_however_unevenly_it_ran() -> None:
    record = measurement(latencies_ms=(1, 1, 1, 40, 1, 1, 30, 1), per_round=2)
    rate = record.inferences_per_s
    assert rate is not None
    assert rate.value == pytest.approx(1 / record.mean_s)
    assert rate.low < rate.value < rate.high


def test_disturbed_rounds_have_a_wider_interval() -> None:
    quiet = measurement(latencies_ms=(10, 11, 10, 12), per_round=1)
    busy = measurement(latencies_ms=(10, 11, 10, 12), per_round=1, flags=("busy",))
    assert quiet.inferences_per_s is not None
    assert busy.inferences_per_s is not None
    narrow, wide = quiet.inferences_per_s, busy.inferences_per_s
    assert math.log(wide.high / wide.low) == pytest.approx(2 * math.log(narrow.high / narrow.low))


def test_a_single_inference_is_open_on_all_sides() -> None:
    record = measurement(latencies_ms=(4,))
    assert record.latency_s(50).low is None
    assert record.latency_s(99).high is None
    assert record.inferences_per_s is not None
    assert record.inferences_per_s.high == pytest.approx(2 * record.inferences_per_s.value)
    assert bounds_words(record.latency_s(50)) == "too few"


def test_operators_and_what_lies_between_them_make_the_whole() -> None:
    times = operators()
    assert times.run_s == pytest.approx(0.010)
    assert sum(item.share for item in times.by_operator) == pytest.approx(times.covered)
    assert times.covered == pytest.approx(0.8)
    assert times.outside_s == pytest.approx(0.002)
    conv = times.by_operator[0]
    assert (conv.op, conv.nodes, conv.calls_per_run) == ("Conv", 2, 2)
    assert conv.seconds_per_run == pytest.approx(0.006)
    assert [node.name for node in times.slowest] == ["conv.0", "conv.1", "relu"]
    assert [item.provider for item in times.by_provider] == ["CPUExecutionProvider"]


def test_overlapping_operators_leave_nothing_between() -> None:
    node = NodeTime(name="a", op="A", provider="P", calls=1, self_ns=20 * MS)
    times = OperatorTimes(traced_runs=1, runs_ns=(10 * MS,), nodes=(node,))
    assert times.covered == pytest.approx(2.0)
    assert times.outside_s == 0.0


@pytest.mark.parametrize(
    "record",
    [measurement(), measurement(operators_=Unavailable(reason="no trace")), failure()],
)
def test_records_come_back_equal_from_json(record: LatencyMeasurement | LatencyFailure) -> None:
    text = json.dumps(record.to_json(), allow_nan=False)
    assert read_latency(json.loads(text)) == record


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99}, {"kind": "speed"}, {"rounds": []}, {"rounds": [{"started_ns": 1}]},
        {"inputs": [{"name": "x", "type": "FP32", "shape": [1], "fill": "noise", "below": None}]},
        {"operators": {"traced_runs": 1, "runs_ns": [], "nodes": []}}, {"extra": 1},
    ],
)  # fmt: skip
def test_a_strangers_record_is_checked(change: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        read_latency({**measurement().to_json(), **change})


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from(("kind", "schema", "rounds")), inner),
    max_leaves=8))  # fmt: skip
def test_nonsense_is_no_record(data: object) -> None:
    with pytest.raises(FormatError):
        read_latency(data)


def shown(record: LatencyMeasurement | LatencyFailure, columns: int = 80) -> str:
    console = Console(file=io.StringIO(), width=columns, color_system=None)
    with console.capture() as captured:
        console.print(render_latency(record))
    return captured.get()


def test_the_page_says_what_matters_within_eighty_columns() -> None:
    page = shown(measurement(flags=("other processes used 9% of the CPU",)))
    for words in ("P50", "P99", "inferences/s", "after loading", "Conv", "60.0%", "relu",
                  "between operators", "20.0%", "other processes", "all 3 nodes on CPU",
                  "10.0 ms"):  # fmt: skip
        assert words in page
    assert max(map(len, page.splitlines())) <= 80


def test_the_page_of_two_providers_has_the_share_of_each() -> None:
    page = shown(measurement(second_provider="CoreMLExecutionProvider"), 100)
    assert "CoreML 2 of 3 nodes, 60% of the time" in page
    assert "CPU 1 of 3 nodes, 20% of the time" in page
    assert "that of its launch" in page


def test_hostile_names_do_not_reach_the_terminal() -> None:
    record = measurement()
    model = replace(record.model, name="\x1b[31mred\n")
    nodes = OperatorTimes(
        traced_runs=1,
        runs_ns=(10 * MS,),
        nodes=(
            NodeTime(name="\x1b]0;title\x07", op="\x9bX", provider="\x1bP", calls=1, self_ns=MS),
            NodeTime(name="a" * 500, op="b" * 500, provider="c" * 500, calls=1, self_ns=MS),
        ),
    )
    page = shown(replace(record, model=model, operators=nodes))
    assert not set(page) & {"\x1b", "\x07", "\x9b"}


def test_the_page_says_when_tracing_took_the_time() -> None:
    assert "Tracing took much" in " ".join(shown(measurement(latencies_ms=(1, 1))).split())
    assert "Tracing took" not in " ".join(shown(measurement(latencies_ms=(9, 9))).split())


def test_calls_in_a_loop_are_told() -> None:
    loop = OperatorTimes(
        traced_runs=2,
        runs_ns=(10 * MS, 10 * MS),
        nodes=(NodeTime(name="a", op="Sin", provider="P", calls=60, self_ns=8 * MS),),
    )
    assert "1 x 30" in shown(measurement(operators_=loop))


def test_a_failure_is_shown_with_its_reason() -> None:
    assert "Killed. No memory. Free some." in " ".join(shown(failure()).split())


@pytest.mark.parametrize("form", ["text", "md", "csv", "json", "jsonl"])
def test_every_format_shows_measurements_and_failures(form: str) -> None:
    stream = io.StringIO()
    writer = latency_writer(form, stream, columns=100)
    for record in (measurement(), failure()):
        writer.write(record)
    writer.close()
    text = stream.getvalue()
    assert "mobile|net" in text.replace("\\|", "|")
    assert "Killed." in text
    if form == "json":
        assert [read_latency(item) for item in json.loads(text)] == [measurement(), failure()]
    if form == "csv":
        assert "latency_s_p99_high" in text.splitlines()[0]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match="sql"):
        latency_writer("sql", io.StringIO())
