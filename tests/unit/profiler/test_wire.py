"""What travels between the measuring parent and its child, and when repetitions end."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import errors
from edge_runtime.errors import BackendError, EdgeError, WorkerError
from edge_runtime.measurement import SessionOptions, decode_workload
from edge_runtime.profiler import Plan, Progress, wire
from edge_runtime.profiler.prompt import TEXT, prompt_tokens
from edge_runtime.profiler.repetition import stop_reason
from edge_runtime.statistics import Interval


def every_error() -> list[type[EdgeError]]:
    found, todo = [], [EdgeError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


def test_the_tree_of_errors_is_seen_whole() -> None:
    assert len(every_error()) >= 14


@pytest.mark.parametrize("kind", every_error())
def test_every_error_keeps_its_type_and_words(kind: type[EdgeError]) -> None:
    line = wire.encode(kind("Fact ü.", cause="Cause\n2.", way_out="Way."))
    assert line.isascii()
    assert line.count(b"\n") == 1
    found = wire.decode(line)
    assert type(found) is kind
    assert isinstance(found, EdgeError)
    assert (found.fact, found.cause, found.way_out) == ("Fact ü.", "Cause\n2.", "Way.")


def test_a_plugins_own_error_arrives_as_the_nearest_known_kind() -> None:
    class StrangeError(BackendError):
        pass

    assert type(wire.decode(wire.encode(StrangeError("No.")))) is BackendError


def test_a_specification_and_an_event_come_back_equal() -> None:
    spec = wire.Spec(
        artifact="/models/a b.gguf", options=SessionOptions(threads=3, kv_type_k="q8_0"),
        workload=decode_workload(7, depth=9), plan=Plan(cold_cache=True), parent_pid=5,
    )  # fmt: skip
    assert wire.decode_spec(wire.encode(spec)) == spec
    event = Progress(
        stage="running", runs=2, max_runs=9, elapsed_s=1.5,
        tokens_per_s=Interval(low=1.0, value=2.0, high=3.0),
    )  # fmt: skip
    assert wire.decode(wire.encode(event)) == event


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"[]", b"3", b"null", b"\xff\xfe", b'{"a":1,"b":2}', b'{"outcome":{}}',
        b'{"progress":{"stage":"sleeping"}}', b'{"surprise":{}}', b'{"error":{"kind":5}}',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_anything_else_is_a_worker_error(line: bytes) -> None:
    with pytest.raises(WorkerError):
        wire.decode(line + b"\n")


@given(st.binary(max_size=200))
def test_random_bytes_never_get_through(line: bytes) -> None:
    with pytest.raises(WorkerError):
        wire.decode(line)


def test_an_error_of_an_unknown_kind_is_a_worker_error() -> None:
    body = {"kind": "os", "fact": "f", "cause": "c", "way_out": "w"}
    assert type(wire.decode(json.dumps({"error": body}).encode())) is WorkerError


PLAN = Plan(min_runs=3, max_runs=5, target_relative_half_width=0.02, budget_s=10.0)


def test_the_first_run_always_happens() -> None:
    assert stop_reason(PLAN, [], 1000.0, 0.0) is None


def test_enough_agreement_ends_it_but_not_before_the_fewest_runs() -> None:
    assert stop_reason(PLAN, [10.0, 10.0], 1.0, 1.0) is None
    assert "within 0.0%" in str(stop_reason(PLAN, [10.0, 10.0, 10.0], 1.0, 1.0))
    # t(0.975, 2) = 4.303; s = 0.1; half width = 4.303 * 0.1 / sqrt 3 = 0.248, which is 2.5 %.
    assert stop_reason(PLAN, [9.9, 10.0, 10.1], 1.0, 1.0) is None
    # s = 0.05: 1.2 %.
    assert "within 1.2%" in str(stop_reason(PLAN, [9.95, 10.0, 10.05], 1.0, 1.0))


def test_a_run_that_would_overrun_the_budget_is_not_begun() -> None:
    assert stop_reason(PLAN, [5.0], 6.0, 3.0) is None
    reason = stop_reason(PLAN, [5.0], 6.0, 4.5)
    assert reason is not None
    assert "after 1 run the time budget of 10.0 s is spent" in reason
    assert "no interval" in reason


def test_the_most_runs_end_it_with_what_is_left_of_the_spread() -> None:
    reason = stop_reason(PLAN, [1.0, 2.0, 1.0, 2.0, 1.0], 1.0, 0.1)
    assert reason is not None
    assert reason.startswith("after 5 runs, the most allowed; the interval is within")


@given(st.integers(1, 5000))
def test_a_prompt_has_exactly_the_asked_length(count: int) -> None:
    tokens = prompt_tokens(lambda text: list(text.encode()), count)
    assert len(tokens) == count
    assert bytes(tokens[: len(TEXT)]) == TEXT.encode()[:count]


def test_a_tokenizer_that_merges_across_repeats_still_fills_the_prompt() -> None:
    # One token however long the text is: the worst that merging could do.
    assert prompt_tokens(lambda text: [len(text)], 50) != []
    assert len(prompt_tokens(lambda text: [7], 50)) == 50


def test_a_tokenizer_that_says_nothing_is_an_error_with_a_way_out() -> None:
    with pytest.raises(BackendError, match="no tokens") as caught:
        prompt_tokens(lambda text: [], 5)
    assert "edge profile" in caught.value.way_out
