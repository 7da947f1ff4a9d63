"""What is known of models, from `models/*.toml`: facts with their sources, and no code per model.

A file is read when the catalogue is first asked for. This package knows how the files are written,
not what a shape computes to, and imports nothing of the rest.
"""

from __future__ import annotations

import datetime as dt
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One catalogued model.

    `config` holds keys of its published `config.json`, verbatim; `source` says where they and the
    exact count of `parameters` were read. `released` is a month (2025-04), `as_of` the day of
    reading. `check_default` marks the models a bare `edge check` lists.
    """

    id: str
    name: str
    family: str
    repo: str
    license: str
    released: str
    parameters: int
    check_default: bool
    as_of: dt.date
    config: Mapping[str, Any]
    source: Mapping[str, str]


_FIELDS: Mapping[str, type] = {
    "id": str,
    "name": str,
    "family": str,
    "repo": str,
    "license": str,
    "released": str,
    "parameters": int,
    "check_default": bool,
    "as_of": str,
    "config": dict,
    "source": dict,
}
_SOURCES = ("config", "parameters")


@functools.cache
def models() -> Mapping[str, ModelEntry]:
    """The catalogue by id, smallest model first.

    Raises ValueError naming the file and the field when one is malformed.
    """
    entries = [
        read_model(file)
        for file in (files(__name__) / "models").iterdir()
        if file.name.endswith(".toml")
    ]
    return MappingProxyType(
        {entry.id: entry for entry in sorted(entries, key=lambda e: (e.parameters, e.id))}
    )


def model(name: str) -> ModelEntry:
    """The entry of that id.

    Raises ValueError when the catalogue has none.
    """
    entry = models().get(name)
    if entry is None:
        raise ValueError(f"There is no model {name!r} in the catalogue.")
    return entry


def read_model(file: Traversable) -> ModelEntry:
    """Reads and checks one catalogue file.

    Raises ValueError naming the file and the field.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name} is no TOML file: {error}.") from error
    _check_fields(file.name, data)
    try:
        as_of = dt.date.fromisoformat(data["as_of"])
        dt.date.fromisoformat(f"{data['released']}-01")
    except ValueError as error:
        raise ValueError(f"{file.name}: released is YYYY-MM and as_of YYYY-MM-DD.") from error
    return ModelEntry(
        **{
            **data,
            "as_of": as_of,
            "config": MappingProxyType(data["config"]),
            "source": MappingProxyType(data["source"]),
        }
    )


def _check_fields(file: str, data: Mapping[str, Any]) -> None:
    if missing := sorted(_FIELDS.keys() - data.keys()):
        raise ValueError(f"{file} lacks {', '.join(missing)}.")
    if unknown := sorted(data.keys() - _FIELDS.keys()):
        raise ValueError(f"{file} has the unknown fields {', '.join(unknown)}.")
    for name, kind in _FIELDS.items():
        if type(data[name]) is not kind or data[name] in ("", {}):
            raise ValueError(f"{file}: {name} must be a {kind.__name__}, not {data[name]!r}.")
    if file != f"{data['id']}.toml" or data["id"] != data["id"].lower():
        raise ValueError(f"{file}: its id is {data['id']!r}; a file is named after its id.")
    if data["parameters"] <= 0:
        raise ValueError(f"{file}: parameters must be positive.")
    source = data["source"]
    if any(not isinstance(text, str) for text in source.values()):
        raise ValueError(f"{file}: each source is a text.")
    if missing := [name for name in _SOURCES if not source.get(name)]:
        raise ValueError(f"{file} gives no source for {', '.join(missing)}.")
