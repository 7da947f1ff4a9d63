"""`edge models`: what is already on this disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..sources import InstalledModel


def models(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Look into these too.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON list on stdout.")] = False,
) -> None:
    """Lists models: given folders, Hugging Face cache, Ollama's store, LM Studio's folder."""
    from ..sources import installed

    found = installed(folders or ())
    if as_json:
        _print_json(found)
    elif found:
        _print_table(found)
    else:
        typer.echo(
            "No model was found in the given folders, the Hugging Face cache, Ollama's store "
            "or LM Studio's folder.\nFetch one with, for example: "
            "edge run hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M",
            err=True,
        )


def _print_json(found: tuple[InstalledModel, ...]) -> None:
    import json

    rows = [
        {
            "name": model.name,
            "path": str(model.path),
            "source": model.source,
            "size_bytes": model.size_bytes,
            "level": model.level,
            "parameters": model.parameters,
            "architecture": model.architecture,
            "problem": model.problem,
        }
        for model in found
    ]
    typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))


def _print_table(found: tuple[InstalledModel, ...]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from ..units import format_bytes, format_count

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    readable = [model for model in found if model.problem is None]
    if readable:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("model", overflow="fold")
        for name in ("level", "size", "parameters"):
            table.add_column(name, justify="left" if name == "level" else "right", no_wrap=True)
        table.add_column("source", overflow="fold")
        for model in readable:
            table.add_row(
                _plain(model.name),
                model.level or "",
                format_bytes(model.size_bytes),
                format_count(model.parameters or 0),
                _plain(model.source),
            )
        console.print(table)
    for model in found:
        if model.problem is not None:
            console.print(
                f"{_plain(model.name)} ({_plain(model.source)}) cannot be used: "
                f"{_plain(model.problem)}"
            )


def _plain(text: str) -> str:
    """A stranger's text without control characters and without the markup of the printer."""
    from rich.markup import escape

    from ..report.plain import plain

    return escape(plain(text))
