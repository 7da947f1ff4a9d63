"""A measurement through a real child process, on the backend without an engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from edge_runtime.artifact import Artifact
from edge_runtime.basis import Basis, Unavailable
from edge_runtime.errors import BackendError, MemoryLimitError, UsageError, WorkerError
from edge_runtime.measurement import (
    Measurement,
    SessionOptions,
    Workload,
    decode_workload,
    prefill_workload,
)
from edge_runtime.memory import Memory
from edge_runtime.profiler import Plan, Progress, measure
from edge_runtime.profiler.ceiling import oom_kills
from edge_runtime.profiler.child import last_line

FAKE = SessionOptions(backend="fake")
MS = 1_000_000
STEP_MS = 4
CHAT = Workload(name="chat", protocol="chat", prompt_tokens=40, generate_tokens=20)
Script = Callable[..., None]

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def replaced_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Runs a few lines instead of the worker in the child process."""

    def replace(source: str) -> None:
        path = tmp_path / "stand_in.py"
        path.write_text(textwrap.dedent(source))
        popen = subprocess.Popen

        def start(command: list[str], **options: object) -> subprocess.Popen[bytes]:
            return popen([command[0], str(path)], **options)  # type: ignore[call-overload,no-any-return]

        monkeypatch.setattr(subprocess, "Popen", start)

    return replace


def test_a_decode_measurement_has_the_scripted_rate(artifact: Artifact, script: Script) -> None:
    script(step_ns=STEP_MS * MS)
    found = measure(artifact, decode_workload(20), FAKE, plan=Plan(min_runs=2, max_runs=3))
    rate = found.decode_tokens_per_s
    assert rate is not None
    # Sleeping overshoots, never undershoots: 250/s is the most. The best step, for busy machines.
    assert rate.value <= 250
    assert min(found.step_samples_ns) < 2 * STEP_MS * MS
    assert all(len(run.token_ns) == 20 for run in found.runs)
    assert all(run.prefilled_ns is None for run in found.runs)
    assert found.prefill_tokens_per_s is None
    assert 2 <= len(found.runs) <= 3
    assert found.warmups == 1
    assert found.options.context_tokens == 20
    assert found.requested == FAKE
    assert found.engine.name == "fake"
    assert found.artifact.fingerprint == artifact.fingerprint
    assert found.artifact.file == artifact.path.name
    assert found.basis is Basis.MEASURED


def test_a_prefill_measurement_has_the_scripted_rate(artifact: Artifact, script: Script) -> None:
    script(prefill_ns_per_token=MS)
    found = measure(artifact, prefill_workload(64), FAKE, plan=Plan(max_runs=3))
    rate = found.prefill_tokens_per_s
    assert rate is not None
    assert rate.value <= 1000
    assert max(found.prefill_samples) > 300, "something else than the prefill was timed"
    assert found.decode_tokens_per_s is None
    assert found.runs[0].prefill_tokens == 64


def test_a_chat_measurement_has_both_and_the_time_to_first_token(
    artifact: Artifact, script: Script
) -> None:
    script(prefill_ns_per_token=MS, step_ns=2 * MS)
    found = measure(artifact, CHAT, FAKE, plan=Plan(max_runs=3, min_runs=2))
    assert all(len(run.token_ns) == 20 and run.prefill_tokens == 40 for run in found.runs)
    # The second and third run prefill all 40 tokens again: no prefix is reused.
    assert all(ttft >= 0.040 for ttft in found.ttft_samples_s)
    assert min(found.ttft_samples_s) < 0.060
    assert all(len(run.step_ns) == 19 for run in found.runs)
    assert min(found.step_samples_ns) >= 2 * MS
    assert min(found.step_samples_ns) < 4 * MS
    assert found.notes == ()


def test_the_depth_is_prefilled_once_and_never_timed(artifact: Artifact, script: Script) -> None:
    script(prefill_ns_per_token=MS, step_ns=MS)
    plan = Plan(min_runs=6, max_runs=6, warmups=0)
    found = measure(artifact, decode_workload(10, depth=300), FAKE, plan=plan)
    assert found.options.context_tokens == 310
    assert min(found.step_samples_ns) < 2 * MS
    gaps_ns = [b.started_ns - a.token_ns[-1] for a, b in pairwise(found.runs)]
    assert min(gaps_ns) < 200 * MS, "the depth of 300 ms was evaluated again before every run"


def test_slow_steps_show_in_the_tail_not_in_the_median(artifact: Artifact, script: Script) -> None:
    script(step_ns=[MS] * 9 + [20 * MS])
    found = measure(artifact, decode_workload(20), FAKE, plan=Plan(warmups=0, max_runs=3))
    usual, tail = found.itl_s(25), found.itl_s(99)
    assert usual is not None
    assert usual < 0.010
    assert tail is not None
    assert tail >= 0.020


