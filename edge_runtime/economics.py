"""The arithmetic of what tokens cost: joules, rates, prices and hours to money and battery.

Pure formulas on plain numbers, each with its source, and `Quantity`: a number that carries its
interval, its unit and what it rests on through them. A year has 365 days and a day 24 hours, as
yearly prices of rented machines are usually told. It knows no price, no device and no record:
every number is an argument, and a currency is whatever its caller counts in.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from .statistics import Interval

MILLION = 1e6
S_PER_H = 3600.0
S_PER_DAY = 86_400.0
H_PER_DAY = 24.0
DAYS_PER_YEAR = 365.0
J_PER_KWH = 3.6e6
NUDGE = 1.001
"""How far up an input that is a bound is moved to see which way the result goes."""


class Origin(enum.StrEnum):
    """Where a number comes from: the first thing to say beside it."""

    STATED = "stated"
    MEASURED = "measured"
    SYNTHETIC = "synthetic"
    """Measured on weights of the true shape and types with random values."""
    PROJECTED = "projected"
    """Computed from other machines' measurements; nothing ran on the device."""
    ESTIMATED = "estimated"
    ASSUMED = "assumed"
    """Taken for granted where nothing was stated; what follows from it is a bound."""
    DERIVED = "derived"
    """Computed from the others by a formula."""


