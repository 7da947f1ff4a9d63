"""Which level to take, in one sentence, and which rule chose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..basis import Unavailable
from ..statistics import Interval
from ..units import format_bytes, format_rate
from ..verdict import Target, Verdict, VerdictKind
from .differences import less_loss
from .rows import ComparedRow

Losses = Mapping[str, tuple[float, ...]]
"""Label -> nats lost at each scored token; the same tokens for all."""
_MOST_NAMES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The recommended row's label, if any is, and the sentence."""

    label: str | None
    sentence: str


def recommend(
    rows: Sequence[ComparedRow],
    losses: Losses,
    *,
    target: Target,
    memory_bytes: int | None,
    by_perplexity: bool = False,
) -> Advice:
    """The level of the smallest loss among those that qualify.

    It qualifies by a verdict of VIABLE, a need within `memory_bytes`, and a quality that is known.
    Levels whose losses the noise does not tell from the smallest are equal to it; the smallest file
    among them is taken. The reference qualifies only where nothing else does. Levels that lose less
    and that only the noise of their speed keeps from qualifying are named beside it.
    """
    asked = _asked(target, memory_bytes)
    fit = [row for row in rows if _viable(row) and _within(row, memory_bytes)]
    candidates = [row for row in fit if row.label in losses and not row.is_reference]
    if candidates:
        chosen, sentence = _smallest_loss(candidates, losses, asked, by_perplexity=by_perplexity)
        hidden = [
            row
            for row in _may_read(rows, memory_bytes)
            if row.label in losses
            and not row.is_reference
            and less_loss(losses[row.label], losses[chosen.label]) < 0
        ]
        if hidden:
            sentence += f"; {_too_noisy(hidden, ' loses less and')}"
        return Advice(label=chosen.label, sentence=sentence)
    reference = next((row for row in fit if row.is_reference), None)
    if reference is not None:
        others = [row for row in rows if row is not reference]
        hidden = _may_read(others, memory_bytes)
        sentence = f"{reference.label}: the reference itself {asked}, and nothing else"
        sentence += f" surely does; {_too_noisy(hidden, '')}" if hidden else " does"
        return Advice(label=reference.label, sentence=sentence)
    return Advice(label=None, sentence=_why_none(rows, fit, asked, memory_bytes))


def _smallest_loss(
    candidates: Sequence[ComparedRow], losses: Losses, asked: str, *, by_perplexity: bool
) -> tuple[ComparedRow, str]:
    best = min(candidates, key=lambda row: sum(losses[row.label]))
    equal = [
        row
        for row in candidates
        if row is best or less_loss(losses[best.label], losses[row.label]) == 0
    ]
    chosen = min(equal, key=lambda row: (_size(row), row is not best))
    least = "lowest perplexity" if by_perplexity else "smallest loss"
    sentence = f"{chosen.label}: the {least} that still {asked}"
    if chosen is not best:
        sentence += f" ({best.label} is no better within the noise, and larger)"
    return chosen, sentence


def _may_read(rows: Sequence[ComparedRow], memory_bytes: int | None) -> list[ComparedRow]:
    """The rows of which only the noise of their speed hides whether they read: they fit."""
    return [
        row
        for row in rows
        if isinstance(row.verdict, Verdict)
        and row.verdict.kind is VerdictKind.BORDERLINE
        and row.verdict.memory.kind is VerdictKind.VIABLE
        and isinstance(row.verdict.decode_tokens_per_s, Interval)
        and row.verdict.decode_tokens_per_s.low < row.verdict.limit_tokens_per_s
        and _within(row, memory_bytes)
    ]


def _too_noisy(rows: Sequence[ComparedRow], merit: str) -> str:
    """`Q8_0 loses less and may read too: its measurement is too noisy`."""
    names = [row.label for row in rows]
    one = len(names) == 1
    shown = ", ".join(names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        shown += f" and {len(names) - _MOST_NAMES} more"
    words = merit if one else merit.replace("loses", "lose")
    whose = "its measurement is" if one else "their measurements are"
    return f"{shown}{words} may read too: {whose} too noisy"


def _why_none(
    rows: Sequence[ComparedRow], fit: Sequence[ComparedRow], asked: str, memory_bytes: int | None
) -> str:
    if fit:
        reasons = (row.quality.reason for row in fit if isinstance(row.quality, Unavailable))
        why = next(reasons, "no reference was scored")
        names = ", ".join(row.label for row in fit)
        do = asked if len(fit) == 1 else asked.replace("reads", "read", 1)
        return f"Nothing is recommended: {names} {do}, but no quality is known ({why})"
    viable = [row for row in rows if _viable(row) and isinstance(row.need_bytes, int)]
    if viable and memory_bytes is not None:
        least = min(viable, key=_need)
        return (
            f"Nothing is recommended: {least.label} needs the least memory of those that read,"
            f" {format_bytes(_need(least))}, and {format_bytes(memory_bytes)} are given"
        )
    judged = [row for row in rows if isinstance(row.verdict, Verdict)]
    if not judged:
        return "Nothing is recommended: no speed was measured"
    nearest = max(judged, key=_nearness)
    assert isinstance(nearest.verdict, Verdict)
    rate = nearest.verdict.decode_tokens_per_s
    at = f", {format_rate(rate.value)} tok/s" if isinstance(rate, Interval) else ""
    return (
        f"Nothing is recommended: no level surely {asked};"
        f" {nearest.label} comes nearest ({nearest.verdict.kind.value}{at}:"
        f" {nearest.verdict.cause})"
    )


def _nearness(row: ComparedRow) -> tuple[bool, float]:
    assert isinstance(row.verdict, Verdict)
    rate = row.verdict.decode_tokens_per_s
    return (
        row.verdict.kind is not VerdictKind.NOT_VIABLE,
        rate.value if isinstance(rate, Interval) else 0.0,
    )


def _asked(target: Target, memory_bytes: int | None) -> str:
    within = f" within {format_bytes_asked(memory_bytes)}" if memory_bytes is not None else ""
    return f"reads at {target.decode_tokens_per_s:g} tok/s{within}"


def format_bytes_asked(count: int) -> str:
    """A size somebody asked for, as round as it was typed: `6 GiB`."""
    for size, unit in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if count >= size and count % size == 0:
            return f"{count // size} {unit}"
    return format_bytes(count)


def _viable(row: ComparedRow) -> bool:
    return isinstance(row.verdict, Verdict) and row.verdict.kind is VerdictKind.VIABLE


def _within(row: ComparedRow, memory_bytes: int | None) -> bool:
    if memory_bytes is None:
        return True
    return isinstance(row.need_bytes, int) and row.need_bytes <= memory_bytes


def _need(row: ComparedRow) -> int:
    return row.need_bytes if isinstance(row.need_bytes, int) else 0


def _size(row: ComparedRow) -> int:
    return row.artifact.size_bytes if row.artifact else 0
