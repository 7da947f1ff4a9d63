"""Angles computed in the graph, where they depend on how long a text has become: `dynamic` scaling.

Past the context a model was trained on, the base of its rotary frequencies grows with every token;
keys that are in the cache stay turned as they were. The formula is that of transformers'
`modeling_rope_utils`. Knows no family and no checkpoint.
"""

from __future__ import annotations

import numpy as np

from edge_runtime.artifact import ModelShape

from ..writers.onnx import Element
from .graph import Graph


def stretched_angles(
    graph: Graph, shape: ModelShape, factor: float, positions: str, total_tokens: str
) -> tuple[str, str, str]:
    """Cosines and sines of the new tokens, one row each, and the row each token has.

    `positions` has the new tokens' places in the text, `total_tokens` how many there are in all.
    """
    add, number = graph.add, graph.constant32
    dimensions, context = shape.rope_dimensions, shape.context_tokens
    add("Max", (total_tokens, graph.numbers(context, scalar=True)), "stretch.tokens")
    tokens = add("Cast", ("stretch.tokens",), "stretch.length", to=int(Element.FLOAT))
    add("Mul", (tokens, number(factor / context)), "stretch.grown")
    add("Sub", ("stretch.grown", number(factor - 1)), "stretch.ratio")
    add("Pow", ("stretch.ratio", number(dimensions / (dimensions - 2))), "stretch.power")
    base = add("Mul", ("stretch.power", number(shape.rope_theta or 1e4)), "stretch.base")
    exponents = np.arange(0, dimensions, 2, dtype=np.float32) / np.float32(dimensions)
    add("Pow", (base, graph.vector32("stretch.exponents", exponents)), "stretch.periods")
    places = add("Reshape", (positions, graph.numbers(-1, 1)), "stretch.column")
    places = add("Cast", (places,), "stretch.places", to=int(Element.FLOAT))
    angles = add("Div", (places, "stretch.periods"), "stretch.angles")
    tables = []
    for op in ("Cos", "Sin"):
        table = add(op, (angles,), f"stretch.{op.lower()}")
        if graph.element is not Element.FLOAT:
            table = add("Cast", (table,), f"{table}.half", to=int(graph.element))
        tables.append(table)
    add("Shape", (positions,), "stretch.shape")
    add("Size", (positions,), "stretch.count")
    zero, one = graph.numbers(0, scalar=True), graph.numbers(1, scalar=True)
    add("Range", (zero, "stretch.count", one), "stretch.range")
    rows = add("Reshape", ("stretch.range", "stretch.shape"), "stretch.rows")
    return tables[0], tables[1], rows
