"""The clock frequency of the processor and the evidence of throttling, where the system tells.

Linux only, from sysfs and procfs below an injectable root. What is not there is None: a virtual
machine usually offers neither a frequency that means anything nor a throttle counter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")
# Raspberry Pi firmware: bits 0-3 say what is so now, bits 16-19 what has been so since the boot
# (under-voltage, frequency capped, throttled, soft temperature limit).
_PI_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
_PI_NOW = 0xF


def frequency_hz(root: Path = _ROOT) -> float | None:
    """The mean present clock of all processors, hertz; None when the system does not tell."""
    kilohertz = [
        value
        for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        if (value := _integer(path)) is not None
    ]
    if kilohertz:
        return 1000.0 * sum(kilohertz) / len(kilohertz)
    megahertz = [float(m) for m in re.findall(r"(?m)^cpu MHz\s*:\s*([\d.]+)", _cpuinfo(root))]
    return 1e6 * sum(megahertz) / len(megahertz) if megahertz else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleState:
    """Throttle evidence at one moment: event counts by file, and the Pi firmware's bits."""

    counts: tuple[tuple[str, int], ...]
    pi_bits: int | None

    @property
    def observable(self) -> bool:
        """Whether this machine would tell of throttling at all."""
        return bool(self.counts) or self.pi_bits is not None


def throttle_state(root: Path = _ROOT) -> ThrottleState:
    """Reads the kernel's throttle counters and, on a Raspberry Pi, the firmware's bits."""
    counts = []
    pattern = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"
    for path in sorted(root.glob(pattern)):
        value = _integer(path)
        if value is not None:
            counts.append((str(path.relative_to(root)), value))
    return ThrottleState(counts=tuple(counts), pi_bits=_integer(root / _PI_THROTTLED, base=16))


def throttled_between(before: ThrottleState, after: ThrottleState) -> bool | None:
    """Whether throttling happened between two states; None when this machine does not tell."""
    if not before.observable and not after.observable:
        return None
    earlier = dict(before.counts)
    if any(value > earlier.get(name, value) for name, value in after.counts):
        return True
    if before.pi_bits is None or after.pi_bits is None:
        return False
    newly_set = after.pi_bits & ~before.pi_bits
    return bool((after.pi_bits | before.pi_bits) & _PI_NOW or newly_set)


def _integer(path: Path, *, base: int = 10) -> int | None:
    try:
        return int(path.read_text().strip(), base)
    except (OSError, ValueError):
        return None


def _cpuinfo(root: Path) -> str:
    try:
        return (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""
