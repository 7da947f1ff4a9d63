"""The Llama family: grouped-query attention, rotary positions, gated feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from edge_runtime.artifact import ModelShape

from . import Floats, RowTransform, architecture

_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    **{
        f"self_attn.{source}_proj.{part}": f"attn_{target}.{part}"
        for source, target in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "output"))
        for part in ("weight", "bias")
    },
    **{
        f"mlp.{which}_proj.{part}": f"ffn_{which}.{part}"
        for which in ("gate", "up", "down")
        for part in ("weight", "bias")
    },
}


@architecture("LlamaForCausalLM")
class Llama:
    """Llama 2 and 3, SmolLM2, TinyLlama and all that share their class."""

    names: ClassVar[Mapping[str, str]] = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
        **{
            f"model.layers.{{layer}}.{source}": f"blk.{{layer}}.{target}"
            for source, target in _LAYER.items()
        },
    }
    dropped: ClassVar[tuple[str, ...]] = (".rotary_emb.inv_freq",)

    def transform(self, name: str, shape: ModelShape) -> RowTransform | None:
        """Pairs of a head's rows lie half a head apart in the source, side by side in a GGUF."""
        if name.rsplit(".", 2)[-2] not in ("attn_q", "attn_k"):
            return None
        order = np.arange(shape.head_dim).reshape(2, -1).T.ravel()

        def interleave(rows: Floats) -> Floats:
            heads = rows.reshape(-1, shape.head_dim, rows.shape[1])
            return heads[:, order].reshape(rows.shape)

        return RowTransform(group_rows=shape.head_dim, apply=interleave)
