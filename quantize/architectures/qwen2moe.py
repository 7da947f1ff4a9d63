"""Qwen2 MoE (Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B): routed experts and a shared one."""

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

_SHARED = {
    "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
}
_WIDTHS = {
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
"""Keys of the experts' widths, and their names in a config."""


@architecture("Qwen2MoeForCausalLM")
class Qwen2Moe:
    """Qwen2 models with experts in every layer."""

    gguf: ClassVar[str] = "qwen2moe"
    names: ClassVar[Mapping[str, Target]] = {
        **naming.ENDS,
        **naming.layers({**naming.PRE_NORMS, **naming.ATTENTION, **naming.EXPERTS, **_SHARED}),
    }
    dropped: ClassVar[tuple[str, ...]] = naming.ROTARY_TABLES
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.BYTE_LEVEL

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the common keys and the widths of both kinds of experts."""
        yield from parameters.common(self.gguf, config)
        for key, name in _WIDTHS.items():
            yield f"{self.gguf}.{key}", config.count(name, most=2**22)

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """No tensor changes."""
        return None
