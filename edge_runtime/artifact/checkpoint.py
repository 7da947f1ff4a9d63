"""A Hugging Face model directory: what it is called, its `config.json` found, bounded, parsed.

It reads no weights and no tokenizer, and judges no value: `config` does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from ..errors import ArtifactError, FormatError, ModelNotFoundError
from ..units import format_bytes

CONFIG_NAME = "config.json"
_MAX_CONFIG_BYTES = 8 * 1024**2


def read_config(path: str | os.PathLike[str]) -> Mapping[str, object]:
    """The parsed `config.json` of a model directory, or of the file itself.

    Raises ModelNotFoundError when there is none, FormatError when it is too large or no JSON
    object, ArtifactError when it cannot be read.
    """
    where = Path(path)
    if where.is_dir():
        if not (where / CONFIG_NAME).is_file():
            raise ModelNotFoundError(
                f"{where} is no model directory.",
                cause=f"It has no {CONFIG_NAME}.",
                way_out="Give the directory a model was downloaded to, or a GGUF file.",
            )
        where /= CONFIG_NAME
    try:
        with where.open("rb") as file:
            data = file.read(_MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise ModelNotFoundError(f"There is no file {where}.") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{where} cannot be read.", cause=f"{error}.") from error
    if len(data) > _MAX_CONFIG_BYTES:
        raise FormatError(f"{where} is larger than {format_bytes(_MAX_CONFIG_BYTES)}: no config.")
    try:
        config = json.loads(data, parse_constant=_refuse_constant)
    # A deeply nested text exhausts the parser's stack, which is one more way of being no config.
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{where} is no JSON file.",
            cause=f"{error}.",
            way_out="Download the file itself from the model's repository.",
        ) from None
    if not isinstance(config, dict):
        raise FormatError(f"{where} holds no JSON object.")
    return config


def checkpoint_name(path: str | os.PathLike[str]) -> str:
    """What a model's directory is called; one of the Hugging Face cache by its repository."""
    for where in (Path(path).absolute(), Path(path).resolve()):
        repository = where.parent.parent.name
        if where.parent.name == "snapshots" and repository.startswith("models--"):
            return repository.rpartition("--")[2]
    return where.name or "model"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
