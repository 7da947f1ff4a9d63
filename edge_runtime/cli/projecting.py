"""Devices and models of a command line, as what is projected: names found, contradictions refused.

Nothing is measured and no child process is started: a device that is not here is asked about. It
refuses to know how a projection is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import UsageError
from ..report.plain import plain
from .engines import planned_model, planned_of

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.devices import DeviceProfile

    from ..artifact import Artifact, ModelShape
    from ..memory_needs import PlannedModel
    from ..projection.rows import Asked, ProjectionReport
    from ..verdict import Target

ACCELERATORS = ("cpu", "gpu", "npu")


def refuse_measuring(**given: object) -> None:
    """Raises UsageError for an option that only means something where models run.

    Keywords are the options' names with underscores, and their values, None where not given.
    """
    for name, value in given.items():
        if value is not None and value != []:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{option} and --device contradict each other.",
                cause=f"{option} is about measuring here; with --device nothing is measured.",
                way_out=f"Leave {option} out, or leave --device out to check this machine.",
            )


def find_devices(names: Sequence[str]) -> tuple[DeviceProfile, ...]:
    """The devices of those names, each once: repeated options, or names separated by commas.

    Raises UsageError with the nearest names for an unknown one, and for a malformed file.
    """
    from ..projection.rows import name_of

    asked = [part.strip() for item in names for part in item.split(",") if part.strip()]
    if not asked:
        raise UsageError("No device is named.", way_out="edge devices lists them.")
    return tuple({name_of(found): found for found in map(find_device, asked)}.values())


def find_device(name: str) -> DeviceProfile:
    """The device of one name: one of one's own, an id, an alias, a product, or a .toml file.

    Raises UsageError, and FormatError for a damaged file of one's own.
    """
    from ..projection.door import named_device
    from .personal import find_personal

    own = find_personal(name)
    return named_device(name) if own is None else own.profile


def with_memory(device: DeviceProfile, text: str | None, accelerator: str | None) -> DeviceProfile:
    """The device with the memory an option says: of its card where that is used, else RAM.

    Memory is sold in powers of two and labelled GB, so a size that is sold stands for what it is
    labelled with. Raises UsageError for what is no size.
    """
    from ..projection.hardware import with_memory as equipped
    from ..units import GIB, parse_bytes

    if text is None:
        return device
    try:
        size = parse_bytes(text)
    except UsageError as error:
        raise UsageError(f"--memory: {error.fact}", way_out=error.way_out) from None
    if not 2**20 <= size <= 2**50:
        raise UsageError(f"--memory: no device has {text}.", way_out="Write it like 8GB.")
    if text.strip().upper().endswith("GB"):
        size = round(size / 1e9 * GIB)
    return equipped(device, size, accelerator)


def accelerator_name(text: str | None) -> str | None:
    """The accelerator of that name, None where none is asked for. Raises UsageError."""
    if text is not None and text.lower() not in ACCELERATORS:
        raise UsageError(
            f"{text!r} is no accelerator.", way_out=f"Known: {', '.join(ACCELERATORS)}."
        )
    return text and text.lower()


def engine_name(backend: str | None) -> str:
    """The engine that published rows know, of the backend as typed: `llama_cpp` is llama.cpp."""
    return "llama.cpp" if backend in (None, "llama_cpp") else str(backend)


def asked_of(
    target: Target,
    kv_type: str,
    threads: int | None,
    accelerator: str | None,
    backend: str | None,
) -> Asked:
    """What is asked of every device, from the options as typed. Raises UsageError."""
    from ..measurement import SessionOptions
    from ..projection.rows import Asked
    from . import options

    cache_type = options.kv_type(kv_type)
    return Asked(
        target=target,
        backend=engine_name(backend),
        accelerator=accelerator_name(accelerator),
        options=SessionOptions(threads=threads, kv_type_k=cache_type, kv_type_v=cache_type),
    )


def project_check(
    models: Sequence[str],
    levels: Sequence[str],
    devices: Sequence[str],
    asked: Asked,
    claimed_tokens_per_s: float | None,
    json_output: bool,
    save: Path | None,
) -> int:
    """Projects, shows and saves what `edge check --device` asks; gives the exit code.

    Raises what `find_devices` and `check_devices` raise, DiskError, and UsageError for a claimed
    rate that is impossible at every level on every device.
    """
    from rich.console import Group
    from rich.text import Text

    report = check_devices(models, levels, find_devices(devices), asked)
    document = report.to_json()
    claims = _claims(report, claimed_tokens_per_s)
    if claims:
        document["claims"] = claims
    if not show_document(document, json_output=json_output, save=save):
        from ..report.projection import render_projection
        from .pages import show

        said = [Text(f"Claimed: {plain(str(claim['sentence']))}") for claim in claims]
        show(Group(render_projection(report), *said), piped_columns=120)
    return report.exit_code


def _claims(report: ProjectionReport, tokens_per_s: float | None) -> list[dict[str, object]]:
    """What is to be said of a claimed rate, row by row; nothing where none is claimed."""
    import dataclasses

    from ..projection.claims import judge_claim, refuse_impossible
    from ..projection.rows import name_of

    if tokens_per_s is None:
        return []
    if not 0 < tokens_per_s < 1e6:
        raise UsageError(f"A claim of {tokens_per_s:g} tok/s makes no sense.")
    by_name = {name_of(device): device for device in report.devices}
    judged = [
        (row, judge_claim(row.projection, by_name[row.device], tokens_per_s)) for row in report.rows
    ]
    if all(claim.possible is False for _, claim in judged):
        refuse_impossible(
            max((claim for _, claim in judged), key=lambda c: c.most_tokens_per_s or 0)
        )
    return [
        {
            "device": row.device,
            "model": row.row.model,
            "level": row.row.level,
            **dataclasses.asdict(claim),
        }
        for row, claim in judged
    ]


def check_devices(
    models: Sequence[str], levels: Sequence[str], devices: Sequence[DeviceProfile], asked: Asked
) -> ProjectionReport:
    """Projects each model, or the catalogue's usual ones, onto each device.

    Files stand at the level they have, shapes at all levels. Raises what naming or opening a model
    raises, and UsageError where a device cannot be projected as asked.
    """
    from ..projection.rows import ProjectionReport, project_rows
    from .personal import with_own

    asked = with_own(asked, devices)
    subjects = (
        [plans_of(model, levels) for model in models]
        if models
        else [_plans(shape, levels) for shape in catalogue_shapes(usual=True)]
    )
    return ProjectionReport(
        tool_version=__version__,
        asked=asked,
        devices=tuple(devices),
        rows=tuple(
            row
            for device in devices
            for plans in subjects
            for row in project_rows(plans, device, asked)
        ),
    )


def catalogue_shapes(*, usual: bool) -> list[ModelShape]:
    """The catalogue's shapes, smallest first; the `usual` ones are those a bare check lists."""
    import profiles

    from ..artifact import ModelShape

    return [
        ModelShape.from_config(entry.config, name=entry.id)
        for entry in profiles.models().values()
        if entry.check_default or not usual
    ]


