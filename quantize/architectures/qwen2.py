"""Qwen2 and Qwen2.5: biases on queries, keys and values."""

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


@architecture("Qwen2ForCausalLM", "Qwen2Model")
class Qwen2:
    """Dense Qwen2 models, and embedding models made of them."""

    gguf: ClassVar[str] = "qwen2"
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
        """Yields the common keys, and the pooling of an embedding model."""
        yield from parameters.common(self.gguf, config)
        yield from parameters.pooling(self.gguf, checkpoint)

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """No tensor changes."""
        return None
