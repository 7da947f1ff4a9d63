"""`edge devices`: which devices are known, what is known of one, and whether a file is sound."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import FormatError, UsageError
from .options import JsonOutput, complete_device
from .pages import show as show_page

if TYPE_CHECKING:
    from profiles.devices import DeviceProfile

    from ..report.device_records import DeviceSheet

_PIPED_COLUMNS = 120


class _Devices(TyperGroup):
    """A group in which `edge devices pixel-9` gets a way out that works."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of that name. Raises UsageError for another word."""
        if args and args[0] not in self.commands:
            word = args[0][:60]
            raise UsageError(
                f"{word!r} is no part of `edge devices`.",
                way_out=f"Try `edge devices show {word}` or `edge devices --search {word}`.",
            )
        return super().resolve_command(ctx, args)


devices = typer.Typer(cls=_Devices, invoke_without_command=True)


def _complete_class(incomplete: str) -> list[str]:
    from profiles.devices import CLASSES

    return [name for name in CLASSES if name.startswith(incomplete.lower())]


@devices.callback()
def listed(
    context: typer.Context,
    *,
    device_class: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="CLASS",
            help="Only mobile, sbc, laptop, desktop, gpu or server; several with commas.",
            autocompletion=_complete_class,
            show_default=False,
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            "--search",
            metavar="WORDS",
            help="Only those with all of these words in a name, maker, chip or product.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOutput = False,
) -> None:
    """Lists the devices that are known: memory, bandwidth, published measurements."""
    if context.invoked_subcommand is not None:
        return
    from .personal import personal_profiles

    known = (*personal_profiles(), *_all())
    found = [d for d in known if _in_class(d, device_class) and _matches(d, search or "")]
    if not found:
        raise UsageError("No known device fits.", way_out="`edge devices` lists all of them.")
    published = _published(found)
    if as_json:
        from ..report.device_records import devices_record

        _write_json(devices_record(found, published))
        return
    from ..report.devices import render_devices

    products = {device.id: _products(device, search or "") for device in found}
    show_page(render_devices(found, published, products), piped_columns=_PIPED_COLUMNS)


@devices.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="An id, alias or product, or a .toml file.",
            autocompletion=complete_device,
        ),
    ],
    *,
    as_json: JsonOutput = False,
) -> None:
    """Shows one device: each figure with how it is known, its source, and unknown where it is."""
    from ..report.device_records import device_record
    from .projecting import find_device

    sheet = _sheet(find_device(name))
    if as_json:
        _write_json(device_record(sheet))
        return
    from ..report.devices import render_device

    show_page(render_device(sheet), piped_columns=_PIPED_COLUMNS)


@devices.command()
def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Device files to check together.")
    ],
    *,
    as_json: JsonOutput = False,
) -> None:
    """Checks device files: units, sources, ranges, contradictions, names used twice.

    Exits with 4 when one has a fault.
    """
    faults = _faults(files)
    if as_json:
        _write_json([{"file": str(file), "faults": list(found)} for file, found in faults.items()])
    else:
        _write_faults(faults)
    raise typer.Exit(FormatError.exit_code if any(faults.values()) else 0)


def _faults(files: Iterable[Path]) -> Mapping[Path, list[str]]:
    """The faults of each file, also those that only all of them and the catalogue show."""
    from profiles.contradictions import repeated_names
    from profiles.devices import DeviceFileError, read_own_device, shipped_names

    found: dict[Path, list[str]] = {}
    sound: dict[Path, DeviceProfile] = {}
    for file in dict.fromkeys(files):
        try:
            sound[file] = read_own_device(file)
            found[file] = []
        except DeviceFileError as error:
            found[file] = list(error.faults)
    # The catalogue without what the files are a new version of.
    new = {f"{device.id}.toml" for device in sound.values()}
    beside = {name: file for name, file in shipped_names().items() if file not in new}
    for file, sentence in repeated_names(sound, beside):
        found[file].append(sentence)
    return found


def _write_faults(faults: Mapping[Path, list[str]]) -> None:
    from ..report.plain import plain

    for file, found in faults.items():
        for sentence in found:
            typer.echo(plain(f"{file}: {sentence}"))
    wrong = sum(map(bool, faults.values()))
    sound = len(faults) - wrong
    words = [f"{sound} sound"] if sound else []
    words += [f"{wrong} with faults"] if wrong else []
    typer.echo(f"{len(faults)} file{'s' if len(faults) > 1 else ''}: {', '.join(words)}.")


def _all() -> Iterable[DeviceProfile]:
    from profiles.devices import devices as catalogue

    try:
        return catalogue().values()
    except ValueError as error:
        raise FormatError(str(error)) from None


def _in_class(device: DeviceProfile, asked: str | None) -> bool:
    from profiles.devices import CLASSES

    if asked is None:
        return True
    names = [name.strip().lower() for name in asked.split(",") if name.strip()]
    if unknown := [name for name in names if name not in CLASSES]:
        raise UsageError(
            f"There is no class of devices {unknown[0][:40]!r}.",
            way_out=f"Known: {', '.join(CLASSES)}.",
        )
    return not names or device.device_class in names


def _matches(device: DeviceProfile, words: str) -> bool:
    """Whether each word stands somewhere in what the device is called."""
    products = (word for product in device.products for word in (product.id, product.name))
    called = (device.id, device.name, device.maker, device.soc, *device.aliases, *products)
    text = "\n".join(called).lower()
    return all(word in text for word in words.lower().split())


def _products(device: DeviceProfile, words: str) -> list[str]:
    """The products that are called so themselves: they can be asked for by their own ids."""
    asked = words.lower().split()
    if not asked:
        return []
    return [
        product.id
        for product in device.products
        if all(word in f"{product.id}\n{product.name}".lower() for word in asked)
    ]


def _sheet(device: DeviceProfile) -> DeviceSheet:
    from profiles.os_memory import usable_memory

    from ..report.device_records import DeviceSheet, Usable

    return DeviceSheet(
        device=device,
        usable=tuple(
            Usable(
                accelerator=unit.kind,
                memory_bytes=size,
                usable_bytes=usable_memory(device, size, unit.kind),
            )
            for unit in device.accelerators.values()
            for size in unit.memory_bytes or device.ram_bytes
        ),
        published=_published([device])[device.id],
    )


def _published(devices: Iterable[DeviceProfile]) -> Mapping[str, int]:
    """How many measurements others published of each device, by its id."""
    from collections import Counter

    from profiles.contradictions import names_of
    from profiles.published import published_rows

    rows = Counter(row.device for row in published_rows())
    return {device.id: sum(rows[name] for name in names_of(device)) for device in devices}


def _write_json(document: object) -> None:
    from ..report.plain import safe_json

    sys.stdout.write(safe_json(document) + "\n")
