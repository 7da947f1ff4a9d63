"""Gemma 3, of text alone or the text part of one that sees: norms of queries and keys, two bases.

Every sixth layer looks at the whole context with rotary positions of its own base. What sees is
dropped by name.
"""

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

_LAYER: dict[str, Target] = {
    "input_layernorm.weight": "attn_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    **naming.POST_NORMS,
    **naming.QK_NORMS,
    **naming.ATTENTION,
    **naming.GATED,
}
_TEXT_MODELS = ("model.", "language_model.model.", "model.language_model.")
"""Where the decoder lies: alone, in one that sees by transformers 4, the same by transformers 5."""


@architecture("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")
class Gemma3:
    """An output matrix of its own is written when there is one."""

    gguf: ClassVar[str] = "gemma3"
    names: ClassVar[Mapping[str, Target]] = {
        "lm_head.weight": "output.weight",
        "language_model.lm_head.weight": "output.weight",
        **{f"{text}embed_tokens.weight": "token_embd.weight" for text in _TEXT_MODELS},
        **{f"{text}norm.weight": "output_norm.weight" for text in _TEXT_MODELS},
        **{
            source: target
            for text in _TEXT_MODELS
            for source, target in naming.layers(_LAYER, source=f"{text}layers.{{layer}}.").items()
        },
    }
    dropped: ClassVar[tuple[str, ...]] = (
        "vision_tower.*",
        "model.vision_tower.*",
        "multi_modal_projector.*",
        "model.multi_modal_projector.*",
        *naming.ROTARY_TABLES,
    )
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.SENTENCEPIECE_FIRST
    cuts_vocabulary: ClassVar[bool] = True

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the common keys, the windowed layers' base, the window, a cap if there is one."""
        yield from parameters.common(self.gguf, config)
        yield from positions.windowed_base(self.gguf, config)
        yield from positions.windows(self.gguf, config)
        if config.get("final_logit_softcapping"):
            yield (
                f"{self.gguf}.final_logit_softcapping",
                config.number("final_logit_softcapping", most=1e9),
            )
        if _is_sentencepiece(checkpoint):
            yield "tokenizer.ggml.add_space_prefix", False

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """Gemma multiplies by 1 + weight, llama.cpp by the weight."""
        return Change(offset=1.0) if target.endswith("norm.weight") else None


def _is_sentencepiece(checkpoint: Checkpoint) -> bool:
    if (checkpoint.path / "tokenizer.model").is_file():
        return True
    model = (checkpoint.json("tokenizer.json") or {}).get("model")
    return isinstance(model, Mapping) and bool(model.get("byte_fallback"))
