"""`edge run` as a user meets it: the answer on stdout, the talk on stderr, no traceback ever."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from edge_runtime.artifact import Artifact
from edge_runtime.cli.app import main
from edge_runtime.cli.run import run
from edge_runtime.errors import DiskError, UsageError

pty = pytest.importorskip("pty", reason="a chat is tested on a pseudo-terminal")
SPEED = "tok/s"
Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.delenv("EDGE_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    app = typer.Typer()
    app.command()(run)

    def call(*arguments: object, text: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], input=text)

    return call


def edge(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_runtime", "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **more)


def test_without_a_model_the_shipped_one_writes(invoke: Invoke, tmp_path: Path) -> None:
    first = invoke("-n", 40, "--temperature", 0, "-t", 1, text="")
    assert first.exit_code == 0, first.output
    assert len(first.stdout.split()) > 10
    (cached,) = (tmp_path / "cache/edge-runtime").iterdir()
    assert Artifact.open(cached).level == "F16"
    made = cached.stat().st_mtime_ns
    again = invoke("-n", 40, "--temperature", 0, "-t", 1, text="")
    assert again.stdout == first.stdout
    assert cached.stat().st_mtime_ns == made
    cached.write_bytes(b"GGUF, once")
    assert invoke("-n", 40, "--temperature", 0, "-t", 1, text="").stdout == first.stdout


def test_an_unwritable_cache_is_one_sentence(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    result = invoke("-p", "x")
    assert isinstance(result.exception, DiskError)
    assert "EDGE_CACHE_DIR" in result.exception.way_out


def test_the_answer_is_on_stdout_and_the_speed_on_stderr(invoke: Invoke, tiny_gguf: Path) -> None:
    result = invoke(tiny_gguf, "Who are you?", "--temperature", 0, "-t", 1)
    assert result.exit_code == 0
    assert SPEED not in result.stdout
    assert result.stdout.endswith("\n")
    (line,) = result.stderr.splitlines()
    assert line.startswith("[prefill ")
    assert "decode" in line
    assert "first token after" in line
    quiet = invoke(tiny_gguf, "Who are you?", "--temperature", 0, "-t", 1, "--quiet")
    assert (quiet.stdout, quiet.stderr) == (result.stdout, "")


def test_the_prompt_may_come_from_stdin(invoke: Invoke, tiny_gguf: Path) -> None:
    same = ("--temperature", 0, "-n", 12, "-t", 1)
    wanted = invoke(tiny_gguf, "Who are you?", *same).stdout
    for arguments, text in (((tiny_gguf, "-"), "Who are you?\n"), ((tiny_gguf,), "Who are you?")):
        assert invoke(*arguments, *same, text=text).stdout == wanted
    result = invoke(tiny_gguf, "-", *same, text="")
    assert isinstance(result.exception, UsageError)


def test_raw_continues_and_chat_answers(invoke: Invoke, tiny_gguf: Path) -> None:
    same = ("--temperature", 0, "-n", 30, "-t", 1)
    chat = invoke(tiny_gguf, "Who are you?", *same)
    raw = invoke(tiny_gguf, "Who are you?", *same, "--raw")
    assert chat.stdout != raw.stdout
    assert "no chat template" not in raw.stderr


def test_a_model_without_a_template_completes_and_says_so(
    invoke: Invoke, make_random_gguf: Callable[..., Path]
) -> None:
    path = make_random_gguf(template=None)
    result = invoke(path, "x", "-n", 3, "-t", 1)
    assert result.exit_code == 0
    assert "no chat template" in result.stderr
    assert "no chat template" not in invoke(path, "x", "-n", 3, "-t", 1, "--raw").stderr
    refused = invoke(path, "x", "--system", "Be brief.")
    assert isinstance(refused.exception, UsageError)


def test_seeds_reproduce(invoke: Invoke, tiny_gguf: Path) -> None:
    def told(seed: int) -> str:
        return invoke(tiny_gguf, "A story.", "--seed", seed, "-n", 30, "-t", 1, "--raw").stdout

    assert told(5) == told(5)
    assert told(5) != told(6)


def test_grammar_schema_and_stop_are_files_and_texts(
    invoke: Invoke, random_gguf: Path, tmp_path: Path
) -> None:
    grammar = tmp_path / "g.gbnf"
    grammar.write_text('root ::= "yes" | "no"')
    assert invoke(random_gguf, "x", "--grammar", grammar, "-t", 1).stdout in ("yes\n", "no\n")
    schema = tmp_path / "s.json"
    schema.write_text('{"enum": ["red", "blue"]}')
    answer = invoke(random_gguf, "x", "--json-schema", schema, "-t", 1).stdout
    assert json.loads(answer) in ("red", "blue")
    stopped = invoke(random_gguf, "x", "--grammar", grammar, "--stop", "e", "--stop", "o", "-t", 1)
    assert stopped.stdout in ("y\n", "n\n")
    missing = invoke(random_gguf, "x", "--grammar", tmp_path / "none")
    assert isinstance(missing.exception, UsageError)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("none.gguf", "x"), 4, "There is no none.gguf"),
        (("{model}", "x", "-p", "y"), 2, "given twice"),
        (("Once upon a time",), 2, "edge run -p 'Once upon a time'"),
        (("{model}", "x", "--kv-type", "q9"), 2, "no type of a KV cache"),
        (("{model}", "x" * 600), 4, "do not fit the context"),
        (("{model}", "x", "--temperature", "hot"), 2, "--temperature"),
        (("{model}", "x", "--repeat-penalty", "0"), 2, "repeat_penalty"),
        (("hf:../x", "x"), 2, "names nothing on a hub"),
    ],
)
def test_mistakes_are_sentences(
    random_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    given = [a.replace("{model}", str(random_gguf)) for a in arguments]
    monkeypatch.setattr(sys, "argv", ["edge", "run", *given])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == code
    assert words in err
    assert "Traceback" not in err
    assert out == ""


def test_a_missing_model_is_named_before_the_prompt_is_asked_for() -> None:
    done = edge("nonexistent", stdin=subprocess.DEVNULL)
    assert done.returncode == 4
    assert "There is no nonexistent" in done.stderr


def test_a_broken_pipe_ends_quietly(random_gguf: Path) -> None:
    program = f"'{sys.executable}' -m edge_runtime run '{random_gguf}' x -n 400 -t 1 | head -c 1"
    done = subprocess.run(program, shell=True, capture_output=True, timeout=60, check=False)
    assert len(done.stdout) == 1
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Terminal:
    """A program on a pseudo-terminal of its own, typed at and read from."""

    def __init__(self, *arguments: object) -> None:
        self.fd, theirs = pty.openpty()
        # Not pty.fork: engines and test runners have threads, and what a fork copies of them hangs.
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "dumb"},
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def wait_for(self, text: str, timeout_s: float = 60.0) -> str:
        """What came up to and including a text."""
        assert self.comes(text, timeout_s), f"no {text!r} in {self.seen!r}"
        found, _, self.seen = self.seen.partition(text)
        return found + text

    def comes(self, text: str, timeout_s: float) -> bool:
        """Whether a text comes within some time."""
        end = time.monotonic() + timeout_s
        while text not in self.seen:
            left = end - time.monotonic()
            if left <= 0:
                return False
            if select.select([self.fd], [], [], left)[0]:
                try:
                    self.seen += os.read(self.fd, 4096).decode("utf-8", "replace")
                except OSError:  # the other end is gone
                    return text in self.seen
        return True

    def interrupt_until(self, text: str) -> None:
        """Types Ctrl-C until a text comes, as a person does.

        Python looks for signals before it waits for a key; one that arrives between the two is
        seen with the next key only.
        """
        for _ in range(20):
            self.type("\x03")
            if self.comes(text, 3.0):
                break
        self.wait_for(text)

    def type(self, text: str) -> None:
        """Sends key strokes."""
        os.write(self.fd, text.encode())

    def exit_code(self) -> int:
        """Waits for the end."""
        return self.process.wait(timeout=60)

    def close(self) -> None:
        """Ends it if it still runs."""
        self.process.kill()
        self.process.wait()
        os.close(self.fd)


@pytest.fixture
def chat(make_random_gguf: Callable[..., Path]) -> Iterator[Terminal]:
    path = make_random_gguf(context=16384)
    endless = path.with_name("endless.gbnf")
    endless.write_text("root ::= [a-z] root")
    terminal = Terminal(
        *("-m", "edge_runtime", "run", path, "--ctx", 16384, "-t", 1, "--grammar", endless)
    )
    yield terminal
    terminal.close()


def test_a_chat_survives_interrupted_answers(chat: Terminal) -> None:
    chat.wait_for("Ctrl-D leaves.")
    chat.wait_for("> ")
    for _ in range(2):
        chat.type("hello\n")
        chat.wait_for("hello")
        time.sleep(0.3)
        chat.interrupt_until("first token after")
        chat.wait_for("> ")
    chat.type("/reset\n")
    chat.wait_for("A new conversation.")
    chat.type("/nonsense\n")
    chat.wait_for("/reset and /quit.")
    chat.wait_for("> ")
    chat.interrupt_until("> ")
    chat.type("\x04")
    assert chat.exit_code() == 0


def test_quit_leaves(chat: Terminal) -> None:
    chat.wait_for("> ")
    chat.type("/quit\n")
    assert chat.exit_code() == 0


def test_an_interrupted_single_answer_ends_with_its_code(
    make_random_gguf: Callable[..., Path],
) -> None:
    path = make_random_gguf(context=16384)
    endless = path.with_name("endless.gbnf")
    endless.write_text("root ::= [a-z] root")
    command = [sys.executable, "-m", "edge_runtime", "run", path, "x", "--ctx", "16384"]
    process = subprocess.Popen(
        [*command, "--grammar", endless], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert SPEED.encode() in errors
    assert b"Traceback" not in errors
