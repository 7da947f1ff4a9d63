"""When to stop repeating: pure arithmetic on the rates so far, no clock.

A repetition that would overrun the budget is not begun; the first one always runs, because without
it there is nothing to say. Stopping on the interval of the same samples one reports makes that
interval a little too narrow; `min_runs` and the record of every run keep that visible.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import statistics
from ..units import format_duration
from .wire import Plan


def stop_reason(
    plan: Plan, rates: Sequence[float], elapsed_s: float, run_s: float, *, counted: str = "run"
) -> str | None:
    """Why no further repetition is needed, in words, or None to go on.

    `elapsed_s` has been spent on warm-ups and repetitions, the longest repetition took `run_s`.
    `counted` is what a repetition is called.
    """
    if not rates:
        return None
    runs = f"{len(rates)} {counted}" + ("s" if len(rates) > 1 else "")
    interval = statistics.confidence_interval(rates)
    spread = (
        f"the interval is within {interval.relative_half_width:.1%}"
        if interval is not None
        else f"a single {counted} has no interval"
    )
    if (
        interval is not None
        and len(rates) >= plan.min_runs
        and interval.relative_half_width <= plan.target_relative_half_width
    ):
        return f"after {runs} {spread}, narrower than {plan.target_relative_half_width:.1%}"
    if len(rates) >= plan.max_runs:
        return f"after {runs}, the most allowed; {spread}"
    if elapsed_s + run_s > plan.budget_s:
        return (
            f"after {runs} the time budget of {format_duration(plan.budget_s)} is spent; {spread}"
        )
    return None
