"""What is known of a source beyond its rows, from `sources.toml`."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a source says of a row elsewhere; "" where nothing."""

    engine: str = ""
    accelerator: str = ""
    api: str = ""
    level: str = ""
    conditions: tuple[str, ...] = ()


@functools.cache
def _entries(kind: str) -> tuple[Mapping[str, str], ...]:
    data = tomllib.loads((Path(__file__).parent / "sources.toml").read_text(encoding="utf-8"))
    return tuple(data[kind])


def context(row: Mapping[str, str]) -> Context:
    """What `sources.toml` knows of a raw row."""
    told = {"engine": "", "accelerator": "", "api": "", "level": ""}
    conditions: set[str] = set()
    for entry in _entries("source"):
        if _fits(entry, row):
            told |= {name: entry[name] for name in told if name in entry}
            conditions |= {entry["condition"]} if "condition" in entry else set()
    return Context(**told, conditions=tuple(sorted(conditions)))


def untrusted(row: Mapping[str, str]) -> str:
    """The sentence that says why nothing of a source, or of a model's name, is taken; else ""."""
    return next((entry["reason"] for entry in _entries("refused") if _fits(entry, row)), "")


def _fits(entry: Mapping[str, str], row: Mapping[str, str]) -> bool:
    narrowed = (name for name in ("backend", "model", "quant") if name in entry)
    return bool(re.search(entry["match"], row["source"])) and all(
        re.search(entry[name], row[name].lower()) for name in narrowed
    )
