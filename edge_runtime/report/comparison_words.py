"""What stands around the table of a comparison: the verdict, the marks, what failed, and whence.

Sentences of one line each, safe to show, for every format alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..basis import Basis, Unavailable
from ..comparison import Comparison, Rate
from ..latency import LatencyMeasurement
from ..measurement import Measurement
from ..scores import Scores
from ..units import format_bytes, format_count, format_rate
from .level_columns import PARETO, RECOMMENDED, UNSURE
from .plain import plain

_MOST_FLAGS = 2


def sentence(comparison: Comparison) -> str:
    """The recommendation, with its full stop."""
    return _stopped(plain(comparison.recommendation))


def legend(comparison: Comparison) -> str:
    """What the marks stand for, those that are there."""
    words = []
    if comparison.recommended is not None:
        words.append(f"{RECOMMENDED} recommended")
    if any(row.pareto for row in comparison.rows):
        words.append(
            f"{PARETO} Pareto-optimal: no other is better in loss, speed or memory without being"
            " worse in another"
        )
    rates = [rate for row in comparison.rows for rate in row.rates]
    # Of one round alone no interval is shown.
    shown = [rate.ratio for rate in rates]
    shown += [rate.tokens_per_s for rate in rates if len(rate.rounds) != 1]
    # Beyond its own value half an interval is no figure to read; bounds, where there is room, are.
    if any(interval is not None and interval.relative_half_width > 1 for interval in shown):
        words.append(f"{UNSURE} too noisy to say")
    return "; ".join(words)


def failures(comparison: Comparison) -> list[tuple[str, str]]:
    """What failed and why, each with its row's label; what failed alike several times once."""
    return [
        (plain(row.label), plain(words))
        for row in comparison.rows
        for words in dict.fromkeys(row.failures)
    ]


def provenance(comparison: Comparison) -> list[str]:
    """How the numbers came about: the model, the machine, the rounds, the text, what to mind."""
    records = comparison.records
    lines = [_model(comparison)]
    measured = next((r for r in records if isinstance(r, Measurement)), None)
    if measured is not None:
        lines += [_machine(comparison, measured), _speed(comparison), _kept_up(comparison)]
    lines += _energy(comparison)
    if comparison.text is not None:
        lines.append(_quality(comparison))
    lines += _disturbances(comparison)
    lines += [as_sentence(note) for note in comparison.notes]
    lines += _row_notes(comparison)
    return [line for line in lines if line]


def _model(comparison: Comparison) -> str:
    found = next((row.artifact for row in comparison.rows if row.artifact is not None), None)
    if found is None:
        return ""
    return (
        f"Model: {plain(found.name)}, {plain(found.architecture)},"
        f" {format_count(found.parameters)} parameters."
    )


def _machine(comparison: Comparison, first: Measurement) -> str:
    host = first.host
    engines = dict.fromkeys(
        f"{record.engine.name} {record.engine.version}, {record.options.threads} threads"
        for record in comparison.records
        if isinstance(record, Measurement)
    )
    words = f"Machine: {plain(host.cpu)}, {host.cores_usable} usable cores; "
    if first.emulated is not None:
        words += f"emulated: {plain(first.emulated.means)}; "
    return f"{words}{plain('; '.join(engines))}."


def _speed(comparison: Comparison) -> str:
    rounds = [len(rate.rounds) for row in comparison.rows for rate in row.rates]
    base = next((row.label for row in comparison.rows if row.is_baseline), None)
    if not any(rounds):
        return "Speed: tokens/s ± half the 95 % interval over repetitions."
    least, most = min(filter(None, rounds)), max(rounds)
    count = f"{most} rounds" if least == most else f"{least} to {most} rounds"
    words = (
        f"Speed: tokens/s over {'1 round' if most == 1 else count}, in each of which every level"
        " ran in a fresh process; ± half the 95 % interval."
    )
    if base is not None:
        words += f" vs {plain(base)}: the ratio, paired by round."
    prompt = next((r.ttft_prompt_tokens for r in comparison.rows if r.ttft_prompt_tokens), None)
    if prompt is not None:
        words += f" TTFT: until a prompt of {prompt:,} tokens was evaluated."
    return words


