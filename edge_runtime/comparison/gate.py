"""A gate for continuous integration: a new file of records held against a baseline by rules.

A rule fails a row when the 95 % interval lies wholly beyond its threshold. When only the estimate
does, the noise does not resolve it: that is a warning, or a failure if the gate is strict. Files
that were not made alike are refused, never compared.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .. import statistics
from ..basis import Unavailable
from ..errors import UsageError
from ..measurement import Workload
from ..saved import SavedRecord
from ..statistics import Interval
from ..verdict import Target
from .gate_metrics import Figure, Metric, metric_of
from .levels import Level, levels_of, reference_of
from .likeness import (
    FORMATS,
    Fact,
    cache_facts,
    model_facts,
    refuse_unlike,
    refuse_unlike_runs,
    require_alike,
    require_alike_speeds,
    text_facts,
    workloads_of,
)
from .rule import METRICS, Rule

SHARED_DRIFT_SPREAD = 0.5
"""Changes of all rows that lie within this share of their mean look like the machine's."""
_OLD, _NEW = "the baseline", "the new file"


class CheckKind(enum.StrEnum):
    """What came of one rule for one row."""

    PASSED = "passed"
    FAILED = "failed"
    UNRESOLVED = "not resolved by the noise"
    MISSING = "could not be compared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One rule held against one row.

    `found` is what was held against the threshold, at 95 %: the value, or for a relative rule the
    change as a share, -0.05 for 5 % less. `old` and `new` are the values, in the rule's unit; None
    where there is none. `reason` says why nothing could be compared.
    """

    rule: Rule
    label: str
    kind: CheckKind
    old: float | None
    new: float | None
    found: Interval | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What came of all rules. `notes` say what was left out, and what else differs."""

    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    def of_kind(self, kind: CheckKind) -> tuple[Check, ...]:
        """The checks that ended so, in order of rules and rows."""
        return tuple(check for check in self.checks if check.kind is kind)

    def exit_code(self, *, strict: bool = False) -> int:
        """0 passed, 1 a rule failed, 4 a row could not be compared. Strict: unresolved is 1."""
        failed = self.of_kind(CheckKind.FAILED)
        if failed or (strict and self.of_kind(CheckKind.UNRESOLVED)):
            return 1
        return 4 if self.of_kind(CheckKind.MISSING) else 0


def run_gate(
    old: Sequence[SavedRecord],
    new: Sequence[SavedRecord],
    rules: Sequence[Rule],
    *,
    target: Target | None = None,
) -> Gate:
    """Holds new records against a baseline's.

    `target` says at which context memory is needed. Raises UsageError without rules, for a rule
    about nothing that either file has, when the files have no row in common, and when what a rule
    is about was measured on unlike machines, in unlike ways, or scored on unlike texts.
    """
    if not rules:
        raise UsageError("A gate needs a rule.", way_out='Give one: --fail-if "tg128 < -5%"')
    sides = _Sides(levels_of(old), levels_of(new))
    for records in (old, new):
        refuse_unlike_runs(records)
    workloads = workloads_of((*old, *new))
    checks: list[Check] = []
    notes = list(_notes(sides))
    for rule in rules:
        metric = metric_of(rule.metric, _shared(workloads, old), target or Target())
        if metric is None:
            raise _unknown(rule, workloads)
        if metric.of_speed:
            sides.require_alike_speeds()
        if metric.of_quality:
            sides.require_alike_scores()
        found = tuple(_checks(rule, metric, sides))
        if not found:
            raise _about_nothing(rule, metric, sides)
        checks += found
        notes += _drift(rule, found)
    notes += _left_out(checks, rules, sides)
    return Gate(checks=tuple(checks), notes=tuple(notes))


