"""What must be free, and what was read back: the arithmetic on records that tells what fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from records import measurement, tg_run

from edge_runtime.basis import Unavailable
from edge_runtime.measurement import Measurement, Workload, decode_workload
from edge_runtime.memory import Buffer, Memory, PhasePeak
from edge_runtime.paging import PAGING_LEAST_BYTES, paging_of
from edge_runtime.verdict import Target, VerdictKind, judge

MIB = 1024**2
MODEL = 400 * MIB
TOKENS = 10


def peak(
    phase: str = "decode", *, faults: int = 0, read: int | None = 0, anonymous: int = 100 * MIB
) -> PhasePeak:
    return PhasePeak(
        phase=phase,  # type: ignore[arg-type]
        peak_bytes=anonymous + MODEL, anonymous_bytes=anonymous, file_bytes=MODEL,
        major_faults=faults, read_bytes=read,
    )  # fmt: skip


def memory(*phases: PhasePeak, buffers: tuple[Buffer, ...] = ()) -> Memory:
    return Memory(baseline_bytes=50 * MIB, phases=phases, buffers=buffers, method="test")


def record(*phases: PhasePeak, workload: Workload | None = None, warmups: int = 1) -> Measurement:
    made = measurement((tg_run(TOKENS, 10_000_000),), workload=workload, model_bytes=MODEL)
    kept = made.memory
    assert isinstance(kept, Memory)
    return replace(made, memory=replace(kept, phases=phases), warmups=warmups)


def buffer(device: str, size: int, purpose: str = "model") -> Buffer:
    return Buffer(device=device, purpose=purpose, size_bytes=size)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("buffers", "need_mib"),
    [
        # Mapped weights must stay; cache and activations are anonymous already.
        ((buffer("CPU_Mapped", MODEL), buffer("CPU", 12 * MIB, "kv")), 500),
        # Where 300 MiB were copied into another order, the mapping needs the other 100 only.
        ((buffer("CPU_Mapped", MODEL), buffer("CPU_REPACK", 300 * MIB)), 200),
        ((buffer("CPU_Mapped", MODEL), buffer("AMX", 300 * MIB)), 200),
        # Copies that are larger than what they stand for give nothing back.
        ((buffer("CPU_Mapped", MODEL), buffer("CPU_REPACK", 500 * MIB)), 100),
        # Two files of one model; memory that graphics shares with the processor.
        ((buffer("CPU_Mapped", 150 * MIB), buffer("CPU_Mapped", 250 * MIB)), 500),
        ((buffer("Metal_Mapped", MODEL), buffer("CPU_Mapped", 50 * MIB)), 550),
        # Weights read into memory, on a card, or held by ONNX Runtime are no mapping.
        ((buffer("CPU", MODEL),), 100),
        ((buffer("CUDA0", MODEL),), 100),
        ((), 100),
    ],
)
def test_need_is_what_cannot_be_given_back_and_what_each_step_reads(
    buffers: tuple[Buffer, ...], need_mib: int
) -> None:
    found = memory(peak("load", anonymous=90 * MIB), peak(anonymous=100 * MIB), buffers=buffers)
    assert found.need_bytes == need_mib * MIB


def test_weights_rearranged_for_amx_are_in_main_memory_too() -> None:
    unmapped = record(peak())
    kept = unmapped.memory
    assert isinstance(kept, Memory)
    buffers = (buffer("AMX", 300 * MIB), buffer("CPU", 100 * MIB))
    verdict = judge(replace(unmapped, memory=replace(kept, buffers=buffers)))
    assert verdict.memory.weights_bytes == MODEL


def test_a_strangers_record_without_phases_has_the_idle_process_as_its_peak() -> None:
    assert memory().peak_bytes == 50 * MIB


def test_what_any_phase_does_not_tell_is_no_sum() -> None:
    told = memory(peak("load", read=5), peak(read=7))
    assert told.read_bytes == 12
    assert told.stalled_ns is None
    assert memory(peak("load", read=None), peak(read=7)).read_bytes is None
    assert memory().read_bytes is None


def test_a_model_that_stays_is_not_paged() -> None:
    assert paging_of(record(peak("load", read=MODEL, faults=90_000), peak())) is None


def test_reading_back_is_told_per_token_and_as_a_share() -> None:
    found = paging_of(record(peak("load", read=MODEL), peak(read=TOKENS * 100 * MIB)))
    assert found is not None
    assert found.bytes_per_token == 100 * MIB
    assert found.share == pytest.approx(0.25)
    assert "100 MiB per token, 25% of what a step reads" in found.words
    assert "does not fit" in found.words


def test_the_threshold_is_a_hundredth_of_a_step() -> None:
    hundredth = MODEL // 100 * TOKENS
    assert paging_of(record(peak(read=hundredth + TOKENS))) is not None
    assert paging_of(record(peak(read=hundredth - TOKENS))) is None


def test_a_librarys_first_pages_are_no_paging_of_a_tiny_model() -> None:
    tiny = record(peak(read=PAGING_LEAST_BYTES - 1))
    tiny = replace(tiny, artifact=replace(tiny.artifact, decode_bytes=MIB, size_bytes=MIB))
    assert paging_of(tiny) is None
    more = record(peak(read=PAGING_LEAST_BYTES))
    more = replace(more, artifact=tiny.artifact)
    assert paging_of(more) is not None


@pytest.mark.parametrize("read", [None, 0])
def test_where_reads_are_not_counted_each_major_fault_is_a_page(read: int | None) -> None:
    found = paging_of(record(peak(read=read, faults=50_000)))
    assert found is not None
    assert found.bytes_per_token == 50_000 * 4096 / TOKENS


def test_touching_the_weights_for_the_first_time_is_no_paging() -> None:
    first = record(peak(read=MODEL), warmups=0)
    assert paging_of(first) is None
    again = record(peak(read=MODEL + TOKENS * 100 * MIB), warmups=0)
    found = paging_of(again)
    assert found is not None
    assert found.bytes_per_token == 100 * MIB
    # After a depth was evaluated nothing is touched for the first time.
    assert paging_of(record(peak(read=MODEL), warmups=0, workload=decode_workload(10, depth=64)))


def test_without_memory_nothing_is_claimed() -> None:
    blind = replace(record(peak()), memory=Unavailable(reason="not read"))
    assert paging_of(blind) is None


FAST = Target(decode_tokens_per_s=20, context_tokens=1024)


def test_a_model_that_was_read_back_is_borderline_at_best_and_says_why() -> None:
    fits = judge(record(peak()), FAST)
    assert fits.kind is VerdictKind.VIABLE
    paged = judge(record(peak(read=TOKENS * 100 * MIB)), FAST)
    assert paged.memory.kind is VerdictKind.VIABLE
    assert paged.kind is VerdictKind.BORDERLINE
    assert paged.cause.startswith("memory: pages were read back from the disk")
    assert paged.next_step
    assert any("read back from the disk" in note for note in paged.notes)


def test_paging_is_the_cause_of_being_too_slow() -> None:
    paged = judge(record(peak(read=TOKENS * 100 * MIB)), replace(FAST, decode_tokens_per_s=500))
    assert paged.kind is VerdictKind.NOT_VIABLE
    assert paged.cause.startswith("memory: pages were read back")
