"""Mixtral: Mistral with routed experts in place of the feed-forward block."""

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

_EXPERTS: Mapping[str, Target] = {
    "block_sparse_moe.gate.weight": "ffn_gate_inp.weight",
    "block_sparse_moe.experts.{expert}.w1.weight": "ffn_gate_exps.weight",
    "block_sparse_moe.experts.{expert}.w2.weight": "ffn_down_exps.weight",
    "block_sparse_moe.experts.{expert}.w3.weight": "ffn_up_exps.weight",
}


@architecture("MixtralForCausalLM")
class Mixtral:
    """Mixtral 8x7B and its like, as GGUF files of the llama architecture."""

    gguf: ClassVar[str] = "llama"
    names: ClassVar[Mapping[str, Target]] = {
        **naming.ENDS,
        **naming.layers({**naming.PRE_NORMS, **naming.ATTENTION, **naming.EXPERTS, **_EXPERTS}),
    }
    dropped: ClassVar[tuple[str, ...]] = naming.ROTARY_TABLES
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.SENTENCEPIECE_FIRST

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the common keys and those of Llama's relatives."""
        width = parameters.head_dim_of(config)
        yield from parameters.common(self.gguf, config)
        yield from parameters.llama_like(self.gguf, checkpoint, config, head_dim=width)

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """Pairs of a head's rows lie half a head apart in the source, side by side in a GGUF."""
        return rows.interleaved(target, shape)