def _kept_up(comparison: Comparison) -> str:
    """What a steady rate is, and at which one each level began; nothing where there is none."""
    began = {
        plain(row.label): rate.burst_tokens_per_s
        for row in comparison.rows
        for rate in row.rates
        if rate.burst_tokens_per_s is not None
    }
    if not began:
        return ""
    said = ", ".join(f"{label} {format_rate(burst)}" for label, burst in began.items())
    return (
        "Steady: the rate of the last third of a run that was kept up until the device was hot;"
        f" tokens/s in the beginning: {said}."
    )


def _energy(comparison: Comparison) -> list[str]:
    """Why there is no energy, once for all rows it is true of; and of which rows it is a guess."""
    reasons = dict.fromkeys(
        row.joules_per_token.reason
        for row in comparison.rows
        if isinstance(row.decode, Rate) and isinstance(row.joules_per_token, Unavailable)
    )
    lines = [f"J/token: {plain(reason)}." for reason in reasons]
    guessed = [plain(r.label) for r in comparison.rows if r.energy_basis is Basis.ESTIMATED]
    if guessed:
        lines.append(f"J/token of {', '.join(guessed)}: estimated, not measured.")
    return lines


def _disturbances(comparison: Comparison) -> list[str]:
    """What disturbed the measurements, once for all: how many of them, and by what most often."""
    measured = [r for r in comparison.records if isinstance(r, Measurement)]
    disturbed = [r for r in measured if r.noise.disturbed]
    if not disturbed:
        return []
    flags = common_flags(disturbed)
    said = "; ".join(plain(flag) for _, flag in flags[:_MOST_FLAGS])
    more = f"; and {len(flags) - _MOST_FLAGS} more" if len(flags) > _MOST_FLAGS else ""
    words = f"Disturbed: {len(disturbed)} of {len(measured)} measurements (such as: {said}{more})."
    return [f"{words} Where it was half of a row's rounds, its intervals are twice as wide."]


def common_flags(records: Iterable[Measurement | LatencyMeasurement]) -> list[tuple[int, str]]:
    """How often each kind of disturbance was seen, the most frequent first, with an example."""
    flags = [flag for record in records for flag in set(record.noise.flags)]
    counts = Counter(_kind(flag) for flag in flags)
    examples = {_kind(flag): flag for flag in reversed(flags)}
    return [(count, examples[kind]) for kind, count in counts.most_common()]


def _kind(flag: str) -> str:
    """A flag without its numbers: the same disturbance twice."""
    return "".join(char for char in flag if not char.isdigit() and char not in ".,%")


def _row_notes(comparison: Comparison) -> list[str]:
    """What there is to mind of rows; what is said of several, once."""
    of: dict[str, list[str]] = {}
    for row in comparison.rows:
        for note in row.notes:
            if not note.startswith("disturbed: "):
                of.setdefault(plain(note), []).append(plain(row.label))
    return [f"{', '.join(labels)}: {note}" for note, labels in of.items()]


def _quality(comparison: Comparison) -> str:
    text = comparison.text
    assert text is not None
    if text.kind == "text":
        where = (
            f"{text.scored_tokens:,} tokens of {plain(text.name)} in {text.passages:,} passages of"
            f" {text.context_tokens:,}, the second half of each, as llama-perplexity does"
        )
    else:
        where = f"{text.scored_tokens:,} tokens of the answers to {text.passages:,} prompts"
    words = f"Quality: {where}; ± one standard error."
    kept = next(
        (r.reference for r in comparison.records if isinstance(r, Scores) and r.reference), None
    )
    if kept is not None:
        label = next(
            (row.label for row in comparison.rows if row.is_reference), kept.artifact.level
        )
        how = (
            "all of each distribution kept"
            if kept.exact
            else f"of each distribution the {kept.top:,} likeliest of {kept.vocabulary_tokens:,}"
            f" tokens kept and {kept.drawn:,} of the others drawn"
        )
        words += (
            f" KL: from {plain(label)}, nats for a token; {how} ({format_bytes(kept.size_bytes)})."
        )
    return words


def as_sentence(words: str) -> str:
    """Words of a record, safe to show, from a capital to a full stop."""
    shown = plain(words)
    return _stopped(shown[:1].upper() + shown[1:])


def _stopped(words: str) -> str:
    return words if words.endswith((".", "!", "?")) else f"{words}."
