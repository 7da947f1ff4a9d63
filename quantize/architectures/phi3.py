"""Phi-3, 3.5 and 4: fused matrices, and two sets of rotary factors for short and long contexts."""

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


@architecture("Phi3ForCausalLM")
class Phi3:
    """The rotary factors are no tensors of the checkpoint: they come from its config."""

    gguf: ClassVar[str] = "phi3"
    names: ClassVar[Mapping[str, Target]] = {
        **naming.ENDS,
        **naming.layers(
            {
                **naming.PRE_NORMS,
                "self_attn.qkv_proj.weight": "attn_qkv.weight",
                "self_attn.o_proj.weight": "attn_output.weight",
                "mlp.gate_up_proj.weight": "ffn_up.weight",
                "mlp.down_proj.weight": "ffn_down.weight",
            }
        ),
    }
    dropped: ClassVar[tuple[str, ...]] = naming.ROTARY_TABLES
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.PHI3

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the sizes, the rotary settings and the window, which is 0 where there is none."""
        yield from parameters.sizes(self.gguf, config)
        yield (
            f"{self.gguf}.attention.layer_norm_rms_epsilon",
            config.number("rms_norm_eps", most=1.0),
        )
        yield from positions.long_rope(self.gguf, config)
        yield (
            f"{self.gguf}.attention.sliding_window",
            config.count("sliding_window", default=0, least=0, most=2**31 - 1),
        )

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """No tensor changes."""
        return None