def test_stamps_rise_within_and_across_runs(artifact: Artifact, script: Script) -> None:
    script(step_ns=MS)
    found = measure(artifact, decode_workload(5), FAKE, plan=Plan(max_runs=4))
    stamps = [t for run in found.runs for t in (run.started_ns, *run.token_ns)]
    assert stamps == sorted(stamps)
    assert abs(stamps[-1] - time.perf_counter_ns()) < 60e9, "not the parent's monotonic clock"


def test_a_measurement_survives_json(artifact: Artifact, script: Script) -> None:
    script(step_ns=MS)
    found = measure(artifact, decode_workload(5), FAKE, plan=Plan(max_runs=3))
    assert Measurement.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(target_relative_half_width=0.9, min_runs=3), "narrower than 90.0%"),
        (Plan(target_relative_half_width=0.0, max_runs=4), "after 4 runs, the most allowed"),
        (Plan(target_relative_half_width=0.0, budget_s=0.1, max_runs=99), "time budget"),
    ],
)
def test_the_record_says_why_it_stopped(
    artifact: Artifact, script: Script, plan: Plan, words: str
) -> None:
    script(step_ns=2 * MS)
    assert words in measure(artifact, decode_workload(10), FAKE, plan=plan).stopped


def test_a_firm_budget_ends_a_repetition_between_steps_and_says_so(
    artifact: Artifact, script: Script
) -> None:
    script(step_ns=50 * MS, prefill_ns_per_token=0)
    both = Workload(name="pp8+tg64", prompt_tokens=8, generate_tokens=64)
    found = measure(artifact, both, FAKE, plan=Plan(budget_s=0.4, cut_short=True))
    assert len(found.runs) == 1
    assert 1 <= len(found.runs[0].token_ns) < 64
    assert len(found.runs[0].step_ns) == len(found.runs[0].token_ns)
    assert any("the time budget ended a repetition" in note for note in found.notes)
    rate = found.runs[0].decode_tokens_per_s
    assert rate is not None
    assert 5 < rate <= 20.1


def test_events_tell_the_stages_in_order(artifact: Artifact, script: Script) -> None:
    script(step_ns=MS)
    seen: list[Progress] = []
    plan = Plan(min_runs=3, max_runs=3)
    measure(artifact, decode_workload(5), FAKE, plan=plan, on_event=seen.append)
    stages = ["loading", "warming", *["running"] * 3, "closing"]
    assert [event.stage for event in seen] == stages
    assert [event.runs for event in seen[2:5]] == [0, 1, 2]
    assert seen[4].tokens_per_s is not None


def test_the_child_waits_while_the_parent_deals_with_an_event(
    artifact: Artifact, script: Script
) -> None:
    script(step_ns=MS)
    busy: list[tuple[int, int]] = []

    def slow(_event: Progress) -> None:
        began = time.perf_counter_ns()
        time.sleep(0.03)
        busy.append((began, time.perf_counter_ns()))

    found = measure(artifact, decode_workload(5), FAKE, plan=Plan(max_runs=3), on_event=slow)
    for run in found.runs:
        for began, ended in busy:
            assert ended <= run.started_ns or began >= run.token_ns[-1]


@linux
def test_the_parent_sleeps_while_the_child_measures(artifact: Artifact, script: Script) -> None:
    script(step_ns=10 * MS)
    began = time.process_time()
    found = measure(artifact, decode_workload(40), FAKE, plan=Plan(min_runs=3, max_runs=3))
    timed_s = sum(run.token_ns[-1] - run.started_ns for run in found.runs) / 1e9
    assert timed_s >= 1.2
    assert time.process_time() - began < 0.15


@linux
def test_instruments_fill_the_record_and_can_be_switched_off(
    artifact: Artifact, script: Script
) -> None:
    script(step_ns=5 * MS, prefill_ns_per_token=MS)
    watched = measure(artifact, CHAT, FAKE, plan=Plan(max_runs=3))
    assert isinstance(watched.memory, Memory)
    assert [phase.phase for phase in watched.memory.phases] == ["load", "prefill", "decode"]
    assert {buffer.purpose for buffer in watched.memory.buffers} == {"model", "kv", "compute"}
    assert watched.memory.peak_bytes > watched.memory.phases[0].anonymous_bytes > 1 << 20
    assert watched.noise.foreign_share is not None
    assert watched.noise.lateness_p90_ns is not None
    assert watched.noise.sampler_share is not None
    assert watched.noise.sampler_share < 0.01
    plain = measure(artifact, CHAT, FAKE, plan=Plan(max_runs=3, instruments=False))
    assert isinstance(plain.memory, Unavailable)
    assert plain.noise.foreign_share is plain.noise.sampler_share is None
    assert plain.noise.flags == ()


