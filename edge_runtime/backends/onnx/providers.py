"""Which execution providers a session asks for, and which of them really hold its nodes.

The names this build offers, those asked for and those in use are three different lists: a provider
may be built in and find no device, or be loaded and take no node. Only the last list is reported.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import BackendError, UsageError
from ...measurement import Gpu, Placement, SessionOptions
from .library import complaint, library

CPU = "CPUExecutionProvider"

_SUFFIX = "ExecutionProvider"
_AUTOMATIC = ("CUDAExecutionProvider", "ROCMExecutionProvider", "MIGraphXExecutionProvider",
              "DmlExecutionProvider", "WebGpuExecutionProvider")  # fmt: skip
"""Chosen unasked, first found first: they run decoders of any length whole. The others compile a
graph for fixed lengths, or take a few nodes and copy between them; they run when they are named."""
_HOSTED = ("CPUExecutionProvider", "AzureExecutionProvider", "XnnpackExecutionProvider",
           "DnnlExecutionProvider")  # fmt: skip
"""Providers that compute on the processor or not at all."""
_ALIASES = {"directml": "dml", "trt": "tensorrt"}
_WHEELS = {
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu",
    "dml": "onnxruntime-directml",
    "openvino": "onnxruntime-openvino",
    "qnn": "onnxruntime-qnn",
}
"""Packages to install in the place of `onnxruntime` (https://onnxruntime.ai/docs/install)."""
_BESIDE = {"webgpu": "onnxruntime-ep-webgpu"}
"""Packages to install beside it: a library of their own, registered when it is asked for."""
_ELSEWHERE = {
    "coreml": "It is in the onnxruntime package for macOS.",
    "nnapi": "It is in builds for Android.",
    "xnnpack": "Build ONNX Runtime with --use_xnnpack.",
}
_MEMORY = {"CUDAExecutionProvider": "cuda", "DmlExecutionProvider": "dml"}
"""Providers whose memory tensors can be allocated in by name."""


def wanted(options: SessionOptions) -> tuple[str, ...]:
    """The providers to ask for, the processor last.

    Those named in the options; else the first accelerator this build has, unless `gpu_layers` is 0.
    A name may be short (`cuda`, `coreml`, `dml`), or `NAME=LIBRARY` for a provider in a library of
    its own. Raises UsageError for one this build does not have.
    """
    available = tuple(library().get_available_providers())
    if options.providers:
        names = [_resolved(name, available) for name in options.providers]
    elif options.gpu_layers == 0:
        names = []
    else:
        names = [name for name in _AUTOMATIC if name in available][:1]
        if options.gpu_layers and not names:
            raise UsageError(
                "There is no accelerator to put layers on.",
                cause=f"This build of ONNX Runtime offers {_listed(available)}.",
                way_out="Leave the option out, or install a build with one, for example: "
                "pip install onnxruntime-gpu",
            )
    return (*dict.fromkeys(name for name in names if name != CPU), CPU)


def require_known(names: Sequence[str]) -> None:
    """Raises UsageError unless this build has every provider of those names."""
    wanted(SessionOptions(providers=tuple(names)))


def _resolved(name: str, available: Sequence[str]) -> str:
    if "=" in name:
        return _registered(*name.split("=", 1))
    short = name.removesuffix(_SUFFIX).lower()
    short = _ALIASES.get(short, short)
    for candidate in available:
        if candidate.removesuffix(_SUFFIX).lower() == short:
            return candidate
    # Packages of such libraries are named alike and say where theirs lies.
    module = f"onnxruntime_ep_{short}"
    if short.isidentifier() and importlib.util.find_spec(module) is not None:
        return _registered(short, str(importlib.import_module(module).get_library_path()))
    known = {each.removesuffix(_SUFFIX).lower() for each in library().get_all_providers()}
    raise UsageError(
        f"This build of ONNX Runtime has no execution provider {name!r}."
        if short in known
        else f"There is no execution provider {name!r}.",
        cause=f"It offers {_listed(available)}.",
        way_out=remedy(short),
    )


def remedy(short: str) -> str:
    """How to come by a provider, by its short name."""
    if short in _WHEELS:
        return f"pip uninstall -y onnxruntime && pip install {_WHEELS[short]}"
    if short in _BESIDE:
        return f"pip install {_BESIDE[short]}"
    return _ELSEWHERE.get(short, "Name another, NAME=LIBRARY for a plugin, or leave it out.")


def _listed(names: Sequence[str]) -> str:
    shown = [name.removesuffix(_SUFFIX) for name in names if name != "AzureExecutionProvider"]
    return ", ".join(shown) or "none"


_plugins: dict[str, tuple[Any, ...]] = {}
"""What this process registered: the devices of each library's provider, by the name given to it."""


def _registered(name: str, file: str) -> str:
    """Registers a provider that lives in a library of its own and gives the name it goes by."""
    if name in _plugins:
        return name
    if not Path(file).is_file():
        raise UsageError(f"There is no library {file} for the execution provider {name}.")
    ort = library()
    if not hasattr(ort, "register_execution_provider_library"):
        raise UsageError(
            f"The execution provider {name} cannot be registered.",
            cause=f"ONNX Runtime {ort.__version__} takes no plugins.",
            way_out="pip install --upgrade onnxruntime",
        )
    before = {device.ep_name for device in ort.get_ep_devices()}
    try:
        ort.register_execution_provider_library(name, file)
    except Exception as error:  # the library is a stranger's; the engine wraps what it throws
        raise BackendError(
            f"{file} gives no execution provider.", cause=complaint(error)
        ) from error
    _plugins[name] = tuple(d for d in ort.get_ep_devices() if d.ep_name not in before)
    return name


def attach(settings: Any, names: Sequence[str]) -> list[str]:
    """Puts a plugin provider into the session's settings and gives the other names.

    Raises BackendError when it finds no device, UsageError when others are asked for beside it:
    the engine would leave them out.
    """
    plugins = [name for name in names if name in _plugins]
    if not plugins:
        return list(names)
    if others := [name for name in names if name not in (plugins[0], CPU)]:
        raise UsageError(
            f"{_listed((plugins[0], *others))} cannot run in one session.",
            cause=f"{plugins[0]} is a plugin, which ONNX Runtime takes alone.",
            way_out="Name one provider.",
        )
    devices = _plugins[plugins[0]]
    if not devices:
        raise BackendError(
            f"The execution provider {plugins[0]} finds no device here.",
            way_out="Install the device's driver, or leave the provider out.",
        )
    settings.add_provider_for_devices(list(devices[:1]), {})
    return []


def require_used(
    options: SessionOptions, session: Any, placed: Sequence[Placement], file: str
) -> None:
    """Raises BackendError when a provider that was asked for by name holds no node.

    The engine itself says nothing of that: without a driver it goes on with the processor.
    """
    loaded = set(session.get_providers())
    used = {placement.provider for placement in placed if placement.nodes or not placement.share}
    for name in wanted(options)[:-1] if options.providers else ():
        names = {device.ep_name for device in _plugins.get(name, ())} or {name}
        if names & used:
            continue
        short = name.removesuffix(_SUFFIX)
        raise BackendError(
            f"The execution provider {short} runs nothing of {file}.",
            cause="It has no kernel for any of its nodes."
            if names & loaded
            else "It could not be loaded: its driver or one of its libraries is missing.",
            way_out="Leave it out, or choose another level or provider.",
        )


def placements(session: Any) -> tuple[Placement, ...]:
    """Which provider holds how many nodes, most first.

    Engines before 1.24 do not tell; then the session's own list of providers stands, with shares
    unknown (0).
    """
    counts: Counter[str] = Counter()
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    for part in ask() if ask is not None else ():
        counts[part.ep_name] += len(part.get_nodes())
    total = sum(counts.values())
    if not total:
        return tuple(Placement(provider=p, nodes=0, share=0.0) for p in session.get_providers())
    return tuple(
        Placement(provider=name, nodes=count, share=count / total)
        for name, count in counts.most_common()
    )


def memory_device(placed: Sequence[Placement]) -> str:
    """Where the KV cache should lie: in an accelerator's memory when it holds most nodes."""
    return _MEMORY.get(placed[0].provider, "cpu") if placed else "cpu"


def on_processor(placed: Sequence[Placement]) -> bool:
    """Whether every node runs on the processor."""
    return all(placement.provider in _HOSTED for placement in placed)


def gpus() -> tuple[Gpu, ...]:
    """Accelerators of this build. A name here is no promise: its driver may still be missing."""
    return tuple(
        Gpu(
            name=name.removesuffix(_SUFFIX),
            description="execution provider of ONNX Runtime",
            memory_bytes=None,
        )
        for name in library().get_available_providers()
        if name not in _HOSTED
    )
