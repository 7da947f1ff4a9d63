"""Cases from observations: each published rate with what was projected, what rivals say, remarks.

An observation carries a row, what a token of its model asks for and what its device supplies; the
projection and its rivals are given just that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import profiles
from edge_runtime.artifact import ModelShape
from edge_runtime.projection.features import FAMILY_OF
from edge_runtime.projection.observations import Observation, known_level
from edge_runtime.statistics import Interval
from profiles.devices import DeviceProfile

from .baselines import (
    FIXED_SHARE,
    Experts,
    Roofed,
    llmfit_rate,
    roof_times_constant,
    scaled_run,
)
from .runs import Candidate
from .scores import Case

DECODE, PREFILL = "decode", "prefill"
ONE_CONSTANT = "roof x one constant"
OWN_CONSTANT = "roof x constant of the backend"
FIXED = f"roof x {FIXED_SHARE}"
LLMFIT = "llmfit"
ARITHMETIC = "arithmetic x constant of the backend"
ONE_RUN = "roof x share of the calibrating run"

_TOLD = (
    "user-submitted", "vendor", "secondary", "mapped-device", "approximate", "level-inferred",
    "size-rounded", "nominal-size", "thread-limited", "integer", "short-prompt",
)  # fmt: skip
"""Conditions that are worth telling beside a miss."""

SHORT_TOKENS = 1024
"""A calibration decodes behind no more."""

FEW_DEVICES = 3
WIDE_RANGE = 1.05


def cases_of(
    phase: str,
    found: Sequence[tuple[Observation, Interval]],
    devices: Mapping[str, DeviceProfile],
    learnt_from: Sequence[Observation] | None = None,
) -> tuple[Case, ...]:
    """The cases of some projected observations of one phase.

    `learnt_from` are the observations behind the coefficients; those found themselves where they
    were left out device by device.
    """
    observations = [observation for observation, _ in found]
    rivals = _rivals(phase, observations, devices, learnt_from)
    known = observations if learnt_from is None else learnt_from
    near = Counter(path for path, _ in {(o.supply.route.path, o.supply.device) for o in known})
    itself = 1 if learnt_from is None else 0
    return tuple(
        Case(
            phase=phase,
            device=observation.supply.device,
            device_class=devices[observation.supply.device].device_class,
            path=observation.supply.route.path,
            architecture=observation.demand.architecture,
            family=family_of(observation),
            model=observation.row.model,
            level=observation.row.level,
            depth_tokens=observation.row.depth_tokens or 0,
            source=observation.row.source_id,
            measured=math.exp(-observation.log_seconds),
            projected=interval,
            rivals=own,
            remarks=remarks(observation, near[observation.supply.route.path] - itself),
        )
        for (observation, interval), own in zip(found, rivals, strict=True)
    )


def family_of(observation: Observation) -> str:
    """The family of the level a file is called by, as one chooses runs; else of most weights."""
    name = known_level(observation.row) or ""
    for kind in (name, name.rpartition("_")[0]):
        if kind in FAMILY_OF:
            return FAMILY_OF[kind]
    weights = observation.demand.weights
    return max(sorted(weights), key=lambda family: weights[family])


def candidate_of(observation: Observation) -> Candidate:
    """The observation as a run that may calibrate its device."""
    row, route = observation.row, observation.supply.route
    return Candidate(
        place=(
            observation.supply.device,
            route.path,
            str(row.threads),
            row.source_id,
            *_mode(observation),
        ),
        family=family_of(observation),
        file=(row.model_id or row.model, row.level),
        short=(row.depth_tokens or 0) <= SHORT_TOKENS and (row.prompt_tokens or 0) <= SHORT_TOKENS,
    )


def _mode(observation: Observation) -> tuple[str, ...]:
    return tuple(c for c in observation.row.conditions if c.startswith(("power-mode", "driver")))


def remarks(observation: Observation, others: int) -> tuple[str, ...]:
    """What may explain a miss, in a few words each: little evidence, or a doubtful row."""
    supply, row = observation.supply, observation.row
    found = []
    if others < FEW_DEVICES:
        found.append(
            f"{others or 'no'} other {'device' if others == 1 else 'devices'} on this path"
        )
    if math.exp(supply.bandwidth_spread) > WIDE_RANGE:
        found.append("bandwidth known as a range")
    if not supply.compute_known and supply.route.kind != "npu":
        found.append("arithmetic not known")
    if observation.demand.estimated:
        found.append("shape of the model not known")
    if (row.depth_tokens or 0) > 4096:
        found.append(f"{row.depth_tokens} tokens deep")
    found += [name for name in _TOLD if row.has(name)]
    return tuple(found)


def work_of(phase: str, observation: Observation) -> float:
    """What a roof is taken over: the bytes a decoded token reads, a prompt token's weights."""
    demand = observation.demand
    return demand.bytes_read if phase == DECODE else math.fsum(demand.weights.values())


