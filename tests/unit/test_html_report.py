"""The report's page: what stands in it, that it needs no network, that no name becomes markup."""

from __future__ import annotations

import base64
import gzip
import importlib.resources
import json
import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from latency_records import measurement as latency_measurement
from records import measurement, tg_run
from score_records import (
    TG128,
    answers,
    artifact,
    cell_failure,
    drawn_scores,
    level_failure,
    round_of,
    rounds,
    scores,
    several_levels,
)

from edge_runtime import statistics
from edge_runtime.comparison.rows import Comparison, Estimate
from edge_runtime.comparison.table import compare_records
from edge_runtime.errors import EngineMissingError
from edge_runtime.latency import LatencyRecord
from edge_runtime.memory import Memory, PhasePeak
from edge_runtime.report.html.figures import Chart, as_json
from edge_runtime.report.html.page import Report, render_page
from edge_runtime.report.html.script import plotly_script
from edge_runtime.report.html.spreads import memory_by_phase, token_latencies
from edge_runtime.report.html.table import level_table
from edge_runtime.report.html.wording import estimate_words
from edge_runtime.report.plain import plain

S = 1_000_000_000
VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = "<script>alert(1)</script></script><img src=x onerror=y>{{ 7*7 }}\u202e\x1b[2J"


class Page(HTMLParser):
    """A page taken apart: its elements, its text, and what stands in its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"script", "style"}:
            name = self.tags[-1][1].get("id") or self.open[-1]
            self.scripts[name] = self.scripts.get(name, "") + data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def figures(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(self.scripts.get("figures", "[]"))
        return found

    def ids(self, tag: str) -> list[str | None]:
        return [attributes.get("id") for name, attributes in self.tags if name == tag]


def report(
    *comparisons: Comparison, latencies: Sequence[LatencyRecord] = (), title: str = "A model"
) -> str:
    return render_page(
        Report(
            title=title,
            comparisons=comparisons,
            latencies=tuple(latencies),
            files=("results.jsonl",),
            created="2026-01-01",
            tool_version="0",
        )
    )


@pytest.fixture(scope="module")
def levels() -> Comparison:
    return compare_records((*several_levels(), level_failure()))


@pytest.fixture(scope="module")
def page(levels: Comparison) -> str:
    return report(levels)


def test_the_page_is_whole_and_names_no_address(page: str) -> None:
    found = Page(page)
    assert "://" not in page
    for tag, attributes in found.tags:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"@import|url\(", found.scripts["style"])
    policy = next(a["content"] for t, a in found.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "*" not in policy


def test_plotlys_own_script_lies_in_it_once_and_compressed(page: str) -> None:
    installed = importlib.resources.files("plotly") / "package_data" / "plotly.min.js"
    packed = Page(page).scripts["plotly"]
    assert gzip.decompress(base64.b64decode(packed)) == installed.read_bytes()
    assert page.count(packed[:200]) == 1
    assert len(page) < 2_500_000


def test_without_a_chart_there_is_no_script_to_draw_one() -> None:
    page = report(compare_records([level_failure(), cell_failure(artifact("Q4_0"))]))
    assert Page(page).figures == []
    assert "plotly" not in Page(page).scripts
    assert len(page) < 100_000
    assert "needs an importance matrix" in page


def test_a_missing_plotly_is_said_with_its_remedy(
    levels: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = importlib.resources.files

    def without(name: str) -> object:
        if name == "plotly":
            raise ModuleNotFoundError("No module named 'plotly'")
        return files(name)

    monkeypatch.setattr(importlib.resources, "files", without)
    plotly_script.cache_clear()
    with pytest.raises(EngineMissingError, match="pip install"):
        report(levels)


def test_the_verdict_comes_first_and_the_methods_last(levels: Comparison, page: str) -> None:
    text = Page(page).text
    order = [
        text.index(words)
        for words in (
            levels.recommendation,
            "All levels",
            "What failed, and why",
            "Quality against speed",
            "Time from token to token",
            "Memory by phase",
            "side by side",
            "How each number was obtained",
        )
    ]
    assert order == sorted(order)


def test_the_same_records_make_the_same_page(page: str) -> None:
    assert report(compare_records((*several_levels(), level_failure()))) == page


def test_the_table_has_the_comparisons_figures(levels: Comparison) -> None:
    table = level_table(levels)
    titles = [column.title for column in table.columns]
    for row, shown in zip(levels.rows, table.rows, strict=True):
        cells = dict(zip(titles, shown.cells, strict=True))
        assert shown.label == row.label
        assert shown.recommended == (row.label == levels.recommended)
        if row.artifact is None:
            assert all(cell.missing or cell.words for cell in shown.cells)
            continue
        assert cells["Speed"].order == row.decode.tokens_per_s.value  # type: ignore[union-attr]
        assert cells["Size"].order == row.artifact.size_bytes
        assert cells["Memory"].order == row.need_bytes
        if not row.is_reference:
            assert cells["Loss"].order == row.quality.kl.value  # type: ignore[union-attr]
            assert cells["Loss"].small[0].startswith("± ")
    assert table.rows[0].marks[0] == "reference"
    # The fourth row's ratio is its speed over that of the first in the same rounds.
    ratio = dict(zip(titles, table.rows[3].cells, strict=True))["Speed"].small[1]
    assert re.fullmatch(r"\u00d7 2\.50 ± 0\.0\d", ratio)


def test_what_no_level_has_makes_no_column_and_gives_its_reason() -> None:
    comparison = compare_records([*rounds(artifact("Q8_0"), tg=[20, 21]),
                                  *rounds(artifact("Q4_0"), tg=[30, 31])])  # fmt: skip
    table = level_table(comparison)
    assert [column.title for column in table.columns] == ["Verdict", "Speed", "Memory", "Size"]
    reasons = dict(table.missing)
    assert any("Energy" in who for who in reasons)
    assert "no sensor" in " ".join(reasons.values())
    shown = Page(report(comparison))
    assert not any(str(figure["id"]).startswith("scatter") for figure in shown.figures)
    assert "was not scored" in shown.text


def test_a_name_never_becomes_markup() -> None:
    hostile = replace(artifact("Q4_K_M"), level=HOSTILE, name=HOSTILE, file=HOSTILE)
    workload = replace(TG128, name=HOSTILE)
    records = [
        *(round_of(artifact("F16"), workload, (10 + i,), number=i) for i in (0, 1)),
        *(round_of(hostile, workload, (20 + i,), number=i, flags=(HOSTILE,)) for i in (0, 1)),
        drawn_scores(artifact("F16"), None),
        drawn_scores(hostile, 0.01, notes=(HOSTILE,)),
        answers(artifact("F16"), ["one"]),
        answers(hostile, [HOSTILE]),
        level_failure(HOSTILE, fact=HOSTILE),
    ]
    usual = Page(report(compare_records(several_levels())))
    page = report(compare_records(records), title=plain(HOSTILE))
    found = Page(page)
    assert len(found.ids("script")) == len(usual.ids("script"))
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in found.tags)
    assert "alert(1)" in found.text
    assert "{{ 7*7 }}" in found.text
    assert "\u202e" not in page
    assert "\x1b" not in page
    labels = json.dumps(found.figures)
    assert "&lt;script&gt;" in labels
    assert "<script>" not in labels


def charts_of(page: str) -> dict[str, dict[str, object]]:
    return {str(figure["id"]): figure for figure in Page(page).figures}


def test_quality_against_speed_has_the_front_the_target_and_the_reference(
    levels: Comparison, page: str
) -> None:
    views = charts_of(page)["scatter-1"]["views"]
    assert isinstance(views, list)
    assert [view["name"] for view in views] == ["KL divergence", "Perplexity", "Same choice"]
    line, points = views[0]["data"]
    loss = {row.label: row.quality.kl.value for row in levels.rows[1:4]}  # type: ignore[union-attr]
    speed = {row.label: row.decode.tokens_per_s.value for row in levels.rows[:4]}  # type: ignore[union-attr]
    assert points["text"] == ["Q8_0", "Q4_K_M", "Q2_K"]
    assert points["x"] == pytest.approx([speed[label] for label in points["text"]], rel=1e-4)
    assert points["y"] == pytest.approx([loss[label] for label in points["text"]], rel=1e-4)
    # Q2_K is slower than Q4_K_M and loses more.
    assert line["y"] == pytest.approx([loss["Q8_0"], loss["Q4_K_M"]], rel=1e-4)
    layout = views[0]["layout"]
    assert layout["shapes"][0]["x0"] == 20
    assert layout["shapes"][1]["x0"] == pytest.approx(speed["F16"], rel=1e-4)
    assert [note["text"] for note in layout["annotations"]] == ["20 tok/s", "F16: no loss"]
    assert "nats/token" in layout["yaxis"]["title"]["text"]
    # Perplexities are of one text: how they differ is known far better than how large they are.
    _, ratios = views[1]["data"]
    assert views[1]["layout"]["yaxis"]["title"]["text"] == "perplexity above the reference's, %"
    ln = [row.quality.ln_ppl_ratio for row in levels.rows[1:4]]  # type: ignore[union-attr]
    assert ratios["y"] == pytest.approx([100 * math.expm1(e.value) for e in ln if e], rel=1e-3)
    # A bar that reached zero would have no end on an axis of powers of ten.
    below = points["error_y"]["arrayminus"]
    assert all(0 < low < value for low, value in zip(below, points["y"], strict=True))


def test_an_interval_that_says_nothing_squeezes_no_other() -> None:
    records = [
        *(round_of(artifact("F16"), TG128, (rate,), number=i) for i, rate in enumerate((1, 900))),
        *(round_of(artifact("Q8_0"), TG128, (rate,), number=i) for i, rate in enumerate((2, 800))),
        drawn_scores(artifact("F16"), None),
        drawn_scores(artifact("Q8_0"), 0.01),
    ]
    comparison = compare_records(records)
    found = charts_of(report(comparison))
    for name in ("scatter-1", "decode-1"):
        views = found[name]["views"]
        assert isinstance(views, list)
        assert views[0]["layout"]["xaxis"]["range"][1] < 1100
    assert "too noisy" in json.dumps(found)


def test_a_tiny_error_has_the_decimals_of_its_value() -> None:
    found = estimate_words(Estimate(value=2.29e-5, standard_error=1.18e-6))
    assert found == ("0.0000229", "± 0.0000012")


def test_every_axis_has_a_title_with_its_unit(page: str) -> None:
    for figure in Page(page).figures:
        for view in figure["views"]:  # type: ignore[attr-defined]
            title = view["layout"]["xaxis"]["title"]["text"]
            assert re.search(r"tok/s|, ms|MiB", title), title


def numbers(chart: Chart | None) -> dict[str, tuple[str, ...]]:
    assert chart is not None
    assert chart.table is not None
    return {row[0]: row[1:] for row in chart.table.rows}


def test_latencies_from_token_to_token_are_of_all_rounds() -> None:
    of = artifact("Q8_0")
    records = [round_of(of, TG128, (rate,), number=i) for i, rate in enumerate((10, 20, 40))]
    steps = [step / S for record in records for step in record.step_samples_ns]
    chart = token_latencies(compare_records(records), 1)
    assert numbers(chart)["Q8_0"] == ("50.0 ms", "100 ms", "100 ms", "100 ms", "384")
    assert chart is not None
    hill, p50 = chart.views[0].data[:2]
    assert p50["x"] == [pytest.approx(1000 * statistics.percentile(steps, 50))]
    assert max(hill["x"]) <= 100.01  # type: ignore[call-overload]
    assert chart.views[0].layout["shapes"][0]["x0"] == 50.0  # type: ignore[index]


def test_latencies_that_differ_by_far_stand_on_a_scale_of_powers_of_ten() -> None:
    records = [
        round_of(artifact("Q8_0"), TG128, (10.0,)),
        round_of(artifact("Q4_0"), TG128, (1000.0,)),
    ]
    chart = token_latencies(compare_records(records), 1)
    assert chart is not None
    x = chart.views[0].layout["xaxis"]
    assert x["title"]["text"] == "inter-token latency, ms (log)"  # type: ignore[index]
    assert chart.views[0].data[2]["x"] == pytest.approx([2.0, 0.0], abs=1e-3)
    assert "100" in x["ticktext"]  # type: ignore[index]


def test_memory_by_phase_takes_the_highest_peak_of_each_phase() -> None:
    def of(*peaks: tuple[str, int]) -> Memory:
        phases = tuple(
            PhasePeak(phase=name, peak_bytes=mib << 20, anonymous_bytes=1 << 20, file_bytes=2 << 20,
                      major_faults=0)  # type: ignore[arg-type]
            for name, mib in peaks
        )  # fmt: skip
        return replace(plain_memory, phases=phases)

    first = round_of(artifact("Q8_0"), TG128, (20,), number=0)
    plain_memory = first.memory
    assert isinstance(plain_memory, Memory)
    second = round_of(artifact("Q8_0"), TG128, (20,), number=1, memory=of(("decode", 300)))
    first = replace(first, memory=of(("load", 120), ("decode", 200)))
    chart = memory_by_phase(compare_records([first, second]), 1)
    assert chart is not None
    assert chart.table is not None
    assert [row[:3] for row in chart.table.rows] == [
        ("Q8_0", "load", "120 MiB"),
        ("", "decode", "300 MiB"),
    ]
    assert [trace["x"] for trace in chart.views[0].data[:2]] == [[120.0], [300.0]]


def test_a_sustained_run_has_its_course_and_others_have_none(page: str) -> None:
    rates = [20.0] * 30 + [12.0] * 60
    begun, runs = 0, []
    for rate in rates:
        runs.append(tg_run(128, round(S / rate), begun))
        begun = runs[-1].token_ns[-1]
    kept_up = replace(measurement(tuple(runs)), sustain_s=600.0)
    found = charts_of(report(compare_records([kept_up])))
    assert "course-1-1" in found
    rate, _, steady = found["course-1-1"]["views"][0]["data"]  # type: ignore[index]
    assert max(rate["y"]) == pytest.approx(20.0)
    assert steady["y"] == [pytest.approx(12.0)] * 2
    assert not any(name.startswith("course") for name in charts_of(page))


def test_a_level_that_lost_nothing_has_a_loss_of_zero() -> None:
    surprise = [1.0 + n / 100 for n in range(510)]
    f16, f32 = artifact("F16"), artifact("F32")
    same = (
        *rounds(f16, tg=[50.0, 51.0]), *rounds(f32, tg=[60.0, 61.0]), scores(f32, nll=surprise),
        scores(f16, nll=surprise, kl=[0.0] * 510, reference=f32),
    )  # fmt: skip
    comparison = compare_records(same)
    assert comparison.recommended == "F16"
    assert "0 nats/token (KL)" in " ".join(Page(report(comparison)).text.split())


def test_what_limits_a_level_is_said_of_those_that_are_not_viable(page: str) -> None:
    text = Page(page).text
    limits = text[text.index("What limits a level") : text.index("Quality against speed")]
    assert "F16 Not viable: decode speed." in limits
    assert "Viable:" not in limits


def test_several_tables_begin_with_a_list_of_their_verdicts() -> None:
    one = compare_records(several_levels())
    other = compare_records([measurement((tg_run(64, S // 40), tg_run(64, S // 41)))])
    found = Page(report(one, other))
    links = [a["href"] for tag, a in found.tags if tag == "a"]
    assert links == ["#comparison-1", "#comparison-2"]
    assert set(found.ids("section")) == {"comparison-1", "comparison-2"}
    # Of a single level the verdict's own cause is the headline.
    assert "Q4_K_M: reads at 40.5 tok/s" in found.text


def test_models_that_generate_no_text_have_a_table_and_a_distribution() -> None:
    record = latency_measurement(latencies_ms=[4, 5, 4, 6, 4, 5] * 10, per_round=20)
    found = Page(report(latencies=[record]))
    assert [figure["id"] for figure in found.figures] == ["latency"]
    assert "mobile|net" in found.text
    assert "image 1 x 3 x 224 x 224" in found.text
    assert "60 inferences" in found.text


def test_answers_that_part_are_marked_where_they_do(page: str) -> None:
    text = Page(page).text
    assert "The same, token by token: Q8_0, Q4_K_M" in text
    assert "<p>S<mark>ix or so.</mark></p>" in page


def test_what_disturbed_is_counted_and_the_text_is_named() -> None:
    flags = ("other processes used 41% of the CPU",), ("other processes used 38% of the CPU",)
    records = [
        round_of(artifact("F16"), TG128, (20,), number=i, flags=flag)
        for i, flag in enumerate(flags)
    ]
    text = Page(report(compare_records([*records, drawn_scores(artifact("F16"), None)]))).text
    assert text.count("2 of 2 measurements were disturbed") == 2
    assert text.index("speeds are less certain") < text.index("Figures")
    assert "2 times, such as: other processes used 41% of the CPU" in text
    assert "evaluation.txt" in text
    assert "510 of 1,024 tokens scored" in text


def test_a_chart_is_plain_json_with_the_pages_own_colours(page: str) -> None:
    variables = set(re.findall(r"(--[a-z0-9-]+):", Page(page).scripts["style"]))

    def colours(value: object) -> list[str]:
        if isinstance(value, dict):
            if set(value) == {"css"}:
                return [value["css"]]
            return [colour for item in value.values() for colour in colours(item)]
        return [c for item in value for c in colours(item)] if isinstance(value, list) else []

    used = set(colours(Page(page).figures))
    assert used
    assert used <= variables
    assert not re.search(r'"#[0-9a-f]{3,8}"', Page(page).scripts["figures"])


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(chromium() is None, reason="needs a Chromium")
def test_a_browser_draws_every_chart_and_sorts_and_obeys_the_policy(
    tmp_path: Path, page: str
) -> None:
    file = tmp_path / "report.html"
    # The heading of the speeds: the fastest comes first, what has none last.
    click = "<script>document.querySelectorAll('.levels .sortable')[2].click()</script>"
    file.write_text(page + click, "utf-8")
    ran = subprocess.run(
        [
            str(chromium()), "--headless=new", "--no-sandbox", "--disable-gpu",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=1000", "--dump-dom", f"{file.as_uri()}?theme=dark",
        ],
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    shown = ran.stdout.decode("utf-8")
    assert f'data-charts="{len(Page(page).figures)}"' in shown
    assert 'data-theme="dark"' in shown
    assert 'class="main-svg"' in shown
    assert 'id="no-charts" hidden' in shown
    order = re.findall(r'<span class="level">(.*?)</span>', shown)
    assert order == ["Q4_K_M", "Q2_K", "Q8_0", "F16", "IQ2_XXS"]
    assert b"CONSOLE" not in ran.stderr, ran.stderr.decode("utf-8", "replace")
    assert b"Refused" not in ran.stderr


def test_the_json_of_a_chart_needs_no_library(levels: Comparison) -> None:
    chart = token_latencies(levels, 1)
    assert chart is not None
    assert json.loads(json.dumps(as_json(chart)))["id"] == "itl-1"