def test_energy_is_unavailable_with_a_reason_and_never_zero(
    artifact: Artifact, script: Script
) -> None:
    script(step_ns=MS)
    found = measure(artifact, decode_workload(5), FAKE, plan=Plan(max_runs=3))
    assert isinstance(found.energy, Unavailable)
    assert found.energy.reason


def test_a_model_without_a_tokenizer_is_measured_with_random_tokens_and_says_so(
    artifact: Artifact, script: Script, tmp_path: Path
) -> None:
    import gguf
    import numpy as np

    path = tmp_path / "mute.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_block_count, 1), (writer.add_context_length, 64),
        (writer.add_embedding_length, 32), (writer.add_feed_forward_length, 32),
        (writer.add_head_count, 1), (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_vocab_size, 300),
    ):  # fmt: skip
        add(value)
    writer.add_tokenizer_model("no_vocab")
    square = np.zeros((32, 32), np.float32)
    writer.add_tensor("token_embd.weight", np.zeros((300, 32), np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", square)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    script(step_ns=MS)
    found = measure(Artifact.open(path), CHAT, FAKE, plan=Plan(max_runs=3))
    assert all(len(run.token_ns) == 20 and run.prefill_tokens == 40 for run in found.runs)
    assert len(found.notes) == 1
    assert "no tokenizer" in found.notes[0]


@linux
def test_a_cold_load_is_told_from_a_warm_one(
    artifact: Artifact, script: Script, make_random_gguf: Callable[..., Path]
) -> None:
    script(step_ns=0, load_ns=30 * MS)
    own = Artifact.open(make_random_gguf())
    own.path.read_bytes()
    warm = measure(own, decode_workload(2), FAKE, plan=Plan(max_runs=3))
    assert warm.load.page_cache == "warm"
    assert warm.load.resident_share == 1.0
    assert warm.load.duration_ns >= 30 * MS
    cold = measure(own, decode_workload(2), FAKE, plan=Plan(max_runs=3, cold_cache=True))
    assert cold.load.resident_share is not None
    if cold.load.resident_share > 0.05:
        pytest.skip("this file system keeps its pages (tmpfs)")
    assert cold.load.page_cache == "cold"


@pytest.mark.parametrize(
    ("workload", "options", "word"),
    [
        (Workload(name="nothing"), FAKE, "no tokens"),
        (Workload(name="x", prompt_tokens=-1, generate_tokens=3), FAKE, "no tokens"),
        (decode_workload(64), SessionOptions(backend="fake", context_tokens=32), "64 tokens"),
        (Workload(name="c", protocol="chat", prompt_tokens=5), FAKE, "prompt and output"),
        (
            Workload(name="c", protocol="chat", prompt_tokens=5, generate_tokens=5, depth_tokens=9),
            FAKE,
            "depth",
        ),
    ],
)
def test_a_workload_that_cannot_run_is_refused_before_anything_starts(
    artifact: Artifact, workload: Workload, options: SessionOptions, word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        measure(artifact, workload, options)


@pytest.mark.parametrize(
    "bad",
    [
        {"min_runs": 0},
        {"min_runs": 5, "max_runs": 4},
        {"budget_s": 0.0},
        {"warmups": -1},
        {"timeout_s": 0.0},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Plan(**bad)  # type: ignore[arg-type]


def test_an_unknown_backend_is_the_same_error_here_as_in_the_child(artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="no backend named 'nonsense'"):
        measure(artifact, decode_workload(2), SessionOptions(backend="nonsense"))


def test_an_error_in_the_child_keeps_its_type_and_its_words(
    artifact: Artifact, script: Script
) -> None:
    script(crash="error", crash_after=3)
    with pytest.raises(BackendError) as caught:
        measure(artifact, decode_workload(5), FAKE)
    assert caught.value.fact == "The fake backend failed."
    assert caught.value.cause == "Its script says so."
    script(crash="memory", crash_at="load")
    with pytest.raises(MemoryLimitError):
        measure(artifact, decode_workload(5), FAKE)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_child_names_the_signal_and_the_likely_cause(
    artifact: Artifact, script: Script
) -> None:
    script(crash="kill", crash_after=3)
    with pytest.raises(WorkerError, match="SIGKILL") as caught:
        measure(artifact, decode_workload(5), FAKE)
    assert "memory" in caught.value.cause
    assert caught.value.way_out


def test_a_child_that_ends_without_a_word_gives_its_exit_code(
    artifact: Artifact, script: Script
) -> None:
    script(crash="exit", crash_after=3)
    with pytest.raises(WorkerError, match="exit code 1"):
        measure(artifact, decode_workload(5), FAKE)


def test_garbage_instead_of_an_answer_is_an_error_that_quotes_it(
    artifact: Artifact, replaced_worker: Callable[[str], None]
) -> None:
    replaced_worker("print('Segmentation fault, or so')")
    with pytest.raises(WorkerError) as caught:
        measure(artifact, decode_workload(5), FAKE)
    assert "Segmentation fault, or so" in caught.value.cause


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_the_last_words_on_stderr_are_in_the_error(
    artifact: Artifact, replaced_worker: Callable[[str], None]
) -> None:
    replaced_worker(
        """
        import os, sys
        print("ggml: assertion failed: n > 0\\n\\n", file=sys.stderr, flush=True)
        os.abort()
        """
    )
    with pytest.raises(WorkerError, match="SIGABRT") as caught:
        measure(artifact, decode_workload(5), FAKE)
    assert "ggml: assertion failed: n > 0" in caught.value.cause


def test_noise_on_the_childs_stdout_cannot_corrupt_the_answer(
    artifact: Artifact, script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # An engine that prints on descriptor 1 from C, and a library that prints from Python.
    (tmp_path / "edge_runtime_noise.py").write_text(
        textwrap.dedent(
            """
            import os
            from edge_runtime.backends import fake

            class Loud(fake.FakeBackend):
                def open(self, artifact, options):
                    os.write(1, b"load: 100 %\\n")
                    print("hello from Python", flush=True)
                    return super().open(artifact, options)

            fake.BACKEND = Loud()
            """
        )
    )
    (tmp_path / "sitecustomize.py").write_text("import edge_runtime_noise\n")
    monkeypatch.syspath_prepend(tmp_path)
    script(step_ns=MS)
    found = measure(artifact, decode_workload(5), FAKE, plan=Plan(max_runs=3))
    assert len(found.runs) == 3


def test_a_child_that_takes_too_long_is_ended(artifact: Artifact, script: Script) -> None:
    script(step_ns=60_000 * MS)
    began = time.perf_counter()
    with pytest.raises(WorkerError, match="longer than 2"):
        measure(artifact, decode_workload(5), FAKE, plan=Plan(timeout_s=2.0))
    assert time.perf_counter() - began < 10


def test_an_error_in_the_callers_callback_leaves_no_child_behind(
    artifact: Artifact, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(step_ns=MS)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remember(*args: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remember)

    def interrupt(_event: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(artifact, decode_workload(5), FAKE, on_event=interrupt)
    assert started[0].returncode is not None


@linux
def test_a_killed_parent_takes_its_child_along(artifact: Artifact, tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        from edge_runtime.artifact import Artifact
        from edge_runtime.measurement import SessionOptions, decode_workload
        from edge_runtime.profiler import measure
        measure(Artifact.open({str(artifact.path)!r}), decode_workload(5),
                SessionOptions(backend="fake"), on_event=lambda e: print(e.stage, flush=True))
        """
    )
    environment = {
        **os.environ,
        "EDGE_RUNTIME_FAKE": f'{{"step_ns": {60_000 * MS}}}',
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        while parent.stdout.readline().strip() != b"warming":
            pass
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(children) == 1
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{children[0]}/cmdline").exists() and time.monotonic() < deadline:
        if not Path(f"/proc/{children[0]}/cmdline").read_bytes():
            break  # a zombie waiting for init
        time.sleep(0.02)
    assert time.monotonic() < deadline


def test_the_child_finds_packages_only_where_the_parent_does(
    artifact: Artifact, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stranger's json.py in the present directory must not be imported by the child.
    (tmp_path / "json.py").write_text("raise SystemExit(77)\n")
    monkeypatch.setattr(sys, "path", [p or os.getcwd() for p in sys.path])  # noqa: PTH109
    monkeypatch.chdir(tmp_path)
    script(step_ns=MS)
    found = measure(artifact, decode_workload(3), FAKE, plan=Plan(max_runs=3))
    assert found.runs


def test_the_kernels_kill_counter_is_read(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 5\noom_kill 3\n")
    assert oom_kills(tmp_path) == 3
    assert oom_kills(tmp_path / "nowhere") is None


def test_the_last_line_skips_blank_ones_and_broken_characters(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(b"first\n\xff" + b"x" * 400 + b"\n \n\n")
    with path.open("rb") as file:
        line = last_line(file)
    assert line.startswith("\N{REPLACEMENT CHARACTER}xxx")
    assert len(line) == 300
