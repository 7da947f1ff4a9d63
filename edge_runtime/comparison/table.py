"""The rows of a comparison, worked out from its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..basis import Unavailable
from ..errors import UsageError
from ..measurement import Measurement, Workload
from ..saved import SavedRecord
from ..scores import Answers, Scores
from ..statistics import Interval, percentile
from ..units import NS_PER_S
from ..verdict import Evidence, MemoryFit, Target, Verdict, evidence_of, judge_evidence
from .differences import in_turns
from .figures import (
    decode_rates,
    failure_words,
    joules_of,
    need_bytes,
    peak_bytes,
    prefill_rates,
    prefill_times,
    quality_figure,
    rate_of,
    samples_of,
    why_none,
)
from .levels import Level, levels_of, reference_of
from .likeness import model_facts, refuse_unlike, refuse_unlike_runs, workloads_of
from .pareto import Point, pareto
from .recommendation import recommend
from .rows import ComparedRow, Comparison, Quality, Rate

_FLOATS = ("F32", "BF16", "F16")


def compare_records(
    records: Sequence[SavedRecord],
    *,
    target: Target | None = None,
    memory_bytes: int | None = None,
    baseline: str | None = None,
) -> Comparison:
    """The table of some records, rows in order of first appearance.

    `memory_bytes` is what the recommended level may need; None asks nothing. `baseline` is a row's
    label; by default the reference that scores were held against, else the first row of floats,
    else the first. Of several records of one thing the last counts. Records of unlike texts,
    workloads, options or hosts are never laid into one column: raises UsageError.
    """
    target = target or Target()
    levels = levels_of(records)
    refuse_unlike(levels)
    refuse_unlike_runs(records)
    reference = reference_of(levels)
    base = _baseline(levels, baseline, reference)
    builder = _Builder(levels, target, base, reference, workloads_of(records))
    rows = builder.rows()
    losses, by_perplexity = losses_of(levels, rows, reference)
    front = pareto(_points(rows, losses))
    rows = tuple(replace(row, pareto=row.label in front) for row in rows)
    advice = recommend(
        rows, losses, target=target, memory_bytes=memory_bytes, by_perplexity=by_perplexity
    )
    scored = next((level.scores for level in levels if level.scores is not None), None)
    return Comparison(
        rows=rows,
        target=target,
        memory_bytes=memory_bytes,
        text=scored.text if scored else None,
        recommended=advice.label,
        recommendation=advice.sentence,
        notes=tuple(_notes(levels, scored)),
        records=tuple(records),
    )


def _baseline(levels: Sequence[Level], asked: str | None, reference: str | None) -> Level | None:
    """The row that ratios are taken to. Raises UsageError when there is none of the asked name."""
    named = {level.label: level for level in levels}
    if asked is not None:
        if asked not in named:
            raise UsageError(
                f"There is no row {asked!r}.", way_out=f"Choose from: {', '.join(named)}."
            )
        return named[asked]
    if reference is not None:
        return named[reference]
    floats = (level for level in levels if level.artifact and level.artifact.level in _FLOATS)
    return next(floats, next((level for level in levels if level.artifact), None))


def losses_of(
    levels: Sequence[Level], rows: Sequence[ComparedRow], reference: str | None
) -> tuple[dict[str, tuple[float, ...]], bool]:
    """What each level loses at each token: its divergence; and whether perplexity stands for it.

    The reference loses nothing. Where no level was held against a reference, the negative
    log-likelihoods themselves are compared: of the same tokens, they tell the better model. One
    level alone has nothing to be compared with.
    """
    known = {row.label for row in rows if isinstance(row.quality, Quality)}
    scored = {level.label: level.scores for level in levels if level.label in known}
    diverging = {
        label: scores.divergence.kl.values()
        for label, scores in scored.items()
        if scores is not None and scores.divergence is not None
    }
    if not diverging:
        alone = len(scored) < 2
        kept = {} if alone else {label: s.nll.values() for label, s in scored.items() if s}
        return kept, True
    if reference is not None and reference not in diverging:
        diverging[reference] = (0.0,) * len(next(iter(diverging.values())))
    return diverging, False


def _points(rows: Sequence[ComparedRow], losses: dict[str, tuple[float, ...]]) -> tuple[Point, ...]:
    return tuple(
        Point(
            label=row.label,
            losses=losses[row.label],
            rate=row.decode,
            need_bytes=row.need_bytes,
        )
        for row in rows
        if row.label in losses and isinstance(row.decode, Rate) and isinstance(row.need_bytes, int)
    )


class _Builder:
    """Makes the rows of levels that were found to be alike."""

    def __init__(
        self,
        levels: Sequence[Level],
        target: Target,
        baseline: Level | None,
        reference: str | None,
        workloads: Sequence[Workload],
    ) -> None:
        self._levels = levels
        self._target = target
        self._baseline = baseline
        self._reference = reference
        self._workloads = workloads
        self._prefill = self._usual(prefill=True)
        self._decode = self._usual(prefill=False)
        self._asked = self._asked_answers()

    def rows(self) -> tuple[ComparedRow, ...]:
        """A row for each level; which of them nothing beats is not known yet."""
        evidence = {
            level.label: found
            for level in self._levels
            if (found := self._evidence(level)) is not None
        }
        return tuple(self._row(level, evidence) for level in self._levels)

    def _usual(self, *, prefill: bool) -> Workload | None:
        """The workload of a column: of one phase rather than of both, and that most levels have."""

        def fitness(workload: Workload) -> tuple[bool, bool, int]:
            here = sum(
                any(record.workload.name == workload.name for record in level.speeds)
                for level in self._levels
            )
            other = workload.generate_tokens if prefill else workload.prompt_tokens
            return not other, not (prefill and workload.depth_tokens), here

        kinds = [w for w in self._workloads if (w.prompt_tokens if prefill else w.generate_tokens)]
        return max(kinds, key=fitness, default=None)

    def _asked_answers(self) -> Answers | None:
        """The answers that others are laid beside: the reference's, else the first there are."""
        first = self._reference or (self._baseline.label if self._baseline else None)
        ordered = sorted(self._levels, key=lambda level: level.label != first)
        return next((level.answers for level in ordered if level.answers is not None), None)

    def _row(self, level: Level, evidence: dict[str, Evidence]) -> ComparedRow:
        artifact = level.artifact
        verdict = self._verdict(level, evidence)
        answers, same = self._answers(level)
        joules, used = joules_of(level, self._decode)
        return ComparedRow(
            label=level.label,
            artifact=artifact,
            is_baseline=level is self._baseline,
            is_reference=level.label == self._reference,
            bits_per_weight=(
                8 * artifact.size_bytes / artifact.parameters
                if artifact and artifact.parameters > 0
                else None
            ),
            need_bytes=need_bytes(level, self._target),
            peak_bytes=peak_bytes(level),
            prefill=rate_of(level, self._prefill, prefill_rates, self._baseline),
            decode=rate_of(level, self._decode, decode_rates, self._baseline),
            rates=self._rates(level),
            ttft_s=self._ttft(level),
            ttft_prompt_tokens=self._prefill.prompt_tokens if self._prefill else None,
            joules_per_token=joules,
            energy_basis=None if used is None else used.basis,
            quality=quality_figure(level),
            verdict=verdict,
            same_answers=same,
            answers=answers,
            pareto=False,
            failures=tuple(map(failure_words, level.failures)),
            notes=tuple(self._row_notes(level)),
        )

    def _rates(self, level: Level) -> tuple[Rate, ...]:
        found = (
            rate_of(level, w, decode_rates if w.generate_tokens else prefill_rates, self._baseline)
            for w in self._workloads
        )
        return tuple(rate for rate in found if isinstance(rate, Rate))

    def _ttft(self, level: Level) -> Interval | Unavailable:
        if self._prefill is None:
            return Unavailable(reason="no prompt was evaluated")
        rate = rate_of(level, self._prefill, prefill_rates, None)
        if isinstance(rate, Rate) and rate.burst_tokens_per_s is not None:
            return rate.tokens_per_s.inverse().scaled(self._prefill.prompt_tokens)
        found = samples_of(level, self._prefill.name, prefill_times).interval
        return found or why_none(level, self._prefill)

    def _evidence(self, level: Level) -> Evidence | None:
        """All rounds of the decode workload as one piece of evidence, the memory of all else."""
        found = [r for r in level.speeds if self._decode and r.workload.name == self._decode.name]
        rate = rate_of(level, self._decode, decode_rates, None)
        if not found or isinstance(rate, Unavailable):
            return None
        each = [evidence_of(record, self._target) for record in found]
        memory = _most_needed([evidence_of(record, self._target) for record in level.speeds])
        if len(found) == 1:
            return replace(each[0], memory=memory)
        prefill = rate_of(level, self._prefill, prefill_rates, None)
        steps = [step for record in found for step in record.step_samples_ns]
        return replace(
            each[0],
            decode_tokens_per_s=rate.tokens_per_s,
            prefill_tokens_per_s=prefill.tokens_per_s if isinstance(prefill, Rate) else None,
            memory=memory,
            itl_p90_s=percentile(steps, 90) / NS_PER_S,
            disturbances=_disturbed(found) if rate.disturbed else (),
            paging=next((evidence.paging for evidence in each if evidence.paging), None),
        )

    def _verdict(self, level: Level, evidence: dict[str, Evidence]) -> Verdict | Unavailable:
        if level.label not in evidence:
            if self._decode is None:
                return Unavailable(reason="no decoding was measured")
            return why_none(level, self._decode)
        others = [found for label, found in evidence.items() if label != level.label]
        return judge_evidence(evidence[level.label], self._target, alternatives=others)

    def _answers(self, level: Level) -> tuple[Answers | None, int | None]:
        """The level's answers where they are to the same prompts, and how many are the same."""
        found, asked = level.answers, self._asked
        if found is None or asked is None or not _same_prompts(found, asked):
            return None, None
        if found is asked:
            return found, None
        pairs = zip(found.answers, asked.answers, strict=True)
        return found, sum(a.tokens == b.tokens and a.finish == b.finish for a, b in pairs)

    def _is_apart(self, level: Level) -> bool:
        """Whether a ratio to the baseline is of rounds that were not measured in turns."""
        if self._baseline is None:
            return False
        base = {rate.workload: rate for rate in self._rates(self._baseline)}
        pairs = [(rate, base[rate.workload]) for rate in self._rates(level) if rate.ratio]
        return any(
            min(len(of.rounds), len(to.rounds)) > 1 and not in_turns(of.span, to.span)
            for of, to in pairs
        )

    def _row_notes(self, level: Level) -> list[str]:
        found = dict.fromkeys(note for record in level.speeds for note in record.notes)
        if level.scores is not None:
            found |= dict.fromkeys(level.scores.notes)
        found |= dict.fromkeys(f"disturbed: {words}" for words in _disturbed(level.speeds))
        if self._is_apart(level):
            assert self._baseline is not None
            found[
                f"not measured in turns with {self._baseline.label}: the ratio is that of the"
                " means, and has the machine's drift in it"
            ] = None
        if level.answers is not None and self._asked is not None and not _same_prompts(
            level.answers, self._asked
        ):  # fmt: skip
            found["its answers are to other prompts, and left out"] = None
        return list(found)


