"""The energy columns of a flat row: joules, joules per token, and what they rest on.

Every column is empty where there is no figure; `energy_reason` and `energy_net_reason` then say
why. A zero would be a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..basis import Unavailable
from ..consumption import Consumption
from ..phase_energy import PhaseEnergy
from ..statistics import Interval

EnergyValue = Callable[[Consumption | Unavailable], str | int | float | None]


def _phase(used: Consumption | Unavailable, *, prefill: bool) -> PhaseEnergy | None:
    if isinstance(used, Unavailable):
        return None
    phase = used.prefill if prefill else used.decode
    return phase if isinstance(phase, PhaseEnergy) else None


def _figure(value: Callable[[PhaseEnergy], object], *, prefill: bool = False) -> EnergyValue:
    """A figure of one phase; None where the phase, or the figure in it, is missing."""

    def column(used: Consumption | Unavailable) -> str | int | float | None:
        phase = _phase(used, prefill=prefill)
        found = value(phase) if phase is not None else None
        return found if isinstance(found, int | float) else None

    return column


def _bound(name: str, *, net: bool = False, prefill: bool = False) -> EnergyValue:
    def value(phase: PhaseEnergy) -> object:
        interval = phase.net_j_per_token if net else phase.gross_j_per_token
        return getattr(interval, name, None)

    return _figure(value, prefill=prefill)


def _word(value: Callable[[Consumption], str]) -> EnergyValue:
    return lambda used: None if isinstance(used, Unavailable) else value(used)


def _source(used: Consumption | Unavailable) -> str:
    reason = _reason(used)
    if reason is not None:
        return f"unavailable: {reason}"
    return "" if isinstance(used, Unavailable) else used.source


def _reason(used: Consumption | Unavailable) -> str | None:
    """Why no phase has a figure."""
    if isinstance(used, Unavailable):
        return used.reason
    phases = [phase for phase in (used.decode, used.prefill) if phase is not None]
    reasons = [phase.reason for phase in phases if isinstance(phase, Unavailable)]
    if len(reasons) < len(phases):
        return None
    return reasons[0] if reasons else "nothing ran"


def _net_reason(used: Consumption | Unavailable) -> str | None:
    """Why a phase has a gross figure and no net one."""
    for prefill in (False, True):
        phase = _phase(used, prefill=prefill)
        if phase is not None and isinstance(phase.net_j, Unavailable):
            return phase.net_j.reason
    return None


def _total(used: Consumption | Unavailable) -> float | None:
    """The gross joules of all phases, when every one has a figure."""
    if isinstance(used, Unavailable):
        return None
    phases = [phase for phase in (used.prefill, used.decode) if phase is not None]
    known = [phase.gross_j for phase in phases if isinstance(phase, PhaseEnergy)]
    return sum(known) if known and len(known) == len(phases) else None


def _load(used: Consumption | Unavailable) -> float | None:
    load = None if isinstance(used, Unavailable) else used.load
    return None if load is None or isinstance(load, Unavailable) else load.gross_j


def _idle(used: Consumption | Unavailable) -> float | None:
    idle = None if isinstance(used, Unavailable) else used.idle_w
    return idle.value if isinstance(idle, Interval) else None


ENERGY_COLUMNS: Mapping[str, tuple[EnergyValue, str]] = {
    "energy_joules": (_total, "REAL"),
    "energy_source": (_source, "TEXT"),
    "energy_basis": (_word(lambda used: used.basis.value), "TEXT"),
    "energy_scope": (_word(lambda used: used.scope.value), "TEXT"),
    "energy_method": (_word(lambda used: used.method), "TEXT"),
    "energy_formula": (_word(lambda used: used.formula), "TEXT"),
    "energy_reason": (_reason, "TEXT"),
    "energy_net_reason": (_net_reason, "TEXT"),
    "energy_j_load_gross": (_load, "REAL"),
    "energy_j_prefill_gross": (_figure(lambda p: p.gross_j, prefill=True), "REAL"),
    "energy_j_prefill_net": (_figure(lambda p: p.net_j, prefill=True), "REAL"),
    "energy_j_decode_gross": (_figure(lambda p: p.gross_j), "REAL"),
    "energy_j_decode_gross_u": (_figure(lambda p: p.gross_u_j), "REAL"),
    "energy_j_decode_net": (_figure(lambda p: p.net_j), "REAL"),
    "energy_j_decode_net_u": (_figure(lambda p: p.net_u_j), "REAL"),
    "energy_window_s_prefill": (_figure(lambda p: p.window_s, prefill=True), "REAL"),
    "energy_window_s_decode": (_figure(lambda p: p.window_s), "REAL"),
    "energy_samples_decode": (_figure(lambda p: p.samples), "INTEGER"),
    "j_per_token_gross": (_bound("value"), "REAL"),
    "j_per_token_gross_low": (_bound("low"), "REAL"),
    "j_per_token_gross_high": (_bound("high"), "REAL"),
    "j_per_token_net": (_bound("value", net=True), "REAL"),
    "j_per_token_net_low": (_bound("low", net=True), "REAL"),
    "j_per_token_net_high": (_bound("high", net=True), "REAL"),
    "j_per_prompt_token_gross": (_bound("value", prefill=True), "REAL"),
    "j_per_prompt_token_gross_low": (_bound("low", prefill=True), "REAL"),
    "j_per_prompt_token_gross_high": (_bound("high", prefill=True), "REAL"),
    "j_per_prompt_token_net": (_bound("value", net=True, prefill=True), "REAL"),
    "idle_w": (_idle, "REAL"),
    "tokens_per_wh": (_figure(lambda p: p.tokens_per_wh.value), "REAL"),
}
"""Column name -> its value of a consumption, and its SQL type."""
