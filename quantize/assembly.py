"""A GGUF tensor put together from a checkpoint's: where each of its rows lies, and reading them.

Sources are concatenated, rows reordered, matrices transposed as a family's `Change` says. Knows
dims and rows; knows no family and no tensor type.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.artifact import TensorShape
from edge_runtime.errors import FormatError

from .encoding import Encoded, Floats, encode, transcode, widen
from .matching import Assigned
from .rows import Change
from .safetensors import Raw, SourceTensor, shown

SLAB_ELEMENTS = 1 << 20
"""Elements read at once: large enough that reading is sequential, small enough to stay in cache."""

UNCHANGED = Change()
_TABLES = ("token_embd.weight",)
"""Tables whose last rows may belong to no token: a shape that counts fewer takes the first ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Some consecutive rows of a source tensor, of its columns when it is `transposed`."""

    source: SourceTensor
    first: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """A target tensor's rows, of `columns` elements each: those of its spans, one after another."""

    name: str
    spans: tuple[Span, ...]
    rows: int
    columns: int
    change: Change

    @property
    def slabs(self) -> Sequence[range]:
        """The target's rows in pieces of a bounded size, each of whole groups."""
        group = max(self.change.group_rows, 1)
        count = max(group, SLAB_ELEMENTS // max(self.columns, 1) // group * group)
        return [range(first, min(first + count, self.rows)) for first in range(0, self.rows, count)]

    def encoded(self, rows: range, type_name: str) -> Encoded:
        """Returns some of the target's rows in a type's bytes.

        Raises FormatError naming the tensor for values the type cannot hold and for files that end
        early.
        """
        dtype = self._dtype
        raw = self._ordered(rows, dtype)
        name = shown(self.spans[0].source.name)
        # A vector's rows are single elements; blocks run along what the file calls a row.
        shaped = raw.reshape(1, -1) if self.columns == 1 else raw
        if self.change.offset:
            # F16 is not widened before, as llama.cpp's converter has it: the sum is rounded to it.
            kept = shaped if dtype == "F16" else widen(dtype, shaped)
            plus = kept + kept.dtype.type(self.change.offset)
            return encode(type_name, name, plus.astype(np.float32, copy=False))
        return transcode(type_name, name, dtype, shaped)

    def floats(self, rows: range) -> Floats:
        """Returns some of the target's rows as float32, shape (rows, columns), the offset added.

        Raises FormatError for files that end early.
        """
        dtype = self._dtype
        values = widen(dtype, self._ordered(rows, dtype)).reshape(len(rows), -1)
        return values + np.float32(self.change.offset) if self.change.offset else values

    @property
    def _dtype(self) -> str:
        """The dtype all spans have, float32 when they differ."""
        dtypes = {span.source.dtype for span in self.spans}
        return dtypes.pop() if len(dtypes) == 1 else "F32"

    def _ordered(self, rows: range, dtype: str) -> Raw:
        order = self.change.order
        if order is None:
            return self._read(rows, dtype)
        wanted = order[rows.start : rows.stop]
        low, high = int(wanted.min()), int(wanted.max()) + 1
        if high - low == len(wanted):  # they change places among themselves
            return self._read(range(low, high), dtype)[wanted - low]
        breaks = np.flatnonzero(np.diff(wanted) != 1) + 1
        starts = [0, *breaks.tolist(), len(wanted)]
        runs = [
            self._read(range(int(wanted[a]), int(wanted[b - 1]) + 1), dtype)
            for a, b in itertools.pairwise(starts)
        ]
        return np.concatenate(runs)

    def _read(self, rows: range, dtype: str) -> Raw:
        pieces = self._pieces(rows)
        if self.change.transposed:
            parts = [
                span.source.read_columns(first, count).T
                if span.source.dtype == dtype
                else widen(span.source.dtype, span.source.read_columns(first, count).T)
                for span, first, count in pieces
            ]
            return np.concatenate(parts)
        if all(span.source.dtype == dtype for span, _, _ in pieces):
            whole = pieces[0][0].source.empty(len(rows))
            at = 0
            for span, first, count in pieces:
                span.source.read_into(whole[at : at + count], first)
                at += count
            return whole
        return np.concatenate([span.source.read(first, count) for span, first, count in pieces])

    def _pieces(self, rows: range) -> list[tuple[Span, int, int]]:
        """The spans that hold some of the target's rows: (span, first row in its source, count)."""
        found = []
        at = 0
        for span in self.spans:
            low, high = max(rows.start, at), min(rows.stop, at + span.rows)
            if low < high:
                found.append((span, span.first + low - at, high - low))
            at += span.rows
        return found


def assemble(target: TensorShape, parts: tuple[Assigned, ...], change: Change | None) -> Assembly:
    """Returns where a target's rows come from.

    Raises FormatError unless the dims of its sources are those config.json makes them have, and
    UnsupportedError for sources that hold no floats.
    """
    change = change or UNCHANGED
    columns = target.dims[0] if len(target.dims) > 1 else 1
    rows = target.elements // columns
    each = target.dims
    if parts[0].expert is not None:
        each = target.dims[:-1]
        if len(parts) != target.dims[-1]:
            raise FormatError(
                f"The checkpoint has {len(parts)} tensors like {shown(parts[0].source.name)}.",
                cause=f"config.json says there are {target.dims[-1]}.",
            )
    if change.order is not None and len(change.order) != rows:
        raise FormatError(
            f"The rows of {target.name} cannot be put in order: {len(change.order)}, not {rows}.",
            cause="config.json contradicts itself.",
        )
    spans: list[Span] = []
    for part in parts:
        part.source.require_floats()
        if change.transposed:
            spans.append(_columns(part.source, each))
        elif part.shares > 1:
            spans += _share(part, each)
        else:
            spans.append(_whole(part.source, each, columns, cut=target.name in _TABLES))
    return Assembly(name=target.name, spans=tuple(spans), rows=rows, columns=columns, change=change)


def _whole(source: SourceTensor, dims: tuple[int, ...], columns: int, *, cut: bool) -> Span:
    """All rows of a source that makes a tensor of `dims` (row length first)."""
    found = source.dims[::-1]
    rows = math.prod(dims) // columns
    if cut and len(found) == len(dims) == 2 and found[0] == dims[0] and found[1] > dims[1]:
        return Span(source=source, first=0, rows=rows)
    # Dimensions of 1 count nothing: a row alone may be stored as a vector, and the other way round.
    if [n for n in found if n != 1] != [n for n in dims if n != 1]:
        raise _misshapen(source, dims)
    as_rows = dataclasses.replace(source, dims=(rows, columns))
    return Span(source=as_rows, first=0, rows=rows)


def _columns(source: SourceTensor, dims: tuple[int, ...]) -> Span:
    """All columns of a source that is stored the other way round."""
    if len(dims) != 2 or source.dims != dims:
        raise _misshapen(source, dims[::-1])
    return Span(source=source, first=0, rows=dims[1])


def _share(part: Assigned, dims: tuple[int, ...]) -> Iterator[Span]:
    """The rows one of several targets has in a source, whose last dimension but one they share."""
    each, stride = dims[1], dims[1] * part.shares
    if part.source.dims[::-1] != (dims[0], stride, *dims[2:]):
        raise _misshapen(part.source, (dims[0], stride, *dims[2:]))
    for i in range(math.prod(dims[2:])):
        yield Span(source=part.source, first=i * stride + part.share * each, rows=each)


def _misshapen(source: SourceTensor, wanted: tuple[int, ...]) -> FormatError:
    return FormatError(
        f"The tensor {shown(source.name)} has the shape {list(source.dims)}.",
        cause=f"config.json says it should be {list(wanted[::-1])}.",
        way_out="Check that config.json and the weights belong together.",
    )
