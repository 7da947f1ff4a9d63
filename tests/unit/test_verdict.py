"""The verdict: limits, intervals that cross them, memory, causes, and what to try next."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import GIB, chat_run, measurement, tg_run

from edge_runtime.basis import Basis, Unavailable
from edge_runtime.memory import Buffer, Memory
from edge_runtime.statistics import Interval
from edge_runtime.verdict import (
    Evidence,
    MemoryFit,
    Target,
    VerdictKind,
    judge,
    judge_evidence,
    longest_context,
)

ROOMY = MemoryFit(
    weights_bytes=GIB, kv_bytes=0, compute_bytes=0, process_bytes=0, available_bytes=8 * GIB
)


def evidence(low: float, value: float, high: float, **changes: object) -> Evidence:
    base = Evidence(
        model="m",
        level="Q4_K_M",
        basis=Basis.MEASURED,
        decode_tokens_per_s=Interval(low=low, value=value, high=high),
        depth_tokens=256,
        prefill_tokens_per_s=Interval(low=90, value=100, high=110),
        memory=ROOMY,
    )
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize(
    ("interval", "kind"),
    [
        ((21, 25, 30), VerdictKind.VIABLE),
        ((20, 25, 30), VerdictKind.VIABLE),
        ((19.9, 25, 30), VerdictKind.BORDERLINE),
        ((10, 12, 20), VerdictKind.BORDERLINE),
        ((10, 12, 19.9), VerdictKind.NOT_VIABLE),
    ],
)
def test_the_interval_decides(interval: tuple[float, float, float], kind: VerdictKind) -> None:
    assert judge_evidence(evidence(*interval), Target()).kind is kind


def test_exit_codes_are_the_documented_ones() -> None:
    codes = [
        judge_evidence(evidence(*bounds), Target()).exit_code
        for bounds in ((30, 31, 32), (1, 2, 3), (10, 20, 30))
    ]
    assert codes == [0, 1, 3]


def test_memory_that_does_not_fit_is_not_viable_however_fast() -> None:
    small = dataclasses.replace(ROOMY, available_bytes=GIB // 2)
    verdict = judge_evidence(evidence(90, 100, 110, memory=small), Target())
    assert verdict.kind is VerdictKind.NOT_VIABLE
    assert verdict.cause.startswith("memory: needs 1.00 GiB of 512 MiB free")
    assert small.headroom_bytes == -GIB // 2


def test_memory_inside_the_headroom_is_borderline() -> None:
    tight = dataclasses.replace(ROOMY, available_bytes=GIB + GIB // 20)
    assert judge_evidence(evidence(90, 100, 110, memory=tight), Target()).kind is (
        VerdictKind.BORDERLINE
    )


def test_unknown_free_memory_is_never_viable() -> None:
    unknown = dataclasses.replace(ROOMY, available_bytes=None)
    verdict = judge_evidence(evidence(90, 100, 110, memory=unknown), Target())
    assert verdict.kind is VerdictKind.BORDERLINE
    assert "does not say" in verdict.cause


def test_the_next_step_names_a_level_that_reads() -> None:
    other = dataclasses.replace(evidence(22, 24, 26), level="Q4_0")
    slow = evidence(10, 11, 12, bandwidth_share=0.85)
    verdict = judge_evidence(slow, Target(), alternatives=[other])
    assert verdict.cause == "memory bandwidth (85% of what this machine reads)"
    assert verdict.next_step == "Q4_0 would read at 24.0 tok/s."


def test_a_slow_level_that_leaves_bandwidth_unused_is_bound_by_computing() -> None:
    verdict = judge_evidence(evidence(10, 11, 12, bandwidth_share=0.3), Target())
    assert verdict.cause.startswith("computing")
    assert verdict.next_step == "Try a smaller model."


def test_a_rate_that_was_not_measured_is_no_verdict_against_the_device() -> None:
    missing = Unavailable(reason="the child was killed", remedy="Free memory.")
    verdict = judge_evidence(evidence(1, 2, 3, decode_tokens_per_s=missing), Target())
    assert verdict.kind is VerdictKind.BORDERLINE
    assert "the child was killed" in verdict.cause
    assert verdict.next_step == "Free memory."


def test_a_disturbed_machine_is_not_called_too_slow_for_what_it_might_reach_alone() -> None:
    slow = evidence(3, 4, 5, disturbances=("other processes used 85% of the CPU",))
    verdict = judge_evidence(slow, Target())
    assert verdict.kind is VerdictKind.BORDERLINE
    assert verdict.cause == "disturbed: other processes used 85% of the CPU"
    assert "check again" in verdict.next_step
    hopeless = dataclasses.replace(slow, decode_tokens_per_s=Interval(low=1, value=2, high=3))
    assert judge_evidence(hopeless, Target()).kind is VerdictKind.NOT_VIABLE
    fast = dataclasses.replace(slow, decode_tokens_per_s=Interval(low=30, value=31, high=32))
    assert judge_evidence(fast, Target()).kind is VerdictKind.VIABLE


def test_longest_context_is_where_the_line_meets_the_limit() -> None:
    # 25 ms at 256 tokens, 10 us per further token: 50 ms are reached 2,500 tokens further on.
    reading = evidence(39, 40, 41, depth_s_per_token=10e-6)
    assert longest_context(reading, Target()) == 2756
    assert longest_context(evidence(39, 40, 41), Target()) is None
    assert longest_context(evidence(9, 10, 11, depth_s_per_token=1e-6), Target()) is None


def test_a_context_that_outgrows_its_speed_is_said() -> None:
    reading = evidence(39, 40, 41, depth_s_per_token=10e-6)
    verdict = judge_evidence(reading, Target(context_tokens=8192))
    assert (
        verdict.next_step == "The longest context that still reads at 20.0 tok/s is 2,756 tokens."
    )


def test_a_measurement_is_judged_by_its_own_buffers() -> None:
    runs = tuple(chat_run(100, 500_000_000, 11, step) for step in (30_000_000, 31_000_000))
    record = measurement(runs, context=1024, kv_bytes=10 * 1024**2)
    verdict = judge(record, Target(context_tokens=4096, prompt_tokens=200))
    assert verdict.memory.kv_bytes == 40 * 1024**2
    assert verdict.ttft_s is not None
    assert verdict.ttft_s.value == pytest.approx(1.0)
    assert verdict.itl_p90_s == pytest.approx(0.031)


def test_repacked_weights_are_not_needed_twice() -> None:
    record = measurement((tg_run(9, 5_000_000),), model_bytes=400)
    assert isinstance(record.memory, Memory)
    buffers = (
        Buffer(device="CPU_Mapped", purpose="model", size_bytes=1000),
        Buffer(device="CPU_REPACK", purpose="model", size_bytes=700),
        Buffer(device="CUDA0", purpose="model", size_bytes=5000),
    )
    memory = dataclasses.replace(record.memory, buffers=buffers)
    assert judge(dataclasses.replace(record, memory=memory)).memory.weights_bytes == 1000


def test_a_measurement_without_decoding_says_so() -> None:
    record = measurement((chat_run(100, 500_000_000, 0, 1),))
    assert isinstance(judge(record).decode_tokens_per_s, Unavailable)


@given(st.floats(0.1, 500), st.floats(1, 3), st.floats(1, 3), st.floats(0.5, 400))
def test_a_faster_device_is_never_judged_worse(
    value: float, below: float, above: float, limit: float
) -> None:
    order = [VerdictKind.NOT_VIABLE, VerdictKind.BORDERLINE, VerdictKind.VIABLE]
    target = Target(decode_tokens_per_s=limit)
    slow = judge_evidence(evidence(value / below, value, value * above), target).kind
    faster = judge_evidence(evidence(2 * value / below, 2 * value, 2 * value * above), target).kind
    assert order.index(faster) >= order.index(slow)


def test_two_runs_of_the_same_rate_are_sure() -> None:
    record = measurement((tg_run(50, 40_000_000), tg_run(50, 40_000_000)))
    assert judge(record, Target(context_tokens=1024)).kind is VerdictKind.VIABLE