def catalogue_devices(device_class: str | None) -> tuple[DeviceProfile, ...]:
    """Every known device, or those of a class. Raises UsageError for a class that is none."""
    from profiles.devices import CLASSES, devices

    if device_class is not None and device_class not in CLASSES:
        raise UsageError(
            f"{device_class!r} is no class of devices.", way_out=f"Known: {', '.join(CLASSES)}."
        )
    return tuple(d for d in devices().values() if device_class in (None, d.device_class))


def plans_of(model: str, levels: Sequence[str]) -> list[PlannedModel]:
    """A model's file at each level, or as it is where it is one. Raises what resolving raises."""
    from .model_check import resolve

    return _plans(resolve(model), levels)


def _plans(subject: Artifact | ModelShape, levels: Sequence[str]) -> list[PlannedModel]:
    from ..artifact import Artifact

    if isinstance(subject, Artifact):
        return [planned_of(subject)]
    return [planned_model(subject, level) for level in levels]


def show_document(document: dict[str, object], *, json_output: bool, save: Path | None) -> bool:
    """Writes the document where it is asked for; whether stdout has had its answer."""
    import json
    import sys

    import typer

    from .whole_file import write_whole

    if not json_output and save is None:
        return False
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    if save is not None:
        write_whole(save, (text, "\n"))
        if not json_output:
            typer.echo(f"saved: {save}", err=True)
    if json_output:
        sys.stdout.write(text + "\n")
    return json_output
