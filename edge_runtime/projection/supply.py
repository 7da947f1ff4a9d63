"""What a device supplies to an engine: the roof of its memory, and what its arithmetic units do.

From a device profile and the way it is reached. What the profile leaves open is taken from what is
typical, with the spread of that, and said in an assumption. No model is known here.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from profiles.cores import cores
from profiles.devices import DeviceProfile, Figure

CPU, GPU, NPU = KINDS = ("cpu", "gpu", "npu")

FIGURE_SIGMAS = 2 * 1.28
"""The ends of a figure's range are taken as the 10th and 90th percentile of what it may be."""

USUAL_THREADS = 8
"""Threads of a processor that is like most; those of one whose cores are not known."""

INT8_PER_FP16, INT8_PER_FP32 = 2.0, 4.0
"""Operations of 8 bits where a graphics part states only wider ones: as many as fit their place."""

UNKNOWN_SPREAD = 0.05
"""Where no device tells, the coefficients of the kind hold the ratio: little is left open."""

LLAMA_CPP, ONNX_RUNTIME = "llama.cpp", "onnx-runtime"
LINEAGE: Mapping[str, str] = {
    **dict.fromkeys(("llama.cpp", "llama_cpp", "ollama", "llamafile", "lm-studio"), LLAMA_CPP),
    **dict.fromkeys(("onnx", "onnxruntime", "onnx runtime", "onnx-runtime"), ONNX_RUNTIME),
}
"""Engines that are another under another name, and how the names are typed."""

APIS = ("cuda", "metal", "rocm", "vulkan", "sycl", "opencl", "cann", "musa", "hexagon")
"""The ways to reach an accelerator that llama.cpp has."""

NO_FLASH_ATTENTION = ("llamafile", "lm-studio")
"""Builds of llama.cpp that were run without its fused attention: context costs them far more."""

MANY_MAKERS = ("vulkan", "opencl")
_MAKERS = (
    ("nvidia", "nvidia"), ("geforce", "nvidia"), ("rtx", "nvidia"), ("tesla", "nvidia"),
    ("radeon", "amd"), ("amd", "amd"), ("adreno", "qualcomm"), ("mali", "arm"),
    ("immortalis", "arm"), ("arc", "intel"), ("iris", "intel"), ("intel", "intel"),
    ("uhd", "intel"), ("powervr", "imagination"), ("videocore", "broadcom"), ("apple", "apple"),
    ("xclipse", "samsung"), ("img", "imagination"),
)  # fmt: skip
"""Makers of graphics parts by a word in the part's name."""

