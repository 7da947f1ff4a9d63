"""Asks llama.cpp, in a child process, about a model of a given shape."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.keys import metadata_of

CHILD = Path(__file__).with_name("llama_child.py")
Ask = Callable[..., dict[str, Any]]


class Witness:
    """The engine in a process of its own, which answers one request after the other.

    A failed check in C ends it and the test that asked; the next request starts another.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close

    def ask(self, request: object) -> dict[str, Any]:
        process = self._process or subprocess.Popen(
            [sys.executable, str(CHILD)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True,
        )  # fmt: skip
        self._process = None  # until it has answered
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            process.communicate()
            self._said.seek(0)
            raise AssertionError(self._said.read()[-2000:])
        self._process = process
        found = json.loads(answer)
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()
        self._said.close()


@pytest.fixture(scope="package")
def witness() -> Iterator[Witness]:
    made = Witness()
    yield made
    made.close()


@pytest.fixture
def ask_llama(witness: Witness, tmp_path: Path) -> Ask:
    """`ask_llama(shape, levels=..., contexts=...)`: the engine's own answers."""

    def ask(shape: ModelShape, **questions: object) -> dict[str, Any]:
        return witness.ask(
            {
                "path": str(tmp_path / "sparse.gguf"),
                "architecture": shape.architecture,
                "metadata": [(key, int(kind), value) for key, kind, value in metadata_of(shape)],
                "tensors": [(tensor.name, tensor.dims) for tensor in shape.tensors],
                **questions,
            }
        )

    return ask
