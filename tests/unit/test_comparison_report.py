"""How a comparison looks: for a terminal of any width, as markdown, CSV, JSON and in a notebook."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from edge_runtime.basis import Basis
from edge_runtime.comparison import Comparison, compare_records
from edge_runtime.errors import UsageError
from edge_runtime.measurement import SessionOptions
from edge_runtime.report.comparison import comparison_html, document, write_comparison
from edge_runtime.saved import read_saved
from edge_runtime.statistics import Interval
from tests.score_records import (
    artifact,
    cell_failure,
    level_failure,
    onnx_artifact,
    rounds,
    scores,
    several_levels,
)

WIDTHS = [50, 80, 100, 120, 250]


def comparison() -> Comparison:
    failed = cell_failure(onnx_artifact(), requested=SessionOptions(threads=2))
    return compare_records((*several_levels(), level_failure(), failed))


def page(of: Comparison, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False, color_system=None)
    console.print(of)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def written(of: Comparison, form: str) -> str:
    stream = io.StringIO()
    write_comparison(of, form, stream)
    return stream.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_and_no_figure_is_cut(width: int) -> None:
    text = page(comparison(), width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for figure in (
        "11.8 ± 0.8", "2.83 ± 0.02", "267 ± 18", "57.8 MiB", "4.85", "176 MiB", "1.93 s",
        "5.31 ± 0.38", "0.0296", "0.168", "69.4 ± 2.0 %", "2 of 2", "NOT VIABLE",
    ):  # fmt: skip
        assert figure in text, figure


def test_the_verdict_comes_first_and_the_row_is_marked() -> None:
    text = page(comparison(), 120)
    assert text.startswith("Q8_0: the smallest loss that still reads at 20 tok/s.")
    (row,) = re.findall(r"^★ +(\S+).* VIABLE", text, re.MULTILINE)
    assert row == "Q8_0"
    assert "★ recommended; ● Pareto-optimal" in text


def test_a_wide_terminal_has_one_table_and_a_usual_one_three() -> None:
    assert page(comparison(), 250).count("Level ") == 1
    assert page(comparison(), 80).count("Level ") == 3


@pytest.mark.parametrize("width", [50, 80])
def test_a_long_name_is_folded_and_costs_no_figure(width: int) -> None:
    name = "Q4_K_M (a-model-whose-file-has-a-very-long-name-indeed.gguf)"
    found = comparison()
    rows = (replace(row, label=name if row.label == "Q4_K_M" else row.label) for row in found.rows)
    text = page(replace(found, rows=tuple(rows)), width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    for figure in ("33.3 ± 2.2", "57.8 MiB", "5.31 ± 0.38", "69.4 ± 2.0 %"):
        assert figure in text
    assert ".gguf)" in text


def test_errors_of_quality_stand_where_there_is_room() -> None:
    assert "0.0296 ± 0.0021" in page(comparison(), 120)


def test_the_perplexity_of_noise_is_no_row_of_digits() -> None:
    scored = scores(artifact("Q5_0"), nll=[60.0 + n % 9 for n in range(510)])
    assert "| 6.13e+27 ± 7e+26 |" in written(compare_records((scored,)), "md")


@pytest.mark.parametrize("width", WIDTHS)
def test_what_failed_stays_with_its_reason(width: int) -> None:
    text = " ".join(page(comparison(), width).split())
    assert "! IQ2_XXS: not made: IQ2_XXS needs an importance matrix." in text
    assert "Give --calibrate TEXT." in text
    assert "! onnx:int4: tg128, round 1: The measuring process died." in text


def test_it_says_how_the_numbers_came_about() -> None:
    text = " ".join(page(comparison(), 80).split())
    for words in (
        "over 5 rounds", "510 tokens of evaluation.txt in 2 passages of 512",
        "the 224 likeliest of 32,000 tokens kept and 32 of the others drawn", "J/token: no sensor.",
        "± half the 95 % interval", "± one standard error", "Test CPU, 2 usable cores",
        "a prompt of 512 tokens",
    ):  # fmt: skip
        assert words in text, words


def test_noise_is_said_instead_of_shown_as_a_figure() -> None:
    of = artifact("F16")
    noisy = compare_records(rounds(of, tg=(10.0, 1000.0), flags=("another program",)))
    text = page(noisy, 80)
    assert "505 ± ?" in text
    assert "± ? too noisy to say" in text
    assert "Disturbed: 2 of 2 measurements (such as: another program)." in text
    alone = compare_records(rounds(of, tg=(10.0,), flags=("another program",)))
    once = page(alone, 80)
    assert "10.0 (1 round)" in once
    assert "over 1 round," in once
    long = replace(alone, rows=tuple(replace(r, label=r.label * 12) for r in alone.rows))
    assert "(1 round)" not in page(long, 40)
    assert "too noisy" not in once
    assert "\n\n\n" not in written(alone, "md")
    some = compare_records((*rounds(of, tg=(10.0, 11.0)), *rounds(artifact("Q8_0"), tg=(9.0,))))
    assert "over 1 to 2 rounds," in page(some, 80)


def test_a_wide_interval_shows_its_bounds_or_its_share() -> None:
    of, other = artifact("F16"), artifact("Q8_0")
    wide = compare_records((*rounds(of, tg=(20, 22, 30)), *rounds(other, tg=(40, 60, 50))))
    decode = wide.row("F16").decode
    bounds = decode.tokens_per_s  # type: ignore[union-attr]
    assert isinstance(bounds, Interval)
    assert f"24.0 ({bounds.low:.1f}-{bounds.high:.1f})" in page(wide, 250)
    long = replace(wide, rows=tuple(replace(r, label=r.label * 12) for r in wide.rows))
    assert f"24.0 ± {bounds.relative_half_width:.0%}" in page(long, 70)


def test_energy_has_a_column_where_it_is_known() -> None:
    found = comparison()
    known = tuple(
        replace(row, joules_per_token=Interval(low=1.9, value=2.0, high=2.1)) for row in found.rows
    )
    assert "J/token" not in page(found, 250).partition("Model:")[0]
    assert "2.00 ± 0.10" in page(replace(found, rows=known), 250)
    guessed = replace(known[0], energy_basis=Basis.ESTIMATED)
    text = page(replace(found, rows=(guessed, *known[1:])), 250)
    assert "J/token of F16: estimated, not measured." in text


@pytest.mark.parametrize("form", ["md", "html", "page"])
def test_a_hostile_name_is_shown_and_does_nothing(form: str) -> None:
    name = "\x1b[2J<script>alert(1)</script>|`x`\u202eevil"
    records = [level_failure(name), *rounds(artifact("F16", file=name, name=name), tg=(10.0, 11.0))]
    found = compare_records(records)
    text = {
        "md": lambda: written(found, "md"),
        "html": lambda: comparison_html(found),
        "page": lambda: page(found, 80),
    }[form]()
    assert "\x1b" not in text
    assert "\u202e" not in text
    if form != "page":
        assert "<script" not in text.replace("\\<script", "")
    if form == "md":
        cells = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line[:1] == "|"]
        assert len({len(row) for row in cells}) == 1


def test_print_shows_the_table_and_a_repr_is_no_flood() -> None:
    found = comparison()
    assert str(found) == "\n".join(line.rstrip() for line in page(found, 100).splitlines())
    assert "Measurement(" not in repr(found)
    assert "Scores(" not in repr(found)


def test_markdown_is_one_table_with_every_row() -> None:
    text = written(comparison(), "md")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 6
    assert len({line.count("|") for line in table}) == 1
    assert "| ★ | Q8_0 | VIABLE |" in text
    assert text.startswith("**Q8_0: the smallest loss")


def test_csv_is_the_flat_rows() -> None:
    found = comparison()
    rows = list(csv.DictReader(io.StringIO(written(found, "csv"))))
    flat = found.to_records()
    assert [row["label"] for row in rows] == [row["label"] for row in flat]
    assert list(rows[0]) == list(flat[0])
    assert float(rows[1]["kl"]) == flat[1]["kl"]
    assert rows[0]["kl"] == ""


def test_the_document_holds_what_was_worked_out_and_the_records() -> None:
    found = comparison()
    read = json.loads(written(found, "json"))
    assert read == json.loads(json.dumps(document(found)))
    assert read["schema"] == 1
    assert read["comparison"]["recommended"] == "Q8_0"
    assert read["comparison"]["rows"] == found.to_records()
    again = compare_records([read_saved(record) for record in read["records"]])
    assert again.to_records() == found.to_records()
    lines = written(found, "jsonl").splitlines()
    assert [read_saved(json.loads(line)) for line in lines] == list(found.records)


def test_another_format_is_refused() -> None:
    with pytest.raises(UsageError, match="no output format 'pdf'"):
        written(comparison(), "pdf")


def test_a_comparison_of_nothing_is_still_a_page() -> None:
    empty = compare_records(())
    assert page(empty, 80).strip()
    assert written(empty, "csv").strip() == ""
    assert json.loads(written(empty, "json"))["comparison"]["rows"] == []


class _Balanced(html.parser.HTMLParser):
    """Follows the tags of a fragment and what each row holds."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[int] = []

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.cells.append(0)
        if tag in ("td", "th"):
            self.cells[-1] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_fragment_for_a_notebook_is_whole_and_runs_nothing() -> None:
    fragment = comparison()._repr_html_()
    parser = _Balanced()
    parser.feed(fragment)
    assert not parser.open
    assert len(parser.cells) == 1 + 6
    assert len(set(parser.cells)) == 1
    assert "<b>Q8_0: the smallest loss" in fragment
    assert not re.search(r"<script|<link|<img|https?:|url\(|\bon\w+=", fragment)
