"""What tokens cost where one owns nothing: at an API, on rented GPUs; and what training takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .. import economics
from ..basis import Unavailable
from ..economics import Bound, Origin, stated
from .break_even import break_even, of_a_day, tokens_stated
from .stated import MaybeQuantity, Stated, derived, said_quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiCost:
    """What an API takes for a million generated tokens with their prompts, and a day of them."""

    per_million: MaybeQuantity
    per_day: MaybeQuantity


@dataclass(frozen=True, slots=True, kw_only=True)
class RentedCost:
    """What rented GPUs cost, rented around the clock, and what they do for it.

    `tokens_per_s` are generated, in all streams; `tokens_per_day` count prompts too.
    `api_per_day` is what the API takes for the tokens of such a day, `break_even_tokens_per_day`
    the generated tokens from which renting is cheaper than the API.
    """

    tokens_per_s: MaybeQuantity
    per_million: MaybeQuantity
    per_thousand: MaybeQuantity
    per_day: MaybeQuantity
    per_year: MaybeQuantity
    generated_per_day: MaybeQuantity
    tokens_per_day: MaybeQuantity
    api_per_day: MaybeQuantity
    break_even_tokens_per_day: MaybeQuantity


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCost:
    """What training a model takes: operations, GPU hours, money."""

    flop: MaybeQuantity
    gpu_h: MaybeQuantity
    cost: MaybeQuantity


def api_per_million(said: Stated) -> MaybeQuantity:
    """What the stated API takes for a million generated tokens and their prompts."""
    unit = f"{said.currency} per million tokens"
    out = said_quantity(
        said.api_price_out,
        unit,
        "API price of output",
        otherwise="no API price of generated tokens is stated",
        example="--api-price-out 0.60",
    )
    words = "output price + prompt tokens x input price"
    generated = f"{said.currency} per million generated tokens"
    if not said.prompts:
        return derived(economics.api_per_million, generated, words, price_out=out)
    return derived(
        economics.api_per_million,
        generated,
        words,
        price_out=out,
        price_in=said_quantity(
            said.api_price_in,
            unit,
            "API price of input",
            otherwise="no API price of prompt tokens is stated, and they are counted",
            example="--api-price-in 0.15",
        ),
        **_prompts(said),
    )


def api_cost(said: Stated, per_million: MaybeQuantity) -> ApiCost | None:
    """The API's figures, None where nothing is said of one."""
    if said.api_price_in is None and said.api_price_out is None:
        return None
    per_day = of_a_day(per_million, tokens_stated(said), said.currency)
    return ApiCost(per_million=per_million, per_day=per_day)


def rented_cost(said: Stated, api: MaybeQuantity) -> RentedCost | None:
    """What rented GPUs cost and do, None where nothing is said of one."""
    if said.gpu_price_per_h is None and said.gpu_tokens_per_s is None and said.flop_per_s is None:
        return None
    price = said_quantity(
        said.gpu_price_per_h,
        f"{said.currency} per hour",
        "price of a GPU hour",
        otherwise="no price of a GPU hour is stated",
        example="--gpu-price 0.60",
    )
    gpus = _gpus(said)
    rate = _gpu_rate(said)
    per_million = derived(
        economics.rental_per_million,
        f"{said.currency} per million generated tokens",
        _times(said, "1e6 x price / (tok/s x 3600)"),
        price_per_h=price,
        tokens_per_s=rate,
        **gpus,
    )
    generated = derived(
        economics.served_tokens_per_day,
        "generated tokens per day",
        "tok/s x 86400",
        tokens_per_s=rate,
    )
    both = derived(
        economics.served_tokens_per_day,
        "tokens per day, prompts counted",
        "tok/s x 86400 x (1 + prompt tokens)",
        tokens_per_s=rate,
        **_prompts(said),
    )
    per_day = derived(
        economics.rental_per_day,
        f"{said.currency} per day",
        _times(said, "price x 24"),
        price_per_h=price,
        **gpus,
    )
    return RentedCost(
        tokens_per_s=rate,
        per_million=per_million,
        per_thousand=derived(
            _thousandth,
            f"{said.currency} per 1000 generated tokens",
            "that of a million / 1000",
            per_million=per_million,
        ),
        per_day=per_day,
        per_year=derived(
            economics.rental_per_year,
            f"{said.currency} per year",
            _times(said, "price x 24 x 365"),
            price_per_h=price,
            **gpus,
        ),
        generated_per_day=generated,
        tokens_per_day=both,
        api_per_day=of_a_day(api, generated, said.currency),
        break_even_tokens_per_day=break_even(per_day, None, api, generated),
    )


