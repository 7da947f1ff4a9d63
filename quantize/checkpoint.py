"""A Hugging Face directory: config, tokenizer files, and tensors read from disk in slabs of rows.

Reads safetensors with its own bounds-checked reader (https://huggingface.co/docs/safetensors):
every length and offset is checked before it is believed. Refuses pickles, since loading one runs
whatever code it holds. Knows nothing of what a tensor is for.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from edge_runtime.artifact.checkpoint import read_config
from edge_runtime.errors import FormatError, ModelNotFoundError, UnsupportedError

MAX_HEADER_BYTES = 100 * 1024**2
"""The safetensors format's own limit on its JSON header."""
MAX_INDEX_BYTES = 64 * 1024**2
MAX_TOKENIZER_BYTES = 128 * 1024**2

_ELEMENT_BYTES = MappingProxyType({"F32": 4, "F16": 2, "BF16": 2, "F64": 8})
_OTHER_DTYPES = MappingProxyType(
    {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "I32": 4,
     "U32": 4, "I64": 8, "U64": 8}
)  # fmt: skip

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTensor:
    """One tensor of a checkpoint and where its bytes lie; `dims` as stored, rows first."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    path: Path
    offset_bytes: int
    size_bytes: int

    @property
    def rows(self) -> int:
        """Rows of a matrix; a vector is one row."""
        return self.dims[0] if len(self.dims) > 1 else 1

    @property
    def columns(self) -> int:
        """Elements of one row, all further dimensions together."""
        return math.prod(self.dims[1:]) if len(self.dims) > 1 else math.prod(self.dims)

    def read(self, first: int, count: int) -> Floats:
        """Reads `count` rows from `first` on as float32, shape (count, columns).

        Exact for F32, F16 and BF16; F64 is rounded to nearest. Raises FormatError when the file
        gives fewer bytes than its header promised, UnsupportedError for integers and 8-bit floats.
        """
        if self.dtype not in _ELEMENT_BYTES:
            raise UnsupportedError(
                f"The tensor {self.name} is stored as {self.dtype}.",
                cause="Checkpoints that are quantized already cannot be converted.",
                way_out="Convert the original checkpoint (F32, F16 or BF16) instead.",
            )
        row_bytes = self.columns * _ELEMENT_BYTES[self.dtype]
        data = _pread(self.path, self.offset_bytes + first * row_bytes, count * row_bytes)
        if self.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            values = (np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)).view(
                np.float32
            )
        else:
            kind = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}[self.dtype]
            with np.errstate(over="ignore"):  # the writer refuses what is not finite, by name
                values = np.frombuffer(data, kind).astype(np.float32)
        return values.reshape(count, self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint directory; its tensors stay on the disk until they are read."""

    path: Path
    config: Mapping[str, object]
    tensors: Mapping[str, SourceTensor]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Opens a directory with `config.json` and safetensors files, one or an indexed set.

        Raises ModelNotFoundError when it is none, FormatError when a file is damaged or hostile,
        and UnsupportedError for weights that exist only as a pickle.
        """
        if not path.is_dir():
            raise ModelNotFoundError(
                f"{path} is no checkpoint.",
                cause="It is no directory." if path.exists() else "Nothing is there.",
                way_out="Give the directory that holds config.json and the .safetensors files.",
            )
        config = read_config(path)
        tensors: dict[str, SourceTensor] = {}
        for file in _weight_files(path):
            for tensor in read_safetensors(file):
                if tensor.name in tensors:
                    raise FormatError(
                        f"The tensor {tensor.name} is there twice.",
                        cause=f"Both {tensors[tensor.name].path.name} and {file.name} hold it.",
                    )
                tensors[tensor.name] = tensor
        return cls(path=path, config=config, tensors=MappingProxyType(tensors))

    @property
    def dtype(self) -> str:
        """The dtype most of the weights are stored in."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors.values():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
        return max(sizes, key=lambda dtype: sizes[dtype], default="F32")

    def json(self, name: str) -> dict[str, object] | None:
        """The JSON object in a file of the directory, None when there is no such file.

        Raises FormatError when it holds no JSON object or is absurdly large.
        """
        path = self.path / name
        return _json_object(path, MAX_TOKENIZER_BYTES) if path.is_file() else None

    def text(self, name: str) -> str | None:
        """The text in a file of the directory, None when there is no such file."""
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return _read(path, MAX_TOKENIZER_BYTES).decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"{path} is not UTF-8 text.", cause=f"{error.reason}.") from error


