"""Which files of a hub's repository make one ONNX model: its graph, its data, what lies beside it.

It knows names and how publishers lay them out (`onnx/model_q4.onnx` under the tokenizer, a folder
for each device of onnxruntime-genai's), reads the fetched graph for the names of its data files,
and transfers nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from .artifact.onnx.folder import EXPORTS_FOLDER, GENAI_CONFIG_NAME, MERGED, is_superseded
from .artifact.onnx.graph import read_data_names
from .errors import HubError

LEVEL_PREFIX = "onnx:"
"""What the name of a level begins with when it is meant for this format."""
SIDE_FILES = (
    "config.json", "generation_config.json", GENAI_CONFIG_NAME, "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
    "modules.json", "1_Pooling/config.json", "sentence_bert_config.json",
)  # fmt: skip
"""What is read beside a graph, and what onnxruntime-genai reads: data, never code."""

_SPELLINGS = {
    "int4": ("q4",),
    "q4": ("int4",),
    "int8": ("quantized", "q8", "uint8", "qint8", "quint8"),
    "q8": ("int8", "quantized", "uint8"),
    "q4f16": ("int4-fp16",),
    "fp16": ("float16", "f16"),
    "f16": ("fp16", "float16"),
    "fp32": ("float32", "f32"),
    "f32": ("fp32", "float32"),
}
"""What publishers call a level, likeliest first."""
_PLAIN = ("fp32", "f32")
_CODE = re.compile(
    r".*\.(py[cdow]?|pkl|pickle|joblib|pth?|ckpt|so|dll|dylib|exe|sh|bat|js)"
    r"|(pytorch_model|training_args|optimizer|rng_state).*\.bin",
    re.IGNORECASE,
)


def models(names: Iterable[str]) -> tuple[str, ...]:
    """The ONNX models among a repository's files, sorted, halves of others left out."""
    found = [PurePosixPath(name) for name in names if name.lower().endswith(".onnx")]
    stems: dict[PurePosixPath, set[str]] = {}
    for path in found:
        stems.setdefault(path.parent, set()).add(path.stem)
    return tuple(sorted(str(p) for p in found if not is_superseded(p.stem, stems[p.parent])))


def matching(choice: str, found: tuple[str, ...]) -> tuple[str, ...]:
    """The models that a choice may mean: a file, a folder, a level; several when it is unclear."""
    if choice in found:
        return (choice,)
    folder = choice.strip("/")
    for inside in (found_in(folder, found), tuple(n for n in found if f"/{folder}/" in f"/{n}")):
        if inside:
            return inside
    level = choice.lower().removeprefix(LEVEL_PREFIX)
    for word in (level, *_SPELLINGS.get(level, ())):
        for part in (_file_name, str):
            hits = tuple(name for name in found if _holds(part(name), word))
            if hits:
                return hits
    if level in _PLAIN:  # the plain export has no level in its name
        return tuple(name for name in found if PurePosixPath(name).stem in ("model", MERGED))
    return ()


def found_in(folder: str, found: tuple[str, ...]) -> tuple[str, ...]:
    """The models in a folder of the repository, or below it."""
    return tuple(name for name in found if name.startswith(f"{folder}/"))


def _file_name(name: str) -> str:
    return PurePosixPath(name).name


def _holds(name: str, word: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", name.lower()) is not None


def side_files(model: str, names: Collection[str]) -> tuple[str, ...]:
    """The small files that belong to a model, beside it or above a folder called `onnx`."""
    folder = PurePosixPath(model).parent
    places = (folder, folder.parent) if folder.name == EXPORTS_FOLDER else (folder,)
    found = []
    for name in SIDE_FILES:
        paths = (str(place / name) for place in places)
        found += [path for path in paths if path in names][:1]
    return tuple(found)


def data_files(graph: Path, model: str, names: Collection[str]) -> tuple[str, ...]:
    """The files that hold a fetched graph's weights, as the repository calls them.

    Raises FormatError for a graph that is none or wants a file outside its folder, HubError for a
    file that the repository lacks or that is no data.
    """
    found = []
    for location in read_data_names(graph):
        name = str(PurePosixPath(model).parent / location.replace("\\", "/"))
        if _CODE.fullmatch(PurePosixPath(name).name):
            raise HubError(
                f"{model} says its weights are in {location[:80]!r}.",
                cause="That is the name of a program or of a pickle, which is never fetched.",
                way_out="Do not run it.",
            )
        if name not in names:
            raise HubError(
                f"{model} keeps its weights in {location[:80]!r}, which the repository lacks.",
                way_out="Choose another file of it, or ask its publisher.",
            )
        found.append(name)
    return tuple(dict.fromkeys(found))
