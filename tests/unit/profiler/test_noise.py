"""What else the machine did: from made-up counters, and from a real disturbance."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest

from edge_runtime.profiler import noise, thermal

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def snapshot(
    *,
    at_s: float,
    busy: float = 0.0,
    steal: float | None = 0.0,
    total: float = 0.0,
    own: float = 0.0,
    hz: float | None = None,
) -> noise._Snapshot:
    return noise._Snapshot(
        taken_ns=int(at_s * 1e9), own_s=own, frequency_hz=hz,
        cpu=noise.CpuTimes(busy_s=busy, steal_s=steal, total_s=total),
        throttle=thermal.ThrottleState(counts=(), pi_bits=None),
    )  # fmt: skip


def noise_between(before: noise._Snapshot, after: noise._Snapshot, **late: float) -> noise.Noise:
    meter = noise.NoiseMeter()
    meter._before, meter._after = before, after
    return meter.noise(
        lateness_p90_ns=int(late.get("lateness_ns", 0)), sampler_share=late.get("share", 0.0)
    )


def test_only_what_others_used_counts_as_foreign() -> None:
    # Two cores for ten seconds: all 20 s busy, 12 of them ours.
    found = noise_between(
        snapshot(at_s=0, own=5.0), snapshot(at_s=10, busy=20.0, total=20.0, own=17.0)
    )
    assert found.foreign_share == pytest.approx(0.4)
    assert found.flags == ("other processes used 40% of the CPU",)
    assert found.disturbed


def test_a_quiet_machine_raises_no_flag() -> None:
    found = noise_between(
        snapshot(at_s=0, hz=2e9), snapshot(at_s=10, busy=19.8, total=20.0, own=19.5, hz=1.95e9)
    )
    assert found.foreign_share == pytest.approx(0.015)
    assert found.flags == ()


def test_own_time_counted_by_a_finer_clock_never_makes_it_negative() -> None:
    found = noise_between(snapshot(at_s=0), snapshot(at_s=1, busy=1.0, total=2.0, own=1.02))
    assert found.foreign_share == 0.0


@pytest.mark.parametrize(
    ("after", "late", "words"),
    [
        (snapshot(at_s=10, total=20.0, steal=1.0), {}, "hypervisor took 5%"),
        (snapshot(at_s=10, total=20.0, hz=1.0e9), {}, "fell from 2.00 to 1.00 GHz"),
        (snapshot(at_s=10, total=20.0), {"lateness_ns": 30e6}, "30.0 ms late"),
        (snapshot(at_s=10, total=20.0), {"share": 0.03}, "sampler itself used 3.0%"),
    ],
)
def test_each_disturbance_is_flagged_in_words(
    after: noise._Snapshot, late: dict[str, float], words: str
) -> None:
    found = noise_between(snapshot(at_s=0, hz=2.0e9), after, **late)
    assert len(found.flags) == 1
    assert words in found.flags[0]


def test_a_window_too_short_for_the_kernels_ticks_says_nothing() -> None:
    found = noise_between(snapshot(at_s=0), snapshot(at_s=0.1, busy=0.2, total=0.2))
    assert found.foreign_share is None
    assert found.flags == ()


def test_a_system_without_steal_time_has_none() -> None:
    found = noise_between(
        snapshot(at_s=0, steal=None), snapshot(at_s=10, steal=None, busy=1.0, total=20.0)
    )
    assert found.steal_share is None
    assert found.foreign_share == pytest.approx(0.05)


@linux
def test_proc_stat_is_read_by_its_manual(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  100 20 30 400 50 6 7 80 90 10\ncpu0 1 2 3\n")
    found = noise.cpu_times(tmp_path)
    assert found is not None
    assert found.busy_s == pytest.approx((100 + 20 + 30 + 6 + 7) / TICK)
    assert found.steal_s == pytest.approx(80 / TICK)
    # Guest time (90, 10) is inside user time already.
    assert found.total_s == pytest.approx((100 + 20 + 30 + 400 + 50 + 6 + 7 + 80) / TICK)


@linux
@pytest.mark.parametrize(
    "text", ["", "cpu 1 2\n", "cpu a b c d e f g h\n", "intr 5 6 7 8 9 1 2 3\n"]
)
def test_a_strange_proc_stat_is_no_reading(tmp_path: Path, text: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(text)
    assert noise.cpu_times(tmp_path) is None
    assert noise.cpu_times(tmp_path / "nowhere") is None


def _burn(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@linux
def test_a_real_neighbour_is_noticed() -> None:
    meter = noise.NoiseMeter()
    neighbour = multiprocessing.get_context("spawn").Process(target=_burn, args=(1.0,))
    neighbour.start()
    try:
        time.sleep(0.3)
        meter.start()
        time.sleep(0.5)
        meter.stop()
    finally:
        neighbour.join()
    found = meter.noise(lateness_p90_ns=None, sampler_share=None)
    assert found.foreign_share is not None
    cores = len(os.sched_getaffinity(0))
    assert found.foreign_share > 0.5 / max(cores, os.cpu_count() or 1)
