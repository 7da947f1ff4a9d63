"""External data of an ONNX file: which files it lies in, inside the model's folder and whole.

A location is a stranger's text. It may name nothing but a file in the folder of the model, or below
it; ONNX Runtime would map whatever it names. No byte of the data is read.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ...errors import ArtifactError, FormatError, ModelNotFoundError
from ...units import format_bytes
from ..gguf_values import opened

_MAX_FILES = 4096
_SAMPLES, _SAMPLE_BYTES = 64, 256
_MOST_BYTES = 2**63
_POINTER = b"version https://git-lfs"
_MAX_POINTER_BYTES = 1024
_NUMBER = re.compile(r"\d{1,18}")
_AGAIN = "Download or convert the model again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor's bytes begin; part 0 is the graph's own file."""

    part: int
    offset_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One external file: its name in the graph, where it is and how long."""

    location: str
    path: Path
    size_bytes: int


class DataFiles:
    """The external files of one model, found as its tensors name them."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._parts: dict[str, int] = {}
        self._found: list[DataFile] = []

    @property
    def files(self) -> tuple[DataFile, ...]:
        """Those named so far, in that order; the first is part 1."""
        return tuple(self._found)

    def place(self, tensor: str, entries: Mapping[str, str], size_bytes: int) -> Place:
        """Where a tensor's bytes are, which must all be in the file.

        Raises FormatError for a location outside the folder or a range outside the file,
        ModelNotFoundError when the file is missing.
        """
        location = entries.get("location", "")
        if location not in self._parts:
            if len(self._found) >= _MAX_FILES:
                self._wrong(f"Its tensors lie in more than {_MAX_FILES} files.")
            self._found.append(self._file(location, tensor))
            self._parts[location] = len(self._found)
        part = self._parts[location]
        offset = self._number(entries, "offset", tensor, 0)
        length = self._number(entries, "length", tensor, size_bytes)
        if length != size_bytes:
            self._wrong(
                f"{length} bytes of {tensor[:80]!r} are said to be in {location[:80]!r}; its type"
                f" and dims want {size_bytes}."
            )
        file = self._found[part - 1]
        if offset + length > file.size_bytes:
            if _is_pointer(file):
                raise FormatError(
                    f"{file.path.name} is a Git LFS pointer, and no weights.",
                    cause=f"{self._model.name} keeps its weights in that file.",
                    way_out="Fetch the file itself: git lfs pull",
                )
            raise FormatError(
                f"{file.path.name} is truncated.",
                cause=f"The tensor {tensor[:80]!r} ends at byte {offset + length}, the file at byte"
                f" {file.size_bytes} ({format_bytes(file.size_bytes)}).",
                way_out="Download the rest of it, or convert the model again.",
            )
        return Place(part=part, offset_bytes=offset)

    def _file(self, location: str, tensor: str) -> DataFile:
        self._check_inside(location, tensor)
        folder = self._model.parent
        path = folder / location
        try:
            real = path.resolve(strict=True)
            status = real.stat()
            # A hub's cache links every file of a model to one folder; then that is the model's.
            allowed = (folder.resolve(), self._model.resolve().parent)
        except FileNotFoundError:
            raise ModelNotFoundError(
                f"{location[:200]} is missing.",
                cause=f"{self._model.name} keeps its weights in that file, and it is not beside"
                " it.",
                way_out="Download both into one folder, under the names they had.",
            ) from None
        except (OSError, RuntimeError, ValueError) as error:
            raise ArtifactError(f"{path} cannot be read.", cause=f"{error}.") from error
        if not any(real.is_relative_to(root) for root in allowed):
            self._outside("It is a link that leads out of it.")
        if not stat.S_ISREG(status.st_mode):
            self._wrong(f"{location[:80]!r}, which holds its weights, is no regular file.")
        return DataFile(location=location, path=path, size_bytes=status.st_size)

    def _check_inside(self, location: str, tensor: str) -> None:
        if not location:
            self._wrong(f"The data of {tensor[:80]!r} is said to be in a file without a name.")
        if "_ORT_MEM_ADDR_" in location:
            # ONNX Runtime's own mark for an address in memory, which no file may state.
            self._outside("It names a place in memory.")
        parts = re.split(r"[/\\]", location)
        absolute = parts[0] == "" or re.fullmatch(r"[A-Za-z]:.*", parts[0], re.DOTALL)
        if absolute or ".." in parts:
            self._outside(f"Its data is said to be in {location[:120]!r}.")
        if "\0" in location or len(location) > 1024:
            self._wrong(f"{location[:80]!r} is no name of a file.")

    def _number(self, entries: Mapping[str, str], key: str, tensor: str, default: int) -> int:
        text = entries.get(key)
        if text is None:
            return default
        if not text.isascii() or not _NUMBER.fullmatch(text):
            self._wrong(f"The {key} of {tensor[:80]!r} in its data file is {text[:40]!r}.")
        return int(text)

    def _outside(self, cause: str) -> NoReturn:
        raise FormatError(
            f"{self._model.name} wants weights from outside its folder.",
            cause=cause,
            way_out=f"Do not run it. {_AGAIN}",
        )

    def _wrong(self, cause: str) -> NoReturn:
        raise FormatError(
            f"{self._model.name} is not a sound ONNX file.", cause=cause, way_out=_AGAIN
        )

    def sample(self, file: DataFile) -> bytes:
        """Some of a file's bytes, evenly spread: enough to tell one quantization from another.

        A graph says nothing of how its weights were rounded, and sizes do not either. Raises what
        `opened` raises.
        """
        step = max(1, file.size_bytes // _SAMPLES)
        found = []
        with opened(file.path) as data:
            for start in range(0, file.size_bytes, step):
                data.seek(start)
                found.append(data.read(_SAMPLE_BYTES))
        return b"".join(found)


def _is_pointer(file: DataFile) -> bool:
    """Whether a file stands for a larger one that was never fetched."""
    if file.size_bytes > _MAX_POINTER_BYTES:
        return False
    try:
        with file.path.open("rb") as data:
            return data.read(len(_POINTER)) == _POINTER
    except OSError:
        return False  # that it is too short is true all the same


class DataNames(DataFiles):
    """The same names before the files are there: each is checked, and none is looked for."""

    def _file(self, location: str, tensor: str) -> DataFile:
        self._check_inside(location, tensor)
        return DataFile(
            location=location, path=self._model.parent / location, size_bytes=_MOST_BYTES
        )

    def sample(self, file: DataFile) -> bytes:
        """Nothing: the file need not be there."""
        return b""
