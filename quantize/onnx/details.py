"""What a decoder computes that its `ModelShape` does not say: activation, windows, scales.

A shape tells what llama.cpp holds and runs; a graph says itself what is computed, so here the
config decides, as transformers reads it. Knows no operator and no tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.config import class_values
from edge_runtime.artifact.config_values import ConfigValues
from edge_runtime.errors import FormatError, UnsupportedError

DECODERS = ("llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "phi3",
            "smollm3", "olmo2", "olmoe", "granite", "gpt2")  # fmt: skip
"""Architectures whose graph is known here, by their GGUF names."""
_MOST = 2**31 - 1
_TANH_GELU = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate")
_GELU_FAMILIES = ("gemma", "gemma2", "gemma3", "gpt2")
_ALL_WINDOWED = ("mistral", "mixtral", "phi3")
_QWEN = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3")


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnOptions:
    """What `yarn` scaling can state beside what a shape keeps: see `rope_tables`."""

    truncates: bool = True
    attention_factor: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """How a decoder of some shape computes.

    `activation` is `silu`, `gelu` or `gelu_tanh`. `windows` has for each layer how many tokens it
    sees, the token itself included, None for all. `rotated` says of each layer whether its queries
    and keys turn with their position. Vectors that enter are multiplied by `embedding_scale`,
    products of queries and keys by `attention_scale`. The shares of the experts that see a token
    are made to add up to 1 when `normalizes_experts`. With a `dynamic_factor` positions are
    stretched by the length of a text once that exceeds the context.
    """

    activation: str
    windows: tuple[int | None, ...]
    rotated: tuple[bool, ...]
    attention_scale: float
    embedding_scale: float | None
    yarn: YarnOptions
    normalizes_experts: bool = True
    dynamic_factor: float | None = None


def details_of_config(config: Mapping[str, object], shape: ModelShape) -> Details:
    """Reads them from a parsed `config.json`.

    Raises UnsupportedError for a family whose graph is not known, FormatError for values that
    cannot be.
    """
    require_known(shape)
    model_type, values = class_values(config)
    if values.get("use_bidirectional_attention") not in (None, False, "vision"):
        raise UnsupportedError(
            "use_bidirectional_attention is set: tokens see those that come after them.",
            cause="What is written here generates text, token by token.",
        )
    usual = details_of_shape(shape)
    attention = usual.attention_scale
    if model_type in ("gemma2", "gemma3_text") and values.get("query_pre_attn_scalar"):
        attention = values.number("query_pre_attn_scalar", most=1e9) ** -0.5
    return Details(
        activation=_activation(model_type, values, usual.activation),
        windows=_windows(model_type, values, shape),
        rotated=usual.rotated,
        attention_scale=attention,
        embedding_scale=usual.embedding_scale,
        yarn=_yarn(values, shape),
        # Where experts can do either, a config that is silent means that they do not.
        normalizes_experts=model_type == "mixtral" or values.get("norm_topk_prob") is True,
        dynamic_factor=_dynamic_factor(values, shape),
    )


def details_of_shape(shape: ModelShape) -> Details:
    """Takes what is usual in a shape's family: enough to be timed by.

    Raises UnsupportedError for a family whose graph is not known.
    """
    require_known(shape)
    gelu = shape.architecture in _GELU_FAMILIES
    embedding = shape.embedding_scale
    if shape.architecture in ("gemma", "gemma2", "gemma3"):
        embedding = math.sqrt(shape.hidden)
    return Details(
        activation="gelu_tanh" if gelu else "silu",
        windows=_windows_of_shape(shape),
        rotated=tuple(
            shape.architecture != "gpt2" and (shape.architecture != "smollm3" or (i + 1) % 4 != 0)
            for i in range(shape.layers)
        ),
        attention_scale=shape.attention_scale or shape.head_dim**-0.5,
        embedding_scale=embedding,
        yarn=YarnOptions(),
    )


def require_known(shape: ModelShape) -> None:
    """Raises UnsupportedError for a family whose graph is not known here."""
    if shape.architecture in DECODERS:
        return
    raise UnsupportedError(
        f"Models of the architecture {shape.architecture} are not written as ONNX here.",
        way_out=f"Known: {', '.join(DECODERS)}. Or convert the model to GGUF.",
    )


def _activation(model_type: str, values: ConfigValues, usual: str) -> str:
    if usual == "silu" or model_type == "gemma":
        return usual  # the class of Gemma 1 takes the form with tanh, whatever its config says
    keys = ("hidden_activation", "hidden_act", "activation_function")
    stated = next((values.get(key) for key in keys if values.get(key) is not None), None)
    return "gelu_tanh" if stated is None or stated in _TANH_GELU else "gelu"


def _yarn(values: ConfigValues, shape: ModelShape) -> YarnOptions:
    stated = values.section("rope_parameters") or values.section("rope_scaling")
    if stated is None or shape.rope_scaling is None or shape.rope_scaling.kind != "yarn":
        return YarnOptions()
    stated = stated.section("full_attention") or stated
    factor = None
    if stated.get("attention_factor") is None and stated.get("mscale"):
        parts = [
            stated.number(key, most=1e6) if stated.get(key) else 0.0
            for key in ("mscale", "mscale_all_dim")
        ]
        if all(parts):
            length = math.log(max(shape.rope_scaling.factor or 1.0, 1.0))
            above, below = (0.1 * part * length + 1.0 for part in parts)
            factor = above / below
    return YarnOptions(truncates=stated.get("truncate") is not False, attention_factor=factor)


def _dynamic_factor(values: ConfigValues, shape: ModelShape) -> float | None:
    stated = values.section("rope_parameters") or values.section("rope_scaling")
    if stated is None or not shape.rope_dimensions:
        return None
    stated = stated.section("full_attention") or stated
    if (stated.get("rope_type") or stated.get("type")) != "dynamic":
        return None
    if shape.rope_theta_sliding is not None or shape.rope_dimensions == 2:
        raise UnsupportedError(
            f"The rope scaling 'dynamic' is not written for {shape.architecture} models here.",
            way_out="Set rope_scaling to null: nothing changes within the context.",
        )
    return stated.number("factor", most=1e6)


def _windows(model_type: str, values: ConfigValues, shape: ModelShape) -> tuple[int | None, ...]:
    """The windows transformers applies; those of Gemma and OLMo stand in the shape."""
    asked = values.get("use_sliding_window") is True
    everywhere = model_type in _ALL_WINDOWED or (model_type == "qwen3_moe" and asked)
    some = model_type in _QWEN and asked and not everywhere
    if not (everywhere or some) or not values.get("sliding_window"):
        return _windows_of_shape(shape)
    window = values.count("sliding_window", most=_MOST)
    windowed = [True] * shape.layers
    # transformers takes a Mistral config with this list for Ministral's, which heeds it.
    if some or model_type == "mistral":
        kinds = values.get("layer_types")
        if kinds is not None:
            if not isinstance(kinds, list | tuple) or len(kinds) != shape.layers:
                raise FormatError(f"layer_types must be a list of {shape.layers} names.")
            windowed = [kind == "sliding_attention" for kind in kinds]
        elif model_type == "qwen2_moe":
            raise UnsupportedError(
                "use_sliding_window is true, and layer_types does not say of which layers.",
                cause="What transformers makes of that changed between its versions.",
                way_out="Add layer_types to config.json, or set use_sliding_window to false.",
            )
        elif some:
            first = values.count("max_window_layers", default=28, least=0, most=512)
            windowed = [i >= first for i in range(shape.layers)]
    return tuple(window if is_windowed else None for is_windowed in windowed)


def _windows_of_shape(shape: ModelShape) -> tuple[int | None, ...]:
    if not shape.sliding_layers:
        return (None,) * shape.layers
    return tuple(shape.sliding_window if is_so else None for is_so in shape.sliding_layers)
