"""`edge check`: which models this machine can run, at which level, how fast, and how sure that is.

This file reads the arguments and shows the answer; `cells` makes and measures, `catalogue_check`
and `model_check` decide which cells, `feasibility` and `verdict` say what they mean. Devices that
are not here are `projecting`'s.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..measurement import SessionOptions
from . import options
from .whole_file import refuse_unwritable, write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..feasibility import CheckReport
    from ..measurement import Limits
    from ..verdict import Target


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
    target: options.TargetRate = "reading",
    language: options.Language = "en",
    context: options.Context = 4096,
    prompt_tokens: options.PromptTokens = 256,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="Time to measure, such as 60s or 3m.",
            show_default="75s; for each MODEL",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", "-t", min=1, help="Threads.", show_default="usable cores"),
    ] = None,
    gpu_layers: Annotated[
        int | None, typer.Option("--gpu-layers", "-ngl", min=0, help="Layers on the GPU.")
    ] = None,
    kv_type: options.KvTypeName = "f16",
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
    device: options.Devices = None,
    accelerator: options.AcceleratorName = None,
    claim: options.Claim = None,
    json_output: options.JsonOutput = False,
    save: options.SaveDocument = None,
) -> None:
    """Says which models this device can run, how fast, and how sure that is."""
    from ..feasibility import DEFAULT_LEVELS
    from ..units import parse_duration_s
    from .engines import ENGINES, format_of_level

    asked = options.asked_target(target, language, context, prompt_tokens)
    if device is not None:
        from .projecting import asked_of, project_check, refuse_measuring

        refuse_measuring(
            budget=budget,
            gpu_layers=gpu_layers,
            provider=provider,
            limit_memory=limit_memory,
            limit_cores=limit_cores,
        )
        there = asked_of(asked, kv_type, threads, accelerator, backend)
        levels = options.any_level_names(level or DEFAULT_LEVELS)
        refuse_unwritable(save)
        code = project_check(model or (), levels, device, there, claim, json_output, save)
        raise typer.Exit(code)
    if accelerator is not None:
        raise UsageError(
            "--accelerator goes with --device.",
            way_out="Here --gpu-layers and --provider say what computes.",
        )
    if claim is not None:
        raise UsageError("--claim goes with --device.", way_out="Here the rate is measured.")
    budget_s = parse_duration_s(budget or "75s", "--budget")
    if budget_s <= 0:
        raise UsageError("The budget must be positive.", way_out="Write it like 60s or 3m.")
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
    refuse_unwritable(save)
    limits = options.read_limits(limit_memory, limit_cores)
    report = _measure(model or (), levels, asked, session_options, budget_s, backend, limits)
    _show(report, json_output=json_output, save=save)
    raise typer.Exit(report.exit_code)


def _measure(
    models: Sequence[str],
    levels: Sequence[str],
    target: Target,
    session_options: SessionOptions,
    budget_s: float,
    backend: str | None,
    limits: Limits | None,
) -> CheckReport:
    from .catalogue_check import check_catalogue
    from .model_check import check_models
    from .progress import Progress

    with Progress(None if models else budget_s) as progress:
        if models:
            return check_models(
                models, levels, target, session_options, budget_s, progress.say, backend, limits
            )
        return check_catalogue(
            levels, target, session_options, budget_s, progress.say, backend, limits
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
