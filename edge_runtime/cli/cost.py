"""`edge cost`: what tokens cost on a device, beside an API, a rented GPU and a battery.

Reads what the user states, checks that it can be, and reads results of `edge profile --save` where
they are given. Nothing is measured here, and no price is known here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..errors import UsageError
from ..units import parse_energy_j, parse_flop_per_s, parse_scaled
from .cost_options import (
    ApiIn,
    ApiOut,
    Batch,
    BatteryText,
    Currency,
    DeviceName,
    Explain,
    Flops,
    GpuPrice,
    GpuRate,
    Gpus,
    HardwarePrice,
    HoursPerDay,
    IdleWatts,
    Joules,
    KwhPrice,
    Level,
    Model,
    Parameters,
    PromptJoules,
    PromptRate,
    Rate,
    Ratio,
    Reading,
    TokensPerDay,
    TrainTokens,
    Utilization,
    Watts,
    Years,
)
from .options import JsonOutput

if TYPE_CHECKING:
    from ..basis import Unavailable
    from ..costs import CostReport
    from ..costs.stated import ProjectedRates
    from ..economics import Quantity
    from ..measurement import Measurement
    from ..statistics import Interval


def cost(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Results of edge profile --save, for measured rates and joules.",
            metavar="[RESULTS.jsonl...]",
            show_default=False,
        ),
    ] = None,
    *,
    device: DeviceName = None,
    model: Model = None,
    level: Level = "Q4_K_M",
    watts: Watts = None,
    idle_watts: IdleWatts = None,
    tokens_per_s: Rate = None,
    prompt_tokens_per_s: PromptRate = None,
    j_per_token: Joules = None,
    j_per_prompt_token: PromptJoules = None,
    kwh_price: KwhPrice = None,
    hardware_price: HardwarePrice = None,
    years: Years = None,
    tokens_per_day: TokensPerDay = None,
    hours_per_day: HoursPerDay = None,
    battery: BatteryText = None,
    reading: Reading = "silent-reading",
    api_price_in: ApiIn = None,
    api_price_out: ApiOut = None,
    ratio: Ratio = None,
    gpu_price: GpuPrice = None,
    gpus: Gpus = 1,
    gpu_tokens_per_s: GpuRate = None,
    batch: Batch = 1,
    parameters: Parameters = None,
    flops: Flops = None,
    utilization: Utilization = None,
    train_tokens: TrainTokens = None,
    currency: Currency = "USD",
    explain: Explain = False,
    json_output: JsonOutput = False,
) -> None:
    """Say what tokens cost: on this device, at an API, on a rented GPU, on a battery."""
    from ..costs import cost_report
    from ..costs.stated import Stated

    pace, pace_name = _pace(reading)
    said = Stated(
        reading_tokens_per_s=pace,
        reading_name=pace_name,
        currency=_currency(currency),
        input_per_output=_ratio(ratio),
        watts=_checked(watts, "--watts", 1e-3, 1e5, "W"),
        idle_w=_checked(idle_watts, "--idle-watts", 1e-4, 1e5, "W"),
        tokens_per_s=_checked(tokens_per_s, "--tokens-per-s", 1e-3, 1e6, "tokens/s"),
        prompt_tokens_per_s=_checked(
            prompt_tokens_per_s, "--prompt-tokens-per-s", 1e-3, 1e7, "tokens/s"
        ),
        j_per_token=_checked(j_per_token, "--j-per-token", 1e-6, 1e6, "J"),
        j_per_prompt_token=_checked(j_per_prompt_token, "--j-per-prompt-token", 1e-8, 1e6, "J"),
        price_per_kwh=_price(kwh_price, "--kwh-price"),
        hardware_price=_price(hardware_price, "--hardware-price"),
        hardware_years=_checked(years, "--years", 0.01, 100, "years"),
        tokens_per_day=_scaled(tokens_per_day, "--tokens-per-day", 1, 1e15, "tokens"),
        hours_per_day=_checked(hours_per_day, "--hours-per-day", 0.01, 24, "hours"),
        battery=_battery(battery, device, needed=model is None),
        projected=_projected(model, level, device, results, tokens_per_s),
        api_price_in=_price(api_price_in, "--api-price-in"),
        api_price_out=_price(api_price_out, "--api-price-out"),
        gpu_price_per_h=_price(gpu_price, "--gpu-price"),
        gpus=gpus,
        gpu_tokens_per_s=_checked(gpu_tokens_per_s, "--gpu-tokens-per-s", 1e-3, 1e9, "tokens/s"),
        gpu_streams=batch,
        parameters=_scaled(parameters, "--parameters", 1e3, 1e17, "parameters"),
        flop_per_s=None if flops is None else _flops(flops),
        utilization=_checked(
            utilization, "--utilization", 1e-4, 1, "", "It is a share: 0.4 is 40 %."
        ),
        training_tokens=_scaled(train_tokens, "--train-tokens", 1, 1e18, "tokens"),
    )  # fmt: skip
    if said.utilization is not None and said.flop_per_s is None:
        raise UsageError("--utilization is a share of --flops.", way_out="State it: --flops 312T")
    records = _read(results) if results else ()
    report = cost_report(records, said, tool_version=__version__)
    if not (report.devices or report.api or report.rented or report.training):
        raise UsageError(
            "Nothing is stated that has a cost.",
            way_out="Such as: edge cost runs.jsonl --kwh-price 0.30, or edge cost --watts 5"
            " --tokens-per-s 10 --kwh-price 0.30",
        )
    _show(report, explain=explain, json_output=json_output)


def _show(report: CostReport, *, explain: bool, json_output: bool) -> None:
    from ..codec import to_jsonable
    from ..report.cost import render_cost
    from ..report.plain import safe_json
    from .pages import show

    if json_output:
        sys.stdout.write(safe_json(to_jsonable(report)) + "\n")
    else:
        show(render_cost(report, explain=explain), piped_columns=120)


def _read(results: list[Path]) -> tuple[Measurement, ...]:
    """The measurements of the files. Raises EdgeError where there is none."""
    from ..errors import EdgeError
    from ..measurement import Measurement
    from ..profiler.results import read_results

    records = [record for path in results for record in read_results(path, repair=False)]
    measured = tuple(record for record in records if isinstance(record, Measurement))
    if not measured:
        raise EdgeError(
            f"{', '.join(map(str, results))}: no measurement in it.",
            cause=f"{len(records)} failed cells." if records else "It is empty.",
            way_out="Make one: edge profile MODEL --save results.jsonl",
        )
    if len(measured) < len(records):
        typer.echo(f"{len(records) - len(measured)} failed cells have no cost.", err=True)
    return measured


def _checked(
    value: float | None, option: str, least: float, most: float, unit: str, hint: str = ""
) -> float | None:
    """The number, where it can be one. Raises UsageError for what is not between the two."""
    if value is None or least <= value <= most:
        return value
    of = f" {unit}" if unit else ""
    raise UsageError(
        f"{option}: {value:g}{of} makes no sense.",
        cause=f"It must lie between {least:g} and {most:,.10g}{of}.",
        way_out=hint or "Leave the option out where the number is not known.",
    )


def _price(value: float | None, option: str) -> float | None:
    hint = "Prices are positive. Leave out what costs nothing."
    return _checked(value, option, 1e-9, 1e12, "", hint)


def _scaled(text: str | None, option: str, least: float, most: float, unit: str) -> float | None:
    return None if text is None else _checked(parse_scaled(text, option), option, least, most, unit)


def _flops(text: str) -> float | None:
    return _checked(parse_flop_per_s(text, "--flops"), "--flops", 1e6, 1e21, "FLOP/s")


def _ratio(text: str | None) -> float | None:
    """Prompt tokens for each generated one, of `10:1` or `10`. Raises UsageError."""
    if text is None:
        return None
    left, _, right = text.partition(":")
    try:
        prompts, generated = parse_scaled(left), parse_scaled(right or "1")
    except UsageError:
        prompts, generated = -1.0, 1.0
    if not (0 <= prompts <= 1e9 and 0 < generated <= 1e9):
        raise UsageError(
            f"--ratio: {text[:40]!r} is none.",
            way_out="Write it like 10:1, ten prompt tokens for each generated one.",
        )
    return _checked(prompts / generated, "--ratio", 0, 1e6, "prompt tokens for each")


def _currency(name: str) -> str:
    if not (
        1 <= len(name) <= 8 and name.isprintable() and not any(c in name for c in " \t[]0123456789")
    ):
        raise UsageError(
            f"--currency: {name[:40]!r} is no name of one.", way_out="Write it like USD, EUR or ¥."
        )
    return name


def _pace(preset: str) -> tuple[float, str]:
    from profiles.reading import needed_tokens_per_s

    try:
        rate, _ = needed_tokens_per_s(preset)
    except ValueError as error:
        raise UsageError(f"--reading: {error}") from None
    return rate, preset


def _projected(
    model: str | None,
    level: str,
    device_id: str | None,
    results: list[Path] | None,
    stated_tokens_per_s: float | None,
) -> ProjectedRates | None:
    """The rates of a model on a device that it was not run on.

    Raises UsageError, also for a stated rate that the device's memory makes impossible.
    """
    if model is None:
        return None
    if results:
        raise UsageError("--model projects what the results have measured: give one of them.")
    if device_id is None:
        raise UsageError("--model needs the device it is for.", way_out="State it: --device ID")
    from ..costs.stated import ProjectedRates
    from ..projection.claims import judge_claim, refuse_impossible
    from ..verdict import Target, VerdictKind
    from .projecting import asked_of, check_devices, find_device

    asked = asked_of(Target(), "f16", None, None, None)
    device = find_device(device_id)
    row = check_devices([model], [level], [device], asked).rows[0]
    made = row.projection
    if stated_tokens_per_s is not None:
        refuse_impossible(judge_claim(made, device, stated_tokens_per_s))
    source = ", ".join(
        filter(None, (f"{made.confidence:.0%} interval", made.accelerator, made.api))
    )
    fits = row.verdict.memory.kind is not VerdictKind.NOT_VIABLE
    return ProjectedRates(
        name=f"{row.row.model} {row.row.level} on {row.device}",
        tokens_per_s=_projected_rate(made.decode_tokens_per_s, "rate", source),
        prompt_tokens_per_s=_projected_rate(made.prefill_tokens_per_s, "prefill rate", source),
        caution="" if fits else f"It does not run there: {row.verdict.cause}.",
    )


def _projected_rate(
    rate: Interval | Unavailable | None, name: str, source: str
) -> Quantity | Unavailable:
    from ..basis import Unavailable
    from ..economics import Origin, found

    if rate is None:
        return Unavailable(reason=f"no {name} is projected")
    if isinstance(rate, Unavailable):
        return rate
    return found(rate, "tok/s", name, basis=Origin.PROJECTED, source=source)


def _battery(text: str | None, device_id: str | None, *, needed: bool) -> Quantity | None:
    """The battery that is stated, or that of a known device. Raises UsageError.

    A device without one is refused where it is `needed`: where it was named for nothing else.
    """
    from ..economics import stated
    from ..energy_use import LEAST_WH, MOST_WH
    from ..phase_energy import WH_J

    if text is None:
        return None if device_id is None else _battery_of(device_id, needed=needed)
    if device_id is not None and needed:
        raise UsageError("--battery and --device both name a battery: state one of them.")
    joules = parse_energy_j(text, "--battery")
    _checked(joules / WH_J, "--battery", LEAST_WH, MOST_WH, "Wh", "A phone has about 15 Wh.")
    return stated(joules, "J", "battery")


def _battery_of(device_id: str, *, needed: bool) -> Quantity | None:
    from ..economics import Origin, found
    from ..statistics import Interval
    from .projecting import find_device

    profile = find_device(device_id)
    figure = profile.battery_j
    name = profile.label
    if figure is None and not needed:
        return None
    if figure is None:
        one_of = [p.id for p in profile.products if p.battery_j is not None]
        raise UsageError(
            f"--device: no battery of {name} is known.",
            cause=f"Its products with one: {', '.join(one_of)}." if one_of else "",
            way_out='State it: --battery "15 Wh"',
        )
    return found(
        Interval(low=figure.low, value=figure.value, high=figure.high),
        "J",
        "battery",
        basis=Origin(figure.kind),
        source=f"profile of {name}",
    )
