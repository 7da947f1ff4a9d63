"""How far projections are from published measurements, on devices they have not seen.

    python benchmarks/projection.py [--table] [--rows]
    python benchmarks/projection.py --measurements FURTHER.csv [--devices FOLDER] [--table]

Without a file: every device of `profiles/measurements.csv` is projected with coefficients learnt
from all the others (leave one device out), its intervals widened by a factor that the others gave.
Then once more, with one of its runs per quantization family given as a calibration. Beside stand
the bandwidth roof times a constant, learnt just so, and llmfit's formula, all on the same rows.

With a file, either of the shipped table's columns or of a raw collection's (that is cleaned first,
see scripts/clean_measurements.py): the coefficients as shipped are held against its rows, of which
those on devices of the shipped table are left out. FOLDER has profiles of devices that are not
shipped. Prints one JSON document, with --table Markdown instead, with --rows every single case too.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_HERE))

from benchmarks.projection_validation import tables  # noqa: E402
from benchmarks.projection_validation.cases import (  # noqa: E402
    DECODE,
    PREFILL,
    after_runs,
    candidate_of,
    cases_of,
)
from benchmarks.projection_validation.document import Phase, goals_of, phase_of  # noqa: E402
from benchmarks.projection_validation.predictions import (  # noqa: E402
    Asked,
    leave_each_device_out,
    with_shipped,
)
from benchmarks.projection_validation.runs import calibrating_runs  # noqa: E402
from benchmarks.projection_validation.scores import TARGET_TOKENS_PER_S, Case  # noqa: E402
from edge_runtime.codec import to_jsonable  # noqa: E402
from edge_runtime.projection.observations import Observation  # noqa: E402
from profiles.devices import DeviceProfile, devices, read_device  # noqa: E402
from profiles.published import (  # noqa: E402
    COLUMNS,
    PublishedRow,
    published_rows,
    read_published,
)
from scripts.measurements.cleaning import RAW_COLUMNS, clean  # noqa: E402
from scripts.measurements.devices import read_devices  # noqa: E402

PHASES = (DECODE, PREFILL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; the exit code is 0, or 2 with one sentence on what was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="Markdown tables instead of JSON")
    parser.add_argument("--rows", action="store_true", help="every single case in the JSON too")
    parser.add_argument("--worst", type=int, default=12, help="how many of the worst to name")
    parser.add_argument("--target", type=float, default=TARGET_TOKENS_PER_S)
    parser.add_argument("--measurements", type=Path, help="further published rows, CSV")
    parser.add_argument("--devices", type=Path, help="a folder of profiles of further devices")
    options = parser.parse_args(arguments)
    if not options.target > 0 or options.worst < 1:
        parser.error("--target and --worst must be positive")
    try:
        document = _left_out(options) if options.measurements is None else _further(options)
    except (OSError, ValueError, csv.Error) as error:
        print(f"Not validated: {error}", file=sys.stderr)
        return 2
    print(_markdown(document) if options.table else json.dumps(to_jsonable(document)))
    return 0


def _left_out(options: argparse.Namespace) -> dict[str, object]:
    """The shipped rows, each device projected from the others, and once more after some runs."""
    known = dict(devices())
    asked = {phase: leave_each_device_out(phase, published_rows(), known) for phase in PHASES}
    return _document("leave one device out", options, asked, known, {}, {})


def _further(options: argparse.Namespace) -> dict[str, object]:
    """Further rows on devices that the shipped table lacks, against the shipped coefficients."""
    known = dict(devices())
    if options.devices is not None:
        more = [read_device(file) for file in sorted(options.devices.glob("*.toml"))]
        known |= {device.id: device for device in more}
    names = {name: d.id for d in known.values() for name in (d.id, *d.aliases)}
    rows, refused = _read(options.measurements, options.devices)
    rows = [dataclasses.replace(row, device=names.get(row.device, row.device)) for row in rows]
    learnt_on = {names.get(row.device, row.device) for row in published_rows()}
    new = [row for row in rows if row.device not in learnt_on]
    if not new:
        raise ValueError(
            f"{options.measurements} has no row on a device that the shipped table lacks."
        )
    counts = {
        "read": len(rows) + refused, "refused": refused, "of_known_devices": len(rows) - len(new),
    }  # fmt: skip
    asked = {phase: with_shipped(phase, new, known) for phase in PHASES}
    behind = {p: with_shipped(p, published_rows(), known).observations for p in PHASES}
    return _document("further devices", options, asked, known, behind, counts)


def _read(path: Path, folder: Path | None) -> tuple[Sequence[PublishedRow], int]:
    """The rows of a table of the shipped or of the raw form, and how many cleaning refused."""
    text = path.read_text(encoding="utf-8")
    header = tuple(next(csv.reader(text.splitlines()), ()))
    if header == COLUMNS:
        return read_published(text.splitlines(), path.name), 0
    if missing := [name for name in RAW_COLUMNS if name not in header]:
        raise ValueError(
            f"{path} has neither the columns of profiles/measurements.csv nor those of a raw "
            f"collection, of which it lacks {', '.join(missing[:3])} and {len(missing) - 3} more."
            if len(missing) > 3
            else f"{path} lacks {', '.join(missing)} of the columns of a raw collection."
        )
    facts = dict(read_devices(_HERE / "profiles/devices"))
    facts |= read_devices(folder) if folder is not None else {}
    kept, refused = clean(csv.DictReader(text.splitlines()), facts)
    return kept, len(refused)


def _document(
    what: str,
    options: argparse.Namespace,
    asked: Mapping[str, Asked],
    known: Mapping[str, DeviceProfile],
    behind: Mapping[str, Sequence[Observation]],
    counts: Mapping[str, object],
) -> dict[str, object]:
    """Scores both phases, bare and after a calibration; `behind` is what constants come from."""
    phases: dict[str, Phase] = {}
    calibrated: dict[str, Phase] = {}
    cases: list[Case] = []
    counts = dict(counts)
    for phase, each in asked.items():
        target = options.target if phase == DECODE else None
        bare = cases_of(phase, each.bare(), known, behind.get(phase))
        after = _calibrated(phase, each, known)
        for into, found in ((phases, bare), (calibrated, after)):
            if found:
                into[phase] = phase_of(found, target=target, misses=options.worst)
        counts[phase] = {
            "used": len(bare), "calibrated": len(after), "unused": dict(each.seen.unused),
        }  # fmt: skip
        cases += [*bare, *after]
    goals = goals_of(phases[DECODE], calibrated.get(DECODE)) if DECODE in phases else ()
    return {
        "benchmark": "projection", "what": what, "rows": counts, "goals": tuple(goals),
        "phases": phases, "calibrated": calibrated, **({"cases": cases} if options.rows else {}),
    }  # fmt: skip


def _calibrated(phase: str, asked: Asked, known: Mapping[str, DeviceProfile]) -> tuple[Case, ...]:
    """Each case that has a run of its quantization family on the same device, given that run."""
    own = asked.observations
    chosen = list(calibrating_runs([candidate_of(observation) for observation in own]))
    runs_of = {id(own[index]): (index, runs) for index, runs in chosen}
    after = asked.after(chosen)
    return tuple(
        dataclasses.replace(case, rivals=after_runs(phase, own, *runs_of[id(observation)]))
        for case, (observation, _) in zip(cases_of(phase, after, known), after, strict=True)
    )


def _markdown(document: Mapping[str, Any]) -> str:
    return tables.validation(document["goals"], document["phases"], document["calibrated"])


if __name__ == "__main__":
    sys.exit(main())
