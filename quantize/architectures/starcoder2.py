"""StarCoder2: grouped queries with biases everywhere, a plain feed-forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.config_values import ConfigValues

from .. import naming, parameters
from ..checkpoint import Checkpoint
from ..naming import Target
from ..parameters import Pair
from ..rows import Change
from ..tokenizers import Vocabulary
from . import architecture


@architecture("Starcoder2ForCausalLM")
class StarCoder2:
    """Its attention window has no key: llama.cpp runs the family without one."""

    gguf: ClassVar[str] = "starcoder2"
    names: ClassVar[Mapping[str, Target]] = {
        "model.embed_tokens.weight": "token_embd.weight",
        "lm_head.weight": "output.weight",
        **naming.both({"model.norm": "output_norm"}),
        **naming.layers(
            {
                **naming.ATTENTION,
                **naming.both(
                    {
                        "input_layernorm": "attn_norm",
                        "post_attention_layernorm": "ffn_norm",
                        "mlp.c_fc": "ffn_up",
                        "mlp.c_proj": "ffn_down",
                    }
                ),
            }
        ),
    }
    dropped: ClassVar[tuple[str, ...]] = naming.ROTARY_TABLES
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.BYTE_LEVEL

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the sizes, the rotary settings and the epsilon of its norms."""
        yield from parameters.sizes(self.gguf, config)
        yield from parameters.rope(self.gguf, config)
        yield f"{self.gguf}.attention.layer_norm_epsilon", config.number("norm_epsilon", most=1.0)

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """No tensor changes."""
        return None
