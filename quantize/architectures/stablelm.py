"""StableLM 2 and StableLM 3B: a part of each head rotates, larger ones have norms for each."""

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


@architecture("StableLmForCausalLM")
class StableLM:
    """Norms of queries and keys, where there are some, are stored head by head and stacked."""

    gguf: ClassVar[str] = "stablelm"
    names: ClassVar[Mapping[str, Target]] = {
        "model.embed_tokens.weight": "token_embd.weight",
        "lm_head.weight": "output.weight",
        **naming.both({"model.norm": "output_norm"}),
        **naming.layers(
            {
                **naming.both(
                    {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
                ),
                "self_attn.q_layernorm.norms.{expert}.weight": "attn_q_norm.weight",
                "self_attn.k_layernorm.norms.{expert}.weight": "attn_k_norm.weight",
                **naming.ATTENTION,
                **naming.GATED,
            }
        ),
    }
    dropped: ClassVar[tuple[str, ...]] = naming.ROTARY_TABLES
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.BYTE_LEVEL

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the sizes, the rotating dimensions and whether the halves of a block run in one.

        Those with both halves in one have no norm in front of the second.
        """
        yield from parameters.sizes(self.gguf, config)
        yield from positions.unusual_rope(self.gguf, config)
        yield from positions.rotating(self.gguf, config)
        yield f"{self.gguf}.use_parallel_residual", config.flag("use_parallel_residual")
        yield (
            f"{self.gguf}.attention.layer_norm_epsilon",
            config.number("layer_norm_eps", "norm_eps", most=1.0),
        )

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """No tensor changes."""
        return None
