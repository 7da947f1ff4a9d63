"""What people may import, and what importing it costs."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import edge_runtime

ROOT = Path(__file__).resolve().parent.parent

# The contract: taking a name away breaks people, adding one is a promise. Do both on purpose.
PUBLIC = [
    "__version__",
    "ArtifactError",
    "Artifact",
    "BackendError",
    "Basis",
    "Comparison",
    "ContextFullError",
    "DiskError",
    "EdgeError",
    "EngineMissingError",
    "FormatError",
    "GREEDY",
    "Host",
    "HubError",
    "Interval",
    "LatencyFailure",
    "LatencyMeasurement",
    "LatencyOptions",
    "Limits",
    "Measurement",
    "MemoryLimitError",
    "Message",
    "Model",
    "ModelNotFoundError",
    "ModelShape",
    "Piece",
    "Plan",
    "Projection",
    "ResourceError",
    "Run",
    "Sampling",
    "SessionOptions",
    "Target",
    "Unavailable",
    "UnsupportedError",
    "UsageError",
    "Verdict",
    "VerdictKind",
    "WorkerError",
    "Workload",
    "compare",
    "decode_workload",
    "detect_host",
    "fit_device",
    "judge",
    "load",
    "measure",
    "measure_latency",
    "plan_hardware",
    "prefill_workload",
    "project",
]

HEAVY = [
    "numpy",
    "llama_cpp",
    "psutil",
    "gguf",
    "onnxruntime",
    "huggingface_hub",
    "jinja2",
    "tokenizers",
]


VERBS = (
    "check", "fit", "plan", "run", "profile", "compare", "report", "energy", "convert", "quantize",
    "inspect", "models", "doctor",
)  # fmt: skip


def fresh_interpreter(code: str) -> list[str]:
    """Runs some code in a new interpreter; it prints a JSON list of strings as its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(loaded, list)
    return loaded


def test_the_public_names_are_the_promised_ones() -> None:
    assert sorted(edge_runtime.__all__) == sorted(PUBLIC)
    assert len(set(edge_runtime.__all__)) == len(edge_runtime.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(edge_runtime, name)
    assert name in dir(edge_runtime)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    assert value.__name__ == name
    assert inspect.getdoc(value), f"{name} has no docstring"
    # The generated signature that dataclasses put there is no description.
    assert not (value.__doc__ or "").startswith(f"{name}("), f"{name} has no docstring of its own"


def test_public_methods_are_documented() -> None:
    silent = []
    for name in PUBLIC:
        value = getattr(edge_runtime, name)
        if not inspect.isclass(value):
            continue
        for attribute, member in vars(value).items():
            function = member.fget if isinstance(member, property) else member
            function = getattr(function, "__func__", function)
            if attribute.startswith("_") or not inspect.isfunction(function):
                continue
            if not inspect.getdoc(function):
                silent.append(f"{name}.{attribute}")
    assert not silent


def test_type_checkers_see_the_same_names() -> None:
    source = Path(edge_runtime.__file__).read_text("utf-8")
    block = source.partition("if TYPE_CHECKING:")[2].partition("\n\n\n")[0]
    seen = {line.rpartition(" as ")[2] for line in block.splitlines() if " as " in line}
    assert seen == set(PUBLIC) - {"__version__"}


def test_a_name_that_is_not_public_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sesion'"):
        edge_runtime.Sesion  # noqa: B018


def test_importing_the_library_loads_the_standard_library_only() -> None:
    loaded = fresh_interpreter(
        "import sys\n"
        "before = set(sys.modules)\n"
        "import edge_runtime\n"
        "import json\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps(sorted(new - set(sys.stdlib_module_names))))\n"
    )
    assert loaded == ["edge_runtime"]


def test_importing_the_library_loads_none_of_its_rooms() -> None:
    loaded = fresh_interpreter(
        "import sys, json, edge_runtime\n"
        "print(json.dumps(sorted(m for m in sys.modules if m.startswith('edge_runtime'))))\n"
    )
    assert loaded == ["edge_runtime"]


def test_judging_a_saved_record_needs_no_engine() -> None:
    loaded = fresh_interpreter(
        "import sys, json\n"
        "from edge_runtime import Measurement, Target, judge\n"
        "new = {name.partition('.')[0] for name in sys.modules}\n"
        f"print(json.dumps(sorted(new & set({HEAVY!r}))))\n"
    )
    assert loaded == []


def test_help_is_quick_because_nothing_heavy_is_loaded() -> None:
    # One after another in one interpreter: what none of them loads, no other has loaded before it.
    loaded = fresh_interpreter(
        "import sys, json\n"
        "from edge_runtime.cli.app import main\n"
        "found = []\n"
        f"for arguments in [['--help'], ['--version'], *([v, '--help'] for v in {VERBS!r})]:\n"
        "    sys.argv = ['edge', *arguments]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as stop:\n"
        "        code = stop.code\n"
        "    new = {name.partition('.')[0] for name in sys.modules}\n"
        f"    heavy = sorted(new & set({HEAVY!r}))\n"
        "    if code or heavy:\n"
        "        found.append(f'{arguments}: {code} {heavy}')\n"
        "print(json.dumps(found))\n"
    )
    assert loaded == []


def test_the_module_runs_like_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0
    assert done.stdout.strip() == f"edge-runtime {edge_runtime.__version__}"
