"""Tensors put together in slabs hold what numpy makes of the whole ones: bit for bit."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.artifact import TensorShape
from edge_runtime.errors import FormatError, UnsupportedError
from quantize import assembly
from quantize.matching import Assigned
from quantize.rows import Change
from quantize.safetensors import SourceTensor

TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8", "I32": "<i4"}


def stored(path: Path, values: np.ndarray, dtype: str = "F32", name: str = "s") -> SourceTensor:
    """A source tensor whose bytes begin somewhere inside a file."""
    if dtype == "BF16":
        values = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    file = path / f"{name}.bin"
    file.write_bytes(struct.pack("<Q", 0) + values.astype(TYPES[dtype]).tobytes())
    return SourceTensor(
        name=name, dtype=dtype, dims=values.shape, path=file, offset_bytes=8, size_bytes=0
    )


def assembled(
    dims: tuple[int, ...],
    parts: list[Assigned],
    change: Change | None = None,
    type_name: str = "F32",
    name: str = "blk.0.t.weight",
) -> np.ndarray:
    """The target as float32 (or raw bytes of its type), in numpy's order of dims."""
    whole = assembly.assemble(TensorShape(name=name, dims=dims), tuple(parts), change)
    data = b"".join(whole.encoded(rows, type_name).tobytes() for rows in whole.slabs)
    if type_name != "F32":
        return np.frombuffer(data, np.uint8)
    return np.frombuffer(data, "<f4").reshape(dims[::-1])


@pytest.fixture(params=[3, 16, 1 << 20])
def slabs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(assembly, "SLAB_ELEMENTS", request.param)
    return request.param


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_a_plain_matrix_is_itself(tmp_path: Path, slabs: int, dtype: str) -> None:
    wanted = random(7, 5).astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        wanted = (wanted.view(np.uint32) & 0xFFFF0000).view(np.float32)
    found = assembled((5, 7), [Assigned(source=stored(tmp_path, wanted, dtype))])
    assert (found == wanted).all()


def test_a_vector_stays_a_vector(tmp_path: Path, slabs: int) -> None:
    wanted = random(11)
    assert (assembled((11,), [Assigned(source=stored(tmp_path, wanted))]) == wanted).all()


@pytest.mark.parametrize("shape", [(1, 11), (11, 1), (1, 11, 1)])
def test_dimensions_of_one_count_nothing(
    tmp_path: Path, slabs: int, shape: tuple[int, ...]
) -> None:
    wanted = random(11)
    source = stored(tmp_path, wanted.reshape(shape))
    assert (assembled((11,), [Assigned(source=source)]) == wanted).all()
    assert (assembled((11, 1), [Assigned(source=source)]) == wanted).all()


def test_experts_are_stacked_by_their_numbers(tmp_path: Path, slabs: int) -> None:
    wanted = random(12, 3, 4)
    parts = [
        Assigned(source=stored(tmp_path, wanted[i], name=f"e{i}"), expert=i) for i in range(12)
    ]
    assert (assembled((4, 3, 12), parts) == wanted).all()


def test_vectors_are_stacked_into_rows(tmp_path: Path, slabs: int) -> None:
    wanted = random(6, 4)
    parts = [Assigned(source=stored(tmp_path, wanted[i], name=f"h{i}"), expert=i) for i in range(6)]
    assert (assembled((4, 6), parts) == wanted).all()


def test_parts_of_several_dtypes_meet_in_float32(tmp_path: Path, slabs: int) -> None:
    wanted = np.round(random(3, 2, 4) * 4)
    parts = [
        Assigned(source=stored(tmp_path, wanted[i], dtype, name=f"e{i}"), expert=i)
        for i, dtype in enumerate(("F16", "F32", "BF16"))
    ]
    assert (assembled((4, 2, 3), parts) == wanted).all()


def test_a_fused_source_is_shared_out(tmp_path: Path, slabs: int) -> None:
    fused = random(3, 2 * 5, 4)
    source = stored(tmp_path, fused)
    gate, up = (
        assembled((4, 5, 3), [Assigned(source=source, share=i, shares=2)]) for i in range(2)
    )
    assert (gate == fused[:, :5]).all()
    assert (up == fused[:, 5:]).all()


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_a_transposed_matrix_is_turned(tmp_path: Path, slabs: int, dtype: str) -> None:
    wanted = np.round(random(6, 9) * 8)
    source = stored(tmp_path, np.ascontiguousarray(wanted.T), dtype)
    found = assembled((9, 6), [Assigned(source=source)], Change(transposed=True))
    assert (found == wanted).all()


@given(order=st.permutations(range(12)), columns=st.integers(1, 5), slab=st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_any_order_of_rows(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], columns: int, slab: int
) -> None:
    values = random(12, columns)
    source = stored(tmp_path_factory.mktemp("order"), values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "SLAB_ELEMENTS", slab)
        found = assembled(
            (columns, 12), [Assigned(source=source)], Change(order=np.array(order, np.intp))
        )
    assert (found == values[order]).all()


