"""`edge report`: saved records as one page for people, or as markdown, CSV or JSON.

Nothing is measured here. Records that cannot be laid on one table, of other machines or other
options, get tables of their own.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..errors import EdgeError, UsageError
from ..units import parse_bytes
from .options import target_rate
from .whole_file import write_whole

if TYPE_CHECKING:
    from ..comparison.rows import Comparison
    from ..latency import LatencyRecord
    from ..saved import SavedRecord
    from ..verdict import Target

_FORMS = {".html": "html", ".htm": "html", ".md": "md", ".csv": "csv", ".json": "json"}
_LONGEST_TITLE = 120


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="What edge compare or edge profile saved or printed as JSON.",
            metavar="RESULTS...",
        ),
    ],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="File to write; its ending says as what: .html, .md, .csv or .json.",
            metavar="FILE",
        ),
    ] = Path("report.html"),
    title: Annotated[
        str | None,
        typer.Option("--title", help="Heading.", show_default="the model's name"),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="Wanted tok/s, or a preset: reading, speech ...")
    ] = "reading",
    context: Annotated[
        int, typer.Option("--context", "-c", min=64, help="Context that must fit, tokens.")
    ] = 4096,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="What the recommended level may need, such as 6GiB.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="LEVEL",
            help="The row that speeds are held against.",
            show_default="the reference",
        ),
    ] = None,
) -> None:
    """Makes one page of saved results: verdict, table, charts, and how each number came about."""
    from ..verdict import Target

    form = _form(output)
    _refuse_overwriting(output, results)
    rate, name, source = target_rate(target)
    asked = Target(decode_tokens_per_s=rate, context_tokens=context, name=name, source=source)
    runs = _read(results)
    records = [record for run in runs for record in run]
    comparisons = _comparisons(
        runs, asked, None if memory is None else parse_bytes(memory), baseline
    )
    latencies = _latencies(records)
    if form == "html":
        parts = _html(comparisons, latencies, files=results, title=title)
    elif form == "md":
        parts = _markdown(comparisons, latencies)
    elif form == "csv":
        parts = _csv(comparisons, latencies)
    else:
        parts = _json(comparisons, latencies)
    write_whole(output, parts)
    typer.echo(f"{output}: {_many(len(records), 'record')}", err=True)


def _form(output: Path) -> str:
    found = _FORMS.get(output.suffix.lower())
    if found is None:
        raise UsageError(
            f"{str(output)[:200]!r} does not say what to write.",
            way_out="Let it end in .html, .md, .csv or .json: -o report.html",
        )
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UsageError(
            f"{output} cannot be written.", way_out="Name a file in a folder that exists."
        )
    return found


def _refuse_overwriting(output: Path, results: Sequence[Path]) -> None:
    """A report in place of the measurements it was made of would be a bad bargain."""
    if any(output.resolve() == path.resolve() for path in results):
        raise UsageError(
            f"{output} is one of the results themselves.", way_out="Name another file with -o."
        )


def _read(results: Sequence[Path]) -> tuple[tuple[SavedRecord, ...], ...]:
    """The records of each run, each once in however many files. Raises EdgeError without any."""
    from ..comparison.lots import runs_of
    from ..profiler.results import read_saved_file

    runs = runs_of(map(read_saved_file, results))
    if not runs:
        raise EdgeError(
            f"{', '.join(map(str, results[:3]))}: no record in it.",
            way_out="Make some: edge compare --save results.jsonl",
        )
    return runs


def _comparisons(
    runs: Sequence[Sequence[SavedRecord]],
    target: Target,
    memory_bytes: int | None,
    baseline: str | None,
) -> tuple[Comparison, ...]:
    """A table for each lot of records that may stand on one; all of them know the baseline."""
    from ..comparison.levels import levels_of
    from ..comparison.lots import alike_lots
    from ..comparison.table import compare_records

    lots = [lot for run in runs for lot in alike_lots(run)]
    named = [{level.label for level in levels_of(lot)} for lot in lots]
    if baseline is not None and not any(baseline in labels for labels in named):
        known = ", ".join(dict.fromkeys(label for labels in named for label in sorted(labels)))
        raise UsageError(f"There is no row {baseline!r}.", way_out=f"Choose from: {known}.")
    return tuple(
        compare_records(
            lot,
            target=target,
            memory_bytes=memory_bytes,
            baseline=baseline if baseline in labels else None,
        )
        for lot, labels in zip(lots, named, strict=True)
    )


def _latencies(records: Sequence[SavedRecord]) -> tuple[LatencyRecord, ...]:
    from ..latency import LatencyFailure, LatencyMeasurement

    return tuple(r for r in records if isinstance(r, LatencyMeasurement | LatencyFailure))


def _html(
    comparisons: tuple[Comparison, ...],
    latencies: tuple[LatencyRecord, ...],
    *,
    files: Sequence[Path],
    title: str | None,
) -> Iterator[str]:
    import datetime as dt

    from ..report.html.page import Report, render_page
    from ..report.plain import plain

    yield render_page(
        Report(
            title=plain(title or _title(comparisons, latencies), most=_LONGEST_TITLE),
            comparisons=comparisons,
            latencies=latencies,
            files=tuple(plain(path.name, most=80) for path in files),
            created=dt.datetime.now(dt.UTC).date().isoformat(),
            tool_version=__version__,
        )
    )


def _title(comparisons: Sequence[Comparison], latencies: Sequence[LatencyRecord]) -> str:
    """The models' names."""
    from ..report.html.overview import model_names

    rows = (row for comparison in comparisons for row in comparison.rows)
    names = [row.artifact.name for row in rows if row.artifact is not None]
    return model_names([*names, *(record.model.name for record in latencies)])