def _gpu_rate(said: Stated) -> MaybeQuantity:
    """Generated tokens/s of all GPUs and streams: as stated, else what their operations allow."""
    if said.gpu_tokens_per_s is not None:
        one = stated(said.gpu_tokens_per_s, "tok/s", "rate of a stream")
        if said.gpu_streams == 1:
            return one
        return derived(
            _streams,
            "tok/s",
            "tok/s x streams",
            tokens_per_s=one,
            streams=stated(said.gpu_streams, "streams", "streams"),
        )
    missing = Unavailable(
        reason="neither the GPU's tokens/s nor its FLOP/s and the model's parameters are stated",
        remedy="State them: --gpu-tokens-per-s 2500, or --parameters 8B --flops 312T",
    )
    if said.flop_per_s is None or said.parameters is None:
        return missing
    per_token = "2 x parameters x (1 + prompt tokens)" if said.prompts else "2 x parameters"
    rate = derived(
        economics.compute_tokens_per_s,
        "tok/s",
        _times(said, f"FLOP/s x utilization / ({per_token})"),
        parameters=stated(said.parameters, "parameters", "parameters"),
        flop_per_s=stated(said.flop_per_s, "FLOP/s", "FLOP/s"),
        utilization=stated(said.utilization or 1.0, "", "utilization"),
        **_gpus(said),
        **_prompts(said),
    )
    return _all_used(rate, said, Bound.AT_MOST)


def _prompts(said: Stated) -> dict[str, MaybeQuantity]:
    """The ratio as an input, where prompts are counted."""
    if not said.prompts:
        return {}
    return {"input_per_output": stated(said.prompts, "prompt tokens per token", "input to output")}


def _gpus(said: Stated) -> dict[str, MaybeQuantity]:
    """The number of GPUs as an input, where it is not one."""
    return {} if said.gpus == 1 else {"gpus": stated(said.gpus, "GPUs", "number of GPUs")}


def _times(said: Stated, words: str) -> str:
    return words if said.gpus == 1 else f"{said.gpus} GPUs x {words}"


def _thousandth(per_million: float) -> float:
    return per_million / 1000


def _streams(tokens_per_s: float, streams: float) -> float:
    return tokens_per_s * streams


def _all_used(figure: MaybeQuantity, said: Stated, bound: Bound) -> MaybeQuantity:
    """A bound where no utilization is stated: no GPU does all the operations of its data sheet."""
    if said.utilization is not None or isinstance(figure, Unavailable):
        return figure
    grounds = tuple(
        replace(ground, basis=Origin.ASSUMED, source="100 % of the FLOP/s")
        if ground.name == "utilization"
        else ground
        for ground in figure.rests_on
    )
    return replace(figure, bound=bound, rests_on=grounds)


def training_cost(said: Stated) -> TrainingCost | None:
    """What training takes, None where no training tokens are stated."""
    if said.training_tokens is None:
        return None
    flop = derived(
        economics.training_flop,
        "FLOP",
        "6 x parameters x tokens",
        parameters=said_quantity(
            said.parameters,
            "parameters",
            "parameters",
            otherwise="the model's parameters are not stated",
            example="--parameters 8B",
        ),
        tokens=stated(said.training_tokens, "tokens", "training tokens"),
    )
    gpu_h = derived(
        economics.training_gpu_h,
        "GPU hours",
        "FLOP / (FLOP/s x utilization) / 3600",
        flop=flop,
        flop_per_s=said_quantity(
            said.flop_per_s,
            "FLOP/s",
            "FLOP/s",
            otherwise="no FLOP/s of a GPU are stated",
            example="--flops 312T",
        ),
        utilization=stated(said.utilization or 1.0, "", "utilization"),
    )
    gpu_h = _all_used(gpu_h, said, Bound.AT_LEAST)
    cost = derived(
        _hours_cost,
        said.currency,
        "GPU hours x price of a GPU hour",
        hours=gpu_h,
        price_per_h=said_quantity(
            said.gpu_price_per_h,
            f"{said.currency} per hour",
            "price of a GPU hour",
            otherwise="no price of a GPU hour is stated",
            example="--gpu-price 2.27",
        ),
    )
    return TrainingCost(flop=flop, gpu_h=gpu_h, cost=cost)


def _hours_cost(hours: float, price_per_h: float) -> float:
    return hours * price_per_h
