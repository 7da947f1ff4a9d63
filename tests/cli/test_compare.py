"""`edge compare` as typed: rows, resuming, what is refused, and the gate for CI."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.errors import DiskError
from edge_runtime.profiler.results import append_result, create_results
from edge_runtime.rounds import run as rounds_run
from edge_runtime.saved import SavedRecord, read_saved
from edge_runtime.scores import Scores
from tests.conftest import write_random_gguf
from tests.score_records import several_levels

Edge = Callable[..., tuple[int, str, str]]

QUICK = {"step_ns": 1_000_000, "prefill_ns_per_token": 10_000}
FEW = ("-r", "1", "-p", "16", "-n", "4", "--backend", "fake", "-c", "64")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clean cache, and an engine that costs nothing, for every test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGE_CACHE_DIR", str(folder))
    monkeypatch.setenv("EDGE_RUNTIME_FAKE", json.dumps(QUICK))
    return folder


def lines(path: Path) -> list[SavedRecord]:
    return [read_saved(json.loads(line)) for line in path.read_text().splitlines()]


def saved(path: Path, *records: SavedRecord) -> Path:
    create_results(path)
    for record in records:
        append_result(path, record)
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, random_gguf: Path) -> tuple[Path, Path]:
    """Two models that can be told apart."""
    other = tmp_path_factory.mktemp("other") / "other.gguf"
    return random_gguf, write_random_gguf(other, context=256)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Enough for two passages of 64 tokens and more."""
    path = tmp_path / "own.txt"
    path.write_text("A fox met a crow under the old oak, and asked it to sing. " * 4)
    return path


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> list[SavedRecord]:
    """No child is started: a program gives these records instead, and then is interrupted.

    Those after a None come only when it is not; an empty list is a program without a record.
    """
    records: list[SavedRecord] = []

    def run_program(*_arguments: object, **_options: object) -> Iterator[tuple[SavedRecord, bool]]:
        yield from ((record, True) for record in records)
        if records:
            raise KeyboardInterrupt

    monkeypatch.setattr(rounds_run, "run_program", run_program)
    return records


@pytest.mark.engine
def test_levels_are_made_measured_kept_and_found_again(
    edge: Edge, random_gguf: Path, text: Path, tmp_path: Path
) -> None:
    asked = ("compare", random_gguf, "--levels", "Q8_0,IQ2_XXS", "--text", text, *FEW)
    code, out, err = edge(*asked, "--save", "kept.jsonl")
    assert code == 4, err
    rows = [line for line in out.splitlines() if line.startswith("|")][2:]
    assert ["F32" in rows[0], "Q8" in rows[1], "failed" in rows[2]] == [True] * 3
    assert "needs an importance matrix" in out
    assert "making random-bytes-Q8_0.gguf" in err
    kept = lines(tmp_path / "kept.jsonl")
    assert len(kept) == 2 + 1 + 2 * 2  # scores, the failure, two workloads of both

    # Everything is in the file and in the cache: nothing is made, scored or measured again.
    code, again, err = edge(*asked, "--resume", "kept.jsonl", "--json")
    assert code == 4, err
    assert "making random-bytes-Q8_0.gguf" not in err
    assert lines(tmp_path / "kept.jsonl") == kept
    document = json.loads(again)
    assert [row["label"] for row in document["comparison"]["rows"]] == ["F32", "Q8_0", "IQ2_XXS"]

    code, shown, err = edge("compare", "kept.jsonl", "--json")
    assert (code, json.loads(shown)["comparison"]) == (0, document["comparison"]), err


@pytest.mark.engine
@pytest.mark.usefixtures("unmeasured")
def test_a_level_whose_blocks_do_not_fit_the_model_is_said(edge: Edge, random_gguf: Path) -> None:
    _, _, err = edge("compare", random_gguf, "--levels", "Q4_K_M,Q8_0", *FEW)
    assert "Q4_K_M became Q5_0" in err
    assert err.count("became") == 1


def test_ctrl_c_keeps_the_rows_and_says_how_to_go_on(
    edge: Edge, unmeasured: list[SavedRecord], two: tuple[Path, Path], tmp_path: Path
) -> None:
    unmeasured += several_levels()[:3]
    code, out, err = edge("compare", *two, "--no-quality", "--save", "my rows.jsonl")
    assert code == 130
    assert out.startswith("**") or "| " in out
    assert lines(tmp_path / "my rows.jsonl") == unmeasured
    assert "Go on with: edge compare" in err
    assert "--no-quality --resume 'my rows.jsonl'" in err


