"""The profile of a device of one's own: a catalogued device's facts, else those of the host.

What a host tells of itself is little: cores, instructions, memory, and the bandwidth that was
measured. What it does not tell stays unknown. Nothing is read here.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import re
from typing import TYPE_CHECKING

from profiles.devices import Accelerator, Cluster, DeviceProfile, Figure, Product

from ..basis import Unavailable
from ..errors import FormatError, UsageError
from ..measurement import Host
from ..projection.claims import CACHED_BYTES
from ..units import GIB, format_bandwidth

if TYPE_CHECKING:
    from ..projection.own import PersonalDevice, PersonalRow

SOLD = tuple(
    size * GIB for size in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)
)
"""Sizes that memory is sold in; a kernel shows a little less than one of them."""
KEPT_BY_FIRMWARE = 0.12
"""The most of a memory that is gone before a system counts it: firmware, and what graphics take."""

_OTHER_MAKER = {"amd": "intel", "intel": "amd "}
"""The word in a processor's name that says it is not of that maker."""

TWICE = 2.0
"""Socketed memory is run faster than stated, but never by so much."""

_SYSTEMS = {"Linux": "Linux", "Darwin": "macOS", "Windows": "Windows"}

_CERTAIN = (
    ("sbc", "raspberry pi|rock ?(pi|5)|orange ?pi|odroid|jetson|banana ?pi|radxa|visionfive"),
    ("server", r"\bepyc\b|xeon.*(platinum|gold|silver|bronze|scalable|max)"),
    ("server", "neoverse|graviton|ampere-1|altra|kunpeng"),
    ("mobile", r"tensor g\d|dimensity|exynos|snapdragon [4678] "),
    ("laptop", r"snapdragon(\(r\))? x"),
    ("desktop", "threadripper"),
)
"""Words in a processor's or a board's name that leave no doubt. Others are in machines of several
classes: an Apple M4, a Core i7 and a Ryzen 7 are in laptops and in boxes alike."""


def certain_class(host: Host) -> str | None:
    """The class of a host where its name leaves no doubt, else None."""
    name = f"{host.cpu.lower()} "
    if host.virtualization and "xeon" in name:
        return "server"  # a hypervisor's name for whatever Xeon a server has
    return next((kind for kind, words in _CERTAIN if re.search(words, name)), None)


def slug(host: Host) -> str:
    """A short name for a host by its processor: `intel-core-i7-1165g7`, `raspberry-pi-5`."""
    text = re.sub(r"\((r|tm|c)\)|@.*$|\bwith\b.*$|\(.*?\)", " ", host.cpu.lower())
    text = re.sub(r"\b(cpu|processor|\d+-core|rev [\d.]+|model b)\b", " ", text)
    return re.sub(r"[^a-z0-9.]+", "-", text).strip("-.")[:48].rstrip("-.") or "device"


def base_id(base: DeviceProfile | None) -> str:
    """The name a base is found by again: its product's where one was asked for; empty for none."""
    if base is None:
        return ""
    return base.product.id if base.product else base.id


def refuse_other_machine(host: Host, base: DeviceProfile) -> None:
    """Raises UsageError when what the host says of itself contradicts the profile it is to have."""
    if "cpu" not in base.accelerators:
        return
    arm = host.machine.lower() in ("aarch64", "arm64", "armv7l", "armv8l")
    marks = {"neon", "sve", "dotprod"} if not arm else {"sse4_2", "avx", "avx2", "avx512f"}
    found = ""
    if found_isa := sorted(marks & {name.lower() for name in base.isa}):
        found = f"The host is {host.machine}, and {base.label} has {found_isa[0]}"
    elif base.ram_bytes and host.ram_bytes > max(base.ram_bytes):
        sold = max(base.ram_bytes) / GIB
        found = f"The host has {host.ram_bytes / GIB:.1f} GiB, and {base.label} at most {sold:g} GB"
    elif base.cores is not None and (host.cores_physical or 0) > base.cores:
        found = f"The host has {host.cores_physical} cores, and {base.label} {base.cores}"
    elif _OTHER_MAKER.get(base.maker.lower(), "\n") in host.cpu.lower():
        found = f"The host is {host.cpu}, and {base.label} is made by {base.maker}"
    if found:
        raise UsageError(
            "These measurements were not made on that device.",
            cause=f"{found}.",
            way_out="Leave --device out, or name another: edge devices lists them.",
        )


def refuse_impossible_rates(device: PersonalDevice, base: DeviceProfile) -> None:
    """Raises UsageError for a measured rate that the memory of such a device cannot give.

    Decoding reads every weight for each token. A machine's memory may be somewhat faster than what
    is stated of its kind; one of twice the bandwidth is another machine, or the file was edited.
    """
    for row in device.rows:
        roof, (reached, _) = base.roof(row.accelerator), _reached_bytes_per_s(row)
        if roof is not None and reached > TWICE * roof.high:
            raise UsageError(
                f"{row.model} at {row.level} was never so fast on {base.label}: that is physically"
                " impossible.",
                cause=f"It takes {format_bandwidth(reached)}, and its memory moves"
                f" {format_bandwidth(roof.high)} ({roof.kind}).",
                way_out="Leave --device out, or name another: edge devices lists them.",
            )


