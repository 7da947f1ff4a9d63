"""What a user states of a device, its prices and its alternatives, and what that makes of figures.

A figure that lacks one of its grounds is Unavailable with what would supply it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..basis import Unavailable
from ..economics import OpposedBoundsError, Quantity, compute_tokens_per_s, derive, stated
from ..errors import UsageError

MaybeQuantity = Quantity | Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectedRates:
    """The rates that a model is expected to have on a known device, where nothing was measured.

    `caution` is a sentence that comes before all costs, such as that it does not fit there.
    """

    name: str
    tokens_per_s: MaybeQuantity
    prompt_tokens_per_s: MaybeQuantity
    caution: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What the user states; None where nothing is. Prices are in `currency`, which is a label.

    `input_per_output` are prompt tokens for each generated one. `watts` is the device's power while
    it generates, `idle_w` while it waits. API prices are per million tokens. `gpu_tokens_per_s` is
    what one of `gpu_streams` at once gets, from all `gpus` together; `utilization` is the share of
    `flop_per_s`, of one GPU, that is put to use.
    """

    reading_tokens_per_s: float
    reading_name: str
    currency: str = "USD"
    input_per_output: float | None = None
    watts: float | None = None
    idle_w: float | None = None
    tokens_per_s: float | None = None
    prompt_tokens_per_s: float | None = None
    j_per_token: float | None = None
    j_per_prompt_token: float | None = None
    price_per_kwh: float | None = None
    hardware_price: float | None = None
    hardware_years: float | None = None
    tokens_per_day: float | None = None
    hours_per_day: float | None = None
    battery: Quantity | None = None
    projected: ProjectedRates | None = None
    api_price_in: float | None = None
    api_price_out: float | None = None
    gpu_price_per_h: float | None = None
    gpus: int = 1
    gpu_tokens_per_s: float | None = None
    gpu_streams: int = 1
    parameters: float | None = None
    flop_per_s: float | None = None
    utilization: float | None = None
    training_tokens: float | None = None

    @property
    def prompts(self) -> float:
        """Prompt tokens for each generated one that are counted."""
        return self.input_per_output or 0.0

    @property
    def of_a_device(self) -> bool:
        """Whether anything is said of a device by itself, so that no record is needed for one."""
        return any(
            one is not None
            for one in (
                self.watts, self.idle_w, self.tokens_per_s, self.prompt_tokens_per_s,
                self.j_per_token, self.j_per_prompt_token, self.price_per_kwh,
                self.hardware_price, self.hardware_years, self.hours_per_day, self.battery,
                self.projected,
            )
        )  # fmt: skip


def refuse_contradictions(said: Stated) -> None:
    """Raises UsageError for figures that cannot be true together."""
    if said.tokens_per_day is not None and said.hours_per_day is not None:
        raise UsageError("--tokens-per-day and --hours-per-day say the same: state one of them.")
    if said.j_per_token is not None and said.watts is not None:
        raise UsageError("--j-per-token and --watts say the same: state one of them.")
    if said.gpu_tokens_per_s and said.parameters and said.flop_per_s:
        claimed = said.gpu_tokens_per_s * said.gpu_streams
        most = compute_tokens_per_s(
            said.parameters, said.flop_per_s, gpus=said.gpus, input_per_output=said.prompts
        )
        if claimed > most:
            raise UsageError(
                f"{claimed:,.4g} tokens/s are physically impossible there.",
                cause=f"2 x {said.parameters:.4g} operations for each token, prompts counted, allow"
                f" at most {most:,.4g} generated tokens/s at"
                f" {said.gpus * said.flop_per_s:.4g} FLOP/s.",
                way_out="State the rate or the FLOP/s that was measured.",
            )


def said_quantity(
    value: float | None, unit: str, name: str, *, otherwise: str, example: str
) -> MaybeQuantity:
    """What is stated under a name, or the reason why it is missing and how to state it."""
    if value is None:
        return Unavailable(reason=otherwise, remedy=f"State it: {example}")
    return stated(value, unit, name)


def derived(
    formula: Callable[..., float], unit: str, words: str, /, **inputs: MaybeQuantity
) -> MaybeQuantity:
    """What a formula makes of its grounds, or the first of them that is missing."""
    known: dict[str, Quantity] = {}
    for name, one in inputs.items():
        if isinstance(one, Unavailable):
            return one
        known[name] = one
    try:
        return derive(formula, unit, words, **known)
    except OpposedBoundsError:
        return Unavailable(
            reason="one of its grounds is known as at least, another as at most",
            remedy="Measure prompts as well, with a sensor of the whole device",
        )
