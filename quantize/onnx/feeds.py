"""What a session is fed when only its graph is known: token ids, an empty cache, or random values.

Names and dims come from the inputs that the session itself states. It refuses to know what a model
is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.artifact import Artifact
from edge_runtime.errors import ArtifactError

Cache = tuple[int, int]
"""Heads of a KV cache and their width."""

_TYPES: dict[str, npt.DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def cache_of(model: Path) -> Cache | None:
    """What a language model's cache is like, None for others: a graph may leave its dims open."""
    try:
        shape = Artifact.open(model).shape
    except ArtifactError:
        return None
    return shape.kv_heads, shape.head_dim


def feeds(
    session: Any, ids: Sequence[int], cache: Cache | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Values for all inputs of a session: `ids` are new tokens, and nothing is in the cache.

    `cache` counts where the graph leaves the cache's dims open. Inputs that take no tokens get
    normally distributed values, integers zeros; a dim that varies is 1. Raises KeyError for an
    element type that is not known here.
    """
    return {
        i.name: _value(i.name, list(i.shape), _TYPES[i.type], ids, cache)
        for i in session.get_inputs()
    }


def _value(
    name: str,
    dims: list[Any],
    kind: npt.DTypeLike,
    ids: Sequence[int],
    cache: Cache | None,
) -> npt.NDArray[Any]:
    if name in ("input_ids", "decoder_input_ids"):
        return np.array([ids], kind)
    if name.endswith("attention_mask"):
        return np.ones((1, len(ids)), kind)
    if name == "position_ids":
        return np.arange(len(ids), dtype=kind)[None]
    if name.startswith(("past", "cache")) and len(dims) > 2:
        # A dim that varies is the batch where it comes first, and behind it the cache's length.
        varying = [1, *[0] * (len(dims) - 1)]
        if cache is not None and len(dims) == 4:
            varying = [1, cache[0], 0, cache[1]]
        sizes = [d if isinstance(d, int) else v for d, v in zip(dims, varying, strict=True)]
        return np.zeros(sizes, kind)
    sizes = [d if isinstance(d, int) else 1 for d in dims]
    if name == "token_type_ids":
        sizes = [1, len(ids)]
    if np.issubdtype(np.dtype(kind), np.floating):
        return np.random.default_rng(0).standard_normal(sizes).astype(kind)
    return np.zeros(sizes, kind)
