"""What converting or quantizing gave, as records, sentences and tables: files, plans, levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..artifact import Artifact
from ..artifact.shape import is_rope_table
from ..codec import to_jsonable
from ..errors import EdgeError
from ..units import format_bytes, format_count, format_duration
from .inspection import MixRow
from .plain import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A model that was made: its file, or its folder; `paths` are all parts of it.

    `seconds` is what making it took. `level` is the one asked for, `types` what most tensors really
    are where rows do not divide into its blocks, `options` how the level was departed from, in
    words. `notes` say what a level's name does not: where an engine computes otherwise than the
    model's config, what was left as it is, what has not been checked.
    """

    path: str
    paths: tuple[str, ...]
    name: str
    architecture: str
    level: str
    types: str
    parameters: int
    size_bytes: int
    bits_per_weight: float
    seconds: float
    verified: bool
    options: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        artifact: Artifact,
        seconds: float,
        *,
        verified: bool,
        level: str,
        options: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> Written:
        """The record of a file that was just read back."""
        weights = [tensor for tensor in artifact.tensors if not is_rope_table(tensor.name)]
        elements = sum(tensor.elements for tensor in weights)
        # The model's folder is what every verb takes; the graph in it is no use alone.
        path = artifact.path.parent if artifact.format == "onnx" else artifact.path
        types = f"onnx:{artifact.level}" if artifact.format == "onnx" else artifact.level
        return cls(
            path=str(path),
            paths=tuple(map(str, artifact.paths)),
            name=artifact.name,
            architecture=artifact.shape.architecture,
            level=level,
            types=types,
            parameters=artifact.parameters,
            size_bytes=artifact.size_bytes,
            bits_per_weight=8 * sum(t.size_bytes for t in weights) / max(elements, 1),
            seconds=seconds,
            verified=verified,
            options=options,
            notes=notes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NotWritten:
    """A level that failed, in the error's own words."""

    level: str
    path: str
    fact: str
    cause: str
    way_out: str

    @classmethod
    def of(cls, error: EdgeError, *, level: str, path: str) -> NotWritten:
        """The record of a failure."""
        return cls(
            level=level, path=path, fact=error.fact, cause=error.cause, way_out=error.way_out
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a level would give: the types of its tensors, and how many had to take another one."""

    level: str
    size_bytes: int
    bits_per_weight: float
    mix: tuple[MixRow, ...]
    fallbacks: int
    needs_imatrix: bool


Outcome = Written | NotWritten | Planned


def document(outcomes: Sequence[Outcome], *, source: str, source_bytes: int) -> dict[str, object]:
    """The outcomes as one JSON object."""
    return {
        "schema": 1,
        "source": source,
        "source_bytes": source_bytes,
        "levels": [to_jsonable(outcome) for outcome in outcomes],
    }


def summary(written: Written) -> str:
    """One line for one model."""
    split = len(written.paths) > 1 and written.path in written.paths
    parts = f", {len(written.paths)} files" if split else ""
    checked = ", verified" if written.verified else ""
    more = (*((written.types,) if written.types != written.level else ()), *written.options)
    types = f" ({', '.join(more)})" if more else ""
    return plain(
        f"{written.path}: {format_bytes(written.size_bytes)}{parts},"
        f" {written.level}{types},"
        f" {format_count(written.parameters)} parameters,"
        f" {written.bits_per_weight:.2f} bits per weight,"
        f" in {format_duration(written.seconds)}{checked}."
    )


def render_outcomes(outcomes: Sequence[Written | NotWritten], source_bytes: int) -> RenderableType:
    """A row for each level; what failed is told below, whole."""
    table = _table("level", "size", "bits/weight", "of source", "time", "file")
    table.columns[-1].justify = "left"
    table.columns[-1].no_wrap = False
    table.columns[-1].overflow = "fold"
    notes: list[Text] = []
    for row in outcomes:
        if isinstance(row, Written):
            table.add_row(
                row.level,
                format_bytes(row.size_bytes),
                f"{row.bits_per_weight:.2f}",
                f"{row.size_bytes / max(source_bytes, 1):.3f}",
                format_duration(row.seconds),
                Text(plain(row.path)),
            )
        else:
            table.add_row(row.level, "", "", "", "", Text(plain(row.fact), style="red"))
            more = " ".join(filter(None, (row.cause, row.way_out)))
            if more:
                notes.append(Text(f"{row.level}: {plain(more)}"))
    return Group(table, *notes)


def render_plans(plans: Sequence[Planned | NotWritten], source_bytes: int) -> RenderableType:
    """What each level would weigh, and of which types it would be."""
    table = _table("level", "size", "bits/weight", "of source", "tensors by type")
    table.columns[-1].justify = "left"
    table.columns[-1].no_wrap = False
    notes: list[Text] = []
    for row in plans:
        if isinstance(row, NotWritten):
            table.add_row(row.level, "", "", "", Text(plain(row.fact), style="red"))
            continue
        table.add_row(
            row.level,
            format_bytes(row.size_bytes),
            f"{row.bits_per_weight:.2f}",
            f"{row.size_bytes / max(source_bytes, 1):.3f}",
            ", ".join(f"{kind.tensors} {kind.type}" for kind in row.mix),
        )
        if row.fallbacks:
            notes.append(
                Text(
                    f"{row.level}: {row.fallbacks} tensors take another type, because their rows"
                    " are no multiple of its blocks.",
                    style="dim",
                )
            )
        if row.needs_imatrix:
            needs = f"{row.level} needs --imatrix FILE or --calibrate TEXT to be written."
            notes.append(Text(needs, style="yellow"))
    return Group(table, *notes, Text("Nothing was written.", style="dim"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedLevel:
    """A level of either format: bits for a weight in its main type, its block, and its use.

    `cost` is processor time of quantizing, in units of Q4_0's; None where nobody measured it.
    """

    name: str
    bits_per_weight: float
    block_elements: int
    block_bytes: int
    cost: int | None = None
    needs_imatrix: bool = False
    description: str


def render_levels(levels: Sequence[ListedLevel]) -> RenderableType:
    """Every level: bits for a weight in its main type, block, cost, and what it is for."""
    table = _table("level", "bits", "block", "cost", "what it is for")
    table.columns[-1].justify = "left"
    table.columns[-1].no_wrap = False
    for level in levels:
        blocks = level.block_elements > 1
        table.add_row(
            f"{level.name} *" if level.needs_imatrix else level.name,
            f"{level.bits_per_weight:.2f}",
            f"{level.block_elements} in {level.block_bytes} B" if blocks else "",
            str(level.cost) if blocks and level.cost is not None else "",
            level.description,
        )
    notes = (
        "bits: of a weight in the level's main type; a whole file has a few more",
        "cost: processor time of quantizing, about, in units of Q4_0's",
        "* needs an importance matrix (--imatrix FILE, or --calibrate TEXT to measure one)",
    )
    return Group(table, *(Text(note, style="dim") for note in notes))


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table
