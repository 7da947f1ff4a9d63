"""The validation as Markdown tables, from the scores alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edge_runtime.statistics import Interval

from .document import AGAINST, Goal, Phase
from .scores import Accuracy, Flips, Group, Miss

OURS = "projection"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def groups_table(groups: Sequence[Group]) -> str:
    """One line per group: errors over rows and over devices, coverage, verdicts flipped."""
    flipped = any(group.flips for group in groups)
    header = [
        "rows of", "rows", "devices", "median error", "mean", "within 25 %", "within 2 x",
        "by device: median", "within 25 %", "covered, rows", "devices", "width",
    ]  # fmt: skip
    return markdown(
        [*header, *(["flips", "of decided", "BORDERLINE"] if flipped else [])],
        [
            [
                group.name,
                *_counts(group.accuracy),
                *_errors(group.accuracy),
                *_device_errors(group.accuracy),
                percent(group.coverage.rows),
                percent(group.coverage.devices),
                f"{group.coverage.median_width:.1f} x",
                *(_flips(group.flips) if flipped else []),
            ]
            for group in groups
        ],
    )


def backends_table(groups: Sequence[Group]) -> str:
    """One line per class and backend: errors, coverage, flips, the rivals' median errors.

    A rival that has no rate for all rows of a group has no figure there.
    """
    flipped = any(group.flips for group in groups)
    rivals = dict.fromkeys(rival.name for group in groups for rival in group.rivals)
    header = ["class and backend", "rows", "devices", "median error", "mean", "within 25 %"]
    header += ["median ratio", "covered", *(["flips", "BORDERLINE"] if flipped else [])]
    return markdown(
        [*header, *(f"{name}: median error" for name in rivals)],
        [
            [
                group.name,
                *_counts(group.accuracy),
                *_errors(group.accuracy)[:3],
                f"{group.accuracy.median_ratio:.2f}",
                percent(group.coverage.rows),
                *([_flips(group.flips)[0], _flips(group.flips)[2]] if flipped else []),
                *(_rival_error(group, name) for name in rivals),
            ]
            for group in groups
        ],
    )


def _rival_error(group: Group, name: str) -> str:
    for rival in group.rivals:
        if rival.name == name and rival.accuracy.rows == group.accuracy.rows:
            return percent(rival.accuracy.median_error)
    return ""


def rivals_table(groups: Sequence[Group]) -> str:
    """For each group the projection and its rivals, each pair on the very same rows."""
    lines = []
    for group in groups:
        for rival in group.rivals:
            alone = rival.accuracy.rows == group.accuracy.rows
            lines.append([group.name, rival.name, *_against(rival.accuracy, rival.flips)])
            if not alone:
                lines.append([group.name, f"{OURS}, those rows", *_against(rival.ours, None)])
        lines.append([group.name, f"**{OURS}**", *_against(group.accuracy, group.flips)])
    return markdown(
        [
            "rows of", "method", "rows", "devices", "median error", "mean", "within 25 %",
            "within 2 x", "by device: median", "within 25 %", "median ratio", "flips",
        ],
        lines,
    )  # fmt: skip


def worst_table(misses: Sequence[Miss]) -> str:
    """The groups of rows that were missed furthest, the row in the middle of each, and remarks."""
    return markdown(
        [
            "device",
            "reached by",
            "rows",
            "ratio",
            "model, level",
            "projected",
            "measured",
            "remarks",
        ],
        [
            [
                miss.case.device,
                f"{miss.case.path} {miss.case.architecture}",
                str(miss.rows),
                f"{miss.median_ratio:.2f}",
                f"{miss.case.model} {miss.case.level}".strip(),
                _interval(miss.case.projected),
                _rate(miss.case.measured),
                "; ".join(miss.case.remarks),
            ]
            for miss in misses
        ],
    )


def percent(share: float) -> str:
    """A share as percent: one digit below ten."""
    return f"{100 * share:.1f} %" if abs(share) < 0.0995 else f"{100 * share:.0f} %"


def _interval(rate: Interval) -> str:
    return f"{_rate(rate.value)} ({_rate(rate.low)} to {_rate(rate.high)})"


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _counts(found: Accuracy) -> list[str]:
    return [str(found.rows), str(found.devices)]


def _errors(found: Accuracy) -> list[str]:
    return [
        percent(found.median_error),
        percent(found.mean_error),
        percent(found.within_quarter),
        percent(found.within_twice),
    ]


def _device_errors(found: Accuracy) -> list[str]:
    return [percent(found.device_median_error), percent(found.device_within_quarter)]


def _flips(found: Flips | None) -> list[str]:
    if found is None:
        return ["", "", ""]
    return [
        f"{found.too_good} + {found.too_bad} ({percent(found.share)})",
        percent(found.share_of_decided),
        percent(found.borderline),
    ]


def _against(found: Accuracy, flips: Flips | None) -> list[str]:
    return [
        *_counts(found),
        *_errors(found),
        *_device_errors(found),
        f"{found.median_ratio:.2f}",
        percent(flips.share) if flips else "",
    ]


def validation(
    goals: Sequence[Goal], phases: Mapping[str, Phase], calibrated: Mapping[str, Phase]
) -> str:
    """The whole validation: goals, then per phase totals, backends, rivals and worst misses."""
    parts = []
    if goals:
        parts += ["## Goals", goals_table(goals)]
    for name, phase in phases.items():
        parts += [
            f"## {name.capitalize()}",
            groups_table(phase.totals),
            f"### {name.capitalize()} by class and backend",
            backends_table(phase.backends),
            f"### {name.capitalize()} against other methods, same rows",
            rivals_table([g for g in phase.totals if g.rivals and g.name in AGAINST]),
            f"### {name.capitalize()}: the worst",
            worst_table(phase.worst),
        ]
    for name, phase in calibrated.items():
        parts += [
            f"## {name.capitalize()} after one run per quantization family",
            groups_table(phase.totals),
            f"### {name.capitalize()} after a run, by class and backend",
            backends_table(phase.backends),
            f"### {name.capitalize()} after a run, against the share of the roof it reached",
            rivals_table([g for g in phase.totals if g.rivals and g.name in AGAINST]),
        ]
    return "\n\n".join(parts)


def goals_table(goals: Sequence[Goal]) -> str:
    """The goals, what was reached, and whether that meets them."""
    return markdown(
        ["figure", "goal", "reached", "met"],
        [
            [goal.figure, goal.goal, f"{goal.value:.3f}", "yes" if goal.met else "**no**"]
            for goal in goals
        ],
    )
