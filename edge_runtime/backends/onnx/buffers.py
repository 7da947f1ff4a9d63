"""Memory that bindings point to, how integers in it are bound quickly, and logits as float32.

It knows the engine's bindings and no graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .library import library


class Constants:
    """Small inputs at fixed addresses; a binding keeps no reference of its own.

    `keep` is of how many positions at the end logits are wanted, `whole` how long the context that
    is being evaluated will be, 0 for steps. `places` counts to `room`.
    """

    def __init__(self, integer: Any, room: int) -> None:
        self.keep = np.ones((), np.int64)
        self.whole = np.zeros((), np.int64)
        self.first = np.zeros(1, np.bool_)
        self.later = np.ones(1, np.bool_)
        self.places = np.arange(room, dtype=integer)[None]


def quick_binding(io: Any, kind: int) -> Callable[[str, tuple[int, ...], int], None]:
    """Binds integers in the processor's memory by name, dims and address.

    The engine's wrapper looks its device up by name each time, which takes ten times as long as
    binding does and is most of what a step costs above the evaluation; so the binding it wraps is
    used where it is found.
    """
    try:
        bind = io._iobinding.bind_input
        device = library().OrtDevice.make("cpu", 0)._get_c_device()
    except AttributeError:
        return lambda name, dims, address: io.bind_input(name, "cpu", 0, kind, list(dims), address)
    return lambda name, dims, address: bind(name, device, kind, dims, address)


def as_float(values: Any) -> Any:
    """Logits as float32, whatever 16-bit type the graph gives; float32 as it is."""
    if values.dtype == np.float32:
        return values
    if values.dtype == np.uint16:  # bfloat16 is the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
