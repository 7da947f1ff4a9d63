"""GPT-2: a table of positions, and matrices stored the other way round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.config_values import ConfigValues

from .. import naming
from ..checkpoint import Checkpoint
from ..naming import Target
from ..parameters import Pair
from ..rows import Change
from ..tokenizers import Vocabulary
from . import architecture

_LAYER = naming.both(
    {
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    }
)
_MATRICES = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
_DECODERS = ("transformer.", "")
"""Where the decoder lies: the first checkpoints have it at the top."""


@architecture("GPT2LMHeadModel")
class GPT2:
    """Queries, keys and values in one matrix; the causal masks of old checkpoints are dropped."""

    gguf: ClassVar[str] = "gpt2"
    names: ClassVar[Mapping[str, Target]] = {
        "lm_head.weight": "output.weight",
        **{f"{decoder}wte.weight": "token_embd.weight" for decoder in _DECODERS},
        **{f"{decoder}wpe.weight": "position_embd.weight" for decoder in _DECODERS},
        **naming.both({f"{decoder}ln_f": "output_norm" for decoder in _DECODERS}),
        **{
            source: target
            for decoder in _DECODERS
            for source, target in naming.layers(_LAYER, source=f"{decoder}h.{{layer}}.").items()
        },
    }
    dropped: ClassVar[tuple[str, ...]] = ("*h.*.attn.bias", "*h.*.attn.masked_bias")
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.BYTE_LEVEL

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the sizes; there are no rotary positions."""
        hidden = config.count("n_embd", "hidden_size", most=2**18)
        yield f"{self.gguf}.block_count", config.count("n_layer", "num_hidden_layers", most=512)
        yield (
            f"{self.gguf}.context_length",
            config.count("n_positions", "max_position_embeddings", most=2**31 - 1),
        )
        yield f"{self.gguf}.embedding_length", hidden
        yield (
            f"{self.gguf}.feed_forward_length",
            config.count("n_inner", default=4 * hidden, most=2**22),
        )
        yield (
            f"{self.gguf}.attention.head_count",
            config.count("n_head", "num_attention_heads", most=2**12),
        )
        yield (
            f"{self.gguf}.attention.layer_norm_epsilon",
            config.number("layer_norm_epsilon", most=1.0),
        )

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """Matrices are stored [in, out]."""
        return Change(transposed=True) if target.endswith(_MATRICES) else None
