"""Which execution providers a session asks for, and which of them really hold its nodes.

The names this build offers, those asked for and those in use are three different lists: a provider
may be built in and find no device, or be loaded and take no node. Only the last list is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import BackendError, UsageError
from ...measurement import Gpu, SessionOptions
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
_MEMORY = {"CUDAExecutionProvider": "cuda", "DmlExecutionProvider": "dml"}
"""Providers whose memory tensors can be allocated in by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How many nodes of the graph one provider holds, after the engine's own optimizing."""

    provider: str
    nodes: int
    share: float


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
    return tuple(dict.fromkeys((*names, CPU)))


def _resolved(name: str, available: Sequence[str]) -> str:
    if "=" in name:
        return _registered(*name.split("=", 1))
    short = name.removesuffix(_SUFFIX).lower()
    short = _ALIASES.get(short, short)
    for candidate in available:
        if candidate.removesuffix(_SUFFIX).lower() == short:
            return candidate
    raise UsageError(
        f"There is no execution provider {name!r}.",
        cause=f"This build of ONNX Runtime offers {_listed(available)}.",
        way_out="Install the build that has it (onnxruntime-gpu, onnxruntime-qnn, "
        "onnxruntime-directml), or leave the option out.",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name.removesuffix(_SUFFIX) for name in names) or "none"


def _registered(name: str, file: str) -> str:
    """Registers a provider that lives in a library of its own and gives its name."""
    if not Path(file).is_file():
        raise UsageError(f"There is no library {file} for the execution provider {name}.")
    ort = library()
    if name not in _plugins:
        try:
            ort.register_execution_provider_library(name, file)
        except Exception as error:  # the library is a stranger's; the engine wraps what it throws
            raise BackendError(
                f"{file} gives no execution provider.", cause=complaint(error)
            ) from error
        _plugins.add(name)
    return name


_plugins: set[str] = set()


def attach(settings: Any, names: Sequence[str]) -> list[str]:
    """Puts plugin providers into the session's settings and gives the other names."""
    ort = library()
    for name in names:
        if name in _plugins:
            devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
            if not devices:
                raise BackendError(f"The execution provider {name} finds no device here.")
            settings.add_provider_for_devices(devices, {})
    return [] if _plugins.intersection(names) else list(names)


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