@pytest.mark.engine
def test_a_disk_that_fills_fails_one_level_and_stops_no_other(
    edge: Edge,
    unmeasured: list[SavedRecord],
    random_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    import quantize

    real = quantize.requantize

    def full_at_q4(source: Path, out: Path, level: str, **options: object) -> object:
        if level == "Q4_0":
            raise DiskError("There is no room.", way_out="Free some space.")
        return real(source, out, level, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(quantize, "requantize", full_at_q4)
    code, out, err = edge(
        "compare", random_gguf, "-l", "Q4_0,Q8_0", "--keep", "models", "--save", "kept.jsonl",
        "-o", "jsonl",
    )  # fmt: skip
    assert code == 4, err
    (failure,) = map(json.loads, out.splitlines())
    assert (failure["task"], failure["label"], failure["fact"]) == (
        "make", "Q4_0", "There is no room.",
    )  # fmt: skip
    made = {path.name for path in (tmp_path / "models").iterdir() if path.suffix}
    assert made == {"random-bytes-Q8_0.gguf", ".edge-compare.json"}
    assert not unmeasured


def test_a_text_that_is_too_short_is_refused_and_leaves_no_file(
    edge: Edge, two: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("Hello.")
    code, out, err = edge("compare", *two, "--text", "short.txt", "--save", "kept.jsonl", *FEW)
    assert (code, out) == (2, "")
    assert "it has 6 tokens, 128 are needed" in err
    assert not (tmp_path / "kept.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "There is no nowhere"),
        (("--levels", "Q9_K"), "Q9_K"),
        (("{model}", "--levels", "onnx:int4"), "onnx:int4 cannot be made of"),
        (("{model}", "{model}", "--levels", "Q8_0"), "--levels is for one model"),
        (("{model}", "{model}"), "cannot be told apart"),
        (("{model}", "{other}", "--reference", "Q8_0"), "none of the models is Q8_0"),
        (("--reference", "Q8_0"), "no reference"),
        (("--text", "nowhere.txt"), "nowhere.txt"),
        (("--prompts", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--calibrate", "a.txt", "--imatrix", "b.gguf"), "Give only one"),
        (("--no-quality", "--calibrate", "nowhere.txt"), "nowhere.txt"),
        (("--no-quality", "--imatrix", "nowhere.gguf"), "nowhere.gguf"),
        (("--save", "a.jsonl", "--resume", "b.jsonl"), "Give only --resume"),
        (("--save", "there.jsonl"), "--resume there.jsonl"),
        (("--resume", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--no-quality", "--show"), "leave"),
        (("--no-quality", "--rounds", "0"), "nothing to do"),
        (("-o", "html"), "edge report"),
        (("--json", "-o", "md"), "two formats"),
        (("--memory", "much"), "--memory"),
        (("--target", "0"), "makes no sense"),
        (("--fail-if", "kl > 1"), "one saved comparison against another"),
        (("--baseline", "there.jsonl", "there.jsonl", "--rounds", "2"), "no meaning for a gate"),
        (("there.jsonl", "--levels", "Q8_0"), "no meaning for a saved comparison"),
        (("there.jsonl",), "no record"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_before_anything_is_made(
    edge: Edge,
    two: tuple[Path, Path],
    tmp_path: Path,
    cache: Path,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    (tmp_path / "there.jsonl").touch()
    names = {"model": two[0], "other": two[1]}
    code, out, err = edge("compare", *(a.format(**names) for a in arguments))
    assert code in (2, 4), err
    assert words in err
    assert (out, "defect" in err, "Traceback" in err) == ("", False, False)
    assert not list(cache.glob("compared/*/*.gguf"))


@pytest.mark.parametrize("content", [b"dear diary", b"one line\nand half of ano", b"GGUF\n\0\0"])
def test_a_file_that_is_no_saved_comparison_is_not_touched_by_resuming(
    edge: Edge, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "mine").write_bytes(content)
    code, out, err = edge("compare", "--resume", "mine")
    assert (code, out) == (4, ""), err
    assert (tmp_path / "mine").read_bytes() == content


def test_the_gates_exit_code_is_the_commands(edge: Edge, tmp_path: Path) -> None:
    old = saved(tmp_path / "old.jsonl", *several_levels())
    code, out, err = edge("compare", "--baseline", old, old, "--fail-if", "tg128 < -5%")
    assert (code, bool(out)) == (0, True), err
    code, _, err = edge("compare", "--baseline", old, old, "--fail-if", "size > 1MiB", "--markdown")
    assert code == 1, err


def test_saved_files_of_unlike_texts_do_not_come_onto_one_table(edge: Edge, tmp_path: Path) -> None:
    records = several_levels()
    saved(tmp_path / "a.jsonl", *records)
    other = [
        replace(r, text=replace(r.text, sha256="c" * 64, tokens_sha256="d" * 64))
        for r in records
        if isinstance(r, Scores)
    ]
    saved(tmp_path / "b.jsonl", other[1])
    code, out, err = edge("compare", "a.jsonl", "b.jsonl")
    assert (code, out) == (2, ""), err


def test_rounds_of_two_runs_are_never_paired(edge: Edge, tmp_path: Path) -> None:
    saved(tmp_path / "a.jsonl", *several_levels())
    again = [replace(r, created="2026-10-04T00:00:00Z") for r in several_levels()]
    saved(tmp_path / "b.jsonl", *again)
    code, out, err = edge("compare", "a.jsonl", "b.jsonl")
    assert (code, out) == (2, ""), err
    assert "2 runs" in err
    assert "edge report" in err
    code, _, err = edge("report", "a.jsonl", "b.jsonl", "-o", "both.json")
    assert code == 0, err
    assert len(json.loads((tmp_path / "both.json").read_text("utf-8"))["comparisons"]) == 2
