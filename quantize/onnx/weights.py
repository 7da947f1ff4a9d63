"""Weights on their way into an ONNX data file: which tensors they become, made in slabs of rows.

A matrix stays as the checkpoint has it, outputs as rows, so that nothing is ever transposed as a
whole. Knows how a level stores a matrix; knows no operator and no family.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import FormatError

from ..assembly import SLAB_ELEMENTS, Assembly
from ..writers.onnx import Element
from .blocks import BlockFormat
from .rope import RopeTable

Floats = npt.NDArray[np.float32]
Buffers = tuple[npt.NDArray[Any], ...]
"""What a slab adds to each of the tensors it belongs to, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor of the data file. With `alias_of` its bytes are those of another, shaped anew."""

    name: str
    element: Element
    dims: tuple[int, ...]
    alias_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """Tensors that are made together, and the functions that make their slabs, in order."""

    tensors: tuple[StoredTensor, ...]
    slabs: Callable[[], Iterable[Callable[[], Buffers]]]


class Rows(Protocol):
    """A matrix of a model, or a vector as rows of one column, read some rows at a time."""

    @property
    def rows(self) -> int:
        """How many rows there are."""

    @property
    def columns(self) -> int:
        """Elements of one row."""

    def floats(self, rows: range) -> Floats:
        """Some rows, shape (rows, columns)."""

    def blocks(self, kind: BlockFormat, rows: range) -> Buffers:
        """Some rows as blocks: what `kind.quantize` gives."""


class Weights(Protocol):
    """A model's tensors by their GGUF names."""

    def rows(self, *names: str, factor: float = 1.0) -> Rows:
        """The rows of tensors of one width, one after another, times a factor."""

    def __contains__(self, name: str) -> bool:
        """Whether the model has such a tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How matrices are stored: `blocks` says it of one by its name, None for floats."""

    element: Element
    blocks: Callable[[str], BlockFormat | None]
    accuracy_level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacked:
    """The rows of several tensors of a checkpoint, one after another, times a factor."""

    parts: tuple[Assembly, ...]
    factor: float = 1.0

    @property
    def rows(self) -> int:
        """The rows of all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def columns(self) -> int:
        """Elements of one row, the same in all parts."""
        return self.parts[0].columns

    def floats(self, rows: range) -> Floats:
        """Some rows. Raises FormatError for values that are no finite numbers."""
        found = []
        at = 0
        for part in self.parts:
            low, high = max(rows.start - at, 0), min(rows.stop - at, part.rows)
            if low < high:
                values = part.floats(range(low, high))
                if not np.isfinite([values.min(initial=0.0), values.max(initial=0.0)]).all():
                    raise FormatError(
                        f"The tensor {part.name} holds values that are no finite numbers.",
                        cause="The checkpoint is damaged or its training diverged.",
                    )
                found.append(values)
            at += part.rows
        whole = found[0] if len(found) == 1 else np.concatenate(found)
        return whole if self.factor == 1.0 else whole * np.float32(self.factor)

    def blocks(self, kind: BlockFormat, rows: range) -> Buffers:
        """Some rows as blocks. Raises as `floats` does."""
        return kind.quantize(self.floats(rows))


def float_tensor(name: str, source: Rows, element: Element, dims: tuple[int, ...]) -> StoredWeights:
    """Stores rows as floats, as a tensor of some dims."""
    return StoredWeights(
        tensors=(StoredTensor(name=name, element=element, dims=dims),),
        slabs=lambda: (
            functools.partial(_float_slab, name, source, element, rows) for rows in slabs_of(source)
        ),
    )


def block_tensors(name: str, source: Rows, blocks: BlockFormat) -> StoredWeights:
    """Stores rows as blocks of integers: `name` with its scales and, where it has some, zeros."""
    tensors = [
        StoredTensor(
            name=name, element=Element.UINT8, dims=blocks.data_dims(source.rows, source.columns)
        ),
        StoredTensor(
            name=f"{name}.scales",
            element=Element.FLOAT,
            dims=(source.rows, blocks.count(source.columns)),
        ),
    ]
    if not blocks.symmetric:
        tensors.append(
            StoredTensor(
                name=f"{name}.zeros",
                element=Element.UINT8,
                dims=(source.rows, blocks.zero_bytes(source.columns)),
            )
        )
    return StoredWeights(
        tensors=tuple(tensors),
        slabs=lambda: (functools.partial(source.blocks, blocks, rows) for rows in slabs_of(source)),
    )


def rope_tensors(
    names: tuple[str, str], tables: Sequence[RopeTable], element: Element
) -> StoredWeights:
    """Stores cosines and sines, those of several tables one after another."""
    count = sum(table.rows for table in tables)
    return StoredWeights(
        tensors=tuple(
            StoredTensor(name=name, element=element, dims=(count, tables[0].columns))
            for name in names
        ),
        slabs=lambda: (
            functools.partial(_rope_slab, table, rows, element)
            for table in tables
            for rows in pieces(table.rows, table.columns)
        ),
    )


def slabs_of(source: Rows) -> Iterator[range]:
    """Rows in pieces of a bounded size."""
    return pieces(source.rows, source.columns)


def pieces(rows: int, columns: int) -> Iterator[range]:
    """`rows` in pieces of about SLAB_ELEMENTS elements."""
    step = max(1, SLAB_ELEMENTS // max(columns, 1))
    return (range(first, min(first + step, rows)) for first in range(0, rows, step))


def _float_slab(name: str, source: Rows, element: Element, rows: range) -> Buffers:
    return (as_element(name, source.floats(rows), element),)


def _rope_slab(table: RopeTable, rows: range, element: Element) -> Buffers:
    return tuple(as_element(table.name, t, element) for t in table.cosines_and_sines(rows))


def as_element(name: str, values: Floats, element: Element) -> npt.NDArray[Any]:
    """Floats as a type of the file. Raises FormatError when half precision cannot hold them."""
    if element is Element.FLOAT:
        return np.ascontiguousarray(values, "<f4")
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if not np.isfinite(halves).all():
        raise FormatError(
            f"The tensor {name} holds {float(np.abs(values).max()):.4g}, too large for fp16.",
            way_out="Convert at fp32, int8 or int4.",
        )
    return np.ascontiguousarray(halves)
