"""The options of `edge cost`, by what they say something of."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def _option(panel: str, flag: str, metavar: str, words: str) -> Any:
    return typer.Option(
        flag, metavar=metavar, help=words, rich_help_panel=panel, show_default=False
    )


_DEVICE = "Your device"
_BATTERY = "Battery"
_API = "An API"
_GPU = "A rented GPU"
_TRAINING = "Training"
Number = float | None
Text = str | None

Watts = Annotated[
    Number, _option(_DEVICE, "--watts", "W", "Its power while it generates, all of it.")
]
IdleWatts = Annotated[Number, _option(_DEVICE, "--idle-watts", "W", "Its power while it waits.")]
Rate = Annotated[Number, _option(_DEVICE, "--tokens-per-s", "RATE", "Tokens it generates.")]
PromptRate = Annotated[
    Number, _option(_DEVICE, "--prompt-tokens-per-s", "RATE", "Prompt tokens it reads.")
]
Joules = Annotated[
    Number, _option(_DEVICE, "--j-per-token", "J", "Energy of a generated token, gross.")
]
PromptJoules = Annotated[
    Number, _option(_DEVICE, "--j-per-prompt-token", "J", "Energy of a prompt token, gross.")
]
KwhPrice = Annotated[Number, _option(_DEVICE, "--kwh-price", "PRICE", "Of a kWh of electricity.")]
HardwarePrice = Annotated[Number, _option(_DEVICE, "--hardware-price", "PRICE", "Of the device.")]
Years = Annotated[Number, _option(_DEVICE, "--years", "YEARS", "How long it is used.")]
TokensPerDay = Annotated[
    Text, _option(_DEVICE, "--tokens-per-day", "TOKENS", "Generated on each day, such as 100k.")
]
HoursPerDay = Annotated[
    Number, _option(_DEVICE, "--hours-per-day", "HOURS", "It generates in on each day.")
]
BatteryText = Annotated[
    Text, _option(_BATTERY, "--battery", "ENERGY", "What a full one holds, such as 18.2Wh.")
]
DeviceName = Annotated[
    Text, _option(_DEVICE, "--device", "ID", "A known device: for its battery, and for --model.")
]
Model = Annotated[
    Text, _option(_DEVICE, "--model", "MODEL", "Whose rates are projected onto --device.")
]
Level = Annotated[
    str,
    typer.Option("--level", metavar="LEVEL", help="Of --model.", rich_help_panel=_DEVICE),
]
Reading = Annotated[
    str,
    typer.Option(
        "--reading", metavar="PACE", help="Such as silent-reading, fast-reading or speech.",
        rich_help_panel=_BATTERY,
    ),
]  # fmt: skip
ApiIn = Annotated[Number, _option(_API, "--api-price-in", "PRICE", "Of a million prompt tokens.")]
ApiOut = Annotated[
    Number, _option(_API, "--api-price-out", "PRICE", "Of a million generated tokens.")
]
Ratio = Annotated[
    Text,
    typer.Option(
        "--ratio", metavar="IN:OUT", show_default=False,
        help="Prompt tokens that come with each generated one, such as 10:1; none if not stated.",
    ),
]  # fmt: skip
GpuPrice = Annotated[Number, _option(_GPU, "--gpu-price", "PRICE", "Of one GPU for an hour.")]
Gpus = Annotated[
    int,
    typer.Option("--gpus", min=1, max=10**6, help="How many serve together.", rich_help_panel=_GPU),
]
GpuRate = Annotated[
    Number,
    _option(
        _GPU, "--gpu-tokens-per-s", "RATE",
        "Generated tokens: by all of them, or in each stream of --batch.",
    ),
]  # fmt: skip
Batch = Annotated[
    int,
    typer.Option(
        "--batch", min=1, max=10**6, help="Streams generated at once.", rich_help_panel=_GPU
    ),
]
Parameters = Annotated[
    Text,
    _option(_GPU, "--parameters", "N", "The model's, used for each token: 8B, 222e9, 8x222e9."),
]
Flops = Annotated[
    Text, _option(_GPU, "--flops", "FLOP/S", "Of one GPU at the model's precision: 312T.")
]
Utilization = Annotated[
    Number, _option(_GPU, "--utilization", "SHARE", "Of --flops that is put to use, such as 0.4.")
]
TrainTokens = Annotated[
    Text, _option(_TRAINING, "--train-tokens", "D", "To train --parameters on, such as 2T.")
]
Currency = Annotated[
    str, typer.Option("--currency", metavar="NAME", help="What all prices are counted in.")
]

Explain = Annotated[
    bool, typer.Option("--explain", help="Show the formula and the grounds of each figure.")
]
