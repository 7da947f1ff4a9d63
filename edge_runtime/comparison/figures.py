"""What one level's records say: speeds, energy, memory, quality, and why something is missing.

A round is one child process; what it gives is the mean of its repetitions, or the steady rate of a
run that was kept up until the device was hot. Intervals are taken over rounds, because repetitions
within one process differ less than processes do; over repetitions only where there is but one
process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .. import statistics
from ..basis import Basis, Unavailable
from ..consumption import Consumption, consumption
from ..measurement import CellFailure, Measurement, Workload
from ..memory import Memory
from ..phase_energy import PhaseEnergy
from ..scores import LevelFailure
from ..statistics import Interval
from ..sustained import Sustained, sustained
from ..units import NS_PER_S
from ..verdict import Target, evidence_of
from .differences import in_turns, independent_ratio, paired_ratio, welch_ratio
from .levels import Failure, Level
from .quality_statistics import quality_of
from .rows import Quality, Rate

WIDENED = 2.0
"""How much wider the spread of a side is taken whose rounds were disturbed, as of any rate."""
Value = Callable[[Measurement], tuple[float, ...]]
"""The samples of one kind that a measurement holds."""


def decode_rates(measurement: Measurement) -> tuple[float, ...]:
    """Decode tokens/s of each repetition."""
    return measurement.decode_samples


def prefill_rates(measurement: Measurement) -> tuple[float, ...]:
    """Prefill tokens/s of each repetition."""
    return measurement.prefill_samples


def prefill_times(measurement: Measurement) -> tuple[float, ...]:
    """Seconds until the prompt's logits were there, of each repetition: the time to first token."""
    return tuple(
        (run.prefilled_ns - run.started_ns) / NS_PER_S
        for run in measurement.runs
        if run.prefilled_ns is not None and run.prefilled_ns > run.started_ns
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What a level's rounds say of one thing; `rounds` is empty where records are of no round.

    `values` are one for each round, or the repetitions of the only process there was. `span` is
    when the first and the last of the records were made. `kept_up` is the course of the first
    process where the rate was kept up until the device was hot: the values are then steady rates.
    """

    rounds: tuple[tuple[int, float], ...]
    values: tuple[float, ...]
    disturbed: bool
    span: tuple[str, str]
    kept_up: Sustained | None = None

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the mean, twice as wide when disturbed; None without samples."""
        if self.kept_up is not None and len(self.rounds) < 2:
            return self.kept_up.steady_tokens_per_s
        return statistics.rate_interval(self.values, disturbed=self.disturbed)

    def ratio_to(self, base: Samples) -> Interval | None:
        """The ratio to another's: by rounds where they were measured in turns, else of the means.

        None where no round has both, and where records are of no round.
        """
        if min(len(self.rounds), len(base.rounds)) > 1 and not in_turns(self.span, base.span):
            return self.unpaired_ratio_to(base)
        return paired_ratio(self.rounds, base.rounds)

    def unpaired_ratio_to(self, base: Samples) -> Interval:
        """The ratio of the means, each as uncertain as it is alone; both have samples."""
        one, other = self.interval, base.interval
        assert one is not None
        assert other is not None
        if self.kept_up is not None or base.kept_up is not None:
            return independent_ratio(one, other)
        return welch_ratio(
            self.values,
            base.values,
            widen_of=WIDENED if self.disturbed else 1.0,
            widen_to=WIDENED if base.disturbed else 1.0,
        )


def samples_of(level: Level, workload: str, value: Value) -> Samples:
    """The positive samples of a workload. Rounds count before a record that belongs to none."""
    found = [
        (record, samples)
        for record in level.speeds
        if record.workload.name == workload and (samples := _samples(record, value))
    ]
    in_rounds = sorted(
        ((record.round, record, samples) for record, samples in found if record.round is not None),
        key=lambda item: item[0],
    )
    means = tuple((number, statistics.mean(samples)) for number, _, samples in in_rounds)
    counted = [record for _, record, _ in in_rounds] or [record for record, _ in found[:1]]
    if len(means) > 1:
        values = tuple(mean for _, mean in means)
    else:
        values = next((samples for record, samples in found if record in counted), ())
    made = [record.created for record in counted]
    return Samples(
        rounds=means,
        values=values,
        disturbed=2 * sum(record.noise.disturbed for record in counted) >= max(len(counted), 1),
        span=(min(made, default=""), max(made, default="")),
        kept_up=_kept_up(counted[0], value) if counted else None,
    )


def _samples(record: Measurement, value: Value) -> tuple[float, ...]:
    """A record's positive samples; the steady rate alone of one that was kept up."""
    held = _kept_up(record, value)
    found = value(record) if held is None else (held.steady_tokens_per_s.value,)
    return tuple(sample for sample in found if sample > 0)


def _kept_up(record: Measurement, value: Value) -> Sustained | None:
    """The course of a rate that was kept up; None of other figures, and where none can be told."""
    if value not in (decode_rates, prefill_rates):
        return None
    found = sustained(record)
    phase = "decode" if value is decode_rates else "prefill"
    return found if isinstance(found, Sustained) and found.phase == phase else None


def rate_of(
    level: Level, workload: Workload | None, value: Value, baseline: Level | None
) -> Rate | Unavailable:
    """The rate of a workload, with its ratio to the baseline's; or why there is none."""
    if workload is None:
        return Unavailable(reason="no workload of this kind was measured")
    samples = samples_of(level, workload.name, value)
    interval = samples.interval
    if interval is None:
        return why_none(level, workload)
    ratio, kept_up = None, samples.kept_up
    if baseline is not None and baseline is not level:
        ratio = samples.ratio_to(samples_of(baseline, workload.name, value))
    return Rate(
        workload=workload.name,
        tokens_per_s=interval,
        rounds=samples.rounds,
        ratio=ratio,
        disturbed=samples.disturbed,
        span=samples.span,
        burst_tokens_per_s=None if kept_up is None else kept_up.burst_tokens_per_s,
    )


def why_none(level: Level, workload: Workload) -> Unavailable:
    """Why a level has no figure of a workload."""
    for failure in level.failures:
        if isinstance(failure, CellFailure) and failure.workload.name == workload.name:
            return unavailable(failure)
        if isinstance(failure, LevelFailure) and failure.task == "make":
            return unavailable(failure)
    return Unavailable(reason=f"{workload.name} was not measured")


def unavailable(failure: Failure) -> Unavailable:
    """A failure's words, as the reason of a missing figure."""
    reason = " ".join(part for part in (failure.fact, failure.cause) if part)
    return Unavailable(reason=reason.removesuffix("."), remedy=failure.way_out)


def joules_of(
    level: Level, workload: Workload | None
) -> tuple[Interval | Unavailable, Consumption | None]:
    """Gross joules per decoded token over the rounds that have them, and what they rest on.

    One round's own interval stands for itself, several are taken together as rates are; but how far
    an estimate is off, it is in every round. What they rest on is that of the least certain round.
    """
    if workload is None:
        return Unavailable(reason="nothing was decoded"), None
    reason: Unavailable | None = None
    phases: list[tuple[PhaseEnergy, Consumption]] = []
    for record in level.speeds:
        if record.workload.name == workload.name:
            phase, used = decode_energy(record)
            if isinstance(phase, Unavailable):
                reason = reason or phase
            elif used is not None:
                phases.append((phase, used))
    if not phases:
        return reason or why_none(level, workload), None
    each = [phase.gross_j_per_token for phase, _ in phases]
    estimated = [used for _, used in phases if used.basis is Basis.ESTIMATED]
    if estimated:
        low, value, high = (
            statistics.mean([getattr(one, end) for one in each]) for end in ("low", "value", "high")
        )
        return Interval(low=low, value=value, high=high), estimated[0]
    several = statistics.confidence_interval([one.value for one in each])
    return several or each[0], phases[0][1]


def decode_energy(
    record: Measurement,
) -> tuple[PhaseEnergy | Unavailable, Consumption | None]:
    """The energy of decoding in one record."""
    used = consumption(record)
    if isinstance(used, Unavailable):
        return used, None
    if used.decode is None:
        return Unavailable(reason=f"{record.workload.name} decodes nothing"), None
    return used.decode, used


def need_bytes(level: Level, target: Target) -> int | Unavailable:
    """The memory that a level needs at the target's context: the most of all its measurements."""
    needs = [
        evidence_of(record, target).memory.need_bytes
        for record in level.speeds
        if isinstance(record.memory, Memory)
    ]
    return max(needs) if needs else _why_unmeasured(level)


def peak_bytes(level: Level) -> int | Unavailable:
    """The most that any measuring process held."""
    peaks = [r.memory.peak_bytes for r in level.speeds if isinstance(r.memory, Memory)]
    return max(peaks) if peaks else _why_unmeasured(level)


def quality_figure(level: Level) -> Quality | Unavailable:
    """What its scores say; raises FormatError when they are damaged."""
    if level.scores is not None:
        return quality_of(level.scores)
    for failure in level.failures:
        if isinstance(failure, LevelFailure) and failure.task in {"score", "make"}:
            return unavailable(failure)
    return Unavailable(reason="it was not scored")


def failure_words(failure: Failure) -> str:
    """What failed and why, in one line."""
    if isinstance(failure, LevelFailure):
        what = {"make": "not made", "score": "not scored", "answer": "no answers"}[failure.task]
    elif failure.round is None:
        what = failure.workload.name
    else:
        what = f"{failure.workload.name}, round {failure.round + 1}"
    return " ".join(filter(None, (f"{what}: {failure.fact}", failure.cause, failure.way_out)))


def why_nothing(level: Level) -> Unavailable:
    """Why there is nothing of a level at all."""
    if level.failures:
        return unavailable(level.failures[0])
    return Unavailable(reason="nothing was measured")


def _why_unmeasured(level: Level) -> Unavailable:
    for record in level.speeds:
        if isinstance(record.memory, Unavailable):
            return record.memory
    return why_nothing(level)
