"""A checkpoint's tokenizer files: JSON objects, read once, of types that are checked on the way.

Knows which files there are and the shape of their entries; not what a key means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edge_runtime.errors import FormatError

from ..checkpoint import Checkpoint

_NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """`tokenizer.json` (`described`, None without one) and `tokenizer_config.json` (`settings`)."""

    checkpoint: Checkpoint
    described: Mapping[str, object] | None
    settings: Mapping[str, object]

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> TokenizerFiles:
        """Reads both files. Raises FormatError for one that holds no JSON object."""
        return cls(
            checkpoint=checkpoint,
            described=checkpoint.json("tokenizer.json"),
            settings=checkpoint.json("tokenizer_config.json") or _NOTHING,
        )

    @property
    def path(self) -> Path:
        """The checkpoint's directory."""
        return self.checkpoint.path

    @property
    def config(self) -> Mapping[str, object]:
        """The checkpoint's `config.json`, as it stands."""
        return self.checkpoint.config

    @property
    def tokenizer_class(self) -> str | None:
        """The class the tokenizer says it is of, without the ending `Fast`."""
        for values in (self.settings, self.config):
            stated = values.get("tokenizer_class")
            if isinstance(stated, str):
                return stated.removesuffix("Fast")
        return None

    def has(self, name: str) -> bool:
        """Whether the directory holds a file of that name."""
        return self.checkpoint.file(name) is not None


def objects(values: Mapping[str, object], key: str, *, of: str) -> list[dict[str, object]]:
    """A list of JSON objects under `key`, empty when absent; FormatError for anything else."""
    found = values.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise FormatError(f"{of}: {key} is no list of objects.")
    return found


def section(values: Mapping[str, object], key: str, *, of: str) -> Mapping[str, object]:
    """A JSON object under `key`, empty when absent; FormatError for anything else."""
    found = values.get(key)
    if found is None:
        return _NOTHING
    if not isinstance(found, dict):
        raise FormatError(f"{of}: {key} is no object.")
    return found


def added_entries(described: Mapping[str, object]) -> Iterator[tuple[int, dict[str, object]]]:
    """Yields the `added_tokens` of a tokenizer.json: id and entry, `content` a text."""
    for entry in objects(described, "added_tokens", of="tokenizer.json"):
        number, text = entry.get("id"), entry.get("content")
        if type(number) is not int or not isinstance(text, str):
            raise FormatError("tokenizer.json has an added token without id or text.")
        yield number, entry


def content(entry: object) -> str | None:
    """The text of a special token, which stands alone or as the `content` of an object."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None
