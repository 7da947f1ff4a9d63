"""What `edge doctor` looks for: one small probe per thing, each with its remedy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .. import __version__
from ..basis import Unavailable
from ..energy import Battery
from ..errors import EdgeError
from ..measurement import Gpu, SessionOptions
from ..report.doctor import Diagnosis, Finding
from ..units import format_bytes, format_duration

SMALL_DISK_BYTES = 3 * 1024**3
"""Below this much free space a check may not be able to make its synthetic models."""


def diagnose() -> Diagnosis:
    """Looks for everything. Takes some seconds: memory bandwidth is measured, engines are tried."""
    from ..profiler import detect_host
    from .machine import Machine, look_at_machine

    engine, gpus = _engine()
    try:
        machine = look_at_machine(SessionOptions())
    except EdgeError as error:
        why = Unavailable(reason=error.fact, remedy=error.way_out)
        machine = Machine(host=detect_host(gpus=gpus), bandwidth=why)
    findings = (
        Finding(name="edge-runtime", found=f"{__version__} on Python {sys.version.split()[0]}"),
        engine,
        *_amx(),
        _gpu(gpus),
        *_onnxruntime(),
        _extra("tokenizers", "text of ONNX models", ""),
        _extra("huggingface_hub", "hf:owner/repo models", "hub"),
        _catalogue(),
        *_places(),
        *energy_findings(),
        *_instruments(),
        *_limits(),
    )
    return Diagnosis(host=machine.host, bandwidth=machine.bandwidth, findings=findings)


def _engine() -> tuple[Finding, tuple[Gpu, ...]]:
    from ..backends import backend
    from .trial import try_engine

    try:
        llama = backend("llama_cpp")
        engine = llama.engine()
        gpus = llama.gpus()
    except EdgeError as error:
        why = Unavailable(reason=f"{error.fact} {error.cause}".strip(), remedy=error.way_out)
        return Finding(name="llama.cpp engine", found=why, needed=True), ()
    features = re.findall(r"(\w+) = 1", engine.build)
    build = f", built with {', '.join(features)}" if features else ""
    found = try_engine("llama_cpp") or f"{engine.version}{build}; a toy model runs"
    return Finding(name="llama.cpp engine", found=found, needed=True), gpus


def _amx() -> Iterator[Finding]:
    """Only shown where it matters: a build whose AMX kernels cannot be used."""
    from ..backends.llama_cpp.amx import REMEDY
    from ..backends.llama_cpp.library import amx_broken_by

    try:
        compiler = amx_broken_by()
    except EdgeError:
        return
    if compiler:
        yield Finding(
            name="AMX kernels",
            found=Unavailable(
                reason=f"this build's were broken by {compiler} (GCC bug 114098): they are not "
                "used, and nor are its other repacked kernels, which costs speed",
                remedy=REMEDY,
            ),
        )


def _gpu(gpus: tuple[Gpu, ...]) -> Finding:
    if gpus:
        return Finding(name="GPU offload", found=", ".join(gpu.name for gpu in gpus))
    return Finding(
        name="GPU offload",
        found=Unavailable(
            reason="this build of llama-cpp-python drives the CPU only",
            remedy="With a GPU: CMAKE_ARGS='-DGGML_CUDA=on' (or -DGGML_VULKAN=on, "
            "-DGGML_METAL=on) pip install --force-reinstall --no-binary llama-cpp-python "
            "llama-cpp-python",
        ),
    )


def _onnxruntime() -> Iterator[Finding]:
    """The engine with a trial of it, and which accelerators its build lacks."""
    from ..backends import backend
    from .trial import try_engine

    name = "ONNX Runtime engine"
    try:
        onnx = backend("onnx")
        engine, gpus = onnx.engine(), onnx.gpus()
    except EdgeError as error:
        why = Unavailable(reason=f"{error.fact} {error.cause}".strip(), remedy=error.way_out)
        yield Finding(name=name, found=why, needed=True)
        return
    failed = try_engine("onnx")
    found = failed or f"{engine.version}, {engine.build}; a toy model runs"
    yield Finding(name=name, found=found, needed=True)
    if gpus:
        accelerators: str | Unavailable = ", ".join(gpu.name for gpu in gpus)
    else:
        accelerators = Unavailable(
            reason="this build of ONNX Runtime drives the CPU only", remedy=_onnx_remedy()
        )
    yield Finding(name="ONNX accelerators", found=accelerators)


def _onnx_remedy() -> str:
    """What to install for this system's accelerators; the processor alone needs nothing."""
    from ..backends.onnx.providers import remedy

    likely = {"win32": ("dml", "DirectX 12 GPU"), "linux": ("cuda", "NVIDIA GPU")}
    beside = f"Any GPU with WebGPU: {remedy('webgpu')}"
    if sys.platform not in likely:
        return beside
    provider, device = likely[sys.platform]
    return f"{device}: {remedy(provider)}. {beside}"


def _extra(module: str, purpose: str, extra: str) -> Finding:
    if importlib.util.find_spec(module) is not None:
        return Finding(name=purpose, found=f"{module} {importlib.metadata.version(module)}")
    return Finding(
        name=purpose,
        found=Unavailable(
            reason=f"the package {module} is not installed",
            remedy=f"pip install 'edge-runtime[{extra}]'" if extra else f"pip install {module}",
        ),
    )