def _markdown(
    comparisons: Sequence[Comparison], latencies: Sequence[LatencyRecord]
) -> Iterator[str]:
    from ..report.comparison import write_comparison
    from ..report.latency_rows import latency_writer

    for number, comparison in enumerate(comparisons):
        text = io.StringIO()
        write_comparison(comparison, "md", text)
        yield ("\n" if number else "") + text.getvalue()
    if latencies:
        text = io.StringIO()
        writer = latency_writer("md", text)
        for record in latencies:
            writer.write(record)
        writer.close()
        yield ("\n" if comparisons else "") + text.getvalue()


def _csv(comparisons: Sequence[Comparison], latencies: Sequence[LatencyRecord]) -> Iterator[str]:
    """A row for each level of each table, or for each model that generates no text."""
    from ..report.latency_rows import latency_writer

    text = io.StringIO()
    if comparisons and latencies:
        raise UsageError(
            "Levels of language models and latencies of other models have unlike columns.",
            way_out="Write them to two CSV files, or to one .html, .md or .json.",
        )
    if latencies:
        writer = latency_writer("csv", text)
        for record in latencies:
            writer.write(record)
        writer.close()
    else:
        rows = [row for comparison in comparisons for row in comparison.to_records()]
        table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    yield text.getvalue()


def _json(comparisons: Sequence[Comparison], latencies: Sequence[LatencyRecord]) -> Iterator[str]:
    """The document of `edge compare --json` for one table; for several, each with its records."""
    from ..report.comparison import document
    from ..saved import DOCUMENT_SCHEMA

    if len(comparisons) == 1 and not latencies:
        found = document(comparisons[0])
    else:
        tables = [document(comparison) for comparison in comparisons]
        records = [record.to_json() for c in comparisons for record in c.records]
        records += [record.to_json() for record in latencies]
        found = {
            "schema": DOCUMENT_SCHEMA,
            "tool_version": __version__,
            "comparisons": [table["comparison"] for table in tables],
            "records": records,
        }
    yield json.dumps(found, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
