"""`edge fit`: which models read on a device nobody here owns, at which level, the largest first.

This file reads the arguments and shows the answer; `projection.device_fit` finds it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import UsageError
from . import options
from .whole_file import refuse_unwritable


def fit(
    device: Annotated[
        str,
        typer.Option(
            "--device",
            "-d",
            metavar="ID",
            help="Device, such as raspberry-pi-5-8gb, or a .toml file that describes one. "
            "edge devices lists them.",
            show_default=False,
            autocompletion=options.complete_device,
        ),
    ],
    level: Annotated[
        list[str] | None,
        typer.Option(
            "--level",
            "-l",
            help="Levels to try; repeat it or separate by commas.",
            show_default="Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q4_0",
            autocompletion=options.complete_level,
        ),
    ] = None,
    target: options.TargetRate = "reading",
    language: options.Language = "en",
    context: options.Context = 4096,
    prompt_tokens: options.PromptTokens = 256,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="Its memory where it is sold with several sizes, such as 8GB.",
            show_default="the smallest it is sold with",
        ),
    ] = None,
    kv_type: options.KvTypeName = "f16",
    threads: options.Threads = None,
    accelerator: options.AcceleratorName = None,
    backend: options.EngineName = None,
    everything: Annotated[
        bool, typer.Option("--all", help="List every model, also those that do not read.")
    ] = False,
    json_output: options.JsonOutput = False,
    save: options.SaveDocument = None,
) -> None:
    """Says which models read on a device, at which level; nothing is run."""
    from .. import __version__
    from ..projection.device_fit import FIT_LEVELS, fit_shapes
    from .personal import with_own
    from .projecting import asked_of, catalogue_shapes, find_devices, show_document, with_memory

    asked = asked_of(
        options.asked_target(target, language, context, prompt_tokens),
        kv_type,
        threads,
        accelerator,
        backend,
    )
    levels = options.level_names(level) if level else FIT_LEVELS
    found = find_devices([device])
    if len(found) != 1:
        raise UsageError(
            f"--device names {len(found)} devices, and one is asked about at a time.",
            way_out="edge check --device compares several.",
        )
    refuse_unwritable(save)
    equipped = with_memory(found[0], memory, asked.accelerator)
    report = fit_shapes(
        catalogue_shapes(usual=False),
        equipped,
        with_own(asked, [equipped]),
        levels=levels,
        tool_version=__version__,
    )
    if not show_document(report.to_json(), json_output=json_output, save=save):
        from ..report.projected_hardware import render_fit
        from .pages import show

        show(render_fit(report, everything=everything), piped_columns=120)
    raise typer.Exit(report.exit_code)
