"""OLMo 2 and 3: norms behind the blocks instead of before them, and over all queries and keys."""

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


@architecture("Olmo2ForCausalLM", "Olmo3ForCausalLM")
class Olmo2:
    """Dense OLMo 2 models, and OLMo 3, which adds windows in three layers of four."""

    gguf: ClassVar[str] = "olmo2"
    names: ClassVar[Mapping[str, Target]] = {
        **naming.ENDS,
        **naming.layers(
            {**naming.POST_NORMS, **naming.ATTENTION, **naming.QK_NORMS, **naming.GATED}
        ),
    }
    dropped: ClassVar[tuple[str, ...]] = naming.ROTARY_TABLES
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.BYTE_LEVEL

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the common keys, and OLMo 3's windows."""
        yield from parameters.common(self.gguf, config)
        yield from positions.windows(self.gguf, config)
        yield from positions.windowed_base(self.gguf, config)

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """No tensor changes."""
        return None
