"""How the rows of a GGUF tensor come from those of a checkpoint's, as data: no tensor is read here.

A tensor's rows are all its indices but the last, flattened; a vector is rows of one column.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.artifact import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How a target's rows differ from its source's.

    `order` gives for each target row the source row it is; slabs hold whole groups of `group_rows`,
    and with groups larger than 1 rows never leave their group. `offset` is added in float32, to a
    source of F16 in F16. `transposed` says that the source stores the matrix the other way round.
    """

    order: npt.NDArray[np.intp] | None = None
    group_rows: int = 1
    offset: float = 0.0
    transposed: bool = False


def interleaved(target: str, shape: ModelShape) -> Change | None:
    """The order llama.cpp's rotary embedding wants in `attn_q` and `attn_k`, weight and bias.

    Pairs of a head's rows lie half a head apart in the source, side by side in a GGUF. None for
    other tensors.
    """
    name = target.rsplit(".", 2)[-2]
    heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads}.get(name)
    if heads is None:
        return None
    return Change(order=_pairs(heads, shape.head_dim), group_rows=shape.head_dim)


@functools.lru_cache(maxsize=8)
def _pairs(heads: int, head_dim: int) -> npt.NDArray[np.intp]:
    """The order of all layers, which share it: the rows of each head's pairs side by side."""
    rows = np.arange(heads * head_dim).reshape(heads, 2, head_dim // 2)
    order = rows.swapaxes(1, 2).ravel()
    order.flags.writeable = False
    return order
