"""Answers whether a small language model runs on a device, and runs it.

    import edge_runtime as edge

    with edge.load("model.gguf") as model:
        for piece in model.stream("Once upon a time", max_tokens=64):
            print(piece, end="", flush=True)

The public names are resolved when first used, so that importing the package loads the standard
library only. What is not listed in `__all__` is private to the project.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    ".model": ("Model", "load"),
    ".artifact": ("Artifact", "ModelShape"),
    ".backends": ("GREEDY", "Message", "Piece", "Sampling"),
    ".basis": ("Basis", "Unavailable"),
    ".comparison": ("Comparison",),
    ".errors": (
        "ArtifactError",
        "BackendError",
        "ContextFullError",
        "DiskError",
        "EdgeError",
        "EngineMissingError",
        "FormatError",
        "HubError",
        "MemoryLimitError",
        "ModelNotFoundError",
        "ResourceError",
        "UnsupportedError",
        "UsageError",
        "WorkerError",
    ),
    ".latency": ("LatencyFailure", "LatencyMeasurement", "LatencyOptions"),
    ".measurement": (
        "Host",
        "Limits",
        "Measurement",
        "Run",
        "SessionOptions",
        "Workload",
        "decode_workload",
        "prefill_workload",
    ),
    ".projection": ("Projection",),
    ".projection.door": ("fit_device", "plan_hardware", "project"),
    ".profiler": ("Plan", "detect_host", "measure", "measure_latency"),
    ".rounds": ("compare",),
    ".statistics": ("Interval",),
    ".verdict": ("Target", "Verdict", "VerdictKind", "judge"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604 - the names are those of the table above

if TYPE_CHECKING:
    from .artifact import Artifact as Artifact
    from .artifact import ModelShape as ModelShape
    from .backends import GREEDY as GREEDY
    from .backends import Message as Message
    from .backends import Piece as Piece
    from .backends import Sampling as Sampling
    from .basis import Basis as Basis
    from .basis import Unavailable as Unavailable
    from .comparison import Comparison as Comparison
    from .errors import ArtifactError as ArtifactError
    from .errors import BackendError as BackendError
    from .errors import ContextFullError as ContextFullError
    from .errors import DiskError as DiskError
    from .errors import EdgeError as EdgeError
    from .errors import EngineMissingError as EngineMissingError
    from .errors import FormatError as FormatError
    from .errors import HubError as HubError
    from .errors import MemoryLimitError as MemoryLimitError
    from .errors import ModelNotFoundError as ModelNotFoundError
    from .errors import ResourceError as ResourceError
    from .errors import UnsupportedError as UnsupportedError
    from .errors import UsageError as UsageError
    from .errors import WorkerError as WorkerError
    from .latency import LatencyFailure as LatencyFailure
    from .latency import LatencyMeasurement as LatencyMeasurement
    from .latency import LatencyOptions as LatencyOptions
    from .measurement import Host as Host
    from .measurement import Limits as Limits
    from .measurement import Measurement as Measurement
    from .measurement import Run as Run
    from .measurement import SessionOptions as SessionOptions
    from .measurement import Workload as Workload
    from .measurement import decode_workload as decode_workload
    from .measurement import prefill_workload as prefill_workload
    from .model import Model as Model
    from .model import load as load
    from .profiler import Plan as Plan
    from .profiler import detect_host as detect_host
    from .profiler.latency import measure_latency as measure_latency
    from .profiler.measure import measure as measure
    from .projection import Projection as Projection
    from .projection.door import fit_device as fit_device
    from .projection.door import plan_hardware as plan_hardware
    from .projection.door import project as project
    from .rounds import compare as compare
    from .statistics import Interval as Interval
    from .verdict import Target as Target
    from .verdict import Verdict as Verdict
    from .verdict import VerdictKind as VerdictKind
    from .verdict import judge as judge


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
