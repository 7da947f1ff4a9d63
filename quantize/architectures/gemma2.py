"""Gemma 2: soft caps on attention and logits, norms on both sides of a block, windowed layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.config_values import ConfigValues

from .. import naming, parameters, positions
from ..checkpoint import Checkpoint
from ..naming import Target
from ..parameters import Pair
from ..rows import Change
from ..tokenizers import Vocabulary
from . import architecture


@architecture("Gemma2ForCausalLM")
class Gemma2:
    """The output matrix is always the embedding: llama.cpp loads no other."""

    gguf: ClassVar[str] = "gemma2"
    names: ClassVar[Mapping[str, Target]] = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        **naming.layers(
            {
                "input_layernorm.weight": "attn_norm.weight",
                "pre_feedforward_layernorm.weight": "ffn_norm.weight",
                **naming.POST_NORMS,
                **naming.ATTENTION,
                **naming.GATED,
            }
        ),
    }
    dropped: ClassVar[tuple[str, ...]] = ("lm_head.weight", *naming.ROTARY_TABLES)
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.SENTENCEPIECE_FIRST

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the sizes, the caps, the window and which layers have it where that is unusual."""
        yield from parameters.sizes(self.gguf, config)
        yield from positions.unusual_rope(self.gguf, config)
        yield (
            f"{self.gguf}.attention.layer_norm_rms_epsilon",
            config.number("rms_norm_eps", most=1.0),
        )
        yield from parameters.head_width(self.gguf, parameters.head_dim_of(config))
        for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
            yield f"{self.gguf}.{cap}", config.number(cap, most=1e9)
        yield from positions.windows(self.gguf, config)
        yield "tokenizer.ggml.add_space_prefix", False

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """Gemma multiplies by 1 + weight, llama.cpp by the weight."""
        return Change(offset=1.0) if target.endswith("norm.weight") else None
