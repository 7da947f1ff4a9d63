"""Where a model comes from: a path, a directory, or a hub, always ending in a local path.

It knows the places where other programs keep models (the Hugging Face cache, Ollama's store, LM
Studio's folder). It reads no weights; what a file is, `artifact` says. Nothing is downloaded unless
the reference begins with `hf:`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .artifact import Artifact
from .artifact.checkpoint import checkpoint_name
from .artifact.onnx.folder import is_onnx, model_name, models_in, side_file
from .errors import EdgeError, ModelNotFoundError, UnsupportedError, UsageError

HUB_PREFIX = "hf:"
_SPLIT_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_FILES = 20_000
CHECKPOINT_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "chat_template.jinja", "chat_template.json", "modules.json",
    "1_Pooling/config.json", "model.safetensors.index.json",
)  # fmt: skip
"""What a conversion may read of a checkpoint beside its weights: never a pickle, never code."""
_OLLAMA_MODEL_LAYER = "application/vnd.ollama.image.model"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModel:
    """A GGUF or ONNX model found on the disk. `source` says whose folder it lies in.

    Where its header cannot be read, `problem` says why and the fields from it are None.
    """

    name: str
    path: Path
    source: str
    size_bytes: int
    level: str | None = None
    parameters: int | None = None
    architecture: str | None = None
    problem: str | None = None


def resolve(
    reference: str | os.PathLike[str],
    *,
    on_download: Callable[[str, int | None], None] | None = None,
) -> Path:
    """The local path of a model: of a GGUF or ONNX file, fetched first when it is on a hub.

    A directory must hold one model, or a `genai_config.json` that names one.
    `hf:owner/repo[:file-or-level]` is fetched with huggingface_hub into its cache; `on_download` is
    told the file name and its size before that. Raises ModelNotFoundError, UnsupportedError for a
    checkpoint that is not converted yet, UsageError for a malformed reference, HubError.
    """
    if isinstance(reference, str) and reference.startswith(HUB_PREFIX):
        from .hub import fetch, parse

        return fetch(parse(reference), on_download=on_download)
    text = os.fspath(reference)
    if not text or "\0" in text:
        raise UsageError(f"{text!r} is no path.", way_out="Name a GGUF file or an ONNX folder.")
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            return _only_model_in(path)
        if path.is_file():
            return path
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read.", cause=f"{error.strerror}.") from error
    if path.exists():
        raise ModelNotFoundError(f"{path} is no regular file.")
    raise ModelNotFoundError(
        f"There is no {path}.",
        way_out="See what is on this disk with: edge models"
        + (f"; or fetch it with: hf:{text}" if re.fullmatch(r"[\w.-]+/[\w.-]+", text) else ""),
    )


def resolve_checkpoint(
    reference: str | os.PathLike[str],
    *,
    on_download: Callable[[str, int | None], None] | None = None,
) -> Path:
    """The local directory of a checkpoint, fetched first when it is on a hub.

    `hf:owner/repo[@revision]` is fetched as `hub.fetch_checkpoint` says. Raises ModelNotFoundError,
    UsageError for what is a GGUF or ONNX file already or no reference, HubError.
    """
    if isinstance(reference, str) and reference.startswith(HUB_PREFIX):
        from .hub import fetch_checkpoint, parse

        return fetch_checkpoint(parse(reference), on_download=on_download)
    text = os.fspath(reference)
    if not text or "\0" in text:
        raise UsageError(f"{text!r} is no path.", way_out="Name a checkpoint's directory.")
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            return path
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read.", cause=f"{error.strerror}.") from error
    if path.suffix.lower() == ".gguf" and path.is_file():
        raise UsageError(
            f"{path} is a GGUF file already.",
            way_out=f"For another level: edge quantize {shlex.quote(text)} --level Q4_K_M",
        )
    if path.suffix.lower() == ".onnx" and path.is_file():
        raise UsageError(
            f"{path} is an ONNX model already.",
            way_out=f"For another level: edge quantize {shlex.quote(text)} --level int4",
        )
    if path.exists():
        raise ModelNotFoundError(
            f"{path} is no checkpoint.",
            cause="A checkpoint is a directory.",
            way_out=f"Name the one that holds it: {shlex.quote(str(path.parent))}",
        )
    way_out = "Name a directory with config.json and .safetensors files, or hf:owner/repo."
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        way_out = f"To fetch it from the hub: hf:{text}"
    raise ModelNotFoundError(f"There is no {path}.", way_out=way_out)


def convert_command(checkpoint: str | os.PathLike[str], level: str = "Q4_K_M") -> str:
    """The command that makes a GGUF file of a checkpoint, to be pasted."""
    text = os.fspath(checkpoint)
    if text.startswith(HUB_PREFIX):
        name = text.rpartition("/")[2].partition("@")[0]
    else:
        name = checkpoint_name(Path(text))
    out = shlex.quote(f"{name}-{level}.gguf")
    return f"edge convert {shlex.quote(text)} --level {level} -o {out}"


def cache_directory() -> Path:
    """Where this program keeps what it can make again: EDGE_CACHE_DIR, or the system's place."""
    chosen = os.environ.get("EDGE_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    explicit = os.environ.get("XDG_CACHE_HOME")
    if explicit:
        return Path(explicit).expanduser() / "edge-runtime"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edge-runtime"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "edge-runtime"
    return Path.home() / ".cache" / "edge-runtime"


def is_checkpoint(path: Path) -> bool:
    """Whether a directory holds a Hugging Face checkpoint: a config.json beside safetensors."""
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError:
        return False
    return "config.json" in names and any(name.endswith(".safetensors") for name in names)


def first_parts(names: Iterable[str]) -> tuple[str, ...]:
    """The GGUF names among these, a split model by its first part only, sorted."""
    found = []
    for name in names:
        if not name.lower().endswith(".gguf"):
            continue
        part = _SPLIT_PART.search(name)
        if part is None or int(part[1]) == 1:
            found.append(name)
    return tuple(sorted(found))


def _only_model_in(folder: Path) -> Path:
    try:
        names = first_parts(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise ModelNotFoundError(f"{folder} cannot be read.", cause=f"{error.strerror}.") from error
    # A vision projector lies beside many models and is none itself.
    models = [name for name in names if not name.lower().startswith("mmproj")]
    models += [path.relative_to(folder).as_posix() for path in models_in(folder)]
    if len(models) == 1:
        return folder / models[0]
    if models:
        raise ModelNotFoundError(
            f"{folder} holds {len(models)} models.",
            cause=f"{', '.join(models[:8])}{', ...' if len(models) > 8 else ''}.",
            way_out=f"Name one: {shlex.quote(str(folder / models[0]))}",
        )
    if is_checkpoint(folder):
        raise UnsupportedError(
            f"{folder} is a Hugging Face checkpoint.",
            cause="It must be converted to a GGUF file before it can run.",
            way_out=convert_command(folder),
        )
    raise ModelNotFoundError(
        f"{folder} holds no model.", cause="No .gguf and no .onnx file is in it."
    )


def installed(extra_folders: Iterable[Path] = ()) -> tuple[InstalledModel, ...]:
    """Every GGUF and ONNX model in the known places and the given folders, each file once.

    An .onnx file counts where a config lies beside it: others are no language models. Order: given
    folders, Hugging Face cache, Ollama, LM Studio; by name inside each. Raises ModelNotFoundError
    when a given folder is not there.
    """
    found: dict[Path, InstalledModel] = {}
    for folder in extra_folders:
        if not folder.is_dir():
            raise ModelNotFoundError(f"{folder} is no directory.")
        _add(found, str(folder), ((_file_name(path), path) for path in _models_below(folder)))
    _add(found, "Hugging Face cache", _in_hub_cache(_hub_cache()))
    _add(found, "Ollama", _in_ollama(_ollama_store()))
    for folder in (Path.home() / ".lmstudio/models", Path.home() / ".cache/lm-studio/models"):
        _add(found, "LM Studio", ((path.stem, path) for path in _models_below(folder)))
    return tuple(found.values())


def _add(
    found: dict[Path, InstalledModel], source: str, models: Iterable[tuple[str, Path]]
) -> None:
    for name, path in models:
        try:
            real = path.resolve(strict=True)
        except OSError:
            continue  # a link whose file was deleted
        if real not in found:
            found[real] = _described(name, path, source)


def _described(name: str, path: Path, source: str) -> InstalledModel:
    size = path.stat().st_size
    try:
        artifact = Artifact.open(path)
    except EdgeError as error:
        problem = " ".join(part for part in (error.fact, error.cause) if part)
        return InstalledModel(name=name, path=path, source=source, size_bytes=size, problem=problem)
    return InstalledModel(
        name=name,
        path=path,
        source=source,
        size_bytes=artifact.size_bytes,
        level=artifact.level,
        parameters=artifact.parameters,
        architecture=artifact.shape.architecture,
    )


def _file_name(path: Path) -> str:
    """A model's file name; of an ONNX model, whose file is called like all others, its folder's."""
    if not is_onnx(path):
        return path.name
    name = model_name(path)
    return name if path.stem in ("model", name) else f"{name}:{path.name}"


def _models_below(folder: Path) -> Iterator[Path]:
    """The models under a folder, sorted by path; hidden folders and link loops left out."""
    seen = 0
    for root, folders, names in os.walk(folder, onerror=None, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in first_parts(names):
            yield Path(root) / name
        if any(name.endswith(".onnx") for name in names):
            yield from _onnx_models(Path(root))
        seen += len(names)
        if seen > _MAX_FILES:
            return


def _onnx_models(folder: Path) -> Iterator[Path]:
    try:
        found = models_in(folder)
    except EdgeError:
        # Its genai_config.json is no good; opening a file of the folder says in which way.
        found = tuple(sorted(folder.glob("*.onnx")))[:1]
    for path in found:
        if side_file(path, "config.json") or side_file(path, "genai_config.json"):
            yield path


def _hub_cache() -> Path:
    """The Hugging Face cache as huggingface_hub finds it (its environment variables)."""
    explicit = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "huggingface" / "hub"


def _in_hub_cache(cache: Path) -> Iterator[tuple[str, Path]]:
    for repo in sorted(cache.glob("models--*")):
        name = repo.name.removeprefix("models--").replace("--", "/")
        for path in _models_below(repo / "snapshots"):
            inner = "/".join(path.relative_to(repo / "snapshots").parts[1:])
            yield f"{name}:{inner if is_onnx(path) else path.name}", path


def _ollama_store() -> Path:
    explicit = os.environ.get("OLLAMA_MODELS")
    return Path(explicit).expanduser() if explicit else Path.home() / ".ollama" / "models"


def _in_ollama(store: Path) -> Iterator[tuple[str, Path]]:
    """The models of Ollama's manifests: small JSON files that name content-addressed blobs."""
    for manifest in sorted((store / "manifests").glob("*/*/*/*")):
        digest = _ollama_digest(manifest)
        if digest is None:
            continue
        *_, namespace, model, tag = manifest.parts
        name = f"{model}:{tag}" if namespace == "library" else f"{namespace}/{model}:{tag}"
        yield name, store / "blobs" / digest.replace(":", "-")


def _ollama_digest(manifest: Path) -> str | None:
    try:
        if not manifest.is_file() or manifest.stat().st_size > _MAX_MANIFEST_BYTES:
            return None
        layers = json.loads(manifest.read_bytes())["layers"]
        digests = [item["digest"] for item in layers if item["mediaType"] == _OLLAMA_MODEL_LAYER]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not a manifest; other programs may keep files here too
    digest = digests[0] if digests else None
    good = isinstance(digest, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    return digest if good else None
