"""Reads a device's TOML file into its profile, or says everything that is wrong with it.

How the file is written is in `devices/README.md`. Files come from anyone: a size is bounded before
it is read, an unknown key is a fault and no silence, and each fault is one sentence that names its
place. Whether the figures of a sound file can all be true is the question of `contradictions`.
"""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .contradictions import contradictions
from .device_profile import (
    ACCELERATORS,
    CLASSES,
    Accelerator,
    Cluster,
    DeviceProfile,
    PowerMode,
    Product,
)
from .tables import NAME, Context, Table, shown

MOST_BYTES = 1 << 16
SYSTEMS = ("Android", "iOS", "iPadOS", "macOS", "Linux", "Windows", "ChromeOS", "visionOS")
APIS = (
    "cuda", "metal", "vulkan", "rocm", "opencl", "sycl", "hexagon", "cann", "musa",
    "ane", "coreml", "rknn", "qnn", "openvino", "litert", "xdna", "hailo", "directml", "webgpu",
    "tensorrt", "neuropilot", "edgetpu", "executorch", "axelera", "rebellions",
)  # fmt: skip
FEATURES = (
    "neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2", "sve_i8mm", "sme", "sme2",
    "sse4_2", "avx", "f16c", "fma", "bmi2", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl",
    "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "rvv",
)  # fmt: skip
# A text that is never closed ends with its line, so that each character is looked at once.
_SAID = re.compile(r"""'[^'\n]*'?|"(?:[^"\\\n]|\\.)*"?|\#[^\n]*""")
_LONG_KEY = re.compile(r"(?:\.[^.=,{}\[\]\n]*){16}")


