"""Fetches models from a Hugging Face hub through huggingface_hub: GGUF, ONNX, or a checkpoint.

`hf:owner/repo` names a repository, `hf:owner/repo:file.gguf` a file in it, `hf:owner/repo:Q4_K_M`
or `hf:owner/repo:q4` the one of that level, `hf:owner/repo:folder` the ONNX model in a folder;
`hf:owner/repo@revision` is a branch or a commit. Only data is fetched, never a pickle and never
code. The library does the transfer: it honours HF_ENDPOINT,
HF_HOME and HF_TOKEN, goes on after a broken connection and checks sizes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import hub_onnx
from .artifact.onnx.folder import GENAI_CONFIG_NAME, genai_file_name, is_onnx
from .errors import (
    ArtifactError,
    FormatError,
    HubError,
    ModelNotFoundError,
    UnsupportedError,
    UsageError,
)
from .hub_transfer import (
    HubReference,
    NoHubError,
    Remote,
    download,
    library,
    listing,
    snapshot,
    unreachable_hub,
)
from .sources import (
    CHECKPOINT_FILES,
    HUB_PREFIX,
    convert_command,
    first_parts,
    is_checkpoint,
)

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_NAME}/{_NAME}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}")
_PREFERRED = ("Q4_K_M", "Q4_0", "Q8_0")
_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"
_MAX_INDEX_BYTES = 64 * 1024**2
_IN_FOLDERS = re.compile(r"additional_chat_templates/[^/]+\.jinja|\d+_Pooling/config\.json")
_PICKLE = re.compile(r".*\.(bin|pt|pth|ckpt)")
_PART_COUNT = re.compile(r"-00001-of-(\d{5})\.gguf$")


def parse(reference: str) -> HubReference:
    """Reads `hf:owner/repo[@revision][:file-or-level]`. Raises UsageError."""
    repo, _, choice = reference.removeprefix(HUB_PREFIX).partition(":")
    repo, _, revision = repo.partition("@")
    unsafe = ".." in reference or "\\" in choice or choice.startswith("/") or "\0" in choice
    wrong_revision = revision and _REVISION.fullmatch(revision) is None
    if _REPO.fullmatch(repo) is None or unsafe or wrong_revision:
        raise UsageError(
            f"{reference!r} names nothing on a hub.",
            way_out="Write hf:owner/repo, hf:owner/repo:file.gguf or hf:owner/repo:Q4_K_M"
            " (hf:owner/repo:q4 for ONNX).",
        )
    return HubReference(repo=repo, revision=revision or None, choice=choice or None)


def fetch(
    reference: HubReference, *, on_download: Callable[[str, int | None], None] | None = None
) -> Path:
    """The local path of the model, downloaded into huggingface_hub's cache if it is not there.

    All parts of a split model are fetched, the path is the first one's; of an ONNX model its graph,
    which is the path, its data and the small files that belong to it. Without a hub in reach, what
    was fetched before is used. Raises HubError, ModelNotFoundError, FormatError, DiskError.
    """
    hub = library()
    try:
        files = listing(hub, reference)
    except NoHubError as unreachable:
        return _from_cache(hub, reference, unreachable)
    files = {name: remote for name, remote in files.items() if _is_safe(name)}

    def get(name: str, *, tell: bool = True) -> Path:
        return download(hub, reference, name, files[name], on_download if tell else None)

    chosen = _choose(reference, tuple(files), lambda name: get(name, tell=False))
    if is_onnx(Path(chosen)):
        return _fetch_onnx(reference, chosen, files, get)
    paths = [get(name) for name in _parts(chosen, files)]
    return paths[0]


def _fetch_onnx(
    reference: HubReference,
    model: str,
    files: dict[str, Remote],
    get: Callable[..., Path],
) -> Path:
    """Fetches one ONNX model; the small files first, its data when the graph has named it."""
    fetched = {name: get(name, tell=False) for name in hub_onnx.side_files(model, files)}
    graph = fetched[model] = get(model)
    for name in hub_onnx.data_files(graph, model, files):
        fetched[name] = get(name)
    _check_one_snapshot(reference, fetched)
    return graph


def _check_one_snapshot(reference: HubReference, fetched: Mapping[str, Path]) -> Path:
    """The folder that all the files lie in. Raises HubError when they are of two revisions."""
    folders = {path.parents[name.count("/")] for name, path in fetched.items()}
    if len(folders) != 1:
        raise HubError(
            f"{reference.repo} was changed while it was fetched.",
            way_out="Run the command again: what did not change is kept.",
        )
    return folders.pop()


def fetch_checkpoint(
    reference: HubReference, *, on_download: Callable[[str, int | None], None] | None = None
) -> Path:
    """The local directory of a checkpoint, in huggingface_hub's cache.

    Config, tokenizer files and the safetensors that the index names, nothing else. Before anything
    large is fetched, `on_download` is told how many files there are and their size; then each one
    that is not there yet. Raises UsageError, HubError, ModelNotFoundError, UnsupportedError for
    weights that exist only as a pickle, DiskError.
    """
    if reference.choice is not None:
        raise UsageError(
            f"{reference.choice!r} is one file; a checkpoint is the whole repository.",
            way_out=f"Write hf:{reference.repo}",
        )
    hub = library()
    try:
        files = listing(hub, reference)
    except NoHubError as unreachable:
        return _checkpoint_from_cache(hub, reference, unreachable)
    files = {name: remote for name, remote in files.items() if _is_safe(name)}
    if "config.json" not in files:
        raise _no_checkpoint(reference, files)
    wanted = [n for n in files if n in CHECKPOINT_FILES or _IN_FOLDERS.fullmatch(n) is not None]
    if _INDEX in files:
        index = download(hub, reference, _INDEX, files[_INDEX], None)
        wanted += _shards(index, reference, files)
    elif _WHOLE in files:
        wanted.append(_WHOLE)
    else:
        raise _no_checkpoint(reference, files)
    if on_download is not None and not _is_cached(hub, reference, wanted):
        sizes = [files[name].size_bytes or 0 for name in wanted]
        on_download(f"{len(wanted)} files of {reference.repo}", sum(sizes))
    fetched = {n: download(hub, reference, n, files[n], on_download) for n in wanted}
    return _check_one_snapshot(reference, fetched)


def _shards(index: Path, reference: HubReference, files: dict[str, Remote]) -> list[str]:
    """The weight files that an index names, each of them listed by the hub."""
    where = f"The index of {reference.repo}"
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise FormatError(f"{where} is too large to be one.")
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{where} names no files.", cause=f"{type(error).__name__}.") from error
    for name in names:
        # Beside the index, and of the one format that holds data only.
        good = isinstance(name, str) and name.endswith(".safetensors") and "/" not in name
        if not good or name not in files:
            raise HubError(f"{where} names {str(name)[:80]!r}, which the repository lacks.")
    return sorted(names)


def _no_checkpoint(reference: HubReference, files: dict[str, Remote]) -> ArtifactError:
    """Why a repository cannot be converted, and what can be done with it instead."""
    if first_parts(files):
        return UnsupportedError(
            f"{reference.repo} holds GGUF files, no checkpoint.",
            cause="They need no conversion.",
            way_out=f"edge run hf:{reference.repo}",
        )
    if "config.json" in files and any(_PICKLE.fullmatch(name) for name in files):
        return UnsupportedError(
            f"{reference.repo} holds its weights only as pickles.",
            cause="Loading one runs whatever code is in it.",
            way_out="Look for a revision (hf:owner/repo@revision) with .safetensors files.",
        )
    lacking = "config.json" if "config.json" not in files else f"{_WHOLE}, nor an index of several"
    return ModelNotFoundError(f"{reference.repo} is no checkpoint.", cause=f"It has no {lacking}.")


def _is_cached(hub: Any, reference: HubReference, names: list[str]) -> bool:
    return all(
        isinstance(
            hub.try_to_load_from_cache(reference.repo, name, revision=reference.revision), str
        )
        for name in names
    )


def _checkpoint_from_cache(hub: Any, reference: HubReference, unreachable: NoHubError) -> Path:
    """A checkpoint fetched before; whether it is complete, its reader finds out."""
    folder = snapshot(hub, reference, unreachable)
    if not is_checkpoint(folder):
        raise unreachable_hub(reference, unreachable) from unreachable
    return folder


def _choose(
    reference: HubReference, names: tuple[str, ...], local: Callable[[str], Path | None]
) -> str:
    """The one file meant. Raises ModelNotFoundError that lists what there is.

    `local` gives the path of a small file that must be read to know.
    """
    choice = reference.choice
    graphs = hub_onnx.models(names)
    only_graphs = choice is not None and choice.startswith(hub_onnx.LEVEL_PREFIX)
    ggufs = () if only_graphs else first_parts(names)
    ggufs = tuple(m for m in ggufs if not Path(m).name.lower().startswith("mmproj"))
    models = (*ggufs, *graphs)
    if not models:
        raise _no_model(reference, names)
    if choice in models or (choice in names and is_onnx(Path(choice))):
        return choice
    if choice is not None:
        word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(choice)}(?![A-Za-z0-9_])", re.IGNORECASE)
        matching = [name for name in ggufs if word.search(Path(name).name)]
        matching += _named_by_genai(hub_onnx.matching(choice, graphs), names, local)
        if len(matching) == 1:
            return matching[0]
        models = tuple(matching) or models
        fact = f"{reference.repo} has {'several files' if matching else 'no file'} for {choice}."
        raise ModelNotFoundError(fact, **_choices(reference, models))
    models = (*ggufs, *_named_by_genai(graphs, names, local))
    if len(models) == 1:
        return models[0]
    for level in _PREFERRED if not graphs else ():
        matching = [name for name in models if level.lower() in Path(name).name.lower()]
        if len(matching) == 1:
            return matching[0]
    raise ModelNotFoundError(
        f"{reference.repo} holds {len(models)} models.", **_choices(reference, models)
    )


def _named_by_genai(
    graphs: tuple[str, ...], names: tuple[str, ...], local: Callable[[str], Path | None]
) -> tuple[str, ...]:
    """Several graphs of one folder become the one that its `genai_config.json` names."""
    folders = {name.rpartition("/")[0] for name in graphs}
    if len(graphs) < 2 or len(folders) != 1:
        return graphs
    config = "/".join(filter(None, (*folders, GENAI_CONFIG_NAME)))
    path = local(config) if config in names else None
    if path is None:
        return graphs
    named = genai_file_name(path)
    return tuple(name for name in graphs if name.rpartition("/")[2] == named) or graphs


def _no_model(reference: HubReference, names: tuple[str, ...]) -> ArtifactError:
    if "config.json" in names and any(name.endswith(".safetensors") for name in names):
        return UnsupportedError(
            f"{reference.repo} is a Hugging Face checkpoint and holds no GGUF or ONNX file.",
            cause="It must be converted before it can run.",
            way_out=convert_command(f"{HUB_PREFIX}{reference.repo}"),
        )
    return ModelNotFoundError(
        f"{reference.repo} holds no GGUF or ONNX file.",
        cause="Only those run here; many models have a second repository with them.",
        way_out=f"Look for one named like {reference.repo}-GGUF.",
    )


def _choices(reference: HubReference, models: tuple[str, ...]) -> dict[str, str]:
    shown = ", ".join(models[:20]) + (", ..." if len(models) > 20 else "")
    return {"cause": f"There is: {shown}.", "way_out": f"Name one: hf:{reference.repo}:{models[0]}"}


def _is_safe(name: str) -> bool:
    """Whether a file name sent by a hub stays inside its folder."""
    parts = name.split("/")
    return "\\" not in name and ":" not in name and not {"", ".", ".."} & set(parts)


def _parts(first: str, files: dict[str, Remote]) -> list[str]:
    split = _PART_COUNT.search(first)
    if split is None:
        return [first]
    stem = first[: split.start()]
    names = [f"{stem}-{i:05d}-of-{split[1]}.gguf" for i in range(1, int(split[1]) + 1)]
    missing = [name for name in names if name not in files]
    if missing:
        raise HubError(f"{first} is one part of several, and the hub lacks {missing[0]}.")
    return names


def _from_cache(hub: Any, reference: HubReference, unreachable: NoHubError) -> Path:
    """A model fetched before, when the hub cannot be reached now."""
    folder = snapshot(hub, reference, unreachable)
    names = tuple(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    if not first_parts(names) and not hub_onnx.models(names):
        raise unreachable_hub(reference, unreachable) from unreachable
    return folder / _choose(reference, names, lambda name: folder / name)
