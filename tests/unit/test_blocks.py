"""Random blocks of every type decode to small numbers around zero, by an independent decoder."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.artifact import GGML_TYPES, LEVELS
from edge_runtime.errors import UnsupportedError
from quantize.blocks import SPREAD, Pool, random_blocks

gguf = pytest.importorskip("gguf")

MADE = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K",
        "Q5_K", "Q6_K", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M",
        "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "Q1_0", "Q2_0"]  # fmt: skip


def values(name: str, blocks: np.ndarray) -> np.ndarray:
    if name in ("Q1_0", "Q2_0"):  # newer than the reference library
        bits = int(name[1])
        scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = (blocks[:, 2:, None] >> shifts) % 2**bits
        steps = np.array([[-1, 1], [-1, 0, 1, 2]][bits - 1], np.float32)
        return scale * steps[codes].reshape(len(blocks), -1)
    return gguf.quants.dequantize(blocks.copy(), gguf.GGMLQuantizationType[name])


@pytest.mark.parametrize("name", MADE)
def test_values_have_the_spread_of_weights_and_no_drift(name: str) -> None:
    rng = np.random.default_rng(1)
    kind = GGML_TYPES[name]
    found = values(name, random_blocks(kind, 200_000 // kind.block_elements, rng))
    assert np.isfinite(found).all()
    assert found.std() == pytest.approx(SPREAD, rel=0.25)
    assert abs(found.mean()) < 0.02 * SPREAD
    assert np.abs(found).max() < 10 * SPREAD


def test_every_level_offered_has_its_type() -> None:
    assert {level.default.name for level in LEVELS.values()} <= set(MADE)


def test_other_types_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="I32"):
        random_blocks(GGML_TYPES["I32"], 1, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["Q4_K", "F32", "Q8_0"])
def test_tiling_starts_and_ends_with_whole_blocks(name: str) -> None:
    kind = GGML_TYPES[name]
    size = 3 * (5 << 20) // kind.block_bytes * kind.block_bytes  # larger than the pool
    first, second = (b"".join(Pool(5).slabs(kind, size, turn)) for turn in (1, 2))
    assert len(first) == len(second) == size
    assert first != second
    found = values(name, np.frombuffer(first, np.uint8).reshape(-1, kind.block_bytes))
    assert found.std() == pytest.approx(SPREAD, rel=0.25)


def test_bytes_depend_on_the_seed_alone() -> None:
    kind = GGML_TYPES["Q6_K"]
    once, again, other = Pool(1), Pool(1), Pool(2)
    list(again.slabs(GGML_TYPES["F32"], 4096, 0))  # what else was asked for changes nothing
    data = b"".join(once.slabs(kind, 21_000, 3))
    assert data == b"".join(again.slabs(kind, 21_000, 3))
    assert data != b"".join(other.slabs(kind, 21_000, 3))
