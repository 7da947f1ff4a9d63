"""Metadata keys that several families' files carry, read from a `config.json`.

Which keys a conversion writes follows the config, so that a file says what its checkpoint says.
Families with a list of their own take only the parts they share. Knows no tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from edge_runtime.artifact.config_rope import read_rope
from edge_runtime.artifact.config_values import ConfigValues
from edge_runtime.errors import FormatError, UnsupportedError

from .checkpoint import Checkpoint
from .writers.gguf import Value

Pair = tuple[str, Value]
"""A metadata key and its value: a float is stored as FLOAT32, an int as UINT32."""

CODE_LLAMA_VOCABULARY_TOKENS = 32016
CODE_LLAMA_END_OF_TURN = 32010
"""The token that ends an infilling in Code Llama's vocabulary."""
GRANITE_CODE_VOCABULARY_TOKENS = 49152

_POOLING_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING_NUMBERS = {"mean": 1, "cls": 2, "lasttoken": 3}
"""llama.cpp's numbers of pooling types (enum llama_pooling_type)."""


def common(architecture: str, config: ConfigValues) -> Iterator[Pair]:
    """Yields what nearly every decoder's file states: sizes, rotary settings, epsilon, experts."""
    yield from sizes(architecture, config)
    yield from rope(architecture, config)
    yield (
        f"{architecture}.attention.layer_norm_rms_epsilon",
        config.number("rms_norm_eps", "norm_eps", most=1.0),
    )
    with_mean = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
    if any(config.get(name) is not None for name in with_mean):  # stated by some, used by none
        yield f"{architecture}.attention.layer_norm_epsilon", config.number(*with_mean, most=1.0)
    yield from experts(architecture, config)
    if config.get("head_dim") is not None:
        yield from head_width(architecture, config.count("head_dim", most=2**14))
    if config.get("is_causal") is False:
        yield f"{architecture}.attention.causal", False


def sizes(architecture: str, config: ConfigValues) -> Iterator[Pair]:
    """Yields layers, context, widths and heads."""
    heads = config.count("num_attention_heads", "n_head", most=2**12)
    yield f"{architecture}.block_count", config.count("num_hidden_layers", "n_layer", most=512)
    yield (
        f"{architecture}.context_length",
        config.count("max_position_embeddings", "n_positions", most=2**31 - 1),
    )
    yield f"{architecture}.embedding_length", config.count("hidden_size", "n_embd", most=2**18)
    yield f"{architecture}.feed_forward_length", config.count("intermediate_size", most=2**22)
    yield f"{architecture}.attention.head_count", heads
    yield (
        f"{architecture}.attention.head_count_kv",
        config.count("num_key_value_heads", default=heads, most=2**12),
    )


def rope(architecture: str, config: ConfigValues) -> Iterator[Pair]:
    """Yields the base of the rotary frequencies, and how positions are stretched: linear or yarn.

    Factors per frequency (Llama 3's) are a tensor, not keys.
    """
    hidden = config.count("hidden_size", "n_embd", most=2**18)
    heads = config.count("num_attention_heads", "n_head", most=2**12)
    found = read_rope(
        config, architecture, hidden=hidden, heads=heads, head_dim=head_dim_of(config)
    )
    if found.theta is not None:
        yield f"{architecture}.rope.freq_base", found.theta
    scaling = found.scaling
    if scaling is None or scaling.kind not in ("linear", "yarn"):
        return
    key = f"{architecture}.rope.scaling."
    yield f"{key}type", scaling.kind
    if found.original_context_tokens is not None:
        yield f"{key}original_context_length", found.original_context_tokens
    for name, value in (
        ("factor", scaling.factor),
        ("yarn_ext_factor", scaling.extrapolation_factor),
        ("yarn_attn_factor", scaling.attention_factor),
        ("yarn_beta_fast", scaling.beta_fast),
        ("yarn_beta_slow", scaling.beta_slow),
    ):
        if value is not None:
            yield key + name, value


def experts(architecture: str, config: ConfigValues) -> Iterator[Pair]:
    """Yields the number of experts and of those a token uses, where the config has some."""
    for key, names in (
        # Transformers 5 calls num_local_experts what 4 called num_experts.
        ("expert_count", ("num_local_experts", "num_experts")),
        ("expert_used_count", ("num_experts_per_tok",)),
    ):
        if any(config.get(name) is not None for name in names):
            yield f"{architecture}.{key}", config.count(*names, least=0, most=1024)


