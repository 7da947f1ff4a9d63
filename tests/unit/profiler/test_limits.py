"""A smaller device: what is refused, what the host becomes, and ceilings that really hold."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ceilings import groups_of, means_of
from records import host

from edge_runtime.artifact import Artifact
from edge_runtime.basis import Unavailable
from edge_runtime.errors import (
    BackendError,
    EdgeError,
    MemoryLimitError,
    ResourceError,
    UsageError,
    WorkerError,
)
from edge_runtime.measurement import (
    CellFailure,
    Limits,
    Measurement,
    SessionOptions,
    decode_workload,
)
from edge_runtime.memory import Memory
from edge_runtime.profiler import Cell, Plan, ceiling, detect_host, limits, measure, run_cells
from edge_runtime.profiler.pagecache import drop_from_page_cache, resident_share

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="affinity and ceilings of Linux")

MIB, GIB = 1024**2, 1024**3
FAKE = SessionOptions(backend="fake")
QUICK = Plan(min_runs=1, max_runs=1, warmups=0)
Script = Callable[..., None]


@pytest.fixture
def data_limit(monkeypatch: pytest.MonkeyPatch) -> ceiling.Means:
    means = means_of("RLIMIT_DATA")
    monkeypatch.setattr(limits, "best_means", lambda root: means)
    return means


@pytest.fixture
def counted(counting: ceiling.Means, monkeypatch: pytest.MonkeyPatch) -> ceiling.Means:
    """Every way here that counts the page cache, as the one that a measurement takes."""
    monkeypatch.setattr(limits, "best_means", lambda root: counting)
    return counting


# What is asked


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Limits(memory_bytes=MIB), r"1\.00 MiB of memory.*itself takes"),
        (Limits(memory_bytes=0), "itself takes"),
        (Limits(memory_bytes=17 * GIB), r"17\.0 GiB.*This machine has 16\.0 GiB"),
        (Limits(cores=3), "3 cores.*may use 2"),
        (Limits(cores=0), "from 1 to 2"),
    ],
)
def test_a_device_that_cannot_be_emulated_is_refused_with_the_bound(
    asked: Limits, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        limits.checked_limits(asked, host())


def test_no_limit_is_no_device() -> None:
    assert limits.checked_limits(None, host()) is None
    assert limits.checked_limits(Limits(), host()) is None
    kept = Limits(memory_bytes=2 * GIB, cores=1)
    assert limits.checked_limits(kept, host()) == kept


def test_the_host_of_the_record_is_the_small_device() -> None:
    small = limits.limited_host(host(available=8 * GIB), Limits(memory_bytes=2 * GIB, cores=1))
    assert (small.ram_bytes, small.ram_available_bytes, small.cores_usable) == (
        2 * GIB, 2 * GIB, 1,
    )  # fmt: skip
    assert small.cores_logical == 2
    # What is not there cannot be given to it.
    scarce = limits.limited_host(host(available=GIB), Limits(memory_bytes=2 * GIB))
    assert (scarce.ram_bytes, scarce.ram_available_bytes) == (2 * GIB, GIB)
    untold = limits.limited_host(host(available=None), Limits(memory_bytes=2 * GIB))
    assert untold.ram_available_bytes == 2 * GIB
    assert limits.limited_host(host(), None) == host()


def topology(root: Path, siblings: dict[int, str]) -> Path:
    for number, cores in siblings.items():
        folder = root / f"sys/devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cores}\n")
    return root


def test_whole_cores_come_before_their_second_threads(tmp_path: Path) -> None:
    root = topology(tmp_path, {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"})
    assert limits.choose_processors({0, 1, 2, 3}, 2, root) == {0, 2}
    assert limits.choose_processors({0, 1, 2, 3}, 3, root) == {0, 1, 2}
    assert limits.choose_processors({1, 3}, 1, root) == {1}
    assert limits.choose_processors({4, 5}, 1, tmp_path / "untold") == {4}


def test_without_any_way_the_reasons_are_all_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, artifact: Artifact
) -> None:
    refused = tuple(
        (name, lambda _root, name=name: Unavailable(reason=f"no {name} here"))
        for name in ("groups", "scopes")
    )
    monkeypatch.setattr(ceiling, "_WAYS", refused)
    found = ceiling.best_means(tmp_path)
    assert isinstance(found, Unavailable)
    assert found.reason == "groups: no groups here; scopes: no scopes here"
    with pytest.raises(ResourceError, match="no groups here"):
        measure(artifact, decode_workload(2), FAKE, limits=Limits(memory_bytes=GIB))


# Real children


def test_cores_are_fewer_for_the_child_and_its_threads_alone(
    artifact: Artifact, script: Script
) -> None:
    script()
    before = os.sched_getaffinity(0)
    found = measure(artifact, decode_workload(2), FAKE, plan=QUICK, limits=Limits(cores=1))
    assert os.sched_getaffinity(0) == before
    assert found.host.cores_usable == 1
    assert found.emulated is not None
    assert found.emulated.limits == Limits(cores=1)
    assert "affinity" in found.emulated.means
    assert isinstance(found.energy, Unavailable)
    assert "emulated" in found.energy.reason


def test_the_engine_starts_as_many_threads_as_the_device_has_cores(artifact: Artifact) -> None:
    one = measure(artifact, decode_workload(2), plan=QUICK, limits=Limits(cores=1))
    # The engine's own choice: it sees the processors that are left.
    assert one.requested == SessionOptions()
    assert one.options.threads == 1


class Counting:
    """A way that counts the page cache, without holding anything."""

    name, words, counts_page_cache = "group", "", True
    confine = ceiling.DataLimit.confine


@pytest.fixture
def own_file(artifact: Artifact, tmp_path: Path) -> Artifact:
    file = tmp_path / "large.gguf"
    file.write_bytes(os.urandom(8 * MIB))
    return replace(artifact, path=file, paths=(file,))


def test_the_file_is_cold_where_its_pages_count_and_only_there(
    own_file: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_from_page_cache(own_file.paths)
    if resident_share(own_file.paths) not in (0.0, 0):
        pytest.skip("this file system keeps its pages (tmpfs)")
    own_file.path.read_bytes()
    for means, share in ((ceiling.DataLimit(), 1.0), (Counting(), 0.0)):
        monkeypatch.setattr(limits, "best_means", lambda root, means=means: means)
        with limits.Confinement(Limits(memory_bytes=GIB), own_file, FAKE, host()):
            assert resident_share(own_file.paths) == share


def test_pages_that_stay_cached_are_noted_because_they_do_not_count(
    own_file: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "best_means", lambda root: Counting())
    monkeypatch.setattr(limits, "drop_from_page_cache", lambda paths: False)
    monkeypatch.setattr(limits, "resident_share", lambda paths: 0.4)
    with limits.Confinement(Limits(memory_bytes=GIB), own_file, FAKE, host()) as confinement:
        (note,) = confinement.notes
    assert note.startswith("40% of the file stayed in the page cache")


def test_more_threads_than_cores_are_refused(artifact: Artifact) -> None:
    for options in (replace(FAKE, threads=2), replace(FAKE, threads_prefill=2)):
        with pytest.raises(UsageError, match="2 threads cannot run on 1 core "):
            measure(artifact, decode_workload(2), options, limits=Limits(cores=1))


def test_affinity_keeps_a_process_on_that_many_processors() -> None:
    code = (
        "import os; from edge_runtime.profiler.limits import confine_cores; confine_cores(1);"
        "print(len(os.sched_getaffinity(0)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "1"


def llama(artifact: Artifact, memory_bytes: int) -> Measurement:
    options = SessionOptions(threads=1)
    limit = Limits(memory_bytes=memory_bytes)
    return measure(artifact, decode_workload(4), options, plan=QUICK, limits=limit)


def test_under_a_data_limit_the_weights_are_read_and_it_is_said(
    artifact: Artifact, data_limit: ceiling.Means
) -> None:
    found = llama(artifact, GIB)
    assert found.emulated is not None
    assert found.emulated.means.startswith("RLIMIT_DATA")
    assert found.options.memory_map is False
    assert found.requested == SessionOptions(threads=1)
    assert any("not mapped" in note for note in found.notes)
    assert (found.host.ram_bytes, found.host.ram_available_bytes) == (GIB, GIB)
    assert isinstance(found.memory, Memory)
    assert not [b for b in found.memory.buffers if b.device.endswith("_Mapped")]


def test_too_little_under_a_data_limit_names_the_ceiling(
    artifact: Artifact, data_limit: ceiling.Means
) -> None:
    with pytest.raises((MemoryLimitError, WorkerError, BackendError), match=r"33\.0 MiB"):
        llama(artifact, 33 * MIB)


def test_a_data_limit_refuses_mapped_onnx_weights(
    artifact: Artifact, data_limit: ceiling.Means
) -> None:
    onnx = replace(artifact, format="onnx")
    with pytest.raises(ResourceError, match="does not count"):
        measure(onnx, decode_workload(2), FAKE, limits=Limits(memory_bytes=GIB))


def test_under_a_ceiling_that_is_enough_the_file_stays_mapped(
    artifact: Artifact, counted: ceiling.Means
) -> None:
    found = llama(artifact, 512 * MIB)
    assert found.emulated is not None
    assert found.emulated.means.startswith(counted.name)
    assert found.options.memory_map is True
    assert found.host.ram_bytes == 512 * MIB


def test_a_ceiling_that_is_not_enough_ends_in_its_name_and_leaves_nothing(
    artifact: Artifact, counted: ceiling.Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    hog = "x = bytearray(200 << 20); x[::4096] = b'x' * len(x[::4096])"
    popen = subprocess.Popen

    def start(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        confined = command[: command.index(sys.executable)]
        return popen([*confined, sys.executable, "-c", hog], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(MemoryLimitError, match=r"under the ceiling of 96\.0 MiB") as caught:
        measure(artifact, decode_workload(2), FAKE, limits=Limits(memory_bytes=96 * MIB))
    assert "--limit-memory" in caught.value.way_out
    assert groups_of(counted) == []


def test_a_killed_child_leaves_no_group_behind(
    artifact: Artifact, script: Script, counted: ceiling.Means
) -> None:
    script(crash="kill", crash_at="load")
    with pytest.raises(WorkerError, match="SIGKILL"):
        measure(artifact, decode_workload(2), FAKE, limits=Limits(memory_bytes=256 * MIB))
    assert groups_of(counted) == []


# Sweeps


def test_a_cell_is_found_again_under_its_own_limits_only(
    artifact: Artifact, script: Script
) -> None:
    script()
    one = Cell(artifact=artifact, options=FAKE, workload=decode_workload(2), limits=Limits(cores=1))
    ((_, record, is_new),) = run_cells([one], plan=QUICK)
    assert isinstance(record, Measurement)
    assert is_new
    again = Measurement.from_json(record.to_json())
    assert [new for *_, new in run_cells([one], plan=QUICK, earlier=[again])] == [False]
    whole = replace(one, limits=None)
    assert [new for *_, new in run_cells([whole], plan=QUICK, earlier=[again])] == [True]


def test_a_cell_that_does_not_fit_stays_with_its_limits_and_reason(
    artifact: Artifact, script: Script
) -> None:
    script(crash="memory", crash_at="load")
    tight = Limits(memory_bytes=256 * MIB)
    cell = Cell(artifact=artifact, options=FAKE, workload=decode_workload(2), limits=tight)
    ((_, record, _),) = run_cells([cell], plan=QUICK)
    assert isinstance(record, CellFailure)
    assert record.limits == tight
    assert record.error == "MemoryLimitError"
    assert "ceiling of 256 MiB" in record.fact
    again = CellFailure.from_json(record.to_json())
    kept = run_cells([cell], plan=QUICK, earlier=[again], retry_failed=False)
    assert [new for *_, new in kept] == [False]
    looser = replace(cell, limits=Limits(memory_bytes=512 * MIB))
    kept = run_cells([looser], plan=QUICK, earlier=[again], retry_failed=False)
    assert [new for *_, new in kept] == [True]


def test_an_error_that_has_nothing_to_do_with_memory_stays_as_it_is(
    artifact: Artifact, script: Script, counted: ceiling.Means
) -> None:
    script(crash="error", crash_at="load")
    with pytest.raises(BackendError) as caught:
        measure(artifact, decode_workload(2), FAKE, limits=Limits(memory_bytes=512 * MIB))
    assert "ceiling" not in str(caught.value)


def test_the_library_refuses_what_the_machine_does_not_have(artifact: Artifact) -> None:
    too_many = detect_host().cores_usable + 1
    with pytest.raises(EdgeError, match=f"{too_many} cores"):
        measure(artifact, decode_workload(2), FAKE, limits=Limits(cores=too_many))
