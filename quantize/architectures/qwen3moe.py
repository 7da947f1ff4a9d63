"""Qwen3 MoE (Qwen3-30B-A3B): Qwen3's attention, routed experts."""

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


@architecture("Qwen3MoeForCausalLM")
class Qwen3Moe:
    """Qwen3 models with experts in every layer."""

    gguf: ClassVar[str] = "qwen3moe"
    names: ClassVar[Mapping[str, Target]] = {
        **naming.ENDS,
        **naming.layers(
            {**naming.PRE_NORMS, **naming.ATTENTION, **naming.QK_NORMS, **naming.EXPERTS}
        ),
    }
    dropped: ClassVar[tuple[str, ...]] = naming.ROTARY_TABLES
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.BYTE_LEVEL

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the common keys and the width of an expert."""
        yield from parameters.common(self.gguf, config)
        yield (
            f"{self.gguf}.expert_feed_forward_length",
            config.count("moe_intermediate_size", most=2**22),
        )

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """No tensor changes."""
        return None
