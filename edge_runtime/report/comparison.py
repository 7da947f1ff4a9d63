"""A comparison as a page for a terminal, markdown, CSV, JSON, and a table for a notebook.

The verdict comes first, then the table, then what failed, and how each number came about. Where the
terminal is too narrow for one table, its columns are divided among two or three: no figure is cut.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from ..codec import to_jsonable
from ..comparison import ComparedRow, Comparison
from ..errors import UsageError
from ..saved import DOCUMENT_SCHEMA
from ..verdict import Verdict, VerdictKind
from .comparison_words import failures, legend, provenance, sentence
from .level_columns import FAILED, NONE, RECOMMENDED, Key, LevelColumn, level_columns
from .plain import safe_json

_GAP = 2
_SPECIAL = re.compile(r"[\\`*\[\]<>|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""What markdown would take for its own; an underscore within a word it leaves alone."""
_STYLES = {
    VerdictKind.VIABLE: "green",
    VerdictKind.BORDERLINE: "yellow",
    VerdictKind.NOT_VIABLE: "red",
}
_FILE: tuple[Key, ...] = ("size", "bits", "peak", "need")
_SPEED: tuple[Key, ...] = (
    "prefill", "prefill ratio", "ttft", "decode", "decode ratio", "joules",
)  # fmt: skip
_QUALITY: tuple[Key, ...] = ("ppl", "kl", "kl p99", "top1", "p change", "answers")
_LAYOUTS: tuple[tuple[tuple[Key, ...], ...], ...] = (
    ((*_FILE, *_SPEED, *_QUALITY, "verdict"),),
    ((*_FILE, *_SPEED, "verdict"), _QUALITY),
    (
        ("size", "bits", "decode", "decode ratio", "kl", "verdict"),
        ("peak", "need", "prefill", "prefill ratio", "ttft", "joules"),
        ("ppl", "kl p99", "top1", "p change", "answers"),
    ),
    (
        ("decode", "kl", "verdict"),
        ("size", "bits", "decode ratio"),
        ("peak", "need"),
        ("prefill", "prefill ratio"),
        ("ttft", "joules", "answers"),
        ("ppl", "kl p99"),
        ("top1", "p change"),
    ),
)
"""Which columns stand together, widest first; each table begins with the row's name."""
_ROOMY = 2
"""So many of the layouts have room for the long words of a column."""
_NARROW_LABEL = 16


def render_comparison(comparison: Comparison) -> RenderableType:
    """The whole page for a terminal, as wide as that is."""
    return _Page(comparison)


def comparison_text(comparison: Comparison, *, columns: int = 100) -> str:
    """The same page as plain text, without colours."""
    console = Console(width=columns, color_system=None, highlight=False, file=io.StringIO())
    with console.capture() as captured:
        console.print(render_comparison(comparison))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def write_comparison(comparison: Comparison, form: str, stream: TextIO) -> None:
    """Writes a comparison as `md`, `csv`, `json` or `jsonl`, the last its records one by one.

    Raises UsageError for another format.
    """
    writer = _WRITERS.get(form)
    if writer is None:
        raise UsageError(
            f"There is no output format {form!r}.", way_out=f"Choose from: {', '.join(_WRITERS)}."
        )
    writer(comparison, stream)


def document(comparison: Comparison) -> dict[str, Any]:
    """The document of `--json`: what was worked out, and the records it was worked out from.

    `comparison.rows` are those of `Comparison.to_records`: SI units, named in the keys.
    """
    from .. import __version__

    return {
        "schema": DOCUMENT_SCHEMA,
        "tool_version": __version__,
        "comparison": {
            "recommended": comparison.recommended,
            "recommendation": comparison.recommendation,
            "target": to_jsonable(comparison.target),
            "memory_bytes": comparison.memory_bytes,
            "text": to_jsonable(comparison.text),
            "rows": comparison.to_records(),
            "notes": list(comparison.notes),
        },
        "records": [record.to_json() for record in comparison.records],
    }


