"""What quantizing a finished ONNX model gave, as a record and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..units import format_bytes, format_count, format_duration
from .plain import plain
from .written import NotWritten


@dataclass(frozen=True, slots=True, kw_only=True)
class Stays:
    """Operators that stay as they were, for one reason; `first` is the name of one of them."""

    reason: str
    operators: int
    elements: int
    first: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenOnnx:
    """A folder that was made, or would be: then nothing was timed.

    `nodes` counts the operators that compute with integers, read back from the disk; `elements` are
    the weights they hold. `peak_memory_bytes` is that of the process that did the work.
    """

    level: str
    algorithm: str
    path: str
    paths: tuple[str, ...]
    size_bytes: int
    source_bytes: int
    nodes: int
    elements: int
    stays: tuple[Stays, ...]
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    verified: bool = False


def render_requantized(rows: Sequence[WrittenOnnx | NotWritten]) -> RenderableType:
    """A row for each level; below it what stays floats, and what failed, whole."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for number, name in enumerate(
        ("level", "size", "of source", "products", "weights", "memory", "time", "folder")
    ):
        right = 0 < number < 7
        table.add_column(name, justify="right" if right else "left", no_wrap=right or not number)
    table.columns[-1].overflow = "fold"
    notes: list[Text] = []
    planned = False
    for row in rows:
        if isinstance(row, NotWritten):
            table.add_row(row.level, *[""] * 6, Text(plain(row.fact), style="red"))
            if more := " ".join(filter(None, (row.cause, row.way_out))):
                notes.append(Text(f"{row.level}: {plain(more)}"))
            continue
        planned = planned or row.seconds is None
        peak = row.peak_memory_bytes
        table.add_row(
            row.level if row.algorithm in ("rtn", "dynamic") else f"{row.level} {row.algorithm}",
            format_bytes(row.size_bytes),
            f"{row.size_bytes / max(row.source_bytes, 1):.3f}",
            str(row.nodes),
            format_count(row.elements),
            "" if peak is None else format_bytes(peak),
            "" if row.seconds is None else format_duration(row.seconds),
            Text(plain(row.path)),
        )
        notes.extend(
            Text(f"{row.level}: {_said(group)}", style="dim")
            for group in row.stays
            if group.elements
        )
    if planned:
        notes.append(Text("Nothing was written.", style="dim"))
    return Group(table, *notes)


def _said(group: Stays) -> str:
    return plain(
        f"{group.operators} stay floats ({format_count(group.elements)} weights), {group.first}"
        f" among them: {group.reason}."
    )