def test_an_order_within_groups_and_an_offset(tmp_path: Path, slabs: int) -> None:
    values = random(12, 3)
    order = np.arange(12).reshape(3, 2, 2).swapaxes(1, 2).ravel()
    change = Change(order=order, group_rows=4, offset=1.0)
    found = assembled((3, 12), [Assigned(source=stored(tmp_path, values))], change)
    assert (found == values[order] + np.float32(1)).all()
    # llama.cpp's converter widens bfloat16 before it adds, and half precision only afterwards.
    halves = values.astype(np.float16)
    found = assembled((3, 12), [Assigned(source=stored(tmp_path, values, "F16"))], change)
    assert (found == (halves[order] + np.float16(1)).astype(np.float32)).all()
    cut = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    found = assembled((3, 12), [Assigned(source=stored(tmp_path, values, "BF16"))], change)
    assert (found == cut[order] + np.float32(1)).all()
    bias = assembled((12,), [Assigned(source=stored(tmp_path, values[:, 0]))], change)
    assert (bias == values[order, 0] + np.float32(1)).all()


def test_halves_are_copied_bit_for_bit(tmp_path: Path, slabs: int) -> None:
    values = random(8, 4).astype(np.float16)
    source = stored(tmp_path, values, "F16")
    order = np.arange(8)[::-1].copy()
    found = assembled((4, 8), [Assigned(source=source)], Change(order=order), "F16")
    assert found.tobytes() == values[order].tobytes()


def test_rows_no_token_has_are_left_out_of_the_embedding_only(tmp_path: Path) -> None:
    values = random(9, 4)
    source = stored(tmp_path, values)
    found = assembled((4, 7), [Assigned(source=source)], name="token_embd.weight")
    assert (found == values[:7]).all()
    with pytest.raises(FormatError, match=r"shape \[9, 4\].*should be \[7, 4\]"):
        assembled((4, 7), [Assigned(source=source)])
    with pytest.raises(FormatError, match="shape"):
        assembled((4, 10), [Assigned(source=source)], name="token_embd.weight")
    with pytest.raises(FormatError, match="shape"):
        assembled((9, 4), [Assigned(source=source)], name="token_embd.weight")


@pytest.mark.parametrize(
    ("shape", "dims", "kind"),
    [
        ((4, 6), (4, 6), {}),  # the other way round
        ((2, 12), (6, 4), {}),  # as many elements
        ((6, 4), (4, 6), {"transposed": True}),
        ((3, 6, 4), (4, 6, 3), {"transposed": True}),
        ((6,), (3, 2), {}),
    ],
)
def test_another_shape_than_the_config_implies_is_refused(
    tmp_path: Path, shape: tuple[int, ...], dims: tuple[int, ...], kind: dict
) -> None:
    with pytest.raises(FormatError, match=r"config\.json says it should be"):
        assembled(dims, [Assigned(source=stored(tmp_path, random(*shape)))], Change(**kind))


def test_too_few_experts_and_an_odd_share_are_refused(tmp_path: Path) -> None:
    source = stored(tmp_path, random(3, 4))
    with pytest.raises(FormatError, match=r"has 1 tensors like s.*there are 2"):
        assembled((4, 3, 2), [Assigned(source=source, expert=0)])
    with pytest.raises(FormatError, match=r"should be \[4, 4\]"):
        assembled((4, 2), [Assigned(source=source, share=0, shares=2)])
    with pytest.raises(FormatError, match="cannot be put in order"):
        assembled((4, 3), [Assigned(source=source)], Change(order=np.arange(4)))


def test_integers_and_eight_bit_floats_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    source = stored(tmp_path, np.zeros((3, 4)), "I32")
    with pytest.raises(UnsupportedError, match="s is stored as I32"):
        assembled((4, 3), [Assigned(source=source)])


def test_values_that_do_not_fit_are_named_by_their_source(tmp_path: Path) -> None:
    source = stored(tmp_path, np.array([[1.0, 1e6]]), name="model.layers.3.mlp.up_proj.weight")
    with pytest.raises(FormatError, match=r"layers\.3\.mlp\.up_proj.*1e\+06, too large for F16"):
        assembled((2, 1), [Assigned(source=source)], type_name="F16")


def test_slabs_hold_whole_groups_and_stay_small() -> None:
    change = SimpleNamespace(group_rows=64)
    whole = assembly.Assembly(name="t", spans=(), rows=64 * 100, columns=8192, change=change)
    sizes = {len(rows) for rows in whole.slabs}
    assert all(size % 64 == 0 and size * 8192 <= assembly.SLAB_ELEMENTS for size in sizes)
    assert sum(len(rows) for rows in whole.slabs) == 6400
