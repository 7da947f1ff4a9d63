"""Phi-1, 1.5 and 2: attention and feed-forward side by side, biases everywhere."""

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
from ..tokenizers.files import TokenizerFiles
from ..tokenizers.special import special_metadata
from . import architecture


@architecture("PhiForCausalLM")
class Phi2:
    """One norm in front of both halves of a block; a part of each head rotates."""

    gguf: ClassVar[str] = "phi2"
    names: ClassVar[Mapping[str, Target]] = {
        "model.embed_tokens.weight": "token_embd.weight",
        **naming.both({"model.final_layernorm": "output_norm", "lm_head": "output"}),
        **naming.layers(
            naming.both(
                {
                    "input_layernorm": "attn_norm",
                    "self_attn.q_proj": "attn_q",
                    "self_attn.k_proj": "attn_k",
                    "self_attn.v_proj": "attn_v",
                    "self_attn.dense": "attn_output",
                    "mlp.fc1": "ffn_up",
                    "mlp.fc2": "ffn_down",
                }
            )
        ),
    }
    dropped: ClassVar[tuple[str, ...]] = naming.ROTARY_TABLES
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.BYTE_LEVEL

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the sizes and the rotating dimensions; no token begins a text unless one must."""
        yield from parameters.sizes(self.gguf, config)
        yield from positions.unusual_rope(self.gguf, config)
        yield (
            f"{self.gguf}.attention.layer_norm_epsilon",
            config.number("layer_norm_eps", most=1.0),
        )
        yield from positions.rotating(self.gguf, config)
        key = "tokenizer.ggml.add_bos_token"
        if key not in special_metadata(TokenizerFiles.read(checkpoint)):
            yield key, False

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """No tensor changes."""
        return None
