"""What a device's own measurements say of the learnt coefficients on one route.

The rows that were made on the route are conditioned on once, and every model asked about afterwards
finds the result again. Where the rows alone determine the device's costs, `own_costs` answers
before this does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from profiles.devices import DeviceProfile

from ..measurement import SessionOptions
from ..statistics import Interval
from .calibration import Calibration, OwnRow
from .coefficients import DECODE, Coefficients
from .effects import Beliefs, OwnTime, Posterior, condition, supplied_terms
from .features import DENSE, Demand, decode_demand, prefill_demand
from .own_costs import SAME_DEPTH_TOKENS
from .supply import Route, Supply, lineage, supply_of

_T95_NORMAL = 1.96


def own_rows(own: Calibration | None, route: Route, phase: str) -> tuple[OwnRow, ...]:
    """The own measurements that were made on the same route and hold a rate of the phase."""
    if own is None:
        return ()
    return tuple(
        row
        for row in own.rows
        if (lineage(row.backend), row.accelerator, row.api) == (route.engine, route.kind, route.api)
        and (row.decode if phase == DECODE else row.prefill) is not None
    )


def posterior_of(
    own: Calibration | None,
    learned: Coefficients,
    device: DeviceProfile,
    route: Route,
    phase: str,
) -> Posterior | None:
    """What own measurements say of a route's coefficients; None where there are none on it."""
    if own is None:
        return None
    typical = learned.model(phase, route.kind).typical
    supplies = tuple(
        supply_of(device, route, typical, threads=row.threads, prompt=phase != DECODE)
        for row in own_rows(own, route, phase)
    )
    return _conditioned(own, learned, supplies, route, phase)


def no_faster_than_smaller(
    rate: Interval,
    rows: Sequence[OwnRow],
    demand: Demand,
    *,
    level: str,
    threads: int | None,
    depth_tokens: int,
    noise: float,
) -> Interval:
    """A decode rate, slowed to what smaller files of the same level did on the device itself.

    Where few rows leave open which cost made a file slow, the wrong one may be blamed, and another
    file that has less of it comes out faster than what was measured. Of dense models in llama.cpp
    no published larger one decodes faster than a smaller one, beyond the `noise` of rows.
    """
    slowest = min(
        (
            row.decode.high
            for row in rows
            if row.decode is not None
            and not row.disturbed
            and row.planned.level == level
            and row.threads in (None, threads)
            and row.depth_tokens <= depth_tokens + SAME_DEPTH_TOKENS
            and _is_less(row, demand)
        ),
        default=math.inf,
    )
    slower = min(1.0, slowest * math.exp(noise) / rate.value)
    return Interval(low=rate.low * slower, value=rate.value * slower, high=rate.high * slower)


def _is_less(row: OwnRow, demand: Demand) -> bool:
    small = decode_demand(row.planned, row.depth_tokens, SessionOptions())
    return small.architecture == demand.architecture == DENSE and (
        small.bytes_read <= demand.bytes_read
    )


@functools.lru_cache(maxsize=64)
def _conditioned(
    own: Calibration,
    learned: Coefficients,
    supplies: tuple[Supply | None, ...],
    route: Route,
    phase: str,
) -> Posterior | None:
    """The posterior of the rows of a route, each with the supply it ran on."""
    model = learned.model(phase, route.kind)
    times: list[OwnTime] = []
    beliefs = None
    for row, supply in zip(own_rows(own, route, phase), supplies, strict=True):
        rate = row.decode if phase == DECODE else row.prefill
        if supply is None or rate is None or rate.low <= 0:
            continue
        beliefs = beliefs or Beliefs(model, supply, measured=True)
        demand = (
            decode_demand(row.planned, row.depth_tokens, SessionOptions())
            if phase == DECODE
            else prefill_demand(row.planned, row.prompt_tokens)
        )
        scatter = math.log(rate.high / rate.low) / 2 / _T95_NORMAL
        times.append(
            OwnTime(
                terms=supplied_terms(demand, supply),
                log_seconds=-math.log(rate.value),
                deviation=math.hypot(model.noise, scatter),
            )
        )
    return condition(times, beliefs) if beliefs else None
