"""ONNX Runtime's trace as the time of each node, from made-up events."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime.backends.onnx.trace import operator_times
from edge_runtime.errors import BackendError


def span(
    category: str, name: str, start: int, spent: int, op: str = "", place: int = 0, thread: int = 1
) -> dict[str, object]:
    args = {"op_name": op, "provider": "CPU", "node_index": str(place)} if op else {}
    return {"cat": category, "name": name, "ts": start, "dur": spent, "tid": thread, "args": args}


def written(path: Path, events: object) -> Path:
    path.write_text(json.dumps(events))
    return path


def run_of(start: int) -> list[dict[str, object]]:
    """An inference of 100 us: a node of 30, and a loop of 50 with two nodes of 20 in it."""
    return [
        span("Node", "conv_kernel_time", start + 5, 30, "Conv", 0),
        span("Node", "conv_fence_before", start + 5, 30, "Conv", 0),
        span("Node", "inner_kernel_time", start + 42, 20, "Add", 0),
        span("Node", "inner_kernel_time", start + 62, 20, "Add", 0),
        span("Node", "loop_kernel_time", start + 40, 50, "Loop", 1),
        span("Session", "SequentialExecutor::Execute", start + 1, 98),
        span("Session", "model_run", start, 100),
    ]


def test_inner_nodes_are_no_part_of_what_holds_them(tmp_path: Path) -> None:
    events = [e for start in (0, 1000, 2000, 3000, 4000) for e in run_of(start)]
    times = operator_times(written(tmp_path / "t.json", events), 4)
    assert times.runs_ns == (100_000, 100_000)
    assert {(n.name, n.op): (n.calls, n.self_ns) for n in times.nodes} == {
        ("conv", "Conv"): (2, 60_000),
        ("inner", "Add"): (4, 80_000),
        ("loop", "Loop"): (2, 20_000),
    }
    assert times.covered == pytest.approx(0.8)


def test_runs_before_the_latest_do_not_count(tmp_path: Path) -> None:
    events = [*run_of(0), span("Session", "model_run", 500, 40)]
    times = operator_times(written(tmp_path / "t.json", events), 1)
    assert times.runs_ns == (40_000,)
    assert times.nodes == ()


def test_the_quicker_half_counts(tmp_path: Path) -> None:
    events = []
    for number, spent in enumerate((50, 90, 40, 70, 60)):
        start = number * 100
        events.append(span("Session", "model_run", start, spent))
        events.append(span("Node", "a_kernel_time", start + 1, spent - 10, "A"))
    times = operator_times(written(tmp_path / "t.json", events), 5)
    assert times.traced_runs == 5
    assert times.runs_ns == (50_000, 40_000, 60_000)
    assert [(node.calls, node.self_ns) for node in times.nodes] == [(3, 120_000)]


def test_nodes_of_one_name_are_told_apart_by_their_place(tmp_path: Path) -> None:
    events = [
        span("Node", "_kernel_time", 1, 10, "Relu", 0),
        span("Node", "_kernel_time", 20, 15, "Relu", 1),
        span("Session", "model_run", 0, 50),
    ]
    times = operator_times(written(tmp_path / "t.json", events), 1)
    assert [node.self_ns for node in times.nodes] == [10_000, 15_000]
    assert times.by_operator[0].nodes == 2


def test_threads_do_not_contain_each_other(tmp_path: Path) -> None:
    events = [
        span("Node", "a_kernel_time", 1, 40, "A", 0, thread=1),
        span("Node", "b_kernel_time", 5, 10, "B", 1, thread=2),
        span("Session", "model_run", 0, 50),
    ]
    times = operator_times(written(tmp_path / "t.json", events), 1)
    assert {node.op: node.self_ns for node in times.nodes} == {"A": 40_000, "B": 10_000}


@pytest.mark.parametrize("events", [[], {}, 3, [None, 1, {"cat": "Node"}], run_of(0)])
def test_a_trace_that_lacks_the_runs_is_no_trace(tmp_path: Path, events: object) -> None:
    with pytest.raises(BackendError, match="trace"):
        operator_times(written(tmp_path / "t.json", events), 2)


def test_a_file_that_is_missing_or_no_json_is_told(tmp_path: Path) -> None:
    with pytest.raises(BackendError):
        operator_times(tmp_path / "none.json", 1)
    (tmp_path / "cut.json").write_text('[{"cat":')
    with pytest.raises(BackendError):
        operator_times(tmp_path / "cut.json", 1)
