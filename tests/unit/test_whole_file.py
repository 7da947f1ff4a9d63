"""Files appear whole or not at all; leftovers of the killed go, files of the living stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.errors import DiskError, UsageError
from quantize.writers import whole_file as disk

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX's")

# Begins an output and stops where it is told to, saying so.
CHILD = """
import sys, time
from pathlib import Path
from quantize.writers import whole_file as disk

out, where = Path(sys.argv[1]), sys.argv[2]

def stop(*_):
    print("there", flush=True)
    time.sleep(60)

if where == "sync":
    disk._sync = stop
with disk.whole_files((out, out.with_name("second.gguf")), 0) as (first, second):
    first.write_bytes(b"half")
    if where == "writing":
        stop()
    if where == "beside":
        first.with_name(first.name + ".gguf").write_bytes(b"an intermediate")
        stop()
"""


def begun(out: Path, where: str) -> subprocess.Popen[str]:
    root = str(Path(disk.__file__).resolve().parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(out), where],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert child.stdout.readline() == "there\n"
    return child


def ended(child: subprocess.Popen[str], number: signal.Signals) -> None:
    child.send_signal(number)
    child.wait()
    child.stdout.close()


@pytest.mark.parametrize("where", ["writing", "beside", "sync"])
def test_a_killed_process_leaves_no_file_and_the_next_run_cleans_up(
    tmp_path: Path, where: str
) -> None:
    out = tmp_path / "m.gguf"
    child = begun(out, where)
    running = set(tmp_path.iterdir())
    assert len(running) >= 2
    disk.remove_stale(tmp_path)
    assert set(tmp_path.iterdir()) == running  # they are in use
    ended(child, signal.SIGKILL)
    assert set(tmp_path.iterdir()) == running
    assert not out.exists()
    with disk.whole_files((out,), 0) as (temporary,):
        temporary.write_bytes(b"whole")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"m.gguf": b"whole"}


def test_an_interrupt_leaves_nothing_at_all(tmp_path: Path) -> None:
    ended(begun(tmp_path / "m.gguf", "beside"), signal.SIGINT)
    assert not list(tmp_path.iterdir())


def test_several_files_appear_together_the_first_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = tuple(tmp_path / f"{i}.gguf" for i in range(3))
    seen: list[list[bool]] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append([out.exists() for out in outs])
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    with disk.whole_files(outs, 0) as temporaries:
        for i, temporary in enumerate(temporaries):
            temporary.write_text(str(i))
    assert seen == [[False, False, False], [False, False, True], [False, True, True]]
    assert [out.read_text() for out in outs] == ["0", "1", "2"]
    assert len(list(tmp_path.iterdir())) == 3


def test_an_old_first_part_never_stands_before_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = (tmp_path / "a.gguf", tmp_path / "b.gguf")
    for out in outs:
        out.write_text("old")

    def stop(*_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt), disk.whole_files(outs, 0):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["b.gguf"]


def test_one_of_several_that_cannot_be_made_leaves_none(tmp_path: Path) -> None:
    outs = (tmp_path / "a.gguf", tmp_path / "b.gguf")
    outs[1].mkdir()
    with pytest.raises(DiskError, match="is a directory"), disk.whole_files(outs, 0):
        pytest.fail("nothing should be lent")
    assert [path.name for path in tmp_path.iterdir()] == ["b.gguf"]


def test_what_is_no_temporary_of_ours_is_left_alone(tmp_path: Path) -> None:
    for name in (".edge-notes", "model.part", ".hidden.part", "edge-1.part"):
        (tmp_path / name).write_text("mine")
    os.mkfifo(tmp_path / ".edge-0.part")  # a pipe would block whoever opens it
    (tmp_path / ".edge-1.part").mkdir()
    (tmp_path / "kept").write_text("kept")
    (tmp_path / ".edge-2.part").symlink_to("kept")
    disk.remove_stale(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert {".edge-notes", "model.part", ".hidden.part", "edge-1.part", "kept"} <= left
    assert ".edge-2.part" not in left
    assert (tmp_path / "kept").read_text() == "kept"


def test_a_filesystem_without_locks_works_and_removes_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: int) -> None:
        raise OSError(95, "not supported")

    (tmp_path / ".edge-00.part").write_text("perhaps in use")
    monkeypatch.setattr(disk.fcntl, "flock", flock)
    with disk.whole_files((tmp_path / "m.gguf",), 0) as (temporary,):
        temporary.write_text("x")
    assert {path.name for path in tmp_path.iterdir()} == {".edge-00.part", "m.gguf"}


def test_a_run_that_lost_its_file_before_it_locked_it_takes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    flock = disk.fcntl.flock

    def steal_the_first(descriptor: int, how: int) -> None:
        (path,) = tmp_path.glob(".edge-*.part")
        made.append(path.name)
        if len(made) == 1:
            path.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(disk.fcntl, "flock", steal_the_first)
    with disk.scratch_file(tmp_path / "m.gguf") as path:
        assert path.exists()
    assert len(set(made)) == 2


def test_a_file_that_is_there_is_overwritten_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    disk.check_destination(out, 0, overwrite=False)
    out.symlink_to("nowhere")  # a name that is taken, though nothing can be read there
    with pytest.raises(UsageError, match=r"is there already.*--force"):
        disk.check_destination(out, 0, overwrite=False)
    disk.check_destination(out, 0, overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with (
            pytest.raises(DiskError, match="does not allow it"),
            disk.whole_files((tmp_path / "m.gguf",), 0),
        ):
            pytest.fail("nothing should be lent")
    finally:
        tmp_path.chmod(0o700)
