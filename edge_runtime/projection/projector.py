"""Projects one model at one level onto one device: the rates, the memory, and why.

The door between the parts: demand and supply, the learnt coefficients, what the device's own
measurements say, intervals and words. Pure: a profile and a plan go in, a record comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from profiles.devices import DeviceProfile, Figure
from profiles.os_memory import usable_memory

from ..basis import Unavailable
from ..feasibility import Phase, attention_products
from ..measurement import SessionOptions
from ..memory_needs import PlannedModel, memory_fit
from ..statistics import Interval
from ..verdict import Target
from .calibration import Calibration, usual_threads
from .coefficients import DECODE, PREFILL, Coefficients, CostModel, shipped
from .conditioning import no_faster_than_smaller, own_rows, posterior_of
from .effects import Beliefs, nearest_support, predict, supplied_terms
from .features import Demand, decode_demand, prefill_demand
from .intervals import rate_interval
from .own_costs import OwnRate, own_rate, settled
from .records import Nearness, Projection, TimeShare
from .routes import is_afar, routes_of, usual_routes
from .supply import LLAMA_CPP, ONNX_RUNTIME, Route, Supply, lineage, supply_of
from .time_model import ATTENTION, CACHE
from .wording import assumptions_of, cause_of, settles_of

_PHASES = {DECODE: Phase.DECODE, PREFILL: Phase.PREFILL}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What is asked: a plan on a device, with what is known beforehand."""

    planned: PlannedModel
    device: DeviceProfile
    target: Target
    options: SessionOptions
    learned: Coefficients
    own: Calibration | None
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """The rate of a phase on one route, and what it rests on.

    `supply` is None, and the time has no `shares`, where only own measurements answer.
    """

    route: Route
    rate: Interval
    supply: Supply | None
    shares: Mapping[str, float]
    nearness: Nearness
    words: str


def project(
    planned: PlannedModel,
    device: DeviceProfile,
    *,
    backend: str = LLAMA_CPP,
    accelerator: str | None = None,
    api: str | None = None,
    target: Target | None = None,
    options: SessionOptions | None = None,
    coefficients: Coefficients | None = None,
    own: Calibration | None = None,
    confidence: float = 0.80,
) -> Projection:
    """What a planned model would do on a device: intervals, cause, assumptions, memory.

    Without an `accelerator` or an `api`, of the ways that people use on such devices the one that
    is surely fastest is taken: whose interval of the decode rate has the highest low end. `own`
    measurements of the device beat every formula as far as they reach, and where no threads are
    asked for, theirs are taken. Where a figure is missing
    the rate is Unavailable and the memory is filled all the same. Raises UsageError for an engine,
    an accelerator or an API that the device has not, and for a confidence that is none.
    """
    question = _Question(
        planned=planned,
        device=device,
        target=target or Target(),
        options=options or SessionOptions(),
        learned=coefficients or shipped(),
        own=own,
        confidence=confidence,
    )
    engine = lineage(backend)
    if planned.format == "onnx" and engine == LLAMA_CPP:
        engine = ONNX_RUNTIME
    routes = routes_of(device, engine, question.learned, accelerator=accelerator, api=api)
    if not api:
        routes = usual_routes(device, routes, question.learned)
    demand = decode_demand(planned, question.target.prompt_tokens, question.options)
    answers = [_answer(question, route, DECODE, demand) for route in routes]
    best = max(
        (one for one in answers if one is not None), key=lambda one: one.rate.low, default=None
    )
    return _projection(question, best.route if best else routes[0], demand, best)


def _projection(
    question: _Question, route: Route, demand: Demand, best: _Answer | None
) -> Projection:
    planned, device = question.planned, question.device
    target, options = question.target, question.options
    available = usable_memory(device, accelerator=route.kind)
    roof = device.roof(route.kind)
    shares = _shares(best)
    supply = best.supply if best else None
    near = best.nearness if best else None
    prefill = _answer(question, route, PREFILL, prefill_demand(planned, target.prompt_tokens))
    return Projection(
        device=device.product.id if device.product else device.id,
        device_label=device.label,
        device_class=device.device_class,
        model=planned.shape.name,
        level=planned.level,
        backend=route.engine,
        accelerator=route.kind,
        api=route.api,
        decode_tokens_per_s=best.rate if best else _no_rate(device, route, planned),
        prefill_tokens_per_s=prefill.rate if prefill else None,
        confidence=question.confidence,
        memory=memory_fit(
            planned,
            target,
            options,
            available_bytes=int(available.low) if available is not None else None,
        ),
        available=available,
        bytes_per_token=int(demand.bytes_read),
        kv_bytes_per_token_of_context=_cache_bytes_per_token(planned, options),
        depth_tokens=target.prompt_tokens,
        depth_s_per_token=_depth_cost(planned, best, target.prompt_tokens),
        roof_bytes_per_s=roof,
        roof_tokens_per_s=_ceiling(roof, demand),
        shares=shares,
        cause=cause_of(device, route, demand, supply, shares),
        assumptions=assumptions_of(
            device, route, planned, target, available, supply, near, best.words if best else ""
        ),
        nearness=near or _no_rows(route),
        settles=settles_of(device, route, planned, near),
    )


