"""Reads safetensors files (https://huggingface.co/docs/safetensors): the table, then rows.

The bytes may come from anyone: every length, shape and offset is checked before it is believed or
anything is allocated for it. Knows nothing of what a tensor is for.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import FormatError, ModelNotFoundError, UnsupportedError

from .encoding import Floats, widen

MAX_HEADER_BYTES = 32 * 1024**2
"""A third of the format's own limit: room for 200,000 tensors, and parsed it fits in memory."""

_ELEMENT_BYTES = MappingProxyType({"F32": 4, "F16": 2, "BF16": 2, "F64": 8})
_OTHER_DTYPES = MappingProxyType(
    {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "I32": 4,
     "U32": 4, "I64": 8, "U64": 8}
)  # fmt: skip
# bfloat16 has no numpy type: it is kept as the integer its bits are.
_NUMPY_TYPES = MappingProxyType({"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"})

Raw = npt.NDArray[Any]
"""Rows as they are stored: float16, float32, float64, or uint16 holding the bits of bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTensor:
    """One tensor of a checkpoint and where its bytes lie; `dims` as stored, rows first.

    Its rows are all indices but the last, flattened; a vector is rows of one column.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    path: Path
    offset_bytes: int
    size_bytes: int

    @property
    def columns(self) -> int:
        """Elements of one row."""
        return self.dims[-1] if len(self.dims) > 1 else 1

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return math.prod(self.dims[:-1]) if len(self.dims) > 1 else math.prod(self.dims)

    def require_floats(self) -> None:
        """Raises UnsupportedError for integers and 8-bit floats, whose scales are not known."""
        if self.dtype not in _ELEMENT_BYTES:
            raise UnsupportedError(
                f"The tensor {shown(self.name)} is stored as {self.dtype}.",
                cause="Checkpoints that are quantized already cannot be converted.",
                way_out="Convert the original checkpoint (F32, F16 or BF16) instead.",
            )

    def empty(self, rows: int, columns: int | None = None) -> Raw:
        """Room for rows as they are stored, to be filled by `read_into`."""
        self.require_floats()
        return np.empty(
            (rows, self.columns if columns is None else columns), _NUMPY_TYPES[self.dtype]
        )

    def read_into(self, target: Raw, first: int) -> None:
        """Fills `target`, C-contiguous, with the rows from `first` on.

        Raises FormatError when the file gives fewer bytes than its header promised.
        """
        row_bytes = self.columns * _ELEMENT_BYTES[self.dtype]
        _read_into(self.path, self.offset_bytes + first * row_bytes, _bytes_of(target))

    def read_columns(self, first: int, count: int) -> Raw:
        """Reads some columns of a matrix, shape (rows, count), as they are stored."""
        size = _ELEMENT_BYTES[self.dtype]
        target = self.empty(self.rows, count)
        at = self.offset_bytes + first * size
        _read_into(self.path, at, _bytes_of(target), count * size, self.columns * size)
        return target

    def read(self, first: int, count: int) -> Floats:
        """Reads `count` rows from `first` on as float32, shape (count, columns).

        Exact for F32, F16 and BF16; F64 is rounded to nearest.
        """
        target = self.empty(count)
        self.read_into(target, first)
        return widen(self.dtype, target)


def read_safetensors(path: Path) -> tuple[SourceTensor, ...]:
    """Reads the header of a safetensors file: its tensors, in the order of the file.

    Raises FormatError unless every dtype, shape and offset holds together and the tensors fill the
    file without gap or overlap.
    """
    size = file_bytes(path)
    if size < 8:
        raise damaged(path, f"It has {size} bytes, too few for a header.")
    length = int.from_bytes(read_bytes(path, 0, 8), "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise damaged(path, f"Its header claims {length} bytes of {size}.")
    start = 8 + length
    tensors = sorted(
        (_tensor(path, name, entry, start) for name, entry in _header(path, length).items()),
        key=lambda tensor: (tensor.offset_bytes, tensor.size_bytes),
    )
    end = start
    for tensor in tensors:
        if tensor.offset_bytes != end:
            raise damaged(
                path, f"The tensor {shown(tensor.name)} overlaps another or leaves a gap."
            )
        end += tensor.size_bytes
    if end != size:
        raise damaged(path, f"Its tensors end at byte {end}, the file at {size}.")
    return tuple(tensors)


def _header(path: Path, length: int) -> dict[str, object]:
    try:
        # A pair given twice is either a mistake or an attempt to be read differently elsewhere.
        parsed = json.loads(read_bytes(path, 8, length), object_pairs_hook=unique_pairs)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"Its JSON cannot be read ({str(error)[:80]}).") from error
    if not isinstance(parsed, dict):
        raise damaged(path, "Its JSON is no object.")
    parsed.pop("__metadata__", None)
    return parsed


def _tensor(path: Path, name: str, entry: object, start: int) -> SourceTensor:
    if not isinstance(entry, dict):
        raise damaged(path, f"The entry of {shown(name)} is no object.")
    dtype, dims, span = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    element = {**_ELEMENT_BYTES, **_OTHER_DTYPES}.get(dtype) if isinstance(dtype, str) else None
    if element is None:
        raise damaged(path, f"The dtype {shown(str(dtype)[:20])} of {shown(name)} is unknown.")
    if not _whole_numbers(dims) or len(dims) > 8 or not _whole_numbers(span) or len(span) != 2:
        raise damaged(path, f"The shape or the offsets of {shown(name)} are no whole numbers.")
    size = math.prod(dims) * element
    if span[1] - span[0] != size:
        raise damaged(path, f"{shown(name)} should take {size} bytes, not {span[1] - span[0]}.")
    return SourceTensor(
        name=name,
        dtype=str(dtype),
        dims=tuple(dims),
        path=path,
        offset_bytes=start + span[0],
        size_bytes=size,
    )


def _whole_numbers(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def unique_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object's pairs as a dict. Raises ValueError for a key that is there twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def shown(name: str) -> str:
    """A name from a file, fit to be printed: short, and without what would steer a terminal."""
    short = name if len(name) <= 120 else f"{name[:120]}..."
    return short if short.isprintable() else ascii(short)


def file_bytes(path: Path) -> int:
    """The size of a file. Raises ModelNotFoundError when it cannot be had."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def read_bytes(path: Path, offset: int, size: int) -> bytearray:
    """Reads exactly `size` bytes. Raises FormatError when the file ends before."""
    data = bytearray(size)
    _read_into(path, offset, memoryview(data))
    return data


def damaged(path: Path, cause: str) -> FormatError:
    """The refusal of a file whose bytes contradict each other."""
    return FormatError(
        f"{path} is damaged or not what its name says.", cause=cause, way_out="Download it again."
    )


def _bytes_of(array: Raw) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _read_into(
    path: Path, offset: int, target: memoryview, piece: int | None = None, step: int = 0
) -> None:
    """Fills `target` from `offset` on, in pieces whose starts lie `step` bytes apart.

    Plain reads, not a mapping: mapped pages would count as ours.
    """
    piece = piece or len(target)
    try:
        with path.open("rb", buffering=0) as file:
            for start in range(0, len(target), max(piece, 1)):
                file.seek(offset)
                offset += step
                rest = target[start : start + piece]
                while rest:
                    got = file.readinto(rest)
                    if not got:
                        raise damaged(path, "It ends before its last byte is read.")
                    rest = rest[got:]
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ModelNotFoundError:
    return ModelNotFoundError(f"{path} cannot be read.", cause=f"{error.strerror or error}.")
