"""A shape becomes an ONNX folder: the true graph, sizes and types, with random weights.

As for GGUF: how fast a dense model runs does not depend on its weights' values. Such a model says
of itself that it is synthetic; it has no tokenizer, since nothing it could write would mean
anything.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.artifact import LAYERS_OF_MODEL_KEY, SYNTHETIC_KEY, Artifact, ModelShape
from edge_runtime.artifact.shape import TensorShape

from ..assembly import SLAB_ELEMENTS
from ..blocks import SPREAD
from ..conversion import THREADS
from ..writers.onnx_folder import Plan, Progress, placed_tensors, write_folder
from .blocks import BlockFormat
from .config import config_of
from .conversion import plan_of
from .details import details_of_shape
from .levels import OnnxLevel, onnx_level
from .settings import genai_config
from .weights import Buffers, Floats, Rows

_BANK_ROWS = 1021
_STRIDE = 7919
"""Rows of blocks there are of each length, and how far apart two tensors begin in them: primes, so
that as many tensors differ as there are rows."""


def synthesize_onnx(
    shape: ModelShape,
    level: str | OnnxLevel,
    out: Path,
    *,
    layers: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Writes an ONNX folder of exactly this shape at a level, with random weights, and opens it.

    Graph, names and types are those of the really converted model; with `layers` only so many
    layers. The same arguments give the same bytes. Raises UnsupportedError for an unknown level or
    a family whose graph is not known, UsageError for an impossible depth or a folder that is there
    unless `overwrite`, and DiskError when it cannot be written.
    """
    plan, files = _plan(shape, level, layers, seed)
    write_folder(
        Path(out),
        plan,
        files,
        threads=THREADS,
        overwrite=overwrite,
        check=Artifact.open,
        progress=progress,
    )
    return Artifact.open(Path(out))


def synthetic_onnx_bytes(
    shape: ModelShape, level: str | OnnxLevel, layers: int | None = None
) -> int:
    """Returns the size of the data file `synthesize_onnx` would write: nearly the folder's."""
    plan, _ = _plan(shape, level, layers, 0)
    return placed_tensors(plan.weights)[1]


def _plan(
    shape: ModelShape, level: str | OnnxLevel, layers: int | None, seed: int
) -> tuple[Plan, dict[str, bytes]]:
    chosen = level if isinstance(level, OnnxLevel) else onnx_level(level)
    cut = shape if layers is None else shape.truncated(layers)
    said = {
        SYNTHETIC_KEY: "true",
        LAYERS_OF_MODEL_KEY: str(shape.layers_of_model),
    }
    weights = _Weights(
        tensors={tensor.name: tensor for tensor in cut.tensors},
        turns={tensor.name: turn for turn, tensor in enumerate(cut.tensors)},
        pool=_Pool(seed),
    )
    plan = plan_of(cut, details_of_shape(cut), weights, chosen, said)
    config = config_of(cut)
    return plan, {
        "config.json": json.dumps(config, indent=2).encode() + b"\n",
        "genai_config.json": genai_config(cut, config, {}),
    }


class _Pool:
    """Random values made once and tiled into matrices of any size; their blocks are made once.

    No two tensors get the same bytes in the same order: ONNX Runtime keeps matrices that are alike
    only once when it rearranges them, and a model that repeats itself would look smaller than any
    real one.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._values = rng.standard_normal(2 * SLAB_ELEMENTS, np.float32) * np.float32(SPREAD)
        self._blocks: dict[tuple[BlockFormat, int], Buffers] = {}
        self._lock = threading.Lock()

    def floats(self, rows: int, columns: int, turn: int) -> Floats:
        """Random rows; another `turn` gives others."""
        start = turn * _STRIDE % SLAB_ELEMENTS
        return np.resize(self._values[start:], (rows, columns))

    def blocks(self, kind: BlockFormat, rows: int, columns: int, turn: int) -> Buffers:
        """Random rows as blocks; another `turn` gives others."""
        key = (kind, columns)
        with self._lock:  # slabs are made on several threads, and all begin alike
            if key not in self._blocks:
                self._blocks[key] = kind.quantize(self.floats(_BANK_ROWS, columns, 0))
        chosen = (np.arange(rows) + turn * _STRIDE) % _BANK_ROWS
        return tuple(part[chosen] for part in self._blocks[key])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Random:
    """Random rows of the dims a model's tensors have; gains are 1, biases 0.

    `turn` is the tensor's own number.
    """

    name: str
    turn: int
    rows: int
    columns: int
    pool: _Pool

    def floats(self, rows: range) -> Floats:
        if self.columns == 1:
            gain = float("norm" in self.name and self.name.endswith(".weight"))
            return np.full((len(rows), 1), gain, np.float32)
        return self.pool.floats(len(rows), self.columns, self.turn + rows.start)

    def blocks(self, kind: BlockFormat, rows: range) -> Buffers:
        return self.pool.blocks(kind, len(rows), self.columns, self.turn + rows.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """Stand-ins for a model's tensors, and the order they have."""

    tensors: Mapping[str, TensorShape]
    turns: Mapping[str, int]
    pool: _Pool

    def rows(self, *names: str, factor: float = 1.0) -> Rows:
        """Random rows; the factor, which changes no size, is left out."""
        found = [self.tensors[name] for name in names]
        columns = found[0].dims[0] if len(found[0].dims) > 1 else 1
        return _Random(
            name=names[0],
            turn=self.turns[names[0]],
            rows=sum(tensor.elements for tensor in found) // columns,
            columns=columns,
            pool=self.pool,
        )

    def __contains__(self, name: str) -> bool:
        return name in self.tensors