def _reached_bytes_per_s(row: PersonalRow) -> tuple[float, float]:
    """What a row read from the memory, bytes/s, at least and at most; 0 if a cache may have it."""
    read = math.fsum(part.bytes for part in row.reads)
    rate = row.decode_tokens_per_s
    return (read * rate.low, read * rate.high) if rate and read > CACHED_BYTES else (0.0, 0.0)


def profile_of(device: PersonalDevice) -> DeviceProfile:
    """The profile of a device of one's own.

    With a base it is one more product of that. Raises FormatError when the base is not known any
    more, or the file gives a day that is none.
    """
    as_of = _day(device.created)
    host = device.host
    own = _host_profile(device, as_of)
    if not device.base:
        return own
    from profiles.devices import device as catalogued

    try:
        base = catalogued(device.base)
    except ValueError as error:
        raise FormatError(f"Its base is not known: {error}") from None
    if "cpu" not in base.accelerators:
        # A card has no processor: that is the host's.
        base = dataclasses.replace(
            base,
            clusters=own.clusters,
            isa=own.isa,
            isa_source=own.isa_source,
            ram_bytes=own.ram_bytes,
            ram_source=own.ram_source,
            memory_bandwidth_bytes_per_s=own.memory_bandwidth_bytes_per_s,
            accelerators={**own.accelerators, **base.accelerators},
        )
    told = " ".join(filter(None, (base.note, own.note, _bandwidth_words(device))))
    return dataclasses.replace(base, note=told).as_product(
        Product(
            id=device.id,
            name=device.name,
            ram_bytes=(_memory(host, base.ram_bytes),),
            battery_j=base.battery_j,
            os=_SYSTEMS.get(host.system, ""),
            source=own.ram_source,
            note="",
        )
    )


def _bandwidth_words(device: PersonalDevice) -> str:
    """What the memory reads, beside the base's figure: that is what published rows are held by."""
    if isinstance(device.bandwidth, Unavailable):
        return ""
    return f"Its memory read {format_bandwidth(device.bandwidth.bytes_per_s.value)} when measured."


def _host_profile(device: PersonalDevice, as_of: dt.date) -> DeviceProfile:
    host = device.host
    source = f"edge check on the device itself, {as_of.isoformat()}"
    cores = min(host.cores_usable, host.cores_physical or host.cores_usable)
    system = _SYSTEMS.get(host.system)
    return DeviceProfile(
        id=device.id,
        name=device.name,
        maker="",
        device_class=device.device_class,
        soc=host.cpu,
        os=(system,) if system else (),
        clusters=(Cluster(name=host.cpu, count=cores, max_hz=device.clock_hz),),
        isa=host.isa,
        isa_source=source,
        ram_bytes=(_memory(host, SOLD),),
        ram_source=source,
        memory_type="",
        memory_bandwidth_bytes_per_s=_bandwidth(device, source, as_of),
        accelerators={"cpu": Accelerator(kind="cpu", name=host.cpu), **_gpu(device)},
        power_modes=(),
        tdp_w=None,
        sustained_w=None,
        battery_j=None,
        products=(),
        aliases=(),
        sources={"host": source},
        as_of=as_of,
        note=f"{sum(r.counts for r in device.rows)} of {len(device.rows)} measurements made on it "
        "count for its projections.",
    )


def _memory(host: Host, sizes: tuple[int, ...]) -> int:
    """The size the memory was sold as, where it is nearly one of those; else what the host has."""
    fitting = [size for size in sizes if host.ram_bytes <= size]
    if fitting and host.ram_bytes >= (1 - KEPT_BY_FIRMWARE) * min(fitting):
        return min(fitting)
    return host.ram_bytes


def _bandwidth(device: PersonalDevice, source: str, as_of: dt.date) -> Figure | None:
    if isinstance(device.bandwidth, Unavailable):
        return None
    reading = device.bandwidth
    # Slower passes were disturbed, and all of them may have been: what bounds a device is the most
    # that it was ever seen to read, be it by a model.
    reached = [_reached_bytes_per_s(row) for row in device.rows if row.accelerator == "cpu"]
    return Figure(
        low=max([reading.bytes_per_s.value, *(low for low, _ in reached)]),
        high=max([reading.bytes_per_s.high, *(high for _, high in reached)]),
        kind="measured",
        source=source,
        as_of=as_of,
        note=f"median to fastest of passes with {reading.threads} threads: {reading.method}",
    )


def _gpu(device: PersonalDevice) -> dict[str, Accelerator]:
    """The graphics part, where it is certain whose memory it has.

    Apple's shares the system's, a card that CUDA reaches has its own unless it is a board's.
    """
    from ..projection.own_rows import APIS

    for gpu in device.host.gpus:
        api = APIS.get(re.sub(r"[\d_].*$", "", gpu.name).lower())
        own = (gpu.memory_bytes,) if gpu.memory_bytes else ()
        if api == "metal":
            own = ()
        elif api != "cuda" or device.device_class == "sbc" or not own:
            continue
        name = gpu.description or gpu.name
        return {"gpu": Accelerator(kind="gpu", name=name, apis=(api,), memory_bytes=own)}
    return {}


def _day(created: str) -> dt.date:
    try:
        return dt.date.fromisoformat(created[:10])
    except ValueError:
        raise FormatError(f"Its date is none: {created[:40]!r}.") from None