def roof_of(phase: str, observation: Observation) -> float:
    """The rate that the roof alone would allow, tokens/s: of memory, or for a prompt of arithmetic.

    A weight is a multiplication and an addition. What processors are given in clock ticks is no
    roof, but as good for a constant times it.
    """
    supply, work = observation.supply, work_of(phase, observation)
    if phase == DECODE:
        return supply.bandwidth_bytes_per_s / work
    return supply.compute_per_s / (2 * work)


def after_runs(
    phase: str, observations: Sequence[Observation], index: int, runs: Sequence[int]
) -> tuple[tuple[str, float], ...]:
    """The rival of a calibrated projection: the share of the roof that the family's run reached."""
    run, row = observations[runs[0]], observations[index]
    rate = scaled_run(math.exp(-run.log_seconds), 1 / roof_of(phase, run), 1 / roof_of(phase, row))
    return ((ONE_RUN, rate),)


def _rivals(
    phase: str,
    observations: Sequence[Observation],
    devices: Mapping[str, DeviceProfile],
    learnt_from: Sequence[Observation] | None,
) -> list[tuple[tuple[str, float], ...]]:
    roofed = [_roofed(phase, observation) for observation in observations]
    behind = roofed if learnt_from is None else [_roofed(phase, o) for o in learnt_from]
    of_backend = roof_times_constant(roofed, behind, lambda row: row.group)
    if phase == PREFILL:
        return [((ARITHMETIC, rate),) for rate in of_backend]
    of_all = roof_times_constant(roofed, behind, lambda _: "")
    found = []
    for index, observation in enumerate(observations):
        own = [
            (ONE_CONSTANT, of_all[index]),
            (OWN_CONSTANT, of_backend[index]),
            (FIXED, FIXED_SHARE * roofed[index].roof),
        ]
        rate = llmfit_of(observation, devices[observation.supply.device])
        if rate is not None:
            own.append((LLMFIT, rate))
        found.append(tuple(own))
    return found


def _roofed(phase: str, observation: Observation) -> Roofed:
    return Roofed(
        device=observation.supply.device,
        group=observation.supply.route.path,
        measured=math.exp(-observation.log_seconds),
        roof=roof_of(phase, observation),
    )


def llmfit_of(observation: Observation, device: DeviceProfile) -> float | None:
    """What llmfit's formula says of an observation; None where it has none or lacks a figure."""
    row, kind = observation.row, observation.supply.route.kind
    if row.parameters is None:
        return None
    unit = device.accelerators.get(kind)
    memory = (unit.memory_bytes if unit else ()) or device.ram_bytes
    return llmfit_rate(
        accelerator=kind,
        level=row.level,
        parameters=row.parameters,
        active_parameters=row.active_parameters,
        is_moe=observation.demand.architecture == "moe",
        bandwidth_bytes_per_s=observation.supply.bandwidth_bytes_per_s,
        memory_bytes=max(memory, default=None),
        cores=device.cores,
        is_arm=any(name in ("neon", "dotprod", "i8mm", "sve") for name in device.isa),
        experts=_experts(row.model_id),
    )


def _experts(model_id: str) -> Experts | None:
    """A catalogued mixture's parameters in the experts that a token uses, and in everything else.

    Everything else is attention, shared experts, routers and both ends of the vocabulary, even
    where these are one matrix: as llmfit counts them.
    """
    entry = profiles.models().get(model_id)
    if entry is None:
        return None
    shape = ModelShape.from_config(entry.config, name=model_id)
    if not shape.experts:
        return None
    attention = 2 * (shape.heads + shape.kv_heads) * shape.head_dim * shape.hidden
    per_layer = (
        attention
        + 3 * shape.hidden * shape.shared_expert_intermediate
        + shape.experts * shape.hidden
    )
    return Experts(
        count=shape.experts,
        used=shape.experts_used,
        used_parameters=3.0
        * shape.layers
        * shape.experts_used
        * shape.hidden
        * shape.expert_intermediate,
        other_parameters=float(
            shape.layers * per_layer + 2 * shape.vocabulary_tokens * shape.hidden
        ),
    )
