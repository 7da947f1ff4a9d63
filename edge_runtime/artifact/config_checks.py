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
)
"""Architectures whose feed-forward block has one activation in llama.cpp, whatever a file says."""


def check_runs_as_stated(
    values: ConfigValues, architecture: str, *, layers: int, heads: int, kv_heads: int
) -> None:
    """Raises UnsupportedError for a choice of the config's that llama.cpp does not make."""
    activation = values.get("hidden_act")
    if architecture in _GATED_BY_SILU and activation not in (None, "silu", "swish"):
        raise UnsupportedError(
            f"hidden_act is {str(activation)[:40]!r}.",
            cause=f"llama.cpp runs {architecture} models with SiLU only.",
        )
    if architecture == "smollm3":
        _check_unrotated(values, layers)
    if architecture == "olmoe":
        if values.get("clip_qkv"):
            raise UnsupportedError("clip_qkv is set, which llama.cpp leaves out for OLMoE.")
        if heads != kv_heads:
            raise UnsupportedError(
                f"num_key_value_heads is {kv_heads} with {heads} heads.",
                cause="llama.cpp loads OLMoE models without grouped queries only.",
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
