"""Files of records: every form a verb writes is read back, and nothing else is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.comparison import compare_records
from edge_runtime.errors import DiskError, EdgeError, FormatError
from edge_runtime.profiler import results
from edge_runtime.profiler.results import append_result, read_saved_file, read_saved_results
from edge_runtime.report.comparison import document, write_comparison
from edge_runtime.report.records import JsonArray
from edge_runtime.saved import SavedRecord
from tests.score_records import cell_failure, level_failure, onnx_artifact, several_levels

RECORDS: tuple[SavedRecord, ...] = (
    *several_levels(speeds={"F16": 10.0, "Q4_0": 20.0}, losses={"F16": None, "Q4_0": 0.1}),
    level_failure(),
    cell_failure(onnx_artifact(), requested=several_levels()[0].options),  # type: ignore[union-attr]
)


def as_lines(path: Path) -> None:
    for record in RECORDS:
        append_result(path, record)


def as_list(path: Path) -> None:
    with path.open("w") as stream:
        writer = JsonArray(stream)
        for record in RECORDS:
            writer.write(record)
        writer.close()


def as_form(form: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("w") as stream:
            write_comparison(compare_records(RECORDS[:-1]), form, stream)

    return write


@pytest.mark.parametrize("write", [as_lines, as_list, as_form("json"), as_form("jsonl")])
def test_every_form_that_is_written_is_read_back(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "results"
    write(path)
    whole = path.read_bytes()
    found = read_saved_file(path)
    assert found == RECORDS[: len(found)]
    assert len(found) >= len(RECORDS) - 1
    assert path.read_bytes() == whole


def test_one_record_is_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(RECORDS[0].to_json(), indent=2))
    assert read_saved_file(path) == RECORDS[:1]


def test_a_line_cut_off_is_left_out_and_removed_only_when_resuming(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl"
    as_lines(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert read_saved_file(path) == RECORDS[:-1]
    assert path.read_bytes() == whole[:-40]
    assert read_saved_results(path) == RECORDS[:-1]
    append_result(path, RECORDS[-1])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"GGUF\x03\x00", b"\x00" * 64, b"no line ends here"])
def test_a_file_of_something_else_is_not_touched(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(FormatError):
        read_saved_results(path)
    assert path.read_bytes() == content


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    assert read_saved_file(path) == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no json\n", "Line 1 of"),
        ("{}", "is no Measurement"),
        ('{"schema": 1, "basis": "PROJECTED", "rows": []}', "holds projections, and no meas"),
        ("3", "holds no records"),
        ('"text"', "holds no records"),
        ('{"schema": 1, "records": 5}', "holds no records"),
        ('{"schema": 2, "records": []}', "no document of schema 1"),
        ('{"records": []}', "no document of schema 1"),
        ('{"schema": 1, "records": [{"kind": "scores"}]}', "Record 1 of"),
        ("[[]]", "Record 1 of"),
        ("[" * 100_000, "Line"),
        ("9" * 5000 + "\n", "Line 1 of"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "strange.json"
    path.write_text(content if content.endswith("\n") or content[0] != "[" else content + "\n")
    with pytest.raises(FormatError, match=words):
        read_saved_file(path)


def test_a_line_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    as_lines(path)
    lines = path.read_bytes().splitlines(keepends=True)
    data = json.loads(lines[2])
    data["round"] = "first"
    path.write_bytes(b"".join([*lines[:2], json.dumps(data).encode() + b"\n", *lines[3:]]))
    with pytest.raises(FormatError, match=r"Line 3 of .*round"):
        read_saved_file(path)


def test_what_cannot_be_read_or_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DiskError, match="cannot be read"):
        read_saved_file(tmp_path / "absent")
    with pytest.raises(DiskError, match="cannot be read"):
        read_saved_file(tmp_path)
    path = tmp_path / "large"
    path.write_bytes(b"x" * 101)
    monkeypatch.setattr(results, "MAX_FILE_BYTES", 100)
    with pytest.raises(FormatError, match="too large"):
        read_saved_file(path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 1 << 20), byte=st.integers(0, 255), cut=st.integers(0, 1 << 20))
def test_a_damaged_document_is_read_or_refused(
    place: int, byte: int, cut: int, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.json"
    small = compare_records(RECORDS[-2:-1])
    data = bytearray(json.dumps(document(small)).encode())
    data[place % len(data)] = byte
    path.write_bytes(bytes(data[: cut % len(data)] if cut % 3 == 0 else data))
    with contextlib.suppress(EdgeError):
        assert len(read_saved_file(path)) <= 1
