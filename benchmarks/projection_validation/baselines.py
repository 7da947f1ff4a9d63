"""Other ways to say how fast a device decodes: the roof times a constant, and llmfit's formula.

What the projection is held against, on the very same rows and with the same device facts. The
constants of a roof are learnt from other devices than the one asked about, as the projection's
coefficients are; README's 0.6 and llmfit's constants are as published.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from edge_runtime.statistics import median

FIXED_SHARE = 0.6
"""The constant people multiply a bandwidth roof with when they know nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofed:
    """A measured rate and the one that the roof alone allows, both tokens/s.

    `group` is what a constant of its own is learnt for.
    """

    device: str
    group: str
    measured: float
    roof: float


def roof_times_constant(
    rows: Sequence[Roofed], learnt_from: Sequence[Roofed], group: Callable[[Roofed], Hashable]
) -> tuple[float, ...]:
    """For each row its roof times the share of it that other devices of the group reach.

    That share is the median of the devices' median shares over `learnt_from`, the row's own device
    left out. Where its group has no other device there, all others serve; where there is none at
    all, FIXED_SHARE.
    """
    shares: dict[Hashable, dict[str, list[float]]] = {}
    for row in learnt_from:
        for key in (("group", group(row)), ("all",)):
            shares.setdefault(key, {}).setdefault(row.device, []).append(row.measured / row.roof)
    typical = {
        key: {device: median(own) for device, own in devices.items()}
        for key, devices in shares.items()
    }

    def share(row: Roofed) -> float:
        for key in (("group", group(row)), ("all",)):
            others = [v for device, v in typical.get(key, {}).items() if device != row.device]
            if others:
                return median(others)
        return FIXED_SHARE

    found: dict[tuple[str, Hashable], float] = {}
    for row in rows:
        key = (row.device, group(row))
        if key not in found:
            found[key] = share(row)
    return tuple(row.roof * found[row.device, group(row)] for row in rows)


# llmfit, github.com/AlexsJones/llmfit at 3f44fd30: `estimate_tps` in llmfit-core/src/fit.rs, the
# tables in llmfit-core/src/models.rs. Its numbers, in code of our own.

_BYTES_PER_PARAMETER = {
    "F16": 2.0, "BF16": 2.0, "Q8_0": 1.0, "Q6_K": 0.75, "Q5_K_M": 0.625, "Q4_K_M": 0.5,
    "Q4_0": 0.5, "Q3_K_M": 0.375, "Q2_K": 0.25,
}  # fmt: skip
_OTHER_BYTES = 0.5
_STORED_BYTES = {
    "F32": 4.0, "F16": 2.0, "BF16": 2.0, "Q8_0": 1.05, "Q6_K": 0.80, "Q5_K_M": 0.68, "Q4_K_M": 0.58,
    "Q4_0": 0.58, "Q3_K_M": 0.48, "Q2_K": 0.37,
}  # fmt: skip
_OTHER_STORED = 0.58
_SPEED = {
    "F16": 0.6, "BF16": 0.6, "Q8_0": 0.8, "Q6_K": 0.95, "Q5_K_M": 1.0, "Q4_K_M": 1.15, "Q4_0": 1.15,
    "Q3_K_M": 1.25, "Q2_K": 1.35,
}  # fmt: skip
_OTHER_SPEED = 1.0
_EFFICIENCY = 0.55
_CPU_ARM, _CPU_X86 = 90.0, 70.0
_CPU_ONLY = 0.3
_MANY_CORES, _MANY_CORES_BONUS = 8, 1.1
_LEAST_PARAMETERS_B, _LEAST_RATE = 0.1, 0.1
_FIXED_BYTES = 3.2
_EXPERT_OVERHEAD = ((8, 0.90), (16, 0.85), (32, 0.80), (64, 0.70))
_MANY_EXPERTS, _UNKNOWN_EXPERTS = 0.40, 0.60
_PRESSURE_FROM, _PRESSURE_LEAST = 0.60, 0.30


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture's parameters as llmfit splits them: in the experts a token uses, and elsewhere."""

    count: int
    used: int
    used_parameters: float
    other_parameters: float


def llmfit_rate(
    *,
    accelerator: str,
    level: str,
    parameters: float,
    active_parameters: float | None,
    is_moe: bool,
    bandwidth_bytes_per_s: float,
    memory_bytes: int | None,
    cores: int | None,
    is_arm: bool,
    experts: Experts | None = None,
) -> float | None:
    """The tokens/s llmfit's formula gives; None for an NPU, of which it knows nothing.

    A GPU: `0.55 * bandwidth / (parameters * bytes per parameter)`. A mixture on a GPU: the bytes of
    the experts used and a fixed rest at 3.2 bytes per parameter, less a penalty for a full memory;
    with its layers unknown, 0.55 of the bandwidth over the active parameters' bytes, times what the
    number of experts leaves. A CPU: `k / parameters * speed of the level * 1.1 * 0.3`, the 1.1 from
    8 cores on, with k of 90 for ARM and 70 for x86; no bandwidth enters.
    """
    active = active_parameters if is_moe and active_parameters else parameters
    billions = max(active / 1e9, _LEAST_PARAMETERS_B)
    name = _table_name(level)
    if accelerator == "cpu":
        bonus = _MANY_CORES_BONUS if (cores or 0) >= _MANY_CORES else 1.0
        k = _CPU_ARM if is_arm else _CPU_X86
        rate = k / billions * _SPEED.get(name, _OTHER_SPEED) * bonus * _CPU_ONLY
    elif accelerator != "gpu":
        return None
    elif is_moe:
        rate = _mixture(name, billions, parameters, bandwidth_bytes_per_s, memory_bytes, experts)
    else:
        size = billions * 1e9 * _BYTES_PER_PARAMETER.get(name, _OTHER_BYTES)
        rate = _EFFICIENCY * bandwidth_bytes_per_s / size
    return max(rate, _LEAST_RATE)


def _mixture(
    name: str,
    active_billions: float,
    parameters: float,
    bandwidth: float,
    memory: int | None,
    experts: Experts | None,
) -> float:
    stored = _STORED_BYTES.get(name, _OTHER_STORED)
    pressure = _pressure(parameters * stored, memory, experts)
    if experts is not None:
        size = experts.used_parameters * stored + experts.other_parameters * _FIXED_BYTES
        return bandwidth / size * pressure
    size = active_billions * 1e9 * stored
    return _EFFICIENCY * bandwidth / size * _UNKNOWN_EXPERTS * pressure


def _pressure(size: float, memory: int | None, experts: Experts | None) -> float:
    """What llmfit takes off for experts that fill a card's memory without being read."""
    used = size / memory if memory else 0.0
    if not _PRESSURE_FROM <= used <= 1:
        return 1.0
    idle = 1 - experts.used / experts.count if experts else 0.5
    return max(1 - (used - _PRESSURE_FROM) * idle, _PRESSURE_LEAST)


def _table_name(level: str) -> str:
    """The row of llmfit's tables that Unsloth's mixed levels share with llama.cpp's own."""
    if not level.startswith("UD-Q"):
        return level
    bits = level[4]
    return {"2": "Q2_K", "3": "Q3_K_M", "4": "Q4_K_M", "5": "Q5_K_M", "6": "Q6_K", "8": "Q8_0"}.get(
        bits, level
    )


def scaled_run(measured: float, run_work: float, work: float) -> float:
    """What a calibrating run's rate says of other work: the rate goes as one over the work."""
    return measured * run_work / work
