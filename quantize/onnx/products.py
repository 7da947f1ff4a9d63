"""Which products of a graph can be stored as blocks of integers, and why the others cannot.

A product qualifies when one factor is a constant matrix of floats, written in one piece. It is
found by what operators compute, never by names; only the mixture of bits looks at names, as that
of onnxruntime-genai's builder does. It reads no weight.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.artifact.onnx.graph import Initializer, OnnxGraph

from .outline import Operator

PRODUCTS = ("MatMul", "Gemm", "FusedMatMul")
QUANTIZED_OPS = frozenset(
    ("MatMulNBits", "MatMulBnb4", "GatherBlockQuantized", "QMoE", "MatMulInteger", "ConvInteger",
     "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QLinearMatMul", "QLinearConv", "QGemm",
     "QAttention", "DynamicQuantizeLSTM")
)  # fmt: skip
"""Operators that compute with integers: a graph with one of them has been quantized."""

_LAYER = re.compile(r"(?:layers?|blk|h)[./](\d+)[./]")
_SENSITIVE = re.compile(r"down_proj|v_proj|qkv_proj|ffn_down|attn_v|attn_qkv|c_attn|mlp[./]c_proj")


EXCLUDED, CONVOLUTION = "it is excluded", "it is a convolution"
"""Reasons to stay floats that others ask about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A constant matrix as a product reads it: `rows` are its outputs.

    `upright` says that it is stored so too, else with the inputs as rows. `bias` is what the
    product adds; `turned` the Transpose that stood between the matrix and its product.
    """

    operator: Operator
    weight: Initializer
    rows: int
    columns: int
    upright: bool
    bias: str = ""
    turned: Operator | None = None

    @property
    def key(self) -> tuple[str, bool]:
        """Products with the same key read the same blocks."""
        return self.weight.name, self.upright


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A product that stays as it is: `elements` of the constant matrix, 0 where there is none."""

    name: str
    op: str
    reason: str
    elements: int = 0


def is_quantized(graph: OnnxGraph) -> bool:
    """Whether a graph holds weights or computes in integers of 8 bits or fewer already."""
    constants = {tensor.name for tensor in graph.initializers}
    return any(
        node.op in QUANTIZED_OPS
        or (node.op == "DequantizeLinear" and node.inputs and node.inputs[0] in constants)
        for node in graph.nodes
    )


def products_of(
    graph: OnnxGraph, operators: Sequence[Operator], exclude: Iterable[str] = ()
) -> tuple[tuple[Matrix, ...], tuple[Kept, ...]]:
    """The matrices that can become blocks, and the products and convolutions that stay."""
    found: list[Matrix] = []
    kept: list[Kept] = []
    excluded = frozenset(exclude)
    reading = _Reading(graph, operators)
    for operator in operators:
        if operator.op == "Conv":
            weight = reading.constant(operator, 1)
            if weight is not None:
                out = {operator.name, operator.called} & excluded
                kept.append(_kept(operator, EXCLUDED if out else CONVOLUTION, weight))
        elif operator.op in PRODUCTS:
            matrix = reading.matrix(operator)
            if isinstance(matrix, Matrix) and {operator.name, operator.called} & excluded:
                kept.append(_kept(operator, EXCLUDED, matrix.weight))
            elif isinstance(matrix, Matrix):
                found.append(matrix)
            else:
                kept.append(matrix)
    return tuple(found), tuple(kept)


def _kept(operator: Operator, reason: str, weight: Initializer | None = None) -> Kept:
    return Kept(
        name=operator.called,
        op=operator.op,
        reason=reason,
        elements=0 if weight is None else weight.elements,
    )