def read_safetensors(path: Path) -> tuple[SourceTensor, ...]:
    """Reads the header of a safetensors file: its tensors, in the order of the file.

    Raises FormatError unless every dtype, shape and offset holds together and the tensors fill the
    file without gap or overlap.
    """
    file_size = _file_size(path)
    if file_size < 8:
        raise _damaged(path, "It is too short for a header.")
    length = int.from_bytes(_pread(path, 0, 8), "little")
    if length > min(MAX_HEADER_BYTES, file_size - 8):
        raise _damaged(path, f"Its header claims {length} bytes of {file_size}.")
    header = _parse_object(path, _pread(path, 8, length))
    header.pop("__metadata__", None)
    start = 8 + length
    tensors = sorted(
        (_tensor(path, name, entry, start) for name, entry in header.items()),
        key=lambda tensor: (tensor.offset_bytes, tensor.size_bytes),
    )
    end = start
    for tensor in tensors:
        if tensor.offset_bytes != end:
            raise _damaged(path, f"The tensor {tensor.name} overlaps another or leaves a gap.")
        end += tensor.size_bytes
    if end != file_size:
        raise _damaged(path, f"Its tensors end at byte {end}, the file at {file_size}.")
    return tuple(tensors)


def _tensor(path: Path, name: str, entry: object, start: int) -> SourceTensor:
    if not isinstance(entry, dict):
        raise _damaged(path, f"The entry of {name[:80]} is no object.")
    dtype, dims, span = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    element = {**_ELEMENT_BYTES, **_OTHER_DTYPES}.get(dtype) if isinstance(dtype, str) else None
    if element is None:
        raise _damaged(path, f"The dtype {str(dtype)[:20]!r} of {name[:80]} is unknown.")
    if not _whole_numbers(dims) or len(dims) > 8 or not _whole_numbers(span) or len(span) != 2:
        raise _damaged(path, f"The shape or the offsets of {name[:80]} are no whole numbers.")
    size = math.prod(dims) * element
    if span[1] - span[0] != size:
        raise _damaged(path, f"{name[:80]} should take {size} bytes, not {span[1] - span[0]}.")
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


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        names = _json_object(index, MAX_INDEX_BYTES).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise FormatError(f"{index} has no weight_map of file names.")
        files = sorted(set(names.values()))
        for name in files:
            if Path(name).name != name:
                raise FormatError(f"{index} names {name[:80]!r}, which lies elsewhere.")
            if not (path / name).is_file():
                raise ModelNotFoundError(
                    f"{path / name} is missing.",
                    cause="The index lists it; the download may be incomplete.",
                )
        return [path / name for name in files]
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    pickles = sorted([*path.glob("*.bin"), *path.glob("*.pth"), *path.glob("*.pt")])
    if pickles:
        raise UnsupportedError(
            f"{path} holds its weights only as {pickles[0].name}.",
            cause="That is a pickle, and loading one runs any code that is in it.",
            way_out="Look for a revision of the model with .safetensors files.",
        )
    raise ModelNotFoundError(
        f"{path} holds no weights.",
        cause="There is neither model.safetensors nor model.safetensors.index.json.",
        way_out="Download the checkpoint's .safetensors files into it.",
    )


def _json_object(path: Path, limit_bytes: int) -> dict[str, object]:
    return _parse_object(path, _read(path, limit_bytes))


def _parse_object(path: Path, data: bytes) -> dict[str, object]:
    try:
        # A pair given twice is either a mistake or an attempt to be read differently elsewhere.
        parsed = json.loads(data, object_pairs_hook=_unique_pairs)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"Its JSON cannot be read ({str(error)[:80]}).") from error
    if not isinstance(parsed, dict):
        raise _damaged(path, "Its JSON is no object.")
    return parsed


def _unique_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _read(path: Path, limit_bytes: int) -> bytes:
    size = _file_size(path)
    if size > limit_bytes:
        raise _damaged(path, f"It has {size} bytes, more than {limit_bytes}.")
    return _pread(path, 0, size)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _pread(path: Path, offset: int, size: int) -> bytes:
    """Reads exactly `size` bytes. Plain reads, not a mapping: mapped pages would count as ours."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            parts = []
            while size > 0 and (part := os.read(file.fileno(), size)):
                parts.append(part)
                size -= len(part)
    except OSError as error:
        raise _unreadable(path, error) from error
    if size:
        raise _damaged(path, "It ends before its last byte is read.")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _damaged(path: Path, cause: str) -> FormatError:
    return FormatError(
        f"{path} is damaged or not what its name says.", cause=cause, way_out="Download it again."
    )


def _unreadable(path: Path, error: OSError) -> ModelNotFoundError:
    return ModelNotFoundError(f"{path} cannot be read.", cause=f"{error.strerror or error}.")
