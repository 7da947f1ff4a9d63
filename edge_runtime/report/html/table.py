"""The table of a comparison as cells: what each says, what it is sorted by, why one is empty.

A column that no row has a figure for is left out, and the reason stands below the table once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...basis import Basis, Unavailable
from ...comparison.rows import ComparedRow, Comparison, Rate
from ...statistics import Interval
from ...units import format_bytes, format_duration, format_rate
from ...verdict import Verdict, VerdictKind
from ..energy import three_digits
from ..plain import plain
from .wording import (
    NO_FIGURE,
    estimate_words,
    interval_words,
    perplexity_words,
    ratio_words,
    share_words,
)

_LONGEST_LABEL = 80
_NO_REFERENCE = "it was held against no reference"
TONES = {
    VerdictKind.VIABLE: "good",
    VerdictKind.BORDERLINE: "warn",
    VerdictKind.NOT_VIABLE: "bad",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: its words, smaller lines below, and the number that rows are sorted by.

    `missing` is the reason where there is no figure.
    """

    words: str
    small: tuple[str, ...] = ()
    order: float | str | None = None
    tone: str = ""
    missing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column's heading, the unit below it, and what it means in a sentence.

    `brief` is what stands above the figure where a row is a card: the unit of a bare number.
    """

    title: str
    unit: str
    meaning: str
    ascending: bool
    brief: str = ""

    @property
    def card_title(self) -> str:
        """The heading in a card."""
        return f"{self.title}, {self.brief}" if self.brief else self.title


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One level: its name, what marks it, and a cell for each column."""

    label: str
    marks: tuple[str, ...]
    recommended: bool
    failed: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelTable:
    """The table, and why some of its figures are missing: a reason and the columns or rows."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    missing: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Kind:
    column: Column
    cell: Callable[[ComparedRow], Cell]
    optional: bool = True


def level_table(comparison: Comparison) -> LevelTable:
    """The rows of a comparison in their order, with the columns that any of them has."""
    kinds = [
        kind
        for kind in _kinds(comparison)
        if not kind.optional or any(not kind.cell(row).missing for row in comparison.rows)
    ]
    rows = tuple(
        TableRow(
            label=plain(row.label, most=_LONGEST_LABEL),
            marks=_marks(row, comparison),
            recommended=row.label == comparison.recommended,
            failed=bool(row.failures),
            cells=tuple(kind.cell(row) for kind in kinds),
        )
        for row in comparison.rows
    )
    return LevelTable(
        columns=tuple(kind.column for kind in kinds), rows=rows, missing=_missing(comparison)
    )


def _marks(row: ComparedRow, comparison: Comparison) -> tuple[str, ...]:
    marks = []
    if row.label == comparison.recommended:
        marks.append("recommended")
    if row.is_reference:
        marks.append("reference")
    elif row.is_baseline and len(comparison.rows) > 1:
        marks.append("baseline")
    if row.pareto and len(comparison.rows) > 1:
        marks.append("Pareto")
    if row.artifact is not None and row.artifact.synthetic:
        marks.append("synthetic")
    return tuple(marks)


def _kinds(comparison: Comparison) -> Sequence[_Kind]:
    speed, *waiting = _speed_kinds(comparison)
    return (
        _Kind(
            Column(
                title="Verdict", unit=f"{_target(comparison)} tok/s", ascending=True,
                meaning=f"Whether it reads at {_target(comparison)} tokens/s and fits the memory.",
            ),
            lambda row: _verdict(row.verdict),
        ),
        speed,
        *_QUALITY_KINDS,
        _Kind(
            Column(
                title="Memory", unit="needed", ascending=True,
                meaning="What must be free for it at a context of"
                f" {comparison.target.context_tokens:,} tokens.",
            ),
            lambda row: _bytes(row.need_bytes),
        ),
        _Kind(
            Column(
                title="Size", unit="bits/weight", ascending=True,
                meaning="Size of the file, and how many bits it spends on a weight.",
            ),
            _size,
        ),
        *waiting,
        _Kind(
            Column(
                title="Energy", unit="J/token", ascending=True, brief="J/token",
                meaning="Gross joules for each generated token.",
            ),
            _energy,
        ),
    )  # fmt: skip


def _speed_kinds(comparison: Comparison) -> Sequence[_Kind]:
    """Decoding; then prompts and the wait for the first token."""
    decode, prefill = _workload(comparison, "decode"), _workload(comparison, "prefill")
    baseline = next((plain(row.label) for row in comparison.rows if row.is_baseline), "the first")
    return (
        _Kind(
            Column(
                title="Speed", unit=f"tok/s, {decode}", ascending=False, brief="tok/s",
                meaning=f"Generated tokens per second, and the ratio to {baseline} by rounds.",
            ),
            lambda row: _rate(row.decode),
        ),
        _Kind(
            Column(
                title="Prompt", unit=f"tok/s, {prefill}", ascending=False, brief="tok/s",
                meaning="Prompt tokens evaluated per second.",
            ),
            lambda row: _rate(row.prefill),
        ),
        _Kind(
            Column(
                title="First token", unit=f"TTFT, {prefill}", ascending=True,
                meaning="Time until the first token is there, after a prompt of that length.",
            ),
            lambda row: _ttft(row.ttft_s),
        ),
    )  # fmt: skip


def _target(comparison: Comparison) -> str:
    return f"{comparison.target.decode_tokens_per_s:g}"


def _workload(comparison: Comparison, name: str) -> str:
    rates = (getattr(row, name) for row in comparison.rows)
    return plain(next((rate.workload for rate in rates if isinstance(rate, Rate)), ""))


def _none(reason: str) -> Cell:
    return Cell(words=NO_FIGURE, missing=plain(reason))


def _verdict(verdict: Verdict | Unavailable) -> Cell:
    if isinstance(verdict, Unavailable):
        return _none(verdict.reason)
    kinds = (VerdictKind.VIABLE, VerdictKind.BORDERLINE, VerdictKind.NOT_VIABLE)
    return Cell(
        words=verdict.kind.value.capitalize(),
        order=float(kinds.index(verdict.kind)),
        tone=TONES[verdict.kind],
    )


def _rate(rate: Rate | Unavailable) -> Cell:
    if isinstance(rate, Unavailable):
        return _none(rate.reason)
    small = [interval_words(rate.tokens_per_s, format_rate)]
    if rate.burst_tokens_per_s is not None:
        small = [f"steady {small[0]}", f"burst {format_rate(rate.burst_tokens_per_s)}"]
    if rate.ratio is not None:
        small.append(ratio_words(rate.ratio))
    value = rate.tokens_per_s.value
    return Cell(words=format_rate(value), small=tuple(small), order=value)


def _kl(row: ComparedRow) -> Cell:
    if isinstance(row.quality, Unavailable):
        return _none(row.quality.reason)
    if row.quality.kl is None:
        return Cell(words="0", order=0.0) if row.is_reference else _none(_NO_REFERENCE)
    words, error = estimate_words(row.quality.kl)
    p99 = row.quality.kl_p99
    small = (error,) if p99 is None else (error, f"P99 {three_digits(p99)}")
    return Cell(words=words, small=small, order=row.quality.kl.value)


def _top1(row: ComparedRow) -> Cell:
    if isinstance(row.quality, Unavailable):
        return _none(row.quality.reason)
    agreement = row.quality.top1_agreement
    if agreement is None:
        return Cell(words="100 %", order=1.0) if row.is_reference else _none(_NO_REFERENCE)
    small = f"± {100 * agreement.standard_error:.1f}"
    return Cell(words=share_words(agreement.value), small=(small,), order=agreement.value)


def _perplexity(row: ComparedRow) -> Cell:
    if isinstance(row.quality, Unavailable):
        return _none(row.quality.reason)
    found = row.quality.perplexity
    return Cell(
        words=perplexity_words(found.value),
        small=(f"± {perplexity_words(found.standard_error)}",),
        order=found.value,
    )


def _same_answers(row: ComparedRow) -> Cell:
    if row.answers is None or row.same_answers is None:
        return _none("no answers were asked for")
    many = len(row.answers.answers)
    return Cell(words=f"{row.same_answers} of {many}", order=row.same_answers / max(many, 1))


def _bytes(size: int | Unavailable) -> Cell:
    if isinstance(size, Unavailable):
        return _none(size.reason)
    return Cell(words=format_bytes(size), order=float(size))


def _size(row: ComparedRow) -> Cell:
    if row.artifact is None:
        return _none("it could not be made")
    bits = () if row.bits_per_weight is None else (f"{row.bits_per_weight:.2f} bits",)
    size = row.artifact.size_bytes
    return Cell(words=format_bytes(size), small=bits, order=float(size))


def _ttft(ttft: Interval | Unavailable) -> Cell:
    if isinstance(ttft, Unavailable):
        return _none(ttft.reason)
    small = interval_words(ttft, format_duration)
    return Cell(words=format_duration(ttft.value), small=(small,), order=ttft.value)


def _energy(row: ComparedRow) -> Cell:
    found = row.joules_per_token
    if isinstance(found, Unavailable):
        return _none(found.reason)
    small = [interval_words(found, three_digits)]
    if row.energy_basis is not None and row.energy_basis is not Basis.MEASURED:
        small.append(row.energy_basis.lower())
    return Cell(words=three_digits(found.value), small=tuple(small), order=found.value)


def _missing(comparison: Comparison) -> tuple[tuple[str, str], ...]:
    """Each reason once, with what it is the reason for: rows, or all of them."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in comparison.rows:
        for kind in _kinds(comparison):
            reason = kind.cell(row).missing
            if reason and kind.column.title != "Answers":
                found.setdefault((kind.column.title, reason), []).append(plain(row.label))
    by_rows: dict[tuple[str, str], list[str]] = {}
    for (title, reason), labels in found.items():
        who = "every level" if len(labels) == len(comparison.rows) else ", ".join(labels)
        by_rows.setdefault((who, reason), []).append(title)
    return tuple(
        (f"{', '.join(titles)} of {who}" if who != "every level" else ", ".join(titles), reason)
        for (who, reason), titles in by_rows.items()
    )


_QUALITY_KINDS = (
    _Kind(
        Column(
            title="Loss", unit="KL, nats/token", ascending=True, brief="nats/token",
            meaning="Mean Kullback-Leibler divergence from the reference: what quantizing changed."
            " 0 is none.",
        ),
        _kl,
    ),
    _Kind(
        Column(
            title="Same choice", unit="top-1, %", ascending=False,
            meaning="Share of tokens at which it puts the same token first as the reference.",
        ),
        _top1,
    ),
    _Kind(
        Column(
            title="Perplexity", unit="PPL", ascending=True,
            meaning="How surprised the model is by the text; smaller is better.",
        ),
        _perplexity,
    ),
    _Kind(
        Column(
            title="Answers", unit="the same", ascending=False,
            meaning="Greedy answers that equal the reference's, token by token.",
        ),
        _same_answers,
    ),
)  # fmt: skip
