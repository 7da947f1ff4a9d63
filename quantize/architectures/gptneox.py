"""GPT-NeoX and Pythia: queries, keys and values in one matrix, head by head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.config_values import ConfigValues

from .. import naming, parameters, positions
from ..checkpoint import Checkpoint
from ..naming import Target
from ..parameters import Pair
from ..rows import Change
from ..tokenizers import Vocabulary
from . import architecture


@architecture("GPTNeoXForCausalLM")
class GPTNeoX:
    """A part of each head rotates; both halves of a block run in one, or not."""

    gguf: ClassVar[str] = "gptneox"
    names: ClassVar[Mapping[str, Target]] = {
        "gpt_neox.embed_in.weight": "token_embd.weight",
        "embed_out.weight": "output.weight",
        **naming.both({"gpt_neox.final_layer_norm": "output_norm"}),
        **naming.layers(
            naming.both(
                {
                    "input_layernorm": "attn_norm",
                    "post_attention_layernorm": "ffn_norm",
                    "attention.query_key_value": "attn_qkv",
                    "attention.dense": "attn_output",
                    "mlp.dense_h_to_4h": "ffn_up",
                    "mlp.dense_4h_to_h": "ffn_down",
                }
            ),
            source="gpt_neox.layers.{layer}.",
        ),
    }
    dropped: ClassVar[tuple[str, ...]] = (
        "*.attention.bias",
        "*.attention.masked_bias",
        *naming.ROTARY_TABLES,
    )
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.BYTE_LEVEL

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the sizes, the rotating dimensions, and whether a block's halves run in one."""
        for key, value in parameters.sizes(self.gguf, config):
            if not key.endswith(".head_count_kv"):  # all heads are alike, which needs no key
                yield key, value
        yield from positions.unusual_rope(self.gguf, config)
        yield from positions.rotating(self.gguf, config)
        yield f"{self.gguf}.use_parallel_residual", config.flag("use_parallel_residual")
        yield f"{self.gguf}.attention.layer_norm_epsilon", config.number("layer_norm_eps", most=1.0)

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """The source has each head's query, key and value together; a GGUF all queries first."""
        if target.rsplit(".", 2)[-2] != "attn_qkv":
            return None
        rows = np.arange(3 * shape.heads * shape.head_dim)
        return Change(order=rows.reshape(shape.heads, 3, shape.head_dim).swapaxes(0, 1).ravel())