class Bound(enum.StrEnum):
    """Whether the truth may lie beyond a number on one side, further than its interval says."""

    NONE = ""
    AT_LEAST = "at least"
    AT_MOST = "at most"

    @property
    def opposite(self) -> Bound:
        """The bound of a quantity that falls as this one rises."""
        return {Bound.AT_LEAST: Bound.AT_MOST, Bound.AT_MOST: Bound.AT_LEAST}.get(self, self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One number that another was made from: what and how much it is, and where it comes from."""

    name: str
    value: float
    unit: str
    basis: Origin
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A positive number with its interval, its unit and its grounds.

    `low <= value <= high` are in `unit`. `rests_on` are the numbers it was made from, or
    itself where it is one of them; `formula` says how, of what is derived.
    """

    low: float
    value: float
    high: float
    unit: str
    basis: Origin
    rests_on: tuple[Ground, ...]
    formula: str = ""
    bound: Bound = Bound.NONE


class OpposedBoundsError(ValueError):
    """A figure would be at least and at most so much: nothing is known of it."""


def stated(value: float, unit: str, name: str) -> Quantity:
    """A number somebody stated: exactly itself, under a name."""
    return Quantity(
        low=value, value=value, high=value, unit=unit, basis=Origin.STATED,
        rests_on=(Ground(name=name, value=value, unit=unit, basis=Origin.STATED),),
    )  # fmt: skip


def found(
    interval: Interval,
    unit: str,
    name: str,
    *,
    basis: Origin = Origin.MEASURED,
    source: str = "",
    bound: Bound = Bound.NONE,
) -> Quantity:
    """A number with the interval an instrument gave it, under a name and the instrument's."""
    ground = Ground(name=name, value=interval.value, unit=unit, basis=basis, source=source)
    return Quantity(
        low=interval.low, value=interval.value, high=interval.high, unit=unit, basis=basis,
        rests_on=(ground,), bound=bound,
    )  # fmt: skip


def derive(formula: Callable[..., float], unit: str, words: str, /, **inputs: Quantity) -> Quantity:
    """The quantity a formula makes of others, with all its inputs at their ends at once.

    `formula` takes the inputs' values by name and rises or falls in each of them over its whole
    interval; the ends of the result then lie at a corner of the inputs' intervals. An input that
    is only a bound makes the result one, so the formula is also asked for `NUDGE` times its value.
    Raises OpposedBoundsError where two of them point apart, and what the formula raises.
    """
    names = tuple(inputs)
    corners = [
        formula(**dict(zip(names, corner, strict=True)))
        for corner in itertools.product(*(sorted({q.low, q.high}) for q in inputs.values()))
    ]
    values = {name: q.value for name, q in inputs.items()}
    value = formula(**values)
    bounds = set()
    for name, q in inputs.items():
        if q.bound is Bound.NONE:
            continue
        more = formula(**{**values, name: q.value * NUDGE})
        if more != value:
            bounds.add(q.bound if more > value else q.bound.opposite)
    if len(bounds) > 1:
        raise OpposedBoundsError(f"{words}: its grounds are bounds in opposite directions.")
    return Quantity(
        low=min(corners), value=value, high=max(corners), unit=unit, basis=Origin.DERIVED,
        rests_on=tuple(dict.fromkeys(ground for q in inputs.values() for ground in q.rests_on)),
        formula=words, bound=bounds.pop() if bounds else Bound.NONE,
    )  # fmt: skip


def _positive(**named: float) -> None:
    for name, value in named.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, not {value!r}.")


def _not_negative(**named: float) -> None:
    for name, value in named.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be zero or a positive number, not {value!r}.")


# Computing


def flop_per_token(parameters: float) -> float:
    """Operations of one token's forward pass, 2 N: a multiplication and an addition per weight.

    Kaplan et al. 2020, arXiv 2001.08361, section 2.1, where attention over the context adds
    2 x layers x context x width, left out here as there for contexts that are short beside the
    width. N are the parameters one token uses: of a mixture of experts the active ones only.
    """
    _positive(parameters=parameters)
    return 2 * parameters


def training_flop(parameters: float, tokens: float) -> float:
    """Operations of training, 6 N D: 2 N forward and 4 N backward for each of D tokens.

    Kaplan et al. 2020, arXiv 2001.08361, section 2.1; Hoffmann et al. 2022, arXiv 2203.15556,
    section 3, where the exact count differs little from it (appendix F).
    """
    _positive(parameters=parameters, tokens=tokens)
    return 6 * parameters * tokens


def training_gpu_h(flop: float, flop_per_s: float, utilization: float = 1.0) -> float:
    """GPU hours of so many operations, at a share `utilization` of the GPU's peak."""
    _positive(flop=flop, flop_per_s=flop_per_s, utilization=utilization)
    return flop / (flop_per_s * utilization) / S_PER_H


def compute_tokens_per_s(
    parameters: float,
    flop_per_s: float,
    utilization: float = 1.0,
    gpus: float = 1.0,
    input_per_output: float = 0.0,
) -> float:
    """Generated tokens/s that the operations of the GPUs suffice for: F u / 2 N.

    A prompt token takes as many operations as a generated one, so that `input_per_output` prompt
    tokens for each share the rate. An upper limit: small batches are held back by memory bandwidth.
    """
    _positive(flop_per_s=flop_per_s, utilization=utilization, gpus=gpus)
    _not_negative(input_per_output=input_per_output)
    per_generated = flop_per_token(parameters) * (1 + input_per_output)
    return flop_per_s * utilization * gpus / per_generated


# Serving


def served_tokens_per_day(
    tokens_per_s: float, streams: float = 1.0, input_per_output: float = 0.0
) -> float:
    """Tokens a service handles in a day, generated and prompts together.

    `tokens_per_s` generated by each of so many `streams` at once, and `input_per_output` prompt
    tokens for each of them; the prompts are taken to cost no time of their own. Yangqing Jia's
    account of a 405B service, 2024, as told at
    https://atlascloud.ai/post/the-math-behind-inference-for-llama31-405b
    """
    _positive(tokens_per_s=tokens_per_s, streams=streams)
    _not_negative(input_per_output=input_per_output)
    return tokens_per_s * streams * S_PER_DAY * (1 + input_per_output)


def price_of_tokens(tokens: float, price_per_million: float) -> float:
    """What so many tokens cost at a price for a million."""
    _positive(tokens=tokens, price_per_million=price_per_million)
    return tokens / MILLION * price_per_million


def api_per_million(
    price_out: float, price_in: float = 0.0, input_per_output: float = 0.0
) -> float:
    """What an API takes for a million generated tokens with `input_per_output` prompt tokens each.

    The prices are per million tokens, output and input apart, as APIs are priced.
    """
    _positive(price_out=price_out)
    _not_negative(price_in=price_in, input_per_output=input_per_output)
    return price_out + input_per_output * price_in


def rental_per_day(price_per_h: float, gpus: float = 1.0) -> float:
    """What `gpus` GPUs rented by the hour cost in a day, used or not."""
    _positive(price_per_h=price_per_h, gpus=gpus)
    return price_per_h * gpus * H_PER_DAY


def rental_per_year(price_per_h: float, gpus: float = 1.0) -> float:
    """What `gpus` GPUs rented by the hour cost in 365 days, used or not."""
    return rental_per_day(price_per_h, gpus) * DAYS_PER_YEAR


def rental_per_million(price_per_h: float, tokens_per_s: float, gpus: float = 1.0) -> float:
    """What a million generated tokens cost on rented GPUs that never wait: price/h / (tokens/h).

    `tokens_per_s` is what all the GPUs generate together, in all streams. The field's usual
    account, as in https://www.tensoreconomics.com/p/llm-inference-economics-from-first
    """
    _positive(price_per_h=price_per_h, tokens_per_s=tokens_per_s, gpus=gpus)
    return price_per_h * gpus / (tokens_per_s * S_PER_H) * MILLION


# A device one owns


def joules_per_token(watts: float, tokens_per_s: float) -> float:
    """Gross joules of a token: the power while tokens are made over how many come in a second."""
    _positive(watts=watts, tokens_per_s=tokens_per_s)
    return watts / tokens_per_s


def joules_with_prompt(
    j_per_token: float, j_per_prompt_token: float, input_per_output: float
) -> float:
    """Joules of a generated token and of the `input_per_output` prompt tokens it comes with."""
    _positive(j_per_token=j_per_token, j_per_prompt_token=j_per_prompt_token)
    _not_negative(input_per_output=input_per_output)
    return j_per_token + input_per_output * j_per_prompt_token


def electricity_per_million(j_per_token: float, price_per_kwh: float) -> float:
    """What the electricity of a million tokens costs: 1e6 x J/token / 3.6e6 J/kWh x price."""
    _positive(j_per_token=j_per_token, price_per_kwh=price_per_kwh)
    return MILLION * j_per_token / J_PER_KWH * price_per_kwh


def hardware_per_day(price: float, years: float) -> float:
    """What a device costs in each day of its years, straight-line and worth nothing at the end."""
    _positive(price=price, years=years)
    return price / (years * DAYS_PER_YEAR)


def hardware_per_million(price: float, years: float, tokens_per_day: float) -> float:
    """A device's share in a million generated tokens, of `tokens_per_day` on every day."""
    _positive(tokens_per_day=tokens_per_day)
    return hardware_per_day(price, years) / tokens_per_day * MILLION


def device_per_day(
    fixed_per_day: float, electricity_per_million: float, tokens_per_day: float
) -> float:
    """What a device costs on a day of so many tokens: its share of that day, and electricity."""
    _positive(fixed_per_day=fixed_per_day)
    return fixed_per_day + price_of_tokens(tokens_per_day, electricity_per_million)


def working_day(fixed_per_day: float, watts: float, hours: float, price_per_kwh: float) -> float:
    """What a device costs on a day on which it works for so many hours at so many watts."""
    _positive(fixed_per_day=fixed_per_day, watts=watts, hours=hours, price_per_kwh=price_per_kwh)
    return fixed_per_day + watts * hours * S_PER_H / J_PER_KWH * price_per_kwh


def tokens_in_hours(
    tokens_per_s: float,
    hours: float = H_PER_DAY,
    input_per_output: float = 0.0,
    prompt_tokens_per_s: float = math.inf,
) -> float:
    """Generated tokens in so many hours, reading each one's prompt tokens first.

    `hours x 3600 / (1 / decode rate + prompts per token / prefill rate)`.
    """
    _positive(tokens_per_s=tokens_per_s, hours=hours)
    _not_negative(input_per_output=input_per_output)
    if not prompt_tokens_per_s > 0:
        raise ValueError(f"prompt_tokens_per_s must be positive, not {prompt_tokens_per_s!r}.")
    return hours * S_PER_H / (1 / tokens_per_s + input_per_output / prompt_tokens_per_s)


def break_even_tokens_per_day(
    fixed_per_day: float, own_per_million: float, other_per_million: float
) -> float:
    """Generated tokens a day from which what costs `fixed_per_day` is the cheaper.

    Each million costs `own_per_million` there, 0 where only time is paid, and `other_per_million`
    elsewhere. fixed + n own = n other. Raises ValueError where the other is the cheaper for every
    token, and there is no such number.
    """
    _positive(fixed_per_day=fixed_per_day, other_per_million=other_per_million)
    _not_negative(own_per_million=own_per_million)
    if own_per_million >= other_per_million:
        raise ValueError("each token already costs as much as elsewhere: it never breaks even.")
    return fixed_per_day / (other_per_million - own_per_million) * MILLION


def battery_percent(j_per_token: float, battery_j: float, tokens: float = 1000.0) -> float:
    """The share of a full battery that so many tokens take, percent."""
    _positive(j_per_token=j_per_token, battery_j=battery_j, tokens=tokens)
    return 100 * tokens * j_per_token / battery_j


def battery_h(
    battery_j: float,
    j_per_token: float,
    tokens_per_s: float,
    read_tokens_per_s: float = math.inf,
    idle_w: float = 0.0,
) -> float:
    """Hours of a full battery while tokens are read at a pace, the device idle in between.

    Mean power: the pace x J/token, and `idle_w` for the rest of the time. Where the device is the
    slower, or no pace is given, it never idles. With `idle_w` of 0 only what generating takes
    counts, and the hours are the most there can be.
    """
    _positive(battery_j=battery_j, j_per_token=j_per_token, tokens_per_s=tokens_per_s)
    _not_negative(idle_w=idle_w)
    if not read_tokens_per_s > 0:
        raise ValueError(f"read_tokens_per_s must be positive, not {read_tokens_per_s!r}.")
    pace = min(read_tokens_per_s, tokens_per_s)
    mean_w = pace * j_per_token + idle_w * (1 - pace / tokens_per_s)
    return battery_j / mean_w / S_PER_H


def battery_h_at(
    battery_j: float,
    watts: float,
    tokens_per_s: float,
    read_tokens_per_s: float = math.inf,
    idle_w: float = 0.0,
) -> float:
    """`battery_h` of a device that takes so many watts while it generates, whatever its rate."""
    j_per_token = joules_per_token(watts, tokens_per_s)
    return battery_h(battery_j, j_per_token, tokens_per_s, read_tokens_per_s, idle_w)
