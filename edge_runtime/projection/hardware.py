"""What hardware a model needs: bandwidth and memory for a target, and the devices that have it.

The need is found by asking the projection itself: the bandwidth of a known device is turned up and
down, its compute with it, until the rate meets the target; memory likewise over the sizes that are
sold. So a need and a device's verdict never disagree. Pure functions of records.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from profiles.devices import Accelerator, DeviceProfile, Figure
from profiles.os_memory import usable_memory

from ..basis import Unavailable
from ..codec import to_jsonable
from ..errors import UsageError
from ..feasibility import Phase, planned_work, within_context
from ..memory_needs import PlannedModel, memory_fit
from ..statistics import Interval
from ..units import GIB
from ..verdict import HEADROOM_SHARE, MemoryFit, VerdictKind
from . import Projection, project
from .device_fit import best_row
from .rows import (
    SCHEMA,
    Asked,
    ProjectedRow,
    exit_code_of,
    heading,
)

CHEAPEST_FIRST = ("sbc", "mobile", "laptop", "desktop", "gpu", "server")
"""The classes of devices in the order of what one costs, roughly: prices are not kept here."""

MEMORY_SIZES = tuple(
    size * GIB for size in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
)
"""Sizes that memory is sold in."""

_Group = tuple[str, str, str]
"""A class of devices, an accelerator, an API."""

_WIDEST = 2.0**10
"""A bandwidth that many times a known device's is none that anybody will build."""
_STEPS = 14
"""Halvings of a range of logarithms: the bandwidth is found to a thousandth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandwidthNeed:
    """The memory bandwidth from which the target is met, bytes/s, on one kind of device.

    Below `least` it surely is not met, from `sure` on it surely is, both at the projection's
    confidence; at `likely` the odds are even. None where no bandwidth is enough, since something
    else takes too long. `like` is the device whose other properties were kept.
    """

    device_class: str
    accelerator: str
    api: str
    like: str
    least: float | None
    likely: float | None
    sure: float | None
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RamNeed:
    """The smallest memory that is sold and suffices, bytes; None where none does or none is known.

    What a system takes differs by class of device. `own` marks a card's own memory, which neither
    system nor class decides: they are empty.
    """

    system: str
    device_class: str
    accelerator: str
    own: bool
    ram_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelNeeds:
    """What one level of the model needs.

    `free_bytes` is what a device must leave free, headroom included; `roof_bytes_per_s` the
    bandwidth without which it is impossible on anything, since so many bytes are read per token.
    """

    level: str
    memory: MemoryFit
    free_bytes: int
    bytes_per_token: float
    roof_bytes_per_s: float
    bandwidths: tuple[BandwidthNeed, ...]
    memories: tuple[RamNeed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDevice:
    """A device that has it: its best level's row, at the smallest memory it is sold with that does.

    `products` are those of its products that have as much memory.
    """

    device: DeviceProfile
    memory_bytes: int | None
    row: ProjectedRow
    products: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwarePlan:
    """What a model needs at each level, and the known devices, cheapest class first.

    `devices` read or may: within a class first those that surely read, the least capable first,
    then those that may, the most capable first. `unknown` are devices of which too little is known
    to project, `misses` counts those that do not read.
    """

    tool_version: str
    asked: Asked
    model: str
    parameters: int
    needs: tuple[LevelNeeds, ...]
    devices: tuple[PlannedDevice, ...]
    unknown: tuple[str, ...]
    misses: int
    schema: int = SCHEMA

    @property
    def exit_code(self) -> int:
        """0 when any known device reads, else 3 when one may, else 1."""
        return exit_code_of([one.row for one in self.devices])

    def to_json(self) -> dict[str, object]:
        """The document: the request, the needs by level, a flat row per device that has it."""
        return {
            **heading(self.schema, self.tool_version, self.asked),
            "model": self.model,
            "parameters": self.parameters,
            "needs": to_jsonable(self.needs),
            "rows": [
                {
                    **one.row.to_json(),
                    "class": one.device.device_class,
                    "name": one.device.name,
                    "device_memory_bytes": one.memory_bytes,
                    "products": list(one.products),
                }
                for one in self.devices
            ],
            "unknown": list(self.unknown),
            "misses": self.misses,
        }


def plan_among(
    plans: Sequence[PlannedModel],
    devices: Sequence[DeviceProfile],
    asked: Asked,
    *,
    tool_version: str = "",
) -> HardwarePlan:
    """Says what one model needs at its levels, and which of the devices have it.

    Devices that have no such accelerator or engine are passed over. Raises UsageError where none is
    left, for an engine that is not known, and for a model that decodes nothing.
    """
    shape = plans[0].shape
    if shape.encoder:
        raise UsageError(
            f"{shape.name} makes embeddings: it has no rate of tokens to plan for.",
            way_out="edge latency measures such a model on a device.",
        )
    target, _ = within_context(shape, asked.target)
    asked = dataclasses.replace(asked, target=target)
    by_level = {planned.level: planned for planned in plans}
    found: list[PlannedDevice] = []
    groups: dict[_Group, list[PlannedDevice]] = {}
    unknown, misses, refused = [], 0, {}
    for device in devices:
        try:
            one = _on_device(by_level, device, asked)
        except UsageError as error:
            refused[error.fact] = error
            continue
        if isinstance(one.row.projection.decode_tokens_per_s, Unavailable):
            unknown.append(device.id)
            continue
        key = (device.device_class, one.row.projection.accelerator, one.row.projection.api)
        groups.setdefault(key, []).append(one)
        if one.row.verdict.kind is VerdictKind.NOT_VIABLE:
            misses += 1
        else:
            found.append(one)
    if len(refused) == 1 and not groups and not unknown:
        raise next(iter(refused.values()))
    if refused and not groups and not unknown:
        on = f" on the {asked.accelerator}" if asked.accelerator else ""
        raise UsageError(
            f"None of the devices asked about is known to run {asked.backend}{on}.",
            way_out="Leave --backend, --accelerator or --class out, or name another.",
        )
    found.sort(key=_place)
    return HardwarePlan(
        tool_version=tool_version,
        asked=asked,
        model=shape.name,
        parameters=shape.parameters,
        needs=tuple(_needs(planned, groups, asked) for planned in plans),
        devices=tuple(found),
        unknown=tuple(unknown),
        misses=misses,
    )


def _on_device(
    plans: Mapping[str, PlannedModel], device: DeviceProfile, asked: Asked
) -> PlannedDevice:
    """The device at the smallest memory it is sold with that suffices, else at the largest.

    Raises UsageError where it has no such accelerator or engine.
    """
    sizes: list[int | None] = [*sorted(_memories(device, asked))] or [None]
    for size in sizes:
        fitted = device if size is None else with_memory(device, size, asked.accelerator)
        row = best_row(tuple(plans), plans.__getitem__, fitted, asked)
        if row.verdict.memory.kind is VerdictKind.VIABLE:
            break
    products = tuple(
        product.name
        for product in device.products
        if size is None or max(product.ram_bytes or device.ram_bytes, default=0) >= size
    )
    return PlannedDevice(device=device, memory_bytes=size, row=row, products=products)


def _memories(device: DeviceProfile, asked: Asked) -> tuple[int, ...]:
    """The sizes of what holds the model: a card's own memory where there is a card, else RAM."""
    card = _card(device, asked.accelerator)
    return card.memory_bytes if card else device.ram_bytes