def _catalogue() -> Finding:
    import profiles

    return Finding(name="model catalogue", found=f"{len(profiles.models())} model shapes")


def _places() -> Iterator[Finding]:
    from ..sources import cache_directory

    cache = cache_directory()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        yield Finding(
            name="cache folder",
            found=Unavailable(
                reason=f"{cache} cannot be written",
                remedy="Set EDGE_CACHE_DIR to a folder that can.",
            ),
        )
        return
    free = shutil.disk_usage(existing).free
    if free < SMALL_DISK_BYTES:
        yield Finding(
            name="cache folder",
            found=Unavailable(
                reason=f"only {format_bytes(free)} free at {cache}",
                remedy="Free some space, or set EDGE_CACHE_DIR to a folder on a larger disk.",
            ),
        )
    else:
        yield Finding(name="cache folder", found=f"{cache}, {format_bytes(free)} free")


def energy_findings() -> Iterator[Finding]:
    """Each energy sensor with what it counts and its place in a figure, then each refusal."""
    from ..profiler.energy.discovery import discover

    discovery = discover()
    discovery.close()
    for sensor in discovery.sensors:
        info = sensor.info
        place = (
            "counts in the figure"
            if info.id in discovery.headline
            else "shown beside the figure, never added to it"
        )
        told = "the vendor's model of " if info.modelled else ""
        notes = "".join(f"; {note}" for note in info.notes)
        yield Finding(
            name=f"energy: {info.id}",
            found=f"{told}{info.source}, scope {info.scope}, resolves"
            f" {format_duration(info.window_s)}, {place}{notes}",
        )
    if discovery.battery is not None:
        yield Finding(name="battery", found=_battery(discovery.battery))
    for refusal in discovery.refusals:
        yield Finding(name=f"energy: {refusal.name}", found=refusal.why)


def _battery(battery: Battery) -> str | Unavailable:
    if battery.full_wh is None:
        return Unavailable(
            reason=f"{battery.id} does not tell what it holds",
            remedy="Give its watt-hours: edge energy RESULTS.jsonl --battery-wh 50",
        )
    new = f" of {battery.design_wh:.1f} Wh when new" if battery.design_wh is not None else ""
    return f"{battery.id} holds {battery.full_wh:.1f} Wh{new} ({battery.status})"


def _limits() -> Iterator[Finding]:
    """Which ways to emulate a smaller device work here; the first is the one that is used."""
    from ..profiler.ceiling import find_means

    ways = find_means()
    used = next((means for _, means in ways if not isinstance(means, Unavailable)), None)
    if used is not None:
        yield Finding(name="memory ceiling", found=f"{used.name} ({used.words})")
    for name, means in ways:
        if means is used:
            break
        if isinstance(means, Unavailable):
            yield Finding(name=f"memory ceiling: {name}", found=means)
    limited = hasattr(os, "sched_setaffinity")
    yield Finding(
        name="core limit",
        found="processor affinity"
        if limited
        else Unavailable(reason="this system keeps no process on fewer cores"),
    )


def _instruments() -> Iterator[Finding]:
    from ..profiler.memory import memory_source

    memory = memory_source()
    yield Finding(
        name="memory by phase",
        found=memory if isinstance(memory, Unavailable) else "resident, anonymous and file-backed",
    )
    yield from _heat()


def _heat() -> Iterator[Finding]:
    """Temperatures with their limits, the clock against its highest, and evidence of throttling."""
    from ..profiler.energy.discovery import sensor_root
    from ..profiler.energy.sysfs import Tree
    from ..profiler.temperature import find_thermometers
    from ..profiler.thermal import frequency_hz, maximum_hz, throttle_state

    root = sensor_root()
    tree = Tree(root)
    warm = []
    for thermometer in find_thermometers(tree):
        celsius = thermometer.read(tree)
        if celsius is not None:
            trip = thermometer.trip_celsius
            limit = "" if trip is None else f" (slows down from {trip:.0f} °C)"
            warm.append(f"{thermometer.name} {celsius:.1f} °C{limit}")
    yield Finding(
        name="temperatures",
        found=", ".join(warm)
        or Unavailable(reason="no thermometer can be read", remedy=_guest_remedy()),
    )
    frequency, highest = frequency_hz(root), maximum_hz(root)
    of = "" if highest is None else f" of {highest / 1e9:.2f} GHz"
    yield Finding(
        name="CPU frequency",
        found=f"{frequency / 1e9:.2f}{of or ' GHz'} now"
        if frequency is not None
        else Unavailable(reason="the system does not tell", remedy=_guest_remedy()),
    )
    state = throttle_state(root)
    told = f"observable; now: {'; '.join(state.now)}" if state.now else "observable; none now"
    yield Finding(
        name="throttling",
        found=told
        if state.observable
        else Unavailable(
            reason="not observable: no throttle counter, no firmware bits, no cooling device of a"
            " processor",
            remedy=_guest_remedy(),
        ),
    )


def _guest_remedy() -> str:
    """Counters of the real CPU are seldom shown to a guest."""
    if Path("/proc/cpuinfo").exists() and "hypervisor" in Path("/proc/cpuinfo").read_text():
        return "This is a virtual machine; measure on the host itself."
    return ""
