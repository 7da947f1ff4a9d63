"""Memory by phase: a child that maps a known file and takes known memory is reported as such."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
import tracemalloc
from pathlib import Path

import pytest

from edge_runtime.basis import Unavailable
from edge_runtime.profiler import memory
from edge_runtime.profiler.pagecache import (
    drop_from_page_cache,
    page_cache_state,
    resident_share,
)
from edge_runtime.profiler.ticker import Sample

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MIB = 1024**2
FILE_MIB, ANONYMOUS_MIB, TOLERANCE_MIB = 64, 48, 4

CHILD = """
import json, mmap, sys
from edge_runtime.codec import to_jsonable
from edge_runtime.profiler.memory import LinuxMemory, PhaseMeter

def touch(block):
    for offset in range(0, len(block), 4096):
        block[offset]

source = LinuxMemory()
meter = PhaseMeter(source)
meter.begin("load")
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
touch(mapped)
meter.begin("prefill")
block = mmap.mmap(-1, int(sys.argv[2]))
for offset in range(0, len(block), 4096):
    block[offset] = 1
block.close()
meter.begin("decode")
meter.end()
print(json.dumps(to_jsonable(meter.memory((), ()))))
"""


def phases_of_child(path: Path) -> tuple[dict[str, dict[str, float]], float]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(path), str(ANONYMOUS_MIB * MIB)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    record = json.loads(done.stdout)
    return {phase["phase"]: phase for phase in record["phases"]}, record["baseline_bytes"]


@pytest.fixture
def known_file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(MIB) * FILE_MIB)
    return path


def check(phases: dict[str, dict[str, float]], baseline: float) -> None:
    tolerance = TOLERANCE_MIB * MIB
    load, prefill, decode = phases["load"], phases["prefill"], phases["decode"]
    assert load["peak_bytes"] == pytest.approx(baseline + FILE_MIB * MIB, abs=tolerance)
    both = baseline + (FILE_MIB + ANONYMOUS_MIB) * MIB
    assert prefill["peak_bytes"] == pytest.approx(both, abs=tolerance)
    # The block was given back: the mark was set back with it, or decode would inherit the peak.
    assert decode["peak_bytes"] == pytest.approx(baseline + FILE_MIB * MIB, abs=tolerance)
    assert load["file_bytes"] - load["anonymous_bytes"] > (FILE_MIB - 24) * MIB


@linux
def test_known_sizes_come_back_by_phase(known_file: Path) -> None:
    check(*phases_of_child(known_file))


@linux
def test_a_fat_parent_does_not_move_the_childs_figures(known_file: Path) -> None:
    thin, thin_baseline = phases_of_child(known_file)
    ballast = bytearray(300 * MIB)
    ballast[::4096] = b"x" * len(ballast[::4096])
    fat, fat_baseline = phases_of_child(known_file)
    check(fat, fat_baseline)
    assert fat["load"]["peak_bytes"] == pytest.approx(
        thin["load"]["peak_bytes"], abs=TOLERANCE_MIB * MIB
    )
    assert fat_baseline == pytest.approx(thin_baseline, abs=TOLERANCE_MIB * MIB)
    del ballast


SPLIT_CHILD = """
import json, mmap, os, sys
from edge_runtime.codec import to_jsonable
from edge_runtime.profiler.memory import LinuxMemory, PhaseMeter

def touch(block):
    for offset in range(0, len(block), 4096):
        block[offset]

meter = PhaseMeter(LinuxMemory())
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
touch(bytearray(4096))
meter.begin("loaded")
meter.begin("prefill")
touch(mapped)
meter.begin("decode")
block = mmap.mmap(-1, int(sys.argv[2]), mmap.MAP_PRIVATE)
for offset in range(0, len(block), 4096):
    block[offset] = 1
