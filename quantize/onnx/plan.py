"""What an ONNX model's matrices are stored as at a level, and how large, before any graph is made.

The level decides it as for a real conversion; the sizes hold for any family, also one whose graph
is not known here. Makes no graph and no bytes.
"""

from __future__ import annotations

from edge_runtime.artifact import GGMLType, ModelShape, TensorInfo
from edge_runtime.artifact.onnx.types import ELEMENT_TYPES, block_type, plain_type
from edge_runtime.artifact.shape import TensorShape, is_rope_table

from ..writers.onnx import Element
from .blocks import BlockFormat
from .conversion import blocks_of
from .levels import OnnxLevel, onnx_level

_FLOATS = ("position_embd", "token_types", "ffn_gate_inp", "ffn_gate_inp_shexp")
"""Tables that are looked up, and what chooses among experts: stored as floats at every level."""


def planned_tensors(shape: ModelShape, level: str | OnnxLevel) -> tuple[TensorInfo, ...]:
    """The weights of a model at a level: their GGUF names, and types and sizes as in a real file.

    Tables of rotary angles are left out: they are computed, and read a row at a time. Raises
    UnsupportedError for an unknown level.
    """
    chosen = level if isinstance(level, OnnxLevel) else onnx_level(level)
    found = []
    for tensor in shape.tensors:
        if is_rope_table(tensor.name):
            continue
        kind, size = _stored(tensor, shape, chosen)
        found.append(
            TensorInfo(
                name=tensor.name, dims=tensor.dims, type=kind, offset_bytes=0, size_bytes=size
            )
        )
    return tuple(found)


def cache_bytes_per_token(shape: ModelShape, level: str | OnnxLevel) -> int:
    """What a token takes in the graph's KV cache: floats as the level computes with, no window."""
    chosen = level if isinstance(level, OnnxLevel) else onnx_level(level)
    size = element_of(chosen).size_bytes
    return 0 if shape.encoder else 2 * shape.layers * shape.kv_heads * shape.head_dim * size


def element_of(level: OnnxLevel) -> Element:
    """The type of all that is not stored in blocks."""
    return Element.FLOAT16 if level.bits == 16 else Element.FLOAT


def _stored(tensor: TensorShape, shape: ModelShape, level: OnnxLevel) -> tuple[GGMLType, int]:
    blocks = _blocks(tensor, shape, level)
    if blocks is None:
        halved = level.quantized and tensor.name == "token_embd.weight"
        element = Element.FLOAT16 if halved else element_of(level)
        kind = plain_type(ELEMENT_TYPES[int(element)])
        return kind, kind.size_bytes((tensor.elements,))
    rows = tensor.elements // tensor.dims[0]
    count = blocks.count(tensor.dims[0])
    size = rows * count * (blocks.block_bytes + Element.FLOAT.size_bytes)
    if not blocks.symmetric:
        size += rows * blocks.zero_bytes(tensor.dims[0])
    kind = block_type(
        f"INT{blocks.bits}",
        bits=blocks.bits,
        block_elements=blocks.block_size,
        scale_bits=32,
        offset_bits=0 if blocks.symmetric else blocks.bits,
    )
    return kind, size


def _blocks(tensor: TensorShape, shape: ModelShape, level: OnnxLevel) -> BlockFormat | None:
    is_matrix = len(tensor.dims) > 1 and tensor.name.endswith(".weight")
    part = tensor.name.removesuffix(".weight").rpartition(".")[2]
    if not is_matrix or part in _FLOATS or part.endswith("_norm"):
        return None
    return blocks_of(tensor.name, shape, level)
