"""From published rows to what the model learns from: demand, supply and the seconds a token took.

A row's model is the catalogue's where it has one; otherwise its layers and cache follow from the
number of parameters as they do over the catalogue, and its types from the level's usual mix. Rows
whose conditions change what one token costs are no part of the fit; which ones, stands here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import profiles
from profiles.devices import DeviceProfile
from profiles.published import PublishedRow

from ..artifact import LEVELS, ModelShape, level
from ..errors import UnsupportedError
from ..measurement import SessionOptions
from ..memory_needs import PlannedModel, planned_gguf
from .features import ARCHITECTURES, DENSE, Demand, decode_demand, prefill_demand
from .supply import Route, Supply, Typical, supply_of

LEFT_OUT = (
    "speculative", "partial-offload", "split-accelerators", "pcie-x1",
    "custom-engine", "clock-limited", "wall-time", "old-build", "throttled", "sustained",
    "mtp-model", "deep-context", "best-case",
)  # fmt: skip
"""Conditions under which a row says nothing of what a token costs on the device as it is sold."""

UNLIMITED_MODE = "power-mode:MAXN"
"""The one power mode of the Jetson boards that limits nothing; rows of others are left out."""

USUAL = "llama-3.1-8b"
"""The model whose mix of types stands for a level where a row's own model is not catalogued."""

LAYERS_AT_1B, LAYERS_EXPONENT = 23.8, 0.20
CACHE_BYTES_PER_LAYER, PRODUCTS_PER_LAYER = 4096.0, 4096.0
"""Layers by parameters, and what a layer keeps and multiplies per token of context, where the shape
is not known: fits and medians over the dense models of the catalogue and seven larger ones from 13B
to 70B; layers scatter by 22 % around it."""

DEEPEST_ESTIMATED_TOKENS = 4096
"""A mixture or hybrid whose shape is not known says nothing behind more: few of its layers may
attend to all of the context, and how many decides what the context costs."""

DEFAULT_GENERATED, DEFAULT_PROMPT = 128, 512
"""Tokens a row generated or evaluated where it does not say: what llama-bench does."""

_LIKE = MappingProxyType(
    {
        **dict.fromkeys(("INT4", "Q4", "W4A16", "W4", "NVFP4", "W4A8"), "Q4_0"),
        **dict.fromkeys(("INT8", "W8A8", "W8A16", "Q8"), "Q8_0"),
        **dict.fromkeys(("W2",), "Q2_K"),
        "Q5": "Q5_K_M",
        "FP16": "F16",
        "MXFP4": "IQ4_NL",
        "Q8_K_XL": "Q8_0",
    }
)
"""Levels of other engines and of mixed recipes, by the level whose sizes and family are nearest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One published time: the log of seconds per token, and what took them."""

    row: PublishedRow
    demand: Demand
    supply: Supply
    log_seconds: float


def observe_decode(
    row: PublishedRow, device: DeviceProfile, typical: Mapping[str, Typical]
) -> Observation | None:
    """What a row says of decoding; None where it says nothing or too little."""
    rate = row.decode_tokens_per_s
    if rate is None or not usable(row):
        return None
    supply = _supply(row, device, typical, threads=row.threads)
    depth = (row.depth_tokens or 0) + (row.generate_tokens or DEFAULT_GENERATED) // 2
    demand = _demand(row, depth, prompt=False)
    if supply is None or demand is None or not _fits(row, device):
        return None
    return Observation(row=row, demand=demand, supply=supply, log_seconds=-math.log(rate))


