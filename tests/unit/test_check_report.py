"""The page of a check: it fits a terminal, says what it rests on, and recommends by rule."""

from __future__ import annotations

import dataclasses
import io

import pytest
from records import GIB, host, measurement, tg_run
from rich.console import Console

from edge_runtime.basis import Basis, Unavailable
from edge_runtime.codec import from_jsonable, to_jsonable
from edge_runtime.feasibility import CheckReport, FitSummary, Row, recommend, rows_of
from edge_runtime.measurement import BandwidthReading
from edge_runtime.report.check import render_check
from edge_runtime.statistics import Interval
from edge_runtime.verdict import Evidence, MemoryFit, Target

TARGET = Target()


def evidence(model: str, level: str, rate: float, *, basis: Basis = Basis.PROJECTED) -> Evidence:
    return Evidence(
        model=model,
        level=level,
        basis=basis,
        decode_tokens_per_s=Interval(low=rate * 0.8, value=rate, high=rate * 1.3),
        depth_tokens=256,
        prefill_tokens_per_s=Interval(low=90, value=100, high=110),
        memory=MemoryFit(
            weights_bytes=GIB, kv_bytes=1, compute_bytes=1, process_bytes=1,
            available_bytes=8 * GIB,
        ),
    )  # fmt: skip


def rows(*found: Evidence, parameters: int = 1_540_000_000) -> tuple[Row, ...]:
    return rows_of(found, TARGET, parameters, [GIB] * len(found))


def report(listed: tuple[Row, ...]) -> CheckReport:
    return CheckReport(
        created="2026-01-01T00:00:00+00:00",
        tool_version="0",
        host=host(),
        bandwidth=BandwidthReading(
            bytes_per_s=Interval(low=9e9, value=10e9, high=11e9),
            working_set_bytes=GIB,
            threads=2,
            method="test",
        ),
        target=TARGET,
        rows=listed,
        fits=(),
        measurements=(measurement((tg_run(3, 5_000_000),)),),
        failures=(),
        elapsed_s=51.0,
        peak_disk_bytes=GIB,
        recommendation=recommend(listed, TARGET),
    )


def page(shown: CheckReport, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(render_check(shown))
    return out.getvalue()


def many() -> tuple[Row, ...]:
    names = ("deepseek-r1-distill", "qwen2.5-1.5b", "llama-3.2-1b", "gemma-3-1b")
    return tuple(
        row
        for name in names
        for row in rows(*(evidence(name, level, 0.123 * i + 9.0) for i, level in enumerate(
            ("Q8_0", "onnx:int4", "Q4_0"))))
    )  # fmt: skip


def test_a_catalogue_fits_eighty_columns() -> None:
    text = page(report(many()), 80)
    assert "…" not in text
    table = [line for line in text.splitlines() if "NOT VIABLE" in line]
    assert len(table) == 12
    assert all(("Q" in line or "onnx:int4" in line) and "(" in line for line in table)


def test_what_the_numbers_rest_on_is_always_said() -> None:
    assert "projected: computed from" in page(report(many()), 100)
    mixed = (
        *rows(evidence("a", "Q8_0", 30)),
        *rows(evidence("b", "Q8_0", 30, basis=Basis.MEASURED)),
    )
    text = page(report(mixed), 120)
    assert "projected: computed from" in text
    assert "measured: timed here" in text
    assert "Basis" in text
    assert "energy: unavailable (no sensor)" in text


def test_the_largest_model_that_reads_is_recommended() -> None:
    small = rows(evidence("small", "Q8_0", 90), parameters=100)
    large = rows(evidence("large", "Q4_0", 40), parameters=200)
    slow = rows(evidence("huge", "Q4_0", 5), parameters=300)
    assert recommend((*small, *large, *slow), TARGET).startswith("Best choice: large at Q4_0")


def test_nothing_that_reads_is_said_plainly() -> None:
    slow = rows(evidence("huge", "Q4_0", 5))
    assert recommend(slow, TARGET).startswith("Nothing here reaches 20.0 tok/s")
    near = rows(evidence("near", "Q4_0", 19))
    assert recommend(near, TARGET).startswith("Nothing surely reaches 20.0 tok/s")


def test_a_row_that_could_not_be_measured_stays_with_its_reason() -> None:
    failed = dataclasses.replace(
        evidence("gone", "Q8_0", 1),
        decode_tokens_per_s=Unavailable(reason="the child was killed", remedy="Free memory"),
    )
    shown = report(rows(failed))
    text = page(shown, 100)
    assert "the child was killed" in text
    assert "unknown" in text
    assert "VIABLE" not in text
    assert shown.recommendation == "Nothing could be judged."
    assert shown.exit_code == 4


def test_what_does_not_fit_is_said_though_nothing_was_timed() -> None:
    small = dataclasses.replace(evidence("m", "Q4_0", 30.0).memory, available_bytes=GIB // 2)
    listed = rows(
        dataclasses.replace(
            evidence("m", "Q4_0", 30.0),
            decode_tokens_per_s=Unavailable(reason="it does not fit", remedy=""),
            memory=small,
        )
    )
    shown = report(listed)
    assert shown.exit_code == 1
    assert shown.recommendation.startswith("Nothing fits; nearest is m at Q4_0: memory: needs 1")
    assert "512 MiB more than the 512 MiB free" in page(shown, 200)


@pytest.mark.parametrize("listed", [many(), rows(evidence("a", "Q8_0", 30))])
def test_the_document_reads_back(listed: tuple[Row, ...]) -> None:
    original = report(listed)
    assert from_jsonable(CheckReport, to_jsonable(original)) == original


def test_an_onnx_row_says_that_packed_weights_count() -> None:
    text = page(report(rows(evidence("a", "onnx:int4", 30), evidence("a", "Q4_0", 30))), 120)
    assert "packing and compute 1 B" in text
    assert ", compute 1 B" in text


def test_a_fit_names_its_engine_where_there_are_two() -> None:
    fits = tuple(
        FitSummary(
            what="decode", cells=6, relative_error=0.1, seconds_per_layer=1e-5,
            attention_products_per_s=None, rates=((kind, 1e9),), engine=engine,
        )
        for engine, kind in (("onnx", "INT4"), ("llama_cpp", "Q4_0"))
    )  # fmt: skip
    text = page(dataclasses.replace(report(many()), fits=fits), 120)
    assert "onnx decode fitted to 6 cells" in text
    assert "llama_cpp decode fitted to 6 cells" in text
