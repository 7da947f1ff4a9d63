"""Importance matrices: how much each input column of each matrix was used, measured on some text.

Reads the two forms `llama-imatrix` writes, GGUF (`general.type` = "imatrix") and the older binary
one, and writes the first. A file may come from anyone: every size is checked against the file
before memory is taken for it, every number must be finite and not negative. Knows nothing of
models; which entry serves which tensor is asked elsewhere.
"""

from __future__ import annotations

import functools
import math
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.artifact import GGML_TYPES, TensorInfo, ValueType
from edge_runtime.artifact.gguf import MAGIC, GGUFHeader, read_header
from edge_runtime.artifact.gguf_values import ArrayRef, opened
from edge_runtime.errors import FormatError
from edge_runtime.units import format_bytes

from .writers import gguf

_SUMS, _COUNTS = ".in_sum2", ".counts"
_DATASETS, _CHUNKS, _CHUNK_TOKENS = (
    "imatrix.datasets",
    "imatrix.chunk_count",
    "imatrix.chunk_size",
)
_MOST_BYTES = 4 * 1024**3  # several times that of the largest open model
_MOST_ENTRIES = 100_000
_MOST_NAME_BYTES = 1024
_MOST_DATASETS = 100_000
_AGAIN = "Download it again, or make it again with llama-imatrix."

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImportanceEntry:
    """The measurements of one matrix.

    `sums` are squared activations summed over tokens, float32 of shape (experts, columns), one
    row for a matrix that is no stack of experts; `counts` are float32 of shape (experts,): how many
    activations went into each row.
    """

    name: str
    sums: Floats
    counts: Floats

    @property
    def values(self) -> Floats:
        """Mean squared activations, experts flattened; 1 throughout for an expert never used."""
        # Halves away from zero, as the C library's lround has it.
        counts = np.floor(self.counts.astype(np.float64) + 0.5).astype(np.float32)[:, None]
        used = counts > 0
        means = np.divide(self.sums, counts, where=used, out=np.ones_like(self.sums))
        flat: Floats = means.reshape(-1)
        return flat


@dataclass(frozen=True, slots=True, kw_only=True)
class Imatrix:
    """An importance matrix: entries by name order of the file, and what text they come from.

    `chunks` pieces of text of `chunk_tokens` tokens each (0 where the file does not say).
    """

    entries: tuple[ImportanceEntry, ...]
    datasets: tuple[str, ...]
    chunks: int
    chunk_tokens: int


def read(path: str | os.PathLike[str]) -> Imatrix:
    """Reads an importance matrix of either form.

    Raises ModelNotFoundError when there is no file, FormatError when it is truncated, malformed or
    something else.
    """
    where = Path(path)
    with opened(where) as file:
        start = file.read(len(MAGIC))
        size_bytes = os.fstat(file.fileno()).st_size
    if size_bytes > _MOST_BYTES:
        raise _no_imatrix(where, f"It takes {format_bytes(size_bytes)}.")
    return _read_gguf(where) if start == MAGIC else _read_legacy(where)


def write(
    path: Path,
    entries: Sequence[ImportanceEntry],
    *,
    datasets: Sequence[str],
    chunks: int,
    chunk_tokens: int,
) -> None:
    """Writes an importance matrix as GGUF, as `llama-imatrix` does, whole or not at all.

    Raises DiskError when it cannot be written and ValueError for an entry that is none: sums and
    counts that do not belong together, a name GGUF cannot hold.
    """
    tensors = []
    for entry in sorted(entries, key=lambda e: e.name):
        if entry.sums.ndim != 2 or entry.counts.shape != entry.sums.shape[:1]:
            raise ValueError(f"{entry.name}: sums {entry.sums.shape}, counts {entry.counts.shape}")
        experts, columns = entry.sums.shape
        for suffix, dims, numbers in (
            (_SUMS, (columns, experts), entry.sums),
            (_COUNTS, (1, experts), entry.counts),
        ):
            data = np.ascontiguousarray(numbers, "<f4").tobytes()
            tensors.append(
                gguf.PlannedTensor(
                    name=entry.name + suffix,
                    dims=dims,
                    type=GGML_TYPES["F32"],
                    slabs=functools.partial(iter, (data,)),
                )
            )
    metadata: dict[str, gguf.Value] = {
        "general.type": "imatrix",
        _DATASETS: gguf.Array(kind=ValueType.STRING, items=tuple(datasets)),
        _CHUNKS: chunks,
        _CHUNK_TOKENS: chunk_tokens,
    }
    gguf.write(path, metadata, tensors)


