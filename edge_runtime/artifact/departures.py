"""What llama.cpp computes otherwise than a `config.json` says, in a model it loads all the same.

No size shows it and no key of the file format can say it, so the user is told. Facts are those of
llama.cpp as shipped with llama-cpp-python 0.3.36; what it would not load is refused elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from .config import ARCHITECTURE_OF, class_values
from .config_values import ConfigValues

_MOST = 2**31 - 1
_SCALED_BY_WIDTH = {"gemma2": 46, "gemma3_text": 62}
"""Layers of the one size of each that divides by the square root of hidden size over heads."""


def departures(config: Mapping[str, object]) -> tuple[str, ...]:
    """Whole sentences, none for a model that runs as its config says.

    Raises as `ModelShape.from_config` does.
    """
    model_type, values = class_values(config)
    return (
        *_experts(model_type, values),
        *_window(model_type, values),
        *_query_scale(model_type, values),
        *_yarn(model_type, values),
    )


def _experts(model_type: str, values: ConfigValues) -> Iterator[str]:
    always = {"qwen3_moe": True, "qwen2_moe": False, "olmoe": False}.get(model_type)
    stated = values.get("norm_topk_prob") is True  # absent means false in all of these classes
    if always is not None and stated is not always:
        yield (
            f"norm_topk_prob is {str(stated).lower()}, but llama.cpp "
            f"{'always' if always else 'never'} normalizes the weights of the chosen experts of "
            f"{ARCHITECTURE_OF[model_type]} models: it will compute something else."
        )


def _window(model_type: str, values: ConfigValues) -> Iterator[str]:
    windowed = ("mistral", "mixtral", "phi3", "starcoder2")
    uses = model_type in windowed or (
        model_type.startswith("qwen") and values.get("use_sliding_window") is True
    )
    if not uses or not values.get("sliding_window"):
        return
    window = values.count("sliding_window", most=_MOST)
    context = values.count("max_position_embeddings", default=_MOST, most=_MOST)
    if window < context:
        yield (
            f"Attention is limited to {window} tokens (sliding_window), but llama.cpp lets "
            f"{ARCHITECTURE_OF[model_type]} models attend to all: beyond {window} tokens it "
            "computes something else."
        )


def _query_scale(model_type: str, values: ConfigValues) -> Iterator[str]:
    layers = _SCALED_BY_WIDTH.get(model_type)
    if layers is None or values.get("query_pre_attn_scalar") is None:
        return
    stated = values.number("query_pre_attn_scalar", most=1e9)
    used: float = values.count("head_dim", default=256, most=2**14)
    if values.count("num_hidden_layers", most=512) == layers:
        used = values.count("hidden_size", most=2**18) / values.count(
            "num_attention_heads", most=2**12
        )
    if not math.isclose(stated, used):
        yield (
            f"query_pre_attn_scalar is {stated:g}, but llama.cpp divides by the square root of "
            f"{used:g}: it will compute something else."
        )


def _yarn(model_type: str, values: ConfigValues) -> Iterator[str]:
    scaling = values.section("rope_parameters") or values.section("rope_scaling")
    if scaling is None or model_type == "phi3":
        return
    scaling = scaling.section("full_attention") or scaling
    if "yarn" not in (scaling.get("rope_type"), scaling.get("type")):
        return
    factor = scaling.number("factor", most=1e6)
    usual = {
        "attention_factor": 1 + 0.1 * math.log(factor) if factor > 1 else 1.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }
    for key, value in usual.items():
        stated = scaling.get(key)
        if stated is not None and not math.isclose(scaling.number(key, most=1e6), value):
            yield (
                f"The rope scaling's {key} is {stated}, which llama.cpp does not read for "
                f"{ARCHITECTURE_OF[model_type]} models: it computes with {value:g}."
            )
