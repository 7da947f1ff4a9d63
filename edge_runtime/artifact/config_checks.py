"""What a `config.json` can ask for and llama.cpp would not do or not load: refused by name.

Only what no size shows is here; the rest is refused where it is read.
"""

from __future__ import annotations

from ..errors import UnsupportedError
from .config_values import ConfigValues

_GATED_BY_SILU = (
    "llama",
    "qwen2",
    "qwen2moe",
    "qwen3",
    "qwen3moe",
    "smollm3",
    "olmo2",
    "olmoe",
    "granite",
    "phi3",
    "stablelm",
)
"""Architectures whose feed-forward block has this activation in llama.cpp, whatever a file says."""
_BY_GELU = ("gemma", "gemma2", "gemma3", "phi2", "starcoder2", "gpt2", "gptneox", "bert")
"""The same with GELU: its tanh form, which stands for the others."""
_GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "gelu_accurate")


def check_runs_as_stated(
    values: ConfigValues, architecture: str, *, layers: int, heads: int, kv_heads: int
) -> None:
    """Raises UnsupportedError for a choice of the config's that llama.cpp does not make."""
    _check_activation(values, architecture)
    if architecture == "smollm3":
        _check_unrotated(values, layers)
    if architecture == "gpt2":
        _check_scaling(values)
    if architecture == "olmoe":
        if values.get("clip_qkv"):
            raise UnsupportedError("clip_qkv is set, which llama.cpp leaves out for OLMoE.")
        if heads != kv_heads:
            raise UnsupportedError(
                f"num_key_value_heads is {kv_heads} with {heads} heads.",
                cause="llama.cpp loads OLMoE models without grouped queries only.",
            )


def _check_activation(values: ConfigValues, architecture: str) -> None:
    keys = ("hidden_activation", "hidden_act", "activation_function", "activation")
    key = next((key for key in keys if values.get(key) is not None), None)
    if key is None:
        return
    for families, known, name in (
        (_GATED_BY_SILU, ("silu", "swish"), "SiLU"),
        (_BY_GELU, _GELU, "GELU"),
    ):
        if architecture in families and values.get(key) not in known:
            raise UnsupportedError(
                f"{key} is {str(values.get(key))[:40]!r}.",
                cause=f"llama.cpp runs {architecture} models with {name} only.",
            )


def _check_scaling(values: ConfigValues) -> None:
    for key, usual in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
        if values.flag(key, default=usual) is not usual:
            raise UnsupportedError(
                f"{key} is {str(not usual).lower()}.",
                cause="llama.cpp scales the attention of GPT-2 models in one way only.",
            )


def _check_unrotated(values: ConfigValues, layers: int) -> None:
    """Every fourth layer of SmolLM3 has no rotary positions: llama.cpp knows no other choice."""
    interval = values.count("no_rope_layer_interval", default=4, most=512)
    usual = [int((i + 1) % 4 != 0) for i in range(layers)]
    listed = values.get("no_rope_layers") or usual
    if interval != 4 or listed != usual:
        raise UnsupportedError(
            "no_rope_layers leaves rotary positions out of other layers than every fourth.",
            cause="llama.cpp runs SmolLM3 models only that way.",
        )
