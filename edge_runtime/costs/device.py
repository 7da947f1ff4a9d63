"""What a model's tokens cost on one's own device: electricity, hardware, battery, break-even."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .. import economics
from ..basis import Unavailable
from ..economics import Bound, Quantity, stated
from .break_even import break_even, tokens_stated
from .known import KnownDevice
from .stated import MaybeQuantity, Stated, derived, said_quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class BatteryUse:
    """What generating takes of a battery, without prompts.

    `percent` is what 1000 tokens take. The hours are those of a full battery: generating without a
    pause, and at reading pace with `idle_w` in between; at most so many where that is not known.
    """

    battery_j: MaybeQuantity
    percent: MaybeQuantity
    generating_h: MaybeQuantity
    reading_h: MaybeQuantity
    idle_w: MaybeQuantity


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCost:
    """What one model's tokens cost on one's own device.

    Per million generated tokens with their prompts: `electricity`, `hardware` and both `together`.
    `generated_j_per_token` is gross and of the generated token alone, `j_per_token` has its
    prompt's share. `most_tokens_per_day` it generates at its rate without a pause.
    `break_even_tokens_per_day` is from where it is cheaper than the API.
    """

    name: str
    generated_j_per_token: MaybeQuantity
    j_per_token: MaybeQuantity
    tokens_per_s: MaybeQuantity
    most_tokens_per_day: MaybeQuantity
    tokens_per_day: MaybeQuantity
    electricity: MaybeQuantity
    hardware: MaybeQuantity
    together: MaybeQuantity
    per_day: MaybeQuantity
    break_even_tokens_per_day: MaybeQuantity
    battery: BatteryUse


def device_cost(device: KnownDevice, said: Stated, api: MaybeQuantity) -> DeviceCost:
    """The device's figures at the user's prices, beside what the API takes for a million."""
    unit = f"{said.currency} per million generated tokens"
    joules = _with_prompts(device, said)
    most = _tokens(device, said, hours=None)
    used = _use(device, said, most)
    price, years = _hardware(said)
    electricity = derived(
        economics.electricity_per_million,
        unit,
        "1e6 x J/token / 3.6e6 J/kWh x price of a kWh",
        j_per_token=joules,
        price_per_kwh=_kwh(said),
    )
    hardware = derived(
        economics.hardware_per_million,
        unit,
        "1e6 x price / (years x 365 x tokens per day)",
        price=price,
        years=years,
        tokens_per_day=used,
    )
    together = derived(
        _sum, unit, "electricity + hardware", electricity=electricity, hardware=hardware
    )
    fixed = derived(
        economics.hardware_per_day,
        f"{said.currency} per day",
        "price / (years x 365)",
        price=price,
        years=years,
    )
    return DeviceCost(
        name=device.name,
        generated_j_per_token=device.j_per_token,
        j_per_token=joules,
        tokens_per_s=device.tokens_per_s,
        most_tokens_per_day=most,
        tokens_per_day=used,
        electricity=electricity,
        hardware=hardware,
        together=together,
        per_day=_per_day(said, fixed, electricity, used),
        break_even_tokens_per_day=break_even(fixed, electricity, api, most),
        battery=_battery(device, said),
    )


def _per_day(
    said: Stated, fixed: MaybeQuantity, electricity: MaybeQuantity, used: MaybeQuantity
) -> MaybeQuantity:
    """What a day costs. Watts for hours are so much energy, however fast the tokens come."""
    unit = f"{said.currency} per day"
    if said.watts is None or said.hours_per_day is None or isinstance(electricity, Unavailable):
        return derived(
            economics.device_per_day,
            unit,
            "price / (years x 365) + tokens per day / 1e6 x electricity",
            fixed_per_day=fixed,
            electricity_per_million=electricity,
            tokens_per_day=used,
        )
    return derived(
        economics.working_day,
        unit,
        "price / (years x 365) + W x hours / 1000 x price of a kWh",
        fixed_per_day=fixed,
        watts=stated(said.watts, "W", "power"),
        hours=stated(said.hours_per_day, "h", "hours per day"),
        price_per_kwh=_kwh(said),
    )


def _kwh(said: Stated) -> MaybeQuantity:
    return said_quantity(
        said.price_per_kwh,
        f"{said.currency}/kWh",
        "price of a kWh",
        otherwise="no price of a kWh is stated",
        example="--kwh-price 0.30",
    )


def _sum(electricity: float, hardware: float) -> float:
    return electricity + hardware


def _with_prompts(device: KnownDevice, said: Stated) -> MaybeQuantity:
    """J of a generated token and its prompt tokens; without theirs, where they are not known."""
    joules = device.j_per_token
    if not said.prompts or isinstance(joules, Unavailable):
        return joules
    if isinstance(device.j_per_prompt_token, Unavailable):
        return replace(joules, bound=Bound.AT_LEAST)
    return derived(
        economics.joules_with_prompt,
        "J/token",
        "J/token + prompt tokens x J/prompt token",
        j_per_token=joules,
        j_per_prompt_token=device.j_per_prompt_token,
        input_per_output=stated(said.prompts, "prompt tokens per token", "input to output"),
    )


def _tokens(device: KnownDevice, said: Stated, *, hours: float | None) -> MaybeQuantity:
    """Generated tokens in so many hours a day, all of them if None, prompts read in between."""
    inputs = {"tokens_per_s": device.tokens_per_s}
    if hours is not None:
        inputs["hours"] = stated(hours, "h", "hours per day")
    blind = bool(said.prompts) and isinstance(device.prompt_tokens_per_s, Unavailable)
    if said.prompts and not blind:
        inputs["input_per_output"] = stated(said.prompts, "", "input to output")
        inputs["prompt_tokens_per_s"] = device.prompt_tokens_per_s
    time = (
        "(1 / rate + prompt tokens / prefill rate)"
        if "input_per_output" in inputs
        else "(1 / rate)"
    )
    words = f"{'86400' if hours is None else 'hours x 3600'} / {time}"
    found = derived(economics.tokens_in_hours, "generated tokens per day", words, **inputs)
    if blind and isinstance(found, Quantity):
        # How long the prompts take is not known: that time cannot be generated in.
        return replace(found, bound=Bound.AT_MOST)
    return found


def _use(device: KnownDevice, said: Stated, most: MaybeQuantity) -> MaybeQuantity:
    """Generated tokens a day as stated; Unavailable where the device cannot make so many."""
    if said.hours_per_day is not None:
        return _tokens(device, said, hours=said.hours_per_day)
    used = tokens_stated(said)
    if isinstance(used, Quantity) and isinstance(most, Quantity) and used.value > most.high:
        return Unavailable(
            reason=f"it generates at most {most.value:,.0f} tokens a day, not {used.value:,.0f}",
            remedy="State what one device can do: --tokens-per-day, or --hours-per-day 2",
        )
    return used


def _hardware(said: Stated) -> tuple[MaybeQuantity, MaybeQuantity]:
    """The device's price, and the years it is used for."""
    return (
        said_quantity(
            said.hardware_price,
            said.currency,
            "price of the device",
            otherwise="no price of the device is stated",
            example="--hardware-price 900 --years 3",
        ),
        said_quantity(
            said.hardware_years,
            "years",
            "years",
            otherwise="how long the device is used is not stated",
            example="--years 3",
        ),
    )


