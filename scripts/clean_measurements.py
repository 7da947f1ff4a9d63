"""Makes `profiles/measurements.csv` and `profiles/refused.csv` of a raw collection of measurements.

    python scripts/clean_measurements.py RAW.csv [--devices profiles/devices] [--out profiles]

RAW.csv has the columns of `RAW_COLUMNS`: what a source published, in its own words and units.
The devices tell bandwidth, FP16 rate and cores, and the names the table uses: a folder of profiles,
or the `devices.csv` of a collection. Rules, in order:

1. A backend becomes an engine, an accelerator and an API; a level becomes llama.cpp's name of it or
   a family; a model becomes a shape of the catalogue where it has one, and its parameters are that
   shape's (sources count a shared embedding once or twice, or round as the name does). A mixture's
   active parameters and the effective ones of per-layer embeddings come from
   `measurements/models.toml`, else from the name; what a source says beside its table comes from
   `measurements/sources.toml`. What it does not say stays empty; an API is inferred only where
   there is one possibility, and then said to be (`api-inferred`).
2. Units become SI. Six significant digits are kept, which is more than any source has.
3. The notes become conditions of a closed vocabulary (profiles/published.py), and are left behind.
4. A single value that cannot be is left out and said to be (`dropped:...`): energy that contradicts
   the row's own power and rate, more memory than any machine has, token counts of a whole session.
5. A row is refused, with a reason: numbers that are none; neither a rate nor an energy; no device
   or model to tell; a claimed CPU run of a graphics card; values that contradict one another;
   decode above the memory's bandwidth; prefill above the arithmetic of the device; one measurement
   told twice; a run far below the others of the very same thing.

A row that is only far from what was expected stays. The result is sorted and does not depend on the
order of the raw rows. docs/measurements.md has the reasons and the counts.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

_HERE = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):  # run as a program, from anywhere
    sys.path.insert(0, str(_HERE))

from profiles.published import COLUMNS  # noqa: E402
from scripts.measurements.cleaning import RAW_COLUMNS, clean  # noqa: E402
from scripts.measurements.devices import read_devices  # noqa: E402

REFUSED_COLUMNS = (
    "device", "backend", "model", "level", "prefill_tokens_per_s", "decode_tokens_per_s", "date",
    "source", "source_id", "rule", "reason",
)  # fmt: skip


def table(columns: Sequence[str], rows: Iterable[object]) -> str:
    """Rows as CSV text with a header, conditions separated by blanks, absent values empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(getattr(row, column)) for column in columns])
    return out.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; the exit code is 0, or 2 with one sentence on what was wrong."""
    parser = argparse.ArgumentParser(description="Clean a raw collection of measurements.")
    parser.add_argument("raw", type=Path, help="the raw collection, CSV")
    parser.add_argument(
        "--devices", type=Path, default=_HERE / "profiles/devices", help="profiles, or a CSV"
    )
    parser.add_argument("--out", type=Path, default=_HERE / "profiles", help="where the tables go")
    options = parser.parse_args(arguments)
    try:
        devices = read_devices(options.devices)
        with options.raw.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if missing := sorted(set(RAW_COLUMNS) - set(reader.fieldnames or ())):
                raise ValueError(f"{options.raw} lacks the columns {', '.join(missing)}.")
            kept, refused = clean(reader, devices)
        options.out.mkdir(parents=True, exist_ok=True)
        _write(options.out / "measurements.csv", table(COLUMNS, kept))
        _write(options.out / "refused.csv", table(REFUSED_COLUMNS, refused))
    except UnicodeDecodeError:
        print(f"Not cleaned: {options.raw} or the devices are no UTF-8 text.", file=sys.stderr)
        return 2
    except (OSError, ValueError, csv.Error) as error:
        print(f"Not cleaned: {error}", file=sys.stderr)
        return 2
    print(f"{len(kept)} rows kept, {len(refused)} refused")
    for rule, count in Counter(one.rule for one in refused).most_common():
        print(f"{count:6} {rule}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
