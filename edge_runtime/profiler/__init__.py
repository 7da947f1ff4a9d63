"""The act of measuring: child processes, clocks, memory, the machine and its noise.

It knows the Backend and Session protocols and no engine. What it makes is a `Measurement`; it draws
no conclusion from one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .host import available_memory_bytes, detect_host, memory_bandwidth
from .measure import artifact_record, measure
from .sweep import Cell, run_cells
from .wire import Plan, Progress

__all__ = [
    "Cell",
    "Plan",
    "Progress",
    "artifact_record",
    "available_memory_bytes",
    "detect_host",
    "measure",
    "measure_latency",
    "memory_bandwidth",
    "run_cells",
]

if TYPE_CHECKING:
    from .latency import measure_latency as measure_latency


def __getattr__(name: str) -> object:
    # Half of what a measuring process would import, and no language model needs it.
    if name == "measure_latency":
        from .latency import measure_latency

        return measure_latency
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