def _battery(device: KnownDevice, said: Stated) -> BatteryUse:
    pace = stated(said.reading_tokens_per_s, "tok/s", f"pace of {said.reading_name}")
    idle, rate = device.idle_w, device.tokens_per_s
    common = {"battery_j": device.battery_j, "tokens_per_s": rate}
    # Watts that are stated do not vary with the rate, as joules per token made of them would.
    by_power = said.watts is not None
    hours = economics.battery_h_at if by_power else economics.battery_h
    energy = "W / (tok/s)" if by_power else "J/token"
    if said.watts is not None:
        common["watts"] = stated(said.watts, "W", "power")
    else:
        common["j_per_token"] = device.j_per_token
    read = {**common, "read_tokens_per_s": pace}
    if isinstance(idle, Quantity):
        read["idle_w"] = idle
    reading = derived(
        hours, "h", f"battery / (reading pace x {energy} + idle W x share of the time left)", **read
    )
    # Who reads as fast as the device generates leaves it no time to idle in.
    waits = isinstance(rate, Quantity) and rate.high > pace.value
    if isinstance(reading, Quantity) and isinstance(idle, Unavailable) and waits:
        reading = replace(reading, bound=Bound.AT_MOST)
    return BatteryUse(
        battery_j=device.battery_j,
        percent=derived(
            economics.battery_percent,
            "% per 1000 generated tokens",
            "100 x 1000 x J/token / battery",
            j_per_token=device.j_per_token,
            battery_j=device.battery_j,
        ),
        generating_h=derived(
            hours, "h", "battery / W" if by_power else "battery / (J/token x tok/s)", **common
        ),
        reading_h=reading,
        idle_w=idle,
    )
