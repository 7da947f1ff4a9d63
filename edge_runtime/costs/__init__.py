"""What a model's tokens cost: on one's own device, at an API, on rented GPUs, and to train it.

Puts what was measured and what the user states into the formulas of `economics`. Pure: no clock,
no file, and no price that nobody stated. A figure that lacks one of its grounds is Unavailable
with what would supply it; a ground that is only a bound makes a bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..basis import Unavailable
from ..economics import Origin, Quantity
from ..energy_use import grouped
from ..measurement import Measurement
from .device import DeviceCost, device_cost
from .elsewhere import (
    ApiCost,
    RentedCost,
    TrainingCost,
    api_cost,
    api_per_million,
    rented_cost,
    training_cost,
)
from .known import KnownDevice, measured, stated_device
from .stated import MaybeQuantity, Stated, refuse_contradictions


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """Everything `edge cost` says. Prices are in `currency`; `api`, `rented` and `training` are
    None where nothing was said of one. `caution` comes before all of it: it does not run there.
    """

    tool_version: str
    currency: str
    input_per_output: float | None
    reading: str
    devices: tuple[DeviceCost, ...]
    api: ApiCost | None
    rented: RentedCost | None
    training: TrainingCost | None
    notes: tuple[str, ...]
    caution: str = ""
    schema: int = 1


def cost_report(
    measurements: Sequence[Measurement], said: Stated, *, tool_version: str
) -> CostReport:
    """What each measured model costs, or the device that was stated, beside what else was stated.

    What is stated stands in for what was measured. Raises UsageError for contradictory statements.
    """
    refuse_contradictions(said)
    devices = [measured(group, said) for group in grouped(measurements)]
    if not devices and said.of_a_device:
        devices = [stated_device(said)]
    api = api_per_million(said)
    return CostReport(
        tool_version=tool_version,
        currency=said.currency,
        input_per_output=said.input_per_output,
        reading=said.reading_name,
        devices=tuple(device_cost(device, said, api) for device in devices),
        api=api_cost(said, api),
        rented=rented_cost(said, api),
        training=training_cost(said),
        notes=tuple(_notes(devices, said)),
        caution=said.projected.caution if said.projected else "",
    )


def _notes(devices: Sequence[KnownDevice], said: Stated) -> Iterator[str]:
    """What the figures take for granted."""
    of_prompts = (said.api_price_in, said.prompt_tokens_per_s, said.j_per_prompt_token)
    if said.input_per_output is None and any(of_prompts):
        yield "Prompts are not counted. Ten prompt tokens for each generated one: --ratio 10:1"
    if said.prompts and said.gpu_tokens_per_s is not None:
        yield "The GPU's stated rate is taken to hold while it reads the prompts too."
    if said.flop_per_s is not None and said.utilization is None:
        yield (
            "No GPU does all the operations of its data sheet, and small batches are held back by"
            " memory bandwidth. State the share that is used: --utilization 0.4"
        )
    for device in devices:
        lacks = isinstance(device.j_per_prompt_token, Unavailable)
        if said.prompts and lacks and isinstance(device.j_per_token, Quantity):
            why = device.j_per_prompt_token
            yield (
                f"{device.name}: the energy of the prompts is not in it"
                f" ({why.reason if isinstance(why, Unavailable) else ''})."
                " State it: --j-per-prompt-token 0.05"
            )
        if isinstance(device.j_per_token, Quantity) and device.j_per_token.bound:
            yield f"{device.name}: the sensor does not see the whole device."
    grounds = (one for device in devices for one in (device.j_per_token, device.tokens_per_s))
    if any(map(_measured_range, grounds)):
        yield "Ranges follow from the 95 % intervals of what was measured."


def _measured_range(figure: MaybeQuantity) -> bool:
    return (
        isinstance(figure, Quantity)
        and figure.low < figure.high
        and not {Origin.MEASURED, Origin.SYNTHETIC}.isdisjoint(g.basis for g in figure.rests_on)
    )
