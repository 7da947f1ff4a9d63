"""Options that several verbs read alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, cast, get_args

import typer

from ..errors import UnsupportedError, UsageError
from ..measurement import KvType

PANEL_OUT = "Output"

Force = Annotated[bool, typer.Option("--force", help="Overwrite.", rich_help_panel=PANEL_OUT)]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify", help="Read every value back and decode one token.", rich_help_panel=PANEL_OUT
    ),
]
JsonOutput = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=PANEL_OUT),
]


def kv_type(text: str) -> KvType:
    """The KV cache type of that name. Raises UsageError listing the known ones."""
    if text not in get_args(KvType):
        raise UsageError(
            f"{text!r} is no type of a KV cache.",
            way_out=f"Known: {', '.join(get_args(KvType))}.",
        )
    return cast(KvType, text)


def level_name(text: str) -> str:
    """The quantization level of that name, as it is written. Raises UsageError with the nearest."""
    from ..artifact import level

    try:
        return level(text).name
    except UnsupportedError as error:
        raise UsageError(error.fact, cause=error.cause, way_out=error.way_out) from None


def level_names(asked: Sequence[str]) -> tuple[str, ...]:
    """The levels asked for, each once: repeated options, or names separated by commas."""
    names = [part.strip() for item in asked for part in item.split(",") if part.strip()]
    return tuple(dict.fromkeys(map(level_name, names)))


def complete_level(incomplete: str) -> list[tuple[str, str]]:
    """Names and descriptions of the levels that begin so, for the shell's completion."""
    from ..artifact import LEVELS

    begun = incomplete.upper()
    return [(name, lv.description) for name, lv in LEVELS.items() if name.startswith(begun)]
