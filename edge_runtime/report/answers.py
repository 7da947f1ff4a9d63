"""The same prompts, side by side: each level's answer, divided where it parts from the reference's.

What is shared and what is a level's own are words of the answers as they are, for whoever shows
them to make safe; the terminal's and Markdown's rendering do. It knows comparisons, and no model.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..comparison.rows import ComparedRow, Comparison
from ..errors import UsageError
from ..scores import Answer
from .plain import plain

PARTING = "\N{DOUBLE VERTICAL LINE}"
"""Stands where an answer parts from the reference's, also where there is no colour."""
_CUT = "…"
_PIPED_COLUMNS = 100
_LABEL_COLUMNS = 24
_MARKDOWN = frozenset("\\`*_[]<>#|~&$")
_NONE = "There are no answers: no prompts were given (--prompts FILE, --show)."


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPart:
    """One level's answer: what it shares with the reference's beginning, and its own rest.

    `alike_tokens` is how many tokens of its `tokens` come before the first other one; `same` says
    that there is no other one, and that both end there. Of the reference itself all is shared. A
    level that gave no answer has no tokens: why, its row's failures say. `cut` marks an answer that
    was ended by its greatest length or the context.
    """

    label: str
    remark: str
    shared: str
    own: str
    is_reference: bool
    same: bool
    cut: bool
    alike_tokens: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptAnswers:
    """A prompt and the levels' answers to it, the reference's first."""

    prompt: str
    answers: tuple[AnswerPart, ...]


def prompt_answers(comparison: Comparison) -> tuple[PromptAnswers, ...]:
    """All prompts with the answers to each; none where no level gave answers.

    They are laid beside the reference's, or the first level's where the reference gave none.
    """
    answering = [row for row in comparison.rows if row.answers is not None]
    if not answering:
        return ()
    first = next((row for row in answering if row.is_reference), answering[0])
    rows = (first, *(row for row in comparison.rows if row is not first))
    given = _answers(first)
    return tuple(
        PromptAnswers(
            prompt=answer.prompt,
            answers=tuple(_part(row, number, answer, row is first) for row in rows),
        )
        for number, answer in enumerate(given)
    )


def render_answers(comparison: Comparison) -> RenderableType:
    """The answers for a terminal: under each prompt the levels', what is their own in bold."""
    found = prompt_answers(comparison)
    parts: list[RenderableType] = []
    if found:
        parts.append(Text(f"Greedy answers; {PARTING} where one parts from the reference's."))
    for number, prompt in enumerate(found, 1):
        parts.append(Text())
        parts.append(Text(f"{number}. {_safe(prompt.prompt)}", style="bold"))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(max_width=_LABEL_COLUMNS, overflow="fold")
        table.add_column(overflow="fold")
        for part in prompt.answers:
            table.add_row(Text(plain(part.label)), Group(*_lines(part)))
        parts.append(Padding(table, (0, 0, 0, 3)))
    return Group(*parts) if parts else Text(_NONE)


def write_answers(
    comparison: Comparison, form: str, stream: TextIO, *, columns: int | None = None
) -> None:
    """Writes the answers as `text` or `md`; text as wide as the terminal, or `columns`.

    Raises UsageError for another format.
    """
    if form == "md":
        stream.writelines(_markdown(comparison))
        return
    if form != "text":
        raise UsageError(
            f"There is no output format {form!r} for answers.", way_out="Choose from: text, md."
        )
    console = Console(file=stream, highlight=False, width=columns)
    if console.is_terminal:
        console.print(render_answers(comparison))
        return
    console = Console(file=stream, highlight=False, width=columns or _PIPED_COLUMNS)
    with console.capture() as captured:
        console.print(render_answers(comparison))
    stream.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _part(row: ComparedRow, number: int, first: Answer, is_reference: bool) -> AnswerPart:
    answers = _answers(row)
    if number >= len(answers):
        return AnswerPart(
            label=row.label, remark="no answer", shared="", own="", is_reference=False, same=False,
            cut=False, alike_tokens=0, tokens=0,
        )  # fmt: skip
    answer = answers[number]
    alike = _alike(answer.tokens, first.tokens)
    same = answer.tokens == first.tokens and answer.finish == first.finish
    shared = len(answer.text) if same else _shared_characters(answer.text, first.text)
    if is_reference:
        remark = "the reference" if row.is_reference else "what the others are laid beside"
    else:
        remark = "the same" if same else _parting(answer, first, alike)
    return AnswerPart(
        label=row.label,
        remark=remark,
        shared=answer.text[:shared],
        own=answer.text[shared:],
        is_reference=is_reference,
        same=same,
        cut=answer.finish != "eos",
        alike_tokens=alike,
        tokens=len(answer.tokens),
    )


