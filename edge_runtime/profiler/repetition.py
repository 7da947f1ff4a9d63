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
    plan: Plan,
    rates: Sequence[float],
    elapsed_s: float,
    run_s: float,
    *,
    counted: str = "run",
    lacking_s: float = 0.0,
    enough: str = "",
) -> str | None:
    """Why no further repetition is needed, in words, or None to go on.

    `elapsed_s` has been spent on warm-ups and repetitions, the longest repetition took `run_s`.
    `counted` is what a repetition is called. While `lacking_s` is positive the energy sensors need
    longer runs, and only the budget ends them. A plan that sustains goes by its time alone.
    `enough` is why no more may be begun whatever the plan says.
    """
    if not rates:
        return None
    runs = f"{len(rates)} {counted}" + ("s" if len(rates) > 1 else "")
    if enough:
        return f"after {runs} in {format_duration(elapsed_s)}: {enough}"
    if plan.sustain_s is not None:
        # No interval: the rates of a device that heats up are no sample of one rate.
        kept_up = format_duration(plan.sustain_s)
        return f"after {runs}, kept up for {kept_up}" if elapsed_s >= plan.sustain_s else None
    spent = elapsed_s + run_s > plan.budget_s
    if lacking_s > 0 and not spent:
        return None
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
    if spent:
        return (
            f"after {runs} the time budget of {format_duration(plan.budget_s)} is spent; {spread}"
        )
    return None
