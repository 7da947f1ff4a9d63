"""Seconds per token from demand and supply: physical terms, each with a learnt coefficient.

    seconds = bytes / roof                                     what no machine can undercut
            + bytes / roof            * memory                 what memory is slower than its roof
            + layers * waiting        * layer                  starting a layer's kernels
            + weights of a family     * compute / operations   multiplying them
            + cache bytes / roof      * cache                  keys and values at depth
            + attention products      * attention / operations

On a processor the threads wait for each other at each step, the longer the more there are.
Coefficients are positive: each is the exponential of a sum of parts, one for the kind of
accelerator, one for the engine and API, one for the device. So a group with few measurements stays
near the wider one, and no rate is ever projected above the roof. Pure arithmetic; the parts
themselves are learnt in `learn` and read in `coefficients`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .features import DENSE, Demand
from .supply import CPU, USUAL_THREADS, Supply

ROOF, MEMORY, LAYER, COMPUTE, CACHE, ATTENTION = (
    "roof", "memory", "layer", "compute", "cache", "attention",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the logarithm of a coefficient.

    `name` tells it from others; `group` those that are drawn from one distribution, whose spread is
    learnt, such as `route.layer` or `device.memory`. `device` marks the parts of a single device.
    """

    name: str
    group: str
    device: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One term: the seconds it takes at a coefficient of one, and the parts of the coefficient."""

    name: str
    seconds: float
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a sum of terms comes to: the logarithm of the seconds, and each term's share of them."""

    log_seconds: float
    shares: tuple[float, ...]


def terms_of(demand: Demand, supply: Supply) -> tuple[Term, ...]:
    """The terms of one token's time on a supply, without those that are nothing."""
    byte_s = 1 / supply.bandwidth_bytes_per_s
    operation_s = 1 / supply.compute_per_s
    found = [
        Term(name=ROOF, seconds=demand.bytes_read * byte_s, parts=()),
        Term(name=MEMORY, seconds=demand.bytes_read * byte_s, parts=_parts(supply, MEMORY)),
        Term(
            name=LAYER, seconds=demand.layers * _waiting(supply), parts=_layer_parts(demand, supply)
        ),
        Term(name=CACHE, seconds=demand.cache_bytes * byte_s, parts=_own(supply, CACHE)),
        Term(
            name=ATTENTION,
            seconds=demand.attention * operation_s,
            parts=_attention_parts(supply),
        ),
    ]
    for family, weights in demand.weights.items():
        found.append(
            Term(
                name=f"{COMPUTE}:{family}",
                seconds=weights * operation_s,
                parts=_family_parts(supply, family),
            )
        )
    return tuple(term for term in found if term.seconds > 0)


def _waiting(supply: Supply) -> float:
    """How much longer a layer takes to start than with the usual number of threads.

    As the square root of the threads: between the logarithm of a tree of barriers and the
    proportion of a line. Exponents from 0.3 to 0.7 tell unseen devices about as well.
    """
    if supply.route.kind != CPU:
        return 1.0
    return math.sqrt(supply.threads / USUAL_THREADS)


def _own(supply: Supply, name: str) -> tuple[Part, ...]:
    return (Part(name=f"{supply.route.kind}/{name}", group=f"kind.{name}"),)


def _parts(supply: Supply, name: str) -> tuple[Part, ...]:
    return (
        *_own(supply, name),
        Part(name=f"{supply.route.path}/{name}", group=f"route.{name}"),
        Part(name=name, group=f"device.{name}", device=True),
    )


def _attention_parts(supply: Supply) -> tuple[Part, ...]:
    route = supply.route
    path = "/".join(filter(None, (route.kind, route.build or route.engine, route.api)))
    return (
        *_own(supply, ATTENTION),
        Part(name=f"{path}/{ATTENTION}", group=f"route.{ATTENTION}"),
    )


def _layer_parts(demand: Demand, supply: Supply) -> tuple[Part, ...]:
    parts = _parts(supply, LAYER)
    if demand.architecture == DENSE:
        return parts
    name = f"{LAYER}:{demand.architecture}"
    return (
        *parts,
        Part(name=f"{supply.route.kind}/{name}", group="kind.architecture"),
        Part(name=f"{supply.route.path}/{name}", group="route.architecture"),
        Part(name=name, group="device.architecture", device=True),
    )


def _family_parts(supply: Supply, family: str) -> tuple[Part, ...]:
    route = supply.route
    parts = [
        *_parts(supply, COMPUTE),
        Part(name=f"{route.kind}/{COMPUTE}:{family}", group="kind.family"),
        Part(name=f"{route.path}/{COMPUTE}:{family}", group="route.family"),
        Part(name=f"{COMPUTE}:{family}", group="device.family", device=True),
    ]
    if route.hardware:
        name = f"{'/'.join(filter(None, (route.kind, route.api, route.hardware)))}/{COMPUTE}"
        parts.append(Part(name=name, group=f"hardware.{COMPUTE}"))
    return tuple(parts)


def estimate(terms: tuple[Term, ...], logs: Mapping[Part, float]) -> Estimate:
    """The time of some terms, whose parts all have a logarithm."""
    seconds = [
        term.seconds * math.exp(math.fsum(logs[part] for part in term.parts)) for term in terms
    ]
    total = math.fsum(seconds)
    return Estimate(log_seconds=math.log(total), shares=tuple(one / total for one in seconds))


def loads(terms: tuple[Term, ...], shares: tuple[float, ...]) -> dict[Part, float]:
    """The change of the logarithm of the time with each part: the shares of the terms it is in."""
    found: dict[Part, float] = {}
    for term, share in zip(terms, shares, strict=True):
        for part in term.parts:
            found[part] = found.get(part, 0.0) + share
    return found
