"""The fake backend keeps time by its script and fails when told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.artifact import Artifact
from edge_runtime.backends import GREEDY
from edge_runtime.backends.fake import (
    SCRIPT_VARIABLE,
    FakeBackend,
    FakeClock,
    FakeScript,
    FakeSession,
)
from edge_runtime.errors import BackendError, MemoryLimitError, UsageError
from edge_runtime.measurement import SessionOptions


def opened(path: Path, script: FakeScript, clock: FakeClock | None = None) -> FakeSession:
    return FakeBackend(script, clock or FakeClock()).open(Artifact.open(path), SessionOptions())


def test_time_passes_only_by_the_script(random_gguf: Path) -> None:
    clock = FakeClock()
    script = FakeScript(load_ns=1000, prefill_ns_per_token=10, step_ns=(1, 2, 3))
    session = opened(random_gguf, script, clock)
    assert clock() == 1000
    session.prefill([65] * 7)
    assert clock() == 1070
    for _ in range(4):
        session.step(65)
    assert clock() == 1070 + 1 + 2 + 3 + 1
    assert session.steps == 4


def test_each_next_after_the_first_is_one_step(random_gguf: Path) -> None:
    session = opened(random_gguf, FakeScript())
    stream = session.stream("Hello", max_tokens=5, sampling=GREEDY)
    for steps, _ in enumerate(stream):
        assert session.steps == steps
    assert session.prefilled_tokens == 5


def test_a_shared_prefix_is_not_prefilled_again(random_gguf: Path) -> None:
    session = opened(random_gguf, FakeScript())
    list(session.stream("Hello", max_tokens=1, sampling=GREEDY))
    list(session.stream("Hello you", max_tokens=1, sampling=GREEDY))
    assert session.prefilled_tokens == 5 + 4


@pytest.mark.parametrize(("crash", "kind"), [("error", BackendError), ("memory", MemoryLimitError)])
def test_it_fails_where_the_script_says(
    random_gguf: Path, crash: str, kind: type[Exception]
) -> None:
    session = opened(random_gguf, FakeScript(crash_after=2, crash=crash))
    session.prefill([65])
    session.step(65)
    session.step(65)
    with pytest.raises(kind):
        session.step(65)
    with pytest.raises(kind):
        opened(random_gguf, FakeScript(crash_at="load", crash=crash))
    with pytest.raises(kind):
        opened(random_gguf, FakeScript(crash_at="prefill", crash=crash)).prefill([65])


@pytest.mark.parametrize(
    ("crash", "code"), [("exit", 1), ("kill", -getattr(signal, "SIGKILL", signal.SIGTERM))]
)
def test_a_child_process_dies_by_its_environment(random_gguf: Path, crash: str, code: int) -> None:
    program = (
        "import sys; from edge_runtime.artifact import Artifact;"
        "from edge_runtime.backends import backend; from edge_runtime.measurement import *;"
        "s = backend('fake').open(Artifact.open(sys.argv[1]), SessionOptions(backend='fake'));"
        "s.prefill([65]); s.step(65); print('one', flush=True); s.step(65); print('two')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(random_gguf)],
        env={**os.environ, SCRIPT_VARIABLE: json.dumps({"crash_after": 1, "crash": crash})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("one\n", code)


def test_a_script_in_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCRIPT_VARIABLE, '{"step_ns": [5, 6]}')
    assert FakeScript.from_environment() == FakeScript(step_ns=(5, 6))
    for wrong in ("{", "[]", '{"speed": 1}'):
        monkeypatch.setenv(SCRIPT_VARIABLE, wrong)
        with pytest.raises(UsageError, match="no script"):
            FakeScript.from_environment()
