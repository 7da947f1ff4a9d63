"""Architecture metadata of a GGUF file, both ways: `ModelShape` <-> `{architecture}.*` keys.

Key names and value types are those llama.cpp's converter writes and its loader reads. General keys,
the tokenizer and the file type are not this module's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..errors import FormatError
from .config_values import ConfigValues
from .ggml import ValueType
from .layout import family
from .shape import ModelShape, NamedDims, RopeScaling

U32, F32, TEXT, BOOL, ARRAY = (
    ValueType.UINT32,
    ValueType.FLOAT32,
    ValueType.STRING,
    ValueType.BOOL,
    ValueType.ARRAY,
)
_MOST = 2**31 - 1
PLAIN_THETA = 10000.0
"""The base of the rotary frequencies that llama.cpp takes when a file states none."""
SEGMENTS_KEY = "tokenizer.ggml.token_type_count"
"""Of an encoder: rows of its token types' table, at least 1 even when it has none."""
# The converter writes no base frequency for these.
_THETA_UNWRITTEN = ("gemma", "gemma2", "phi2", "stablelm", "gptneox")
_KEY_LENGTH_WRITTEN = ("llama", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3")
_RESIDUAL_WRITTEN = ("stablelm", "gptneox")


class KeyValue(NamedTuple):
    """One metadata pair. Arrays (type ARRAY) are tuples of bool."""

    key: str
    type: ValueType
    value: int | float | str | bool | tuple[bool, ...]


def metadata_of(shape: ModelShape) -> tuple[KeyValue, ...]:
    """The `{architecture}.*` pairs that make llama.cpp load a model of this shape.

    `vocab_size` is always among them, so that a file without a vocabulary loads as well. A
    truncated shape states its own layers. An encoder's token types, which its loader demands, are
    the one key that begins otherwise.
    """
    pairs = (*_size_pairs(shape), *_rope_pairs(shape), *_attention_pairs(shape))
    found = tuple(
        KeyValue(f"{shape.architecture}.{key}", kind, value)
        for key, kind, value in pairs
        if value is not None
    )
    if not shape.encoder:
        return found
    return (*found, KeyValue(SEGMENTS_KEY, U32, max(shape.token_types, 1)))


_Pair = tuple[str, ValueType, int | float | str | bool | tuple[bool, ...] | None]


def _size_pairs(shape: ModelShape) -> Iterator[_Pair]:
    yield "block_count", U32, shape.layers
    yield "context_length", U32, shape.context_tokens
    yield "embedding_length", U32, shape.hidden
    yield "feed_forward_length", U32, shape.intermediate
    yield "attention.head_count", U32, shape.heads
    yield "attention.head_count_kv", U32, shape.kv_heads
    norm = "layer_norm" if family(shape.architecture).norm == "layer" else "layer_norm_rms"
    yield f"attention.{norm}_epsilon", F32, shape.norm_epsilon
    yield "vocab_size", U32, shape.vocabulary_tokens
    if shape.experts:
        yield "expert_count", U32, shape.experts
        yield "expert_used_count", U32, shape.experts_used
        if shape.architecture in ("qwen2moe", "qwen3moe"):
            yield "expert_feed_forward_length", U32, shape.expert_intermediate
        if shape.shared_expert_intermediate:
            yield "expert_shared_feed_forward_length", U32, shape.shared_expert_intermediate
    if shape.encoder:
        yield "attention.causal", BOOL, False
    if shape.architecture in _RESIDUAL_WRITTEN:
        yield "use_parallel_residual", BOOL, shape.parallel_residual


def _rope_pairs(shape: ModelShape) -> Iterator[_Pair]:
    if shape.rope_dimensions:
        yield "rope.dimension_count", U32, shape.rope_dimensions
    if family(shape.architecture).position_table:
        return
    if shape.architecture not in _THETA_UNWRITTEN or shape.rope_theta != PLAIN_THETA:
        yield "rope.freq_base", F32, shape.rope_theta
    yield "rope.freq_base_swa", F32, shape.rope_theta_sliding
    yield "rope.scaling.original_context_length", U32, shape.original_context_tokens
    scaling = shape.rope_scaling
    if scaling is None:
        return
    if scaling.kind in ("linear", "yarn"):
        yield "rope.scaling.type", TEXT, scaling.kind
        yield "rope.scaling.factor", F32, scaling.factor
    attention = "attn_factor" if scaling.kind == "longrope" else "yarn_attn_factor"
    yield f"rope.scaling.{attention}", F32, scaling.attention_factor
    yield "rope.scaling.yarn_ext_factor", F32, scaling.extrapolation_factor
    yield "rope.scaling.yarn_beta_fast", F32, scaling.beta_fast
    yield "rope.scaling.yarn_beta_slow", F32, scaling.beta_slow


def _attention_pairs(shape: ModelShape) -> Iterator[_Pair]:
    own = shape.head_dim * shape.heads != shape.hidden
    if own or (shape.architecture in _KEY_LENGTH_WRITTEN and not _is_mixtral(shape)):
        yield "attention.key_length", U32, shape.head_dim
        yield "attention.value_length", U32, shape.head_dim
    if shape.architecture == "phi3":
        # Zero tells Phi-4 from the others, which have a window that llama.cpp switches off.
        yield "attention.sliding_window", U32, shape.sliding_window or 0
    else:
        yield "attention.sliding_window", U32, shape.sliding_window
    if shape.sliding_layers != usual_windows(
        shape.architecture, shape.layers, shape.sliding_window
    ):
        yield "attention.sliding_window_pattern", ARRAY, shape.sliding_layers
    yield "attn_logit_softcapping", F32, shape.attention_softcap
    yield "final_logit_softcapping", F32, shape.final_softcap
    yield "attention.scale", F32, shape.attention_scale
    yield "embedding_scale", F32, shape.embedding_scale
    yield "residual_scale", F32, shape.residual_scale
    yield "logit_scale", F32, shape.logit_scale


def _is_mixtral(shape: ModelShape) -> bool:
    return shape.architecture == "llama" and shape.experts > 0


def usual_windows(architecture: str, layers: int, window: int | None) -> tuple[bool, ...]:
    """The windowed layers the loader assumes when the file does not list them."""
    period = {"gemma2": 2, "gemma3": 6}.get(architecture)
    if window is None or period is None:
        return ()
    return tuple((i + 1) % period != 0 for i in range(layers))


def rope_table(shape: ModelShape, tensor_name: str) -> tuple[float, ...]:
    """The values of a rotary table (`rope_freqs.weight` and its like), float32.

    All ones, which stretches nothing, when the shape came from a file and does not know them.
    """
    scaling = shape.rope_scaling
    known = {
        "rope_freqs.weight": scaling.factors if scaling else (),
        "rope_factors_long.weight": scaling.long_factors if scaling else (),
        "rope_factors_short.weight": scaling.short_factors if scaling else (),
    }[tensor_name]
    return known or (1.0,) * (shape.rope_dimensions // 2)


def shape_of_metadata(metadata: Mapping[str, object], tensors: Iterable[NamedDims]) -> ModelShape:
    """The shape a GGUF header describes.

    Raises UnsupportedError for an architecture that is not known, FormatError naming a key that
    lacks or cannot be.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise FormatError(
            "The file names no architecture.",
            cause="It has no text under general.architecture.",
            way_out="Give the GGUF file of a language model.",
        )
    kind = family(architecture)
    dims = {tensor.name: tensor.dims for tensor in tensors}
    values = ConfigValues(metadata, of="file")
    prefix = f"{architecture}."
    layers = values.count(prefix + "block_count", most=512)
    hidden = values.count(prefix + "embedding_length", most=2**18)
    heads = _uniform(values, metadata, prefix + "attention.head_count", None)
    kv_heads = _uniform(values, metadata, prefix + "attention.head_count_kv", heads)
    if heads % kv_heads:
        raise FormatError(f"{prefix}attention.head_count_kv is {kv_heads} with {heads} heads.")
    head_dim = values.count(
        prefix + "attention.key_length", default=max(hidden // heads, 1), most=2**14
    )
    whole = values.count("edge_runtime.layers_of_model", default=layers, least=layers, most=512)
    intermediate = _uniform(values, metadata, prefix + "feed_forward_length", None)
    experts = values.count(prefix + "expert_count", default=0, least=0, most=2**12)
    window, windowed = _windows(values, metadata, architecture, layers)
    epsilon = "layer_norm" if kind.norm == "layer" else "layer_norm_rms"
    name = metadata.get("general.name")
    return ModelShape(
        name=name if isinstance(name, str) else "",
        architecture=architecture,
        layers=layers,
        layers_of_model=whole,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary_tokens=_vocabulary(values, dims, prefix),
        context_tokens=values.count(prefix + "context_length", most=_MOST),
        tied_embeddings="output.weight" not in dims,
        norm_epsilon=values.number(f"{prefix}attention.{epsilon}_epsilon", most=1.0),
        rope_theta=None
        if kind.position_table
        else values.number(prefix + "rope.freq_base", default=PLAIN_THETA, most=1e15),
        rope_theta_sliding=_optional(values, prefix + "rope.freq_base_swa"),
        rope_dimensions=0
        if kind.position_table
        else values.count(prefix + "rope.dimension_count", default=head_dim, most=2**14),
        rope_scaling=_scaling(values, metadata, dims, prefix),
        original_context_tokens=_optional_count(
            values, prefix + "rope.scaling.original_context_length"
        ),
        sliding_window=window,
        sliding_layers=windowed,
        experts=experts,
        experts_used=values.count(prefix + "expert_used_count", most=experts) if experts else 0,
        expert_intermediate=_expert_width(values, dims, prefix, intermediate) if experts else 0,
        shared_expert_intermediate=_row(dims, "blk.0.ffn_down_shexp.weight"),
        qkv_bias=any(f"blk.0.{n}.bias" in dims for n in ("attn_q", "attn_qkv")),
        attention_output_bias="blk.0.attn_output.bias" in dims,
        mlp_bias="blk.0.ffn_up.bias" in dims,
        qk_norm="blk.0.attn_q_norm.weight" in dims,
        parallel_residual=architecture in _RESIDUAL_WRITTEN
        and values.flag(prefix + "use_parallel_residual", default=False),
        attention_softcap=_optional(values, prefix + "attn_logit_softcapping"),
        final_softcap=_optional(values, prefix + "final_logit_softcapping"),
        attention_scale=_optional(values, prefix + "attention.scale"),
        embedding_scale=_optional(values, prefix + "embedding_scale"),
        residual_scale=_optional(values, prefix + "residual_scale"),
        logit_scale=_optional(values, prefix + "logit_scale"),
        token_types=_rows(dims, "token_types.weight") if kind.encoder else 0,
    )


_Dims = Mapping[str, tuple[int, ...]]


def _uniform(
    values: ConfigValues, metadata: Mapping[str, object], key: str, default: int | None
) -> int:
    """A count that may be stored once or per layer; layers must then agree."""
    stored = metadata.get(key)
    if isinstance(stored, tuple):
        if len(set(stored)) != 1:
            raise FormatError(
                f"{key} differs from layer to layer, which is not supported.",
                cause=f"Its values are {str(stored)[:60]}.",
            )
        values = ConfigValues({key: stored[0]}, of="file")
    return values.count(key, default=default, most=2**22)


def _vocabulary(values: ConfigValues, dims: _Dims, prefix: str) -> int:
    table = dims.get("token_embd.weight")
    if table is not None and len(table) == 2:
        return table[1]
    return values.count(prefix + "vocab_size", most=2**24)


def _row(dims: _Dims, name: str) -> int:
    return dims[name][0] if name in dims else 0


def _rows(dims: _Dims, name: str) -> int:
    return dims[name][1] if len(dims.get(name, ())) == 2 else 0


def _expert_width(values: ConfigValues, dims: _Dims, prefix: str, intermediate: int) -> int:
    stored = _row(dims, "blk.0.ffn_down_exps.weight") or intermediate
    return values.count(prefix + "expert_feed_forward_length", default=stored, most=2**22)


def _windows(
    values: ConfigValues, metadata: Mapping[str, object], architecture: str, layers: int
) -> tuple[int | None, tuple[bool, ...]]:
    key = f"{architecture}.attention.sliding_window"
    usual = 4096 if architecture == "gemma2" else 0
    window = values.count(key, default=usual, least=0, most=_MOST)
    if window == 0 or architecture not in ("gemma2", "gemma3", "olmo2"):
        return (window or None) if architecture == "phi3" else None, ()
    stored = metadata.get(f"{key}_pattern")
    if isinstance(stored, tuple):
        if len(stored) < layers:
            raise FormatError(f"{key}_pattern lists {len(stored)} layers instead of {layers}.")
        return window, tuple(bool(item) for item in stored[:layers])
    usual_period = {"gemma2": 2, "gemma3": 6, "olmo2": 4}[architecture]
    period = values.count(f"{key}_pattern", default=usual_period, least=0, most=512)
    return window, tuple(period == 0 or i % period < period - 1 for i in range(layers))


def _scaling(
    values: ConfigValues, metadata: Mapping[str, object], dims: _Dims, prefix: str
) -> RopeScaling | None:
    scaling = prefix + "rope.scaling."
    if "rope_factors_long.weight" in dims:
        return RopeScaling(
            kind="longrope", attention_factor=_optional(values, scaling + "attn_factor")
        )
    kind = metadata.get(scaling + "type")
    if kind in ("linear", "yarn"):
        return RopeScaling(
            kind=str(kind),
            factor=values.number(scaling + "factor", default=1.0, most=1e6),
            attention_factor=_optional(values, scaling + "yarn_attn_factor"),
            extrapolation_factor=_optional(values, scaling + "yarn_ext_factor"),
            beta_fast=_optional(values, scaling + "yarn_beta_fast"),
            beta_slow=_optional(values, scaling + "yarn_beta_slow"),
        )
    return RopeScaling(kind="llama3") if "rope_freqs.weight" in dims else None


def _optional(values: ConfigValues, key: str) -> float | None:
    """A number that may be absent, or zero for off."""
    return values.number(key, most=1e15) if values.get(key) else None


def _optional_count(values: ConfigValues, key: str) -> int | None:
    return values.count(key, most=_MOST) if values.get(key) else None
