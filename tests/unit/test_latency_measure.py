"""Latency measured through real child processes, on ONNX Runtime."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from vision_model import write_encoder, write_matmuls, write_vision_model

import edge_runtime
from edge_runtime.basis import Unavailable
from edge_runtime.errors import BackendError, MemoryLimitError, UnsupportedError, WorkerError
from edge_runtime.latency import LatencyMeasurement, LatencyOptions, OperatorTimes
from edge_runtime.memory import Memory
from edge_runtime.profiler import Plan, Progress, measure_latency
from edge_runtime.profiler.latency import plain_graph
from edge_runtime.profiler.latency_pass import LEAST_ROUNDS, ROUND_NS, round_size

QUICK = Plan(warmups=1, min_runs=10, max_runs=20, budget_s=20.0)
ONE_THREAD = LatencyOptions(threads=1)


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision_model(tmp_path_factory.mktemp("vision") / "mobilenet.onnx", width=0.25)


@pytest.fixture(scope="module")
def measured(vision: Path) -> LatencyMeasurement:
    return measure_latency(vision, plan=QUICK)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Runs a few lines in the child first; `spec` is what it was sent, `go_on()` the worker."""

    def replace(source: str) -> None:
        path = tmp_path / "stand_in.py"
        path.write_text(
            textwrap.dedent(
                """
                import io, os, sys
                line = sys.stdin.buffer.readline()
                spec = line.decode()

                def go_on():
                    from edge_runtime.profiler import worker
                    class First:
                        def __init__(self, rest): self.rest, self.said = rest, False
                        def readline(self):
                            if self.said: return self.rest.readline()
                            self.said = True
                            return line
                    class Stdin:
                        buffer = First(sys.stdin.buffer)
                    sys.stdin = Stdin()
                    worker.main()
                """
            )
            + textwrap.dedent(source)
        )
        popen = subprocess.Popen

        def start(command: list[str], **options: object) -> subprocess.Popen[bytes]:
            return popen([command[0], str(path)], **options)  # type: ignore[call-overload,no-any-return]

        monkeypatch.setattr(subprocess, "Popen", start)

    return replace


def test_a_vision_model_has_latency_memory_and_times_by_operator(
    measured: LatencyMeasurement,
) -> None:
    assert 10 <= len(measured.latencies_ns) <= 20
    assert min(measured.latencies_ns) > 0
    assert len(measured.rounds) >= LEAST_ROUNDS
    assert measured.outputs[0].shape == (1, 100)
    assert measured.outputs[0].preallocated
    assert measured.placed[0].provider == "CPUExecutionProvider"
    assert measured.model.name == "mobilenet"
    assert measured.model.level == "fp32"
    assert measured.load.duration_ns > 0
    assert isinstance(measured.memory, Memory)
    assert measured.loaded_bytes is not None
    assert measured.peak_bytes is not None
    assert measured.memory.baseline_bytes < measured.loaded_bytes <= measured.peak_bytes
    assert [p.phase for p in measured.memory.phases] == ["load", "loaded", "run"]


def test_operator_times_are_those_of_a_convolutional_network(
    measured: LatencyMeasurement,
) -> None:
    times = measured.operators
    assert isinstance(times, OperatorTimes)
    spent = {item.op: item for item in times.by_operator}
    convolutions = sum(item.nodes for op, item in spent.items() if "Conv" in op)
    # Eight blocks of an expansion, a depthwise convolution and a projection, and two more; with
    # squeeze-and-excite in six blocks, of two convolutions each.
    assert convolutions == 8 * 3 + 2 + 6 * 2
    assert spent["Gemm"].nodes == 1
    assert 0 < times.covered <= 1
    assert all(node.calls == len(times.runs_ns) for node in times.nodes)


def test_the_record_survives_json(measured: LatencyMeasurement) -> None:
    assert LatencyMeasurement.from_json(measured.to_json()) == measured


def test_a_plain_loop_over_the_same_model_is_about_as_quick(
    vision: Path, measured: LatencyMeasurement
) -> None:
    import time

    from edge_runtime.backends.onnx.library import library
    from edge_runtime.backends.onnx.loading import session_settings

    threads = measured.options.threads
    assert threads is not None
    session = library().InferenceSession(str(vision), session_settings(threads))
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    found = []
    for _ in range(40):
        started = time.perf_counter()
        session.run(None, {"image": image})
        found.append(time.perf_counter() - started)
    # The least of many is what the model takes when nobody disturbs; tests do share machines.
    assert measured.least_s == pytest.approx(min(found), rel=1.5)
    assert min(found) == pytest.approx(measured.least_s, rel=1.5)


def test_four_times_the_work_takes_about_four_times_as_long(tmp_path: Path) -> None:
    least = []
    for count in (4, 16):
        path = write_matmuls(tmp_path / f"{count}.onnx", size=128, count=count)
        plan = Plan(warmups=2, min_runs=200, max_runs=200)
        least.append(measure_latency(path, options=ONE_THREAD, plan=plan).least_s)
    assert 2.0 < least[1] / least[0] < 8.0


def test_stamps_are_in_order_and_within_the_time_it_took(measured: LatencyMeasurement) -> None:
    stamps = [s for item in measured.rounds for s in (item.started_ns, *item.ended_ns)]
    assert stamps == sorted(stamps)