meter.end()
print(json.dumps(to_jsonable(meter.memory((), ()))))
"""


def split_child(path: Path) -> dict[str, dict[str, int]]:
    done = subprocess.run(
        [sys.executable, "-c", SPLIT_CHILD, str(path), str(ANONYMOUS_MIB * MIB)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return {phase["phase"]: phase for phase in json.loads(done.stdout)["phases"]}


@linux
@pytest.mark.parametrize("parent_mib", [0, 200])
def test_anonymous_and_mapped_memory_come_back_apart_within_two_mib(
    known_file: Path, parent_mib: int
) -> None:
    ballast = bytearray(parent_mib * MIB)
    ballast[::4096] = b"x" * len(ballast[::4096])
    phases = split_child(known_file)
    idle, mapped, both = phases["loaded"], phases["prefill"], phases["decode"]
    tolerance = 2 * MIB
    grown_file = mapped["file_bytes"] - idle["file_bytes"]
    assert grown_file == pytest.approx(FILE_MIB * MIB, abs=tolerance)
    assert mapped["anonymous_bytes"] == pytest.approx(idle["anonymous_bytes"], abs=tolerance)
    grown = both["anonymous_bytes"] - mapped["anonymous_bytes"]
    assert grown == pytest.approx(ANONYMOUS_MIB * MIB, abs=tolerance)
    assert both["file_bytes"] == pytest.approx(mapped["file_bytes"], abs=tolerance)
    # An absolute bound, which a figure inherited from the parent would break.
    assert idle["peak_bytes"] < 100 * MIB
    del ballast


@linux
def test_what_is_fetched_from_the_disk_is_counted_in_its_phase(known_file: Path) -> None:
    drop_from_page_cache([known_file])
    share = resident_share([known_file])
    if share is None or share > 0.05:
        pytest.skip("this file system keeps its pages (tmpfs)")
    phases = split_child(known_file)
    if phases["prefill"]["read_bytes"] is None:
        pytest.skip("the system does not tell")
    if not phases["prefill"]["read_bytes"] and phases["prefill"]["major_faults"]:
        pytest.skip("this file system counts no bytes read")
    assert phases["prefill"]["read_bytes"] == pytest.approx(FILE_MIB * MIB, abs=2 * MIB)
    assert phases["prefill"]["major_faults"] > 0
    assert phases["decode"]["read_bytes"] < MIB


STATUS = (
    b"Name:\tpython3\nVmPeak:\t  900 kB\nVmHWM:\t  800 kB\nVmRSS:\t  700 kB\n"
    b"RssAnon:\t  300 kB\nRssFile:\t  390 kB\nRssShmem:\t  10 kB\nThreads:\t1\n"
)
# A command named ") R 9" must not shift the fields.
STAT = b"77 () R 9) S 1 1 1 0 -1 4194304 500 0 42 0 10 5 0 0 20 0 1 0 100 1 1 1\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    own = tmp_path / "proc/self"
    own.mkdir(parents=True)
    (own / "status").write_bytes(STATUS)
    (own / "stat").write_bytes(STAT)
    (own / "statm").write_bytes(b"225 175 100 1 0 60 0\n")
    (own / "clear_refs").write_bytes(b"")
    return tmp_path


@linux
def test_the_kernels_files_are_read_by_their_manual(proc: Path) -> None:
    source = memory.LinuxMemory(proc)
    found = source.parse(source.read())
    assert found.peak_bytes == 800 * 1024
    assert found.resident_bytes == 700 * 1024
    assert found.anonymous_bytes == 300 * 1024
    assert found.file_bytes == 400 * 1024
    assert found.major_faults == 42
    sample = source.parse_sample(source.sample())
    page = os.sysconf("SC_PAGE_SIZE")
    assert (sample.anonymous_bytes, sample.file_bytes) == (75 * page, 100 * page)
    assert (proc / "proc/self/clear_refs").read_bytes() == b"5"


IO = (
    "rchar: 99\nwchar: 1\nsyscr: 9\nsyscw: 1\nread_bytes: {}\nwrite_bytes: 7\n"
    "cancelled_write_bytes: 0\n"
)
PRESSURE = (
    "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=999999\n"
)


def write_io(proc: Path, read: int) -> None:
    (proc / "proc/self/io").write_text(IO.format(read))


@linux
@pytest.mark.parametrize("place", ["proc/pressure/memory", "sys/fs/cgroup/box/memory.pressure"])
def test_reads_and_waits_are_summed_over_a_phase_and_kept_apart(proc: Path, place: str) -> None:
    pressure = proc / place
    pressure.parent.mkdir(parents=True)
    (proc / "proc/self/cgroup").write_text("0::/box\n")

    def now(read: int, waited_us: int) -> None:
        # In place: the kernel's files are opened once and read again and again.
        write_io(proc, read)
        pressure.write_text(PRESSURE.format(waited_us))

    now(4096, 10)
    meter = memory.PhaseMeter(memory.LinuxMemory(proc))
    meter.begin("prefill")
    now(8192, 30)
    meter.begin("decode")
    now(9192, 37)
    meter.begin("prefill")
    now(9292, 38)
    meter.end()
    found = {phase.phase: phase for phase in meter.memory((), ()).phases}
    assert (found["prefill"].read_bytes, found["prefill"].stalled_ns) == (4196, 21_000)
    assert (found["decode"].read_bytes, found["decode"].stalled_ns) == (1000, 7000)


@linux
def test_what_the_system_does_not_tell_is_none_and_the_rest_stays(proc: Path) -> None:
    meter = memory.PhaseMeter(memory.LinuxMemory(proc))
    meter.begin("decode")
    meter.end()
    (phase,) = meter.memory((), ()).phases
    assert (phase.read_bytes, phase.stalled_ns) == (None, None)
    assert phase.anonymous_bytes == 300 * 1024


@linux
def test_a_file_that_is_refused_when_it_is_read_counts_as_absent(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_io(proc, 5)
    pread = os.pread
    refused: list[int] = []

    def reading(handle: int, size: int, offset: int) -> bytes:
        if Path(f"/proc/self/fd/{handle}").readlink().name == "io":
            refused.append(handle)
            raise PermissionError(13, "Permission denied")
        return pread(handle, size, offset)

    monkeypatch.setattr(os, "pread", reading)
    source = memory.LinuxMemory(proc)
    assert source.parse(source.read()).read_bytes is None
    assert len(refused) == 1


@linux
def test_a_file_refused_later_loses_that_reading_alone(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_io(proc, 5)
    source = memory.LinuxMemory(proc)
    assert source.parse(source.read()).read_bytes == 5
    pread = os.pread

    def reading(handle: int, size: int, offset: int) -> bytes:
        if Path(f"/proc/self/fd/{handle}").readlink().name == "io":
            raise OSError(5, "Input/output error")
        return pread(handle, size, offset)

    monkeypatch.setattr(os, "pread", reading)
    found = source.parse(source.read())
    assert found.read_bytes is None
    assert found.major_faults == 42


@linux
def test_without_a_resettable_mark_the_samples_stand_in_and_the_method_says_so(proc: Path) -> None:
    (proc / "proc/self/clear_refs").unlink()
    source = memory.LinuxMemory(proc)
    meter = memory.PhaseMeter(source)
    meter.begin("decode")
    ticks = tuple(
        Sample(taken_ns=(meter._open or ("", 0))[1] + i, raw=f"9 {pages} 0 0".encode())
        for i, pages in enumerate((100, 900, 200))
    )
    meter.end()
    record = meter.memory(ticks, ())
    page = os.sysconf("SC_PAGE_SIZE")
    assert record.phases[0].peak_bytes == 900 * page
    assert "clear_refs is refused" in record.method


@linux
def test_samples_count_only_for_the_phase_they_fall_in(proc: Path) -> None:
    meter = memory.PhaseMeter(memory.LinuxMemory(proc))
    before = time.perf_counter_ns()
    meter.begin("prefill")
    meter.begin("decode")
    within = time.perf_counter_ns()
    meter.end()
    ticks = (
        Sample(taken_ns=before, raw=b"9 99999 0 0"),
        Sample(taken_ns=within, raw=b"9 5000 0 0"),
    )
    by_phase = {p.phase: p for p in meter.memory(ticks, ()).phases}
    page = os.sysconf("SC_PAGE_SIZE")
    assert by_phase["decode"].anonymous_bytes == 5000 * page
    assert by_phase["prefill"].anonymous_bytes == 300 * 1024


def test_the_other_systems_source_works_through_psutil() -> None:
    source = memory.PsutilMemory()
    assert source.parse_sample(source.sample()).resident_bytes > MIB
    found = source.parse(source.read())
    assert found.anonymous_bytes + found.file_bytes == found.resident_bytes


def test_this_system_has_a_source() -> None:
    assert not isinstance(memory.memory_source(), Unavailable)


@linux
def test_residency_follows_reading_and_dropping(known_file: Path) -> None:
    known_file.read_bytes()
    assert resident_share([known_file]) == 1.0
    assert drop_from_page_cache([known_file])
    share = resident_share([known_file])
    if share is None or share > 0.05:
        pytest.skip("this file system keeps its pages (tmpfs)")
    with known_file.open("rb") as file:
        file.read(FILE_MIB * MIB // 2)
    half = resident_share([known_file])
    assert half is not None
    assert 0.45 < half < 0.65  # read-ahead may go a little beyond


def test_no_pages_have_no_residency(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    assert resident_share([empty]) is None
    assert page_cache_state(None) == "unknown"


@pytest.mark.parametrize(
    ("share", "state"),
    [(0.0, "cold"), (0.05, "cold"), (0.5, "mixed"), (0.99, "warm"), (1.0, "warm")],
)
def test_shares_have_names(share: float, state: str) -> None:
    assert page_cache_state(share) == state


@linux
def test_thousands_of_short_repetitions_weigh_next_to_nothing_in_the_measured_process(
    proc: Path,
) -> None:
    meter = memory.PhaseMeter(memory.LinuxMemory(proc))

    def repeat(times: int) -> None:
        for _ in range(times):
            meter.begin("prefill")
            meter.begin("decode")
            meter.end()

    repeat(100)
    tracemalloc.start()
    try:
        repeat(2000)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 200_000
    assert {phase.phase for phase in meter.memory((), ()).phases} == {"prefill", "decode"}
