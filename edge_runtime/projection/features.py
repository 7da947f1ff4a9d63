"""What one token asks of a machine: layers to start, bytes to read, weights to multiply.

A demand is counted from a model's planned file and knows no device; what a device supplies, and how
many seconds one takes from the other, is `supply`'s and `time_model`'s to say. Weights are counted
by the family of their type, because kernels differ more between families than sizes do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..artifact import GGML_TYPES
from ..feasibility import Phase, attention_products, planned_work
from ..measurement import SessionOptions
from ..memory_needs import PlannedModel

FLOAT, INT8, INT4, INT5, K4, K, K_LOW, CODEBOOK4, LATTICE, TERNARY = FAMILIES = (
    "float", "int8", "int4", "int5", "k4", "k", "k_low", "codebook4", "lattice", "ternary",
)  # fmt: skip
"""Families of tensor types whose kernels are alike: plain floats; blocks of 8, 4 and 5 bits; blocks
of blocks with 4 bits, which processors repack, with 5 and 6, and with 2 and 3; 4 bits through a
table; points of a lattice; ternary."""

FAMILY_OF: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("F32", "F16", "BF16", "F64", "FLOAT", "FP16", "FP32", "FLOAT16"), FLOAT),
        **dict.fromkeys(("Q8_0", "Q8_1", "INT8", "I8"), INT8),
        **dict.fromkeys(("Q4_0", "Q4_1", "INT4"), INT4),
        **dict.fromkeys(("Q5_0", "Q5_1"), INT5),
        "Q4_K": K4,
        **dict.fromkeys(("Q5_K", "Q6_K", "Q8_K"), K),
        **dict.fromkeys(("Q2_K", "Q3_K"), K_LOW),
        **dict.fromkeys(("IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"), CODEBOOK4),
        **dict.fromkeys(
            ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), LATTICE
        ),
        **dict.fromkeys(("TQ1_0", "TQ2_0", "Q1_0", "Q2_0"), TERNARY),
    }
)
"""The family of a tensor type, by the names of GGUF and of ONNX."""

DENSE, MOE, HYBRID, PER_LAYER = ARCHITECTURES = ("dense", "moe", "hybrid", "ple")
"""What a layer does beside attention and one feed-forward block: nothing, choosing experts, a
recurrence, embeddings of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What decoding one token asks for at a depth, or evaluating one token of a prompt.

    `weights` are multiplied per token, by family; `bytes_read` are theirs as stored, of which a
    prompt's token reads none of its own (0). `cache_bytes` of keys and values are read at the
    depth, `attention` products made. `estimated` says that the model's shape was not known.
    """

    layers: float
    bytes_read: float
    weights: Mapping[str, float]
    cache_bytes: float
    attention: float
    architecture: str = DENSE
    estimated: bool = False


def decode_demand(planned: PlannedModel, depth_tokens: int, options: SessionOptions) -> Demand:
    """What decoding one token of a planned file takes with that many tokens in the context."""
    shape = planned.shape
    work = planned_work(planned, Phase.DECODE, depth_tokens)
    weights: dict[str, float] = {}
    for name, amount in work.bytes_by_type.items():
        family = family_of(name)
        weights[family] = weights.get(family, 0.0) + 8 * amount / _bits(planned, name)
    products = attention_products(shape, 1)
    per_token = (
        planned.cache_bytes_per_token
        if planned.cache_bytes_per_token is not None
        else shape.kv_bytes_per_token(options.kv_type_k, options.kv_type_v)
    )
    return Demand(
        layers=float(shape.layers),
        bytes_read=float(sum(work.bytes_by_type.values())),
        weights=weights,
        # What attention sees of the cache shrinks with sliding windows as its products do.
        cache_bytes=per_token * work.attention / products if products else 0.0,
        attention=work.attention,
        architecture=MOE if shape.experts else DENSE,
    )


def prefill_demand(planned: PlannedModel, prompt_tokens: int, depth_tokens: int = 0) -> Demand:
    """What evaluating one token of a prompt takes, averaged over the prompt.

    On average half of the prompt is seen, and all of the `depth_tokens` that stand before it. The
    weights are those of the layers; the output matrix works for the last token only.
    """
    work = planned_work(planned, Phase.PREFILL, depth_tokens + prompt_tokens // 2)
    weights: dict[str, float] = {}
    for name, amount in work.bytes_by_type.items():
        family = family_of(name)
        weights[family] = weights.get(family, 0.0) + amount
    return Demand(
        layers=float(planned.shape.layers),
        bytes_read=0.0,
        weights=weights,
        cache_bytes=0.0,
        attention=work.attention,
        architecture=MOE if planned.shape.experts else DENSE,
    )


def _bits(planned: PlannedModel, type_name: str) -> float:
    """Bits of storage per weight of a type; one that GGUF lacks is looked up in the file."""
    kind = GGML_TYPES.get(type_name)
    if kind is None:
        kind = next(t.type for t in planned.tensors if t.type.name == type_name)
    return kind.bits_per_element


def family_of(type_name: str) -> str:
    """The family of a tensor type; of one that is not listed, that of the plain floats."""
    return FAMILY_OF.get(type_name.upper(), FLOAT)