def test_an_encoder_with_two_inputs(tmp_path: Path) -> None:
    found = edge_runtime.measure_latency(
        write_encoder(tmp_path / "encoder.onnx"), {"input_ids": (2, 16)}, ONE_THREAD, plan=QUICK
    )
    assert [item.shape for item in found.inputs] == [(2, 16), (2, 16)]
    assert found.outputs[0].shape == (2, 16, 32)
    assert found.options.threads == 1
    assert found.requested == ONE_THREAD


def test_events_come_between_rounds_and_never_more_than_rounds(vision: Path) -> None:
    events: list[Progress] = []
    plan = Plan(warmups=0, min_runs=5, max_runs=5)
    found = measure_latency(vision, plan=plan, on_event=events.append)
    stages = [event.stage for event in events]
    assert stages[:2] == ["loading", "warming"]
    assert stages[-1] == "tracing"
    running = [event for event in events if event.stage == "running"]
    assert len(running) == len(found.rounds)
    assert [event.runs for event in running] == sorted(event.runs for event in running)


@pytest.mark.parametrize("count", [1, 7])
def test_exactly_as_many_inferences_as_asked_for(tmp_path: Path, count: int) -> None:
    path = write_matmuls(tmp_path / "m.onnx", size=16, count=1)
    plan = Plan(warmups=0, min_runs=count, max_runs=count)
    assert len(measure_latency(path, plan=plan).latencies_ns) == count


def test_rounds_are_long_enough_and_enough() -> None:
    plan = Plan(min_runs=400, max_runs=100_000)
    assert round_size(plan, 20_000) == ROUND_NS // 20_000
    assert round_size(plan, 10 * ROUND_NS) == 1
    assert round_size(plan, 0) <= 100_000 // LEAST_ROUNDS
    assert round_size(Plan(min_runs=5, max_runs=5), 1) == 1


def save(path: Path, nodes: list[onnx.NodeProto], dims: list[int | str], output: int) -> Path:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(np.array([10**12], np.int64), "much")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def test_outputs_whose_shape_varies_are_the_engines(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Sigmoid", ["x"], ["p"]),
            helper.make_node("Bernoulli", ["p"], ["b"]),
            helper.make_node("NonZero", ["b"], ["y"]),
        ],
        [100, 100], TensorProto.INT64,
    )  # fmt: skip
    found = measure_latency(path, plan=QUICK)
    assert not found.outputs[0].preallocated
    assert any("shapes vary" in note for note in found.notes)


def test_outputs_that_are_text_or_sequences_are_the_engines(tmp_path: Path) -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)
    found = measure_latency(save(tmp_path / "m.onnx", [node], [3], TensorProto.STRING), plan=QUICK)
    assert (found.outputs[0].shape, found.outputs[0].preallocated) == ((3,), False)


def test_an_operator_that_nobody_knows_is_an_error_in_words(tmp_path: Path) -> None:
    node = helper.make_node("Whatever", ["x"], ["y"], domain="acme")
    with pytest.raises(edge_runtime.EdgeError, match="Whatever"):
        measure_latency(save(tmp_path / "m.onnx", [node], [3], TensorProto.FLOAT), plan=QUICK)


def test_a_graph_that_fails_when_it_runs_is_an_error_in_words(tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["x", "much"], ["y"])
    with pytest.raises(BackendError, match="failed to run"):
        measure_latency(save(tmp_path / "m.onnx", [node], [3], TensorProto.FLOAT), plan=QUICK)


def test_a_graph_that_wants_more_memory_than_there_is(tmp_path: Path) -> None:
    nodes = [helper.make_node("Expand", ["x", "much"], ["y"])]
    with pytest.raises((MemoryLimitError, WorkerError)):
        measure_latency(save(tmp_path / "m.onnx", nodes, [1], TensorProto.FLOAT), plan=QUICK)


def test_inputs_larger_than_memory_start_no_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    path = save(tmp_path / "m.onnx", [node], ["n", "w"], TensorProto.FLOAT)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(MemoryLimitError, match="inputs take"):
        measure_latency(path, {"x": (10**6, 10**7)}, plan=QUICK)


def test_a_killed_child_is_told_apart(vision: Path, stand_in: Callable[[str], None]) -> None:
    stand_in("os.kill(os.getpid(), 9)")
    with pytest.raises(WorkerError, match="SIGKILL") as caught:
        measure_latency(vision, plan=QUICK)
    assert "--shape" in caught.value.way_out


def test_a_failing_trace_keeps_what_was_timed(
    vision: Path,
    tmp_path: Path,
    stand_in: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stand_in("""os.kill(os.getpid(), 11) if '"trace":null' not in spec else go_on()""")
    found = measure_latency(vision, plan=QUICK)
    assert found.latencies_ns
    assert isinstance(found.operators, Unavailable)
    assert "SIGSEGV" in found.operators.reason
    assert not list(tmp_path.glob("edge-trace*"))


def test_a_child_that_takes_too_long_is_ended(
    vision: Path, stand_in: Callable[[str], None]
) -> None:
    stand_in("import time; time.sleep(60)")
    with pytest.raises(WorkerError, match=r"mobilenet\.onnx took longer"):
        measure_latency(vision, plan=Plan(timeout_s=0.5))


def test_a_language_model_is_not_judged_by_latency(random_gguf: Path) -> None:
    assert plain_graph(random_gguf) is None
    with pytest.raises(UnsupportedError, match="no ONNX model without a cache"):
        measure_latency(random_gguf)


def test_no_trace_is_left_behind(
    vision: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert isinstance(measure_latency(vision, plan=QUICK).operators, OperatorTimes)
    assert not list(tmp_path.glob("*edge*"))
    assert not list(tmp_path.rglob("*trace*"))
