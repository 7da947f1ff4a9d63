"""What `edge compare` is given, and which levels are meant to be made of it.

A checkpoint gives levels of both formats; its reference is F16, or BF16 where its weights are that.
A GGUF file or ONNX model of floats is the reference itself and gives levels of its own format. It
refuses to know how a level is made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..artifact import Artifact, level
from ..artifact.checkpoint import checkpoint_name
from ..errors import EdgeError, ModelNotFoundError, UsageError
from .converting import UNWEIGHTED
from .engines import format_of_level, level_of, require_writable
from .jobs import interruptible, say, told_download
from .options import any_level_name
from .quantizing import stem_of
from .shelf import digest_of, key_of

USUAL_LEVELS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K")
USUAL_ONNX_LEVELS = ("onnx:int8", "onnx:int4")
IMATRIX = "+imatrix"
"""What stands after a level that is made with an importance matrix."""
FLOATS = ("F32", "F16", "BF16", "onnx:fp32", "onnx:fp16")
"""Levels that lost nothing worth speaking of: what others are held against."""

_FETCHED = "What was fetched is kept."


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One model that levels are made of; `reference` is the level they are held against.

    `key` tells it from any other, `stem` begins the names of files; `shipped` marks the model that
    comes with edge-runtime.
    """

    kind: Literal["checkpoint", "gguf", "onnx"]
    path: Path
    stem: str
    reference: str
    key: str
    size_bytes: int
    shipped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A row asked for: a level as it is written (`Q4_K_M`, `onnx:int4`), and how it is made."""

    level: str
    weighted: bool = False

    @property
    def label(self) -> str:
        """The row's name."""
        return self.level + (IMATRIX if self.weighted else "")


def find_source(given: str | None, reference: str | None) -> Source | Artifact:
    """What one SOURCE is: a model that levels can be made of, or a file that is quantized already.

    None is the shipped model. `reference` is a checkpoint's level to hold the others against; None
    takes what its weights are. Raises what resolving, opening and reading a checkpoint raise, and
    UsageError for a reference that is none.
    """
    if given is None:
        from .shipped import shipped_checkpoint

        return _checkpoint(shipped_checkpoint(), reference)
    folder = _checkpoint_folder(given)
    if folder is not None:
        return _checkpoint(folder, reference)
    artifact = open_model(given)
    if level_of(artifact) not in FLOATS or artifact.synthetic:
        return artifact
    if reference not in (None, level_of(artifact)):
        raise UsageError(
            f"The reference of {artifact.path.name} is itself: {level_of(artifact)}.",
            way_out="Leave --reference out.",
        )
    return Source(
        kind=artifact.format,
        path=artifact.path,
        stem=_stem(artifact),
        reference=level_of(artifact),
        key=_key(artifact.paths),
        size_bytes=artifact.size_bytes,
    )


def open_model(given: str) -> Artifact:
    """The model file of a path or a reference to a hub, opened. Raises what both raise."""
    from .. import sources

    with interruptible(_FETCHED):
        return Artifact.open(sources.resolve(given, on_download=told_download))


def _checkpoint_folder(given: str) -> Path | None:
    """The folder of what is a checkpoint, and of no model that could be run as it is; or None."""
    from .. import sources
    from ..artifact.onnx.folder import models_in

    if not given.startswith(sources.HUB_PREFIX):
        folder = Path(given).expanduser()
        if "\0" in given or not sources.is_checkpoint(folder):
            return None
        return None if models_in(folder) or any(folder.glob("*.gguf")) else folder
    if ":" in given.removeprefix(sources.HUB_PREFIX):
        return None
    with interruptible(_FETCHED):
        try:
            return sources.resolve_checkpoint(given, on_download=told_download)
        except ModelNotFoundError:
            return None  # a repository of GGUF or ONNX models, or none: resolving says which


def _checkpoint(folder: Path, reference: str | None) -> Source:
    from quantize.checkpoint import Checkpoint

    from .. import sources

    reference = reference and reference.upper()
    if reference not in (None, "F32", "F16", "BF16"):
        raise UsageError(
            f"{reference} is no reference for a checkpoint's levels.",
            cause="The reference stands for the model as it was trained.",
            way_out="Write --reference F16, BF16 or F32, or compare finished files.",
        )
    sizes: dict[str, int] = {}
    for tensor in Checkpoint.open(folder).tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
    widest = max(sizes, key=lambda dtype: sizes[dtype], default="F16")
    small = (folder / name for name in sources.CHECKPOINT_FILES)
    return Source(
        kind="checkpoint",
        path=folder,
        stem=_safe(checkpoint_name(folder)),
        reference=reference or ("BF16" if widest == "BF16" else "F16"),
        key=_key((*folder.glob("*.safetensors"), *(path for path in small if path.is_file()))),
        size_bytes=sum(sizes.values()),
        shipped=_is_shipped(folder),
    )


def _is_shipped(folder: Path) -> bool:
    from .shipped import shipped_checkpoint

    try:
        return folder.samefile(shipped_checkpoint())
    except (EdgeError, OSError):
        return False


