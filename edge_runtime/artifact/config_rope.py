"""Rotary position settings of a `config.json`, in either of transformers' spellings.

Formulas follow llama.cpp's converter: the per-frequency factors of Llama 3, and the attention
factor of Phi-3's long contexts.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from ..errors import FormatError, UnsupportedError
from .config_values import ConfigValues, float32
from .layout import family
from .shape import RopeScaling

_MOST_TOKENS = 2**31 - 1
_UNSCALED = (None, "default", "none", "dynamic", "mrope")
"""Types that llama.cpp runs without stretching positions."""
_LLAMA3 = ("llama", "granite")
"""Architectures whose loader takes a table of factors per rotary frequency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """The rotary settings as a `ModelShape` holds them."""

    theta: float | None
    theta_sliding: float | None
    dimensions: int
    scaling: RopeScaling | None
    original_context_tokens: int | None


def read_rope(
    values: ConfigValues, architecture: str, *, hidden: int, heads: int, head_dim: int
) -> Rope:
    """Reads them. Raises FormatError for impossible values, UnsupportedError for other scalings."""
    if family(architecture).position_table:
        return Rope(
            theta=None,
            theta_sliding=None,
            dimensions=0,
            scaling=None,
            original_context_tokens=None,
        )
    both = values.section("rope_parameters") or values.section("rope_scaling") or ConfigValues({})
    full = both.section("full_attention") or both
    sliding = both.section("sliding_attention")
    theta = _number_of((full, "rope_theta"), (values, "rope_theta"), (values, "rotary_emb_base"))
    local = None
    if architecture == "gemma3":
        local = _number_of(
            *(((sliding, "rope_theta"),) if sliding is not None else ()),
            (values, "rope_local_base_freq"),
        )
    elif architecture == "olmo2" and sliding is not None:
        local = _number_of((sliding, "rope_theta"), (full, "rope_theta"))
    scaling, original = _read_scaling(full, values, architecture)
    dimensions = _dimensions(
        full, values, architecture, hidden=hidden, heads=heads, head_dim=head_dim
    )
    if dimensions % 2:
        raise FormatError(
            f"{dimensions} dimensions of a head would rotate.",
            cause="Rotary positions turn them in pairs.",
        )
    if scaling is not None and scaling.kind == "longrope":
        for factors in (scaling.long_factors, scaling.short_factors):
            if len(factors) != dimensions // 2:
                raise FormatError(
                    f"rope_scaling has {len(factors)} factors instead of {dimensions // 2}."
                )
    if scaling is not None and scaling.kind == "llama3":
        scaling = RopeScaling(kind="llama3", factors=_llama3_factors(full, theta, head_dim))
    return Rope(
        theta=theta,
        theta_sliding=local,
        dimensions=dimensions,
        scaling=scaling,
        original_context_tokens=original,
    )


def _number_of(*places: tuple[ConfigValues, str]) -> float:
    for values, key in places:
        if values.get(key) is not None:
            return values.number(key, most=1e15)
    return 10000.0


def _dimensions(
    full: ConfigValues,
    values: ConfigValues,
    architecture: str,
    *,
    hidden: int,
    heads: int,
    head_dim: int,
) -> int:
    if architecture not in ("phi2", "phi3", "stablelm", "gptneox"):
        return head_dim
    source = full if full.get("partial_rotary_factor") is not None else values
    keys = ("rotary_pct",) if architecture == "gptneox" and source is values else ()
    share = source.number(*keys, "partial_rotary_factor", default=1.0, most=1.0)
    if architecture in ("phi2", "phi3"):
        return int(share * hidden) // heads
    return int(share * head_dim)


def _read_scaling(
    full: ConfigValues, values: ConfigValues, architecture: str
) -> tuple[RopeScaling | None, int | None]:
    kind = full.get("rope_type") or full.get("type")
    source = full if full.get("original_max_position_embeddings") is not None else values
    if architecture == "phi3":
        original = source.count("original_max_position_embeddings", least=2, most=_MOST_TOKENS)
        if not full.get("long_factor"):
            return None, original
        return _longrope(full, values, original), original
    if kind in _UNSCALED:
        return None, None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=full.number("factor", most=1e6)), None
    if kind == "llama3" and architecture in _LLAMA3:
        return RopeScaling(kind="llama3"), None
    if kind == "yarn":
        keys = ("original_max_position_embeddings", "max_position_embeddings")
        original = source.count(*keys, most=_MOST_TOKENS)
        return (
            RopeScaling(
                kind="yarn",
                factor=full.number("factor", most=1e6),
                attention_factor=_optional(full, "attention_factor", "attn_factor"),
                extrapolation_factor=_optional(full, "extrapolation_factor"),
                beta_fast=_optional(full, "beta_fast"),
                beta_slow=_optional(full, "beta_slow"),
            ),
            original,
        )
    raise UnsupportedError(
        f"The rope scaling {str(kind)[:40]!r} is not supported for {architecture}.",
        way_out="Known: linear, yarn, llama3 for Llama and Granite, longrope for Phi-3.",
    )


def _optional(values: ConfigValues, *keys: str) -> float | None:
    return next((values.number(k, most=1e6) for k in keys if values.get(k) is not None), None)


def _longrope(full: ConfigValues, values: ConfigValues, original: int) -> RopeScaling:
    # Under the older key transformers takes either older name for longrope.
    older = {"su": "longrope", "yarn": "longrope"}.get(str(full.get("type")), full.get("type"))
    kind = full.get("rope_type") or older
    stretch = values.count("max_position_embeddings", most=_MOST_TOKENS) / original
    if kind in ("su", "longrope"):
        attention = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    elif kind == "yarn":
        attention = 0.1 * math.log(stretch) + 1.0 if stretch > 1 else 1.0
    else:
        raise UnsupportedError(f"The rope scaling {str(kind)[:40]!r} is not supported for Phi-3.")
    return RopeScaling(
        kind="longrope",
        attention_factor=float32(attention),
        long_factors=full.numbers("long_factor", most=4096),
        short_factors=full.numbers("short_factor", most=4096),
    )


def _llama3_factors(full: ConfigValues, theta: float, head_dim: int) -> tuple[float, ...]:
    """What Llama 3.1 divides each rotary frequency by to reach beyond its first context.

    Every step is rounded to float32, as the converter's are: the table is compared bit by bit.
    """
    factor = full.number("factor", default=8.0, most=1e6)
    low = full.number("low_freq_factor", default=1.0, most=1e6)
    high = full.number("high_freq_factor", default=4.0, most=1e6)
    context = full.count("original_max_position_embeddings", default=8192, most=_MOST_TOKENS)
    if low == high:
        raise FormatError("low_freq_factor and high_freq_factor of rope_scaling are equal.")
    shortest, longest = _single(context / high), _single(context / low)
    circle, stretch = _single(2 * math.pi), _single(factor)
    factors = []
    for index in range(0, head_dim, 2):
        frequency = _single(1 / _single(_single(theta) ** _single(index / head_dim)))
        wavelength = _single(_single(1 / frequency) * circle)
        if wavelength < shortest:
            factors.append(1.0)
        elif wavelength > longest:
            factors.append(stretch)
        else:
            turns = _single(_single(1 / wavelength) * _single(context))
            smooth = _single(_single(turns - _single(low)) / _single(high - low))
            slowed = _single(_single(1 - smooth) / stretch)
            factors.append(_single(1 / _single(slowed + smooth)))
    return tuple(factors)


def _single(value: float) -> float:
    """`value` rounded to float32, infinite when that is too small for it."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)