def _card(device: DeviceProfile, accelerator: str | None) -> Accelerator | None:
    """The card with a memory of its own that a projection would use, where there is one."""
    unit = device.accelerators.get(accelerator or "gpu")
    return unit if unit and unit.memory_bytes else None


def with_memory(
    device: DeviceProfile, size_bytes: int, accelerator: str | None = None
) -> DeviceProfile:
    """The device with so much memory: of its card where that is used, else RAM."""
    card = _card(device, accelerator)
    if card is None:
        return dataclasses.replace(device, ram_bytes=(size_bytes,))
    return _with_unit(device, dataclasses.replace(card, memory_bytes=(size_bytes,)))


def _with_unit(device: DeviceProfile, unit: Accelerator) -> DeviceProfile:
    accelerators = MappingProxyType({**device.accelerators, unit.kind: unit})
    return dataclasses.replace(device, accelerators=accelerators)


def _place(one: PlannedDevice) -> tuple[int, bool, float]:
    """The cheapest class first; in it the least that surely reads, then the most that may."""
    reads = one.row.verdict.kind is VerdictKind.VIABLE
    return (
        CHEAPEST_FIRST.index(one.device.device_class),
        not reads,
        _speed(one) if reads else -_speed(one),
    )


def _speed(one: PlannedDevice) -> float:
    rate = one.row.projection.decode_tokens_per_s
    return rate.value if isinstance(rate, Interval) else 0.0


