"""`edge calibrate`: measurements made on a device become a device of one's own, for projections.

This file reads the arguments and what was saved; `projection.own_rows` says which measurements
count, `personal` keeps the result. Nothing is measured here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import FormatError, UsageError
from . import options

if TYPE_CHECKING:
    from profiles.devices import DeviceProfile

    from ..measurement import Host
    from ..projection.own import PersonalDevice
    from ..projection.own_rows import LeftOut, OwnRows
    from .calibration_files import SavedMeasurements


def complete_personal(incomplete: str) -> list[tuple[str, str]]:
    """Names of one's own devices that begin so, for the shell's completion."""
    from .personal import personal_names

    return [pair for pair in personal_names().items() if pair[0].startswith(incomplete)]


def calibrate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...",
            help="What edge check --save or edge profile --save wrote on the device.",
            show_default=False,
        ),
    ] = None,
    *,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="ID", help="Its id.", show_default="after its processor"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            "-d",
            metavar="BASE",
            help="The known device it is, whose other facts it then has, such as "
            "raspberry-pi-5-8gb.",
            show_default="none: the host's own facts",
            autocompletion=options.complete_device,
        ),
    ] = None,
    device_class: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="CLASS",
            help="mobile, sbc, laptop, desktop, gpu or server; without --device.",
            show_default="where the processor leaves no doubt",
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the devices of your own.")] = False,
    remove: Annotated[
        str | None,
        typer.Option(
            "--remove",
            metavar="ID",
            help="Remove a device of your own.",
            show_default=False,
            autocompletion=complete_personal,
        ),
    ] = None,
    json_output: options.JsonOutput = False,
) -> None:
    """Makes a device of your own of what was measured on it; projections for it then use that."""
    if sum((bool(files), listed, remove is not None)) != 1:
        raise UsageError(
            "One of FILE, --list and --remove is needed.",
            way_out="On the device: edge check --save device.json && edge calibrate device.json",
        )
    if listed:
        _list(json_output)
        return
    if remove is not None:
        _remove(remove, json_output)
        return
    _make(files or (), name, device, device_class, json_output)


def _list(json_output: bool) -> None:
    from ..report.personal import device_entry, render_personal_devices
    from .personal import personal_file, sound_devices

    found = sound_devices()
    if json_output:
        _write([device_entry(one, str(personal_file(one.id))) for one in found])
        return
    if not found:
        typer.echo("There is no device of your own yet. On one, make it:")
        typer.echo("edge check --save device.json && edge calibrate device.json")
        return
    from .pages import show

    show(render_personal_devices(found), piped_columns=120)


def _remove(name: str, json_output: bool) -> None:
    from .personal import remove_personal

    path = remove_personal(name)
    if json_output:
        _write({"removed": name, "file": str(path)})
        return
    typer.echo(f"removed: {path}", err=True)


def _make(
    files: Sequence[Path],
    name: str | None,
    base_name: str | None,
    device_class: str | None,
    json_output: bool,
) -> None:
    from ..projection.own_rows import one_host, own_rows
    from .calibration_files import MAKE_ONE, read_measurements
    from .engines import planned_model
    from .personal import save_personal
    from .personal_profile import profile_of, refuse_impossible_rates

    saved = read_measurements(files)
    one_host(saved.measurements)
    base = None if base_name is None else _base(base_name)
    found = own_rows(saved.measurements, planned_model)
    if not found.rows:
        raise UsageError(
            f"None of the {len(saved.measurements)} measurements can count for a projection.",
            cause=f"{found.left_out[0].what}: {found.left_out[0].reason}.",
            way_out=MAKE_ONE,
        )
    own = _device_of(saved, found, name, base, device_class)
    if base is not None:
        refuse_impossible_rates(own, base)
    # What could not be read back is not written.
    profile_of(type(own).from_json(own.to_json()))
    replaced = _replaced(own)
    path = save_personal(own)
    if json_output:
        left_out = [{"what": one.what, "reason": one.reason} for one in found.left_out]
        _write({"file": str(path), "replaced": replaced, "left_out": left_out, **own.to_json()})
        return
    _show(own, found.left_out, path, replaced)


def _show(own: PersonalDevice, left_out: Sequence[LeftOut], path: Path, replaced: bool) -> None:
    from ..report.personal import render_personal
    from .engines import planned_model
    from .pages import show

    show(render_personal(own, own.calibration(planned_model), left_out), piped_columns=120)
    typer.echo(f"{'replaced' if replaced else 'saved'}: {path}", err=True)


def _device_of(
    saved: SavedMeasurements,
    found: OwnRows,
    name: str | None,
    base: DeviceProfile | None,
    device_class: str | None,
) -> PersonalDevice:
    """The record to keep. Raises UsageError for a name that is taken or none, or no class."""
    from .. import __version__
    from ..projection.own import PersonalDevice
    from ..projection.own_rows import one_host
    from .personal_profile import base_id, refuse_other_machine

    host = one_host(saved.measurements)
    if base is None:
        called = host.cpu
        _require_bandwidth(saved)
    else:
        called = base.label
        refuse_other_machine(host, base)
    return PersonalDevice(
        id=_own_id(name, host, base),
        name=f"{called}, measured {saved.created[:10]}",
        base=base_id(base),
        device_class=_class_of(host, base, device_class),
        created=saved.created,
        tool_version=__version__,
        host=host,
        bandwidth=saved.bandwidth,
        clock_hz=saved.clock_hz,
        models=found.models,
        rows=found.rows,
    )


def _require_bandwidth(saved: SavedMeasurements) -> None:
    """Raises UsageError where no bandwidth is known: nothing bounds a projection then."""
    from ..basis import Unavailable

    if isinstance(saved.bandwidth, Unavailable):
        raise UsageError(
            "The memory's bandwidth is not known.",
            cause=f"{saved.bandwidth.reason[:1].upper()}{saved.bandwidth.reason[1:]}.",
            way_out="Give what edge check --save wrote as well, or the device it is: --device ID",
        )


def _base(name: str) -> DeviceProfile:
    """The catalogued device of that name. Raises UsageError."""
    from ..projection.door import named_device

    if name.endswith(".toml"):
        raise UsageError(
            "A file cannot be the base: it may be elsewhere tomorrow.",
            way_out="Leave --device out, or name a known device: edge devices lists them.",
        )
    return named_device(name)


def _own_id(name: str | None, host: Host, base: DeviceProfile | None) -> str:
    """The id asked for, else one by the base or the processor. Raises UsageError."""
    from profiles.devices import device_names
    from profiles.tables import NAME

    from .personal import is_file_name
    from .personal_profile import base_id, slug

    if name is None:
        return f"my-{base_id(base) or slug(host)}"[:63].rstrip("-.")
    wanted = name.strip().lower()
    if not NAME.fullmatch(wanted) or wanted.endswith(".toml") or not is_file_name(wanted):
        raise UsageError(
            f"{name[:60]!r} is no id.",
            way_out="Write one of small letters, digits, . and -, such as my-pi.",
        )
    if wanted in device_names():
        raise UsageError(
            f"{wanted!r} is a known device already.",
            way_out=f"Give yours another name: --name my-{wanted}",
        )
    return wanted


def _class_of(host: Host, base: DeviceProfile | None, asked: str | None) -> str:
    from profiles.devices import CLASSES

    from .personal_profile import certain_class

    known = ", ".join(CLASSES)
    if base is not None:
        if asked not in (None, base.device_class):
            raise UsageError(
                f"{base.label} is of class {base.device_class}, not {asked}.",
                way_out="Leave --class out.",
            )
        return base.device_class
    if asked is not None and asked not in CLASSES:
        raise UsageError(f"{asked[:40]!r} is no class of devices.", way_out=f"Known: {known}.")
    found = asked or certain_class(host)
    if found is None:
        raise UsageError(
            f"What kind of device has the processor {host.cpu[:80]!r} is not certain.",
            way_out=f"Say it: --class with one of {known}; or name the device: --device ID",
        )
    return found


def _replaced(own: PersonalDevice) -> bool:
    """Whether a device of that id is there already.

    Raises UsageError when that is another machine: nobody's measurements are lost to a name.
    """
    from ..projection.own_rows import is_same_machine
    from .personal import personal_ids, read_personal, set_aside

    if own.id not in personal_ids():
        return False
    try:
        before = read_personal(own.id)
    except FormatError:
        typer.echo(f"what could not be read is kept: {set_aside(own.id)}", err=True)
        return True
    if not is_same_machine(before.host, own.host):
        raise UsageError(
            f"{own.id!r} is another device of yours: {before.host.cpu}.",
            way_out=f"Choose another with --name, or first: edge calibrate --remove {own.id}",
        )
    return True


def _write(document: object) -> None:
    from ..report.plain import safe_json

    sys.stdout.write(f"{safe_json(document)}\n")
