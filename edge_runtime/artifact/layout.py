"""Which tensors a model of a given shape is made of: GGUF names and dims, family by family.

Names, dims and presence are those llama.cpp's converter writes and its loader demands. The order is
that of llama.cpp's quantizer, hence of nearly every published file: tensors of the whole model by
name, then layer by layer by name. This module knows no types and no metadata.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..errors import UnsupportedError
from .shape import ModelShape, TensorShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the layers of one GGUF architecture are built.

    `norm` "layer" has biases, "rms" none. `attention` "fused" keeps queries, keys and values in one
    matrix. `feed_forward`: "gated" has gate, up and down; "fused_gated" keeps gate and up in one
    matrix; "plain" has up and down. `qk_norm` says over what queries and keys are normalized.
    `output`: whether an output matrix of its own is `optional` (absent when tied), `required` by
    the loader, or `never` loaded. An `encoder` normalizes what leaves a block instead of what
    enters it, the embeddings too, and has no output.
    """

    norm: Literal["rms", "layer"] = "rms"
    attention: Literal["split", "fused"] = "split"
    feed_forward: Literal["gated", "fused_gated", "plain"] = "gated"
    qk_norm: Literal["none", "head", "each_head", "all_heads"] = "none"
    pre_norms: bool = True
    post_norms: bool = False
    feed_forward_norm: bool = True
    output: Literal["optional", "required", "never"] = "optional"
    output_bias: bool = False
    position_table: bool = False
    encoder: bool = False


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family(),
        "qwen2": Family(),
        "qwen2moe": Family(output="required"),
        "qwen3": Family(qk_norm="head"),
        "qwen3moe": Family(qk_norm="head"),
        "gemma": Family(output="never"),
        "gemma2": Family(output="never", post_norms=True),
        "gemma3": Family(post_norms=True, qk_norm="head"),
        "phi2": Family(
            norm="layer",
            feed_forward="plain",
            feed_forward_norm=False,
            output="required",
            output_bias=True,
        ),
        "phi3": Family(attention="fused", feed_forward="fused_gated"),
        "smollm3": Family(),
        "stablelm": Family(norm="layer", qk_norm="each_head", output="required"),
        "olmo2": Family(pre_norms=False, post_norms=True, qk_norm="all_heads", output="required"),
        "olmoe": Family(qk_norm="all_heads", output="required"),
        "granite": Family(),
        "starcoder2": Family(norm="layer", feed_forward="plain"),
        "gpt2": Family(norm="layer", attention="fused", feed_forward="plain", position_table=True),
        "gptneox": Family(norm="layer", attention="fused", feed_forward="plain", output="required"),
        "bert": Family(
            norm="layer",
            feed_forward="plain",
            pre_norms=False,
            output="never",
            position_table=True,
            encoder=True,
        ),
    }
)
"""Every architecture known here, by its GGUF name."""


def family(architecture: str) -> Family:
    """How models of a GGUF architecture are built.

    Raises UnsupportedError, naming the nearest known architectures.
    """
    try:
        return FAMILIES[architecture]
    except KeyError:
        near = difflib.get_close_matches(architecture, FAMILIES, n=2, cutoff=0.5)
        raise UnsupportedError(
            f"The architecture {architecture[:60]!r} is not supported.",
            cause=f"Nearest: {' or '.join(near)}." if near else "",
            way_out=f"Known: {', '.join(FAMILIES)}.",
        ) from None


@functools.lru_cache(maxsize=256)
def tensors_of(shape: ModelShape) -> tuple[TensorShape, ...]:
    """Every tensor of a model of this shape, in the quantizer's order.

    Raises UnsupportedError for an architecture that is not known.
    """
    kind = family(shape.architecture)
    whole = sorted(_whole_model(shape, kind))
    layer = sorted(_layer(shape, kind))
    return tuple(
        TensorShape(name=name, dims=dims)
        for prefix, rows in [("", whole), *((f"blk.{i}.", layer) for i in range(shape.layers))]
        for name, dims in ((prefix + suffix, dims) for suffix, dims in rows)
    )


_Row = tuple[str, tuple[int, ...]]


