"""The ways to hold a child below a ceiling: on trees of plain files, and for real here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ceilings import groups_of

from edge_runtime.basis import Unavailable
from edge_runtime.profiler import ceiling
from edge_runtime.profiler.pagecache import drop_from_page_cache, resident_share

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ceilings of Linux")

MIB, GIB = 1024**2, 1024**3


def v2_tree(root: Path, *, handed_down: bool = True) -> Path:
    """A process in /user/session; the memory controller reaches the children of /user."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/user/session\n")
    base = root / "sys/fs/cgroup"
    (base / "user/session").mkdir(parents=True)
    (base / "cgroup.controllers").write_text("cpu memory pids\n")
    (base / "cgroup.subtree_control").write_text("cpu\n")
    (base / "user/cgroup.subtree_control").write_text("memory pids\n" if handed_down else "\n")
    (base / "user/session/cgroup.subtree_control").write_text("\n")
    return base / "user"


@pytest.fixture
def emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a fake tree holds real files; the kernel's control files vanish by themselves."""
    monkeypatch.setattr(ceiling, "remove_group", shutil.rmtree)


@pytest.mark.usefixtures("emptied")
def test_the_nearest_group_that_hands_the_controller_down_is_taken(tmp_path: Path) -> None:
    user = v2_tree(tmp_path)
    means = dict(ceiling.find_means(tmp_path))["control group v2"]
    assert not isinstance(means, Unavailable)
    with means.confine(300 * MIB) as confined:
        (group,) = user.glob("edge-runtime-*")
        assert (group / "memory.max").read_text().strip() == str(300 * MIB)
        assert (group / "memory.swap.max").read_text().strip() == "0"
        done = subprocess.run(
            [*confined.command, "/bin/sh", "-c", "echo $$"], capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        # The command's own process is the one that joined.
        assert (group / "cgroup.procs").read_text() == done.stdout
        assert confined.kills() == 0
        (group / "memory.events").write_text("low 0\nmax 9\noom 2\noom_kill 1\n")
        assert confined.kills() == 1
    assert list(user.glob("edge-runtime-*")) == []


@pytest.mark.usefixtures("emptied")
def test_a_group_is_removed_whatever_happens_inside(tmp_path: Path) -> None:
    user = v2_tree(tmp_path)
    means = ceiling.ControlGroup(user, 2)
    with pytest.raises(KeyboardInterrupt), means.confine(64 * MIB):
        raise KeyboardInterrupt
    assert list(user.glob("edge-runtime-*")) == []


@pytest.mark.usefixtures("emptied")
def test_groups_of_killed_parents_are_swept_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    user = v2_tree(tmp_path)
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    for name in (f"edge-runtime-{gone.pid}-0", f"edge-runtime-{os.getppid()}-7", "edge-runtime-x"):
        (user / name).mkdir()
    with ceiling.ControlGroup(user, 2).confine(64 * MIB):
        pass
    left = {folder.name for folder in user.glob("edge-runtime-*")}
    assert left == {f"edge-runtime-{os.getppid()}-7", "edge-runtime-x"}


@pytest.mark.usefixtures("emptied")
@pytest.mark.parametrize(("swaps", "works"), [("", True), ("/swapfile file 9 0 -2\n", False)])
def test_swap_that_cannot_be_forbidden_makes_a_ceiling_that_leaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: str, works: bool
) -> None:
    v2_tree(tmp_path)
    (tmp_path / "proc/swaps").write_text(f"Filename Type Size Used Priority\n{swaps}")
    write = ceiling.write_control

    def without_swap_file(path: Path, value: int) -> None:
        if path.name == "memory.swap.max":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        write(path, value)

    monkeypatch.setattr(ceiling, "write_control", without_swap_file)
    found = dict(ceiling.find_means(tmp_path))["control group v2"]
    assert isinstance(found, Unavailable) is not works


def test_a_controller_that_is_not_handed_down_is_refused_with_a_command(tmp_path: Path) -> None:
    v2_tree(tmp_path, handed_down=False)
    found = dict(ceiling.find_means(tmp_path))["control group v2"]
    assert isinstance(found, Unavailable)
    assert "hands the memory controller down" in found.reason
    assert "cgroup.subtree_control" in found.remedy


def test_a_group_that_may_not_be_made_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    v2_tree(tmp_path)

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    found = dict(ceiling.find_means(tmp_path))["control group v2"]
    assert isinstance(found, Unavailable)
    assert "Permission denied" in found.reason
    assert found.remedy


