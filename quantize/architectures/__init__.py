"""Families of checkpoints: one file each, found by the class name in `config.json`.

A family says which source tensor becomes which, what is dropped by name and how rows are
reordered. Sizes and metadata are `ModelShape`'s and not repeated here. Two
families for one class, or a family that lacks a part, fail when this package is imported.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edge_runtime.artifact import ModelShape
from edge_runtime.errors import UnsupportedError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTransform:
    """A change of a tensor's rows that needs no more than `group_rows` of them at once.

    `apply` takes float32 rows of shape (k * group_rows, columns) and returns as many. A vector is
    given as rows of one column.
    """

    group_rows: int
    apply: Callable[[Floats], Floats]


class Architecture(Protocol):
    """What a family file provides."""

    names: ClassVar[Mapping[str, str]]
    """Source tensor -> GGUF tensor, both with `{layer}` where a layer's number stands."""

    dropped: ClassVar[tuple[str, ...]]
    """Endings of source tensors that carry nothing."""

    def transform(self, name: str, shape: ModelShape) -> RowTransform | None:
        """How the rows of the GGUF tensor `name` come from the source's; None when they are its."""


_Family = TypeVar("_Family", bound=type)
_REGISTERED: dict[str, Architecture] = {}


def architecture(*class_names: str) -> Callable[[_Family], _Family]:
    """Registers a family for class names as `config.json` has them under `architectures`."""

    def register(family: _Family) -> _Family:
        missing = {"names", "dropped", "transform"} - set(dir(family))
        if missing:
            raise TypeError(f"{family.__name__} lacks {', '.join(sorted(missing))}")
        for class_name in class_names:
            if class_name in _REGISTERED:
                raise TypeError(f"{class_name} has two families")
            _REGISTERED[class_name] = family()
        return family

    return register


def find(config: Mapping[str, object]) -> Architecture:
    """Returns the family of a checkpoint by its config. Raises UnsupportedError for others."""
    stated = config.get("architectures")
    names = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    for name in names:
        if name in _REGISTERED:
            return _REGISTERED[name]
    raise UnsupportedError(
        f"Checkpoints of the architecture {', '.join(names)[:80] or 'that config.json leaves out'} "
        "cannot be converted yet.",
        way_out=f"Known: {', '.join(sorted(_REGISTERED))}. Or use a GGUF file of the model.",
    )


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
