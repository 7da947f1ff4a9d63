"""The words of a projection: what limits it, what it assumes, and what would settle it."""

from __future__ import annotations

from collections.abc import Sequence

from profiles.devices import DeviceProfile, Figure

from ..memory_needs import PlannedModel
from ..units import format_bytes
from ..verdict import Target
from .features import Demand
from .records import Nearness, TimeShare
from .supply import Route, Supply
from .time_model import ATTENTION, CACHE, COMPUTE, LAYER, MEMORY, ROOF

NEAR_DEVICES = 3
"""From so many devices of the same engine, API and family on, evidence is called near."""


def cause_of(
    device: DeviceProfile,
    route: Route,
    demand: Demand,
    supply: Supply | None,
    shares: Sequence[TimeShare],
) -> str:
    """What most of a token's time goes into, in one phrase with its numbers."""
    if supply is None:
        return f"no memory bandwidth is known of the {route.kind} of {device.label}"
    if not shares:
        return "as measured on the device itself"
    by_name = {share.name: share.share for share in shares}
    reading = by_name.get(ROOF, 0.0) + by_name.get(MEMORY, 0.0)
    computing = by_name.get(COMPUTE, 0.0)
    starting = by_name.get(LAYER, 0.0)
    context = by_name.get(CACHE, 0.0) + by_name.get(ATTENTION, 0.0)
    largest = max(reading, computing, starting, context)
    if largest == reading:
        about = "about" if supply.bandwidth_spread else "up to"
        bandwidth = f"{about} {supply.bandwidth_bytes_per_s / 1e9:.4g} GB/s"
        return (
            f"memory bandwidth: reading {format_bytes(demand.bytes_read)} at {bandwidth} is"
            f" {reading:.0%} of a token's time"
        )
    if largest == computing:
        return f"computing: multiplying the weights is {computing:.0%} of a token's time"
    if largest == starting:
        return (
            f"overhead: starting the kernels of {demand.layers:.0f} layers is {starting:.0%} of a"
            " token's time"
        )
    return f"context: attention over it is {context:.0%} of a token's time"


def assumptions_of(
    device: DeviceProfile,
    route: Route,
    planned: PlannedModel,
    target: Target,
    available: Figure | None,
    supply: Supply | None,
    near: Nearness | None,
    own_words: str,
) -> tuple[str, ...]:
    """What the projection takes for granted, one sentence each."""
    found = []
    if own_words:
        found.append(f"The rate is {own_words}.")
    elif near is not None and near.own_rows:
        some = "one measurement" if near.own_rows == 1 else f"{near.own_rows} measurements"
        found.append(f"What is published is corrected by {some} of this device.")
    unit = device.accelerators.get(route.kind)
    sizes = unit.memory_bytes if unit is not None and unit.memory_bytes else device.ram_bytes
    if len(sizes) > 1:
        listed = ", ".join(format_bytes(size) for size in sorted(sizes))
        found.append(f"{device.label} is sold with {listed} of memory; the smallest counts here.")
    if available is None:
        found.append(f"How much memory an app can use on {device.label} is not known.")
    elif not available.exact:
        found.append(
            f"Of the memory {format_bytes(available.low)} to {format_bytes(available.high)} can be"
            " used; the low end counts here."
        )
    if supply is not None:
        found += supply.notes
        roof = device.roof(route.kind)
        if roof is not None and not roof.exact:
            found.append(
                f"The bandwidth lies between {roof.low / 1e9:.4g} and {roof.high / 1e9:.4g} GB/s."
            )
    if planned.shape.experts:
        found.append(
            f"Of {planned.shape.experts} experts {planned.shape.experts_used} are read per token."
        )
    found.append(
        f"Decoding is stated behind a prompt of {target.prompt_tokens:,} tokens, on a cool device"
        " in its usual power mode."
    )
    return tuple(found)


def settles_of(
    device: DeviceProfile, route: Route, planned: PlannedModel, near: Nearness | None
) -> str:
    """The measurement that would settle the answer; empty where near evidence is enough."""
    way = f"{route.engine} on the {route.kind}{f' through {route.api}' if route.api else ''}"
    run = f"edge check {planned.shape.name} --level {planned.level} --save device.json"
    there = f"run {run} there, then edge calibrate device.json"
    if device.device_class == "mobile":
        there = f"run llama-bench of llama.cpp there with {planned.shape.name} at {planned.level}"
    if near is None:
        return f"Nothing is known of how fast {device.label} reads its memory: {there}."
    if near.own_rows or (near.device_known and near.rows >= NEAR_DEVICES):
        return ""
    if not near.devices:
        return f"No published row is of {way} with such weights, on any device: {there}."
    if near.afar:
        return f"No published row is of {way} of a device like {device.label}: {there}."
    if near.devices >= NEAR_DEVICES:
        if near.device_known:
            return ""
        return f"No published row is of {way} of {device.label} itself: {there}."
    some = "one device" if near.devices == 1 else f"{near.devices} devices"
    verb = "has" if near.devices == 1 else "have"
    return f"Only {some} {verb} published rows of {way} with such weights: {there}."
