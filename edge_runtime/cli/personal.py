"""Devices of one's own: where their files lie, and how one is found by its name.

Each is one small file of records below the user's configuration directory. What the records say is
`projection.own`'s, which profile they make `personal_profile`'s.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import DiskError, EdgeError, FormatError, UsageError
from ..report.plain import plain
from .whole_file import read_whole, write_whole

if TYPE_CHECKING:
    from profiles.devices import DeviceProfile

    from ..projection import Calibration
    from ..projection.own import PersonalDevice
    from ..projection.rows import Asked

MOST_FILE_BYTES = 16 << 20
"""A file of as many rows as there may be takes less."""

_ENDING = ".json"

_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9])(\..*)?")
"""What Windows opens as a device instead of a file, with any ending (Microsoft Learn: Naming Files,
Paths, and Namespaces)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Personal:
    """A device of one's own as projections take it: its records, its profile, its measurements."""

    device: PersonalDevice
    profile: DeviceProfile
    calibration: Calibration


def config_directory() -> Path:
    """Where this program keeps what its user made: EDGE_CONFIG_DIR, or the system's place."""
    chosen = os.environ.get("EDGE_CONFIG_DIR")
    if chosen:
        return Path(chosen).expanduser()
    explicit = os.environ.get("XDG_CONFIG_HOME")
    if explicit:
        return Path(explicit).expanduser() / "edge-runtime"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "edge-runtime"
    if sys.platform == "win32":
        roaming = os.environ.get("APPDATA")
        return (Path(roaming) if roaming else Path.home() / "AppData/Roaming") / "edge-runtime"
    return Path.home() / ".config" / "edge-runtime"


def is_file_name(name: str) -> bool:
    """Whether an id makes a file on every system: files of devices move between machines."""
    return _WINDOWS_DEVICE.fullmatch(name) is None and not name.endswith(".")


def personal_file(name: str) -> Path:
    """Where the device of that id lies or is to lie."""
    return config_directory() / "devices" / f"{name}{_ENDING}"


def personal_ids() -> tuple[str, ...]:
    """The ids of all devices of one's own, sorted; none where there is no folder of them."""
    from profiles.tables import NAME

    try:
        files = list(personal_file("").parent.iterdir())
    except OSError:
        return ()
    stems = (file.name.removesuffix(_ENDING) for file in files if file.name.endswith(_ENDING))
    return tuple(sorted(stem for stem in stems if NAME.fullmatch(stem)))


def personal_names() -> Mapping[str, str]:
    """The id of every device of one's own and what it is called; what cannot be read is left out.

    For completion and for near misses.
    """
    return {device.id: device.name for device in sound_devices(quiet=True)}


def sound_devices(*, quiet: bool = False) -> list[PersonalDevice]:
    """Every device of one's own whose file is sound; of others stderr says why, unless `quiet`.

    One damaged file must not keep a list from the rest.
    """
    found = []
    for name in personal_ids():
        try:
            found.append(read_personal(name))
        except (FormatError, DiskError) as error:
            if not quiet:
                _complain(error)
    return found


def _complain(error: EdgeError) -> None:
    typer.echo(plain(f"left out: {error.fact} {error.way_out}"), err=True)


def save_personal(device: PersonalDevice) -> Path:
    """Writes the file of a device, in the place of what it held before. Raises DiskError."""
    path = personal_file(device.id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(
            f"{path.parent} cannot be made.",
            cause=f"{error.strerror or error}.",
            way_out="Set EDGE_CONFIG_DIR to a folder that can be written.",
        ) from error
    text = json.dumps(device.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(path, (text, "\n"))
    return path


def set_aside(name: str) -> Path:
    """Keeps a device's file that cannot be read beside its place: another version may read it.

    Raises DiskError.
    """
    path = personal_file(name)
    kept = path.with_name(f"{path.name}.unread")
    try:
        path.replace(kept)
    except OSError as error:
        raise DiskError(
            f"{path} cannot be set aside.", cause=f"{error.strerror or error}."
        ) from error
    return kept


def remove_personal(name: str) -> Path:
    """Removes the file of a device. Raises UsageError when there is none, DiskError."""
    if name not in personal_ids():
        raise UsageError(
            f"There is no device of yours called {name[:60]!r}.",
            way_out="edge calibrate --list names them.",
        )
    path = personal_file(name)
    try:
        path.unlink()
    except OSError as error:
        raise DiskError(
            f"{path} cannot be removed.", cause=f"{error.strerror or error}."
        ) from error
    return path


def read_personal(name: str) -> PersonalDevice:
    """The device of that id. Raises DiskError, and FormatError when its file is none of ours."""
    from ..projection.own import ANSWERS, PersonalDevice

    path = personal_file(name)
    content = read_whole(path, MOST_FILE_BYTES, "a personal device", ANSWERS)
    try:
        device = PersonalDevice.from_json(json.loads(content))
    except (ValueError, RecursionError):
        raise FormatError(f"{path} is no JSON.", way_out=ANSWERS) from None
    except FormatError as error:
        raise FormatError(f"{path}: {error.fact}", cause=error.cause, way_out=ANSWERS) from None
    if device.id != name:
        raise FormatError(f"{path} is a file of {device.id[:60]!r}.", way_out=ANSWERS)
    return device


def find_personal(name: str) -> Personal | None:
    """The device of one's own that has this id; None when there is none.

    Raises what `read_personal` raises, and FormatError when its facts make no profile.
    """
    wanted = name.strip().lower()
    if wanted not in personal_ids():
        return None
    path = personal_file(wanted)
    try:
        told = path.stat()
    except OSError as error:
        raise DiskError(f"{path} cannot be read.", cause=f"{error.strerror or error}.") from error
    return _found(wanted, path, told.st_mtime_ns, told.st_size)


@functools.lru_cache(maxsize=32)
def _found(wanted: str, path: Path, _changed_ns: int, _size_bytes: int) -> Personal:
    """The device of a file, read once as long as the file stays as it is."""
    from .engines import planned_model
    from .personal_profile import profile_of

    device = read_personal(wanted)
    try:
        return Personal(
            device=device,
            profile=profile_of(device),
            calibration=device.calibration(planned_model),
        )
    except FormatError as error:
        raise FormatError(
            f"{path}: {error.fact}", cause=error.cause, way_out=error.way_out
        ) from None


def with_own(asked: Asked, devices: Iterable[DeviceProfile]) -> Asked:
    """The request with the own measurements of those of the devices that have some."""
    from ..projection.rows import name_of

    found = {name_of(one): find_personal(name_of(one)) for one in devices}
    own = {name: one.calibration for name, one in found.items() if one is not None}
    return replace(asked, own={**asked.own, **own}) if own else asked


def personal_profiles() -> Iterator[DeviceProfile]:
    """The profile of every device of one's own, under its own id and name, for lists.

    Of those whose file is damaged stderr says why they are left out.
    """
    for name in personal_ids():
        try:
            found = find_personal(name)
        except (FormatError, DiskError) as error:
            _complain(error)
            continue
        if found is not None:
            yield replace(
                found.profile,
                id=found.device.id,
                name=found.device.name,
                product=None,
                products=(),
                aliases=(),
            )
