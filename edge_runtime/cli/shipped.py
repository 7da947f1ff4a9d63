"""The trained model that ships with the package, made ready to run: converted once into a cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .. import sources
from ..errors import DiskError, EdgeError, ModelNotFoundError

_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def shipped_checkpoint() -> Path:
    """The folder of the shipped model, as it was trained.

    Raises ModelNotFoundError when the package was installed without it.
    """
    folder = Path(__file__).resolve().parent.parent / "tiny_model"
    if not (folder / "config.json").exists():
        raise ModelNotFoundError(
            "The shipped model is missing.",
            cause=f"{folder} is not there.",
            way_out="Install again (pip install --force-reinstall edge-runtime), or name a model.",
        )
    return folder


def shipped_model(*, level: str = "F16") -> Path:
    """The shipped model as a GGUF file in the cache, converted when it is not there yet.

    Raises what `shipped_checkpoint` raises, DiskError when the cache cannot be written.
    """
    folder = shipped_checkpoint()
    digest = hashlib.sha256()
    try:
        for name in _FILES:
            if (folder / name).exists():
                digest.update((folder / name).read_bytes())
    except OSError as error:
        raise ModelNotFoundError("The shipped model cannot be read.", cause=f"{error}.") from error
    path = sources.cache_directory() / f"tiny-{digest.hexdigest()[:12]}-{level.lower()}.gguf"
    if not _is_good(path):
        import quantize

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskError(
                f"{path.parent} cannot be made.",
                cause=f"{error.strerror}.",
                way_out="Set EDGE_CACHE_DIR to a folder that can be written, or name a model.",
            ) from error
        quantize.convert(folder, path, level=level, overwrite=True)
    return path


def _is_good(path: Path) -> bool:
    from ..artifact import Artifact

    try:
        Artifact.open(path)
    except EdgeError:
        return False
    return True
