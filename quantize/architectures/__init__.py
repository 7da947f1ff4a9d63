"""Families of checkpoints: one file each, found by the class name in `config.json`.

A family says which source tensor becomes which, what is dropped by name, how rows are reordered,
and which metadata keys its files carry. Two families for one class, or a family that lacks a part,
fail when this package is imported. Sizes are `ModelShape`'s and not repeated here.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Protocol, TypeVar

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.config_values import ConfigValues
from edge_runtime.errors import UnsupportedError

from ..checkpoint import Checkpoint
from ..parameters import Pair
from ..rows import Change
from ..tokenizers import Vocabulary


class Architecture(Protocol):
    """What a family file provides."""

    gguf: ClassVar[str]
    """The GGUF architecture name, which begins its metadata keys."""

    names: ClassVar[Mapping[str, str | tuple[str, ...]]]
    """Source tensor -> GGUF tensor, with `{layer}` where a layer's number stands.

    A source with `{expert}` (an expert's or a head's number) is one part of its target: parts are
    stacked in the order of their numbers. A tuple of targets shares the source's second-to-last
    dimension in equal parts, in that order.
    """

    dropped: ClassVar[tuple[str, ...]]
    """Patterns (`fnmatch`) of source tensors that carry nothing a GGUF file keeps."""

    prefixes: ClassVar[tuple[str, ...]]
    """Beginnings of source names that some checkpoints have and others have not."""

    vocabulary: ClassVar[Vocabulary]
    """Which tokenizer files count, and how they are read."""

    def metadata(self, checkpoint: Checkpoint, config: ConfigValues) -> Iterator[Pair]:
        """Yields the whole keys peculiar to the family: `{gguf}.*`, and `tokenizer.*` overrides.

        `config` has the model class's defaults filled in.
        """

    def change(self, target: str, shape: ModelShape) -> Change | None:
        """How the rows of the GGUF tensor `target` come from the source's; None when they are."""


_Family = TypeVar("_Family", bound=type)
_PARTS = ("gguf", "names", "dropped", "prefixes", "vocabulary", "metadata", "change")
_REGISTERED: dict[str, Architecture] = {}


def architecture(*class_names: str) -> Callable[[_Family], _Family]:
    """Registers a family for class names as `config.json` has them under `architectures`."""

    def register(family: _Family) -> _Family:
        missing = set(_PARTS) - set(dir(family))
        if missing:
            raise TypeError(f"{family.__name__} lacks {', '.join(sorted(missing))}")
        for class_name in class_names:
            if class_name in _REGISTERED:
                raise TypeError(f"{class_name} has two families")
            _REGISTERED[class_name] = family()
        return family

    return register


def known() -> tuple[str, ...]:
    """The class names that can be converted, sorted."""
    return tuple(sorted(_REGISTERED))


def find(config: Mapping[str, object]) -> Architecture:
    """Returns the family of a checkpoint by its config.

    Raises UnsupportedError for others, naming the nearest known one.
    """
    stated = config.get("architectures")
    names = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    for name in names:
        if name in _REGISTERED:
            return _REGISTERED[name]
    near = [n for name in names for n in difflib.get_close_matches(name[:80], _REGISTERED, n=2)]
    raise UnsupportedError(
        f"Checkpoints of the architecture {', '.join(names)[:80] or 'that config.json leaves out'} "
        "cannot be converted.",
        cause=f"Nearest: {' or '.join(dict.fromkeys(near))}." if near else "",
        way_out=f"Known: {', '.join(known())}. Or use a GGUF file of the model.",
    )


def cuts_vocabulary(family: Architecture) -> bool:
    """Whether rows of the embedding that no token has are left out of the family's files."""
    return bool(getattr(family, "cuts_vocabulary", False))


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
