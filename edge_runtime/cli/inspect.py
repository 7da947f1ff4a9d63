"""`edge inspect`: what a model file or a checkpoint is, from its headers alone."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from ..report.inspection import Inspection

_CHUNK_BYTES = 1 << 22


def inspect(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|DIR",
            help="A GGUF file (any part of a split one), an ONNX model or its folder, or a"
            " Hugging Face checkpoint.",
            show_default=False,
        ),
    ],
    *,
    context: Annotated[
        list[int] | None,
        typer.Option(
            "--context",
            "-c",
            min=1,
            help="Context whose memory is shown, tokens. May be repeated.",
            show_default="4096 and the model's own",
        ),
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="A row for every tensor.")] = False,
    checksums: Annotated[
        bool, typer.Option("--checksums", help="The SHA-256 of every file, read in full.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout.")
    ] = False,
) -> None:
    """Shows what a model is: shape, parameters, types, memory at a context, tokenizer, template."""
    from ..report.plain import safe_json

    inspection = _inspected(str(model), tuple(context or ()))
    if checksums:
        inspection = _with_checksums(inspection)
    if as_json:
        typer.echo(safe_json(inspection.to_json(tensors=tensors)))
        return
    _show(inspection, tensors=tensors)


def _inspected(text: str, contexts: tuple[int, ...]) -> Inspection:
    from .. import sources

    if text.startswith(sources.HUB_PREFIX) and not Path(text).exists():
        raise UsageError(
            f"{text} is on a hub.",
            cause="Only what is on this disk is inspected.",
            way_out=f"Fetch it first: edge run {text}",
        )
    path = Path(text).expanduser()
    if _is_checkpoint(path):
        from ..artifact.checkpoint import checkpoint_name
        from .checkpoint_facts import inspect_checkpoint

        return inspect_checkpoint(path, checkpoint_name(path), contexts)
    if path.is_file() and (path.suffix == ".safetensors" or path.name == "config.json"):
        raise UsageError(
            f"{path} is one file of a checkpoint.", way_out=f"Name its folder: {path.parent}"
        )
    from ..artifact.onnx.folder import is_onnx
    from .gguf_facts import inspect_gguf, inspect_imatrix

    found = sources.resolve(path)
    if is_onnx(found):
        from .onnx_facts import inspect_onnx

        return inspect_onnx(found, contexts)
    if _is_old_imatrix(found):
        return inspect_imatrix(found)
    return inspect_gguf(found, contexts)


def _is_checkpoint(path: Path) -> bool:
    """Whether a folder is one, perhaps with its weights missing or in a form that is not read."""
    from .. import sources
    from ..artifact.onnx.folder import models_in

    if not (path / "config.json").is_file():
        return False
    if sources.is_checkpoint(path):
        return True
    return not any(path.glob("*.gguf")) and not models_in(path)


def _is_old_imatrix(path: Path) -> bool:
    """Whether a file is called like an importance matrix and is no GGUF file."""
    from ..artifact.gguf import MAGIC

    if path.suffix.lower() not in (".imatrix", ".dat"):
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) != MAGIC
    except OSError:
        return False  # the reader says why


def _with_checksums(inspection: Inspection) -> Inspection:
    from .jobs import job

    folder = Path(inspection.path)
    folder = folder if folder.is_dir() else folder.parent
    done = 0
    hashed = []
    with job("Reading", inspection.size_bytes) as progress:
        for file in inspection.files:
            digest = hashlib.sha256()
            try:
                with (folder / file.name).open("rb", buffering=0) as data:
                    while chunk := data.read(_CHUNK_BYTES):
                        digest.update(chunk)
                        done += len(chunk)
                        progress(done / max(inspection.size_bytes, 1))
            except OSError as error:
                raise ArtifactError(
                    f"{folder / file.name} cannot be read.", cause=f"{error.strerror}."
                ) from error
            hashed.append(dataclasses.replace(file, sha256=digest.hexdigest()))
    return dataclasses.replace(inspection, files=tuple(hashed))


def _show(inspection: Inspection, *, tensors: bool) -> None:
    from ..report.inspect import checksum_lines, render_inspection
    from .pages import show

    page = render_inspection(inspection, tensors=tensors)
    show(page, piped_columns=120 if tensors else 80)
    lines = list(checksum_lines(inspection.files))
    if lines:
        # Whole lines whatever the width, so that sha256sum --check can read them.
        typer.echo("\n" + "\n".join(lines))
