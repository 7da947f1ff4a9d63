"""Tensor names that most decoders share: those transformers gives them, and GGUF's.

Families pick from these; what only one family has stands in its own file.
"""

from __future__ import annotations

from collections.abc import Mapping

PARTS = ("weight", "bias")


Target = str | tuple[str, ...]
"""A GGUF tensor, or several that a fused source holds one after the other."""


def layers(
    names: Mapping[str, Target], *, source: str = "model.layers.{layer}."
) -> dict[str, Target]:
    """Prefixes names of one layer: the source's as given, GGUF's with `blk.{layer}.`."""
    return {
        source + name: f"blk.{{layer}}.{target}"
        if isinstance(target, str)
        else tuple(f"blk.{{layer}}.{part}" for part in target)
        for name, target in names.items()
    }


def headless(names: Mapping[str, Target]) -> dict[str, Target]:
    """Names as they are, and as embedding models have them: without `model.` in front."""
    return {**names, **{name.removeprefix("model."): names[name] for name in names}}


def both(names: Mapping[str, str]) -> dict[str, str]:
    """Names of modules, each with its weight and its bias."""
    return {
        f"{name}.{part}": f"{target}.{part}" for name, target in names.items() for part in PARTS
    }


ENDS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
"""What stands before and after the layers."""

ATTENTION = both(
    {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
    }
)
GATED = both({"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"})
PRE_NORMS = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
}
POST_NORMS = {
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
}
"""Norms of what a block adds to the stream, instead of what it reads."""
QK_NORMS = {
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
}
EXPERTS: dict[str, Target] = {
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.experts.{expert}.gate_proj.weight": "ffn_gate_exps.weight",
    "mlp.experts.{expert}.up_proj.weight": "ffn_up_exps.weight",
    "mlp.experts.{expert}.down_proj.weight": "ffn_down_exps.weight",
    "mlp.experts.gate_up_proj": ("ffn_gate_exps.weight", "ffn_up_exps.weight"),
    "mlp.experts.gate_up_proj.weight": ("ffn_gate_exps.weight", "ffn_up_exps.weight"),
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.experts.down_proj.weight": "ffn_down_exps.weight",
}
"""Routed experts, stored one by one or fused: [experts, rows, columns], gate above up."""
ROTARY_TABLES = ("*.rotary_emb.inv_freq",)
"""Patterns of tensors that old checkpoints keep although the config says them."""
