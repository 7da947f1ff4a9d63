"""`edge profile`: a model measured cell by cell, every raw sample kept.

This file declares the arguments; `profiling` runs the sweep, `report.records` words its rows. What
generates no text goes to `latency`. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..measurement import SessionOptions
from ..units import parse_duration_s
from .engines import refuse_providers
from .latency import Care, plain_graphs, profile_latency, read_threads, refuse_needless
from .options import LimitCores, LimitMemory, Provider, provider_names, read_limits
from .profiling import (
    AUTO,
    Sweep,
    command_without_files,
    open_artifacts,
    option_axes,
    read_idle,
    read_power,
    read_repetitions,
)
from .sustaining import read_cool_down, read_sustain

_PANEL_WHAT = "What to run"
_PANEL_HOW = "How to open the model"
_PANEL_CARE = "How carefully"
_PANEL_OUT = "Output"
_FORMATS = "text, md, csv, json, jsonl or sql"


def profile(
    ctx: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Argument(
            help="GGUF file, ONNX model of any kind, directory or hf:owner/repo[:file]. Without"
            " one, the model that ships with edge-runtime.",
            show_default=False,
        ),
    ] = None,
    *,
    prompt: Annotated[
        str,
        typer.Option(
            "-p", "--prompt-tokens", help="Prompt lengths (ppN).", rich_help_panel=_PANEL_WHAT
        ),
    ] = "512",
    generate: Annotated[
        str,
        typer.Option(
            "-n", "--generate-tokens", help="Output lengths (tgN).", rich_help_panel=_PANEL_WHAT
        ),
    ] = "128",
    pairs: Annotated[
        str | None,
        typer.Option(
            "-pg", help="Prompt and output in one run: 512,128.", rich_help_panel=_PANEL_WHAT
        ),
    ] = None,
    depth: Annotated[
        str,
        typer.Option(
            "-d",
            "--depth",
            help="Tokens in the context beforehand: 0,2048.",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = "0",
    workload: Annotated[
        str | None,
        typer.Option(
            "-w",
            "--workload",
            help="Chat-like workloads instead of ppN and tgN: chat,summarize,write.",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="[NAME=]1x3x224x224",
            help="Shape of an input of a model that generates no text. May be repeated.",
            rich_help_panel=_PANEL_WHAT,
        ),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            "-t",
            "--threads",
            help="Threads: 2, 1-4, or auto to find the best number.",
            rich_help_panel=_PANEL_HOW,
        ),
    ] = None,
    batch: Annotated[
        str, typer.Option("-b", "--batch", help="Logical batch.", rich_help_panel=_PANEL_HOW)
    ] = "2048",
    micro_batch: Annotated[
        str,
        typer.Option("-ub", "--micro-batch", help="Physical batch.", rich_help_panel=_PANEL_HOW),
    ] = "512",
    kv_k: Annotated[
        str, typer.Option("-ctk", help="Type of the K cache.", rich_help_panel=_PANEL_HOW)
    ] = "f16",
    kv_v: Annotated[
        str, typer.Option("-ctv", help="Type of the V cache.", rich_help_panel=_PANEL_HOW)
    ] = "f16",
    flash: Annotated[
        str,
        typer.Option(
            "-fa",
            "--flash-attention",
            help="auto, on, off (also 0 and 1).",
            rich_help_panel=_PANEL_HOW,
        ),
    ] = "auto",
    gpu_layers: Annotated[
        str | None,
        typer.Option("-ngl", "--gpu-layers", help="Layers on the GPU.", rich_help_panel=_PANEL_HOW),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--context",
            min=1,
            help="Context to allocate; the workload's own length if not given.",
            rich_help_panel=_PANEL_HOW,
            show_default=False,
        ),
    ] = None,
    mmap: Annotated[
        bool,
        typer.Option(
            "--mmap/--no-mmap", help="Map the file or read it.", rich_help_panel=_PANEL_HOW
        ),
    ] = True,
    provider: Provider = None,
    limit_memory: LimitMemory = None,
    limit_cores: LimitCores = None,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            help="Inference engine.",
            rich_help_panel=_PANEL_HOW,
            show_default="llama_cpp for GGUF, onnx for ONNX",
        ),
    ] = "llama_cpp",
    repetitions: Annotated[
        str,
        typer.Option(
            "-r",
            "--repetitions",
            help="Fewest-most repetitions, or one number for both. Unless it is given, an energy"
            " sensor may have more.",
            rich_help_panel=_PANEL_CARE,
        ),
    ] = "3-10",
    precision: Annotated[
        float,
        typer.Option(
            "--precision",
            min=0.0,
            max=1.0,
            help="Repeat until the 95 % interval is within this share.",
            rich_help_panel=_PANEL_CARE,
        ),
    ] = 0.02,
    budget: Annotated[
        str,
        typer.Option("--budget", help="Time for each cell.", rich_help_panel=_PANEL_CARE),
    ] = "60s",
    warmups: Annotated[
        int,
        typer.Option("--warmups", min=0, help="Untimed runs before.", rich_help_panel=_PANEL_CARE),
    ] = 1,
    cold: Annotated[
        bool,
        typer.Option(
            "--cold", help="Drop the file from the page cache first.", rich_help_panel=_PANEL_CARE
        ),
    ] = False,
    sustain: Annotated[
        str | None,
        typer.Option(
            "--sustain",
            metavar="10m",
            help="Keep each test up for so long and report the rate held once hot. Only tgN, unless"
            " -p is given.",
            rich_help_panel=_PANEL_CARE,
            show_default=False,
        ),
    ] = None,
    cool_down: Annotated[
        str,
        typer.Option(
            "--cool-down",
            metavar="2m",
            help="Let the device cool before each test, at most so long.",
            rich_help_panel=_PANEL_CARE,
        ),
    ] = "0",
    idle: Annotated[
        str,
        typer.Option(
            "--idle",
            help="Watch the device idle before and after, for energy net of idling: 30s, 0, or auto"
            " (where a sensor is).",
            rich_help_panel=_PANEL_CARE,
        ),
    ] = AUTO,
    estimate_power: Annotated[
        float | None,
        typer.Option(
            "--estimate-power",
            metavar="W",
            help="Estimate energy from the device's power at work, where nothing measures it.",
            rich_help_panel=_PANEL_CARE,
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help=_FORMATS,
            rich_help_panel=_PANEL_OUT,
            show_default="md; text on a terminal",
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
            help="Go on with a saved file: finished cells are not run again.",
            rich_help_panel=_PANEL_OUT,
        ),
    ] = None,
    keep_failed: Annotated[
        bool,
        typer.Option(
            "--keep-failed",
            help="When resuming, do not try failed cells again.",
            rich_help_panel=_PANEL_OUT,
        ),
    ] = False,
) -> None:
    """Measure a model: tokens/s, latency, memory, energy, every sample kept."""
    from ..sources import resolve

    def typed(name: str) -> bool:
        source = ctx.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    form = _form(output, as_json=as_json)
    providers = provider_names(provider)
    paths = tuple(resolve(reference) for reference in model or ())
    graphs = plain_graphs(paths)
    if graphs:
        refuse_needless(graphs[0], typed, backend)
        profile_latency(
            graphs,
            shape or (),
            threads=read_threads(threads),
            providers=providers,
            care=Care(
                repetitions=read_repetitions(repetitions) if typed("repetitions") else None,
                warmups=warmups if typed("warmups") else None,
                precision=precision,
                budget_s=parse_duration_s(budget, "--budget"),
                cold_cache=cold,
            ),
            form=form,
            save=save,
        )
        return
    if shape:
        raise UsageError(
            "--shape is for models that generate no text.",
            way_out="The lengths of texts are given with -p, -n and -d.",
        )
    from ..profiler import Plan, sweep
    from ..profiler.results import create_results, read_results
    from ..report.records import record_writer

    limits = read_limits(limit_memory, limit_cores)
    fewest, most = read_repetitions(repetitions)
    budget_s = parse_duration_s(budget, "--budget")
    sustain_s = read_sustain(sustain, typed)
    plan = Plan(
        warmups=warmups,
        min_runs=fewest,
        max_runs=most,
        target_relative_half_width=precision,
        budget_s=budget_s,
        timeout_s=Plan().timeout_s + budget_s,
        cold_cache=cold,
        idle_s=read_idle(idle, emulated=limits is not None, run_s=max(budget_s, sustain_s or 0.0)),
        settle_s=read_cool_down(cool_down),
        sustain_s=sustain_s,
        extend=not typed("repetitions"),
    )
    if workload is not None:
        workloads = sweep.chat_workloads(workload.split(","))
    else:
        workloads = sweep.bench_workloads(
            # Heat is a matter of generating for long: a prompt is sustained only on demand.
            sweep.parse_numbers(prompt if sustain is None or typed("prompt") else "0", "-p"),
            sweep.parse_numbers(generate, "-n"),
            sweep.parse_numbers(depth, "-d"),
            sweep.parse_pairs(pairs, "-pg") if pairs else (),
        )
    if not workloads:
        raise UsageError("There is nothing to measure.", way_out="Give -p, -n or -pg a length.")
    grid = sweep.option_grid(
        SessionOptions(
            backend=backend, context_tokens=context, memory_map=mmap, providers=providers
        ),
        option_axes(
            threads=threads,
            gpu_layers=gpu_layers,
            batch=batch,
            micro_batch=micro_batch,
            kv_types=(kv_k, kv_v),
            flash_attention=flash,
        ),
    )
    if save is not None and resume is not None:
        raise UsageError("--save and --resume name two files.", way_out="Give only --resume.")
    artifacts = open_artifacts(tuple(map(str, paths)))
    for artifact in artifacts:
        refuse_providers(providers, artifact.format)
    writer = record_writer(form, sys.stdout, side_by_side=len(artifacts) > 1)
    earlier = read_results(resume) if resume is not None else ()
    if save is not None:
        create_results(save)
    sweeper = Sweep(
        writer=writer,
        results=resume or save,
        plan=plan,
        earlier=earlier,
        retry_failed=not keep_failed,
        command=command_without_files(sys.argv[1:]),
        backend=backend if typed("backend") else None,
        stated_power_w=read_power(estimate_power),
        tell_energy=form != "text",
        limits=limits,
    )
    sweeper.run(sweeper.cells(artifacts, grid, workloads, tune_threads=threads == AUTO))


def _form(output: str | None, *, as_json: bool) -> str:
    """The output's format. Raises UsageError when two are asked for."""
    if as_json:
        if output not in (None, "json"):
            raise UsageError(f"--json and -o {output} are two formats.", way_out="Give one.")
        return "json"
    return output or ("text" if sys.stdout.isatty() else "md")