def observe_prefill(
    row: PublishedRow, device: DeviceProfile, typical: Mapping[str, Typical]
) -> Observation | None:
    """What a row says of evaluating a prompt; None where it says nothing or too little."""
    rate = row.prefill_tokens_per_s
    if rate is None or not usable(row) or row.has("short-prompt"):
        return None
    supply = _supply(row, device, typical, threads=_prefill_threads(row), prompt=True)
    prompt = row.prompt_tokens or DEFAULT_PROMPT
    depth = row.depth_tokens or 0
    # Sources that give the prompt as the depth mean the prompt itself, which begins at nothing.
    demand = _demand(row, (depth if depth > prompt else 0) + prompt // 2, prompt=True)
    if supply is None or demand is None:
        return None
    return Observation(row=row, demand=demand, supply=supply, log_seconds=-math.log(rate))


def usable(row: PublishedRow) -> bool:
    """Whether a row's conditions and columns let it speak for the device as it is sold."""
    if not row.accelerator or row.model_type not in ARCHITECTURES:
        return False
    if any(row.has(condition) for condition in LEFT_OUT):
        return False
    modes = [one for one in row.conditions if one.startswith("power-mode:")]
    return all(mode == UNLIMITED_MODE for mode in modes)


def _fits(row: PublishedRow, device: DeviceProfile) -> bool:
    """Whether a card holds the model: one that does not ran a part of it elsewhere."""
    own = device.accelerators[row.accelerator].memory_bytes
    return not own or row.weights_bytes is None or row.weights_bytes <= max(own)


def _prefill_threads(row: PublishedRow) -> int | None:
    """The threads that evaluated the prompt: those of its own where the row has them."""
    stem = "prefill-threads:"
    own = [c.removeprefix(stem) for c in row.conditions if c.startswith(stem)]
    return int(own[0]) if own and own[0].isdecimal() else row.threads


def _supply(
    row: PublishedRow,
    device: DeviceProfile,
    typical: Mapping[str, Typical],
    *,
    threads: int | None,
    prompt: bool = False,
) -> Supply | None:
    if row.accelerator not in device.accelerators:
        return None
    route = Route.on(device, row.accelerator, row.engine, row.api)
    return supply_of(device, route, typical[route.kind], threads=threads, prompt=prompt)


def _demand(row: PublishedRow, tokens: int, *, prompt: bool) -> Demand | None:
    name = known_level(row)
    if name is None:
        return None
    shape = _shapes().get(row.model_id)
    if shape is not None:
        planned = _planned(shape.name, name)
        known = _demand_of(planned, tokens, prompt)
        return replace(known, architecture=row.model_type)
    return _estimated(row, name, tokens, prompt)


def known_level(row: PublishedRow) -> str | None:
    """The GGUF level that a row's is or is like; by the bits per weight where it says none."""
    name = row.level.removeprefix("UD-").replace("_XL", "_M")
    name = _LIKE.get(name, _LIKE.get(row.level.removeprefix("UD-"), name))
    if name:
        try:
            return level(name).name
        except UnsupportedError:
            stem = name.rsplit("_", 1)[0]
            return next((known for known in LEVELS if known.startswith(stem)), None)
    if row.weights_bytes is None or not row.parameters or row.has("embedding-twice"):
        return None
    bits = 8 * row.weights_bytes / row.parameters
    return next((known for least, known in _BY_BITS if bits >= least), None)


_BY_BITS = ((12.0, "F16"), (7.5, "Q8_0"), (6.2, "Q6_K"), (5.2, "Q5_K_M"), (3.8, "Q4_K_M"))


def _estimated(row: PublishedRow, name: str, tokens: int, prompt: bool) -> Demand | None:
    """The demand of a model that is not catalogued, from its parameters and its size."""
    usual = _demand_of(_planned(USUAL, name), 0, prompt)
    all_weights = math.fsum(usual.weights.values())
    per_weight = _planned(USUAL, name).weight_bytes / _shapes()[USUAL].parameters
    stored = None if row.has("embedding-twice") else row.weights_bytes
    parameters = row.parameters or (stored / per_weight if stored else None)
    if not parameters:
        return None
    if row.model_type != DENSE and tokens > DEEPEST_ESTIMATED_TOKENS:
        return None
    active = row.active_parameters or parameters
    size = (stored or parameters * per_weight) * active / parameters
    layers = LAYERS_AT_1B * (parameters / 1e9) ** LAYERS_EXPONENT
    weights = size / per_weight
    return Demand(
        layers=layers,
        bytes_read=0.0 if prompt else size,
        weights={
            family: weights * amount / all_weights for family, amount in usual.weights.items()
        },
        cache_bytes=0.0 if prompt else layers * CACHE_BYTES_PER_LAYER * tokens,
        attention=layers * PRODUCTS_PER_LAYER * tokens,
        architecture=row.model_type,
        estimated=True,
    )


def _demand_of(planned: PlannedModel, tokens: int, prompt: bool) -> Demand:
    if prompt:
        return prefill_demand(planned, 0, tokens)
    return decode_demand(planned, tokens, SessionOptions())


@functools.cache
def _shapes() -> Mapping[str, ModelShape]:
    return MappingProxyType(
        {
            name: ModelShape.from_config(entry.config, name=name)
            for name, entry in profiles.models().items()
        }
    )


@functools.cache
def _planned(model: str, level_name: str) -> PlannedModel:
    return planned_gguf(_shapes()[model], level_name)
