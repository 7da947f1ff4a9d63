"""Learns the projection's coefficients from the published rows: profiles/projection.toml.

    python scripts/fit_projection.py [--check] [--output FILE]

Takes some minutes: every device is left out once, to find how wide the intervals must be. The file
records from what it was made; with --check nothing is written, and it fails when the shipped file
was made from other rows.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from edge_runtime.cli.whole_file import write_whole
from edge_runtime.projection.coefficients import (
    DECODE,
    PHASES,
    SCHEMA,
    CostModel,
    Learned,
    Widening,
)
from edge_runtime.projection.learn import learn
from edge_runtime.projection.observations import Observation, observe_decode, observe_prefill
from edge_runtime.projection.priors import priors
from edge_runtime.projection.supply import KINDS, Typical, typical_of
from edge_runtime.projection.validation import (
    LeftOut,
    Residual,
    cost_model,
    leave_devices_out,
    widened_by_others,
    widening_of,
)
from profiles.devices import device, devices
from profiles.published import PublishedRow, published_rows

OUTPUT = Path(__file__).resolve().parent.parent / "profiles" / "projection.toml"
HEAD = """\
# Learnt by scripts/fit_projection.py from profiles/measurements.csv: do not edit, run it again.
# parts: the logarithm of each part of a coefficient and its standard deviation; devices: the same
# of single devices, by device|kind/engine/api; spreads: how far parts of a group scatter; widening:
# by what intervals are widened to hold on unseen devices; support: published rows and devices;
# left_out: errors when each device is predicted from the others only.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the file, or with --check says whether the shipped one is of the shipped rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--check", action="store_true")
    parser.add_argument(
        "--quick", action="store_true", help="leave no device out: for a first look"
    )
    asked = parser.parse_args(arguments)
    digest = rows_digest()
    if asked.check:
        current = digest in OUTPUT.read_text("utf-8")
        print("The file is of the shipped rows." if current else "Run this script again.")
        return 0 if current else 1
    rows = published_rows()
    lines = [HEAD, f"schema = {SCHEMA}", "", "[provenance]"]
    lines += [
        'rows_file = "profiles/measurements.csv"',
        f'rows_sha256 = "{digest}"',
        f"rows = {len(rows)}",
        f"devices = {len({row.device for row in rows})}",
        f'made = "{dt.date.today().isoformat()}"',
        'made_by = "scripts/fit_projection.py"',
    ]
    for phase in PHASES:
        for kind in KINDS:
            lines += _section(phase, kind, rows, quick=asked.quick)
    write_whole(asked.output, (line + "\n" for line in lines))
    return 0


def rows_digest() -> str:
    """The SHA-256 of the shipped rows."""
    return hashlib.sha256((files("profiles") / "measurements.csv").read_bytes()).hexdigest()


def observations(
    phase: str, kind: str, rows: Sequence[PublishedRow], typical: Typical
) -> list[Observation]:
    """What the rows say of a phase on a kind of accelerator."""
    observe = observe_decode if phase == DECODE else observe_prefill
    seen = (
        observe(row, device(row.device), {kind: typical}) for row in rows if row.accelerator == kind
    )
    return [one for one in seen if one is not None]


def _section(phase: str, kind: str, rows: Sequence[PublishedRow], *, quick: bool) -> Iterator[str]:
    typical = typical_of(devices().values(), kind, prompt=phase != DECODE)
    seen = observations(phase, kind, rows, typical)
    expected = priors(phase, kind)
    left_out = LeftOut()
    widening = Widening(unseen=1.2, afar=2.4, published=1.2, own=1.2, routes={})
    if not quick:
        left_out = leave_devices_out(seen, expected, typical)
        widening = widening_of(left_out)
    model = cost_model(learn(seen, expected), seen, typical, widening)
    name = f"{phase}.{kind}"
    print(f"{name}: {len(seen)} rows, {len({one.supply.device for one in seen})} devices")
    for line in _errors("all", left_out.bare):
        print(f"  {line}")
    yield from _model_lines(name, model)
    yield from _left_out_lines(name, left_out)


def _model_lines(name: str, model: CostModel) -> Iterator[str]:
    yield from ("", f"[{name}]", f"noise = {model.noise:.4f}", "", f"[{name}.typical]")
    yield f"per_byte = {model.typical.per_byte:.5g}"
    yield f"spread = {model.typical.spread:.4f}"
    yield from ("", f"[{name}.widening]")
    widening = model.widening
    for field in ("unseen", "afar", "published", "own"):
        yield f"{field} = {getattr(widening, field):.4f}"
    yield from ("", f"[{name}.widening.routes]")
    for path, value in widening.routes.items():
        yield f'"{path}" = {value:.4f}'
    yield from ("", f"[{name}.spreads]")
    for group, value in sorted(model.spreads.items()):
        yield f'"{group}" = {value:.4f}'
    yield from ("", f"[{name}.parts]", *_parts(model.parts))
    yield from ("", f"[{name}.devices]")
    for owner, parts in sorted(model.devices.items()):
        inner = ", ".join(_parts(parts))
        yield f'"{owner}" = {{ {inner} }}'
    yield from ("", f"[{name}.support]")
    for path, support in model.support.items():
        yield f'"{path}" = [{support.rows}, {support.devices}]'


def _parts(parts: Mapping[str, Learned]) -> list[str]:
    return [f'"{n}" = [{p.log:.4f}, {p.deviation:.4f}]' for n, p in sorted(parts.items())]


def _left_out_lines(name: str, left_out: LeftOut) -> Iterator[str]:
    yield from ("", f"[{name}.left_out]")
    bare = widened_by_others(left_out.bare)
    yield from _errors("all", bare)
    for path in sorted({one.path for one in bare}):
        yield from _errors(path, [one for one in bare if one.path == path])
    yield from _errors("with-own-rows", widened_by_others(left_out.own, own=True))
    yield from _errors("with-half-published", widened_by_others(left_out.half, own=True))


def _errors(name: str, residuals: Sequence[Residual]) -> Iterator[str]:
    if not residuals:
        return
    errors = [one.error for one in residuals]
    by_device: dict[str, list[bool]] = {}
    for one in residuals:
        by_device.setdefault(one.device, []).append(one.covered)
    devices_covered = statistics.fmean(math.fsum(c) / len(c) for c in by_device.values())
    yield (
        f'"{name}" = {{ rows = {len(errors)}, devices = {len(by_device)}, '
        f"median = {statistics.median(errors):.3f}, "
        f"within_25_percent = {statistics.fmean(e <= 0.25 for e in errors):.3f}, "
        f"covered_rows = {statistics.fmean(one.covered for one in residuals):.3f}, "
        f"covered_devices = {devices_covered:.3f} }}"
    )


if __name__ == "__main__":
    sys.exit(main())
