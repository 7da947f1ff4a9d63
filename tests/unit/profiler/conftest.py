"""A model file for measurements through the fake backend, and the script it follows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.artifact import Artifact


@pytest.fixture(scope="session")
def artifact(random_gguf: Path) -> Artifact:
    return Artifact.open(random_gguf)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how long the fake backend takes and how it fails, in child processes too."""

    def write(**fields: object) -> None:
        monkeypatch.setenv("EDGE_RUNTIME_FAKE", json.dumps(fields))

    return write
