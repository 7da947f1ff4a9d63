"""The columns of a comparison: each figure of a row in words, and when there is none, a dash.

A rate stands with half of its 95 % interval, a figure of quality with its standard error. Which
columns stand side by side, and how they look, is `comparison`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..basis import Unavailable
from ..comparison import ComparedRow, Comparison, Estimate, Quality, Rate
from ..statistics import Interval
from ..units import format_bytes, format_duration, format_rate
from ..verdict import Verdict
from .energy import three_digits
from .plain import plain
from .sustained import SYMMETRIC_LIMIT

NONE = "-"
FAILED = "failed"
RECOMMENDED = "★"
PARETO = "●"
UNSURE = "± ?"
LONGEST_LABEL = 64
_MOST_DECIMALS = 7

Key = Literal[
    "mark", "label", "size", "bits", "peak", "need", "prefill", "prefill ratio", "ttft", "decode",
    "decode ratio", "joules", "ppl", "kl", "kl p99", "top1", "p change", "answers", "verdict",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelColumn:
    """One column: its title, its words for a row, and what they mean in a sentence.

    `short` are the words where there is little room; None where they are short already.
    """

    key: Key
    title: str
    words: Callable[[ComparedRow], str]
    about: str
    short: Callable[[ComparedRow], str] | None = None
    right: bool = True


def level_columns(comparison: Comparison) -> Mapping[Key, LevelColumn]:
    """The columns that have something to say of these rows, by their keys, in order."""
    rows = comparison.rows
    base = next((row.label for row in rows if row.is_baseline), "")
    to_base = f"vs {plain(base, most=12)}"
    prefill, decode = _workload(rows, "prefill", "pp"), _workload(rows, "decode", "tg")
    context = comparison.target.context_tokens
    columns = (
        LevelColumn(
            key="mark", title="", words=lambda row: marks(row, comparison.recommended),
            about="recommended, Pareto-optimal", right=False,
        ),
        LevelColumn(
            key="label", title="Level", words=lambda row: plain(row.label, most=LONGEST_LABEL),
            about="the quantization level", right=False,
        ),
        LevelColumn(
            key="verdict", title=f"At {comparison.target.decode_tokens_per_s:g} tok/s",
            words=_verdict, about="whether it decodes that fast and fits the memory", right=False,
        ),
        LevelColumn(key="size", title="Size", words=_size, about="the files' size"),
        LevelColumn(
            key="bits", title="Bits",
            words=lambda row: NONE if row.bits_per_weight is None else f"{row.bits_per_weight:.2f}",
            about="the files' bits for each weight",
        ),
        LevelColumn(
            key="peak", title="Peak", words=lambda row: _bytes(row.peak_bytes),
            about="the most memory that the measuring process held",
        ),
        LevelColumn(
            key="need", title="Needs", words=lambda row: _bytes(row.need_bytes),
            about=f"the memory needed at a context of {context:,} tokens",
        ),
        LevelColumn(
            key="prefill", title=prefill, words=lambda row: _rate(row.prefill),
            short=lambda row: _rate(row.prefill, short=True),
            about="prompt tokens/s",
        ),
        LevelColumn(
            key="prefill ratio", title=to_base, words=lambda row: _ratio(row, row.prefill),
            short=lambda row: _ratio(row, row.prefill, short=True),
            about=f"prompt tokens/s over those of {plain(base)} in the same rounds",
        ),
        LevelColumn(
            key="ttft", title="TTFT", words=_ttft, about="time until the prompt was evaluated"
        ),
        LevelColumn(
            key="decode", title=decode, words=lambda row: _rate(row.decode),
            short=lambda row: _rate(row.decode, short=True),
            about="generated tokens/s",
        ),
        LevelColumn(
            key="decode ratio", title=to_base, words=lambda row: _ratio(row, row.decode),
            short=lambda row: _ratio(row, row.decode, short=True),
            about=f"generated tokens/s over those of {plain(base)} in the same rounds",
        ),
        LevelColumn(
            key="joules", title="J/token", words=_joules,
            about="energy of a generated token, gross",
        ),
        LevelColumn(
            key="ppl", title="PPL", words=lambda row: _quality(row, lambda q: q.perplexity),
            about="perplexity",
        ),
        LevelColumn(
            key="kl", title="KL", words=lambda row: _quality(row, lambda q: q.kl), short=_kl,
            about="mean KL divergence from the reference, nats",
        ),
        LevelColumn(
            key="kl p99", title="KL P99", words=_kl_p99, about="its 99th percentile over the tokens"
        ),
        LevelColumn(
            key="top1", title="Top-1",
            words=lambda row: _quality(row, lambda q: q.top1_agreement, percent=True),
            about="how often the most likely token is the reference's",
        ),
        LevelColumn(
            key="p change", title="RMS Δp",
            words=lambda row: _quality(row, lambda q: q.p_change_rms, percent=True),
            about="RMS change of the right token's probability",
        ),
        LevelColumn(
            key="answers", title="Answers", words=_answers,
            about="greedy answers that equal the reference's token by token",
        ),
    )  # fmt: skip
    kept = {"mark", "label", "size", "verdict"}
    return {
        column.key: column
        for column in columns
        if column.key in kept or any(column.words(row) not in (NONE, FAILED, "") for row in rows)
    }


def marks(row: ComparedRow, recommended: str | None) -> str:
    """Whether a row is the recommended one, and whether no other beats it."""
    if row.label == recommended:
        return RECOMMENDED
    return PARETO if row.pareto else ""


def _workload(rows: Sequence[ComparedRow], name: str, otherwise: str) -> str:
    rates = (getattr(row, name) for row in rows)
    return next((plain(rate.workload) for rate in rates if isinstance(rate, Rate)), otherwise)


def _size(row: ComparedRow) -> str:
    return NONE if row.artifact is None else format_bytes(row.artifact.size_bytes)


def _bytes(size: int | Unavailable) -> str:
    return NONE if isinstance(size, Unavailable) else format_bytes(size)


def _verdict(row: ComparedRow) -> str:
    if isinstance(row.verdict, Verdict):
        return row.verdict.kind.value
    return FAILED if row.failures else NONE


def _rate(rate: Rate | Unavailable, *, short: bool = False) -> str:
    if isinstance(rate, Unavailable):
        return NONE
    interval = rate.tokens_per_s
    if len(rate.rounds) == 1 and rate.burst_tokens_per_s is None:
        return format_rate(interval.value) + ("" if short else " (1 round)")
    words = _spread(interval, format_rate, short=short)
    return words if rate.burst_tokens_per_s is None else f"{words} steady"


def _ratio(row: ComparedRow, rate: Rate | Unavailable, *, short: bool = False) -> str:
    if isinstance(rate, Unavailable):
        return NONE
    if row.is_baseline:
        return "1"
    if rate.ratio is None:
        return NONE
    return _spread(rate.ratio, lambda value: f"{value:.2f}", short=short)


def _spread(interval: Interval, words: Callable[[float], str], *, short: bool = False) -> str:
    """A value and half its interval with the same decimals; both bounds where it is wide."""
    value = words(interval.value)
    if interval.is_hopeless or (short and interval.relative_half_width > 1):
        return f"{value} {UNSURE}"
    if interval.relative_half_width <= SYMMETRIC_LIMIT:
        return f"{value} ± {_like(value, (interval.high - interval.low) / 2)}"
    if short:
        return f"{value} ± {interval.relative_half_width:.0%}"
    return f"{value} ({words(interval.low)}-{words(interval.high)})"


def _like(shown: str, error: float) -> str:
    """An error with the decimals of the value it belongs to, and never rounded to zero."""
    decimals = len(shown.partition(".")[2])
    return f"{max(error, 10.0**-decimals):.{decimals}f}"


def _ttft(row: ComparedRow) -> str:
    found = row.ttft_s
    return NONE if isinstance(found, Unavailable) else format_duration(found.value)


def _joules(row: ComparedRow) -> str:
    found = row.joules_per_token
    if isinstance(found, Unavailable):
        return NONE
    return _spread(found, three_digits)


def _quality(
    row: ComparedRow, value: Callable[[Quality], Estimate | None], *, percent: bool = False
) -> str:
    """A figure of quality, with two digits of its standard error."""
    found = None if isinstance(row.quality, Unavailable) else value(row.quality)
    if found is None:
        return NONE
    factor, unit = (100.0, " %") if percent else (1.0, "")
    error = found.standard_error * factor
    if found.value >= 1e6:  # the perplexity of noise
        return f"{found.value:.3g} ± {error:.2g}"
    decimals = 1 - math.floor(math.log10(error)) if error > 0 else 4
    shown = f"{found.value * factor:.{min(max(decimals, 0), _MOST_DECIMALS)}f}"
    return f"{shown} ± {_like(shown, error)}{unit}"


def _kl(row: ComparedRow) -> str:
    if isinstance(row.quality, Unavailable) or row.quality.kl is None:
        return NONE
    return three_digits(row.quality.kl.value)


def _kl_p99(row: ComparedRow) -> str:
    if isinstance(row.quality, Unavailable) or row.quality.kl_p99 is None:
        return NONE
    return three_digits(row.quality.kl_p99)


def _answers(row: ComparedRow) -> str:
    if row.same_answers is None or row.answers is None:
        return NONE
    return f"{row.same_answers} of {len(row.answers.answers)}"
