"""The learnt coefficients of the projection, as `scripts/fit_projection.py` wrote them to a file.

Data with provenance: from which rows, of which devices, on which day. This module reads the table;
what a coefficient means is `edge_runtime.projection`'s to know.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any


@functools.cache
def projection_table() -> Mapping[str, Any]:
    """The parsed `projection.toml` of this package.

    Raises ValueError when it is no TOML.
    """
    return read_projection((files(__package__ or "profiles") / "projection.toml").read_bytes())


def read_projection(content: bytes) -> Mapping[str, Any]:
    """Parses a table of that form. Raises ValueError when it is no TOML in UTF-8."""
    try:
        return MappingProxyType(tomllib.loads(content.decode("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The projection's coefficients are no TOML file: {error}.") from error