class DeviceFileError(ValueError):
    """A device file is not what it must be: every fault, one sentence each, in `faults`."""

    def __init__(self, file: str, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        more = len(self.faults) - 1
        rest = f" ({more} more fault{'s' if more > 1 else ''} in this file.)" if more else ""
        super().__init__(f"{file}: {self.faults[0]}{rest}")


def read_device(file: Traversable | Path) -> DeviceProfile:
    """Reads and checks one file.

    Raises DeviceFileError, a ValueError, naming the file, the field, what is wrong and what would
    be right; OSError where the file cannot be read.
    """
    with file.open("rb") as stream:
        raw = stream.read(MOST_BYTES + 1)
    return parse_device(raw, file.name)


def read_own_device(path: Path) -> DeviceProfile:
    """Reads and checks a user's file. Raises DeviceFileError, also where it cannot be read."""
    if "\0" in str(path):
        raise DeviceFileError(path.name, ["a file's name has no null character."])
    try:
        # A pipe would be waited for, a device read without end.
        if path.exists() and not path.is_file():
            raise DeviceFileError(str(path), ["it is no file."])
        return read_device(path)
    except OSError as error:
        reason = error.strerror or error
        raise DeviceFileError(str(path), [f"it cannot be read: {reason}."]) from error


def parse_device(raw: bytes, file: str) -> DeviceProfile:
    """The profile that the bytes of a file named `file` describe. Raises DeviceFileError."""
    if len(raw) > MOST_BYTES:
        raise DeviceFileError(
            file, [f"it has over {MOST_BYTES} bytes; a device takes a few thousand."]
        )
    try:
        text = raw.decode("utf-8")
        _refuse_slow(text)
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        reason = "its brackets are nested too deeply" if deep else error
        raise DeviceFileError(file, [f"it is no TOML file of a device: {reason}."]) from error
    faults: list[str] = []
    profile = _profile(Table(data, "", faults, Context()))
    if not faults:
        if file != f"{profile.id}.toml":
            faults.append(
                f'its id is "{profile.id}"; a file is named after its id, {profile.id}.toml.'
            )
        faults += contradictions(profile)
    if faults:
        raise DeviceFileError(file, faults)
    return profile


def _refuse_slow(text: str) -> None:
    """Raises ValueError for keys of very many parts: tomllib takes minutes for 50,000 of them.

    Texts and comments are left out of account, and texts of several lines are refused: what follows
    one cannot be told from it without reading all.
    """
    if '"""' in text or "'''" in text:
        raise ValueError("a text stands in one line, so it needs no three quotes")
    if _LONG_KEY.search(_SAID.sub('""', text)):
        raise ValueError("a key has very many parts")


def _profile(table: Table) -> DeviceProfile:
    context = table.context
    context.as_of = table.date("as_of", required=True) or dt.date.min
    context.sources = table.sources("sources")
    ident = table.name("id")
    aliases = table.texts("aliases")
    for alias in aliases:
        if not NAME.fullmatch(alias) or alias == ident:
            table.fault(
                "aliases", f"has {shown(alias)}; an alias is another id: letters, digits, . and -"
            )
    clusters, isa, isa_source, has_cpu = _cpu(table)
    memory = table.table("memory")
    ram: tuple[int, ...] = ()
    ram_source, memory_type, bandwidth = "", "", None
    if memory is not None:
        ram = memory.sizes("sizes")
        ram_source = memory.source("sizes_source", required=bool(ram))
        memory_type = memory.text("type")
        bandwidth = memory.figure("bandwidth")
        memory.done()
    name = table.text("name", required=True)
    device_class = table.text("class", required=True)
    if device_class and device_class not in CLASSES:
        table.fault("class", f'is "{device_class[:40]}"; it is one of {", ".join(CLASSES)}')
    soc = table.text("soc")
    accelerators = _accelerators(table, has_cpu, soc)
    power = _power(table)
    profile = DeviceProfile(
        id=ident,
        name=name,
        maker=table.text("maker"),
        device_class=device_class,
        soc=soc,
        os=_systems(table),
        clusters=clusters,
        isa=isa,
        isa_source=isa_source,
        ram_bytes=ram,
        ram_source=ram_source,
        memory_type=memory_type,
        memory_bandwidth_bytes_per_s=bandwidth,
        accelerators=accelerators,
        products=tuple(_product(product) for product in table.tables("products")),
        aliases=aliases,
        sources=context.sources,
        as_of=context.as_of,
        note=table.text("note"),
        **power,
    )
    table.done()
    return profile


def _systems(table: Table) -> tuple[str, ...]:
    return tuple(_system(table, system) for system in table.texts("os"))


def _system(table: Table, system: str) -> str:
    if system and system.split(maxsplit=1)[0] not in SYSTEMS:
        table.fault("os", f'is "{system[:40]}"; it begins with one of {", ".join(SYSTEMS)}')
    return system


def _cpu(table: Table) -> tuple[tuple[Cluster, ...], tuple[str, ...], str, bool]:
    cpu = table.table("cpu")
    if cpu is None:
        return (), (), "", False
    clusters = []
    for entry in cpu.tables("clusters"):
        clusters.append(
            Cluster(
                name=entry.text("name", required=True),
                count=entry.count("count"),
                max_hz=entry.frequency("max"),
            )
        )
        entry.done()
    isa = cpu.texts("isa", FEATURES)
    source = cpu.source("source", required=bool(clusters or isa))
    cpu.done()
    return tuple(clusters), isa, source, True


def _accelerators(table: Table, has_cpu: bool, soc: str) -> Mapping[str, Accelerator]:
    found: dict[str, Accelerator] = {"cpu": Accelerator(kind="cpu", name=soc)} if has_cpu else {}
    tables = table.table("accelerators")
    if tables is None:
        return MappingProxyType(found)
    for kind in ACCELERATORS:
        entry = tables.table(kind)
        if entry is None:
            continue
        found[kind] = Accelerator(
            kind=kind,
            name=entry.text("name") or (soc if kind == "cpu" else ""),
            apis=entry.texts("apis", APIS),
            memory_bytes=entry.sizes("memory"),
            memory_type=entry.text("memory_type"),
            bandwidth_bytes_per_s=entry.figure("bandwidth"),
            fp16_flop_per_s=entry.figure("fp16"),
            fp32_flop_per_s=entry.figure("fp32"),
            int8_op_per_s=entry.figure("int8"),
        )
        entry.done()
    tables.done()
    return MappingProxyType(found)


def _power(table: Table) -> dict[str, Any]:
    power = table.table("power")
    if power is None:
        return {"tdp_w": None, "sustained_w": None, "battery_j": None, "power_modes": ()}
    modes = []
    for entry in power.tables("modes"):
        modes.append(
            PowerMode(
                name=entry.text("name", required=True),
                limit_w=entry.figure("limit"),
                bandwidth_bytes_per_s=entry.figure("bandwidth"),
                default=entry.flag("default"),
                note=entry.text("note"),
            )
        )
        entry.done()
    facts = {
        "tdp_w": power.figure("tdp"),
        "sustained_w": power.figure("sustained"),
        "battery_j": power.figure("battery"),
        "power_modes": tuple(modes),
    }
    power.done()
    return facts


def _product(entry: Table) -> Product:
    sizes = entry.sizes("sizes")
    product = Product(
        id=entry.name("id"),
        name=entry.text("name", required=True),
        ram_bytes=sizes,
        battery_j=entry.figure("battery"),
        os=_system(entry, entry.text("os")),
        source=entry.source("source", required=True),
        note=entry.text("note"),
    )
    entry.done()
    return product
