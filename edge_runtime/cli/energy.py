"""`edge energy`: what saved measurements cost in energy, and what that means on a battery.

Reads results of `edge profile --save`, lays a meter's log over them where one is given, and words
or writes what follows. Nothing is measured here, and no results file is changed.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..basis import Unavailable
from ..energy import Scope
from ..errors import EdgeError, FormatError, UsageError
from ..measurement import CellFailure, Measurement
from ..report.plain import plain, safe_json
from ..units import parse_duration_s
from .whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..energy_use import Scenario
    from ..profiler.energy.meter_log import MeterLog

_MOST_TOKENS = 10**7
_LONGEST_CYCLE_S = 86_400.0
_LONGEST_OFFSET_S = 1e9
_SCENARIO_WAY_OUT = "Write it like 300,200,60s: prompt tokens, generated tokens, time of a turn."


def energy(
    results: Annotated[
        list[Path],
        typer.Argument(help="Results of edge profile --save.", metavar="RESULTS.jsonl..."),
    ],
    *,
    meter: Annotated[
        Path | None,
        typer.Option(
            "--meter",
            metavar="LOG.csv",
            help="Log of a USB or bench meter that ran meanwhile: time and watts, or volts and"
            " amps.",
        ),
    ] = None,
    meter_offset: Annotated[
        float,
        typer.Option(
            "--meter-offset", metavar="SECONDS", help="Added to the log's times, for its clock."
        ),
    ] = 0.0,
    meter_start: Annotated[
        str | None,
        typer.Option(
            "--meter-start",
            metavar="TIME",
            help="When a log whose times count from its own start began:"
            " 2026-11-22T08:00:00Z, or seconds since 1970.",
        ),
    ] = None,
    scope: Annotated[
        str,
        typer.Option("--scope", help="What the meter feeds: device, board, module or chip."),
    ] = Scope.DEVICE.value,
    scenario: Annotated[
        str,
        typer.Option("--scenario", help="Prompt tokens, generated tokens, time of one turn."),
    ] = "300,200,60s",
    battery_wh: Annotated[
        float | None,
        typer.Option(
            "--battery-wh",
            metavar="WH",
            help="Capacity to reckon with; the record's battery as it is today if not given.",
            show_default=False,
        ),
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Keep the records, with the meter's joules, in this new file."),
    ] = None,
) -> None:
    """Say what measured models cost in energy: J/token, battery, hours of chat."""
    from ..energy_use import LEAST_WH, MOST_WH, energy_report
    from ..report.energy import render_energy

    chat = _scenario(scenario)
    if battery_wh is not None and not LEAST_WH <= battery_wh <= MOST_WH:
        raise UsageError(
            f"--battery-wh: {battery_wh:g} Wh is no capacity of a battery.",
            way_out="A phone has about 15, a laptop 50: --battery-wh 50",
        )
    if save is not None and save.exists():
        raise UsageError(f"{save} is there already.", way_out="Name a new file.")
    records = _read(results)
    if meter is not None:
        records = _metered(records, meter, _scope(scope), meter_offset, _moment(meter_start))
    elif meter_offset or meter_start is not None or scope != Scope.DEVICE.value:
        raise UsageError(
            "--meter-offset, --meter-start and --scope say something of a meter: --meter LOG.csv"
        )
    measurements = [record for record in records if isinstance(record, Measurement)]
    if not measurements:
        raise EdgeError(
            f"{', '.join(map(str, results))}: no measurement in it.",
            cause=f"{len(records)} failed cells." if records else "It is empty.",
            way_out="Make one: edge profile MODEL --save results.jsonl",
        )
    report = energy_report(measurements, chat, tool_version=__version__, battery_wh=battery_wh)
    if save is not None:
        lines = (json.dumps(r.to_json(), separators=(",", ":"), allow_nan=False) for r in records)
        write_whole(save, (f"{line}\n" for line in lines))
    if json_output:
        from ..codec import to_jsonable

        sys.stdout.write(safe_json(to_jsonable(report)) + "\n")
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        sys.stdout.write(render_energy(report, width))
    if save is not None:
        typer.echo(f"saved: {save}", err=True)


def _read(results: Sequence[Path]) -> tuple[Measurement | CellFailure, ...]:
    from ..profiler.results import read_results

    records = tuple(record for path in results for record in read_results(path, repair=False))
    failed = sum(isinstance(record, CellFailure) for record in records)
    if failed:
        typer.echo(f"{failed} failed cells have no energy.", err=True)
    return records


def _metered(
    records: Sequence[Measurement | CellFailure],
    meter: Path,
    scope: Scope,
    offset_s: float,
    start_unix_s: float | None,
) -> tuple[Measurement | CellFailure, ...]:
    """The records with the meter's joules; those it does not fit keep what they had, and say so.

    A file that is no log fits none of them. Raises EdgeError for one that cannot be read at all.
    """
    from ..profiler.energy.meter_log import NAME, attach, read_log

    if not abs(offset_s) <= _LONGEST_OFFSET_S:
        raise UsageError(f"--meter-offset: {offset_s:g} s makes no sense.")
    log: MeterLog | Unavailable
    try:
        log = read_log(meter)
    except FormatError as error:
        log = Unavailable(
            reason=f"{error.fact} {error.cause}".strip().rstrip("."), remedy=error.way_out
        )
    attached: list[Measurement | CellFailure] = []
    for record in records:
        if isinstance(record, CellFailure):
            attached.append(record)
            continue
        with_meter = attach(record, log, scope=scope, offset_s=offset_s, start_unix_s=start_unix_s)
        attached.append(with_meter)
        for refusal in with_meter.refusals:
            if refusal.name == NAME:
                words = f"{record.workload.name}: {NAME} unavailable ({refusal.why.reason})"
                typer.echo(plain(". ".join(filter(None, (words, refusal.why.remedy)))), err=True)
    return tuple(attached)


def _moment(text: str | None) -> float | None:
    """Seconds since 1970 of `--meter-start`. Raises UsageError."""
    from ..profiler.energy.meter_time import moment

    if text is None:
        return None
    try:
        return moment(text)
    except ValueError as error:
        raise UsageError(
            f"--meter-start: {error}.", way_out="Write it like 2026-11-22T08:00:00Z."
        ) from None


def _scope(text: str) -> Scope:
    try:
        return Scope(text)
    except ValueError:
        known = ", ".join(scope.value for scope in Scope)
        raise UsageError(
            f"--scope: {text!r} is not known.", way_out=f"Choose from: {known}."
        ) from None


def _scenario(text: str) -> Scenario:
    """Reads `300,200,60s`. Raises UsageError."""
    from ..energy_use import Scenario

    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(
        p.isascii() and p.isdigit() and len(p) < 9 and int(p) <= _MOST_TOKENS for p in parts[:2]
    ):
        raise UsageError(f"--scenario: {text!r} is none.", way_out=_SCENARIO_WAY_OUT)
    made = Scenario(
        prompt_tokens=int(parts[0]),
        generate_tokens=int(parts[1]),
        cycle_s=parse_duration_s(parts[2], "--scenario"),
    )
    if not (made.prompt_tokens + made.generate_tokens and 0 < made.cycle_s <= _LONGEST_CYCLE_S):
        raise UsageError(f"--scenario: in {text!r} nothing happens.", way_out=_SCENARIO_WAY_OUT)
    return made
