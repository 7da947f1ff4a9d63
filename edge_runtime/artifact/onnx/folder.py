"""Folders of ONNX models: which file a folder stands for, and the small files beside it.

Three layouts are known: a folder of onnxruntime-genai (`genai_config.json` names the model), one of
exports (`model.onnx`, perhaps under `onnx/` beside the tokenizer), and a single file. Contents of a
graph are another matter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from ...errors import ArtifactError, FormatError, ModelNotFoundError, UnsupportedError
from ...units import format_bytes
from ..checkpoint import CONFIG_NAME, read_config

GENAI_CONFIG_NAME = "genai_config.json"
EXPORTS_FOLDER = "onnx"
TOKENIZER_NAME = "tokenizer.json"

_OTHER_PARTS = ("vision", "speech", "audio", "embedding", "encoder")
_MAX_ENTRIES = 20_000
MAX_SIDE_BYTES = 64 * 1024**2
_MAX_TEMPLATE_BYTES = 4 * 1024**2
# Older exports of a decoder: the merged one runs, the others are its halves.
MERGED = "decoder_model_merged"
_FIRST, _LATER = "decoder_model", "decoder_with_past_model"
_HALVES = (_FIRST, _LATER)


def is_onnx(path: Path) -> bool:
    """Whether a file is an ONNX model by its name."""
    return path.suffix.lower() in (".onnx", ".ort")


def is_superseded(stem: str, stems: Collection[str]) -> bool:
    """Whether an export is a half of a decoder that another one in its folder stands for.

    Both are what a merged one was made of. Of a pair alone the half that takes a past stands for
    both: with an empty one it does what the other does.
    """
    if stem.startswith(MERGED) or not stem.startswith(_HALVES):
        return False
    if any(other.startswith(MERGED) for other in stems):
        return True
    return stem.startswith(_FIRST) and stem.replace(_FIRST, _LATER, 1) in stems


def models_in(folder: Path) -> tuple[Path, ...]:
    """The ONNX models a folder holds, the one that stands for it first; () when it holds none.

    What genai's config names stands for all. Raises FormatError for such a config that cannot be.
    """
    genai = genai_config(folder)
    if genai is not None:
        return (_named_by_genai(folder, genai),)
    for place in (folder, folder / EXPORTS_FOLDER):
        found = _exports(place)
        if found:
            return found
    return ()


def model_in(folder: Path) -> Path:
    """The one ONNX model of a folder.

    Raises ModelNotFoundError when there is none, or several to choose from.
    """
    found = models_in(folder)
    if not found:
        raise ModelNotFoundError(f"{folder} holds no model.", cause="No .onnx file is in it.")
    if len(found) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found[:8])
        raise ModelNotFoundError(
            f"{folder} holds {len(found)} models.",
            cause=f"{names}{', ...' if len(found) > 8 else ''}.",
            way_out=f"Name one: {found[0]}",
        )
    return found[0]


def side_file(model: Path, name: str) -> Path | None:
    """A small file that belongs to a model: beside it, or above when the folder is `onnx`."""
    folders = [model.parent]
    if model.parent.name == EXPORTS_FOLDER:
        folders.append(model.parent.parent)
    for folder in folders:
        path = folder / name
        if path.is_file():
            return path
    return None


def model_name(model: Path) -> str:
    """What a model is called: its folder's name, that of a hub's cache by its repository."""
    folder = model.absolute().parent
    if folder.name == EXPORTS_FOLDER:
        folder = folder.parent
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.rpartition("--")[2]
    usual = model.stem.startswith(("model", "decoder"))
    return (folder.name if usual else "") or model.stem


def genai_config(folder: Path) -> Mapping[str, object] | None:
    """The parsed `genai_config.json` of a folder, None when there is none.

    Raises FormatError when it is no JSON object, or does not describe a model.
    """
    path = folder / GENAI_CONFIG_NAME
    if not path.is_file():
        return None
    config = read_config(path)
    if not isinstance(config.get("model"), dict):
        raise FormatError(
            f"{path} describes no model.", way_out="Download or convert the folder again."
        )
    return config


def genai_file_name(config: Path) -> str | None:
    """The model file that a `genai_config.json` names; None where it names none."""
    stated = genai_config(config.parent)
    model = stated["model"] if stated is not None else None
    decoder = model.get("decoder") if isinstance(model, Mapping) else None
    name = decoder.get("filename") if isinstance(decoder, Mapping) else None
    return name if isinstance(name, str) else None


def model_config(model: Path) -> Mapping[str, object] | None:
    """The parsed `config.json` that belongs to a model, None when there is none."""
    path = side_file(model, CONFIG_NAME)
    return None if path is None else read_config(path)


def chat_template(model: Path) -> str | None:
    """The chat template beside a model: a file of its own, or in `tokenizer_config.json`.

    Raises FormatError for one that cannot be read.
    """
    path = side_file(model, "chat_template.jinja")
    if path is not None:
        return _text(path, _MAX_TEMPLATE_BYTES)
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = side_file(model, name)
        if path is None:
            continue
        found = _template_of(read_json(path).get("chat_template"))
        if found is not None:
            return found
    return None


def _template_of(stated: object) -> str | None:
    """The template itself, or the one called `default` in a list of several."""
    if isinstance(stated, str):
        return stated
    if not isinstance(stated, list):
        return None
    named = {item.get("name"): item.get("template") for item in stated if isinstance(item, Mapping)}
    found = named.get("default")
    return found if isinstance(found, str) else None


def _named_by_genai(folder: Path, config: Mapping[str, object]) -> Path:
    model = config["model"]
    decoder = model.get("decoder") if isinstance(model, Mapping) else None
    if not isinstance(decoder, Mapping):
        raise UnsupportedError(
            f"{folder / GENAI_CONFIG_NAME} names no decoder.",
            cause="Only models that continue a text run here.",
        )
    parts = [key for key in _OTHER_PARTS if isinstance(model, Mapping) and key in model]
    if parts:
        raise UnsupportedError(
            f"{folder / GENAI_CONFIG_NAME} describes a model of several parts.",
            cause=f"Beside the decoder there is: {', '.join(parts)}. Only models of text alone run"
            " here.",
            way_out="Run it with onnxruntime-genai.",
        )
    name = decoder.get("filename")
    if not isinstance(name, str) or not name or Path(name).name != name or "\\" in name:
        if isinstance(decoder.get("pipeline"), list):
            raise UnsupportedError(
                f"{folder / GENAI_CONFIG_NAME} describes a pipeline of several models.",
                cause="Such folders are made for one accelerator and run with onnxruntime-genai.",
            )
        raise FormatError(
            f"{folder / GENAI_CONFIG_NAME} names no model file in its folder.",
            cause=f"It says {str(name)[:80]!r}.",
            way_out="Download or convert the folder again.",
        )
    path = folder / name
    if not path.is_file():
        there = os.path.lexists(path)
        raise ModelNotFoundError(
            f"{path} is {'no regular file' if there else 'missing'}.",
            cause=f"{GENAI_CONFIG_NAME} names it.",
            way_out="Download the whole folder.",
        )
    return path


def _exports(folder: Path) -> tuple[Path, ...]:
    """The models of a folder by name, `model.onnx` first; halves of a merged one left out."""
    found = []
    try:
        for count, entry in enumerate(folder.iterdir()):
            if count >= _MAX_ENTRIES:
                break
            if entry.suffix.lower() == ".onnx" and entry.is_file():
                found.append(entry)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise ModelNotFoundError(f"{folder} cannot be read.", cause=f"{error.strerror}.") from error
    stems = {path.stem for path in found}
    found = [path for path in found if not is_superseded(path.stem, stems)]
    return tuple(sorted(found, key=lambda path: (path.stem != "model", path.name)))


def read_json(path: Path) -> Mapping[str, object]:
    """The JSON object in a file beside a model, such as a tokenizer.

    Raises FormatError when it is none or too large, ArtifactError when it cannot be read.
    """
    try:
        config = json.loads(_text(path, MAX_SIDE_BYTES))
    # A deeply nested text exhausts the parser's stack, which is one more way of being no JSON.
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is no JSON file.", cause=f"{error}.") from None
    if not isinstance(config, dict):
        raise FormatError(f"{path} holds no JSON object.")
    return config


def _text(path: Path, most_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            # A read makes room for all it was asked for, so it asks for no more than there is.
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, most_bytes) + 1)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read.", cause=f"{error}.") from error
    if len(data) > most_bytes:
        raise FormatError(f"{path} is larger than {format_bytes(most_bytes)}.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{path} is no UTF-8 text.") from None
