"""Files of earlier versions are still read, go on being filled, and are saved in today's layout.

`tests/data/*_schema_1.jsonl` were written by the last version of schema 1, with the model that
ships (two cells and one that failed) and with a made-up encoder (and a graph nothing can run).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.artifact import Artifact
from edge_runtime.basis import Unavailable
from edge_runtime.errors import FormatError
from edge_runtime.latency import SCHEMA as LATENCY_SCHEMA
from edge_runtime.latency import (
    LatencyFailure,
    LatencyMeasurement,
    read_latency,
)
from edge_runtime.measurement import SCHEMA, CellFailure, Measurement, read_record
from edge_runtime.memory import Memory
from edge_runtime.profiler.host import detect_host
from edge_runtime.profiler.results import read_results
from edge_runtime.verdict import Target, judge

DATA = Path(__file__).parent.parent / "data"
OLD, OLD_LATENCY = DATA / "measurement_schema_1.jsonl", DATA / "latency_schema_1.jsonl"

Edge = Callable[..., tuple[int, str, str]]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_files_are_really_old() -> None:
    assert {line["schema"] for path in (OLD, OLD_LATENCY) for line in lines(path)} == {1}


def test_an_old_measurement_has_its_figures_and_says_nothing_of_what_it_did_not_record() -> None:
    prefill, decode, failed = read_results(OLD)
    assert isinstance(prefill, Measurement)
    assert isinstance(decode, Measurement)
    assert isinstance(failed, CellFailure)
    assert (prefill.workload.name, decode.workload.name) == ("pp16", "tg16")
    rate = decode.decode_tokens_per_s
    assert rate is not None
    # The stamps as they lie in the file, by hand: steps over the time they took.
    raw = lines(OLD)[1]["runs"]
    assert isinstance(raw, list)
    rates = [16e9 / (run["token_ns"][-1] - run["started_ns"]) for run in raw]
    assert rate.value == pytest.approx((rates[0] + rates[1]) / 2, rel=0.01)
    assert isinstance(decode.energy, Unavailable)
    assert decode.energy.reason
    assert (decode.timeline, decode.heat, decode.battery) == (None, None, None)
    assert (decode.emulated, decode.refusals, decode.sustain_s) == (None, (), None)
    assert isinstance(decode.memory, Memory)
    # Not recorded is not zero.
    assert {(p.read_bytes, p.stalled_ns) for p in decode.memory.phases} == {(None, None)}
    assert "fills 32 tokens, the context has 24" in failed.fact


def test_an_old_measurement_is_judged_as_any_other() -> None:
    decode = read_results(OLD)[1]
    assert isinstance(decode, Measurement)
    # A millisecond for a token: two runs are enough to know that it is more than one a second.
    target = Target(decode_tokens_per_s=1, context_tokens=24, prompt_tokens=16)
    assert judge(decode, target).kind == "VIABLE"


def test_old_latency_records_are_read() -> None:
    measured, failed = (read_latency(line) for line in lines(OLD_LATENCY))
    assert isinstance(measured, LatencyMeasurement)
    assert isinstance(failed, LatencyFailure)
    assert "acme:Whatever" in failed.cause


def test_what_is_saved_again_is_of_todays_layout_and_loses_nothing() -> None:
    for line in lines(OLD):
        record = read_record(line)
        saved = record.to_json()
        assert saved["schema"] == SCHEMA == 3
        assert read_record(json.loads(json.dumps(saved))) == record
        line["artifact"]["imatrix"] = False  # 3 added it: files of 2 do not say
        assert {k: saved[k] for k in line if k not in ("schema", "memory")} == {
            k: v for k, v in line.items() if k not in ("schema", "memory")
        }
    for line in lines(OLD_LATENCY):
        again = read_latency(line)
        assert again.to_json()["schema"] == LATENCY_SCHEMA == 2
        assert read_latency(json.loads(json.dumps(again.to_json()))) == again


@pytest.mark.parametrize("schema", [0, -1, 4, 999, "2", 1.0, True, None, [2]])
def test_a_layout_of_another_number_is_refused_in_one_sentence(schema: object) -> None:
    for line in lines(OLD):
        with pytest.raises(FormatError) as caught:
            read_record({**line, "schema": schema})
        assert caught.value.fact.endswith("of schema 3.")
        assert repr(schema) in caught.value.cause
        assert caught.value.way_out
    for line in lines(OLD_LATENCY):
        with pytest.raises(FormatError, match="schema"):
            read_latency({**line, "schema": schema})


def test_a_record_without_a_number_is_refused() -> None:
    line = lines(OLD)[0]
    del line["schema"]
    with pytest.raises(FormatError, match="schema"):
        read_record(line)


def test_a_sweep_of_an_earlier_version_is_resumed(
    edge: Edge, random_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_RUNTIME_FAKE", json.dumps({"step_ns": 1_000_000}))
    results = tmp_path / "old.jsonl"
    fingerprint, host = Artifact.open(random_gguf).fingerprint, detect_host()
    with results.open("w", encoding="utf-8") as file:
        for line in lines(OLD)[:2]:
            # As if it had been written here, of this model, on this processor.
            record = Measurement.from_json(line)
            assert record.requested is not None
            record = replace(
                record,
                artifact=replace(record.artifact, fingerprint=fingerprint),
                host=replace(record.host, cpu=host.cpu, cores_usable=host.cores_usable),
                requested=replace(record.requested, backend="fake"),
            )
            kept = {k: v for k, v in record.to_json().items() if k in line}
            file.write(json.dumps({**kept, "memory": line["memory"], "schema": 1}) + "\n")
    before = results.read_text("utf-8")
    options = (
        "profile", random_gguf, "-p", "16", "-n", "16,4", "-c", "24", "-t", "1", "-r", "2",
        "--warmups", "0", "--backend", "fake", "-o", "jsonl", "--resume", results,
    )  # fmt: skip
    code, out, err = edge(*options)
    assert code == 0, err
    shown = [json.loads(line) for line in out.splitlines()]
    assert [line["workload"]["name"] for line in shown] == ["pp16", "tg16", "tg4"]
    assert {line["schema"] for line in shown} == {3}
    # Only the new cell has run; the old lines were not touched.
    after = results.read_text("utf-8")
    assert after.startswith(before)
    assert [line["schema"] for line in lines(results)] == [1, 1, 3]
    code, out, err = edge(*options)
    assert code == 0, err
    assert results.read_text("utf-8") == after


def test_a_file_of_a_later_version_is_refused_by_line(
    edge: Edge, random_gguf: Path, tmp_path: Path
) -> None:
    results = tmp_path / "later.jsonl"
    results.write_text(json.dumps({**lines(OLD)[0], "schema": 4}) + "\n")
    code, out, err = edge("profile", random_gguf, "--backend", "fake", "--resume", results)
    assert code == 4
    assert out == ""
    assert "Line 1 of" in err
    assert "This is no Measurement of schema 3. Its schema is 4." in " ".join(err.split())
    assert "Traceback" not in err
