"""`edge plan`: what hardware a model needs, and which known devices have it.

This file reads the arguments and shows the answer; `projection.hardware` finds it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from . import options
from .whole_file import refuse_unwritable


def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="GGUF file, checkpoint directory, config.json, hf:owner/repo, or a catalogue "
            "name such as qwen2.5-1.5b.",
            show_default=False,
        ),
    ],
    level: Annotated[
        list[str] | None,
        typer.Option(
            "--level",
            "-l",
            help="Quantization level; repeat it or separate by commas: a device is then listed at "
            "the one with the most bits that reads.",
            show_default="Q4_K_M",
            autocompletion=options.complete_level,
        ),
    ] = None,
    target: options.TargetRate = "reading",
    language: options.Language = "en",
    context: options.Context = 4096,
    prompt_tokens: options.PromptTokens = 256,
    device_class: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="CLASS",
            help="Only devices of this class: sbc, mobile, laptop, desktop, gpu or server.",
            show_default=False,
        ),
    ] = None,
    kv_type: options.KvTypeName = "f16",
    threads: options.Threads = None,
    accelerator: options.AcceleratorName = None,
    backend: options.EngineName = None,
    everything: Annotated[
        bool, typer.Option("--all", help="List every device that reads, not a few of each class.")
    ] = False,
    json_output: options.JsonOutput = False,
    save: options.SaveDocument = None,
) -> None:
    """Says what hardware a model needs and which known devices have it; nothing is run."""
    from .. import __version__
    from ..projection.hardware import plan_among
    from .projecting import asked_of, catalogue_devices, plans_of, show_document

    asked = asked_of(
        options.asked_target(target, language, context, prompt_tokens),
        kv_type,
        threads,
        accelerator,
        backend,
    )
    plans = plans_of(model, options.level_names(level) if level else ("Q4_K_M",))
    devices = catalogue_devices(device_class)
    refuse_unwritable(save)
    found = plan_among(plans, devices, asked, tool_version=__version__)
    if not show_document(found.to_json(), json_output=json_output, save=save):
        from ..report.projected_hardware import render_plan
        from .pages import show

        show(render_plan(found, everything=everything), piped_columns=120)
    raise typer.Exit(found.exit_code)
