"""Ceilings that work on the machine the tests run on, and what they leave behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.basis import Unavailable
from edge_runtime.profiler import ceiling

COUNTING = ("control group v2", "control group v1", "systemd scope")
"""The ways that count the page cache."""


def means_of(name: str) -> ceiling.Means:
    """The means of that name; skips the test where they do not work."""
    found = dict(ceiling.find_means())[name]
    if isinstance(found, Unavailable):
        pytest.skip(f"{name}: {found.reason}")
    return found


def groups_of(means: ceiling.Means, pid: int | None = None) -> list[Path]:
    """The groups that a process, or this one, has made and not removed."""
    if not isinstance(means, ceiling.ControlGroup):
        return []
    return list(means.folder.glob(f"edge-runtime-{pid or os.getpid()}-*"))
