"""Models cut into several GGUF files: finds the parts of one and checks that they belong together.

Names follow `NAME-00001-of-00003.gguf`, as llama.cpp demands; the metadata keys `split.no`,
`split.count` and `split.tensors.count` say the same.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

from ..errors import FormatError, ModelNotFoundError
from .gguf import GGUFHeader, TensorInfo, read_header

_PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
MAX_PARTS = 999
"""The most parts of a split file that are read here."""


def part_paths(path: Path) -> tuple[Path, ...]:
    """The paths of all parts, by the name of one; the path alone when it names no part."""
    match = _PART_NAME.fullmatch(path.name)
    if match is None:
        return (path,)
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= MAX_PARTS:
        return (path,)
    return _numbered(path.with_name(match["stem"]), count)


def split_paths(out: Path, count: int) -> tuple[Path, ...]:
    """The paths `out` becomes when it is cut into parts; `out` itself for one part."""
    if count == 1:
        return (out,)
    return _numbered(out.with_name(out.name.removesuffix(".gguf")), count)


def split_prefix(part: Path) -> Path:
    """What llama.cpp is told to write a part and its siblings; the path alone if it is no part."""
    match = _PART_NAME.fullmatch(part.name)
    return part if match is None else part.with_name(match["stem"])


def _numbered(prefix: Path, count: int) -> tuple[Path, ...]:
    return tuple(
        prefix.with_name(f"{prefix.name}-{number:05d}-of-{count:05d}.gguf")
        for number in range(1, count + 1)
    )


def read_parts(path: str | os.PathLike[str]) -> tuple[GGUFHeader, ...]:
    """Reads the headers of a model's parts, whichever of them `path` names; one for a whole file.

    Tensors know their part. Raises ModelNotFoundError naming a missing part, FormatError when the
    parts contradict each other, and what `read_header` raises.
    """
    given = Path(path)
    asked = read_header(given)
    count = asked.metadata.get("split.count", 1)
    if count in (0, 1):
        return (asked,)
    paths = part_paths(given)
    if len(paths) != count:
        raise FormatError(
            f"{given.name} is one of {count} parts, but its name does not say which.",
            way_out=f"Name the parts NAME-00001-of-{_five(count)}.gguf and so on.",
        )
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise ModelNotFoundError(
            f"{missing[0]} is missing.",
            cause=f"{given.name} is one of {count} parts, and {len(missing)} of them"
            f" {'is' if len(missing) == 1 else 'are'} not beside it.",
            way_out="Download all parts into one directory.",
        )
    headers = [asked if p.name == given.name else read_header(p) for p in paths]
    return _joined(headers)


def _five(count: object) -> str:
    return f"{count:05d}" if isinstance(count, int) and 0 < count <= MAX_PARTS else "0000N"


def _joined(headers: list[GGUFHeader]) -> tuple[GGUFHeader, ...]:
    joined: list[GGUFHeader] = []
    seen: dict[str, str] = {}
    for part, header in enumerate(headers):
        number = header.metadata.get("split.no")
        if number != part or header.metadata.get("split.count") != len(headers):
            raise FormatError(
                f"{header.path.name} is not part {part + 1} of {len(headers)}.",
                cause=f"It says it is number {number!r} of"
                f" {header.metadata.get('split.count')!r}, counted from 0.",
                way_out="Download the parts again.",
            )
        tensors: list[TensorInfo] = []
        for tensor in header.tensors:
            if tensor.name in seen:
                raise FormatError(
                    f"The tensor {tensor.name!r} is in {seen[tensor.name]} and in"
                    f" {header.path.name}.",
                    way_out="Download the parts again.",
                )
            seen[tensor.name] = header.path.name
            tensors.append(dataclasses.replace(tensor, part=part))
        joined.append(dataclasses.replace(header, tensors=tuple(tensors)))
    stated = headers[0].metadata.get("split.tensors.count", len(seen))
    if stated != len(seen):
        raise FormatError(
            f"The parts of {headers[0].path.name} hold {len(seen)} tensors instead of {stated}.",
            way_out="Download the parts again.",
        )
    return tuple(joined)