def _answers(row: ComparedRow) -> tuple[Answer, ...]:
    return row.answers.answers if row.answers is not None else ()


def _shared_characters(mine: str, theirs: str) -> int:
    """How far two texts are the same, no letter divided from its accents."""
    count = _alike(mine, theirs)
    while count and any(map(_belongs_to_the_one_before, (mine[count:], theirs[count:]))):
        count -= 1
    return count


def _belongs_to_the_one_before(text: str) -> bool:
    return bool(text) and unicodedata.combining(text[0]) != 0


def _alike(mine: Sequence[object], theirs: Sequence[object]) -> int:
    """How many at the beginning of both are the same."""
    pairs = zip(mine, theirs, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _parting(answer: Answer, first: Answer, alike: int) -> str:
    if alike == len(answer.tokens) == len(first.tokens):
        return "the same tokens, ended otherwise"
    if alike == len(answer.tokens):
        return f"ends after {_tokens(alike)}, the reference goes on"
    if alike == len(first.tokens):
        return f"goes on after the reference's {_tokens(alike)}"
    if not alike:
        return "parts at the first token"
    return f"parts after {alike} of {_tokens(len(answer.tokens))}"


def _tokens(count: int) -> str:
    return f"{count} token" + ("" if count == 1 else "s")


def _lines(part: AnswerPart) -> Iterator[Text]:
    """An answer for the terminal, and below it in what it is another."""
    if not part.tokens and not part.is_reference:
        yield Text(plain(part.remark), style="yellow")
        return
    if part.same and not part.is_reference:
        yield Text(part.remark, style="green")
        return
    shown = Text(_safe(part.shared))
    if not part.is_reference:
        shown.append(PARTING, style="yellow")
        shown.append(_safe(part.own), style="bold")
    shown.append(_CUT if part.cut else "")
    yield shown
    yield Text(part.remark, style="dim")


def _safe(text: str) -> str:
    """A text in its own lines, none of its characters moving the cursor."""
    return "\n".join(plain(line.expandtabs(4)) for line in text.split("\n"))


def _markdown(comparison: Comparison) -> Iterator[str]:
    found = prompt_answers(comparison)
    if not found:
        yield f"{_NONE}\n"
    for number, prompt in enumerate(found, 1):
        yield f"{'' if number == 1 else chr(10)}**{number}.** {_escaped(prompt.prompt)}\n\n"
        yield f"| level | answer ({PARTING}: from here on another) | |\n|---|---|---|\n"
        for part in prompt.answers:
            answer = _escaped(part.shared)
            if part.tokens and not part.is_reference and not part.same:
                answer += PARTING + _escaped(part.own)
            answer += _CUT if part.cut else ""
            yield f"| {_escaped(part.label)} | {answer} | {_escaped(part.remark)} |\n"


def _escaped(text: str) -> str:
    """A text as Markdown shows it, in one line: nothing in it is markup."""
    escaped = "".join(f"\\{char}" if char in _MARKDOWN else char for char in _safe(text))
    return escaped.replace("\n", "<br>")
