"""BERT and DistilBERT, which make embeddings: encoders, whose tokens see each other both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.config_values import ConfigValues
from edge_runtime.artifact.keys import SEGMENTS_KEY
from edge_runtime.errors import FormatError

from .. import naming, parameters
from ..checkpoint import Checkpoint
from ..naming import Target
from ..parameters import Pair
from ..rows import Change
from ..tokenizers import Vocabulary
from . import architecture

_MOST_LABELS = 2**16
_NUMBER = re.compile(r"[0-9]{1,9}")
_NORM_PARTS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
"""Parts of a norm, by the names transformers gives them and by those of the first checkpoints."""


def _norms(names: Mapping[str, str]) -> dict[str, Target]:
    return {
        f"{name}.{part}": f"{target}.{own}"
        for name, target in names.items()
        for part, own in _NORM_PARTS.items()
    }


def _below(encoder: str, names: Mapping[str, Target]) -> dict[str, Target]:
    """The names of an encoder that stands alone, and of one within a model called `encoder`."""
    return {f"{place}{name}": names[name] for place in ("", f"{encoder}.") for name in names}


def _labels(config: ConfigValues) -> tuple[str, ...]:
    """The names of the classes a config tells apart, in the order of their numbers.

    Those of embedding models mean nothing, but are kept as llama.cpp's converter keeps them: empty
    for the two that every config class of transformers has by itself.
    """
    stated = config.get("id2label")
    if stated is None:
        count = config.count("num_labels", default=2, least=0, most=_MOST_LABELS)
        return tuple(f"LABEL_{i}" for i in range(count)) if count != 2 else ()
    labels: dict[int, str] = {}
    for number, label in stated.items() if isinstance(stated, Mapping) else ():
        if not (isinstance(number, str) and _NUMBER.fullmatch(number) and isinstance(label, str)):
            break
        labels[int(number)] = label
    if not isinstance(stated, Mapping) or len(labels) != len(stated) or len(labels) > _MOST_LABELS:
        raise FormatError("The config's id2label must give numbers names.")
    if len(labels) == 2 and labels.get(0) == "LABEL_0":
        return ()
    return tuple(labels[number] for number in sorted(labels))


class _Encoder:
    """What both have in common."""

    gguf: ClassVar[str] = "bert"
    prefixes: ClassVar[tuple[str, ...]] = ()
    vocabulary: ClassVar[Vocabulary] = Vocabulary.WORDPIECE

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the sizes, that attention is not causal, and how token vectors become one."""
        for key, names, most in (
            ("block_count", ("num_hidden_layers", "n_layers"), 512),
            ("context_length", ("max_position_embeddings",), 2**31 - 1),
            ("embedding_length", ("hidden_size", "dim"), 2**18),
            ("feed_forward_length", ("intermediate_size", "hidden_dim"), 2**22),
            ("attention.head_count", ("num_attention_heads", "n_heads"), 2**12),
        ):
            yield f"{self.gguf}.{key}", config.count(*names, most=most)
        yield f"{self.gguf}.attention.layer_norm_epsilon", config.number("layer_norm_eps", most=1.0)
        yield f"{self.gguf}.attention.causal", False
        yield from parameters.pooling(self.gguf, checkpoint)
        if labels := _labels(config):
            yield f"{self.gguf}.classifier.output_labels", labels
        types = config.count("type_vocab_size", least=0, most=2**16)
        yield SEGMENTS_KEY, max(types, 1)

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """No tensor changes."""
        return None


@architecture("BertModel", "BertForMaskedLM")
class Bert(_Encoder):
    """The pooler and the heads for guessing words and order are dropped: embeddings need none."""

    names: ClassVar[Mapping[str, Target]] = _below(
        "bert",
        {
            "embeddings.word_embeddings.weight": "token_embd.weight",
            "embeddings.position_embeddings.weight": "position_embd.weight",
            "embeddings.token_type_embeddings.weight": "token_types.weight",
            **_norms({"embeddings.LayerNorm": "token_embd_norm"}),
            **naming.layers(
                {
                    **naming.both(
                        {
                            "attention.self.query": "attn_q",
                            "attention.self.key": "attn_k",
                            "attention.self.value": "attn_v",
                            "attention.output.dense": "attn_output",
                            "intermediate.dense": "ffn_up",
                            "output.dense": "ffn_down",
                        }
                    ),
                    **_norms(
                        {
                            "attention.output.LayerNorm": "attn_output_norm",
                            "output.LayerNorm": "layer_output_norm",
                        }
                    ),
                },
                source="encoder.layer.{layer}.",
            ),
        },
    )
    dropped: ClassVar[tuple[str, ...]] = (
        "embeddings.position_ids",
        "bert.embeddings.position_ids",
        "pooler.dense.*",
        "bert.pooler.dense.*",
        "cls.predictions.*",
        "cls.seq_relationship.*",
    )


@architecture("DistilBertModel", "DistilBertForMaskedLM")
class DistilBert(_Encoder):
    """BERT by other names, without a table of token types."""

    names: ClassVar[Mapping[str, Target]] = _below(
        "distilbert",
        {
            "embeddings.word_embeddings.weight": "token_embd.weight",
            "embeddings.position_embeddings.weight": "position_embd.weight",
            **_norms({"embeddings.LayerNorm": "token_embd_norm"}),
            **naming.layers(
                {
                    **naming.both(
                        {
                            "attention.q_lin": "attn_q",
                            "attention.k_lin": "attn_k",
                            "attention.v_lin": "attn_v",
                            "attention.out_lin": "attn_output",
                            "ffn.lin1": "ffn_up",
                            "ffn.lin2": "ffn_down",
                        }
                    ),
                    **_norms(
                        {
                            "sa_layer_norm": "attn_output_norm",
                            "output_layer_norm": "layer_output_norm",
                        }
                    ),
                },
                source="transformer.layer.{layer}.",
            ),
        },
    )
    dropped: ClassVar[tuple[str, ...]] = (
        "embeddings.position_ids",
        "distilbert.embeddings.position_ids",
        "vocab_transform.*",
        "vocab_layer_norm.*",
        "vocab_projector.*",
    )