@pytest.mark.usefixtures("emptied")
@pytest.mark.parametrize("accounts_swap", [True, False])
def test_version_1_limits_memory_and_swap_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accounts_swap: bool
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/box\n0::/\n")
    own = tmp_path / "sys/fs/cgroup/memory/box"
    own.mkdir(parents=True)
    (own / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    write = ceiling.write_control

    def without_accounting(path: Path, value: int) -> None:
        if path.name == "memory.memsw.limit_in_bytes" and not accounts_swap:
            raise PermissionError(13, "Permission denied", str(path))
        write(path, value)

    monkeypatch.setattr(ceiling, "write_control", without_accounting)
    means = dict(ceiling.find_means(tmp_path))["control group v1"]
    assert not isinstance(means, Unavailable)
    with means.confine(100 * MIB) as confined:
        (group,) = own.glob("edge-runtime-*")
        written = {path.name: path.read_text().strip() for path in group.iterdir()}
        swap = {"memory.memsw.limit_in_bytes": str(100 * MIB)}
        assert written == {
            "memory.limit_in_bytes": str(100 * MIB),
            **(swap if accounts_swap else {"memory.swappiness": "0"}),
        }
        (group / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
        assert confined.kills() == 2


def systemd_run(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "systemd-run"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_scope_is_believed_when_the_ceiling_is_seen_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd_run(tmp_path, monkeypatch, f'echo "$*" > {tmp_path}/asked; echo {64 * MIB}')
    scope = dict(ceiling.find_means(tmp_path))["systemd scope"]
    assert not isinstance(scope, Unavailable)
    asked = (tmp_path / "asked").read_text()
    assert "--scope" in asked
    assert f"MemoryMax={64 * MIB}" in asked
    assert "MemorySwapMax=0" in asked
    assert ("--user" in asked) is (os.geteuid() != 0)
    (tmp_path / "proc").mkdir()
    vmstat = tmp_path / "proc/vmstat"
    vmstat.write_text("oom_kill 4\n")
    with scope.confine(2 * GIB) as confined:
        assert confined.kills() == 0
        vmstat.write_text("oom_kill 5\n")
        assert confined.kills() == 1
        assert confined.command[-1] == "--"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo max", "not in force"),
        ('echo "Failed to connect to bus" >&2; exit 1', "Failed to connect to bus"),
    ],
)
def test_a_scope_whose_ceiling_is_ignored_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    systemd_run(tmp_path, monkeypatch, script)
    found = dict(ceiling.find_means(tmp_path))["systemd scope"]
    assert isinstance(found, Unavailable)
    assert reason in found.reason


TWICE = """
import json, mmap, sys
from edge_runtime.codec import to_jsonable
from edge_runtime.profiler.memory import LinuxMemory, PhaseMeter

meter = PhaseMeter(LinuxMemory())
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
for phase in ("prefill", "decode"):
    meter.begin(phase)
    for offset in range(0, len(mapped), 4096):
        mapped[offset]
meter.end()
print(json.dumps(to_jsonable(meter.memory((), ()))))
"""


@pytest.mark.parametrize(("ceiling_mib", "comes_back"), [(72, True), (256, False)])
def test_what_does_not_fit_under_a_ceiling_is_read_back_as_on_a_small_device(
    tmp_path: Path, counting: ceiling.Means, ceiling_mib: int, comes_back: bool
) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(os.urandom(MIB) * 96)
    drop_from_page_cache([weights])
    share = resident_share([weights])
    if share is None or share > 0.05:
        pytest.skip("this file system keeps its pages (tmpfs)")
    with counting.confine(ceiling_mib * MIB) as confined:
        done = subprocess.run(
            [*confined.command, sys.executable, "-c", TWICE, str(weights)],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    first, second = json.loads(done.stdout)["phases"]
    if first["read_bytes"] is None or not first["read_bytes"]:
        pytest.skip("this system does not count what is read")
    assert first["read_bytes"] > 90 * MIB
    assert (second["read_bytes"] > 24 * MIB) is comes_back
    assert (second["major_faults"] > 0) is comes_back


def test_the_group_of_a_killed_parent_is_swept_by_the_next(counting: ceiling.Means) -> None:
    if not isinstance(counting, ceiling.ControlGroup):
        pytest.skip("a scope ends by itself")
    code = (
        "import os, signal, sys; from edge_runtime.profiler import ceiling;"
        "means = dict(ceiling.find_means())[sys.argv[1]];"
        "held = means.confine(64 << 20); held.__enter__(); print(os.getpid(), flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, counting.name], capture_output=True, env=environment,
        check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    assert len(groups_of(counting, pid)) == 1
    with counting.confine(64 * MIB):
        assert groups_of(counting, pid) == []
        assert len(groups_of(counting)) == 1
    assert groups_of(counting) == []


@pytest.mark.usefixtures("emptied")
def test_a_group_left_by_a_killed_process_of_this_number_is_passed_over(tmp_path: Path) -> None:
    user = v2_tree(tmp_path)
    means = ceiling.ControlGroup(user, 2)
    with means.confine(64 * MIB):
        (first,) = user.glob("edge-runtime-*")
    number = int(first.name.rpartition("-")[2])
    left = user / f"edge-runtime-{os.getpid()}-{number + 1}"
    left.mkdir()
    with means.confine(64 * MIB):
        assert len(list(user.glob("edge-runtime-*"))) == 2
    assert list(user.glob("edge-runtime-*")) == [left]
