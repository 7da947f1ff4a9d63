"""The known devices as records for JSON: SI units in the keys, null for what is unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from profiles.device_profile import ACCELERATORS, Accelerator, DeviceProfile, PowerMode, Product
from profiles.figures import Figure, figure_record

Record = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """What a system leaves for one app on an accelerator: of a size of memory, in bytes."""

    accelerator: str
    memory_bytes: int
    usable_bytes: Figure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSheet:
    """A device with what is known of it elsewhere; `published` counts others' measurements."""

    device: DeviceProfile
    usable: tuple[Usable, ...]
    published: int


def devices_record(devices: Iterable[DeviceProfile], published: Mapping[str, int]) -> list[Record]:
    """The catalogue as a list, one short record per device."""
    return [
        {
            "id": device.id,
            "name": device.name,
            "class": device.device_class,
            "aliases": list(device.aliases),
            "products": [product.id for product in device.products],
            "os": list(device.os),
            "ram_bytes": list(device.ram_bytes),
            "card_memory_bytes": list(card_memory(device)),
            "roof_bytes_per_s": {n: figure_record(device.roof(n)) for n in ACCELERATORS},
            "published_measurements": published.get(device.id, 0),
        }
        for device in devices
    ]


def device_record(sheet: DeviceSheet) -> Record:
    """One device with every figure's range, kind, source and day."""
    device = sheet.device
    product = device.product
    return {
        "id": device.id,
        "name": device.name,
        "product": None if product is None else {"id": product.id, "name": product.name},
        "maker": device.maker or None,
        "class": device.device_class,
        "soc": device.soc or None,
        "os": list(device.os),
        "aliases": list(device.aliases),
        "as_of": device.as_of.isoformat(),
        "clusters": [
            {"name": c.name, "count": c.count, "max_hz": c.max_hz} for c in device.clusters
        ],
        "isa": list(device.isa),
        "isa_source": device.isa_source or None,
        "ram_bytes": list(device.ram_bytes),
        "ram_source": device.ram_source or None,
        "memory_type": device.memory_type or None,
        "memory_bandwidth_bytes_per_s": figure_record(device.memory_bandwidth_bytes_per_s),
        "accelerators": {
            name: _accelerator(device, unit) for name, unit in device.accelerators.items()
        },
        "usable": [
            {
                "accelerator": usable.accelerator,
                "memory_bytes": usable.memory_bytes,
                "usable_bytes": figure_record(usable.usable_bytes),
            }
            for usable in sheet.usable
        ],
        "tdp_w": figure_record(device.tdp_w),
        "sustained_w": figure_record(device.sustained_w),
        "battery_j": figure_record(device.battery_j),
        "power_modes": [_mode(mode) for mode in device.power_modes],
        "products": [_product(product) for product in device.products],
        "note": device.note or None,
        "published_measurements": sheet.published,
    }


def card_memory(device: DeviceProfile) -> tuple[int, ...]:
    """The sizes of a discrete card's own memory, none where the device has no such card."""
    return next((u.memory_bytes for u in device.accelerators.values() if u.memory_bytes), ())


def _accelerator(device: DeviceProfile, unit: Accelerator) -> Record:
    return {
        "name": unit.name or None,
        "apis": list(unit.apis),
        "memory_bytes": list(unit.memory_bytes),
        "memory_type": unit.memory_type or None,
        "bandwidth_bytes_per_s": figure_record(unit.bandwidth_bytes_per_s),
        "roof_bytes_per_s": figure_record(device.roof(unit.kind)),
        "fp16_flop_per_s": figure_record(unit.fp16_flop_per_s),
        "fp32_flop_per_s": figure_record(unit.fp32_flop_per_s),
        "int8_op_per_s": figure_record(unit.int8_op_per_s),
    }


def _mode(mode: PowerMode) -> Record:
    return {
        "name": mode.name,
        "limit_w": figure_record(mode.limit_w),
        "bandwidth_bytes_per_s": figure_record(mode.bandwidth_bytes_per_s),
        "default": mode.default,
        "note": mode.note or None,
    }


def _product(product: Product) -> Record:
    return {
        "id": product.id,
        "name": product.name,
        "ram_bytes": list(product.ram_bytes),
        "battery_j": figure_record(product.battery_j),
        "os": product.os or None,
        "source": product.source,
        "note": product.note or None,
    }
