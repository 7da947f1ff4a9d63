"""Shows a page on stdout: as wide as the terminal, and to a pipe without colours or padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType


def show(page: RenderableType, *, piped_columns: int = 100) -> None:
    """Prints a page; a pipe, which has no width, gets lines of at most `piped_columns`."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(page)
        return
    console = Console(highlight=False, width=piped_columns)
    with console.capture() as captured:
        console.print(page)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
