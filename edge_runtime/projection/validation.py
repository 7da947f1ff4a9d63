"""How well the learnt model tells devices it has not seen: leave one device out, and calibration.

Every device is predicted from the others only, by the very code that projects, once bare and once
with one row per family of types taken as its own measurements. How much wider intervals must be
than the model thinks is what these residuals ask for. Needs numpy through `learn`; no projection
imports it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .coefficients import CostModel, Learned, Support, Widening
from .effects import Beliefs, OwnTime, condition, predict, supplied_terms
from .intervals import CALIBRATED_AT, deviations
from .learn import Learnt, learn
from .observations import Observation
from .priors import Prior
from .routes import crowd_of, is_afar
from .supply import Typical

DRAWS = 2
"""How often own rows of a device are drawn: which row of a family is measured is chance."""

ROUTE_WORTH = 8.0
"""The widening of a route is its own as far as it has devices, and that of its kind as if it had so
many more."""

DEVICES_COUNT = 3 / 4
LEAST_WIDENING = 0.3
MOST_ASKED = 0.95
"""One or two devices do not tell their percentile any better."""

LEAST_AFAR = 2.5
"""Where no like device is known, intervals are at least so many times as wide as elsewhere, in the
logarithm. Set, not learnt: the few devices of a kind that could tell ask for 1.2 times (processors)
to 2.8 times (NPUs), and are too few to be believed where they ask for little."""

NOT_WIDENED = Widening(unseen=1.0, afar=1.0, published=1.0, own=1.0, routes={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """One row predicted without its device: the log of the measured over the predicted time.

    `deviation` is the predicted one before it is widened by `widening`. `afar` says that no like
    device had a row on the route.
    """

    observation: Observation
    log_miss: float
    deviation: float
    afar: bool = False
    widening: float = 1.0

    @property
    def device(self) -> str:
        """The device's id."""
        return self.observation.supply.device

    @property
    def path(self) -> str:
        """The engine, the accelerator and the API."""
        return self.observation.supply.route.path

    @property
    def error(self) -> float:
        """The error of the rate relative to the measured one, in size."""
        return abs(math.exp(self.log_miss) - 1)

    @property
    def scaled(self) -> float:
        """The miss in units of half the 80 % interval before it is widened."""
        return abs(self.log_miss) / (self.deviation * deviations(CALIBRATED_AT))

    @property
    def covered(self) -> bool:
        """Whether the widened 80 % interval holds the measured rate."""
        return self.scaled <= self.widening


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Residuals of rows predicted without their device, and with a part of it.

    `bare` without anything of the device, `own` with one row of each family as its own measurement,
    `half` with every other row of it among the published ones.
    """

    bare: tuple[Residual, ...] = ()
    own: tuple[Residual, ...] = ()
    half: tuple[Residual, ...] = ()


def leave_devices_out(
    observations: Sequence[Observation], priors: Mapping[str, Prior], typical: Typical
) -> LeftOut:
    """Predicts every device from the others only."""
    everything = learn(observations, priors)
    by_device: dict[str, list[Observation]] = defaultdict(list)
    for one in observations:
        by_device[one.supply.device].append(one)
    bare: list[Residual] = []
    own: list[Residual] = []
    half: list[Residual] = []
    for device, rows in by_device.items():
        others = [one for one in observations if one.supply.device != device]
        if not others:
            continue
        model = cost_model(learn(others, priors, start=everything), others, typical)
        bare += (_residual(one, model) for one in rows)
        own += _with_own_rows(rows, model)
        seen = [*others, *rows[::2]]
        model = cost_model(learn(seen, priors, start=everything), seen, typical)
        half += (
            _residual(one, model) for one in rows[1::2] if Beliefs(model, one.supply).device_known
        )
    return LeftOut(bare=tuple(bare), own=tuple(own), half=tuple(half))


def cost_model(
    learnt: Learnt,
    observations: Sequence[Observation],
    typical: Typical,
    widening: Widening = NOT_WIDENED,
) -> CostModel:
    """What was learnt as the record that projections read."""
    parts: dict[str, Learned] = {}
    devices: dict[str, dict[str, Learned]] = defaultdict(dict)
    for name, (log, deviation) in learnt.parts.items():
        *owner, part = name.split("|")
        value = Learned(log=log, deviation=deviation)
        if owner:
            devices["|".join(owner)][part] = value
        else:
            parts[part] = value
    return CostModel(
        parts=parts,
        devices=devices,
        spreads=learnt.spreads,
        noise=learnt.noise,
        typical=typical,
        widening=widening,
        support=support_of(observations),
    )


def support_of(observations: Iterable[Observation]) -> dict[str, Support]:
    """Rows and devices by path, by path and family of most weights, by path and kind of device."""
    rows: dict[str, int] = defaultdict(int)
    devices: dict[str, set[str]] = defaultdict(set)
    for one in observations:
        path = one.supply.route.path
        crowd = crowd_of(one.supply.route, one.supply.device_class)
        for name in (path, f"{path}:{main_family(one)}", crowd):
            rows[name] += 1
            devices[name].add(one.supply.device)
    return {name: Support(rows=rows[name], devices=len(devices[name])) for name in sorted(rows)}


def main_family(observation: Observation) -> str:
    """The family of types that most weights of a model have."""
    weights = observation.demand.weights
    return max(weights, key=weights.__getitem__)


def _residual(one: Observation, model: CostModel) -> Residual:
    found = predict(supplied_terms(one.demand, one.supply), Beliefs(model, one.supply), model.noise)
    return Residual(
        observation=one,
        log_miss=one.log_seconds - found.log_seconds,
        deviation=found.deviation,
        afar=is_afar(one.supply.route, one.supply.device_class, model.support),
    )


def _with_own_rows(rows: Sequence[Observation], model: CostModel) -> Iterator[Residual]:
    """The rows of a device predicted after one row of each family on their route is measured."""
    routes: dict[str, list[Observation]] = defaultdict(list)
    for one in rows:
        routes[one.supply.route.path].append(one)
    for on_route in routes.values():
        families: dict[str, list[Observation]] = defaultdict(list)
        for one in on_route:
            families[main_family(one)].append(one)
        for draw in range(DRAWS):
            picks = [found[(7 * draw + 3) % len(found)] for found in families.values()]
            beliefs = Beliefs(model, picks[0].supply, measured=True)
            times = [
                OwnTime(
                    terms=supplied_terms(pick.demand, pick.supply),
                    log_seconds=pick.log_seconds,
                    deviation=model.noise,
                )
                for pick in picks
            ]
            posterior = condition(times, beliefs)
            for one in on_route:
                if not any(one is pick for pick in picks):
                    found = predict(
                        supplied_terms(one.demand, one.supply), beliefs, model.noise, posterior
                    )
                    yield Residual(
                        observation=one,
                        log_miss=one.log_seconds - found.log_seconds,
                        deviation=found.deviation,
                    )


def widening_of(left_out: LeftOut) -> Widening:
    """By how much intervals must be widened to hold what they say.

    Of 80 % intervals so many hold on a row that is drawn at random, three times out of four from a
    device drawn before, else from all: devices with a hundred rows must not decide alone.
    """
    near = [one for one in left_out.bare if not one.afar] or left_out.bare
    far = [one for one in left_out.bare if one.afar]
    everywhere = _asked_for(near)
    routes = {}
    for path in sorted({one.path for one in near}):
        own = [one for one in near if one.path == path]
        devices = len({one.device for one in own})
        share = devices / (devices + ROUTE_WORTH)
        routes[path] = math.exp(
            share * math.log(_asked_for(own)) + (1 - share) * math.log(everywhere)
        )
    return Widening(
        unseen=everywhere,
        afar=max(LEAST_AFAR * everywhere, _asked_for(far) if far else 0.0),
        published=_asked_for(left_out.half) if left_out.half else everywhere,
        own=_asked_for(left_out.own) if left_out.own else everywhere,
        routes=routes,
    )


def widened_by_others(residuals: Sequence[Residual], *, own: bool = False) -> tuple[Residual, ...]:
    """Each device's residuals with the widening that the other devices ask for."""
    found = []
    for device in dict.fromkeys(one.device for one in residuals):
        others = tuple(one for one in residuals if one.device != device)
        if not others:
            continue
        widening = widening_of(LeftOut(bare=others))
        found += [
            replace(one, widening=_widening_for(one, widening, own=own))
            for one in residuals
            if one.device == device
        ]
    return tuple(found)


def _widening_for(one: Residual, widening: Widening, *, own: bool) -> float:
    return widening.unseen if own else widening.for_route(one.path, afar=one.afar)


def _asked_for(residuals: Sequence[Residual]) -> float:
    """The weighted 80th percentile of the scaled misses, and a little more where devices are few.

    Of so many devices the next one lies above the percentile somewhat more often than they do: by
    half a device in their number.
    """
    counts: dict[str, int] = defaultdict(int)
    for one in residuals:
        counts[one.device] += 1
    ordered = sorted(residuals, key=lambda one: one.scaled)
    wanted = min(CALIBRATED_AT * (1 + 0.5 / len(counts)), MOST_ASKED)
    total = 0.0
    for one in ordered:
        by_row, by_device = 1 / len(ordered), 1 / (len(counts) * counts[one.device])
        total += (1 - DEVICES_COUNT) * by_row + DEVICES_COUNT * by_device
        if total >= wanted:
            return max(one.scaled, LEAST_WIDENING)
    return ordered[-1].scaled
