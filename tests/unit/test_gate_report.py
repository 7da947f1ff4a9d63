"""What a gate says: lines, markdown for a pull request, JSON, and the program's exit code."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from edge_runtime.cli.gate import run_gate as run_gate_files
from edge_runtime.comparison.gate import Gate, run_gate
from edge_runtime.comparison.rule import parse_rule
from edge_runtime.errors import FormatError, UsageError
from edge_runtime.report.gate import gate_document, gate_markdown, gate_text
from tests.score_records import artifact, cell_failure, rounds

F16, Q8, Q4 = artifact("F16"), artifact("Q8_0"), artifact("Q4_K_M")


def gate_of_all_kinds() -> Gate:
    hostile = replace(Q4, level="Q4|@x\x1b[31m`<b>`")
    old = (*rounds(Q8, tg=[9.0, 9.1]), *rounds(F16, tg=[9.0, 9.1]), *rounds(hostile, tg=[9, 9.1]))
    new = (*rounds(Q8, tg=[9.0, 9.1]), *rounds(F16, tg=[7.0, 9.9]), cell_failure(hostile),
           *rounds(artifact("Q2_K"), tg=[1.0, 1.1]))  # fmt: skip
    return run_gate(old, new, [parse_rule("tg128 < -5%"), parse_rule("tg128 < 5")])


def test_the_text_says_each_check_and_the_answer_last() -> None:
    lines = gate_text(gate_of_all_kinds()).splitlines()
    assert lines[0].startswith("failed: Q2_K, tg128 < 5: 1.05 tok/s (")
    assert lines[-1].startswith("failed: 1 failed, 2 could not be compared, 1 not resolved")
    assert "\x1b" not in "".join(lines)
    assert any(line.startswith("note: Q2_K is in the new file only") for line in lines)


def test_the_markdown_is_short_and_nothing_in_it_is_a_strangers_markup() -> None:
    shown = gate_markdown(gate_of_all_kinds())
    assert shown.startswith("### Quantization levels: failed\n")
    rows = [line for line in shown.splitlines() if line.startswith("| **")]
    assert len(rows) == 4
    assert all(line.replace("\\|", "").count("|") == 7 for line in rows)
    assert "<b>" not in shown.replace("`", "\0").split("\0")[0::2]
    assert "\x1b" not in shown
    assert "<details><summary>3 checks passed</summary>" in shown
    shown.encode("ascii", "replace")


def test_the_document_is_json_in_the_rules_units() -> None:
    document = gate_document(gate_of_all_kinds(), tool_version="1", strict=True)
    again = json.loads(json.dumps(document, allow_nan=False))
    assert again["exit_code"] == 1
    first = again["checks"][0]
    assert (first["metric"], first["unit"], first["threshold"]) == ("tg128", "tok/s", -0.05)
    assert first["found"].keys() == {"low", "value", "high"}
    assert {check["outcome"] for check in again["checks"]} == {
        "passed", "failed", "not resolved by the noise", "could not be compared",
    }  # fmt: skip


def test_files_of_records_end_the_program_with_the_gates_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.jsonl", tmp_path / "new.json"
    old.write_text("".join(json.dumps(r.to_json()) + "\n" for r in rounds(Q4, tg=[9.0, 9.0])))
    slow = rounds(Q4, tg=[5.0, 5.0])
    new.write_text(json.dumps([r.to_json() for r in slow]))

    def code(*rules: str, **how: bool) -> int:
        with pytest.raises(typer.Exit) as ended:
            run_gate_files(old, new, rules, **how)
        return ended.value.exit_code

    assert code("tg128 < -5%") == 1
    assert "-44.4%" in capsys.readouterr().out
    assert code("tg128 < 4", markdown=True) == 0
    assert capsys.readouterr().out.startswith("### Quantization levels: passed")
    assert code("tg128 < 4", as_json=True, strict=True) == 0
    assert json.loads(capsys.readouterr().out)["strict"] is True
    with pytest.raises(UsageError):
        run_gate_files(old, new, ("tg128 < 5%",))
    new.write_text("[{}]")
    with pytest.raises(FormatError):
        run_gate_files(old, new, ("tg128 < -5%",))