def _answer(question: _Question, route: Route, phase: str, demand: Demand) -> _Answer | None:
    """The rate of a phase on a route; None where nothing says or nothing is done."""
    if not demand.weights or question.planned.shape.encoder:
        return None
    options, device, own = question.options, question.device, question.own
    rows = own_rows(own, route, phase)
    threads = options.threads or usual_threads(rows)
    if phase == PREFILL:
        threads = options.threads_prefill or threads
    measured = _measured(question, route, phase, threads)
    model = question.learned.model(phase, route.kind)
    supply = supply_of(device, route, model.typical, threads=threads, prompt=phase == PREFILL)
    if supply is None:
        return _own_answer(route, measured) if measured else None
    posterior = posterior_of(own, question.learned, device, route, phase)
    beliefs = Beliefs(model, supply, measured=posterior is not None)
    found = predict(supplied_terms(demand, supply), beliefs, model.noise, posterior)
    support = nearest_support(model, supply, demand)
    near = Nearness(
        rows=support.rows,
        devices=support.devices,
        group=route.path,
        afar=is_afar(route, device.device_class, model.support),
        device_known=beliefs.device_known,
        own_rows=len(rows),
    )
    rate = rate_interval(
        found.log_seconds,
        found.deviation,
        widening=_widening(model, near),
        confidence=question.confidence,
        ceiling=_ceiling(device.roof(route.kind), demand),
    )
    rate = settled(measured, rate)
    if phase == DECODE and not (measured and measured.direct):
        rate = no_faster_than_smaller(
            rate,
            rows,
            demand,
            level=question.planned.level,
            threads=threads,
            depth_tokens=question.target.prompt_tokens,
            noise=model.noise,
        )
    return _Answer(
        route=route,
        rate=rate,
        supply=supply,
        shares=found.shares,
        nearness=replace(near, own_rows=measured.rows) if measured else near,
        words=measured.words if measured else "",
    )


def _measured(question: _Question, route: Route, phase: str, threads: int | None) -> OwnRate | None:
    """The rate from the device's own measurements alone, where they suffice."""
    if question.own is None:
        return None
    prompt = question.target.prompt_tokens
    return own_rate(
        question.own,
        question.planned,
        phase=_PHASES[phase],
        backend=route.engine,
        accelerator=route.kind,
        api=route.api,
        threads=threads,
        depth_tokens=prompt if phase == DECODE else prompt // 2,
        confidence=question.confidence,
    )


def _own_answer(route: Route, measured: OwnRate) -> _Answer:
    near = _no_rows(route, measured.rows)
    return _Answer(
        route=route,
        rate=measured.tokens_per_s,
        supply=None,
        shares={},
        nearness=near,
        words=measured.words,
    )


def _no_rows(route: Route, own_rows: int = 0) -> Nearness:
    return Nearness(
        rows=0, devices=0, group=route.path, afar=True, device_known=False, own_rows=own_rows
    )


def _widening(model: CostModel, near: Nearness) -> float:
    if near.own_rows:
        return model.widening.own
    if near.device_known:
        return model.widening.published
    return model.widening.for_route(near.group, afar=near.afar)


def _ceiling(roof: Figure | None, demand: Demand) -> float | None:
    """The rate that the bandwidth allows at most, tokens/s; a prompt reads nothing per token."""
    return roof.high / demand.bytes_read if roof is not None and demand.bytes_read else None


def _shares(answer: _Answer | None) -> tuple[TimeShare, ...]:
    shares = answer.shares if answer else {}
    largest = sorted(shares.items(), key=lambda item: -item[1])
    return tuple(TimeShare(name=name, share=share) for name, share in largest)


def _depth_cost(planned: PlannedModel, answer: _Answer | None, depth: int) -> float | None:
    """Seconds that one more token of context adds to a decode step; None where nothing says."""
    seen = attention_products(planned.shape, depth)
    if answer is None or not seen or not answer.shares:
        return None
    share = answer.shares.get(CACHE, 0.0) + answer.shares.get(ATTENTION, 0.0)
    return share / answer.rate.value * (attention_products(planned.shape, depth + 1) - seen) / seen


def _cache_bytes_per_token(planned: PlannedModel, options: SessionOptions) -> int:
    if planned.cache_bytes_per_token is not None:
        return planned.cache_bytes_per_token
    return planned.shape.kv_bytes_per_token(options.kv_type_k, options.kv_type_v)


def _no_rate(device: DeviceProfile, route: Route, planned: PlannedModel) -> Unavailable:
    if planned.shape.encoder:
        return Unavailable(
            reason=f"{planned.shape.name} makes embeddings and decodes nothing",
            remedy="edge latency measures such a model.",
        )
    return Unavailable(
        reason=f"no memory bandwidth is known of the {route.kind} of {device.label}",
        remedy="Measure it there: edge check --save device.json, then edge calibrate device.json.",
    )
