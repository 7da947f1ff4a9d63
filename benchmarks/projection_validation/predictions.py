"""Projected rates for published rows: by models that never saw the row's device, or as shipped.

Everything that projects is the package's own; here it is asked once per device with the others'
coefficients, and once more with some of the device's rows given as its own measurements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edge_runtime.projection import coefficients
from edge_runtime.projection.coefficients import DECODE, CostModel
from edge_runtime.projection.effects import (
    Beliefs,
    OwnTime,
    condition,
    predict,
    supplied_terms,
)
from edge_runtime.projection.intervals import CALIBRATED_AT, rate_interval
from edge_runtime.projection.learn import learn
from edge_runtime.projection.observations import (
    LEFT_OUT,
    Observation,
    observe_decode,
    observe_prefill,
    usable,
)
from edge_runtime.projection.priors import priors
from edge_runtime.projection.routes import is_afar
from edge_runtime.projection.supply import KINDS, Typical, typical_of
from edge_runtime.projection.validation import Residual, cost_model, widened_by_others
from edge_runtime.statistics import Interval
from profiles.devices import DeviceProfile
from profiles.published import PublishedRow

Projected = list[tuple[Observation, Interval]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What some rows say of one phase, and how many rows with a rate say nothing, by reason."""

    observations: tuple[Observation, ...]
    unused: Mapping[str, int]


def observe(
    phase: str,
    rows: Iterable[PublishedRow],
    known: Mapping[str, DeviceProfile],
    typical: Mapping[str, Typical],
) -> Seen:
    """Turns rows into observations of a phase."""
    found, unused = [], Counter[str]()
    look = observe_decode if phase == DECODE else observe_prefill
    for row in rows:
        if (row.decode_tokens_per_s if phase == DECODE else row.prefill_tokens_per_s) is None:
            continue
        device = known.get(row.device)
        one = look(row, device, typical) if device is not None else None
        if one is None:
            unused[_why(row, device)] += 1
        else:
            found.append(one)
    return Seen(observations=tuple(found), unused=dict(unused.most_common()))


def _why(row: PublishedRow, device: DeviceProfile | None) -> str:
    if device is None:
        return "no profile of the device"
    if not row.accelerator:
        return "accelerator not stated"
    for name in LEFT_OUT:
        if row.has(name):
            return name
    if not usable(row):
        return "power-mode"
    if device.roof(row.accelerator) is None:
        return "no bandwidth known"
    return "too little known of the model or the run"


@dataclass(frozen=True, slots=True)
class Asked:
    """One phase's observations, each with a model that never saw its device.

    With coefficients `as_shipped`, intervals are widened as those say; else by what the misses on
    the other devices ask for, so that they too are judged on devices they were not made for.
    """

    seen: Seen
    models: Mapping[tuple[str, str], CostModel] = field(repr=False)
    as_shipped: bool

    @property
    def observations(self) -> tuple[Observation, ...]:
        """Those that some model can project: of a device that is not the only one of its kind."""
        return tuple(o for o in self.seen.observations if _key(o) in self.models)

    def bare(self) -> Projected:
        """Each observation projected from the other devices, none of its own known."""
        residuals = [_residual(o, self._model(o), ()) for o in self.observations]
        if not self.as_shipped:
            return _widened(residuals, own=False)
        return [
            (o, _interval(r, self._model(o).widening.for_route(r.path, afar=r.afar)))
            for o, r in zip(self.observations, residuals, strict=True)
        ]

    def after(self, chosen: Sequence[tuple[int, Sequence[int]]]) -> Projected:
        """Some observations, by index, projected once the runs with them have been measured."""
        every = self.observations
        residuals = [
            _residual(every[i], self._model(every[i]), [every[run] for run in runs])
            for i, runs in chosen
        ]
        if not self.as_shipped:
            return _widened(residuals, own=True)
        return [
            (r.observation, _interval(r, self._model(r.observation).widening.own))
            for r in residuals
        ]

    def _model(self, observation: Observation) -> CostModel:
        return self.models[_key(observation)]


def leave_each_device_out(
    phase: str, rows: Sequence[PublishedRow], known: Mapping[str, DeviceProfile]
) -> Asked:
    """Learns one model per device and kind of accelerator from all the other devices. Minutes."""
    typical = {kind: typical_of(known.values(), kind, prompt=phase != DECODE) for kind in KINDS}
    seen = observe(phase, rows, known, typical)
    models = {}
    for kind in KINDS:
        own = [o for o in seen.observations if o.supply.route.kind == kind]
        if not own:
            continue
        expected = priors(phase, kind)
        everything = learn(own, expected)
        for device in sorted({o.supply.device for o in own}):
            others = [o for o in own if o.supply.device != device]
            if others:
                learnt = learn(others, expected, start=everything)
                models[kind, device] = cost_model(learnt, others, typical[kind])
    return Asked(seen, models, as_shipped=False)


def with_shipped(
    phase: str, rows: Sequence[PublishedRow], known: Mapping[str, DeviceProfile]
) -> Asked:
    """Takes the coefficients as shipped for rows of devices that they were not learnt from."""
    learned = coefficients.shipped()
    by_kind = {kind: learned.model(phase, kind) for kind in KINDS}
    seen = observe(phase, rows, known, {kind: by_kind[kind].typical for kind in KINDS})
    models = {_key(o): by_kind[o.supply.route.kind] for o in seen.observations}
    return Asked(seen, models, as_shipped=True)


def _key(observation: Observation) -> tuple[str, str]:
    return observation.supply.route.kind, observation.supply.device


def _residual(observation: Observation, model: CostModel, runs: Sequence[Observation]) -> Residual:
    """What the model says of an observation, given some runs of the same device and route."""
    beliefs = Beliefs(model, observation.supply, measured=bool(runs))
    own = [
        OwnTime(
            terms=supplied_terms(run.demand, run.supply),
            log_seconds=run.log_seconds,
            deviation=model.noise,
        )
        for run in runs
    ]
    found = predict(
        supplied_terms(observation.demand, observation.supply),
        beliefs,
        model.noise,
        condition(own, beliefs) if own else None,
    )
    return Residual(
        observation=observation,
        log_miss=observation.log_seconds - found.log_seconds,
        deviation=found.deviation,
        afar=is_afar(observation.supply.route, observation.supply.device_class, model.support),
    )


def _widened(residuals: Sequence[Residual], *, own: bool) -> Projected:
    """The intervals, in the order given, each widened by what the other devices' misses ask for."""
    by_kind: dict[str, list[Residual]] = {}
    for one in residuals:
        by_kind.setdefault(one.observation.supply.route.kind, []).append(one)
    found = {
        id(one.observation): _interval(one, one.widening)
        for kind in by_kind.values()
        for one in widened_by_others(kind, own=own)
    }
    return [
        (one.observation, found[id(one.observation)])
        for one in residuals
        if id(one.observation) in found
    ]


def _interval(residual: Residual, widening: float) -> Interval:
    """The rate's interval, of which nothing is above what the bandwidth allows."""
    observation = residual.observation
    read, supply = observation.demand.bytes_read, observation.supply
    return rate_interval(
        observation.log_seconds - residual.log_miss,
        residual.deviation,
        widening=widening,
        confidence=CALIBRATED_AT,
        ceiling=supply.bandwidth_bytes_per_s / read if read else None,
    )
