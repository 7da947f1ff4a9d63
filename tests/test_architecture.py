"""Who may import whom: the table of docs/decisions/0001-rooms.md, held against every module.

The sources are read, never imported. Imports inside functions and under TYPE_CHECKING count like
any other: they are how a room comes to know another.
"""

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("edge_runtime", "quantize", "profiles")

MAX_LINES = 450
FORBIDDEN_NAMES = (
    "utils",
    "util",
    "common",
    "helpers",
    "helper",
    "base",
    "manager",
    "core",
    "misc",
)
FORBIDDEN_LIBRARIES = ("torch", "transformers", "tensorflow", "jax")
# What a pure room may not touch: clocks, files, processes, chance.
IMPURE = frozenset(
    ("asyncio", "ctypes", "datetime", "glob", "io", "locale", "logging", "mmap", "multiprocessing",
     "os", "pathlib", "platform", "random", "secrets", "select", "shutil", "signal", "socket",
     "sqlite3", "subprocess", "sys", "tempfile", "threading", "time", "urllib")
)  # fmt: skip
IMPURE_CALLS = ("open", "print", "input", "exec", "eval", "__import__")


@dataclass(frozen=True)
class Room:
    """Some modules, what they may import of ours and of others; `X.*` means X and all below it.

    `lazy` libraries may only be imported inside functions.
    """

    modules: str
    ours: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    lazy: tuple[str, ...] = ()
    pure: bool = False


ERRORS = "edge_runtime.errors"
UNITS = "edge_runtime.units"
STATISTICS = "edge_runtime.statistics"
CODEC = "edge_runtime.codec"
ARTIFACT = "edge_runtime.artifact.*"
BASIS, TIMELINE, MEMORY, ENERGY, HEAT = READINGS = tuple(
    f"edge_runtime.{n}" for n in ("basis", "timeline", "memory", "energy", "heat")
)
MEASUREMENT = "edge_runtime.measurement"
LATENCY = "edge_runtime.latency"
SCORES = "edge_runtime.scores"
SAVED = "edge_runtime.saved"
VOCABULARY = (
    ERRORS, UNITS, STATISTICS, CODEC, ARTIFACT, *READINGS, MEASUREMENT, LATENCY, SCORES, SAVED,
)  # fmt: skip
BACKENDS = "edge_runtime.backends"
SEAM = (
    BACKENDS, *(f"{BACKENDS}.{n}" for n in ("generation", "slices", "chat_template", "threads")),
)  # fmt: skip
RECORDS = tuple(
    f"edge_runtime.{n}"
    for n in (
        "verdict", "fit", "economics", "costs.*", "feasibility", "comparison.*", "projection.*",
        "paging", "window_joules", "phase_energy", "energy_use", "consumption", "sustained",
    )
)  # fmt: skip
VERDICT, FIT = RECORDS[:2]
WINDOW_JOULES, PHASE_ENERGY, ENERGY_USE, CONSUMPTION, SUSTAINED = RECORDS[-5:]
PAGING = "edge_runtime.paging"
MEMORY_NEEDS = "edge_runtime.memory_needs"

