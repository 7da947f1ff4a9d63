"""What an operating system leaves for one app, by the rules of `os.toml`, each with its source.

A system keeps some bytes for itself, or grants an app a share of the RAM; a card's own memory is
hardly shared. The figure is a range, since what else runs is not known. Where no rule is sourced,
there is no figure: absent is not zero.
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from dataclasses import dataclass
from importlib.resources import files

from .device_profile import Accelerator, DeviceProfile
from .figures import KINDS, MEMORY, Figure, parse_quantity
from .tables import Context, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What systems leave of RAM whose size lies above `ram_bytes[0]` and up to `ram_bytes[1]`.

    Empty `classes`, `makers`, `accelerators` and `gpu_names` (beginnings of names) stand for all.
    `entitled` is true or false for an app with or without Apple's increased-memory-limit
    entitlement, None where there is none. `share` is a part of the memory between 0 and 1;
    `taken_bytes` stays with the system. The smaller result counts where both are given.
    """

    systems: tuple[str, ...]
    classes: tuple[str, ...]
    makers: tuple[str, ...]
    accelerators: tuple[str, ...]
    gpu_names: tuple[str, ...]
    ram_bytes: tuple[float, float]
    own_memory: bool
    entitled: bool | None
    share: Figure | None
    taken_bytes: Figure | None


def usable_memory(
    device: DeviceProfile,
    ram_bytes: int | None = None,
    accelerator: str = "cpu",
    *,
    entitled: bool = True,
) -> Figure | None:
    """The bytes that one app can use on a device, None where nothing is known.

    `ram_bytes` is the size in question: the card's own memory for an accelerator that has it, else
    the system's; without it the smallest that is sold counts. A device that runs several systems
    gets the range over all of them. `entitled` says that an app on iOS asks for the larger limit.
    """
    unit = device.accelerators.get(accelerator)
    own = unit is not None and bool(unit.memory_bytes)
    sizes = unit.memory_bytes if unit is not None and own else device.ram_bytes
    size = ram_bytes if ram_bytes is not None else min(sizes, default=None)
    if size is None or size <= 0:
        return None
    if own:
        return _left(next(rule for rule in rules() if rule.own_memory), size)
    found = [
        _left(rule, size)
        for system in dict.fromkeys(name.split()[0] for name in device.os)
        if (rule := _rule(system, device, unit, accelerator, size, entitled)) is not None
    ]
    if not found:
        return None
    return functools.reduce(_hull, found)


def _hull(one: Figure, other: Figure) -> Figure:
    """The range over two figures, known as the less certain of them."""
    return dataclasses.replace(
        one,
        low=min(one.low, other.low),
        high=max(one.high, other.high),
        kind=max(one.kind, other.kind, key=KINDS.index),
        source=" ; ".join(dict.fromkeys(f"{one.source} ; {other.source}".split(" ; "))),
        as_of=min(one.as_of, other.as_of),
        note="; ".join(dict.fromkeys(filter(None, (one.note, other.note)))),
    )


def _rule(
    system: str,
    device: DeviceProfile,
    unit: Accelerator | None,
    accelerator: str,
    size: int,
    entitled: bool,
) -> Rule | None:
    for rule in rules():
        if (
            system in rule.systems
            and rule.ram_bytes[0] < size <= rule.ram_bytes[1]
            and (not rule.classes or device.device_class in rule.classes)
            and (not rule.makers or device.maker in rule.makers)
            and (not rule.accelerators or accelerator in rule.accelerators)
            and (not rule.gpu_names or (unit and unit.name.startswith(rule.gpu_names)))
            and rule.entitled in (None, entitled)
        ):
            return rule
    return None


def _left(rule: Rule, size: int) -> Figure:
    low = high = float(size)
    if rule.taken_bytes:
        low, high = size - rule.taken_bytes.high, size - rule.taken_bytes.low
    if rule.share:
        low, high = min(low, size * rule.share.low), min(high, size * rule.share.high)
    said = functools.reduce(_hull, filter(None, (rule.share, rule.taken_bytes)))
    return dataclasses.replace(said, low=max(low, 0.0), high=max(high, 0.0))


@functools.cache
def rules() -> tuple[Rule, ...]:
    """The rules in the order in which they count.

    Raises ValueError with each fault of the file.
    """
    text = files(__package__).joinpath("os.toml").read_text("utf-8")
    return parse_rules(text)


def parse_rules(text: str) -> tuple[Rule, ...]:
    """The rules of a file like `os.toml`. Raises ValueError with each of its faults."""
    faults: list[str] = []
    table = Table(tomllib.loads(text), "", faults, Context())
    day = table.date("as_of", required=True)
    if day:
        table.context.as_of = day
    table.context.sources = table.sources("sources")
    found = tuple(_read(entry) for entry in table.tables("rules"))
    table.done()
    if faults:
        raise ValueError("os.toml: " + " ".join(faults))
    return found


def _read(entry: Table) -> Rule:
    span = entry.text("ram")
    ram_bytes = (0.0, float("inf"))
    if span:
        try:
            ram_bytes = parse_quantity(span, MEMORY)
        except ValueError as error:
            entry.fault("ram", str(error))
    entitled = entry.flag("entitled")
    rule = Rule(
        systems=entry.texts("os"),
        classes=entry.texts("classes"),
        makers=entry.texts("makers"),
        accelerators=entry.texts("accelerators"),
        gpu_names=entry.texts("gpu_names"),
        ram_bytes=ram_bytes,
        own_memory=entry.flag("own_memory"),
        entitled=entitled if entry.has("entitled") else None,
        share=entry.figure("share"),
        taken_bytes=entry.figure("taken"),
    )
    if rule.share is None and rule.taken_bytes is None:
        entry.fault("share", "is missing, and so is taken: a rule says at least one of them")
    entry.done()
    return rule
