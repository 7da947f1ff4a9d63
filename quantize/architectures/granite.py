"""Granite 3: Llama with four factors on embeddings, attention, residuals and logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.config_values import ConfigValues

from .. import naming, parameters, rows
from ..checkpoint import Checkpoint
from ..naming import Target
from ..parameters import Pair
from ..rows import Change
from ..tokenizers import Vocabulary
from . import architecture

_FACTORS = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
"""Keys of the factors, and their names in a config."""


@architecture("GraniteForCausalLM")
class Granite:
    """Dense Granite models."""

    gguf: ClassVar[str] = "granite"
    names: ClassVar[Mapping[str, Target]] = {
        **naming.ENDS,
        **naming.layers({**naming.PRE_NORMS, **naming.ATTENTION, **naming.GATED}),
    }
    dropped: ClassVar[tuple[str, ...]] = naming.ROTARY_TABLES
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.SENTENCEPIECE_FIRST

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the common keys but a head's width, those of Llama's relatives, the factors."""
        hidden = config.count("hidden_size", most=2**18)
        width = hidden // config.count("num_attention_heads", most=2**12)
        stated = (f"{self.gguf}.attention.key_length", f"{self.gguf}.attention.value_length")
        for key, value in parameters.common(self.gguf, config):
            if key not in stated:
                yield key, value
        yield from parameters.llama_like(self.gguf, checkpoint, config, head_dim=width)
        for key, name in _FACTORS.items():
            if config.get(name):
                yield f"{self.gguf}.{key}", config.number(name, most=1e9)

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """Pairs of a head's rows lie half a head apart in the source, side by side in a GGUF."""
        return rows.interleaved(target, shape)
