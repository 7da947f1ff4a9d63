"""A model file for measurements through the fake backend, and the script it follows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ceilings import COUNTING, means_of

from edge_runtime.artifact import Artifact
from edge_runtime.profiler import ceiling


@pytest.fixture(scope="session")
def artifact(random_gguf: Path) -> Artifact:
    return Artifact.open(random_gguf)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how long the fake backend takes and how it fails, in child processes too."""

    def write(**fields: object) -> None:
        monkeypatch.setenv("EDGE_RUNTIME_FAKE", json.dumps(fields))

    return write


@pytest.fixture(params=COUNTING)
def counting(request: pytest.FixtureRequest) -> ceiling.Means:
    """Every way here that counts the page cache."""
    return means_of(request.param)
