"""Tables of rotary positions for a graph: cosines and sines of every position, row by row.

Frequencies follow transformers' `modeling_rope_utils` step by step in float32, so that logits
agree to the last digits. Knows no operator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.artifact import ModelShape, RopeScaling

from .details import YarnOptions

_LEAST_ROWS = 2**9
"""A text may outgrow a short context, as it may in transformers: the operators need the rows."""
_MOST_ROWS = 2**20
"""Far beyond every model's context; a table that long still fits in memory."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeTable:
    """The angles of positions 0 to `rows` - 1: position times frequency, and what scales both."""

    name: str
    rows: int
    frequencies: Floats
    attention_factor: float = 1.0

    @property
    def columns(self) -> int:
        """Angles of one position."""
        return len(self.frequencies)

    def cosines_and_sines(self, positions: range) -> tuple[Floats, Floats]:
        """Some positions' rows of both tables, shape (positions, columns)."""
        at = np.arange(positions.start, positions.stop, dtype=np.float32)[:, None]
        angles = at * self.frequencies
        factor = np.float32(self.attention_factor)
        return np.cos(angles) * factor, np.sin(angles) * factor


def rope_tables(shape: ModelShape, yarn: YarnOptions) -> tuple[RopeTable, ...]:
    """The tables a model needs: one; for longrope that of short contexts and then that of long
    ones; with windowed layers that turn otherwise a last one for them.

    None for a model that does not rotate.
    """
    if not shape.rope_dimensions or shape.rope_theta is None:
        return ()
    scaling = shape.rope_scaling
    plain = _plain(shape.rope_theta, shape.rope_dimensions)
    if scaling is not None and scaling.kind == "longrope":
        original = shape.original_context_tokens or shape.context_tokens
        factor = scaling.attention_factor or 1.0
        rows = {"short": min(original, shape.context_tokens), "long": shape.context_tokens}
        ones = (1.0,) * len(plain)
        return tuple(
            RopeTable(
                name=name,
                rows=rows[name],
                frequencies=_stretched(shape.rope_theta, shape.rope_dimensions, factors or ones),
                attention_factor=factor,
            )
            for name, factors in (("short", scaling.short_factors), ("long", scaling.long_factors))
        )
    frequencies, factor = _scaled(plain, shape, yarn)
    tables = [
        RopeTable(
            name="all",
            rows=_reach(shape, scaling),
            frequencies=frequencies,
            attention_factor=factor,
        )
    ]
    if shape.rope_theta_sliding is not None and any(shape.sliding_layers):
        local = _plain(shape.rope_theta_sliding, shape.rope_dimensions)
        if not np.array_equal(local, frequencies) or factor != 1.0:
            tables.append(RopeTable(name="window", rows=tables[0].rows, frequencies=local))
    return tuple(tables)


def _reach(shape: ModelShape, scaling: RopeScaling | None) -> int:
    """Positions that a model turns: some configs state the context from before it was stretched."""
    least = max(shape.context_tokens, _LEAST_ROWS)
    if scaling is None or scaling.factor is None or scaling.kind not in ("linear", "yarn"):
        return least
    before = shape.original_context_tokens or shape.context_tokens
    return min(max(least, int(before * scaling.factor)), max(shape.context_tokens, _MOST_ROWS))


def _powers(theta: float, dimensions: int) -> Floats:
    exponents = np.arange(0, dimensions, 2, dtype=np.float32) / np.float32(dimensions)
    powers: Floats = np.power(np.float32(theta), exponents)
    return powers


def _plain(theta: float, dimensions: int) -> Floats:
    return np.float32(1.0) / _powers(theta, dimensions)


def _stretched(theta: float, dimensions: int, factors: tuple[float, ...]) -> Floats:
    return np.float32(1.0) / (np.array(factors, np.float32) * _powers(theta, dimensions))


def _scaled(plain: Floats, shape: ModelShape, yarn: YarnOptions) -> tuple[Floats, float]:
    """Frequencies and what cosines and sines are multiplied by."""
    scaling = shape.rope_scaling
    if scaling is None:
        return plain, 1.0
    if scaling.kind == "linear":
        return np.divide(plain, np.float32(scaling.factor or 1.0), dtype=np.float32), 1.0
    if scaling.kind == "llama3" and scaling.factors:
        return np.divide(plain, np.array(scaling.factors, np.float32), dtype=np.float32), 1.0
    if scaling.kind == "yarn":
        return _yarn(plain, shape, scaling, yarn)
    return plain, 1.0


def _yarn(
    plain: Floats, shape: ModelShape, scaling: RopeScaling, options: YarnOptions
) -> tuple[Floats, float]:
    """Slow frequencies are divided by the factor, fast ones are not, those between in part."""
    factor = scaling.factor or 1.0
    attention = scaling.attention_factor or options.attention_factor
    if attention is None:
        attention = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    dimensions, theta = shape.rope_dimensions, float(shape.rope_theta or 1e4)
    original = shape.original_context_tokens or shape.context_tokens

    def dimension_of(turns: float) -> float:
        return dimensions * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension_of(scaling.beta_fast or 32.0), dimension_of(scaling.beta_slow or 1.0)
    if options.truncates:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dimensions - 1)
    span = np.float32(high - low if high != low else 0.001)
    ramp = np.clip((np.arange(dimensions // 2, dtype=np.float32) - low) / span, 0, 1)
    ramp = ramp.astype(np.float32)
    slowed: Floats = np.float32(1.0) / (np.float32(factor) * (np.float32(1.0) / plain))
    mixed: Floats = slowed * ramp + plain * (np.float32(1.0) - ramp)
    return mixed, attention
