"""Which facts of one device cannot all be true: each pair of them as one sentence.

Nothing reads or writes faster than the memory it works on; a bus moves its width times its rate; an
id names one thing. A sentence says both facts, since either may be the wrong one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from .device_profile import Accelerator, DeviceProfile
from .figures import Figure

_ROUNDED = 1.01
"""Data sheets round: 34.1 GB/s are 34.128."""

_RATE = re.compile(r"DDR\dX?-(\d{4,5})\b")
_WIDTH = re.compile(r"\b(\d{2,4})-bit")


def contradictions(device: DeviceProfile) -> tuple[str, ...]:
    """The sentences about one device, none where all its facts can be true together."""
    return tuple(_about(device))


def repeated_names(
    devices: Mapping[Path, DeviceProfile], others: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[Path, str]]:
    """The file and the sentence for each name that another file has too.

    `others` are names and the files they stand in besides.
    """
    first = dict(others)
    for file, device in devices.items():
        for name in names_of(device):
            other = first.setdefault(name, str(file))
            if other != str(file):
                yield file, f'"{name}" is a name in {other} too; a name is one device\'s.'


def names_of(device: DeviceProfile) -> tuple[str, ...]:
    """All names a device can be asked for by: its id, its aliases, its products."""
    return (device.id, *device.aliases, *(product.id for product in device.products))


def _about(device: DeviceProfile) -> Iterator[str]:
    for name, times in Counter(names_of(device)).items():
        if times > 1:
            yield f'"{name}" is a name of {times} things in this file; a name is one thing\'s.'
    if not device.accelerators:
        yield "it has neither [cpu] nor an accelerator: nothing in it computes."
    if device.device_class == "gpu" and "gpu" not in device.accelerators:
        yield "class is gpu, but there is no [accelerators.gpu]."
    for kind, unit in device.accelerators.items():
        yield from _about_accelerator(device, kind, unit)
    memory = device.memory_bandwidth_bytes_per_s
    if memory:
        yield from _about_bus(device.memory_type, memory, "memory.bandwidth")
        for mode in device.power_modes:
            if mode.bandwidth_bytes_per_s and _above(mode.bandwidth_bytes_per_s, memory):
                yield (
                    f'power mode "{mode.name}" has {_gb(mode.bandwidth_bytes_per_s)}, more than '
                    f"the memory's {_gb(memory)}: a power mode adds no bandwidth."
                )
    if sum(mode.default for mode in device.power_modes) > 1:
        yield "several power modes are the default; at most one is."
    yield from _about_products(device)


def _about_accelerator(device: DeviceProfile, kind: str, unit: Accelerator) -> Iterator[str]:
    own = unit.bandwidth_bytes_per_s
    if unit.memory_bytes:
        if kind == "cpu":
            yield "accelerators.cpu has memory; what the processor uses stands in [memory]."
        if own:
            yield from _about_bus(unit.memory_type, own, f"accelerators.{kind}.bandwidth")
        return
    memory = device.memory_bandwidth_bytes_per_s
    if own and memory and _above(own, memory):
        yield (
            f"accelerators.{kind}.bandwidth is {_gb(own)}, above the {_gb(memory)} of the memory "
            "it shares: nothing reads faster than the memory, so this is physically impossible."
        )


def _about_bus(memory_type: str, stated: Figure, field: str) -> Iterator[str]:
    """A data rate in MT/s and a width in bits say the bandwidth: rate x width / 8.

    Of several kinds of memory the fastest bounds it from above, the slowest from below.
    """
    rates = [int(rate) for rate in _RATE.findall(memory_type)]
    width = _WIDTH.search(memory_type)
    if not rates or width is None:
        return
    bits = int(width[1])
    if stated.high > _peak(max(rates), bits) * _ROUNDED:
        yield f"{field} is {_gb(stated)}, but the memory moves at most {_sum(max(rates), bits)}."
    elif stated.kind in ("stated", "derived") and stated.high < _peak(min(rates), bits) / 1.9:
        yield (
            f"{field} is {_gb(stated)}, about half or less of {_sum(min(rates), bits)}: the width, "
            "the rate or the figure is wrong."
        )


def _peak(mega_transfers_per_s: int, bits: int) -> float:
    return mega_transfers_per_s * 1e6 * bits / 8


def _sum(mega_transfers_per_s: int, bits: int) -> str:
    peak = _peak(mega_transfers_per_s, bits) / 1e9
    return f"{mega_transfers_per_s} MT/s x {bits} bit / 8 = {peak:.4g} GB/s"


def _about_products(device: DeviceProfile) -> Iterator[str]:
    if not device.ram_bytes:
        return
    for product in device.products:
        extra = set(product.ram_bytes) - set(device.ram_bytes)
        if extra:
            yield (
                f"product {product.id} is sold with {_gib(extra)}, which memory.sizes "
                f"({_gib(device.ram_bytes)}) lacks."
            )


def _above(figure: Figure, roof: Figure) -> bool:
    # What was measured above the roof at its upper end is as impossible as a stated figure.
    return figure.high > roof.high * _ROUNDED


def _gb(figure: Figure) -> str:
    if figure.exact:
        return f"{figure.low / 1e9:.4g} GB/s"
    return f"{figure.low / 1e9:.4g} to {figure.high / 1e9:.4g} GB/s"


def _gib(sizes: Iterable[int]) -> str:
    return ", ".join(f"{size / 2**30:g} GB" for size in sorted(sizes))
