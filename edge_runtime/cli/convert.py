"""`edge convert`: a Hugging Face checkpoint becomes a GGUF file at a level, exact and streaming."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import EdgeError, UnsupportedError, UsageError
from .options import PANEL_OUT, Force, JsonOutput, Verify, complete_level, level_name

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..report.written import Written

_PANEL_HOW = "How"
_UNWEIGHTED = ("F32", "F16", "BF16", "Q8_0")
"""Levels that round every weight by itself."""


def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A folder with config.json and .safetensors, or hf:owner/repo, or with @revision.",
            show_default=False,
        ),
    ],
    *,
    to: Annotated[str, typer.Option("--to", help="Format to write: gguf.")] = "gguf",
    level: Annotated[
        str,
        typer.Option(
            "--level",
            "-l",
            help="F16, BF16, F32, Q8_0, Q4_K_M, ... All of them: edge quantize --list-levels",
            autocompletion=complete_level,
        ),
    ] = "F16",
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write.",
            show_default="./NAME-LEVEL.gguf",
            rich_help_panel=PANEL_OUT,
        ),
    ] = None,
    split_max_size: Annotated[
        str | None,
        typer.Option(
            "--split-max-size",
            help="Cut it into files with this much tensor data: 4GiB.",
            rich_help_panel=PANEL_OUT,
        ),
    ] = None,
    force: Force = False,
    verify: Verify = False,
    as_json: JsonOutput = False,
    pre: Annotated[
        str | None,
        typer.Option(
            "--pre",
            metavar="NAME",
            help="Name of the pre-tokenizer, when it is not recognised.",
            rich_help_panel=_PANEL_HOW,
        ),
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(
            "--imatrix",
            help="Importance matrix, for levels below 4 bits.",
            rich_help_panel=_PANEL_HOW,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            "-t",
            min=1,
            help="Threads.",
            show_default="2, and all cores to quantize",
            rich_help_panel=_PANEL_HOW,
        ),
    ] = None,
) -> None:
    """Converts a checkpoint to a GGUF file."""
    from .. import sources
    from ..artifact.checkpoint import checkpoint_name
    from ..report.written import Written
    from ..units import parse_bytes
    from .jobs import interruptible, say, told_download
    from .quantizing import warn_of_slow_levels

    _refuse_other_formats(to)
    wanted = level_name(level)
    split_bytes = parse_bytes(split_max_size) if split_max_size is not None else None
    if imatrix is not None and wanted in _UNWEIGHTED:
        raise UsageError(
            f"An importance matrix has no effect at {wanted}.", way_out="Leave --imatrix out."
        )
    with interruptible("What was fetched is kept."):
        folder = sources.resolve_checkpoint(checkpoint, on_download=told_download)
    name = checkpoint_name(folder)
    target = out if out is not None else Path(f"{name}-{wanted}.gguf")
    if target.is_dir():
        target /= f"{name}-{wanted}.gguf"
    notes = _departures(folder)
    for note in notes:
        say(note)
    warn_of_slow_levels((wanted,), imatrix)
    started_s = time.monotonic()
    with interruptible():
        artifact = _converted(
            folder,
            target,
            level=wanted,
            pre=pre,
            imatrix=imatrix,
            split_bytes=split_bytes,
            overwrite=force,
            verify=verify,
            threads=threads,
        )
    seconds = time.monotonic() - started_s
    written = Written.of(artifact, seconds, verified=verify, level=wanted, notes=notes)
    _show(written, as_json=as_json, embeds=artifact.shape.encoder)


def _departures(folder: Path) -> tuple[str, ...]:
    """Where llama.cpp departs from the config; none where converting will refuse it anyway."""
    from ..artifact.checkpoint import read_config
    from ..artifact.departures import departures

    try:
        return departures(read_config(folder))
    except EdgeError:
        return ()


def _refuse_other_formats(to: str) -> None:
    kind = to.lower()
    if kind == "onnx":
        raise UnsupportedError(
            "ONNX files are not written yet.",
            cause="Conversion writes GGUF files, which llama.cpp runs.",
            way_out="Leave --to out, or write --to gguf.",
        )
    if kind != "gguf":
        raise UsageError(f"{to!r} is no format to convert to.", way_out="Write --to gguf.")


def _converted(
    folder: Path,
    target: Path,
    *,
    level: str,
    pre: str | None,
    imatrix: Path | None,
    split_bytes: int | None,
    overwrite: bool,
    verify: bool,
    threads: int | None,
) -> Artifact:
    import quantize

    from .jobs import job

    with job(target.name, _weights_bytes(folder)) as progress:
        return quantize.convert(
            folder,
            target,
            level=level,
            pre=pre,
            options=quantize.QuantizeOptions(imatrix=imatrix, threads=threads) if imatrix else None,
            split_bytes=split_bytes,
            overwrite=overwrite,
            verify=verify,
            threads=threads,
            progress=progress,
        )


def _weights_bytes(folder: Path) -> int:
    """What is to be read, for the rate shown; a checkpoint that is none is refused elsewhere."""
    try:
        return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    except OSError:
        return 0


def _show(written: Written, *, as_json: bool, embeds: bool) -> None:
    from ..codec import to_jsonable
    from ..report.plain import plain, safe_json
    from ..report.written import summary

    if as_json:
        typer.echo(safe_json(to_jsonable(written)))
        return
    typer.echo(summary(written))
    file = plain(shlex.quote(str(written.path)))
    if embeds:
        typer.echo(f"Next: edge inspect {file}")
        typer.echo("It makes embeddings: edge_runtime.load(..., embeddings=True).embed(text)")
    else:
        typer.echo(f"Next: edge run {file}\n      edge check {file}")
