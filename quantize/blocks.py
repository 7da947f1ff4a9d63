"""Random tensor bytes of every type: valid blocks whose values look like trained weights in size.

Values have mean 0 and a standard deviation of `SPREAD`, so that activations stay in the range a
trained model's have: no overflow, no denormals, no expert chosen always. Knows where a block keeps
its scales (ggml's `ggml-common.h`); refuses to know models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from edge_runtime.artifact import GGMLType
from edge_runtime.errors import UnsupportedError

SPREAD = 0.02
"""Standard deviation of the values: what most models are initialized with, and end near."""

POOL_BYTES = 4 * 1024**2
"""Random bytes made per type; tensors are tiled from them, so writing is as fast as the disk."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scales:
    """Where a block's half-precision scale lies, and its offset ("min") where it has one.

    `spread` is the standard deviation of values with scale 1 and random codes; `center` their mean
    before the offset, which the offset takes away (`sign` is how the format applies it).
    """

    at: int
    spread: float
    min_at: int | None = None
    center: float = 0.0
    sign: int = 1


# Spreads were measured by dequantizing random blocks of scale 1; a test measures them again.
_SCALES = MappingProxyType(
    {
        "Q1_0": _Scales(at=0, spread=1.0),
        "Q2_0": _Scales(at=0, spread=1.22),
        "Q8_0": _Scales(at=0, spread=73.9),
        "Q4_0": _Scales(at=0, spread=4.61),
        "Q4_1": _Scales(at=0, spread=4.61, min_at=2, center=7.5, sign=-1),
        "Q5_0": _Scales(at=0, spread=9.23),
        "Q5_1": _Scales(at=0, spread=9.23, min_at=2, center=15.5, sign=-1),
        "Q2_K": _Scales(at=80, spread=13.9, min_at=82, center=1.5),
        "Q3_K": _Scales(at=108, spread=43.3),
        "Q4_K": _Scales(at=0, spread=259.0, min_at=2, center=7.5),
        "Q5_K": _Scales(at=0, spread=524.0, min_at=2, center=15.5),
        "Q6_K": _Scales(at=208, spread=1364.0),
        "IQ2_XXS": _Scales(at=0, spread=53.3),
        "IQ2_XS": _Scales(at=0, spread=55.7),
        "IQ2_S": _Scales(at=0, spread=56.4),
        "IQ3_XXS": _Scales(at=0, spread=143.0),
        "IQ3_S": _Scales(at=0, spread=140.0),
        "IQ1_S": _Scales(at=0, spread=7.23),
        "IQ4_NL": _Scales(at=0, spread=67.2),
        "IQ4_XS": _Scales(at=0, spread=1243.0),
        "TQ1_0": _Scales(at=52, spread=0.82),
        "TQ2_0": _Scales(at=64, spread=0.82),
    }
)
_IQ1_M_SPREAD = 7.19
_MXFP4_EXPONENT = 120  # 2^(120 - 127) times a spread of 2.92 is 0.023


def random_blocks(kind: GGMLType, count: int, rng: np.random.Generator) -> Bytes:
    """Returns `count` valid random blocks of a type, uint8 of shape (count, block_bytes).

    Raises UnsupportedError for types that no level offered here uses.
    """
    if kind.name in ("F32", "F16", "BF16"):
        return _floats(kind.name, count, rng)
    blocks = np.frombuffer(rng.bytes(count * kind.block_bytes), np.uint8)
    blocks = blocks.reshape(count, kind.block_bytes).copy()
    # Codes of some types are not centered on 0 (Q4_0 runs from -8 to 7). Left so, every product
    # would add a little of the same direction until all tokens look alike: signs undo that.
    signs = rng.choice(np.array([-1.0, 1.0], np.float32), count)
    if kind.name == "MXFP4":
        blocks[:, 0] = _MXFP4_EXPONENT
    elif kind.name == "IQ1_M":
        _spread_over_nibbles(blocks, signs * np.float32(SPREAD / _IQ1_M_SPREAD))
    elif kind.name in _SCALES:
        where = _SCALES[kind.name]
        if kind.name == "TQ2_0":  # two-bit codes of which the fourth stands for nothing
            blocks[:, : where.at] = _ternary_bytes()[blocks[:, : where.at] % 81]
        scale = signs * np.float32(SPREAD / where.spread)
        blocks[:, where.at : where.at + 2] = _halves(scale)
        if where.min_at is not None:
            offset = scale * np.float32(where.sign * where.center)
            blocks[:, where.min_at : where.min_at + 2] = _halves(offset)
    else:
        raise UnsupportedError(f"No random {kind.name} tensors are made here.")
    return blocks


class Pool:
    """Random blocks of each type asked for, made once and tiled into tensors of any size."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._blocks: dict[str, memoryview] = {}

    def slabs(self, kind: GGMLType, size_bytes: int, turn: int) -> Iterator[memoryview]:
        """Yields `size_bytes` of valid blocks; tensors of different `turn` start elsewhere."""
        if kind.name not in self._blocks:
            # The type's own stream of numbers: a tensor's bytes do not depend on the others'.
            rng = np.random.default_rng((self._seed, kind.id))
            made = random_blocks(kind, POOL_BYTES // kind.block_bytes, rng)
            self._blocks[kind.name] = memoryview(made.tobytes())
        pool = self._blocks[kind.name]
        blocks = len(pool) // kind.block_bytes
        start = turn * 7919 % blocks * kind.block_bytes
        while size_bytes > 0:
            piece = pool[start : start + size_bytes]
            yield piece
            size_bytes -= len(piece)
            start = 0


def _floats(name: str, count: int, rng: np.random.Generator) -> Bytes:
    values = rng.standard_normal(count, np.float32) * np.float32(SPREAD)
    if name == "F16":
        return values.astype(np.float16).view(np.uint8).reshape(count, 2)
    if name == "BF16":
        halves = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return halves.view(np.uint8).reshape(count, 2)
    return values.view(np.uint8).reshape(count, 4)


def _halves(values: npt.NDArray[np.float32]) -> Bytes:
    return values.astype(np.float16).view(np.uint8).reshape(-1, 2)


def _spread_over_nibbles(blocks: Bytes, scale: npt.NDArray[np.float32]) -> None:
    """Puts IQ1_M's scale where it belongs: the top nibbles of the block's last four words."""
    words = blocks[:, 48:56].copy().view(np.uint16)
    halves = scale.astype(np.float16).view(np.uint16)
    for i in range(4):
        nibble = (halves >> np.uint16(4 * i)) & np.uint16(0xF)
        words[:, i] = (words[:, i] & np.uint16(0x0FFF)) | (nibble << np.uint16(12))
    blocks[:, 48:56] = words.view(np.uint8)


def _ternary_bytes() -> Bytes:
    digits = np.arange(81)[:, None] // np.array([1, 3, 9, 27]) % 3
    codes: Bytes = (digits << np.array([0, 2, 4, 6])).sum(axis=1).astype(np.uint8)
    return codes
