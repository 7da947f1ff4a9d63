"""`edge convert`: a Hugging Face checkpoint becomes a GGUF file or an ONNX folder, streaming.

This file declares the arguments; `converting` does the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import PANEL_OUT, Force, JsonOutput, Verify, complete_any_level

_PANEL_GGUF = "GGUF"
_PANEL_ONNX = "ONNX"


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
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="Format to write: gguf or onnx.",
            show_default="what the level says, else gguf",
        ),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            "--level",
            "-l",
            help="F16, BF16, F32, Q8_0, Q4_K_M, ... (all: edge quantize --list-levels); or"
            " onnx:fp32, onnx:fp16, onnx:int8, onnx:int4.",
            show_default="F16; with --to onnx: onnx:int4",
            autocompletion=complete_any_level,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write, or for ONNX the folder.",
            show_default="./NAME-LEVEL.gguf or ./NAME-onnx-int4",
            rich_help_panel=PANEL_OUT,
        ),
    ] = None,
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
            show_default="2; all cores for llama.cpp's quantizer",
            rich_help_panel=PANEL_OUT,
        ),
    ] = None,
    split_max_size: Annotated[
        str | None,
        typer.Option(
            "--split-max-size",
            help="Cut it into files with this much tensor data: 4GiB.",
            rich_help_panel=_PANEL_GGUF,
        ),
    ] = None,
    pre: Annotated[
        str | None,
        typer.Option(
            "--pre",
            metavar="NAME",
            help="Name of the pre-tokenizer, when it is not recognised.",
            rich_help_panel=_PANEL_GGUF,
        ),
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(
            "--imatrix",
            help="Importance matrix, for levels below 4 bits.",
            rich_help_panel=_PANEL_GGUF,
        ),
    ] = None,
    block_size: Annotated[
        int | None,
        typer.Option(
            "--block-size",
            help="Weights that share a scale: 16, 32, 64, 128 or 256.",
            show_default="32",
            rich_help_panel=_PANEL_ONNX,
        ),
    ] = None,
    symmetric: Annotated[
        bool | None,
        typer.Option(
            "--symmetric/--asymmetric",
            help="Blocks without zero points, or with.",
            show_default="symmetric",
            rich_help_panel=_PANEL_ONNX,
        ),
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(
            "--algorithm",
            metavar="NAME",
            help="How scales are chosen: rtn rounds to nearest, k-quant searches; it takes longer"
            " and loses less.",
            show_default="rtn",
            rich_help_panel=_PANEL_ONNX,
        ),
    ] = None,
    head_bits: Annotated[
        int | None,
        typer.Option(
            "--head-bits",
            help="Bits of the output matrix: 4 or 8.",
            show_default="the level's",
            rich_help_panel=_PANEL_ONNX,
        ),
    ] = None,
    embedding_bits: Annotated[
        int | None,
        typer.Option(
            "--embedding-bits",
            help="Bits of the embedding: 4, 8 or 16.",
            show_default="the head's where they are one, else 8, at int8 16",
            rich_help_panel=_PANEL_ONNX,
        ),
    ] = None,
    sensitive_bits: Annotated[
        int | None,
        typer.Option(
            "--sensitive-bits",
            help="Bits of the matrices that lose most, in the layers Q4_K_M chooses: 8.",
            show_default="the level's",
            rich_help_panel=_PANEL_ONNX,
        ),
    ] = None,
    accuracy_level: Annotated[
        int | None,
        typer.Option(
            "--accuracy-level",
            help="What activations are rounded to: 1 float32, 2 float16, 3 bfloat16, 4 int8"
            " (fastest), 0 the engine's choice.",
            show_default="4",
            rich_help_panel=_PANEL_ONNX,
        ),
    ] = None,
    builder: Annotated[
        str | None,
        typer.Option(
            "--builder",
            metavar="NAME",
            help="genai: onnxruntime-genai's own, for families that edge does not write itself.",
            show_default="edge's own",
            rich_help_panel=_PANEL_ONNX,
        ),
    ] = None,
) -> None:
    """Converts a checkpoint to a GGUF file or an ONNX folder."""
    from ..units import parse_bytes
    from . import converting

    if builder is not None and to is None:
        to = "onnx"
    order = converting.Order(
        checkpoint=checkpoint,
        level=converting.wanted_level(to, level),
        out=out,
        overwrite=force,
        verify=verify,
        as_json=as_json,
        threads=threads,
    )
    of_gguf = {"--split-max-size": split_max_size, "--pre": pre, "--imatrix": imatrix}
    of_onnx = {
        "--block-size": block_size,
        "--asymmetric" if symmetric is False else "--symmetric": symmetric,
        "--algorithm": algorithm,
        "--head-bits": head_bits,
        "--embedding-bits": embedding_bits,
        "--sensitive-bits": sensitive_bits,
        "--accuracy-level": accuracy_level,
    }
    if order.level.startswith("onnx:"):
        converting.refuse_ggufs_own(order.level, of_gguf)
        chosen = converting.onnx_level_with(order.level, of_onnx)
        converting.write_onnx(order, chosen, builder=builder)
        return
    converting.refuse_onnxs_own(order.level, {**of_onnx, "--builder": builder})
    split_bytes = parse_bytes(split_max_size) if split_max_size is not None else None
    converting.write_gguf(order, pre=pre, imatrix=imatrix, split_bytes=split_bytes)
