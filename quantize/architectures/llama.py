"""Llama 1 to 3, TinyLlama, SmolLM2, Code Llama: the family most others descend from."""

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


@architecture("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel")
class Llama:
    """Grouped-query attention, rotary positions, gated feed-forward; biases as configured."""

    gguf: ClassVar[str] = "llama"
    names: ClassVar[Mapping[str, Target]] = naming.headless(
        {
            **naming.ENDS,
            **naming.layers({**naming.PRE_NORMS, **naming.ATTENTION, **naming.GATED}),
        }
    )
    dropped: ClassVar[tuple[str, ...]] = naming.ROTARY_TABLES
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.SENTENCEPIECE_FIRST

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the common keys, the width of the heads in any case, and Llama's own."""
        width = parameters.head_dim_of(config)
        yield from parameters.common(self.gguf, config)
        yield from parameters.head_width(self.gguf, width)
        yield from parameters.llama_like(self.gguf, checkpoint, config, head_dim=width)

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """Pairs of a head's rows lie half a head apart in the source, side by side in a GGUF."""
        return rows.interleaved(target, shape)
