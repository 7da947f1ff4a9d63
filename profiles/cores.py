"""How wide the vector units of processor cores are, from `cores.toml`: each with its source.

Facts of microarchitectures by the names that device files use for their clusters. What a core of
that width achieves is not known here, nor which device has it.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

MOST_LANES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """A core: multiplications with addition of 32-bit numbers in one clock, and their source.

    `instructions` names the best set that decides its kernels, where device files have no word for
    it: `none` where the core has no vectors, empty everywhere else.
    """

    lanes: float
    source: str
    instructions: str = ""


@functools.cache
def cores() -> Mapping[str, Core]:
    """The known cores by name. Raises ValueError when the shipped table is no such table."""
    content = (files(__package__ or "profiles") / "cores.toml").read_bytes()
    return read_cores(content)


def read_cores(content: bytes) -> Mapping[str, Core]:
    """Parses a table of cores: `lanes` above 0 and a `source` of `[sources]` for each.

    Raises ValueError with the core and what is wrong with it.
    """
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The table of cores is no TOML file: {error}.") from error
    tables = {name: value for name, value in table.items() if isinstance(value, dict)}
    if not tables.get("cores"):
        raise ValueError("The table of cores lists none under [cores].")
    sources = tables.get("sources", {})
    return MappingProxyType(
        {name: _core(name, entry, sources) for name, entry in tables["cores"].items()}
    )


def _core(name: str, entry: object, sources: Mapping[str, str]) -> Core:
    fields = entry if isinstance(entry, dict) else {}
    lanes, source = fields.get("lanes"), sources.get(str(fields.get("source")))
    if isinstance(lanes, bool) or not isinstance(lanes, int | float) or not 0 < lanes <= MOST_LANES:
        raise ValueError(
            f"{name}: lanes is {lanes!r}, not a number above 0 and up to {MOST_LANES}."
        )
    if not source:
        raise ValueError(f"{name}: its source is none of [sources].")
    return Core(lanes=float(lanes), source=source, instructions=fields.get("instructions", ""))
