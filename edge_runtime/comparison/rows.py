"""The table as values: a comparison, its rows, and the figures in them.

They know how they are laid flat for a data frame; how they look is the report's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..basis import Basis, Unavailable
from ..measurement import ArtifactRecord
from ..saved import SavedRecord
from ..scores import Answers, TextRecord
from ..statistics import Interval
from ..verdict import Target, Verdict

FlatValue = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its standard error; the tokens it rests on are taken as independent."""

    value: float
    standard_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A rate over rounds, tokens/s, and its ratio to the baseline's in the same rounds.

    `rounds` has the mean of each round's repetitions, in the rounds' order; records that belong to
    no round have none, and the interval is that over their repetitions. `ratio` is None for the
    baseline itself and where no round has both; of rounds that were not measured in turns it is
    that of the means. `disturbed` says that other programs were seen in half of the rounds or more,
    for which the interval is twice as wide. `span` is when the first and the last of the rounds
    were recorded. Of runs that were kept up until the device was hot all rates are the steady ones,
    and `burst_tokens_per_s` is that of the beginning of the first; None of all others.
    """

    workload: str
    tokens_per_s: Interval
    rounds: tuple[tuple[int, float], ...]
    ratio: Interval | None
    disturbed: bool = False
    span: tuple[str, str] = ("", "")
    burst_tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What an artifact's scores say; nats, shares and probabilities.

    All but `perplexity` is None without a reference. `kl_tail_share` is how much of the mean KL
    lies in what the compact reference only sampled.
    """

    perplexity: Estimate
    kl: Estimate | None = None
    kl_median: float | None = None
    kl_p99: float | None = None
    kl_max: float | None = None
    kl_tail_share: float | None = None
    top1_agreement: Estimate | None = None
    p_change_rms: Estimate | None = None
    p_change_mean: Estimate | None = None
    ln_ppl_ratio: Estimate | None = None
    scored_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRow:
    """One artifact in the table. What could not be had is Unavailable, with the reason.

    `label` is the level, with `+imatrix` where one was used, made unique by the file's name.
    `is_baseline` marks the row that ratios are taken to, `is_reference` the one whose distributions
    the others were held against. `rates` has every workload that was measured, `prefill` and
    `decode` are two of them. `need_bytes` is the memory needed at the target's context, as the
    verdict has it, `peak_bytes` the most that a measuring process held. `ttft_s` is how long
    `ttft_prompt_tokens` took to evaluate. `joules_per_token` are gross, of decoding.
    `same_answers` counts the answers that equal the reference's token by token.
    """

    label: str
    artifact: ArtifactRecord | None
    is_baseline: bool
    is_reference: bool
    bits_per_weight: float | None
    need_bytes: int | Unavailable
    peak_bytes: int | Unavailable
    prefill: Rate | Unavailable
    decode: Rate | Unavailable
    rates: tuple[Rate, ...]
    ttft_s: Interval | Unavailable
    ttft_prompt_tokens: int | None
    joules_per_token: Interval | Unavailable
    energy_basis: Basis | None
    quality: Quality | Unavailable
    verdict: Verdict | Unavailable
    same_answers: int | None
    answers: Answers | None
    pareto: bool
    failures: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Levels of one model on one table. `records` are what it was worked out from.

    `recommendation` is one sentence, `recommended` the row it names or None.
    """

    rows: tuple[ComparedRow, ...]
    target: Target
    memory_bytes: int | None
    text: TextRecord | None
    recommended: str | None
    recommendation: str
    notes: tuple[str, ...]
    records: tuple[SavedRecord, ...] = field(repr=False)

    def row(self, label: str) -> ComparedRow:
        """The row of that label. Raises KeyError."""
        for row in self.rows:
            if row.label == label:
                return row
        raise KeyError(label)

    def to_records(self) -> list[dict[str, FlatValue]]:
        """A flat dict for each row, the same names in each: what `pandas.DataFrame` takes.

        SI units, named in the keys; `_low` and `_high` are 95 % bounds, `_se` standard errors. A
        rate with a burst beside it is the steady one of a run that was kept up. None where there is
        no figure, with the reason in `unavailable`.
        """
        return [_flat(row, self.recommended) for row in self.rows]

    def __str__(self) -> str:
        """The table as plain text of 100 columns; `print` shows it."""
        from ..report.comparison import comparison_text

        return comparison_text(self)

    def __rich__(self) -> object:
        """The table for a terminal, as something that rich can show."""
        from ..report.comparison import render_comparison

        return render_comparison(self)

    def _repr_html_(self) -> str:
        """The table for a notebook."""
        from ..report.comparison import comparison_html

        return comparison_html(self)


def _flat(row: ComparedRow, recommended: str | None) -> dict[str, FlatValue]:
    artifact, quality, verdict = row.artifact, row.quality, row.verdict
    return {
        "label": row.label,
        "model": artifact.name if artifact else None,
        "file": artifact.file if artifact else None,
        "fingerprint": artifact.fingerprint if artifact else None,
        "format": artifact.format if artifact else None,
        "level": artifact.level if artifact else None,
        "imatrix": artifact.imatrix if artifact else None,
        "parameters": artifact.parameters if artifact else None,
        "size_bytes": artifact.size_bytes if artifact else None,
        "bits_per_weight": row.bits_per_weight,
        "baseline": row.is_baseline,
        "reference": row.is_reference,
        "need_bytes": _figure(row.need_bytes),
        "peak_bytes": _figure(row.peak_bytes),
        **_flat_rate("prefill", row.prefill),
        **_flat_rate("decode", row.decode),
        **_bounds("ttft_s", row.ttft_s),
        "ttft_prompt_tokens": row.ttft_prompt_tokens,
        **_bounds("joules_per_token", row.joules_per_token),
        "energy_basis": row.energy_basis.value if row.energy_basis else None,
        **_flat_quality(quality if isinstance(quality, Quality) else None),
        "verdict": verdict.kind.value if isinstance(verdict, Verdict) else None,
        "verdict_cause": verdict.cause if isinstance(verdict, Verdict) else None,
        "basis": verdict.basis.value if isinstance(verdict, Verdict) else None,
        "same_answers": row.same_answers,
        "pareto": row.pareto,
        "recommended": row.label == recommended,
        "unavailable": "; ".join(_reasons(row)) or None,
        "failures": "; ".join(row.failures) or None,
        "notes": "; ".join(row.notes) or None,
    }


def _figure(value: int | Unavailable) -> int | None:
    return None if isinstance(value, Unavailable) else value


def _bounds(name: str, found: Interval | Unavailable | None) -> dict[str, FlatValue]:
    known = found if isinstance(found, Interval) else None
    return {
        name: known.value if known else None,
        f"{name}_low": known.low if known else None,
        f"{name}_high": known.high if known else None,
    }


def _flat_rate(name: str, rate: Rate | Unavailable) -> dict[str, FlatValue]:
    known = rate if isinstance(rate, Rate) else None
    return {
        f"{name}_workload": known.workload if known else None,
        **_bounds(f"{name}_tokens_per_s", known.tokens_per_s if known else None),
        f"{name}_burst_tokens_per_s": known.burst_tokens_per_s if known else None,
        **_bounds(f"{name}_ratio", known.ratio if known else None),
    }


def _flat_quality(quality: Quality | None) -> dict[str, FlatValue]:
    flat: dict[str, FlatValue] = {}
    for name in ("perplexity", "kl", "top1_agreement", "p_change_rms", "p_change_mean",
                 "ln_ppl_ratio"):  # fmt: skip
        found: Estimate | None = getattr(quality, name) if quality else None
        flat[name] = found.value if found else None
        flat[f"{name}_se"] = found.standard_error if found else None
    for name in ("kl_median", "kl_p99", "kl_max", "kl_tail_share", "scored_tokens"):
        flat[name] = getattr(quality, name) if quality else None
    return flat


def _reasons(row: ComparedRow) -> Iterator[str]:
    for name in (
        "need_bytes", "prefill", "decode", "ttft_s", "joules_per_token", "quality", "verdict",
    ):  # fmt: skip
        found = getattr(row, name)
        if isinstance(found, Unavailable):
            yield f"{name}: {found.reason}"