def head_width(architecture: str, head_dim: int) -> Iterator[Pair]:
    """Yields the width of a head's keys and values."""
    yield f"{architecture}.attention.key_length", head_dim
    yield f"{architecture}.attention.value_length", head_dim


def head_dim_of(config: ConfigValues) -> int:
    """The width of a head: stated, or the hidden size shared among the heads."""
    hidden = config.count("hidden_size", "n_embd", most=2**18)
    heads = config.count("num_attention_heads", "n_head", most=2**12)
    return config.count("head_dim", default=max(hidden // heads, 1), most=2**14)


def llama_like(
    architecture: str, checkpoint: Checkpoint, config: ConfigValues, *, head_dim: int
) -> Iterator[Pair]:
    """Yields what Llama and its closest relatives state beside the common keys.

    That is the size of the vocabulary, how many dimensions of a head rotate, and what their
    vocabularies need said: the leading space, the end of Code Llama's infillings, no BOS for
    Granite's code models; both of these go by the size of the vocabulary.
    """
    vocabulary_tokens = config.count("vocab_size", most=2**24)
    yield f"{architecture}.vocab_size", vocabulary_tokens
    yield f"{architecture}.rope.dimension_count", head_dim
    stated = checkpoint.json("tokenizer_config.json") or {}
    leading_space = stated.get("add_prefix_space")
    if isinstance(leading_space, bool):
        yield "tokenizer.ggml.add_space_prefix", leading_space
    if vocabulary_tokens == CODE_LLAMA_VOCABULARY_TOKENS:
        token = _listed_token(checkpoint, stated.get("eot_token"))
        if token is None:
            usual = CODE_LLAMA_END_OF_TURN
            token = config.count("eot_token_id", default=usual, least=0, most=2**24)
        yield "tokenizer.ggml.eot_token_id", token
    if vocabulary_tokens == GRANITE_CODE_VOCABULARY_TOKENS:
        yield "tokenizer.ggml.add_bos_token", False


def _listed_token(checkpoint: Checkpoint, token: object) -> int | None:
    """The id `tokenizer.json` gives an added token, None when it lists no such token."""
    text = token.get("content") if isinstance(token, Mapping) else token
    added = (checkpoint.json("tokenizer.json") or {}).get("added_tokens")
    if not isinstance(text, str) or not isinstance(added, list):
        return None
    found = (t.get("id") for t in added if isinstance(t, Mapping) and t.get("content") == text)
    number = next(found, None)
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def pooling(architecture: str, checkpoint: Checkpoint) -> Iterator[Pair]:
    """Yields how an embedding model makes one vector of its tokens', if its files say.

    They do in the layout of sentence-transformers: `modules.json` names a folder for pooling, whose
    `config.json` says which. Raises UnsupportedError for one that llama.cpp does not know,
    FormatError for files that are not what they should be.
    """
    folder = _pooling_folder(checkpoint)
    if folder is None:
        return
    stated = checkpoint.json(f"{folder}/config.json")
    if stated is None:
        raise FormatError(
            f"modules.json names {folder}, where there is no config.json.",
            way_out="Download the whole checkpoint again.",
        )
    mode = next((kind for flag, kind in _POOLING_FLAGS.items() if stated.get(flag)), None)
    mode = mode or str(stated.get("pooling_mode"))
    if mode not in _POOLING_NUMBERS:
        raise UnsupportedError(
            f"The pooling that {folder}/config.json asks for is not supported.",
            cause="Known: the mean, the first token's vector (cls), the last token's.",
        )
    yield f"{architecture}.pooling_type", _POOLING_NUMBERS[mode]


def _pooling_folder(checkpoint: Checkpoint) -> str | None:
    text = checkpoint.text("modules.json")
    if text is None:
        return None
    try:
        modules = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError("modules.json is no JSON.", cause=f"{str(error)[:80]}.") from error
    for module in modules if isinstance(modules, list) else ():
        if isinstance(module, Mapping) and str(module.get("type")).endswith("Pooling"):
            path = PurePosixPath(str(module.get("path")))
            if len(path.parts) != 1 or ".." in path.parts or path.is_absolute():
                raise FormatError(f"modules.json names a folder elsewhere: {str(path)[:80]!r}.")
            return str(path)
    return None