# The first row whose modules match is a module's room.
ROOMS = (
    Room("profiles.*"),
    # The vocabulary, one way:
    # latency -> measurement -> energy, heat, memory, timeline -> basis,
    # measurement -> artifact, codec, statistics -> units -> errors.
    Room(ERRORS, pure=True),
    Room(UNITS, (ERRORS,), pure=True),
    Room(STATISTICS, (UNITS, ERRORS), pure=True),
    Room(CODEC, (UNITS, ERRORS), pure=True),
    Room(ARTIFACT, (UNITS, ERRORS)),
    Room(BASIS, pure=True),
    Room(TIMELINE, (UNITS,), pure=True),
    Room(MEMORY, (BASIS,), pure=True),
    Room(ENERGY, (BASIS,), pure=True),
    Room(HEAT, (BASIS, TIMELINE), pure=True),
    Room(MEASUREMENT, (ARTIFACT, *READINGS, CODEC, STATISTICS, UNITS, ERRORS), pure=True),
    Room(LATENCY, (MEASUREMENT, *READINGS, CODEC, STATISTICS, UNITS, ERRORS), pure=True),
    Room(SCORES, (MEASUREMENT, CODEC, STATISTICS, ERRORS), pure=True),
    Room(SAVED, (SCORES, LATENCY, MEASUREMENT, CODEC, ERRORS), pure=True),
    # Judgement: pure functions of records.
    Room(WINDOW_JOULES, VOCABULARY, pure=True),
    Room(PHASE_ENERGY, (*VOCABULARY, WINDOW_JOULES), pure=True),
    Room(CONSUMPTION, (*VOCABULARY, WINDOW_JOULES, PHASE_ENERGY), pure=True),
    Room(ENERGY_USE, (*VOCABULARY, PHASE_ENERGY, CONSUMPTION), pure=True),
    Room("edge_runtime.economics", VOCABULARY, pure=True),
    Room(
        "edge_runtime.costs.*",
        (*VOCABULARY, "edge_runtime.economics", ENERGY_USE, CONSUMPTION, PHASE_ENERGY),
        pure=True,
    ),
    Room(SUSTAINED, VOCABULARY, pure=True),
    Room(PAGING, VOCABULARY, pure=True),
    Room(VERDICT, (*VOCABULARY, SUSTAINED, PAGING), pure=True),
    Room(FIT, (*VOCABULARY, "profiles.*"), pure=True),
    Room("edge_runtime.memory_needs", (*VOCABULARY, VERDICT), pure=True),
    Room(
        "edge_runtime.feasibility",
        (*VOCABULARY, VERDICT, FIT, MEMORY_NEEDS, CONSUMPTION, PHASE_ENERGY),
        pure=True,
    ),
    # A comparison shows itself in a notebook: it asks `report` for that, when it is shown.
    Room(
        "edge_runtime.comparison.*",
        (*VOCABULARY, VERDICT, CONSUMPTION, PHASE_ENERGY, SUSTAINED, "edge_runtime.report.*"),
        pure=True,
    ),
    # Only learning the coefficients takes linear algebra; projecting with them takes none.
    Room(
        "edge_runtime.projection.learn",
        (*VOCABULARY, "profiles.*", "edge_runtime.projection.*"),
        ("numpy",),
        pure=True,
    ),
    Room(
        "edge_runtime.projection.validation",
        (*VOCABULARY, "profiles.*", "edge_runtime.projection.*"),
        pure=True,
    ),
    Room(
        "edge_runtime.projection.*",
        (*VOCABULARY, FIT, VERDICT, PAGING, MEMORY_NEEDS, "edge_runtime.feasibility", "profiles.*"),
        pure=True,
    ),
    # The seam to engines; each engine in its own backend.
    Room("edge_runtime.backends.llama_cpp.*", (*VOCABULARY, *SEAM), ("llama_cpp", "numpy")),
    Room(
        "edge_runtime.backends.onnx.*",
        (*VOCABULARY, *SEAM),
        ("numpy",),
        lazy=("onnxruntime", "tokenizers"),
    ),
    Room("edge_runtime.backends.fake.*", (*VOCABULARY, *SEAM)),
    Room("edge_runtime.backends.chat_template", (*VOCABULARY, BACKENDS), lazy=("jinja2",)),
    Room("edge_runtime.backends.generation", (*VOCABULARY, BACKENDS)),
    Room("edge_runtime.backends.slices", (ERRORS,)),
    Room("edge_runtime.backends.threads"),
    Room(BACKENDS, VOCABULARY),
    Room("edge_runtime.model", (*VOCABULARY, BACKENDS, "edge_runtime.sources")),
    Room("edge_runtime.sources", (*VOCABULARY, BACKENDS, "edge_runtime.hub")),
    Room("edge_runtime.hub_onnx", VOCABULARY),
    Room(
        "edge_runtime.hub",
        (*VOCABULARY, *(f"edge_runtime.{n}" for n in ("sources", "hub_transfer", "hub_onnx"))),
    ),
    Room("edge_runtime.hub_transfer", VOCABULARY, lazy=("huggingface_hub",)),
    Room(
        "edge_runtime.profiler.energy.*",
        VOCABULARY,
        lazy=("psutil", "pynvml", "zeus_apple_silicon"),
    ),
    Room(
        "edge_runtime.profiler.*",
        (*VOCABULARY, BACKENDS, "edge_runtime.profiler.energy.*"),
        lazy=("psutil",),
    ),
    # Quality: a session's distributions on a text, in a child process as a measurement is.
    Room(
        "edge_runtime.quality.*",
        (*VOCABULARY, BACKENDS, "edge_runtime.profiler.*"),
        ("numpy",),
    ),
    # Several artifacts measured in turns and scored on one text: the library's own comparison.
    Room(
        "edge_runtime.rounds.*",
        (
            *VOCABULARY,
            BACKENDS,
            VERDICT,
            "edge_runtime.sources",
            "edge_runtime.profiler.*",
            "edge_runtime.quality.*",
            "edge_runtime.comparison.*",
        ),
    ),
    Room(
        "edge_runtime.report.*",
        (*VOCABULARY, *RECORDS, "profiles.*"),
        ("rich", "jinja2"),
        lazy=("plotly",),
    ),
    # The only importer of quantize, and imported by nobody but __main__.
    Room(
        "edge_runtime.cli.*",
        ("edge_runtime.*", "quantize.*", "profiles.*"),
        ("typer",),
        lazy=("rich",),
    ),
    Room("edge_runtime.__main__", ("edge_runtime.cli.*",)),
    # The public names, resolved lazily: type checkers see all of them.
    Room(
        "edge_runtime",
        (
            *VOCABULARY,
            BACKENDS,
            VERDICT,
            "edge_runtime.model",
            "edge_runtime.profiler.*",
            "edge_runtime.rounds.*",
            "edge_runtime.comparison.*",
            "edge_runtime.projection.*",
        ),
    ),
    Room(
        "quantize.*",
        (ERRORS, UNITS, ARTIFACT),
        ("numpy",),
        lazy=("llama_cpp", "onnx", "onnxruntime", "tokenizers"),
    ),
)
# Packages whose files must not know each other; what they share stands in the package itself.
SIBLINGS = ("quantize.architectures",)


