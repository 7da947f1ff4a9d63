"""Answers side by side: where they part, and that no answer does anything but stand there."""

import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from edge_runtime.comparison import Comparison, compare_records
from edge_runtime.errors import UsageError
from edge_runtime.report.answers import (
    PARTING,
    AnswerPart,
    prompt_answers,
    render_answers,
    write_answers,
)
from edge_runtime.scores import Answer
from tests import score_records


def compared(**said: Sequence[str]) -> Comparison:
    """Levels with their answers; without any, a level that was measured only."""
    records = []
    for level, texts in said.items():
        of = score_records.artifact(level)
        records += score_records.rounds(of, tg=(10.0, 11.0))
        if texts:
            records.append(score_records.answers(of, texts))
    return compare_records(records)


def part(reference: str, other: str, **changes: object) -> AnswerPart:
    """How one answer stands beside the reference's; an answer's tokens are its characters."""
    of = [score_records.artifact(level) for level in ("F16", "Q4_0")]
    made = [score_records.answers(a, (t,)) for a, t in zip(of, (reference, other), strict=True)]
    answer: Answer = replace(made[1].answers[0], **changes)  # type: ignore[arg-type]
    made[1] = replace(made[1], answers=(answer,))
    (prompt,) = prompt_answers(compare_records(made))
    return prompt.answers[1]


@pytest.mark.parametrize(
    ("reference", "other", "shared", "own", "remark"),
    [
        ("Seven.", "Seven.", "Seven.", "", "the same"),
        ("It is six.", "It is sixty.", "It is six", "ty.", "parts after 9 of 12 tokens"),
        ("Seven.", "Eight.", "", "Eight.", "parts at the first token"),
        ("Seven.", "Seven", "Seven", "", "ends after 5 tokens, the reference goes on"),
        ("A", "A B", "A", " B", "goes on after the reference's 1 token"),
        ("caf\u0065\u0301", "caf\u0065\u0300", "caf", "\u0065\u0300", "parts after 4 of 5 tokens"),
    ],
)
def test_an_answer_is_divided_where_it_parts(
    reference: str, other: str, shared: str, own: str, remark: str
) -> None:
    found = part(reference, other)
    assert (found.shared, found.own, found.remark) == (shared, own, remark)
    assert found.same == (reference == other)


def test_the_same_words_of_other_tokens_or_another_end_are_not_the_same() -> None:
    assert not part("ab", "ab", tokens=(1, 2)).same
    assert part("ab", "ab", tokens=(1, 2)).remark == "parts at the first token"
    ended = part("ab", "ab", finish="length")
    assert not ended.same
    assert ended.cut
    assert ended.remark == "the same tokens, ended otherwise"


def test_every_level_stands_beside_the_reference_also_one_without_answers() -> None:
    comparison = compared(F16=("One.", "Two."), Q8_0=("One.", "Too."), Q2_K=())
    first, second = prompt_answers(comparison)
    assert [p.label for p in first.answers] == ["F16", "Q8_0", "Q2_K"]
    assert [p.is_reference for p in first.answers] == [True, False, False]
    assert [p.remark for p in first.answers[1:]] == ["the same", "no answer"]
    assert second.prompt == "Question 2?"
    assert (second.answers[1].shared, second.answers[1].own) == ("T", "oo.")


def test_without_prompts_there_is_nothing_to_show_and_it_says_so() -> None:
    comparison = compared(F16=())
    assert prompt_answers(comparison) == ()
    for form in ("text", "md"):
        stream = io.StringIO()
        write_answers(comparison, form, stream)
        assert "--prompts" in stream.getvalue()
    with pytest.raises(UsageError, match="csv"):
        write_answers(comparison, "csv", io.StringIO())


def test_the_terminals_page_fits_and_marks_the_place() -> None:
    comparison = compared(F16=("Six and more words. " * 20,), Q4_0=("Six and no more. " * 20,))
    stream = io.StringIO()
    write_answers(comparison, "text", stream, columns=60)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert any(f"Six and {PARTING}no more." in line for line in lines)
    assert any("parts after 8 of 340 tokens" in line for line in lines)


def test_an_answer_moves_no_cursor_and_is_no_markup() -> None:
    hostile = "\x1b]0;x\x07[red]<script>|`*\nsecond\u202eline"
    comparison = compared(F16=("ok",), Q8_0=(hostile,))
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system="standard")
    console.print(render_answers(comparison))
    assert "\x1b]0" not in stream.getvalue()
    assert "\u202e" not in stream.getvalue()
    assert "[red]" in stream.getvalue()
    stream = io.StringIO()
    write_answers(comparison, "md", stream)
    row = next(line for line in stream.getvalue().splitlines() if "Q8" in line)
    assert "\x1b" not in row
    assert "\\[red\\]\\<script\\>\\|\\`\\*<br>second" in row
    assert row.count("|") - row.count("\\|") == 4