def _needs(
    planned: PlannedModel, groups: Mapping[_Group, Sequence[PlannedDevice]], asked: Asked
) -> LevelNeeds:
    order = sorted(groups, key=lambda group: (CHEAPEST_FIRST.index(group[0]), group[1:]))
    typical = [sorted(groups[group], key=_speed)[len(groups[group]) // 2] for group in order]
    memory = memory_fit(planned, asked.target, asked.options, available_bytes=None)
    read = math.fsum(planned_work(planned, Phase.DECODE).bytes_by_type.values())
    return LevelNeeds(
        level=planned.level,
        memory=memory,
        free_bytes=math.ceil(memory.need_bytes / (1 - HEADROOM_SHARE)),
        bytes_per_token=read,
        roof_bytes_per_s=read * asked.target.decode_tokens_per_s,
        bandwidths=tuple(_bandwidth_need(planned, one, asked) for one in typical),
        memories=_memory_needs(planned, [one for some in groups.values() for one in some], asked),
    )


def _bandwidth_need(planned: PlannedModel, like: PlannedDevice, asked: Asked) -> BandwidthNeed:
    """What a device like that one would need, its bandwidth and a GPU's compute scaled alike."""
    found = like.row.projection
    own = like.device.roof(found.accelerator)

    @functools.cache
    def rate(factor: float) -> Interval | None:
        device = _scaled(like.device, found.accelerator, factor)
        asking = dataclasses.replace(asked, accelerator=found.accelerator)
        decode = _projection(planned, device, asking, found.api).decode_tokens_per_s
        return decode if isinstance(decode, Interval) else None

    limit = asked.target.decode_tokens_per_s

    def smallest(end: Callable[[Interval], float]) -> float | None:
        """The bandwidth at which that end of the rate meets the target."""

        def reaches(factor: float) -> bool:
            decode = rate(factor)
            return decode is not None and end(decode) >= limit

        if own is None or not reaches(_WIDEST):
            return None
        low, high = -math.log(_WIDEST), math.log(_WIDEST)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if reaches(math.exp(middle)) else (middle, high)
        return own.value * math.exp(high)

    return BandwidthNeed(
        device_class=like.device.device_class,
        accelerator=found.accelerator,
        api=found.api,
        like=like.device.id,
        least=smallest(lambda rate: rate.high),
        likely=smallest(lambda rate: rate.value),
        sure=smallest(lambda rate: rate.low),
        confidence=found.confidence,
    )


def _projection(
    planned: PlannedModel, device: DeviceProfile, asked: Asked, api: str | None = None
) -> Projection:
    return project(
        planned,
        device,
        backend=asked.backend,
        accelerator=asked.accelerator,
        api=api or None,
        target=asked.target,
        options=asked.options,
    )


def _scaled(device: DeviceProfile, accelerator: str, factor: float) -> DeviceProfile:
    """The device with so many times the bandwidth and the stated operations per second."""

    def scaled(figure: Figure | None) -> Figure | None:
        if figure is None:
            return None
        return dataclasses.replace(figure, low=figure.low * factor, high=figure.high * factor)

    unit = device.accelerators[accelerator]
    device = _with_unit(
        device,
        dataclasses.replace(
            unit,
            bandwidth_bytes_per_s=scaled(unit.bandwidth_bytes_per_s),
            fp16_flop_per_s=scaled(unit.fp16_flop_per_s),
            fp32_flop_per_s=scaled(unit.fp32_flop_per_s),
            int8_op_per_s=scaled(unit.int8_op_per_s),
        ),
    )
    return dataclasses.replace(
        device, memory_bandwidth_bytes_per_s=scaled(device.memory_bandwidth_bytes_per_s)
    )


def _memory_needs(
    planned: PlannedModel, devices: Sequence[PlannedDevice], asked: Asked
) -> tuple[RamNeed, ...]:
    """The smallest memory for each system and class that the devices are of, and for cards."""
    seen: dict[tuple[str, str, str, bool], DeviceProfile] = {}
    for one in devices:
        accelerator = one.row.projection.accelerator
        own = bool(one.device.accelerators[accelerator].memory_bytes)
        kind = "" if own else one.device.device_class
        for system in ("",) if own else one.device.os:
            seen.setdefault((system, kind, accelerator, own), one.device)
    return tuple(
        RamNeed(
            system=system,
            device_class=kind,
            accelerator=accelerator,
            own=own,
            ram_bytes=_smallest_memory(planned, device, system, accelerator, asked),
        )
        for (system, kind, accelerator, own), device in sorted(
            seen.items(), key=lambda item: item[0]
        )
    )


def _smallest_memory(
    planned: PlannedModel, device: DeviceProfile, system: str, accelerator: str, asked: Asked
) -> int | None:
    if system:
        device = dataclasses.replace(device, os=(system,))
    fit = memory_fit(planned, asked.target, asked.options, available_bytes=None)
    for size in MEMORY_SIZES:
        free = usable_memory(device, size, accelerator)
        if free is None:
            continue
        if dataclasses.replace(fit, available_bytes=int(free.low)).kind is VerdictKind.VIABLE:
            return size
    return None
