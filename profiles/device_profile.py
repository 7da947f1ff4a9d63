"""What a device is: clusters, accelerators, memory, power, and the products it is sold as.

A profile is a system on chip, a board, a computer or a card; phones and computers built around it
are its products. Everything is SI, and None or an empty tuple where nothing is known: absent is not
zero. The records know no file and no catalogue, and refuse to know what a model does on them.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from .figures import Figure

CLASSES = ("mobile", "sbc", "laptop", "desktop", "gpu", "server")
ACCELERATORS = ("cpu", "gpu", "npu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Processor cores of one kind; `max_hz` is their highest stated clock."""

    name: str
    count: int
    max_hz: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """What computes: the processor cores, the graphics part or card, the neural unit.

    `apis` are the ways llama.cpp or another engine reaches it. `memory_bytes` is the own memory of
    a discrete card, one number per variant that is sold; empty where it shares the system's.
    `bandwidth_bytes_per_s` is what it itself can reach; None means: nothing is known beyond the
    roof of the memory. Operations are dense, a multiplication and an addition counting as two.
    """

    kind: str
    name: str
    apis: tuple[str, ...] = ()
    memory_bytes: tuple[int, ...] = ()
    memory_type: str = ""
    bandwidth_bytes_per_s: Figure | None = None
    fp16_flop_per_s: Figure | None = None
    fp32_flop_per_s: Figure | None = None
    int8_op_per_s: Figure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerMode:
    """A power setting its owner can choose, and what the memory gives in it where that is known."""

    name: str
    limit_w: Figure | None
    bandwidth_bytes_per_s: Figure | None
    default: bool
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What one can buy with the device in it; what it leaves open is as the device has it."""

    id: str
    name: str
    ram_bytes: tuple[int, ...]
    battery_j: Figure | None
    os: str
    source: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """What is known of a device.

    `ram_bytes` are the sizes it is sold with. `isa` are the instructions that select a kernel, by
    the names `edge doctor` prints. `product` is the one that was asked for by its id; memory sizes,
    battery and system are then that product's wherever it states them.
    """

    id: str
    name: str
    maker: str
    device_class: str
    soc: str
    os: tuple[str, ...]
    clusters: tuple[Cluster, ...]
    isa: tuple[str, ...]
    isa_source: str
    ram_bytes: tuple[int, ...]
    ram_source: str
    memory_type: str
    memory_bandwidth_bytes_per_s: Figure | None
    accelerators: Mapping[str, Accelerator]
    power_modes: tuple[PowerMode, ...]
    tdp_w: Figure | None
    sustained_w: Figure | None
    battery_j: Figure | None
    products: tuple[Product, ...]
    aliases: tuple[str, ...]
    sources: Mapping[str, str]
    as_of: dt.date
    note: str = ""
    product: Product | None = None

    @property
    def label(self) -> str:
        """What people call it: the product's name where one was asked for."""
        return self.product.name if self.product else self.name

    @property
    def cores(self) -> int | None:
        """Processor cores of all clusters, None where they are unknown."""
        return sum(cluster.count for cluster in self.clusters) or None

    def roof(self, accelerator: str) -> Figure | None:
        """The bandwidth that bounds an accelerator, bytes/s; None where none is known.

        Its own where that is known, else that of the memory it shares. A card's own memory is not
        the system's, so a card whose bandwidth is unknown has no roof.
        """
        unit = self.accelerators.get(accelerator)
        if unit is None:
            return None
        if unit.bandwidth_bytes_per_s or unit.memory_bytes:
            return unit.bandwidth_bytes_per_s
        return self.memory_bandwidth_bytes_per_s

    def as_product(self, product: Product) -> DeviceProfile:
        """The same device as that product has it."""
        return dataclasses.replace(
            self,
            product=product,
            ram_bytes=product.ram_bytes or self.ram_bytes,
            ram_source=product.source if product.ram_bytes else self.ram_source,
            battery_j=product.battery_j or self.battery_j,
            os=(product.os,) if product.os else self.os,
        )
