"""Several models in one text table: rows that can be told apart, at any width of the terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from edge_runtime.measurement import CellFailure, Measurement, SessionOptions, Workload
from edge_runtime.report.records import record_writer
from tests.energy_records import recorded
from tests.records import measurement, tg_run

MS = 1_000_000


def row(level: str, format_: str, step_ms: float = 10, **artifact: object) -> Measurement:
    steps = (step_ms, step_ms * 1.05, step_ms * 1.1)
    record = measurement(tuple(tg_run(4, int(ms * MS)) for ms in steps))
    engine = "onnx" if format_ == "onnx" else "llama_cpp"
    return replace(
        record,
        artifact=replace(record.artifact, level=level, format=format_, **artifact),
        options=replace(record.options, backend=engine),
    )


GGUF, ONNX = row("Q4_K_M", "gguf"), row("int4", "onnx", 9)
FAILED = CellFailure(
    created="2026-01-01T00:00:00+00:00",
    tool_version="0",
    artifact=ONNX.artifact,
    requested=SessionOptions(backend="onnx", threads=None),
    workload=Workload(name="tg4", generate_tokens=4),
    error="UsageError",
    fact="Flash attention cannot be turned on.",
    cause="An ONNX graph's operators decide how attention is computed.",
    way_out="Leave the option out.",
)


def shown(
    monkeypatch: pytest.MonkeyPatch, width: int, *records: Measurement | CellFailure
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    writer = record_writer("text", stream, side_by_side=True)
    for record in records:
        writer.write(record)
    writer.close()
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_rows_name_level_and_engine_and_fit_the_terminal(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    heading, titles, ggml, onnx, *rest = shown(monkeypatch, width, GGUF, ONNX)
    assert heading == "2 threads"
    assert titles.split()[:3] == ["model", "level", "engine"]
    assert ggml.split()[:3] == ["tiny", "Q4_K_M", "llama_cpp"]
    assert onnx.split()[:3] == ["tiny", "int4", "onnx"]
    assert rest == ["", "energy: unavailable (no sensor)"]
    assert max(map(len, (titles, ggml, onnx))) <= width
    assert ("size" in titles) == (width > 80)
    assert len({line.index("tg4") for line in (ggml, onnx)}) == 1


def test_a_failed_row_says_why_below_it_and_starts_no_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = shown(monkeypatch, 100, GGUF, FAILED, GGUF)
    assert sum("model" in line for line in lines) == 1
    failed = next(i for i, line in enumerate(lines) if "failed" in line)
    assert lines[failed].split()[:3] == ["tiny", "int4", "onnx"]
    assert lines[failed + 1].startswith("    ! Flash attention cannot be turned on. An ONNX")


def test_other_options_start_another_table(monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(GGUF, options=replace(GGUF.options, threads=1))
    lines = shown(monkeypatch, 100, GGUF, one)
    assert [line for line in lines if "thread" in line] == ["2 threads", "1 thread"]


def test_half_an_interval_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    wild = replace(
        measurement((tg_run(4, 1000), tg_run(4, 9 * MS), tg_run(4, 700))), artifact=ONNX.artifact
    )
    (line,) = (line for line in shown(monkeypatch, 80, wild) if "tg4" in line)
    assert "(wide)" in line or line.count("(") == line.count(")")


def test_names_are_cut_and_cannot_drive_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = row("UINT8 + INT4 + FP16", "onnx", name="a\x1b[31m\nname that is far too long for this")
    lines = shown(monkeypatch, 80, odd)
    assert all("\x1b" not in line and len(line) <= 80 for line in lines)
    assert lines[2].startswith("a [31m name tha…")
    assert "UINT8 …" in lines[2]


def test_energy_has_a_column_where_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    _, titles, first, *_ = shown(monkeypatch, 120, recorded(), GGUF)
    assert titles.split()[-1] == "J/token"
    assert first.split()[-1] == "0.700"
    assert len(first) <= 120
    for width, one in ((100, recorded()), (120, GGUF)):
        assert "J/token" not in shown(monkeypatch, width, one)[1]


def test_one_model_keeps_its_own_heading() -> None:
    stream = io.StringIO()
    writer = record_writer("text", stream)
    writer.write(GGUF)
    assert stream.getvalue().startswith("tiny Q4_K_M, 400 MiB")