_X86 = (("avx512", "avx512"), ("avx2", "avx2"), ("avx", "avx"), ("sse", "sse"))
_ARM = (("i8mm", "i8mm"), ("dotprod", "dotprod"), ("neon", "neon"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How a model reaches the arithmetic: accelerator, engine and API, as `gpu/llama.cpp/cuda`.

    `hardware` is what else decides the kernels: the best instruction set of a processor, the maker
    of a graphics part that is reached through an API of many makers. `build` names the engine that
    it is a build of, where that matters.
    """

    kind: str
    engine: str
    api: str
    hardware: str = ""
    build: str = ""

    @classmethod
    def on(cls, device: DeviceProfile, kind: str, engine: str, api: str) -> Route:
        """The route of an engine, by the name it goes by, on a device."""
        name = engine.strip().lower()
        return cls(
            kind=kind,
            engine=lineage(engine),
            api="" if kind == CPU else api,
            hardware=_hardware(device, kind, api),
            build=name if name in NO_FLASH_ATTENTION else "",
        )

    @property
    def path(self) -> str:
        """The name of the group of measurements it belongs to."""
        return "/".join(part for part in (self.kind, self.engine, self.api) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What a route has to work with.

    `bandwidth_bytes_per_s` is the roof of the memory; `compute_per_s` floating-point operations of
    32 bits for graphics parts (of a prompt: 8-bit ones of their matrix units), clock ticks of all
    cores used for processors, and in proportion to the bandwidth where neither is known. The
    spreads are standard deviations of the logarithms. `threads` work on a processor.
    """

    device: str
    device_class: str
    route: Route
    bandwidth_bytes_per_s: float
    bandwidth_spread: float
    compute_per_s: float
    compute_spread: float
    compute_known: bool
    threads: int = USUAL_THREADS
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Typical:
    """Operations per byte of bandwidth as the known devices have them, and their spread."""

    per_byte: float
    spread: float


def lineage(engine: str) -> str:
    """The engine whose measurements a name's belong with: `Ollama` is llama.cpp."""
    name = engine.strip().lower()
    return LINEAGE.get(name, name.replace(" ", "-").replace("_", "-"))


def supply_of(
    device: DeviceProfile,
    route: Route,
    typical: Typical,
    *,
    threads: int | None = None,
    prompt: bool = False,
) -> Supply | None:
    """What a device supplies on a route; None when no roof of its memory is known.

    A `prompt` is evaluated by the matrix units of a graphics part where it has them.
    """
    roof = device.roof(route.kind)
    if roof is None:
        return None
    notes: tuple[str, ...] = ()
    known = _compute(device, route.kind, threads, prompt=prompt)
    if known is None:
        compute, spread = roof.value * typical.per_byte, typical.spread
        notes = tuple(filter(None, (_UNKNOWN_COMPUTE[route.kind],)))
    else:
        compute, spread = known
    if route.kind == CPU:
        working = "All cores work" if threads is None else f"The {threads} fastest cores work"
        notes = (*notes, f"{working}, and nothing else does.")
    return Supply(
        device=device.id,
        device_class=device.device_class,
        route=route,
        bandwidth_bytes_per_s=roof.value,
        bandwidth_spread=spread_of(roof),
        compute_per_s=compute,
        compute_spread=spread,
        compute_known=known is not None,
        threads=threads or device.cores or USUAL_THREADS,
        notes=notes,
    )


_UNKNOWN_COMPUTE: Mapping[str, str] = {
    CPU: "The clocks of the cores are not known; typical ones for the bandwidth are assumed.",
    GPU: "What the graphics part computes is not known; a usual rate for its bandwidth is assumed.",
    NPU: "",
}


def typical_of(devices: Iterable[DeviceProfile], kind: str, *, prompt: bool = False) -> Typical:
    """Operations per byte of bandwidth over the devices of which both are known.

    The median, and the standard deviation of the logarithms. One operation per byte where none are
    known: what matters then is in proportion to the bandwidth.
    """
    found = []
    for device in devices:
        roof, compute = device.roof(kind), _compute(device, kind, None, prompt=prompt)
        if roof is not None and compute is not None:
            found.append(math.log(compute[0] / roof.value))
    if not found:
        return Typical(per_byte=1.0, spread=UNKNOWN_SPREAD)
    return Typical(per_byte=math.exp(statistics.median(found)), spread=statistics.pstdev(found))


def spread_of(figure: Figure) -> float:
    """The standard deviation of the logarithm of a figure whose range is known."""
    return math.log(figure.high / figure.low) / FIGURE_SIGMAS


def instructions_of(device: DeviceProfile) -> str:
    """The best instruction set of a processor that decides its kernels, empty where none is known.

    Apple's cores stand for themselves: their vector units are wider than those of other cores with
    the same instructions. `none` where the set is known and has no vectors that an engine uses.
    """
    isa = " ".join(device.isa).lower()
    if not isa:
        known = {cores()[c.name].instructions for c in device.clusters if c.name in cores()}
        return known.pop() if len(known) == 1 else ""
    if device.maker == "Apple":
        return "apple"
    for table in (_X86, _ARM):
        for mark, name in table:
            if mark in isa:
                return name
    return "none"


def _hardware(device: DeviceProfile, kind: str, api: str) -> str:
    if kind == CPU:
        return instructions_of(device)
    unit = device.accelerators.get(kind)
    if unit is None or api not in MANY_MAKERS:
        return ""
    words = re.findall(r"[a-z]+", f"{unit.name} {device.maker}".lower())
    return next((maker for word in words for mark, maker in _MAKERS if word == mark), "")


def _compute(
    device: DeviceProfile, kind: str, threads: int | None, *, prompt: bool
) -> tuple[float, float] | None:
    """Operations per second and their spread, None where they are not known."""
    if kind == CPU:
        ticks = _ticks_per_s(device, threads)
        return None if ticks is None else (ticks, 0.0)
    unit = device.accelerators.get(kind)
    if unit is None or kind != GPU:
        return None
    figures: tuple[tuple[Figure | None, float], ...] = ((unit.fp32_flop_per_s, 1.0),)
    if prompt:
        figures = (
            (unit.int8_op_per_s, 1.0),
            (unit.fp16_flop_per_s, INT8_PER_FP16),
            (unit.fp32_flop_per_s, INT8_PER_FP32),
        )
    return next(((f.value * times, spread_of(f)) for f, times in figures if f is not None), None)


def _ticks_per_s(device: DeviceProfile, threads: int | None) -> float | None:
    """Clock ticks per second of the cores that so many threads use, the fastest first.

    A narrower core's count as the part of the widest core's that it gets done in one. All cores
    work where the threads are not said. Cores of unknown clock are left out; None when no clock is
    known.
    """
    lanes = {c.name: cores()[c.name].lanes for c in device.clusters if c.name in cores()}
    widest = max(lanes.values(), default=1.0)
    ticks = [
        clock * lanes.get(cluster.name, widest) / widest
        for cluster in device.clusters
        if (clock := cluster.max_hz) is not None
        for _ in range(cluster.count)
    ]
    used = sorted(ticks, reverse=True)[: threads or None]
    return math.fsum(used) or None
