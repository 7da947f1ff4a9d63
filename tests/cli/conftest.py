"""The command as a user runs it, for the verbs that need no terminal and no other process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.cli import app as application
from edge_runtime.profiler import bandwidth

Edge = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def brief_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small working set, read a few times: the unit tests measure the bandwidth in earnest."""
    monkeypatch.setattr(bandwidth, "LARGEST_BYTES", 16 << 20)
    monkeypatch.setattr(bandwidth, "READ_BUDGET_S", 0.0)


@pytest.fixture
def edge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Edge:
    """Runs the command in an empty folder; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edge", *map(str, arguments)])
        code = 0
        try:
            application.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call