class _Page:
    """Chooses its layout when it is drawn: only then the width is known."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._columns = level_columns(comparison)

    def __rich_console__(
        self, _console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        comparison = self._comparison
        yield Text(sentence(comparison), style="bold")
        tables, roomy = self._layout(options.max_width)
        for keys in tables:
            yield Text()
            yield self._table(keys, roomy=roomy)
        marked = legend(comparison)
        if marked:
            yield Text()
            yield Text(marked, style="dim")
        for label, words in failures(comparison):
            yield Text(f"! {label}: {words}", style="red")
        yield Text()
        for words in provenance(comparison):
            yield Text(words, style="dim")

    def _layout(self, width: int) -> tuple[Sequence[Sequence[Key]], bool]:
        """The first layout whose tables all have room, the last where none has.

        And whether there is room for the long words.
        """
        for index, layout in enumerate(_LAYOUTS):
            roomy = index < _ROOMY
            tables = [keys for keys in layout if any(key in self._columns for key in keys)]
            if all(self._width(keys, roomy=roomy) <= width for keys in tables):
                break
        return tables, roomy

    def _width(self, keys: Sequence[Key], *, roomy: bool) -> int:
        widths = []
        for column in self._chosen(keys):
            words = [column.title, *(_words(column, r, roomy) for r in self._comparison.rows)]
            widest = max(map(cell_len, words))
            foldable = column.key == "label" and not roomy
            widths.append(min(widest, _NARROW_LABEL) if foldable else widest)
        return sum(widths) + _GAP * (len(widths) - 1)

    def _chosen(self, keys: Sequence[Key]) -> list[LevelColumn]:
        first: tuple[Key, ...] = ("mark", "label")
        return [self._columns[key] for key in (*first, *keys) if key in self._columns]

    def _table(self, keys: Sequence[Key], *, roomy: bool) -> Table:
        table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="bold", pad_edge=False)
        columns = self._chosen(keys)
        for column in columns:
            # Of what has no room only names are folded: half a figure would be another one.
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                no_wrap=column.key != "label",
                overflow="fold",
            )
        for row in self._comparison.rows:
            style = "bold" if row.label == self._comparison.recommended else ""
            table.add_row(*(_cell(column, row, roomy) for column in columns), style=style)
        return table


def _words(column: LevelColumn, row: ComparedRow, roomy: bool) -> str:
    return column.words(row) if roomy or column.short is None else column.short(row)


def _cell(column: LevelColumn, row: ComparedRow, roomy: bool) -> Text:
    words = _words(column, row, roomy)
    if words == FAILED:
        return Text(words, style="red")
    if words == NONE:
        return Text(words, style="dim")
    if column.key == "verdict" and isinstance(row.verdict, Verdict):
        return Text(words, style=_STYLES[row.verdict.kind])
    if column.key == "mark":
        return Text(words, style="green" if words == RECOMMENDED else "cyan")
    return Text(words)


def _markdown(comparison: Comparison, stream: TextIO) -> None:
    columns = list(level_columns(comparison).values())
    stream.write(f"**{_escaped(sentence(comparison))}**\n\n")
    stream.write("| " + " | ".join(_escaped(column.title) for column in columns) + " |\n")
    stream.write("|" + "|".join("--:" if column.right else ":--" for column in columns) + "|\n")
    for row in comparison.rows:
        stream.write("| " + " | ".join(_escaped(c.words(row)) for c in columns) + " |\n")
    marked = legend(comparison)
    stream.write(f"\n{_escaped(marked)}\n\n" if marked else "\n")
    for label, words in failures(comparison):
        stream.write(f"- **{_escaped(label)}** failed: {_escaped(words)}\n")
    for words in provenance(comparison):
        stream.write(f"- {_escaped(words)}\n")


def _escaped(words: str) -> str:
    """Words that markdown shows as they are: names come from strangers' files."""
    return _SPECIAL.sub(r"\\\g<0>", words)


def _csv(comparison: Comparison, stream: TextIO) -> None:
    rows = comparison.to_records()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _json(comparison: Comparison, stream: TextIO) -> None:
    whole = document(comparison)
    # A record has thousands of stamps: indented like the rest, each would have a line of its own.
    records = [json.dumps(record, allow_nan=False) for record in whole.pop("records")]
    stream.write(safe_json(whole).removesuffix("\n}") + ',\n  "records": [\n')
    stream.write(",\n".join(records) + ("\n" if records else "") + "  ]\n}\n")


def _json_lines(comparison: Comparison, stream: TextIO) -> None:
    for record in comparison.records:
        stream.write(json.dumps(record.to_json(), allow_nan=False) + "\n")


_WRITERS: Mapping[str, Callable[[Comparison, TextIO], None]] = {
    "md": _markdown, "csv": _csv, "json": _json, "jsonl": _json_lines,
}  # fmt: skip


def comparison_html(comparison: Comparison) -> str:
    """A table for a notebook: a fragment without scripts, whose colours are the notebook's own."""
    columns = list(level_columns(comparison).values())
    head = "".join(
        f'<th title="{_safe(c.about)}" style="{_side(c)}">{_safe(c.title)}</th>' for c in columns
    )
    body = "".join(_html_row(columns, row, comparison.recommended) for row in comparison.rows)
    failed = "".join(
        f"<li><b>{_safe(label)}</b> failed: {_safe(words)}</li>"
        for label, words in failures(comparison)
    )
    rest = "".join(f"<li>{_safe(words)}</li>" for words in provenance(comparison))
    return (
        '<div class="edge-comparison" style="overflow-x:auto">'
        f"<p><b>{_safe(sentence(comparison))}</b></p>"
        f'<table style="white-space:nowrap"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
        f"<p><small>{_safe(legend(comparison))}</small></p>"
        + (f"<ul>{failed}</ul>" if failed else "")
        + f"<details><summary>How these numbers came about</summary><ul>{rest}</ul></details></div>"
    )


def _html_row(columns: Sequence[LevelColumn], row: ComparedRow, recommended: str | None) -> str:
    weight = "font-weight:bold" if row.label == recommended else ""
    cells = "".join(
        f'<td style="{_side(column)}">{_safe(column.words(row))}</td>' for column in columns
    )
    return f'<tr style="{weight}">{cells}</tr>'


def _side(column: LevelColumn) -> str:
    return f"padding:2px 8px;text-align:{'right' if column.right else 'left'}"


def _safe(words: str) -> str:
    return html.escape(words, quote=True)