def _read_gguf(path: Path) -> Imatrix:
    header = read_header(path)
    kind = header.metadata.get("general.type", "imatrix")
    if kind != "imatrix":
        raise FormatError(
            f"{path.name} is no importance matrix.",
            cause=f"It says it is a {str(kind)[:40]}.",
            way_out="Give the file that llama-imatrix wrote for the model.",
        )
    tensors = {tensor.name: tensor for tensor in header.tensors}
    names = sorted({name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)})
    if not names:
        raise FormatError(
            f"{path.name} is no importance matrix.",
            cause=f"It holds no tensor named ...{_SUMS}.",
            way_out="Give the file that llama-imatrix wrote for the model.",
        )
    missing = [key for key in (_DATASETS, _CHUNKS, _CHUNK_TOKENS) if key not in header.metadata]
    if missing:
        raise _broken(path, f"The metadata {', '.join(missing)} is missing.")
    entries = []
    with opened(path) as file:
        for name in names:
            sums, counts = tensors[name + _SUMS], tensors.get(name + _COUNTS)
            if counts is None:
                raise _broken(path, f"{name} has sums but no counts.")
            if math.prod(sums.dims) % math.prod(counts.dims):
                raise _broken(path, f"The sums and counts of {name} do not belong together.")
            numbers = []
            for tensor in (sums, counts):
                if tensor.type.name != "F32":
                    raise _broken(path, f"{tensor.name} is {tensor.type.name} instead of F32.")
                file.seek(tensor.offset_bytes)
                numbers.append(_floats(path, tensor.name, file.read(tensor.size_bytes), tensor))
            experts = len(numbers[1])
            entries.append(
                ImportanceEntry(name=name, sums=numbers[0].reshape(experts, -1), counts=numbers[1])
            )
    return Imatrix(
        entries=tuple(entries),
        datasets=_datasets(header),
        chunks=_whole(header, _CHUNKS),
        chunk_tokens=_whole(header, _CHUNK_TOKENS),
    )


def _floats(path: Path, name: str, data: bytes, tensor: TensorInfo | None = None) -> Floats:
    """The numbers of an entry, refused unless all are finite and none is negative."""
    if tensor is not None and len(data) != tensor.size_bytes:
        raise _broken(path, "It became shorter while being read.")
    numbers = np.frombuffer(data, "<f4").astype(np.float32)
    if not (np.isfinite(numbers).all() and (numbers >= 0).all()):
        raise _broken(path, f"{name} holds numbers that are negative or not finite.")
    return numbers


def _datasets(header: GGUFHeader) -> tuple[str, ...]:
    value = header.metadata[_DATASETS]
    if isinstance(value, ArrayRef) and value.type is ValueType.STRING:
        value = value.load() if value.count <= _MOST_DATASETS else None
    if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
        raise _broken(header.path, f"{_DATASETS} is no list of names.")
    return value


def _whole(header: GGUFHeader, key: str) -> int:
    value = header.metadata[key]
    if type(value) is not int or not 0 <= value < 2**31:
        raise _broken(header.path, f"{key} is {value!r:.60}, not a count.")
    return value


def _read_legacy(path: Path) -> Imatrix:
    """The older form: a count, then name, calls and values each; chunks and dataset may follow."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size

        def take(count: int, what: str) -> bytes:
            if count > size - file.tell():
                raise _no_imatrix(path, f"It ends inside {what}.")
            return file.read(count)

        def number(what: str, least: int, most: int) -> int:
            value: int = struct.unpack("<i", take(4, what))[0]
            if not least <= value <= most:
                raise _no_imatrix(path, f"It claims {value} as {what}.")
            return value

        entries: dict[str, ImportanceEntry] = {}
        for _ in range(number("the number of entries", 1, _MOST_ENTRIES)):
            raw = take(number("the length of a name", 1, _MOST_NAME_BYTES), "a name")
            name = _text(path, raw)
            if name in entries:
                raise _no_imatrix(path, f"{name} stands there twice.")
            calls = number(f"the calls of {name}", 0, 2**31 - 1)
            length = number(f"the length of {name}", 1, 2**31 - 1)
            sums = _floats(path, name, take(4 * length, name))
            # What is kept there is the mean times the calls; no calls means the mean itself.
            counts = np.array([max(calls, 1)], np.float32)
            entries[name] = ImportanceEntry(name=name, sums=sums.reshape(1, -1), counts=counts)
        chunks = 0
        datasets: tuple[str, ...] = ()
        if size - file.tell() >= 4:
            chunks = number("the number of chunks", 0, 2**31 - 1)
        if size - file.tell() >= 4:
            length = number("the length of a dataset's name", 0, size)
            raw = take(length, "a dataset's name")
            datasets = (raw.split(b"\0")[0].decode("utf-8", "replace"),) if raw else ()
    return Imatrix(
        entries=tuple(entries.values()), datasets=datasets, chunks=chunks, chunk_tokens=0
    )


def _text(path: Path, raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    if not name or not name.isprintable():
        raise _no_imatrix(path, "The name of an entry is no text.")
    return name


def _broken(path: Path, cause: str) -> FormatError:
    return FormatError(
        f"{path.name} is not a sound importance matrix.", cause=cause, way_out=_AGAIN
    )


def _no_imatrix(path: Path, cause: str) -> FormatError:
    return FormatError(
        f"{path.name} is no importance matrix, neither of the GGUF nor of the older form.",
        cause=cause,
        way_out=_AGAIN,
    )
