"""A Hugging Face directory: config, tokenizer files, and tensors read from disk in slabs of rows.

What is opened stays inside the directory, links included. Refuses pickles, since loading one runs
whatever code it holds. Knows nothing of what a tensor is for.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edge_runtime.artifact.checkpoint import CONFIG_NAME, checkpoint_name, read_config
from edge_runtime.errors import FormatError, ModelNotFoundError, UnsupportedError

from .safetensors import (
    SourceTensor,
    damaged,
    file_bytes,
    read_bytes,
    read_safetensors,
    shown,
    unique_pairs,
)

MAX_INDEX_BYTES = 64 * 1024**2
MAX_TOKENIZER_BYTES = 128 * 1024**2

INDEX_NAME = "model.safetensors.index.json"
_WHOLE_NAME = "model.safetensors"
_SHARD_NAME = re.compile(r"model-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


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
        _file_inside(path, CONFIG_NAME)
        config = read_config(path)
        located = _located(path)
        tensors: dict[str, SourceTensor] = {}
        for file in _weight_files(path, located):
            for tensor in read_safetensors(file):
                if tensor.name in tensors:
                    raise FormatError(
                        f"The tensor {shown(tensor.name)} is there twice.",
                        cause=f"Both {tensors[tensor.name].path.name} and {file.name} hold it.",
                    )
                tensors[tensor.name] = tensor
        if located is not None:
            _require_truthful(path, located, tensors)
        return cls(path=path, config=config, tensors=MappingProxyType(tensors))

    @property
    def name(self) -> str:
        """What the model is called: its directory, or its repository in the Hub's cache."""
        # A directory's name may be any bytes, a GGUF file holds UTF-8.
        return os.fsencode(checkpoint_name(self.path)).decode("utf-8", "replace")

    def file(self, name: str) -> Path | None:
        """The path of a file of the directory by its relative name, None when there is none.

        Raises FormatError for a name or a link that leads out of the directory.
        """
        return _file_inside(self.path, name)

    def json(self, name: str) -> dict[str, object] | None:
        """The JSON object in a file of the directory, None when there is no such file.

        Raises FormatError when it holds no JSON object or is absurdly large.
        """
        path = self.file(name)
        return None if path is None else _json_object(path, MAX_TOKENIZER_BYTES)

    def text(self, name: str) -> str | None:
        """The text in a file of the directory, None when there is no such file."""
        data = self.data(name)
        if data is None:
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(
                f"{self.path / name} is not UTF-8 text.", cause=f"{error.reason}."
            ) from error

    def data(self, name: str) -> bytes | None:
        """The bytes of a file of the directory, None when there is no such file."""
        path = self.file(name)
        return None if path is None else _read(path, MAX_TOKENIZER_BYTES)


def _file_inside(root: Path, name: str) -> Path | None:
    """The path of a file below `root`, None when there is none. Raises FormatError for others."""
    path = root / name
    try:
        if not path.is_file():
            return None
        home, target = root.resolve(), path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a name with a null byte
        raise FormatError(
            f"{shown(name)} cannot be opened in {root}.", cause=f"{error}."
        ) from error
    # The Hub's cache keeps the bytes beside the snapshots, under names that are hashes.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if target.is_relative_to(home) or target.parent == blobs:
        return path
    raise FormatError(
        f"{shown(name)} lies outside the checkpoint's directory {root}.",
        cause=f"It leads to {shown(str(target))}.",
        way_out="Copy the file into the directory if it is meant to be part of the checkpoint.",
    )


def _located(path: Path) -> dict[str, str] | None:
    """The index: the file each tensor should be in. None when the checkpoint has none."""
    index = _file_inside(path, INDEX_NAME)
    if index is None:
        return None
    names = _json_object(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise FormatError(f"{index} has no weight_map of file names.")
    for name in names.values():
        if not isinstance(name, str) or not name or "\0" in name or Path(name).name != name:
            raise FormatError(
                f"{index} names {shown(str(name))}, which is no file beside it.",
                way_out="Download the whole checkpoint again, from one revision.",
            )
    return names


def _weight_files(path: Path, located: dict[str, str] | None) -> list[Path]:
    if located is not None:
        return _all_of(path, sorted(set(located.values())), "The index lists it")
    if (path / _WHOLE_NAME).is_file():
        return _all_of(path, [_WHOLE_NAME], "")
    shard = min(
        (file.name for file in path.iterdir() if _SHARD_NAME.fullmatch(file.name)), default=""
    )
    if match := _SHARD_NAME.fullmatch(shard):
        count = int(match["count"])
        wanted = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
        return _all_of(path, wanted, f"{shard} says that there are {count} such files")
    pickles = sorted([*path.glob("*.bin"), *path.glob("*.pth"), *path.glob("*.pt")])
    if pickles:
        raise UnsupportedError(
            f"{path} holds its weights only as {pickles[0].name}.",
            cause="That is a pickle, and loading one runs any code that is in it.",
            way_out="Look for a revision of the model with .safetensors files.",
        )
    raise ModelNotFoundError(
        f"{path} holds no weights.",
        cause=f"There is neither {_WHOLE_NAME} nor {INDEX_NAME}.",
        way_out="Download the checkpoint's .safetensors files into it.",
    )


def _all_of(path: Path, names: list[str], why: str) -> list[Path]:
    found = []
    for name in names:
        file = _file_inside(path, name)
        if file is None:
            raise ModelNotFoundError(
                f"{shown(str(path / name))} is missing.",
                cause=f"{why}; the download may be incomplete.",
                way_out="Download it into the same directory.",
            )
        found.append(file)
    return found


def _require_truthful(
    path: Path, located: dict[str, str], tensors: Mapping[str, SourceTensor]
) -> None:
    """Refuses an index that says other than what the files hold."""
    index = path / INDEX_NAME
    for name, file in located.items():
        if name not in tensors:
            raise _lying(
                index, f"It puts {shown(name)} into {shown(file)}, which does not hold it."
            )
        if tensors[name].path.name != file:
            where = tensors[name].path.name
            raise _lying(index, f"It puts {shown(name)} into {shown(file)}; {where} holds it.")
    left_out = next((name for name in tensors if name not in located), None)
    if left_out is not None:
        where = tensors[left_out].path.name
        raise _lying(index, f"It leaves out {shown(left_out)}, which {where} holds.")


def _lying(index: Path, cause: str) -> FormatError:
    return FormatError(
        f"{index} does not fit the files beside it.",
        cause=cause,
        way_out="Download the whole checkpoint again, from one revision.",
    )


def _json_object(path: Path, limit_bytes: int) -> dict[str, object]:
    try:
        # A pair given twice is either a mistake or an attempt to be read differently elsewhere.
        parsed = json.loads(_read(path, limit_bytes), object_pairs_hook=unique_pairs)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"Its JSON cannot be read ({str(error)[:80]}).") from error
    if not isinstance(parsed, dict):
        raise damaged(path, "Its JSON is no object.")
    return parsed


def _read(path: Path, limit_bytes: int) -> bytes:
    size = file_bytes(path)
    if size > limit_bytes:
        raise damaged(path, f"It has {size} bytes, more than {limit_bytes}.")
    return bytes(read_bytes(path, 0, size))
