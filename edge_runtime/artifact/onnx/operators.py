"""What the operators of ONNX and of ONNX Runtime read: where weights, scales and tables stand.

Places are those of the operators' documentation. It knows operators one at a time, no graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .graph import Node

TABLE_OPS = ("Gather", "GatherBlockQuantized")
SAME_VALUES = frozenset(
    ("Reshape", "Cast", "Identity", "Transpose", "Squeeze", "Unsqueeze", "DequantizeLinear",
     "QuantizeLinear", "Flatten")
)  # fmt: skip
"""Operators whose first input is, for where a weight comes from, what they make."""
BEFORE_LOGITS = frozenset(
    ("Cast", "Add", "Mul", "Div", "Sub", "Tanh", "Slice", "Reshape", "Identity", "Where", "Clip",
     "Squeeze", "Unsqueeze", "Transpose", "DequantizeLinear", "QuantizeLinear", "Gather")
)  # fmt: skip
PRODUCTS = {
    "MatMul": 1,
    "Gemm": 1,
    "FusedMatMul": 1,
    "MatMulNBits": 1,
    "MatMulBnb4": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "QLinearMatMul": 3,
    "QGemm": 3,
}
"""Where a product's weight stands among its inputs."""
ANGLES = {"GroupQueryAttention": (7, 8), "RotaryEmbedding": (1, 2, 3), "PagedAttention": (8, 9)}
"""Where tables of rotary angles may stand, by operator."""


EXPERTS = {"QMoE": (2, 5, 8), "MoE": (2, 4, 6)}
"""Where stacks of experts' matrices stand, by operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """How an operator reads the integers of `value`; `scales` and `offsets` are inputs too.

    `bits` 0 means those of the element type; `block` is how many elements of a row share a scale,
    0 where a row or more does; `dims`, where stated, have the row length first.
    """

    value: str
    bits: int = 0
    block: int = 0
    dims: tuple[int, ...] = ()
    scales: str = ""
    offsets: str = ""
    name: str = ""
    """The type's name where it is no plain integer."""


def slots(node: Node) -> Callable[[int], str]:
    """The inputs of an operator by position; what is left out has an empty name."""

    def slot(at: int) -> str:
        return node.inputs[at] if at < len(node.inputs) else ""

    return slot


def quantized_by(node: Node) -> Iterator[Quantized]:
    """The quantized weights an operator reads."""
    slot, ints = slots(node), node.ints
    block = ints.get("block_size", 0)
    dims = (ints.get("K", 0), ints.get("N", 0))
    if node.op == "MatMulNBits":
        yield Quantized(
            value=slot(1), bits=ints.get("bits", 4), block=block, dims=dims,
            scales=slot(2), offsets=slot(3),
        )  # fmt: skip
    elif node.op == "MatMulBnb4":
        yield Quantized(value=slot(1), bits=4, block=block, dims=dims, scales=slot(2), name="BNB4")
    elif node.op == "GatherBlockQuantized":
        yield Quantized(
            value=slot(0), bits=ints.get("bits", 4), block=block or 128,
            scales=slot(2), offsets=slot(3),
        )  # fmt: skip
    elif node.op == "QMoE":
        for at in EXPERTS["QMoE"]:
            yield Quantized(
                value=slot(at), bits=ints.get("expert_weight_bits", 4), block=block,
                scales=slot(at + 1), offsets=slot(11 + at // 3),
            )  # fmt: skip
    elif node.op == "DequantizeLinear":
        yield Quantized(value=slot(0), block=block, scales=slot(1), offsets=slot(2))
    elif node.op in ("MatMulInteger", "ConvInteger"):
        yield Quantized(value=slot(1), offsets=slot(3))
    elif node.op == "DynamicQuantizeMatMul":
        yield Quantized(value=slot(1), scales=slot(2), offsets=slot(3))
    elif node.op == "MatMulIntegerToFloat":
        yield Quantized(value=slot(1), scales=slot(3), offsets=slot(5))
    elif node.op in ("QLinearMatMul", "QLinearConv", "QGemm"):
        yield Quantized(value=slot(3), scales=slot(4), offsets=slot(5))