class _Sides:
    """The levels of both files, by label."""

    def __init__(self, old: Sequence[Level], new: Sequence[Level]) -> None:
        for levels, name in ((old, _OLD), (new, _NEW)):
            if not levels:
                raise UsageError(f"There are no records to compare in {name}.")
            refuse_unlike(levels)
        self.old = {level.label: level for level in old}
        self.new = {level.label: level for level in new}
        self.reference = reference_of(new)
        if not self.old.keys() & self.new.keys():
            raise UsageError(
                "The two files have no row in common.",
                cause=f"{', '.join(self.old)} in {_OLD}; {', '.join(self.new)} in {_NEW}.",
            )
        for label, level in self.new.items():
            _require_one_model(label, level, self.old.get(label))

    def require_alike_speeds(self) -> None:
        """Raises UsageError unless both were measured on one machine, in one way."""
        firsts = [
            (name, level.speeds[0])
            for name, levels in ((_OLD, self.old), (_NEW, self.new))
            for level in levels.values()
            if level.speeds
        ]
        require_alike_speeds(firsts)

    def require_alike_scores(self) -> None:
        """Raises UsageError unless both were scored on one text, and against one kind of level."""
        scored = [
            (name, level.scores)
            for name, levels in ((_OLD, self.old), (_NEW, self.new))
            for level in levels.values()
            if level.scores is not None
        ]
        require_alike("scored on different texts", [(n, text_facts(s)) for n, s in scored])
        for format_ in FORMATS:
            require_alike(
                "scored in different ways",
                [(n, cache_facts(s)) for n, s in scored if s.artifact.format == format_],
            )
        require_alike(
            "held against references of different levels",
            [
                (name, (Fact(name="reference", value=s.reference.artifact.level),))
                for name, s in scored
                if s.reference is not None
            ],
        )


def _require_one_model(label: str, new: Level, old: Level | None) -> None:
    """Raises UsageError when a label stands for two models. A level may have been made anew."""
    if old is None or old.artifact is None or new.artifact is None:
        return
    sides = [(_OLD, model_facts(old.artifact)), (_NEW, model_facts(new.artifact))]
    require_alike(f"called {label}, but are not of one model", sides)


def _shared(workloads: Sequence[Workload], old: Sequence[SavedRecord]) -> tuple[Workload, ...]:
    """All workloads, those first that the baseline has."""
    before = {workload.name for workload in workloads_of(old)}
    return tuple(sorted(workloads, key=lambda workload: workload.name not in before))


def _checks(rule: Rule, metric: Metric, sides: _Sides) -> Iterator[Check]:
    for label, new in sides.new.items():
        if rule.metric in _AGAINST_REFERENCE and label == sides.reference:
            continue
        old = sides.old.get(label)
        value = metric.value(new)
        before = metric.value(old) if old is not None else None
        if isinstance(value, Unavailable):
            # What the baseline has not either has not been lost since.
            if isinstance(before, Interval) or (old is None and not rule.relative):
                yield Check(
                    rule=rule, label=label, kind=CheckKind.MISSING, old=_value(before), new=None,
                    found=None, reason=value.reason,
                )  # fmt: skip
            continue
        found: Figure | None = value
        if rule.relative:
            found = _change(metric, new, old) if isinstance(before, Interval) and old else None
        if isinstance(found, Unavailable):
            yield Check(
                rule=rule, label=label, kind=CheckKind.MISSING, old=_value(before),
                new=value.value, found=None, reason=found.reason,
            )  # fmt: skip
        elif found is not None:
            yield Check(
                rule=rule, label=label, kind=_kind(rule, found), old=_value(before),
                new=value.value, found=found,
            )  # fmt: skip


_AGAINST_REFERENCE = {"kl", "kl_p99", "top1"}


def _change(metric: Metric, new: Level, old: Level) -> Figure:
    """The change as a share of the old value."""
    ratio = metric.change(new, old)
    if isinstance(ratio, Unavailable):
        return ratio
    return Interval(low=ratio.low - 1, value=ratio.value - 1, high=ratio.high - 1)


def _value(figure: Figure | None) -> float | None:
    return figure.value if isinstance(figure, Interval) else None


