"""What the numbers of a battery gauge can be, so that a wrong unit is noticed and not believed.

Drivers and vendors give milliamperes where microamperes are promised (termux-api #293, wattz #16),
millivolts for microvolts, or nothing but 0. A thousandfold error shows against the capacity: no
computer empties its battery in minutes, and none that runs a model lives on one for weeks. It reads
nothing itself; Linux' and Android's batteries are held against the same bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...basis import Unavailable
from . import METER_REMEDY

LEAST_HOURS = 1 / 6
"""Ten minutes, six times the capacity per hour: beyond what packs for computers may deliver."""
MOST_HOURS = 500.0
"""Three weeks: 0.1 W of a laptop's 50 Wh, 0.03 W of a phone's 15 Wh."""
_USUAL_HOURS = 100.0
_LEAST_WH, _MOST_WH = 0.5, 2000.0
_LEAST_V, _MOST_V = 1.0, 100.0
_LEAST_W, _MOST_W = 0.05, 500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What a reading is to be multiplied by, and the evidence for it; empty where it is 1."""

    factor: float = 1.0
    evidence: str = ""


def plausible_wh(wh: float | None) -> float | None:
    """The capacity in watt-hours, or None where no computer's battery has such a one."""
    return wh if wh is not None and _LEAST_WH <= wh <= _MOST_WH else None


def plausible_v(volts: float | None) -> float | None:
    """The voltage in volts, or None where no such battery has it: millivolts are taken for what."""
    return volts if volts is not None and _LEAST_V <= volts <= _MOST_V else None


def scale_of(watts: float, full_wh: float | None, what: str) -> Scale | Unavailable:
    """What `what`, which says so many watts, must be multiplied by; or why it cannot be believed.

    A thousandfold correction needs both: as it stands the battery would last beyond all reason, and
    a thousand times as much is ordinary. Without a capacity nothing is corrected.
    """
    watts = abs(watts)
    if watts == 0:
        return Unavailable(reason=f"{what} reads 0 while discharging", remedy=METER_REMEDY)
    if full_wh is None:
        if _LEAST_W <= watts <= _MOST_W:
            return Scale()
        reason = f"{what} says {watts:.3g} W, and no capacity is told to check its unit against"
        return Unavailable(reason=reason, remedy=METER_REMEDY)
    hours = full_wh / watts
    if LEAST_HOURS <= hours <= MOST_HOURS:
        return Scale()
    lasting = f"{what} says {watts:.3g} W, on which {full_wh:.3g} Wh would last {hours:,.3g} h"
    if hours > MOST_HOURS and LEAST_HOURS <= hours / 1000 <= _USUAL_HOURS:
        evidence = f"{lasting}: taken for thousandths, which gives {hours / 1000:.3g} h"
        return Scale(factor=1000.0, evidence=evidence)
    return Unavailable(reason=f"{lasting}: not a reading in its unit", remedy=METER_REMEDY)


def is_plausible_w(watts: float, full_wh: float | None) -> bool:
    """Whether a battery of this capacity can be giving so many watts."""
    if full_wh is None:
        return _LEAST_W <= watts <= _MOST_W
    return full_wh / MOST_HOURS <= watts <= full_wh / LEAST_HOURS