class _Reading:
    """What the products of one graph read."""

    def __init__(self, graph: OnnxGraph, operators: Sequence[Operator]) -> None:
        self._listed = Counter(tensor.name for tensor in graph.initializers)
        self._constants = {tensor.name: tensor for tensor in graph.initializers}
        self._turned = {
            operator.outputs[0]: operator
            for operator in operators
            if operator.op == "Transpose" and operator.outputs and operator.inputs
        }

    def constant(self, operator: Operator, at: int) -> Initializer | None:
        """The constant an operator reads at a place."""
        return self._constants.get(operator.inputs[at]) if at < len(operator.inputs) else None

    def matrix(self, operator: Operator) -> Matrix | Kept:
        """The matrix of a product, or why it stays."""
        weight, turned = self.constant(operator, 1), None
        if weight is None and len(operator.inputs) > 1:
            turned = self._turned.get(operator.inputs[1])
            weight = None if turned is None else self.constant(turned, 0)
            if turned is not None and turned.lists.get("perm", (1, 0)) != (1, 0):
                weight = None
        if weight is None:
            first = self.constant(operator, 0)
            reason = "neither factor is a constant" if first is None else "its constant comes first"
            return _kept(operator, reason, first)
        if len(weight.dims) != 2:
            dims = "x".join(map(str, weight.dims)) or "none"
            return _kept(operator, f"its weight has the dims {dims}, not two", weight)
        if weight.type.name not in ("FP32", "FP16"):
            return _kept(operator, f"its weight is of the type {weight.type.name}", weight)
        if self._listed[weight.name] > 1:
            return _kept(operator, "several tensors have its weight's name", weight)
        if weight.offset_bytes is None:
            return _kept(operator, "its values stand one by one in the graph", weight)
        if min(weight.dims) < 1:
            return _kept(operator, "its weight is empty", weight)
        reason = _otherwise(operator)
        if reason:
            return _kept(operator, reason, weight)
        upright = bool(operator.ints.get("transB", 0)) != (turned is not None)
        rows, columns = weight.dims if upright else weight.dims[::-1]
        bias = operator.inputs[2] if operator.op == "Gemm" and len(operator.inputs) > 2 else ""
        return Matrix(
            operator=operator,
            weight=weight,
            rows=rows,
            columns=columns,
            upright=upright,
            bias=bias,
            turned=turned,
        )


def _otherwise(operator: Operator) -> str:
    """What an operator computes beside a plain product, if anything."""
    for name, plain in (("transA", 0), ("transBatchA", 0), ("transBatchB", 0)):
        if operator.ints.get(name, plain) != plain:
            return f"it computes with {name}"
    for name in ("alpha", "beta"):
        if operator.floats.get(name, 1.0) != 1.0:
            return f"it computes with {name} {operator.floats[name]:.4g}"
    return ""


def mixed_bits(matrices: Sequence[Matrix], outputs: Iterable[str]) -> Mapping[int, int]:
    """Eight bits for what loses most, by the operator's place in the file; four for the others.

    Those are the output matrix, and in the layers that llama.cpp's Q4_K_M gives more bits, the
    values and what leaves a feed-forward block: the choice of onnxruntime-genai's k_quant_mixed.
    """
    layers = [_layer(matrix) for matrix in matrices]
    count = max((layer for layer in layers if layer is not None), default=-1) + 1
    last = matrices[-1].operator.start if matrices else -1
    made = set(outputs)
    bits: dict[int, int] = {}
    for matrix, layer in zip(matrices, layers, strict=True):
        at = matrix.operator.start
        names = f"{matrix.operator.name} {matrix.weight.name}"
        if layer is None:
            head = at == last or bool(made & set(matrix.operator.outputs))
            bits[at] = 8 if head else 4
        else:
            more = layer < count // 8 or layer >= 7 * count // 8 or (layer - count // 8) % 3 == 2
            bits[at] = 8 if more and _SENSITIVE.search(names) else 4
    return bits


def _layer(matrix: Matrix) -> int | None:
    for name in (matrix.operator.name, matrix.weight.name):
        if found := _LAYER.search(name):
            return int(found[1])
    return None


def reasons(kept: Iterable[Kept]) -> Iterator[tuple[str, int, str]]:
    """Each reason with how many stay for it and the name of the first, the most frequent first."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for item in kept:
        counts[item.reason] += 1
        first.setdefault(item.reason, item.name)
    for reason, count in counts.most_common():
        yield reason, count, first[reason]
