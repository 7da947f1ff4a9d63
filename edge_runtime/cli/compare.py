"""`edge compare`: one model at several levels, or several files, on one table; and a gate for CI.

This file declares the arguments. `comparing` makes, measures and shows; `gate` holds one saved
comparison against another. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..measurement import SessionOptions
from .options import (
    LimitCores,
    LimitMemory,
    Provider,
    complete_any_level,
    provider_names,
    read_limits,
    read_size,
    target_rate,
)
from .profiling import command_without_files, read_power
from .saved_comparisons import is_saved, run_gate_on, show_saved

_PANEL_WHAT = "What to compare"
_PANEL_QUALITY = "Quality"
_PANEL_SPEED = "Speed"
_PANEL_ASKED = "What is asked of the device"
_PANEL_OUT = "Output"
_PANEL_GATE = "A gate for CI: edge compare --baseline OLD NEW"
_FORMS = ("text", "md", "csv", "json", "jsonl")


def compare(
    ctx: typer.Context,
    source: Annotated[
        list[str] | None,
        typer.Argument(
            help="A checkpoint's directory, an F16 GGUF, hf:owner/repo; or several model files; or"
            " a saved comparison (.json, .jsonl). Without one, the model that ships with"
            " edge-runtime.",
            show_default=False,
        ),
    ] = None,
    *,
    levels: Annotated[
        list[str] | None,
        typer.Option(
            "--levels",
            "--level",
            "-l",
            help="Levels to make: Q8_0,Q4_K_M,onnx:int4 ... with +imatrix after one that is to be"
            " made with the importance matrix.",
            autocompletion=complete_any_level,
            show_default="eight of GGUF; of a checkpoint onnx:int8 and onnx:int4 as well",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="What the others are held against: of a checkpoint F16, BF16 or F32; of several"
            " files one of them.",
            show_default="the widest floats",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="TEXT",
            help="Make an importance matrix of this text; each level that takes one is compared"
            " without and with it.",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(
            "--imatrix",
            metavar="FILE",
            help="The same with an importance matrix that is there.",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            metavar="DIR",
            help="Leave the models that are made in this folder.",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = None,
    cache_limit: Annotated[
        str,
        typer.Option(
            "--cache-limit",
            metavar="SIZE",
            help="Otherwise they stay in the cache, up to this much.",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = "20GiB",
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="Text of your own use to score on.",
            show_default="a small one that ships with edge-runtime",
            rich_help_panel=_PANEL_QUALITY,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="JSONL",
            help='Prompts of your own, a line each: {"prompt": ...} or {"messages": [...]}, with'
            ' or without "answer". Every level answers them; without --text they are scored on.',
            rich_help_panel=_PANEL_QUALITY,
        ),
    ] = None,
    show: Annotated[
        bool,
        typer.Option(
            "--show",
            help="Show all levels' answers side by side; without --prompts, to three of our own.",
            rich_help_panel=_PANEL_QUALITY,
        ),
    ] = False,
    answer_tokens: Annotated[
        int | None,
        typer.Option(
            "--answer-tokens",
            min=1,
            max=100_000,
            help="Longest answer, tokens.",
            show_default="128",
            rich_help_panel=_PANEL_QUALITY,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--context",
            min=8,
            help="Tokens of a passage that is scored, as llama-perplexity has it.",
            show_default="512, or the model's own",
            rich_help_panel=_PANEL_QUALITY,
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Keep the reference's whole distributions: gigabytes, and no sampling error.",
            rich_help_panel=_PANEL_QUALITY,
        ),
    ] = False,
    no_quality: Annotated[
        bool,
        typer.Option(
            "--no-quality", help="Measure speed and memory only.", rich_help_panel=_PANEL_QUALITY
        ),
    ] = False,
    rounds: Annotated[
        int,
        typer.Option(
            "-r",
            "--rounds",
            min=0,
            max=1000,
            help="Times that every level is measured, in turns; 0 measures no speed.",
            rich_help_panel=_PANEL_SPEED,
        ),
    ] = 5,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            "-p",
            "--prompt-tokens",
            min=1,
            help="Prompt length (ppN).",
            show_default="512, or the model's context",
            rich_help_panel=_PANEL_SPEED,
        ),
    ] = None,
    generate: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--generate",
            min=1,
            help="Tokens to generate (tgN).",
            show_default="128",
            rich_help_panel=_PANEL_SPEED,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "-t",
            "--threads",
            min=1,
            help="Threads.",
            show_default="the engine's choice",
            rich_help_panel=_PANEL_SPEED,
        ),
    ] = None,
    gpu_layers: Annotated[
        int | None,
        typer.Option(
            "-ngl",
            "--gpu-layers",
            min=0,
            help="Layers on the GPU.",
            show_default=False,
            rich_help_panel=_PANEL_SPEED,
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            help="Inference engine.",
            show_default="llama_cpp for GGUF, onnx for ONNX",
            rich_help_panel=_PANEL_SPEED,
        ),
    ] = "llama_cpp",
    provider: Provider = None,
    estimate_power: Annotated[
        float | None,
        typer.Option(
            "--estimate-power",
            metavar="W",
            help="Estimate energy from the device's power at work, where nothing measures it.",
            show_default=False,
            rich_help_panel=_PANEL_SPEED,
        ),
    ] = None,
    limit_memory: LimitMemory = None,
    limit_cores: LimitCores = None,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="Wanted tok/s, or a preset: reading, silent-reading, speech ...",
            rich_help_panel=_PANEL_ASKED,
        ),
    ] = "reading",
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="What the recommended level may need, such as 6GiB.",
            show_default="what the machine has",
            rich_help_panel=_PANEL_ASKED,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help=", ".join(_FORMS),
            show_default="md; text on a terminal",
            rich_help_panel=_PANEL_OUT,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The same as -o json.", rich_help_panel=_PANEL_OUT)
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save", help="Keep every record in this new JSONL file.", rich_help_panel=_PANEL_OUT
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            help="Go on with a saved file: what is in it is not run again.",
            rich_help_panel=_PANEL_OUT,
        ),
    ] = None,
    keep_failed: Annotated[
        bool,
        typer.Option(
            "--keep-failed",
            help="When resuming, do not try again what failed.",
            rich_help_panel=_PANEL_OUT,
        ),
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="OLD",
            help="A saved comparison to hold the other, given as SOURCE, against.",
            rich_help_panel=_PANEL_GATE,
        ),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if",
            metavar="RULE",
            help='Fail when it holds beyond the noise: "tg128 < -5%", "kl > 0.05". May be'
            " repeated.",
            rich_help_panel=_PANEL_GATE,
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Fail also where the noise does not tell.",
            rich_help_panel=_PANEL_GATE,
        ),
    ] = False,
    markdown: Annotated[
        bool,
        typer.Option(
            "--markdown", help="A summary for a pull request.", rich_help_panel=_PANEL_GATE
        ),
    ] = False,
) -> None:
    """Compares levels of a model: speed, memory, energy and quality on one table."""
    from ..verdict import Target
    from .comparing import Measuring, Showing, compare_models
    from .making import Making

    sources = tuple(source or ())
    if baseline is not None or fail_if or strict or markdown:
        run_gate_on(
            ctx, sources, baseline, fail_if, strict=strict, markdown=markdown, as_json=as_json
        )
        return
    rate, name, origin = target_rate(target)
    showing = Showing(
        form=_form(output, as_json=as_json),
        answers=show,
        target=Target(decode_tokens_per_s=rate, name=name, source=origin),
        memory_bytes=read_size(memory, "--memory"),
        results=resume or save,
        resumes=resume is not None,
        keep_failed=keep_failed,
        command=command_without_files(sys.argv[1:]),
    )
    if is_saved(sources):
        show_saved(ctx, sources, showing)
        return
    if save is not None and resume is not None:
        raise UsageError("--save and --resume name two files.", way_out="Give only --resume.")
    if calibrate is not None and imatrix is not None:
        raise UsageError(
            "--calibrate makes an importance matrix, and --imatrix names one.",
            way_out="Give only one of them.",
        )
    if no_quality and (text is not None or prompts is not None or show or exact):
        raise UsageError(
            "--no-quality leaves nothing to do for --text, --prompts, --show and --exact.",
            way_out="Leave it out, or leave them out.",
        )
    if no_quality and not rounds:
        raise UsageError(
            "--no-quality and --rounds 0 leave nothing to do.", way_out="Give only one of them."
        )
    making = Making(
        sources=sources,
        levels=tuple(levels) if levels else None,
        reference=reference,
        imatrix=imatrix,
        calibrate=calibrate,
        keep=keep,
        cache_limit_bytes=read_size(cache_limit, "--cache-limit") or 0,
    )
    measuring = Measuring(
        rounds=rounds,
        prompt_tokens=prompt_tokens,
        generate_tokens=generate,
        options=SessionOptions(
            backend=backend,
            threads=threads,
            gpu_layers=gpu_layers,
            providers=provider_names(provider),
        ),
        limits=read_limits(limit_memory, limit_cores),
        stated_power_w=read_power(estimate_power),
        quality=not no_quality,
        text=text,
        prompts=prompts,
        answers=show,
        context_tokens=context,
        exact=exact,
        answer_tokens=answer_tokens,
    )
    compare_models(making, measuring, showing)


def _form(output: str | None, *, as_json: bool) -> str:
    """The output's format. Raises UsageError for an unknown one, or when two are asked for."""
    if as_json:
        if output not in (None, "json"):
            raise UsageError(f"--json and -o {output} are two formats.", way_out="Give one.")
        return "json"
    if output not in (None, *_FORMS):
        raise UsageError(
            f"{output!r} is no format of a comparison.",
            way_out=f"Choose {', '.join(_FORMS)}; a page to look at: edge report FILE -o page.html",
        )
    return output or ("text" if sys.stdout.isatty() else "md")
