"""`edge quantize`: a finished model becomes smaller ones, in the format it has.

This file declares the arguments; `quantizing` does the levels of a GGUF file one after the other,
`quantizing_onnx` those of an ONNX model, and `calibrating` measures what they should spare.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UnsupportedError, UsageError
from .options import (
    PANEL_OUT,
    Force,
    JsonOutput,
    Verify,
    complete_quantize_level,
    level_names,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PANEL_WHAT = "What"
_PANEL_TYPES = "Other types for some tensors (GGUF)"
_PANEL_ONNX = "How (ONNX)"


def quantize(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A GGUF file, any part of a split one; an ONNX file or a folder that holds one.",
            show_default=False,
        ),
    ] = None,
    *,
    level: Annotated[
        list[str] | None,
        typer.Option(
            "--level",
            "-l",
            help="Level to make: Q8_0, Q4_K_M ... of an ONNX model int4, int8 or int8-dynamic."
            " Repeat it or separate by commas.",
            autocompletion=complete_quantize_level,
            show_default=False,
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(
            "--imatrix",
            help="Importance matrix: what the model leans on, for low levels to spare.",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="TEXT",
            help="Text file to run the model on: an importance matrix is measured (GGUF), or gptq"
            " calibrated (ONNX). Take text like its use, not the text you judge it by.",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = None,
    imatrix_out: Annotated[
        Path | None,
        typer.Option(
            "--imatrix-out",
            help="File that the measured matrix is kept in.",
            show_default="./NAME-imatrix.gguf",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = None,
    allow_requantize: Annotated[
        bool,
        typer.Option(
            "--allow-requantize",
            help="Take a source that is quantized already; it loses quality twice.",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say how large it would be; write nothing.",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = False,
    list_levels: Annotated[
        bool,
        typer.Option(
            "--list-levels",
            help="Show every level of both formats and what it is for.",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = False,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor-type",
            metavar="PATTERN=TYPE",
            help="Type of the tensors whose name has the pattern: ffn_down=q6_k. May be repeated.",
            show_default=False,
            rich_help_panel=_PANEL_TYPES,
        ),
    ] = None,
    pure: Annotated[
        bool,
        typer.Option(
            "--pure", help="The level's main type for every matrix.", rich_help_panel=_PANEL_TYPES
        ),
    ] = False,
    output_tensor_type: Annotated[
        str | None,
        typer.Option(
            "--output-tensor-type", help="Type of output.weight.", rich_help_panel=_PANEL_TYPES
        ),
    ] = None,
    token_embedding_type: Annotated[
        str | None,
        typer.Option(
            "--token-embedding-type",
            help="Type of token_embd.weight.",
            rich_help_panel=_PANEL_TYPES,
        ),
    ] = None,
    leave_output_tensor: Annotated[
        bool,
        typer.Option(
            "--leave-output-tensor",
            help="Keep output.weight as it is.",
            rich_help_panel=_PANEL_TYPES,
        ),
    ] = False,
    algorithm: Annotated[
        str | None,
        typer.Option(
            "--algorithm",
            metavar="NAME",
            help="rtn, k-quant, k-quant-mixed, gptq (slow) or hqq (needs torch), for int4.",
            show_default="rtn",
            rich_help_panel=_PANEL_ONNX,
        ),
    ] = None,
    block_size: Annotated[
        int | None,
        typer.Option(
            "--block-size",
            help="Weights that share a scale: 16 to 256.",
            show_default="32",
            rich_help_panel=_PANEL_ONNX,
        ),
    ] = None,
    symmetric: Annotated[
        bool | None,
        typer.Option(
            "--symmetric/--asymmetric",
            help="Blocks without or with zero points.",
            show_default="symmetric, but for gptq and hqq",
            rich_help_panel=_PANEL_ONNX,
        ),
    ] = None,
    accuracy_level: Annotated[
        int | None,
        typer.Option(
            "--accuracy-level",
            help="What activations may be rounded to: 4 int8, 1 float32, 0 the engine's choice.",
            show_default="4",
            rich_help_panel=_PANEL_ONNX,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="OPERATOR",
            help="Operator that stays floats, by its name. May be repeated.",
            show_default=False,
            rich_help_panel=_PANEL_ONNX,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write, or for ONNX the folder, for one level.",
            show_default="./NAME-LEVEL.gguf or ./NAME-onnx-LEVEL",
            rich_help_panel=PANEL_OUT,
        ),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out-dir", help="Folder to write into.", show_default=".", rich_help_panel=PANEL_OUT
        ),
    ] = None,
    keep_split: Annotated[
        bool,
        typer.Option(
            "--keep-split",
            help="Write as many parts as a split source has.",
            rich_help_panel=PANEL_OUT,
        ),
    ] = False,
    force: Force = False,
    verify: Verify = False,
    as_json: JsonOutput = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            "-t",
            min=1,
            help="Threads.",
            show_default="all cores",
            rich_help_panel=PANEL_OUT,
        ),
    ] = None,
) -> None:
    """Quantizes a GGUF file or an ONNX model to one level or several."""
    from . import calibrating, quantizing

    if list_levels:
        quantizing.show_levels(as_json=as_json)
        return
    asked = [part.strip() for item in level or () for part in item.split(",") if part.strip()]
    if source is None or not asked:
        raise UsageError(
            "There is no file to quantize." if source is None else "No level is given.",
            way_out="Write: edge quantize MODEL --level Q4_K_M (ONNX: int4); all: --list-levels",
        )
    for_onnx = {
        "--algorithm": algorithm,
        "--block-size": block_size,
        "--symmetric": symmetric or None,
        "--asymmetric": symmetric is False or None,
        "--accuracy-level": accuracy_level,
        "--exclude": exclude,
    }
    from .quantizing_onnx import onnx_source

    model = onnx_source(source, asked)
    if model is not None:
        _refuse(
            "ONNX models",
            {
                "--imatrix": imatrix,
                "--imatrix-out": imatrix_out,
                "--allow-requantize": allow_requantize,
                "--tensor-type": tensor_type,
                "--pure": pure,
                "--output-tensor-type": output_tensor_type,
                "--token-embedding-type": token_embedding_type,
                "--leave-output-tensor": leave_output_tensor,
                "--keep-split": keep_split,
                "--threads": threads,
            },
        )
        _quantize_onnx(
            model,
            asked,
            for_onnx | {"--calibrate": calibrate},
            out,
            out_dir,
            dry_run=dry_run,
            overwrite=force,
            verify=verify,
            as_json=as_json,
        )
        return
    levels = level_names(asked)
    _refuse("GGUF files", for_onnx)
    from quantize import QuantizeOptions, parse_tensor_type

    path = _located(source, levels)
    options = QuantizeOptions(
        imatrix=imatrix,
        tensor_types=tuple(parse_tensor_type(text) for text in tensor_type or ()),
        output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        leave_output_tensor=leave_output_tensor,
        pure=pure,
        allow_requantize=allow_requantize,
        threads=threads,
    )
    calibrating.check(calibrate, imatrix, imatrix_out, levels, dry_run=dry_run)
    if dry_run:
        quantizing.show_plans(path, levels, options, as_json=as_json)
        return
    targets = _targets(path, levels, out, out_dir)
    if calibrate is not None:
        matrix = imatrix_out or calibrating.matrix_beside(path, targets)
        options = calibrating.calibrated(path, targets, options, calibrate, matrix, overwrite=force)
    quantizing.write_levels(
        path,
        targets,
        options,
        keep_split=keep_split,
        overwrite=force,
        verify=verify,
        as_json=as_json,
    )


def _refuse(what: str, given: Mapping[str, object]) -> None:
    """Refuses options of the other format; nothing is silently left out."""
    for name, value in given.items():
        if value not in (None, False, [], ()):
            raise UsageError(f"{name} is not for {what}.", way_out="Leave it out.")


def _quantize_onnx(
    model: Path,
    asked: Sequence[str],
    given: Mapping[str, object],
    out: Path | None,
    out_dir: Path | None,
    *,
    dry_run: bool,
    overwrite: bool,
    verify: bool,
    as_json: bool,
) -> None:
    from quantize.onnx.algorithms import OnnxQuantizeOptions

    from . import quantizing_onnx

    levels = quantizing_onnx.levels_of(asked)
    names = {name: name[2:].replace("-", "_") for name in given} | {"--calibrate": "calibration"}
    chosen: dict[str, Any] = {names[k]: v for k, v in given.items() if v is not None}
    if chosen.pop("asymmetric", False):
        chosen["symmetric"] = False
    if "algorithm" in chosen:
        chosen["algorithm"] = chosen["algorithm"].lower().replace("-", "_")
    options = OnnxQuantizeOptions(**chosen | {"exclude": tuple(chosen.get("exclude", ()))})
    if dry_run:
        quantizing_onnx.show_onnx_plans(model, levels, options, as_json=as_json)
        return
    folders = quantizing_onnx.targets(model, levels, out, out_dir)
    quantizing_onnx.write_onnx_levels(
        model, folders, options, overwrite=overwrite, verify=verify, as_json=as_json
    )


def _located(source: str, levels: Sequence[str]) -> Path:
    from .. import sources
    from .jobs import told_download

    folder = Path(source).expanduser()
    if folder.is_dir() and sources.is_checkpoint(folder):
        raise UnsupportedError(
            f"{source} is a Hugging Face checkpoint, not a GGUF file.",
            cause="Converting makes one of it, at any level.",
            way_out=sources.convert_command(source, levels[0]),
        )
    return sources.resolve(source, on_download=told_download)


def _targets(
    source: Path, levels: Sequence[str], out: Path | None, out_dir: Path | None
) -> dict[str, Path]:
    """The file for each level. Raises UsageError when one name is given for several."""
    from .quantizing import stem_of

    if out is not None and out.is_dir():
        out, out_dir = None, out
    if out is None:
        folder = out_dir if out_dir is not None else Path()
        if not folder.is_dir():
            raise UsageError(
                f"There is no folder {folder}.",
                way_out=f"Make it: mkdir -p {shlex.quote(str(folder))}",
            )
        return {level: folder / f"{stem_of(source.name)}-{level}.gguf" for level in levels}
    if len(levels) > 1 or out_dir is not None:
        raise UsageError(
            f"-o names one file for {len(levels)} levels."
            if len(levels) > 1
            else "-o and --out-dir both say where to write.",
            way_out="For several levels give --out-dir FOLDER instead.",
        )
    return {levels[0]: out}
