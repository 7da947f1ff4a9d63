"""Experts that a router chooses from, in ONNX Runtime's operators: MoE for floats, QMoE for blocks.

Their processor kernels take a gate and what it opens row by row in turn, all experts' matrices in
one tensor, and in QMoE one block size that divides the rows of all. Knows no family and no level.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.artifact import ModelShape

from ..writers.onnx import Attribute, Element
from .blocks import BlockFormat
from .graph import FUSED, Graph
from .weights import (
    Buffers,
    Floats,
    Rows,
    Storage,
    StoredTensor,
    StoredWeights,
    Weights,
    block_tensors,
    float_tensor,
)

_LEAST_BLOCK = 16
"""The smallest block QMoE takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InTurn:
    """The rows of two matrices in turn: the first's first, the second's first, and so on."""

    first: Rows
    second: Rows

    @property
    def rows(self) -> int:
        """The rows of both."""
        return self.first.rows + self.second.rows

    @property
    def columns(self) -> int:
        """Elements of one row, the same in both."""
        return self.first.columns

    def floats(self, rows: range) -> Floats:
        """Some rows. Raises what the matrices raise."""
        both = _pairs_of(rows)
        floats: Floats = _in_turn(self.first.floats(both), self.second.floats(both), rows)
        return floats

    def blocks(self, kind: BlockFormat, rows: range) -> Buffers:
        """Some rows as blocks. Raises what the matrices raise."""
        both = _pairs_of(rows)
        parts = zip(self.first.blocks(kind, both), self.second.blocks(kind, both), strict=True)
        return tuple(_in_turn(first, second, rows) for first, second in parts)


def mixture(
    graph: Graph,
    x: str,
    at: str,
    shape: ModelShape,
    weights: Weights,
    storage: Storage,
    *,
    normalized: bool,
) -> str:
    """What the experts of layer `at` that score highest make of x, added up by their shares.

    The shares are made to add up to 1 when `normalized`. QMoE's processor kernel does so whatever
    it is told, and MoE's computes something else when told not to while its output takes its
    input's place; so both do, and what they find is multiplied by the sum of the true shares.
    """
    router, gate, up, down = (
        weights.rows(f"{at}.{part}.weight")
        for part in ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
    )
    scores = graph.product(x, f"{at}.ffn_gate_inp", router, None)
    flat = graph.add("Reshape", (scores, graph.numbers(-1, shape.experts)), f"{at}.ffn.scores")
    sources = {
        f"{at}.ffn_gate_up_exps.weight": InTurn(first=gate, second=up),
        f"{at}.ffn_down_exps.weight": down,
    }
    attributes: dict[str, Attribute] = {
        "k": shape.experts_used,
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "activation_alpha": 1.0,
        "activation_beta": 0.0,
        "normalize_routing_weights": 1,
    }
    wished = storage.blocks(f"{at}.ffn_gate_exps.weight")
    blocks = fitting_blocks(wished, *(source.columns for source in sources.values()))
    if blocks is None:
        wide, narrow = (
            graph.store(float_tensor(name, rows, graph.element, dims_of(rows, shape.experts)))
            for name, rows in sources.items()
        )
        y = graph.add("MoE", (x, flat, wide, "", narrow), f"{at}.ffn.mixed", FUSED, **attributes)
        return y if normalized else _shared_out(graph, y, at, scores, shape.experts_used)
    stored = [
        stacked(block_tensors(name, rows, blocks), shape.experts) for name, rows in sources.items()
    ]
    for each in stored:
        graph.store(each)
    (wide, wide_scales, *wide_zeros), (narrow, narrow_scales, *narrow_zeros) = (
        [tensor.name for tensor in each.tensors] for each in stored
    )
    inputs = [x, flat, wide, wide_scales, "", narrow, narrow_scales]
    if wide_zeros:
        inputs += ["", "", "", "", *wide_zeros, *narrow_zeros]
    attributes |= {
        "expert_weight_bits": blocks.bits,
        "block_size": blocks.block_size,
        "accuracy_level": storage.accuracy_level,
    }
    y = graph.add("QMoE", inputs, f"{at}.ffn.mixed", FUSED, **attributes)
    return y if normalized else _shared_out(graph, y, at, scores, shape.experts_used)


def _shared_out(graph: Graph, y: str, at: str, scores: str, used: int) -> str:
    """Multiplies by the part of all shares that the `used` highest have."""
    name, whole = f"{at}.ffn.shares", graph.element is Element.FLOAT
    if not whole:  # there is no kernel that sorts halves
        scores = graph.add("Cast", (scores,), f"{name}.scores", to=int(Element.FLOAT))
    graph.add("Softmax", (scores,), f"{name}.all", axis=-1)
    graph.add("TopK", (f"{name}.all", graph.numbers(used)), (f"{name}.highest", f"{name}.which"))
    part = graph.add("ReduceSum", (f"{name}.highest", graph.numbers(-1)), f"{name}.part")
    if not whole:
        part = graph.add("Cast", (part,), f"{name}.half", to=int(graph.element))
    return graph.add("Mul", (y, part), f"{at}.ffn.shared_out")


def fitting_blocks(blocks: BlockFormat | None, *widths: int) -> BlockFormat | None:
    """The format with the largest block not above its own that divides all widths; None: none."""
    if blocks is None:
        return None
    size = blocks.block_size
    while any(width % size for width in widths):
        size //= 2
    return dataclasses.replace(blocks, block_size=size) if size >= _LEAST_BLOCK else None


def dims_of(source: Rows, experts: int) -> tuple[int, int, int]:
    """Experts, rows of one, elements of a row."""
    return experts, source.rows // experts, source.columns


def stacked(weights: StoredWeights, experts: int) -> StoredWeights:
    """Blocks of all experts' rows with dims that count the experts first."""

    def dims(tensor: StoredTensor) -> tuple[int, ...]:
        rows, *rest = tensor.dims
        return experts, rows // experts, int(np.prod(rest))

    return dataclasses.replace(
        weights,
        tensors=tuple(dataclasses.replace(tensor, dims=dims(tensor)) for tensor in weights.tensors),
    )


def _pairs_of(rows: range) -> range:
    """Which rows of each of two matrices are among those of both in turn."""
    return range(rows.start // 2, -(-rows.stop // 2))


def _in_turn(first: npt.NDArray[Any], second: npt.NDArray[Any], rows: range) -> npt.NDArray[Any]:
    both = np.stack([first, second], axis=1).reshape(-1, *first.shape[1:])
    start = rows.start % 2
    return np.ascontiguousarray(both[start : start + len(rows)])
