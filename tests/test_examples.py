"""The examples and the README's Python blocks do what they say, with the tiny model."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import edge_runtime
import quantize
from edge_runtime.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHARED = "tiny.py"

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped tiny model as a GGUF named as the README names it."""
    checkpoint = Path(edge_runtime.__file__).with_name("tiny_model")
    return quantize.convert(checkpoint, tmp_path_factory.mktemp("model") / "model.gguf").path


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    # The sources beside the tests count, installed or not; and nothing is written among them.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
        env={**env, "EDGE_CACHE_DIR": str(folder / "cache"), "TMPDIR": str(folder)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done


EXPECTED = {
    "stream_text.py": r"\w+ \w+ \w+",
    "chat.py": r"> Hello! Who are you\?\n.*\w.*\n> Tell me about a dog\.\n.*\w",
    "measure_and_judge.py": r"(?s)F16: (VIABLE|BORDERLINE|NOT VIABLE) \(MEASURED\).*"
    r"decode \d+\.\d tokens/s, 95 % interval \d+\.\d to \d+\.\d\nmemory needed \d+ MiB",
    "compare_levels.py": r"(?s)Q8_0: KL 0\.\d+, .*Q2_K: KL 0\.\d+, \d+\.\d+ times the rate\n.+",
    "json_output.py": r'"animal": "(cat|dog|bird)",\n  "legs": [024],\n  "tame": (true|false)',
    "energy.py": r"(?s)(energy unavailable: \w|MEASURED: |ESTIMATED: ).*\nno \w+: \w",
    "cancel.py": r"stopped after 2\d\d characters",
    "two_engines.py": r"(?s)Q8_0 .*Q4_K_M .*onnx:int8 .*onnx:int4 +\d+\.\d MiB +\d+ tokens/s "
    r" Once upon a time \w+ \w+",
}
TAKES_A_CHECKPOINT = {"two_engines.py"}
SLOW = {"compare_levels.py"}
"""Nine child processes and three scores; the block of docs/compare.md makes the same call."""


def test_every_example_is_tested_and_short() -> None:
    files = {path.name for path in EXAMPLES.glob("*.py")}
    assert files == {*EXPECTED, SHARED}
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text("utf-8").splitlines()) <= 40, path.name


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in sorted(EXPECTED)],
)
def test_an_example_runs_on_a_given_model(name: str, tiny_gguf: Path, tmp_path: Path) -> None:
    checkpoint = Path(edge_runtime.__file__).with_name("tiny_model")
    given = checkpoint if name in TAKES_A_CHECKPOINT else tiny_gguf
    done = run([str(EXAMPLES / name), str(given)], tmp_path)
    assert re.search(EXPECTED[name], done.stdout), done.stdout


def test_an_example_without_a_model_runs_the_shipped_one(tmp_path: Path) -> None:
    done = run([str(EXAMPLES / "stream_text.py")], tmp_path)
    assert re.search(EXPECTED["stream_text.py"], done.stdout), done.stdout
    assert list(tmp_path.iterdir()) == [], "the converted model was left behind"


def test_the_threaded_example_ends_when_its_model_is_missing(tmp_path: Path) -> None:
    done = run([str(EXAMPLES / "cancel.py"), "missing.gguf"], tmp_path)
    assert "There is no missing.gguf" in done.stdout


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(python_blocks(page), 1)
]


def test_the_readme_has_blocks_to_run() -> None:
    assert python_blocks(ROOT / "README.md")


@pytest.mark.parametrize("block", BLOCKS)
def test_a_python_block_of_the_pages_runs(block: str, tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").symlink_to(tiny_gguf)
    done = run(["-c", block], tmp_path)
    assert done.stdout.strip(), "a block that shows nothing shows nothing"


def commands(page: Path) -> list[str]:
    """The `edge ...` lines of a page's shell blocks, comments left out."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    command = r"""(?<![\w-])edge (?:"[^"]*"|'[^']*'|[^#&|>"'])+"""
    found = [part for line in lines for part in re.findall(command, line)]
    return [part.strip() for part in found]


COMMANDS = sorted({line for page in [*PAGES, ROOT / "CONTRIBUTING.md"] for line in commands(page)})


def test_the_readme_shows_every_verb() -> None:
    assert {line.split()[1] for line in COMMANDS} >= {
        "check",
        "run",
        "profile",
        "convert",
        "quantize",
        "inspect",
        "models",
        "doctor",
        "energy",
        "compare",
        "report",
        "devices",
        "fit",
        "plan",
        "calibrate",
        "cost",
    }


@pytest.fixture(scope="module")
def group() -> Any:
    return typer.main.get_command(app)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_in_the_pages_is_one_the_program_accepts(line: str, group: Any) -> None:
    _, verb, *arguments = shlex.split(line)
    command = group.get_command(group.make_context("edge", [verb]), verb)
    assert command is not None, f"there is no verb {verb}"
    command.make_context(verb, arguments)  # parses and checks every option, and runs nothing


def test_relative_links_of_the_pages_lead_somewhere() -> None:
    pages = [*PAGES, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not dead
