"""Which source tensor becomes which GGUF tensor, by a family's names: none left over, none lacking.

Knows names and how parts are numbered; reads no tensor and no dims.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from edge_runtime.errors import FormatError

from .architectures import Architecture
from .checkpoint import Checkpoint
from .safetensors import SourceTensor, shown

_PLACES = re.compile(r"\{(layer|expert)\}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """A source tensor and what it becomes.

    `expert` is its number among the parts stacked into the target, None when it is the only one.
    Of `shares` targets that divide its second-to-last dimension this is number `share`.
    """

    source: SourceTensor
    expert: int | None = None
    share: int = 0
    shares: int = 1


class Names:
    """A family's names, prepared for looking up."""

    def __init__(self, family: Architecture) -> None:
        self._family = family
        self._rows: dict[str, list[tuple[re.Pattern[str], tuple[str, ...]]]] = {}
        for template, target in family.names.items():
            targets = (target,) if isinstance(target, str) else tuple(target)
            # The names of a model differ in numbers mostly: one key for all of a row's.
            key = _without_numbers(_PLACES.sub("0", template))
            self._rows.setdefault(key, []).append((_pattern(template), targets))

    def drops(self, name: str) -> bool:
        """Whether the family says that this tensor carries nothing."""
        return any(
            fnmatch.fnmatchcase(candidate, pattern)
            for candidate in self._candidates(name)
            for pattern in self._family.dropped
        )

    def targets(self, name: str) -> tuple[tuple[str, ...], int | None]:
        """The GGUF names a source tensor becomes, and its number among parts; none when unknown."""
        for candidate in self._candidates(name):
            for pattern, targets in self._rows.get(_without_numbers(candidate), ()):
                found = pattern.fullmatch(candidate)
                if found is not None:
                    numbers = found.groupdict()
                    layer, expert = numbers.get("layer"), numbers.get("expert")
                    filled = tuple(target.replace("{layer}", layer or "") for target in targets)
                    return filled, None if expert is None else int(expert)
        return (), None

    def nearest(self, name: str) -> str:
        """The family's own name most like this one."""
        near = difflib.get_close_matches(_without_numbers(name[:200]), self._rows, n=1, cutoff=0.0)
        return near[0].replace("#", "0") if near else ""

    def _candidates(self, name: str) -> Iterator[str]:
        yield name
        for prefix in self._family.prefixes:
            if name.startswith(prefix):
                yield name.removeprefix(prefix)


def assign(
    checkpoint: Checkpoint, family: Architecture, wanted: Iterable[str]
) -> Mapping[str, tuple[Assigned, ...]]:
    """Returns the sources of every wanted GGUF tensor by its name; parts come in order.

    Raises FormatError for a source tensor that is neither wanted nor dropped by name, for a wanted
    one without source, and for parts that do not count from 0.
    """
    names = Names(family)
    known = set(wanted)
    found: dict[str, list[Assigned]] = {name: [] for name in known}
    for name, source in checkpoint.tensors.items():
        if names.drops(name):
            continue
        targets, expert = names.targets(name)
        if not targets or not known.issuperset(targets):
            raise _left_over(name, names, family, targets)
        for share, target in enumerate(targets):
            found[target].append(
                Assigned(source=source, expert=expert, share=share, shares=len(targets))
            )
    for target, parts in found.items():
        _require_complete(target, parts)
    return {target: tuple(sorted(parts, key=_number)) for target, parts in found.items()}


def _number(part: Assigned) -> int:
    return -1 if part.expert is None else part.expert


def _require_complete(target: str, parts: list[Assigned]) -> None:
    if not parts:
        raise FormatError(
            f"The checkpoint lacks the tensor that becomes {target}.",
            cause="The download is incomplete, or config.json is another model's.",
            way_out="Download the whole checkpoint again, from one revision.",
        )
    numbers = sorted(_number(part) for part in parts)
    if numbers in ([-1], list(range(len(parts)))):
        return
    if -1 in numbers or len(set(numbers)) < len(numbers):
        twice = sorted(shown(part.source.name) for part in parts)
        raise FormatError(
            f"Several tensors of the checkpoint would become {target}.",
            cause=f"They are {', '.join(twice[:2])}{' and more' if len(twice) > 2 else ''}.",
        )
    lacking = next(i for i, number in enumerate(numbers) if i != number)
    raise FormatError(
        f"The checkpoint lacks part {lacking} of the tensors that become {target}.",
        cause=f"The others go up to {numbers[-1]}, counted from 0.",
        way_out="Download the whole checkpoint again, from one revision.",
    )


def _left_over(
    name: str, names: Names, family: Architecture, targets: tuple[str, ...]
) -> FormatError:
    if targets:
        cause = f"It would become {' and '.join(targets)}, which config.json leaves no room for."
    else:
        cause = f"Nearest among the names of {family.gguf} models: {names.nearest(name)}."
    return FormatError(
        f"The checkpoint's tensor {shown(name)} has no place in the model.",
        cause=cause,
        way_out="Check that config.json and the weights belong together.",
    )


def _pattern(template: str) -> re.Pattern[str]:
    parts = _PLACES.split(template)
    # Texts and places alternate; a place that comes again is the same number.
    seen: set[str] = set()
    pattern = ""
    for i, part in enumerate(parts):
        if i % 2 == 0:
            pattern += re.escape(part)
        else:
            pattern += f"(?P={part})" if part in seen else f"(?P<{part}>{_NUMBER.pattern})"
            seen.add(part)
    return re.compile(pattern)


def _without_numbers(name: str) -> str:
    return ".".join("#" if part.isdecimal() else part for part in name.split("."))
