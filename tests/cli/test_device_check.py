"""Devices that are not here, as a user asks about them: check --device, fit and plan."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.artifact import ModelShape
from edge_runtime.cli import machine, options, projecting
from edge_runtime.cli.projecting import find_device, refuse_measuring, with_memory
from edge_runtime.errors import UsageError
from profiles import model, models
from quantize import synthesize

ROOT = Path(__file__).resolve().parent.parent.parent
Edge = Callable[..., tuple[int, str, str]]

PHONE, BOARD, CARD = "pixel-9-pro", "raspberry-pi-5-8gb", "rtx4090"

DEVICE = """
id = "my-board"
name = "My board"
maker = "Me"
class = "sbc"
soc = "RK1"
os = ["Linux"]
as_of = "2026-11-22"
[cpu]
clusters = [{ name = "Cortex-A76", count = 4, max = "2.4 GHz" }]
isa = ["neon", "dotprod"]
source = "sheet"
[memory]
sizes = ["8 GB"]
sizes_source = "sheet"
type = "LPDDR4X"
bandwidth = { value = "BANDWIDTH", kind = "stated", source = "sheet" }
[sources]
sheet = "https://example.org/board (data sheet)"
"""


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "my-board.toml"
    path.write_text(DEVICE.replace("BANDWIDTH", "34 GB/s"))
    return path


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A projection looks at no machine and starts no process."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was measured")

    monkeypatch.setattr(machine, "look_at_machine", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


def test_a_model_on_devices_of_four_kinds(edge: Edge) -> None:
    names = (PHONE, BOARD, "apple-m1", CARD)
    code, out, err = edge("check", "qwen2.5-1.5b", "--device", ",".join(names), "--json")
    assert not err
    document = json.loads(out)
    assert code == 0
    assert [one["id"] for one in document["devices"]] == list(names)
    rows = document["rows"]
    assert len(rows) == 4 * 3
    assert {row["basis"] for row in rows} == {"PROJECTED"}
    for row in rows:
        rate = row["decode_tokens_per_s"]
        assert 0 < rate["low"] < rate["value"] < rate["high"]
        assert rate["confidence"] == 0.8
        assert row["memory"]["available_bytes"] > 0
        assert row["assumptions"]
        assert rate["value"] * row["bytes_per_token"] < row["roof_bytes_per_s"]["high"]
    best = {row["device"]: row["decode_tokens_per_s"]["value"] for row in rows}
    assert best[BOARD] < best["apple-m1"] < best[CARD]


def test_the_page_names_devices_intervals_and_what_it_rests_on(edge: Edge) -> None:
    code, out, _ = edge("check", "qwen2.5-0.5b", "-d", BOARD, "-d", CARD, "-l", "Q4_0")
    assert code == 0
    assert "tok/s (80 %)" in out
    assert "nothing was run for this page" in out
    assert out.count("evidence: ") == 2


def test_without_a_model_the_catalogues_usual_ones_are_projected(edge: Edge) -> None:
    _, out, _ = edge("check", "--device", BOARD, "--level", "Q4_0", "--json")
    usual = [entry.id for entry in models().values() if entry.check_default]
    assert [row["model"] for row in json.loads(out)["rows"]] == usual


def test_a_file_stands_at_its_own_level_and_a_config_at_all(edge: Edge, tmp_path: Path) -> None:
    config = model("smollm2-135m").config
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(config)))
    shape = ModelShape.from_config(config, name="small")
    synthesize(shape, "Q4_0", tmp_path / "small.gguf", layers=1)
    arguments = ("--device", BOARD, "--level", "Q8_0,Q4_K_M", "--json")
    _, out, err = edge("check", tmp_path / "small.gguf", folder, *arguments)
    assert not err
    found = [(row["model"], row["level"]) for row in json.loads(out)["rows"]]
    assert [level for _, level in found] == ["Q4_0", "Q8_0", "Q4_K_M"]
    assert found[1][0] == "mine"


def test_a_device_of_ones_own_is_projected_by_its_file(edge: Edge, board: Path) -> None:
    _, out, err = edge("check", "qwen2.5-1.5b", "--device", board, "-l", "Q4_0", "--json")
    assert not err
    (row,) = json.loads(out)["rows"]
    assert row["device"] == "my-board"
    assert row["roof_bytes_per_s"]["high"] == 34e9


def test_a_device_file_with_a_wrong_unit_is_refused(edge: Edge, board: Path) -> None:
    board.write_text(DEVICE.replace("BANDWIDTH", "34 Gbit/s"))
    code, out, err = edge("check", "qwen2.5-1.5b", "--device", board)
    assert (code, out) == (2, "")
    assert err.startswith("edge: ")
    assert "bandwidth" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "qwen2.5-1.5b", "--device", "pixel-9-prp"), "'pixel-9-pro'"),
        (("check", "qwen2.5-1.6b", "--device", BOARD), "qwen2.5-1.5b"),
        (("check", "--device", "nowhere.toml"), "nowhere.toml"),
        (("check", "--device", BOARD, "--accelerator", "tpu"), "cpu, gpu, npu"),
        (("check", "--device", CARD, "--accelerator", "npu"), "npu"),
        (("check", "--accelerator", "gpu"), "--accelerator goes with --device"),
        (("check", "--device", BOARD, "--save", "no/where.json"), "cannot be written"),
        (("fit", "--device", f"{BOARD},{CARD}"), "one is asked about at a time"),
        (("fit", "--device", BOARD, "--memory", "8 apples"), "--memory"),
        (("plan", "llama-3.1-8c"), "llama-3.1-8b"),
        (("plan", "qwen2.5-1.5b", "--class", "phone"), "mobile"),
        (("plan", "qwen2.5-1.5b", "--class", "sbc", "--backend", "nonsense"), "Known: llama.cpp"),
        (("plan", "qwen2.5-1.5b", "--class", "sbc", "--backend", "mlx"), "None of the devices"),
        (("check", "--device", BOARD, "--level", ","), "names no level"),
        (("fit", "--device", BOARD, "--level", ""), "names no level"),
        (("check", "llama-3.2-3b", "--device", "iphone-15-pro", "--claim", "62"), "impossible"),
        (("check", "llama-3.2-3b", "--device", CARD, "--claim", "nan"), "makes no sense"),
        (("check", "--claim", "62"), "--claim goes with --device"),
    ],
)
def test_a_mistake_is_one_clear_sentence(edge: Edge, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = edge(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("edge: ")
    assert said in err
    assert "Traceback" not in err


def test_a_claimed_rate_is_judged_level_by_level(edge: Edge) -> None:
    asked = ("check", "llama-3.2-3b", "--device", "iphone-15-pro", "--claim", "20")
    claims = json.loads(edge(*asked, "--json")[1])["claims"]
    assert {one["level"]: one["possible"] for one in claims} == {
        "Q8_0": False, "Q4_K_M": True, "Q4_0": True
    }  # fmt: skip
    page = edge(*asked)[1]
    assert page.count("Claimed:") == 3
    assert page.count("physically impossible") == 1


def test_options_of_measuring_contradict_a_device(edge: Edge) -> None:
    code, _, err = edge("check", "qwen2.5-1.5b", "--device", BOARD, "--budget", "3m")
    assert code == 2
    assert "--budget and --device contradict each other" in err


@pytest.mark.parametrize(
    ("name", "value"),
    [("gpu_layers", 0), ("provider", ["cpu"]), ("limit_memory", "4GiB"), ("limit_cores", 2)],
)
def test_every_option_of_measuring_is_refused(name: str, value: object) -> None:
    option = f"--{name.replace('_', '-')} and --device contradict"
    with pytest.raises(UsageError, match=option):
        refuse_measuring(budget=None, **{name: value})


def test_an_option_that_was_not_given_contradicts_nothing() -> None:
    refuse_measuring(budget=None, gpu_layers=None, provider=[], limit_memory=None)


@pytest.mark.parametrize("size", ["8 apples", "0GB", "9999TB", "-8GB"])
def test_a_memory_that_no_device_has_is_refused(size: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        with_memory(find_device(BOARD), size, None)


def test_memory_is_sold_in_powers_of_two_and_labelled_gb() -> None:
    for size in ("8GB", "8GiB", "8192MiB"):
        assert with_memory(find_device("raspberry-pi-5"), size, None).ram_bytes == (8 * 2**30,)


def test_the_exit_code_tells_the_verdict(edge: Edge) -> None:
    codes = [
        edge("check", "qwen2.5-1.5b", "--device", BOARD, "-l", "Q4_0", "--target", rate)[0]
        for rate in ("0.1", "5000")
    ]
    assert codes == [0, 1]


@pytest.fixture
def three_models(monkeypatch: pytest.MonkeyPatch) -> None:
    some = [
        ModelShape.from_config(model(name).config, name=name)
        for name in ("smollm2-135m", "qwen2.5-0.5b", "llama-3.1-8b")
    ]
    monkeypatch.setattr(projecting, "catalogue_shapes", lambda *, usual: some)


@pytest.mark.usefixtures("three_models")
def test_saving_writes_the_document_that_json_prints(edge: Edge, tmp_path: Path) -> None:
    path = tmp_path / "there.json"
    _, out, _ = edge("fit", "-d", BOARD, "-l", "Q4_0", "--json", "--save", path)
    assert path.read_text("utf-8") == out
    _, out, _ = edge("fit", "-d", BOARD, "-l", "Q4_0", "--save", path)
    assert "tok/s (80 %)" in out


def test_what_reads_on_a_board_the_largest_first(edge: Edge) -> None:
    code, out, _ = edge("fit", "--device", BOARD, "--target", "5", "--json")
    assert code == 0
    document = json.loads(out)
    viable = [row for row in document["rows"] if row["verdict"] == "VIABLE"]
    sizes = [row["parameters"] for row in viable]
    assert sizes
    assert sizes == sorted(sizes, reverse=True)
    assert document["misses"]
    listed = [row["model"] for row in (*document["rows"], *document["misses"])]
    assert sorted(listed) == sorted(models())


@pytest.mark.usefixtures("three_models")
def test_memory_is_that_of_the_size_asked_for(edge: Edge) -> None:
    free = {}
    for memory in ("4GB", "16GB"):
        arguments = ("fit", "--device", "raspberry-pi-5", "--memory", memory, "-l", "Q4_0")
        _, out, _ = edge(*arguments, "--target", "2", "--json")
        document = json.loads(out)
        assert document["devices"][0]["ram_bytes"] == [int(memory[:-2]) * 2**30]
        free[memory] = document["rows"][0]["memory"]["available_bytes"]
    assert free["4GB"] < 4 * 2**30
    assert 8 * 2**30 < free["16GB"] < 16 * 2**30


def test_what_hardware_a_model_needs(edge: Edge) -> None:
    code, out, _ = edge("plan", "llama-3.2-1b", "--class", "sbc", "--json")
    document = json.loads(out)
    assert code == (0 if any(row["verdict"] == "VIABLE" for row in document["rows"]) else 3)
    (needs,) = document["needs"]
    assert needs["level"] == "Q4_K_M"
    for need in needs["bandwidths"]:
        ends = [need[end] for end in ("least", "likely", "sure") if need[end] is not None]
        assert ends == sorted(ends)
    assert {row["class"] for row in document["rows"]} <= {"sbc"}
    assert "NOT VIABLE" not in {row["verdict"] for row in document["rows"]}
    _, page, _ = edge("plan", "llama-3.2-1b", "--class", "sbc")
    assert "at the very least, on anything" in page


def test_the_shell_completes_devices_also_behind_a_comma() -> None:
    assert "raspberry-pi-5-8gb" in dict(options.complete_device("raspberry"))
    assert "rtx4090,raspberry-pi-5" in dict(options.complete_device("rtx4090,raspberry-pi-5"))
    assert options.complete_device("no-such-device") == []


def test_neither_numpy_nor_an_engine_is_loaded_to_project(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    code = (
        "import sys, io, contextlib\n"
        "from edge_runtime.cli.app import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    for arguments in (['check', 'qwen2.5-1.5b', '--device', 'rtx4090'],\n"
        "                      ['fit', '--device', 'rtx4090', '-l', 'Q4_0']):\n"
        "        sys.argv = ['edge', *arguments]\n"
        "        with contextlib.suppress(SystemExit):\n"
        "            main()\n"
        "heavy = {'numpy', 'llama_cpp', 'onnxruntime', 'psutil', 'jinja2', 'gguf'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
