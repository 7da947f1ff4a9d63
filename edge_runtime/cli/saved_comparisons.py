"""What `edge compare` does with comparisons that were saved: show them again, or be a gate for CI.

Nothing is made or measured here, so options that say how are refused. What a rule means, `gate`
knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import FormatError, UsageError

if TYPE_CHECKING:
    from .comparing import Showing

_SUFFIXES = (".json", ".jsonl")
_OF_A_GATE = frozenset(("source", "baseline", "fail_if", "strict", "markdown", "as_json"))
_OF_A_TABLE = frozenset(("source", "target", "memory", "show", "output", "as_json"))


def is_saved(sources: Sequence[str]) -> bool:
    """Whether what is given are saved comparisons, by their names."""
    return bool(sources) and all(Path(given).suffix.lower() in _SUFFIXES for given in sources)


def show_saved(ctx: typer.Context, sources: Sequence[str], showing: Showing) -> None:
    """Shows what was saved as one table.

    Raises UsageError for options that would do nothing and for records that do not belong together,
    FormatError and DiskError for what is no saved comparison.
    """
    from ..comparison.lots import runs_of
    from ..profiler.results import read_saved_file
    from .comparing import show_records

    _refuse_others(ctx, _OF_A_TABLE, "a saved comparison")
    runs = runs_of(read_saved_file(Path(given)) for given in sources)
    if not runs:
        raise FormatError(
            f"{', '.join(sources)}: there is no record in it.",
            way_out="Give what edge compare --save FILE or --json wrote.",
        )
    if len(runs) > 1:
        raise UsageError(
            f"{', '.join(sources)} are of {len(runs)} runs.",
            cause="Their rounds did not take turns, and no ratio can be formed of them.",
            way_out="See them on one page: edge report; or what changed: edge compare --baseline",
        )
    show_records(runs[0], showing)


def run_gate_on(
    ctx: typer.Context,
    sources: Sequence[str],
    baseline: Path | None,
    rules: Sequence[str] | None,
    *,
    strict: bool,
    markdown: bool,
    as_json: bool,
) -> None:
    """Holds one saved comparison against another; ends the program with the gate's exit code.

    Raises UsageError unless both are given, and for options that would do nothing.
    """
    _refuse_others(ctx, _OF_A_GATE, "a gate")
    if baseline is None or len(sources) != 1:
        raise UsageError(
            "A gate holds one saved comparison against another.",
            way_out='Write: edge compare --baseline old.json new.json --fail-if "tg128 < -5%"',
        )
    from .gate import run_gate

    run_gate(
        baseline,
        Path(sources[0]),
        tuple(rules or ()),
        strict=strict,
        markdown=markdown,
        as_json=as_json,
    )


def _refuse_others(ctx: typer.Context, known: frozenset[str], what: str) -> None:
    """Raises UsageError for an option on the command line that would do nothing."""
    for parameter in ctx.command.params:
        name = parameter.name or ""
        origin = ctx.get_parameter_source(name)
        if name not in known and origin is not None and origin.name == "COMMANDLINE":
            raise UsageError(
                f"{parameter.opts[0]} has no meaning for {what}.",
                cause="Nothing is made or measured there.",
                way_out="Leave it out.",
            )
