"""`edge check`: which models this machine can run, at which level, how fast, and how sure that is.

This file reads the arguments and shows the answer; `cells` makes and measures, `catalogue_check`
and `model_check` decide which cells, `feasibility` and `verdict` say what they mean.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..measurement import SessionOptions
from . import options
from .whole_file import write_whole

if TYPE_CHECKING:
    from ..feasibility import CheckReport


def check(
    model: Annotated[
        list[str] | None,
        typer.Argument(
            help="GGUF file, ONNX folder, directory, config.json, hf:owner/repo, or a catalogue "
            "name such as qwen2.5-1.5b. Without one, the shipped catalogue is checked.",
            show_default=False,
        ),
    ] = None,
    level: Annotated[
        list[str] | None,
        typer.Option(
            "--level",
            "-l",
            help="Quantization level, such as Q4_K_M or onnx:int4; repeat it or separate by "
            "commas. Levels of both engines stand side by side.",
            show_default="Q8_0,Q4_K_M,Q4_0",
            autocompletion=options.complete_any_level,
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target", help="Wanted tok/s, or a preset: reading, silent-reading, speech ..."
        ),
    ] = "reading",
    language: Annotated[
        str, typer.Option("--language", help="Language of the text, for the preset's rate.")
    ] = "en",
    context: Annotated[
        int, typer.Option("--context", "-c", min=64, help="Context that must fit, tokens.")
    ] = 4096,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", "-p", min=1, help="Prompt length, tokens.")
    ] = 256,
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            help="Time to measure, such as 60s or 3m.",
            show_default="75s; for each MODEL",
        ),
    ] = "75s",
    threads: Annotated[
        int | None,
        typer.Option("--threads", "-t", min=1, help="Threads.", show_default="usable cores"),
    ] = None,
    gpu_layers: Annotated[
        int | None, typer.Option("--gpu-layers", "-ngl", min=0, help="Layers on the GPU.")
    ] = None,
    kv_type: Annotated[
        str, typer.Option("--kv-type", help="Type of the KV cache: f16, q8_0 or q4_0.")
    ] = "f16",
    provider: options.Provider = None,
    limit_memory: options.LimitMemory = None,
    limit_cores: options.LimitCores = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            help="Inference engine that runs the models.",
            show_default="llama_cpp for GGUF, onnx for ONNX",
        ),
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option("--save", help="Also write that document to a file.")
    ] = None,
) -> None:
    """Says which models this device can run, how fast, and how sure that is."""
    from ..feasibility import DEFAULT_LEVELS
    from ..units import parse_duration_s
    from ..verdict import Target
    from .catalogue_check import check_catalogue
    from .engines import ENGINES, format_of_level
    from .model_check import check_models
    from .progress import Progress

    if context < prompt_tokens:
        raise UsageError(f"A prompt of {prompt_tokens} tokens does not fit a context of {context}.")
    budget_s = parse_duration_s(budget, "--budget")
    if budget_s <= 0:
        raise UsageError("The budget must be positive.", way_out="Write it like 60s or 3m.")
    rate, name, source = options.target_rate(target, language)
    asked = Target(
        decode_tokens_per_s=rate,
        context_tokens=context,
        prompt_tokens=prompt_tokens,
        name=name,
        source=source,
    )
    cache_type = options.kv_type(kv_type)
    levels = options.any_level_names(level or DEFAULT_LEVELS)
    session_options = SessionOptions(
        backend=backend or ENGINES[format_of_level(levels[0])],
        threads=threads,
        gpu_layers=gpu_layers,
        kv_type_k=cache_type,
        kv_type_v=cache_type,
        providers=options.provider_names(provider),
    )
    _refuse_unwritable(save)
    limits = options.read_limits(limit_memory, limit_cores)
    with Progress(budget_s if not model else None) as progress:
        report = (
            check_models(
                model, levels, asked, session_options, budget_s, progress.say, backend, limits
            )
            if model
            else check_catalogue(
                levels, asked, session_options, budget_s, progress.say, backend, limits
            )
        )
    _show(report, json_output=json_output, save=save)
    raise typer.Exit(report.exit_code)


def _refuse_unwritable(save: Path | None) -> None:
    """A minute of measuring must not end in a failed write that could be foreseen."""
    if save is not None and (save.is_dir() or not save.absolute().parent.is_dir()):
        raise UsageError(
            f"{save} cannot be written.", way_out="Name a file in a folder that exists."
        )


def _show(report: CheckReport, *, json_output: bool, save: Path | None) -> None:
    import json

    from rich.console import Console

    from ..codec import to_jsonable
    from ..report.check import render_check

    if json_output or save:
        document = json.dumps(to_jsonable(report), indent=1, ensure_ascii=False)
        if save:
            write_whole(save, (document, "\n"))
        if json_output:
            sys.stdout.write(document + "\n")
            return
    console = Console()
    if not console.is_terminal:
        # A pipe has no width; the table must not be cut to a guess.
        console = Console(width=120)
    console.print(render_check(report))
    if save:
        typer.echo(f"saved: {save}", err=True)