@dataclass(frozen=True)
class Import:
    """One import: the module it reaches, where, and whether loading the module runs it not yet."""

    target: str
    line: int
    lazy: bool
    name: str = ""


@dataclass(frozen=True)
class Module:
    """One source file under the name it is imported by."""

    name: str
    file: str
    package: str
    source: str
    tree: ast.Module


@functools.cache
def modules_of_ours() -> dict[str, Module]:
    """Read once: parsing the whole tree takes seconds."""
    return modules_of(ROOT)


def modules_of(root: Path) -> dict[str, Module]:
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            source = path.read_text("utf-8")
            found[name] = Module(
                name=name,
                file=path.relative_to(root).as_posix(),
                package=name if is_package else name.rpartition(".")[0],
                source=source,
                tree=ast.parse(source, str(path)),
            )
    return found


def is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def imports_of(module: Module, known: dict[str, Module]) -> Iterator[Import]:
    """Every import of a module, also those inside functions and by a literal `import_module`."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = (
                lazy
                or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                or (isinstance(child, ast.If) and is_type_checking(child.test))
            )
            yield from reached(child, inside)
            yield from walk(child, inside)

    def reached(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            origin = absolute(node.module or "", node.level)
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                is_module = inner in known
                yield Import(
                    inner if is_module else origin,
                    node.lineno,
                    lazy,
                    "" if is_module else alias.name,
                )
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                text = node.args[0].value
                dots = len(text) - len(text.lstrip("."))
                yield Import(absolute(text[dots:], dots), node.lineno, lazy)

    def absolute(name: str, level: int) -> str:
        if not level:
            return name
        parts = module.package.split(".")
        return ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])

    yield from walk(module.tree, lazy=False)


def matches(name: str, pattern: str) -> bool:
    if pattern.endswith(".*"):
        return name == pattern[:-2] or name.startswith(pattern[:-1])
    return name == pattern


def room_of(name: str) -> Room | None:
    return next((room for room in ROOMS if matches(name, room.modules)), None)


def violations(root: Path) -> list[str]:
    """Every broken rule as `file:line: what, and the rule`."""
    known = modules_of_ours() if root == ROOT else modules_of(root)
    found = []
    for module in known.values():
        room = room_of(module.name)
        broken = list(shape_faults(module))
        if room is None:
            broken.append((1, f"{module.name} stands in no room: give it a row in ROOMS"))
        else:
            for item in imports_of(module, known):
                fault = import_fault(module, room, item)
                if fault:
                    broken.append((item.line, fault))
            if room.pure:
                broken += impure_calls(module)
        found += [f"{module.file}:{line}: {fault}" for line, fault in broken]
    return found


def shape_faults(module: Module) -> Iterator[tuple[int, str]]:
    lines = module.source.count("\n")
    if lines > MAX_LINES:
        yield MAX_LINES + 1, f"{lines} lines: a module has at most {MAX_LINES}, split it by subject"
    for part in module.name.split("."):
        if set(part.split("_")) & set(FORBIDDEN_NAMES):
            yield 1, f"the name {part!r} says nothing: a module is named after what it knows"


def import_fault(module: Module, room: Room, item: Import) -> str | None:
    top = item.target.partition(".")[0]
    if top in FORBIDDEN_LIBRARIES:
        return f"imports {top}: inference here needs no training framework"
    if top in PACKAGES:
        return our_fault(module, room, item)
    if top in sys.stdlib_module_names:
        if room.pure and top in IMPURE:
            return f"imports {top}: {room.modules} is pure, it reads no clock and no file"
        return None
    if top in room.lazy:
        if item.lazy or top in room.libraries:
            return None
        return f"imports {top} when loaded: in {room.modules} it is imported inside functions only"
    if top in room.libraries:
        return None
    allowed = ", ".join((*room.libraries, *room.lazy)) or "none"
    return f"imports {top}: third-party libraries of {room.modules}: {allowed}"


def our_fault(module: Module, room: Room, item: Import) -> str | None:
    if item.target == "edge_runtime" and module.name != "edge_runtime.__main__":
        if item.name == "__version__":
            return None
        return (
            "imports the package root: import a name from its home (only __version__ lives there)"
        )
    for package in SIBLINGS:
        prefix = f"{package}."
        if module.name.startswith(prefix) and item.target.startswith(prefix):
            other = item.target.removeprefix(prefix).partition(".")[0]
            own = module.name.removeprefix(prefix).partition(".")[0]
            if other != own:
                return f"imports {item.target}: siblings in {package} do not know each other"
    # A room knows itself: for `X.*` everything below X that is no other room's.
    if room_of(item.target) is room or any(matches(item.target, p) for p in room.ours):
        return None
    allowed = ", ".join(room.ours) or "nothing"
    return f"imports {item.target}: {room.modules} may import of ours: {allowed}"


def impure_calls(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in IMPURE_CALLS:
            yield called.lineno, f"calls {called.id}(): {module.name} is pure"


def test_every_module_keeps_to_its_room() -> None:
    found = violations(ROOT)
    assert not found, "\n" + "\n".join(found)


def test_every_row_is_about_modules_that_exist_or_are_planned() -> None:
    # A row that matches nothing is a rule nobody follows. Planned rooms are listed here by name.
    planned = {"edge_runtime.projection"}
    used = {room.modules for name in modules_of_ours() if (room := room_of(name))}
    assert {room.modules for room in ROOMS} - used <= planned


def test_every_library_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        lines += extra
    declared = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower().replace("-", "_") for line in lines}
    distributions = {"llama_cpp": "llama_cpp_python", "pynvml": "nvidia_ml_py"}
    known = modules_of_ours()
    imported = {
        item.target.partition(".")[0]
        for module in known.values()
        for item in imports_of(module, known)
    }
    libraries = imported - set(PACKAGES) - set(sys.stdlib_module_names)
    missing = {distributions.get(name, name) for name in libraries} - declared
    assert not missing, f"imported, but not declared in pyproject.toml: {sorted(missing)}"


def test_an_extra_backend_cannot_hide_behind_the_seam() -> None:
    # The names that `backends` looks up are exactly the concrete backends the table has rows for.
    tree = modules_of_ours()["edge_runtime.backends"].tree
    builtin = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "BUILTIN"
    )
    rows = {room.modules.split(".")[2] for room in ROOMS if room.modules.startswith(f"{BACKENDS}.")}
    seam = {name.rpartition(".")[2] for name in SEAM[1:]}
    assert set(ast.literal_eval(builtin)) <= rows - seam


FAKE_TREE = {
    "edge_runtime/__init__.py": "__version__ = '1'\n",
    "edge_runtime/errors.py": "import math\n",
    "edge_runtime/units.py": "from .errors import X\n",
    "edge_runtime/artifact/__init__.py": "from .ggml import Y\n",
    "edge_runtime/artifact/ggml.py": "import os\nfrom ..errors import X\n",
    "edge_runtime/measurement.py": "from .artifact import Y\n",
    "edge_runtime/backends/__init__.py": "from ..artifact import Y\n",
    "edge_runtime/backends/fake.py": "from . import Z\nfrom ..measurement import M\n",
    "edge_runtime/backends/llama_cpp/__init__.py": "import llama_cpp\nfrom .session import S\n",
    "edge_runtime/backends/llama_cpp/session.py": "import numpy\n",
    "edge_runtime/profiler/__init__.py": "from .. import __version__\nfrom .host import h\n",
    "edge_runtime/profiler/host.py": "def f():\n    import psutil\n",
    "edge_runtime/verdict.py": "from .measurement import M\n",
    "edge_runtime/cli/__init__.py": "import typer\ndef f():\n    import quantize, rich\n",
    "quantize/__init__.py": "import numpy\nfrom edge_runtime.artifact.ggml import Y\n",
    "quantize/architectures/__init__.py": "from . import llama\n",
    "quantize/architectures/llama.py": "",
    "profiles/__init__.py": "import tomllib\n",
}


def plant(root: Path, **changes: str) -> list[str]:
    for file, source in {**FAKE_TREE, **changes}.items():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, "utf-8")
    return violations(root)


def test_the_checker_accepts_a_sound_tree(tmp_path: Path) -> None:
    assert plant(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        (
            "edge_runtime/errors.py",
            "\nfrom .units import U\n",
            "edge_runtime/errors.py:2: imports edge_runtime.units",
        ),
        (
            "edge_runtime/units.py",
            "from . import measurement\n",
            "units.py:1: imports edge_runtime.measurement",
        ),
        ("edge_runtime/artifact/ggml.py", "import numpy\n", "ggml.py:1: imports numpy"),
        (
            "edge_runtime/artifact/ggml.py",
            "from ..measurement import M\n",
            "imports edge_runtime.measurement",
        ),
        ("edge_runtime/measurement.py", "import time\n", "is pure"),
        (
            "edge_runtime/verdict.py",
            "def f():\n    return open('x')\n",
            "verdict.py:2: calls open()",
        ),
        ("edge_runtime/verdict.py", "from . import profiler\n", "imports edge_runtime.profiler"),
        (
            "edge_runtime/backends/fake.py",
            "from .llama_cpp import L\n",
            "imports edge_runtime.backends.llama_cpp",
        ),
        (
            "edge_runtime/backends/__init__.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .fake import F\n",
            "__init__.py:3: imports edge_runtime.backends.fake",
        ),
        ("edge_runtime/backends/fake.py", "import llama_cpp\n", "imports llama_cpp"),
        (
            "edge_runtime/profiler/host.py",
            "def f():\n    from ..backends.llama_cpp import session\n",
            "host.py:2: imports edge_runtime.backends.llama_cpp",
        ),
        (
            "edge_runtime/profiler/host.py",
            "import importlib\nimportlib.import_module('edge_runtime.backends.fake')\n",
            "host.py:2: imports edge_runtime.backends.fake",
        ),
        ("edge_runtime/profiler/host.py", "import psutil\n", "inside functions only"),
        ("edge_runtime/profiler/host.py", "from .. import measure\n", "imports the package root"),
        ("edge_runtime/profiler/host.py", "from .. import cli\n", "imports edge_runtime.cli"),
        ("edge_runtime/profiler/host.py", "def f():\n    import quantize\n", "imports quantize"),
        (
            "quantize/__init__.py",
            "from edge_runtime.measurement import M\n",
            "imports edge_runtime.measurement",
        ),
        ("quantize/__init__.py", "import torch\n", "imports torch"),
        (
            "quantize/architectures/gemma.py",
            "from .llama import L\n",
            "siblings in quantize.architectures",
        ),
        (
            "profiles/__init__.py",
            "from edge_runtime.errors import X\n",
            "imports edge_runtime.errors",
        ),
        ("profiles/__init__.py", "import yaml\n", "imports yaml"),
        ("edge_runtime/artifact/io_helpers.py", "", "the name 'io_helpers'"),
        ("edge_runtime/weights.py", "", "weights.py:1: edge_runtime.weights stands in no room"),
        ("profiles/long.py", "x = 1\n" * (MAX_LINES + 1), "451 lines"),
    ],
)
def test_the_checker_finds_what_it_is_for(
    tmp_path: Path, file: str, source: str, expected: str
) -> None:
    found = plant(tmp_path, **{file: source})
    assert len(found) == 1, found
    assert expected in found[0]
