"""Each output format of measurements, read back by somebody else's reader."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from dataclasses import replace

import pytest

from edge_runtime.basis import Unavailable
from edge_runtime.errors import UsageError
from edge_runtime.measurement import (
    CellFailure,
    Measurement,
    Placement,
    SessionOptions,
    Workload,
    read_record,
)
from edge_runtime.report.records import FORMATS, record_writer
from edge_runtime.report.rows import COLUMNS, row
from tests.records import chat_run, measurement, tg_run

MS = 1_000_000

DECODE = measurement((tg_run(4, 10 * MS), tg_run(4, 11 * MS), tg_run(4, 12 * MS)))
CHAT = measurement(
    (chat_run(100, 500 * MS, 5, 20 * MS), chat_run(100, 700 * MS, 5, 20 * MS)),
    workload=Workload(name="chat", protocol="chat", prompt_tokens=100, generate_tokens=5),
    flags=("other processes used 37% of the CPU",),
    synthetic=True,
)
FAILED = CellFailure(
    created="2026-01-01T00:00:00+00:00",
    tool_version="0",
    artifact=replace(DECODE.artifact, name="it's|odd\nname"),
    requested=SessionOptions(threads=None),
    workload=Workload(name="tg8 @ d99", generate_tokens=8, depth_tokens=99),
    error="WorkerError",
    fact="The measuring process was ended by SIGKILL.",
    cause="The kernel killed it for lack of memory; it's gone.",
    way_out="Choose a smaller level.",
)
ALL = (DECODE, CHAT, FAILED)


def written(form: str, *records: Measurement | CellFailure) -> str:
    stream = io.StringIO()
    writer = record_writer(form, stream)
    for record in records:
        writer.write(record)
    writer.close()
    return stream.getvalue()


def test_json_is_one_document_of_whole_records() -> None:
    assert tuple(read_record(item) for item in json.loads(written("json", *ALL))) == ALL
    assert json.loads(written("json")) == []


def test_json_lines_are_whole_records() -> None:
    lines = written("jsonl", *ALL).splitlines()
    assert tuple(read_record(json.loads(line)) for line in lines) == ALL


def test_csv_has_a_header_and_figures_in_si_units() -> None:
    decode, chat, failed = csv.DictReader(io.StringIO(written("csv", *ALL)))
    assert float(decode["decode_tokens_per_s"]) == pytest.approx((100 + 1000 / 11 + 1000 / 12) / 3)
    assert float(decode["decode_tokens_per_s_median"]) == pytest.approx(1000 / 11)
    assert decode["prefill_tokens_per_s"] == decode["ttft_s_p50"] == ""
    assert float(chat["ttft_s_p50"]) == pytest.approx(0.6)
    assert float(chat["ttft_s_p90"]) == pytest.approx(0.68)
    assert float(chat["itl_s_p99"]) == pytest.approx(0.02)
    assert chat["basis"] == "SYNTHETIC"
    assert chat["energy_joules"] == ""
    assert chat["energy_source"] == "unavailable: no sensor"
    assert failed["status"] == "failed"
    assert "SIGKILL" in failed["error"]
    assert failed["model"] == "it's|odd\nname"
    assert failed["decode_tokens_per_s"] == ""


def test_sql_builds_a_table() -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(written("sql", *ALL))
    names = [r[1] for r in database.execute("PRAGMA table_info(edge_measurements)")]
    assert names == list(COLUMNS)
    rows = database.execute(
        "SELECT model, test, decode_tokens_per_s, error FROM edge_measurements"
    ).fetchall()
    assert rows[2][:3] == ("it's|odd\nname", "tg8 @ d99", None)
    assert "it's gone" in rows[2][3]
    assert rows[0][2] == pytest.approx(row(DECODE)["decode_tokens_per_s"])
    database.close()


def test_markdown_is_one_table_with_a_row_for_each_cell() -> None:
    lines = written("md", *ALL).splitlines()
    assert len(lines) == 5

    def split(line: str) -> list[str]:
        inner = line.strip("|").replace("\\|", "\0").split("|")
        return [cell.strip().replace("\0", "|") for cell in inner]

    header, rule, decode, chat, failed = map(split, lines)
    assert {len(header), len(rule), len(decode), len(chat), len(failed)} == {len(header)}
    cell = dict(zip(header, chat, strict=True))
    assert cell["model"] == "tiny Q4_K_M (synthetic)"
    assert cell["test"] == "chat"
    assert cell["TTFT P50 / P90"] == "600 ms / 680 ms"
    assert cell["ITL P50 / P90 / P99"] == "20.0 ms / 20.0 ms / 20.0 ms"
    assert cell["noise and notes"] == "other processes used 37% of the CPU"
    assert cell["energy"] == "unavailable (no sensor)"
    cell = dict(zip(header, decode, strict=True))
    assert cell["t/s ± 95 %"] == "91.4 (72.9-115)"
    assert cell["noise and notes"] == "quiet"
    cell = dict(zip(header, failed, strict=True))
    assert cell["t/s ± 95 %"] == "failed"
    assert cell["model"] == "it's|odd name Q4_K_M"
    assert "Choose a smaller level." in cell["noise and notes"]


def test_text_fits_a_terminal_and_groups_by_model_and_options() -> None:
    record = replace(DECODE, workload=Workload(name="tg4", generate_tokens=4))
    lines = written("text", record, record, CHAT, FAILED).splitlines()
    assert all(len(line) <= 125 for line in lines)
    assert lines[0] == "tiny Q4_K_M, 400 MiB, 1 parameters, llama_cpp, 2 threads"
    assert lines[2].split()[:2] == ["tg4", "91.4"]
    assert lines[2] == lines[3], "the heading is not repeated"
    assert "    ! other processes used 37% of the CPU" in lines
    assert any("tiny Q4_K_M (synthetic)" in line for line in lines)
    assert any(line.split()[:4] == ["tg8", "@", "d99", "failed"] for line in lines)
    assert "    ! The measuring process was ended by SIGKILL." in "\n".join(lines)
    assert lines[-1] == "energy: unavailable (no sensor)"


@pytest.mark.parametrize("form", ["text", "md"])
def test_a_models_name_cannot_drive_the_terminal(form: str) -> None:
    name = "nice\x1b[2J\x07\u202e"
    record = replace(DECODE, artifact=replace(DECODE.artifact, name=name))
    out = written(form, record)
    assert all(char.isprintable() or char == "\n" for char in out)
    assert "nice" in out


def test_a_disturbed_measurement_shows_a_wider_interval() -> None:
    runs = (tg_run(4, 10 * MS), tg_run(4, 10 * MS), tg_run(4, 10_100_000))
    quiet, loud = measurement(runs), measurement(runs, flags=("noise",))
    width = [
        float(written("md", m).splitlines()[2].split(" ± ")[1].split()[0]) for m in (quiet, loud)
    ]
    assert width[1] == pytest.approx(2 * width[0], rel=0.01)


def test_a_single_run_shows_no_made_up_precision() -> None:
    line = written("md", measurement((tg_run(4, 10 * MS),))).splitlines()[2]
    assert "100 (1 run)" in line


def test_a_truncated_model_says_how_many_layers_ran() -> None:
    record = replace(DECODE, artifact=replace(DECODE.artifact, layers_of_model=28, synthetic=True))
    assert "tiny Q4_K_M, 2 of 28 layers (synthetic)" in written("md", record)


@pytest.mark.parametrize("form", ["text", "md", "csv"])
def test_a_graph_on_two_providers_says_how_it_is_shared_out(form: str) -> None:
    here = Placement(provider="CPUExecutionProvider", nodes=4, share=0.1)
    there = Placement(provider="CoreMLExecutionProvider", nodes=36, share=0.9)
    record = replace(DECODE, engine=replace(DECODE.engine, placement=(there, here)))
    assert "CoreML 90 %, CPU 10 %" in written(form, record)
    assert "CoreML" not in written(form, DECODE)
    assert Measurement.from_json(record.to_json()) == record


def test_missing_memory_is_a_reason_not_a_zero() -> None:
    record = replace(DECODE, memory=Unavailable(reason="no /proc"))
    assert "unavailable: no /proc" in written("md", record)
    assert row(record)["peak_bytes"] is None


@pytest.mark.parametrize("form", FORMATS)
def test_every_cell_is_flushed_before_the_next_is_measured(form: str) -> None:
    class Pipe(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed = len(self.getvalue())

    pipe = Pipe()
    writer = record_writer(form, pipe)
    for record in ALL:
        writer.write(record)
        assert pipe.flushed == len(pipe.getvalue()) > 0


def test_an_unknown_format_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'yaml'"):
        record_writer("yaml", io.StringIO())
