"""Asks llama.cpp, in a child process, about a model of a given shape."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.keys import metadata_of

CHILD = Path(__file__).with_name("llama_child.py")
Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask_llama(tmp_path: Path) -> Ask:
    """`ask_llama(shape, levels=..., contexts=...)`: the engine's own answers."""

    def ask(shape: ModelShape, **questions: object) -> dict[str, Any]:
        request = {
            "path": str(tmp_path / "sparse.gguf"),
            "architecture": shape.architecture,
            "metadata": [(key, int(kind), value) for key, kind, value in metadata_of(shape)],
            "tensors": [(tensor.name, tensor.dims) for tensor in shape.tensors],
            **questions,
        }
        done = subprocess.run(
            [sys.executable, str(CHILD)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return ask