def _whole_model(shape: ModelShape, kind: Family) -> Iterator[_Row]:
    table = (shape.hidden, shape.vocabulary_tokens)
    yield "token_embd.weight", table
    yield from _norm("token_embd_norm" if kind.encoder else "output_norm", (shape.hidden,), kind)
    if shape.token_types:
        yield "token_types.weight", (shape.hidden, shape.token_types)
    if not shape.tied_embeddings:
        yield "output.weight", table
    if kind.output_bias:
        yield "output.bias", (shape.vocabulary_tokens,)
    if kind.position_table:
        yield "position_embd.weight", (shape.hidden, shape.context_tokens)
    if shape.rope_scaling is not None:
        half = (shape.rope_dimensions // 2,)
        if shape.rope_scaling.kind == "llama3":
            yield "rope_freqs.weight", half
        elif shape.rope_scaling.kind == "longrope":
            yield "rope_factors_long.weight", half
            yield "rope_factors_short.weight", half


def _layer(shape: ModelShape, kind: Family) -> Iterator[_Row]:
    hidden = (shape.hidden,)
    if kind.pre_norms:
        yield from _norm("attn_norm", hidden, kind)
        if kind.feed_forward_norm and not (
            shape.architecture == "stablelm" and shape.parallel_residual
        ):
            yield from _norm("ffn_norm", hidden, kind)
    if kind.encoder:
        yield from _norm("attn_output_norm", hidden, kind)
        yield from _norm("layer_output_norm", hidden, kind)
    if kind.post_norms:
        yield "post_attention_norm.weight", hidden
        yield "post_ffw_norm.weight", hidden
    yield from _attention(shape, kind)
    if shape.experts:
        yield from _experts(shape)
    else:
        yield from _feed_forward(shape, kind)


def _attention(shape: ModelShape, kind: Family) -> Iterator[_Row]:
    queries = shape.heads * shape.head_dim
    keys = shape.kv_heads * shape.head_dim
    if kind.attention == "fused":
        yield from _matrix("attn_qkv", shape.hidden, queries + 2 * keys, shape.qkv_bias)
    else:
        for name, width in (("attn_q", queries), ("attn_k", keys), ("attn_v", keys)):
            yield from _matrix(name, shape.hidden, width, shape.qkv_bias)
    yield from _matrix("attn_output", queries, shape.hidden, shape.attention_output_bias)
    if shape.qk_norm:
        for name, count in (
            ("attn_q_norm.weight", shape.heads),
            ("attn_k_norm.weight", shape.kv_heads),
        ):
            if kind.qk_norm == "each_head":
                yield name, (shape.head_dim, count)
            elif kind.qk_norm == "all_heads":
                yield name, (shape.head_dim * count,)
            else:
                yield name, (shape.head_dim,)


def _feed_forward(shape: ModelShape, kind: Family) -> Iterator[_Row]:
    wide = shape.intermediate
    if kind.feed_forward == "gated":
        yield from _matrix("ffn_gate", shape.hidden, wide, shape.mlp_bias)
    up = 2 * wide if kind.feed_forward == "fused_gated" else wide
    yield from _matrix("ffn_up", shape.hidden, up, shape.mlp_bias)
    yield from _matrix("ffn_down", wide, shape.hidden, shape.mlp_bias)


def _experts(shape: ModelShape) -> Iterator[_Row]:
    hidden, wide, count = shape.hidden, shape.expert_intermediate, shape.experts
    yield "ffn_gate_inp.weight", (hidden, count)
    yield "ffn_gate_exps.weight", (hidden, wide, count)
    yield "ffn_up_exps.weight", (hidden, wide, count)
    yield "ffn_down_exps.weight", (wide, hidden, count)
    if shared := shape.shared_expert_intermediate:
        yield "ffn_gate_inp_shexp.weight", (hidden, 1)
        yield "ffn_gate_shexp.weight", (hidden, shared)
        yield "ffn_up_shexp.weight", (hidden, shared)
        yield "ffn_down_shexp.weight", (shared, hidden)


def _norm(name: str, dims: tuple[int, ...], kind: Family) -> Iterator[_Row]:
    yield f"{name}.weight", dims
    if kind.norm == "layer":
        yield f"{name}.bias", dims


def _matrix(name: str, row: int, rows: int, bias: bool) -> Iterator[_Row]:
    yield f"{name}.weight", (row, rows)
    if bias:
        yield f"{name}.bias", (rows,)