def _kind(rule: Rule, found: Interval) -> CheckKind:
    if rule.beyond(found.low) and rule.beyond(found.high):
        return CheckKind.FAILED
    return CheckKind.UNRESOLVED if rule.beyond(found.value) else CheckKind.PASSED


def _unknown(rule: Rule, workloads: Sequence[Workload]) -> UsageError:
    names = ", ".join((*METRICS, *(workload.name for workload in workloads)))
    return UsageError(
        f"{rule.text!r}: there is no metric {rule.metric!r} here.",
        way_out=f"Choose from: {names}.",
    )


def _about_nothing(rule: Rule, metric: Metric, sides: _Sides) -> UsageError:
    """A rule that was held against nothing must not look as if it had passed."""
    for level in sides.new.values():
        value = metric.value(level)
        if isinstance(value, Unavailable) and level.label != sides.reference:
            return UsageError(
                f"{rule.text!r} can be held against no row.",
                cause=f"{level.label}: {value.reason}.",
            )
    return UsageError(
        f"{rule.text!r} can be held against no row.",
        cause="No row has it in both files.",
        way_out="Make the baseline anew, or state a value instead of a change.",
    )


def _notes(sides: _Sides) -> Iterator[str]:
    for label in sides.old:
        if label not in sides.new:
            yield f"{label} is in the baseline only"
    for label in sides.new:
        if label not in sides.old:
            yield f"{label} is in the new file only: changes are not known"
    for levels, name in ((sides.old, _OLD), (sides.new, _NEW)):
        speeds = [record for level in levels.values() for record in level.speeds]
        if speeds and len({record.round for record in speeds}) == 1:
            yield f"{name} has one process for each speed: how far processes differ is not known"
    before, now = (_engines(levels.values()) for levels in (sides.old, sides.new))
    for name, versions in before.items():
        if set(versions) != set(now.get(name, versions)):
            yield f"{name}: {' and '.join(versions)} before, {' and '.join(now[name])} now"
    references = [_reference(levels.values()) for levels in (sides.old, sides.new)]
    if all(references) and references[0] != references[1]:
        yield "the reference was made anew: divergence is from another file than before"


def _left_out(checks: Sequence[Check], rules: Sequence[Rule], sides: _Sides) -> Iterator[str]:
    held = {(check.label, check.rule) for check in checks}
    for label in sides.new:
        metrics = dict.fromkeys(
            rule.metric
            for rule in rules
            if label in sides.old
            and (label, rule) not in held
            and not (rule.metric in _AGAINST_REFERENCE and label == sides.reference)
        )
        if metrics:
            yield f"{label} was left out: the baseline has no {', '.join(metrics)} of it"


def _engines(levels: Iterable[Level]) -> dict[str, tuple[str, ...]]:
    """The versions of each engine that ran."""
    found: dict[str, dict[str, None]] = {}
    for level in levels:
        for record in (*level.speeds, level.scores):
            if record is not None:
                found.setdefault(record.engine.name, {})[record.engine.version] = None
    return {name: tuple(versions) for name, versions in found.items()}


def _reference(levels: Iterable[Level]) -> str | None:
    references = (level.scores.reference for level in levels if level.scores is not None)
    return next((found.artifact.fingerprint for found in references if found is not None), None)


def _drift(rule: Rule, checks: Sequence[Check]) -> Iterator[str]:
    """Says so when all rows changed alike: one machine may be slower than another day."""
    changes = [c.found for c in checks if c.found is not None]
    if not rule.relative or rule.unit not in {"tok/s", "s"} or len(changes) < 3:
        return
    if not (all(c.high < 0 for c in changes) or all(c.low > 0 for c in changes)):
        return
    logs = [math.log(max(1 + c.value, 1e-9)) for c in changes]
    if max(logs) - min(logs) <= SHARED_DRIFT_SPREAD * abs(statistics.mean(logs)):
        low, high = (math.expm1(f(logs)) for f in (min, max))
        yield (
            f"{rule.metric} changed alike in all rows ({low:+.1%} to {high:+.1%}): that may be the"
            " machine; measure the baseline again beside the new one"
        )