def _most_needed(evidence: Sequence[Evidence]) -> MemoryFit:
    """The most that any measurement needs, of the least that was free at any of them."""
    fits = [one.memory for one in evidence]
    free = [fit.available_bytes for fit in fits if fit.available_bytes is not None]
    most = max(fits, key=lambda fit: fit.need_bytes)
    return replace(most, available_bytes=min(free, default=None))


def _disturbed(records: Sequence[Measurement]) -> tuple[str, ...]:
    """What was seen beside the measurements, in one phrase: each has its own figures of it."""
    flagged = [record for record in records if record.noise.disturbed]
    if not flagged:
        return ()
    seen = flagged[0].noise.flags[0]
    if len(records) == 1:
        return (seen,)
    return (f"{seen} (so in {len(flagged)} of {len(records)} measurements)",)


def _same_prompts(one: Answers, other: Answers) -> bool:
    return (
        one.prompts_sha256 == other.prompts_sha256
        and one.most_tokens == other.most_tokens
        and len(one.answers) == len(other.answers)
    )


def _notes(levels: Sequence[Level], scored: Scores | None) -> list[str]:
    notes = []
    if scored is not None and scored.text.shipped:
        notes.append(
            f"quality is of the small text that ships ({scored.text.scored_tokens:,} tokens"
            " scored): judge a model on text of your own use"
        )
    models: dict[str, list[str]] = {}
    for level in levels:
        if level.artifact is not None:
            named = str(model_facts(level.artifact)[0].value)
            models.setdefault(named, []).append(level.label)
    if len(models) > 1:
        said = "; ".join(f"{', '.join(labels)}: {named}" for named, labels in models.items())
        notes.append(
            f"these are levels of different models ({said}): a ratio or a loss against another"
            " model is not what quantizing did"
        )
    engines = dict.fromkeys(
        f"{record.engine.name} {record.engine.version}"
        for level in levels
        for record in level.speeds
    )
    names = [engine.rpartition(" ")[0] for engine in engines]
    if len(set(names)) < len(names):
        notes.append(f"not all was run by one version of its engine: {', '.join(engines)}")
    return notes
