"""What is expected of the coefficients before any measurement is looked at.

Logarithms with the spread that they may have: wide where little is known, narrow where physics says
much. They decide only what the rows leave open. No number here was tuned to a device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .coefficients import DECODE
from .supply import CPU, GPU, NPU

ROW_FREEDOM, DEVICE_FREEDOM = 4.0, 3.0
"""Degrees of freedom of Student's t for the scatter of rows and of devices: a published table has a
wrong row now and then, and a phone its battery saver on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is expected of a group's parts: the mean and spread of the logarithm.

    The spread of a group that is not `fixed` is learnt from its members.
    """

    mean: float
    spread: float
    fixed: bool = False


_OPERATIONS = {
    # Per weight: two operations and the unpacking on a graphics part; on a processor a part of a
    # clock tick, since its vector units multiply tens of weights in one; units of memory elsewhere.
    (DECODE, GPU): 6.0,
    (DECODE, CPU): 0.15,
    (DECODE, NPU): 1.0,
    ("prefill", GPU): 12.0,
    ("prefill", CPU): 0.1,
    ("prefill", NPU): 0.1,
}


def priors(phase: str, kind: str) -> Mapping[str, Prior]:
    """The priors of every group of parts for a phase on a kind of accelerator."""
    operations = math.log(_OPERATIONS[phase, kind])
    return {
        # Memory is a tenth to a half slower than its roof; layers start within microseconds to
        # milliseconds; keys and values are read about as weights are.
        "kind.memory": _fixed(math.log(0.15 if kind == GPU else 0.3), 0.7),
        "kind.layer": _fixed(math.log(1e-4 if phase == DECODE else 1e-6), 1.0),
        "kind.cache": _fixed(math.log(1.5), 0.7),
        "kind.attention": _fixed(math.log(2.0 if kind == GPU else 0.1), 1.0),
        "kind.compute": _fixed(operations, 1.5),
        "kind.architecture": _fixed(0.0, 0.5),
        "kind.family": Prior(mean=0.0, spread=0.5),
        "route.memory": Prior(mean=0.0, spread=0.3),
        "route.layer": Prior(mean=0.0, spread=0.4),
        "route.compute": Prior(mean=0.0, spread=0.4),
        "route.family": Prior(mean=0.0, spread=0.25),
        "route.attention": Prior(mean=0.0, spread=0.7),
        # Some APIs run a recurrence or the choice of experts on another unit, or not at all.
        "route.architecture": Prior(mean=0.0, spread=0.5),
        "hardware.compute": Prior(mean=0.0, spread=0.5),
        "device.memory": Prior(mean=0.0, spread=0.3),
        "device.layer": Prior(mean=0.0, spread=0.35),
        "device.compute": Prior(mean=0.0, spread=0.35),
        "device.family": Prior(mean=0.0, spread=0.15),
        "device.architecture": Prior(mean=0.0, spread=0.2),
    }


def _fixed(mean: float, spread: float) -> Prior:
    return Prior(mean=mean, spread=spread, fixed=True)
