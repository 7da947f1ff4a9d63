"""Gemma 1 and CodeGemma: norms that scale by one more than what is stored, wide heads."""

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

END_OF_TURN_TOKEN = 107
"""What ends a turn in Gemma's vocabulary, whatever a checkpoint's files say of it."""


@architecture("GemmaForCausalLM")
class Gemma:
    """The output matrix is always the embedding: llama.cpp loads no other."""

    gguf: ClassVar[str] = "gemma"
    names: ClassVar[Mapping[str, Target]] = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        **naming.layers({**naming.PRE_NORMS, **naming.ATTENTION, **naming.GATED}),
    }
    dropped: ClassVar[tuple[str, ...]] = ("lm_head.weight", *naming.ROTARY_TABLES)
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.SENTENCEPIECE_FIRST

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the sizes, and what the vocabulary's files do not say."""
        yield from parameters.sizes(self.gguf, config)
        yield from positions.unusual_rope(self.gguf, config)
        yield (
            f"{self.gguf}.attention.layer_norm_rms_epsilon",
            config.number("rms_norm_eps", most=1.0),
        )
        yield from parameters.head_width(self.gguf, parameters.head_dim_of(config))
        yield "tokenizer.ggml.eot_token_id", END_OF_TURN_TOKEN
        yield "tokenizer.ggml.add_space_prefix", False

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """Gemma multiplies by 1 + weight, llama.cpp by the weight."""
        return Change(offset=1.0) if target.endswith("norm.weight") else None
