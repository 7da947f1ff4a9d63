"""What is known of a model on a device before any price: joules, rates, idle power, battery.

From the measurements of one model on one machine, or from what the user states; what is stated
stands in for what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .. import economics
from ..basis import Basis, Unavailable
from ..consumption import consumption
from ..economics import Bound, Origin, Quantity, found, stated
from ..energy_use import EnergyUse, energy_uses
from ..errors import UsageError
from ..measurement import Measurement
from ..phase_energy import WH_J
from ..statistics import Interval
from .stated import MaybeQuantity, Stated, derived, said_quantity

_ORIGINS = {
    Basis.MEASURED: Origin.MEASURED,
    Basis.SYNTHETIC: Origin.SYNTHETIC,
    Basis.ESTIMATED: Origin.ESTIMATED,
}
_STATE_ENERGY = "state it: --watts 5, or --j-per-token 0.5"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDevice:
    """What is known of a model on a device, before any price."""

    name: str
    j_per_token: MaybeQuantity
    j_per_prompt_token: MaybeQuantity
    tokens_per_s: MaybeQuantity
    prompt_tokens_per_s: MaybeQuantity
    idle_w: MaybeQuantity
    battery_j: MaybeQuantity


def stated_device(said: Stated) -> KnownDevice:
    """A device on which nothing was measured; its rates may be projected."""
    unknown = Unavailable(
        reason="nothing was measured and no energy stated",
        remedy="Measure it: edge profile MODEL --save runs.jsonl, then edge cost runs.jsonl. Or"
        f" {_STATE_ENERGY}",
    )
    rate = said_quantity(
        said.tokens_per_s,
        "tok/s",
        "rate",
        otherwise="no tokens/s are stated",
        example="--tokens-per-s 10",
    )
    expected = said.projected
    no_prefill = Unavailable(reason="no prefill rate is stated")
    no_prompt = Unavailable(
        reason="no energy of a prompt token is stated", remedy="State it: --j-per-prompt-token 0.05"
    )
    return _overridden(
        KnownDevice(
            name=expected.name if expected else "the device as stated",
            j_per_token=unknown,
            j_per_prompt_token=no_prompt,
            tokens_per_s=expected.tokens_per_s if expected else rate,
            prompt_tokens_per_s=expected.prompt_tokens_per_s if expected else no_prefill,
            idle_w=Unavailable(reason="no idle power is stated", remedy="State it: --idle-watts 1"),
            battery_j=Unavailable(
                reason="no battery is stated",
                # A device that is projected onto is named already, and has none.
                remedy='State it: --battery "15 Wh"' + ("" if expected else ", or --device ID"),
            ),
        ),
        said,
    )


def measured(group: Sequence[Measurement], said: Stated) -> KnownDevice:
    """What the measurements of one model on one machine say of it."""
    (use,) = energy_uses(group)
    bound = Bound.AT_LEAST if use.partial else Bound.NONE
    name = f"{use.artifact.name} {use.artifact.level}"

    def energy(value: Interval | Unavailable, what: str) -> MaybeQuantity:
        if isinstance(value, Unavailable):
            known = value.remedy.rstrip(".")
            state = f"{known}. Or {_STATE_ENERGY}" if known else _STATE_ENERGY.capitalize()
            return replace(value, remedy=state)
        basis = _energy_basis(use, group)
        source = ", ".join(filter(None, (use.source, use.scope.value if use.scope else "")))
        return found(value, "J/token", what, basis=basis, source=source, bound=bound)

    return _overridden(
        KnownDevice(
            name=name,
            j_per_token=energy(use.generated_j_per_token, "J/token"),
            j_per_prompt_token=energy(use.prompt_j_per_token, "J/prompt token"),
            tokens_per_s=_rate(group, prefill=False),
            prompt_tokens_per_s=_rate(group, prefill=True),
            idle_w=_idle(group),
            battery_j=_battery(use),
        ),
        said,
    )


def _energy_basis(use: EnergyUse, group: Sequence[Measurement]) -> Origin:
    basis = _ORIGINS.get(use.basis, Origin.ESTIMATED) if use.basis else Origin.ESTIMATED
    synthetic = group[0].basis is Basis.SYNTHETIC
    return Origin.SYNTHETIC if synthetic and basis is Origin.MEASURED else basis


def _rate(group: Sequence[Measurement], *, prefill: bool) -> MaybeQuantity:
    """The rate of the measurement with the least depth, then the longest of its phase."""
    with_rate = [
        (one.workload.depth_tokens, -tokens, rate, one)
        for one in group
        for rate, tokens in (
            (one.prefill_tokens_per_s, one.workload.prompt_tokens)
            if prefill
            else (one.decode_tokens_per_s, one.workload.generate_tokens),
        )
        if rate is not None
    ]
    if not with_rate:
        what, flag = (
            ("prompt was", "-p 512") if prefill else ("token was generated in what was", "-n 128")
        )
        return Unavailable(
            reason=f"no {what} measured", remedy=f"Measure that as well: edge profile MODEL {flag}"
        )
    _, _, rate, one = min(with_rate, key=lambda row: row[:2])
    name = "prefill rate" if prefill else "rate"
    return found(rate, "tok/s", name, basis=_ORIGINS[one.basis], source=one.workload.name)


def _idle(group: Sequence[Measurement]) -> MaybeQuantity:
    for one in group:
        used = consumption(one)
        if not isinstance(used, Unavailable) and isinstance(used.idle_w, Interval):
            return found(used.idle_w, "W", "idle power", source=used.source)
    return Unavailable(
        reason="no idle power was measured",
        remedy="Measure it: edge profile MODEL --idle 30s. Or state it: --idle-watts 1",
    )


def _battery(use: EnergyUse) -> MaybeQuantity:
    if use.battery_wh is None:
        return Unavailable(
            reason="no battery capacity is known",
            remedy='State it: --battery "15 Wh", or --device ID',
        )
    joules = use.battery_wh * WH_J
    return found(
        Interval(low=joules, value=joules, high=joules),
        "J",
        "battery",
        source="as the record has it",
    )


def _overridden(device: KnownDevice, said: Stated) -> KnownDevice:
    """The device with what the user states in place of what was found."""

    def chosen(
        value: float | None, otherwise: MaybeQuantity, unit: str, name: str
    ) -> MaybeQuantity:
        return otherwise if value is None else stated(value, unit, name)

    rate = chosen(said.tokens_per_s, device.tokens_per_s, "tok/s", "rate")
    prefill = chosen(said.prompt_tokens_per_s, device.prompt_tokens_per_s, "tok/s", "prefill rate")
    joules, prompt_joules = device.j_per_token, device.j_per_prompt_token
    if said.watts is not None:
        joules = _by_power(said.watts, rate, "W / (tok/s)")
        if isinstance(prefill, Quantity):
            prompt_joules = _by_power(said.watts, prefill, "W / (prompt tok/s)")
    known = replace(
        device,
        tokens_per_s=rate,
        prompt_tokens_per_s=prefill,
        j_per_token=chosen(said.j_per_token, joules, "J/token", "J/token"),
        j_per_prompt_token=chosen(
            said.j_per_prompt_token, prompt_joules, "J/token", "J/prompt token"
        ),
        idle_w=chosen(said.idle_w, device.idle_w, "W", "idle power"),
        battery_j=device.battery_j if said.battery is None else said.battery,
    )
    _refuse_idling(known, said)
    return known


def _refuse_idling(device: KnownDevice, said: Stated) -> None:
    """Raises UsageError where what is stated makes waiting take as much as generating."""
    idle, joules, rate = device.idle_w, device.j_per_token, device.tokens_per_s
    working_w = said.watts
    if isinstance(joules, Quantity) and isinstance(rate, Quantity) and not joules.bound:
        working_w = working_w or joules.high * rate.high
    if working_w is None or isinstance(idle, Unavailable) or idle.low < working_w:
        return
    if not (said.idle_w is None and said.watts is None and said.j_per_token is None):
        raise UsageError(
            f"The {idle.value:g} W while it waits are no less than the {working_w:.4g} W while it"
            " generates.",
            cause="Those are all that the device takes, idling included.",
        )


def _by_power(watts: float, rate: MaybeQuantity, words: str) -> MaybeQuantity:
    """J/token of a stated power at a rate."""
    power = stated(watts, "W", "power")
    return derived(economics.joules_per_token, "J/token", words, watts=power, tokens_per_s=rate)
