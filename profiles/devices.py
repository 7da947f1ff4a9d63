"""The devices that are known, from `devices/*.toml`: facts with sources, and no code per device.

One device is found by its id, an alias or one of its products, and only the files that can have the
name are read: a command that names a device waits for that device, not for the catalogue.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType

from .device_files import DeviceFileError, read_device, read_own_device
from .device_profile import (
    ACCELERATORS,
    CLASSES,
    Accelerator,
    Cluster,
    DeviceProfile,
    PowerMode,
    Product,
)
from .figures import Figure
from .tables import NAME

__all__ = [
    "ACCELERATORS",
    "CLASSES",
    "Accelerator",
    "Cluster",
    "DeviceFileError",
    "DeviceProfile",
    "Figure",
    "PowerMode",
    "Product",
    "device",
    "device_names",
    "devices",
    "read_device",
    "read_own_device",
    "shipped_names",
]

_ID = re.compile(r'^[ \t]*id[ \t]*=[ \t]*"([^"\n]*)"', re.MULTILINE)
_NAME = re.compile(r'^[ \t]*name[ \t]*=[ \t]*"([^"\n]*)"', re.MULTILINE)
_ALIASES = re.compile(r"^[ \t]*aliases[ \t]*=[ \t]*\[([^\]]*)\]", re.MULTILINE)
_QUOTED = re.compile(r'"([^"\n]*)"')
_TABLES = re.compile(r"^[ \t]*\[", re.MULTILINE)
_OFFERED = 3


@functools.cache
def devices() -> Mapping[str, DeviceProfile]:
    """The catalogue by id, in the order of the classes and then of the ids.

    Raises ValueError naming the file and the field when one is malformed.
    """
    found = [read_device(file) for file in _files()]
    found.sort(key=lambda device: (CLASSES.index(device.device_class), device.id))
    return MappingProxyType({device.id: device for device in found})


def device(name: str) -> DeviceProfile:
    """The device of that id, alias or product id; or the one that a `.toml` file describes.

    For a product, `.product` is set and its memory sizes, battery and system stand in the profile.
    Capitals, spaces and underscores are read as an id has them; what it is called in full, maker
    included, is a name too. Raises ValueError with the nearest names when there is none, and
    naming file and field when the file is malformed.
    """
    if name.endswith(".toml"):
        return read_own_device(Path(name))
    wanted = re.sub(r"[\s_]+", "-", name.strip().lower())
    found = _shipped(wanted) if NAME.fullmatch(wanted) else None
    if found is None and (titled := _named_in_full(wanted)):
        found = _shipped(titled)
    if found is None:
        raise ValueError(_unknown(name, wanted))
    return found


@functools.lru_cache(maxsize=256)
def _shipped(name: str) -> DeviceProfile | None:
    for file in _with_the_name(name):
        profile = read_device(file)
        if name in (profile.id, *profile.aliases):
            return profile
        for product in profile.products:
            if product.id == name:
                return profile.as_product(product)
    return None


def device_names() -> Mapping[str, str]:
    """Every name a device can be asked for by, and what it is called.

    Quick, since the files are searched and not parsed: for completion and for near misses.
    """
    found = {name: title for file in _files() for name, title in _names_in(file)}
    return MappingProxyType(dict(sorted(found.items())))


def shipped_names() -> Mapping[str, str]:
    """Every name, and the shipped file it stands in, without parsing: one of them may be faulty."""
    return {name: file.name for file in _files() for name, _ in _names_in(file)}


def _names_in(file: Traversable) -> Iterator[tuple[str, str]]:
    """The names that a file has, each with what it calls a thing."""
    head, *products = file.read_bytes().decode("utf-8", "replace").split("[[products]]")
    # Keys of no table stand before the first table.
    table = _TABLES.search(head)
    head = head[: table.start()] if table else head
    title = _first(_NAME, head)
    for name in (_first(_ID, head), *_QUOTED.findall(_first(_ALIASES, head))):
        if name:
            yield name, title
    for product in products:
        if name := _first(_ID, product):
            yield name, _first(_NAME, product)


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""


def _files() -> list[Traversable]:
    folder = files(__package__) / "devices"
    return sorted(
        (file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda f: f.name
    )


def _with_the_name(name: str) -> Iterator[Traversable]:
    """The files that can have the name, first the one that is called so."""
    folder = files(__package__) / "devices"
    own = folder / f"{name}.toml"
    if own.is_file():
        yield own
        return
    quoted = f'"{name}"'.encode()
    for file in _files():
        if quoted in file.read_bytes():
            yield file


def _named_in_full(wanted: str) -> str:
    """The id whose title reads like that, empty where none does."""
    asked = _bare_title(wanted[:200])
    for name, title in device_names().items():
        if asked and _bare_title(title) == asked:
            return name
    return ""


def _bare_title(title: str) -> str:
    return re.sub(r"[^a-z0-9.+]+", "-", title.lower()).strip("-")


def _unknown(name: str, wanted: str) -> str:
    near = _nearest(wanted)
    shown = name if len(name) <= 60 else f"{name[:59]}…"
    if not near:
        return f"There is no device {shown!r}."
    quoted = [repr(other) for other in near]
    *others, last = quoted
    either = f"{', '.join(others)} or {last}" if others else last
    return f"There is no device {shown!r}. Did you mean {either}?"


def _nearest(wanted: str) -> list[str]:
    """Up to three names that resemble the one asked for, hyphens or none, longer ones first."""
    names = list(device_names())
    bare = {name.replace("-", "").replace(".", ""): name for name in names}
    asked = wanted[:80].replace("-", "").replace(".", "")
    near = [bare[match] for match in difflib.get_close_matches(asked, list(bare), n=_OFFERED)]
    within = sorted((plain for plain in bare if len(asked) >= 3 and asked in plain), key=len)
    longer = [bare[plain] for plain in within if plain.startswith(asked)]
    return list(dict.fromkeys((*longer, *near, *(bare[plain] for plain in within))))[:_OFFERED]
