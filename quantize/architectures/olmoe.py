"""OLMoE: routed experts, queries and keys normalized over all heads."""

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


@architecture("OlmoeForCausalLM")
class Olmoe:
    """OLMoE models with experts in every layer."""

    gguf: ClassVar[str] = "olmoe"
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
        """Yields the common keys."""
        yield from parameters.common(self.gguf, config)

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """No tensor changes."""
        return None
