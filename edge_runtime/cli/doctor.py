"""`edge doctor`: what was detected here, what is unavailable, why, and the remedy."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer


def doctor(
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout.")
    ] = False,
) -> None:
    """Shows what was detected and what is unavailable. Exits with 4 if nothing can run."""
    from rich.console import Console

    from ..codec import to_jsonable
    from ..report.doctor import render_doctor
    from .diagnosis import diagnose

    report = diagnose()
    if json_output:
        sys.stdout.write(json.dumps(to_jsonable(report), indent=1, ensure_ascii=False) + "\n")
    else:
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)
        console.print(render_doctor(report))
    raise typer.Exit(0 if report.can_run else 4)