def _stem(artifact: Artifact) -> str:
    if artifact.format == "gguf":
        return _safe(stem_of(artifact.path.name))
    from ..artifact.onnx.folder import model_name

    return _safe(model_name(artifact.path))


def _safe(name: str) -> str:
    """A beginning for names of files, whatever a directory is called."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    return plain.encode()[:80].decode(errors="ignore") or "model"


def _key(paths: Sequence[Path]) -> str:
    """Which model these files are, and which programs make levels of it."""
    return key_of(digest_of(paths), *program_versions())


def program_versions() -> tuple[str, ...]:
    """Versions of what makes levels and runs them, without importing it; "" for what is missing."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("edge-runtime", "llama-cpp-python", "onnxruntime"):
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append("")
    return tuple(found)


def wanted_levels(
    asked: Sequence[str] | None, source: Source, *, importance: bool
) -> tuple[Wanted, ...]:
    """The levels to make, each once, without the reference's own.

    With an importance matrix each level that takes one stands there twice, so that the table shows
    what it buys, unless the levels themselves say which (`Q2_K+imatrix`). Of the usual levels those
    of an engine that is not there are left out, and that is said. Raises UsageError for an unknown
    level, for one that cannot be made of the source, and for `+imatrix` where there is none.
    """
    if asked is None:
        wanted = [Wanted(level=name) for name in _usual_levels(source)]
    else:
        parts = [part.strip() for item in asked for part in item.split(",") if part.strip()]
        if not parts:
            raise UsageError("No level is given.", way_out="Write --levels Q8_0,Q4_K_M")
        wanted = [_wanted(part) for part in parts]
    for one in wanted:
        _require_possible(one, source, importance=importance)
    if importance and not any(one.weighted for one in wanted):
        wanted = [twin for one in wanted for twin in _with_twin(one)]
        if not any(one.weighted for one in wanted):
            raise UsageError(
                f"An importance matrix has no effect at {', '.join(one.level for one in wanted)}.",
                way_out="Leave it out, or add a level that takes one, such as Q2_K.",
            )
    return tuple(dict.fromkeys(one for one in wanted if one.level != source.reference))


def _usual_levels(source: Source) -> tuple[str, ...]:
    if source.kind == "gguf":
        return USUAL_LEVELS
    if source.kind == "onnx":
        return USUAL_ONNX_LEVELS
    reason = _onnx_missing(source)
    if reason is None:
        return (*USUAL_LEVELS, *USUAL_ONNX_LEVELS)
    say(f"{' and '.join(USUAL_ONNX_LEVELS)} are left out: {reason}")
    return USUAL_LEVELS


def _onnx_missing(source: Source) -> str | None:
    """Why no ONNX level of a checkpoint can be had here, or None."""
    from ..artifact import ModelShape
    from ..artifact.checkpoint import read_config
    from ..backends import plain_backend

    try:
        plain_backend("onnx").engine()
        shape = ModelShape.from_config(read_config(source.path), name=source.stem)
        for name in USUAL_ONNX_LEVELS:
            require_writable(shape, name)
    except EdgeError as error:
        return str(error)
    return None


def _wanted(text: str) -> Wanted:
    name, plus, suffix = text.partition("+")
    if plus and f"+{suffix.strip().lower()}" != IMATRIX:
        raise UsageError(
            f"{text!r} is no level.", way_out=f"Only {IMATRIX} may stand after a level."
        )
    return Wanted(level=any_level_name(name.strip()), weighted=bool(plus))


def _require_possible(one: Wanted, source: Source, *, importance: bool) -> None:
    """Raises UsageError for what will never come of this source."""
    format_ = format_of_level(one.level)
    if source.kind not in ("checkpoint", format_):
        what = "a GGUF file" if source.kind == "gguf" else "an ONNX model"
        raise UsageError(
            f"{one.level} cannot be made of {source.path.name}.",
            cause=f"It is {what}; levels of both formats are made of a checkpoint.",
            way_out="Give the checkpoint's directory, or leave the level out.",
        )
    if source.kind == "onnx" and one.level not in (source.reference, *USUAL_ONNX_LEVELS):
        raise UsageError(
            f"{one.level} cannot be made of an ONNX model.",
            way_out=f"Choose {' or '.join(USUAL_ONNX_LEVELS)}.",
        )
    if not one.weighted:
        return
    if not _takes_importance(one):
        raise UsageError(
            f"An importance matrix has no effect at {one.level}.", way_out=f"Write {one.level}."
        )
    if not importance:
        raise UsageError(
            f"There is no importance matrix for {one.label}.",
            way_out="Give --calibrate TEXT to compute one, or --imatrix FILE.",
        )


def _takes_importance(one: Wanted) -> bool:
    return format_of_level(one.level) == "gguf" and one.level not in UNWEIGHTED


def _with_twin(one: Wanted) -> tuple[Wanted, ...]:
    """A level without and with importance; one that needs it only with."""
    if not _takes_importance(one):
        return (one,)
    weighted = Wanted(level=one.level, weighted=True)
    return (weighted,) if level(one.level).needs_imatrix else (one, weighted)
