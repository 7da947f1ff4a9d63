"""`edge report` as typed: what it writes, what it refuses, and that nothing half is left."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from latency_records import measurement as latency_measurement
from records import host
from score_records import artifact, rounds, several_levels

from edge_runtime.cli import whole_file
from edge_runtime.codec import Saved

Edge = Callable[..., tuple[int, str, str]]


def saved(path: Path, records: Iterable[Saved]) -> Path:
    path.write_text("".join(json.dumps(r.to_json()) + "\n" for r in records), "utf-8")
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return saved(tmp_path / "results.jsonl", several_levels())


def test_the_page_is_the_default_and_says_what_it_was_made_of(edge: Edge, results: Path) -> None:
    code, out, err = edge("report", results)
    assert (code, out) == (0, "")
    assert err == "report.html: 48 records\n"
    page = Path("report.html").read_text("utf-8")
    assert "Q8_0: the smallest loss that still reads at 20 tok/s" in page
    assert "<title>model</title>" in page
    assert "results.jsonl" in page
    assert str(results.parent) not in page


def test_target_memory_baseline_and_title_are_heeded(edge: Edge, results: Path) -> None:
    code, _, _ = edge("report", results, "--target", "30", "--memory", "200MiB",
                      "--baseline", "Q4_K_M", "--title", "Mine & yours")  # fmt: skip
    page = Path("report.html").read_text("utf-8")
    assert code == 0
    assert "Q4_K_M: the smallest loss that still reads at 30 tok/s within 200 MiB" in page
    assert "<h1>Mine &amp; yours</h1>" in page
    assert "baseline</span>" in page


def test_the_same_as_markdown_csv_and_json(edge: Edge, results: Path) -> None:
    for name in ("r.md", "r.csv", "r.json"):
        assert edge("report", results, "-o", name)[0] == 0
    assert "Q4_K_M" in Path("r.md").read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(Path("r.csv").read_text("utf-8"))))
    assert [row["label"] for row in rows] == ["F16", "Q8_0", "Q4_K_M", "Q2_K"]
    document = json.loads(Path("r.json").read_text("utf-8"))
    assert len(document["records"]) == 48
    # It is a saved file itself: what was made of it can be made again.
    assert edge("report", "r.json", "-o", "again.csv")[0] == 0
    assert Path("again.csv").read_text("utf-8") == Path("r.csv").read_text("utf-8")


def test_records_of_two_machines_get_two_tables(edge: Edge, tmp_path: Path) -> None:
    here = rounds(artifact("Q8_0"), tg=[20, 21])
    there = [replace(r, host=replace(host(), cpu="Another CPU")) for r in here]
    one, other = saved(tmp_path / "1.jsonl", here), saved(tmp_path / "2.jsonl", there)
    assert edge("report", one, other)[0] == 0
    page = Path("report.html").read_text("utf-8")
    assert 'href="#comparison-2"' in page
    assert "Another CPU" in page
    assert edge("report", one, other, "-o", "r.json")[0] == 0
    assert len(json.loads(Path("r.json").read_text("utf-8"))["comparisons"]) == 2
    assert edge("report", "r.json", "-o", "again.csv")[0] == 0
    assert len(Path("again.csv").read_text("utf-8").splitlines()) == 3


def test_a_record_in_two_files_counts_once(edge: Edge, results: Path, tmp_path: Path) -> None:
    again = saved(tmp_path / "again.jsonl", several_levels())
    assert edge("report", results, again, "-o", "r.csv")[2] == "r.csv: 48 records\n"


def test_latencies_are_reported_too_but_not_in_one_csv(
    edge: Edge, results: Path, tmp_path: Path
) -> None:
    other = saved(tmp_path / "latency.jsonl", [latency_measurement()])
    assert edge("report", results, other)[0] == 0
    assert 'id="latency"' in Path("report.html").read_text("utf-8")
    assert edge("report", results, other, "-o", "r.md")[0] == 0
    assert "mobile\\|net" in Path("r.md").read_text("utf-8")
    assert edge("report", other, "-o", "r.csv")[0] == 0
    code, _, err = edge("report", results, other, "-o", "both.csv")
    assert code == 2
    assert "unlike columns" in err
    assert not Path("both.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "report.pdf"), "Let it end in .html"),
        (("-o", "missing/report.html"), "a folder that exists"),
        (("-o", "results.jsonl.html", "--target", "-3"), "makes no sense"),
        (("--memory", "much"), "is not a size"),
        (("--baseline", "Q9"), "Choose from: F16"),
    ],
)
def test_a_request_that_is_off_is_refused(
    edge: Edge, results: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, _, err = edge("report", results, *arguments)
    assert code == 2
    assert words in err
    assert sorted(path.name for path in Path().iterdir()) == ["results.jsonl"]


def test_the_results_themselves_are_never_overwritten(edge: Edge, tmp_path: Path) -> None:
    results = saved(tmp_path / "results.json", several_levels())
    before = results.read_bytes()
    code, _, err = edge("report", results, "-o", "./results.json")
    assert code == 2
    assert "one of the results themselves" in err
    assert results.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"records": 1}', "nonsense\n", "[" * 5000])
def test_what_is_no_results_file_is_said_so(edge: Edge, tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content, "utf-8")
    code, _, err = edge("report", "bad.json")
    assert code == 4
    assert err.startswith("edge: ")
    assert "defect" not in err
    assert not Path("report.html").exists()


def test_an_old_report_stays_when_the_new_one_cannot_be_written(
    edge: Edge, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("report.html").write_text("the old one", "utf-8")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file.os, "fsync", full)
    code, _, err = edge("report", results)
    assert code == 4
    assert "No space left" in err
    assert Path("report.html").read_text("utf-8") == "the old one"
    assert sorted(path.name for path in Path().iterdir()) == ["report.html", "results.jsonl"]
