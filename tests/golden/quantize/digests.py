"""What a GGUF file holds, short enough to be kept: every key, every tensor, long things as digests.

Reads the format by itself, as its specification has it
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), so that neither our reader nor anyone
else's stands between a file and the comparison.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

LEVELS = ("F32", "F16", "BF16", "Q8_0")

COSMETIC = re.compile(
    r"general\.(name|basename|finetune|version|size_label|organization|description|author"
    r"|license.*|tags|languages|datasets|url|doi|uuid|repo_url|quantized_by|source\..*"
    r"|base_model\..*|dataset\..*|sampling\..*)"
)
"""Keys that say where a model is from, not what it is."""

_NUMBERS = {
    0: ("u8", "B"), 1: ("i8", "b"), 2: ("u16", "H"), 3: ("i16", "h"), 4: ("u32", "I"),
    5: ("i32", "i"), 6: ("f32", "f"), 7: ("bool", "?"), 10: ("u64", "Q"), 11: ("i64", "q"),
    12: ("f64", "d"),
}  # fmt: skip
_TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 8: ("Q8_0", 32, 34), 30: ("BF16", 1, 2)}
"""Tensor type -> name, numbers and bytes of a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDigest:
    """A tensor: its dimensions in the file's order, its type and the beginning of its SHA-256."""

    dims: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """A file: key -> "type value" as text, tensor name -> digest."""

    metadata: dict[str, str]
    tensors: dict[str, TensorDigest]


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def number(self, code: str) -> int | float | bool:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        size = int(self.number("Q"))
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> tuple[str, object]:
        if kind in _NUMBERS:
            name, code = _NUMBERS[kind]
            return name, self.number(code)
        if kind == 8:
            return "str", self.text()
        inner, count = int(self.number("I")), int(self.number("Q"))
        items = [self.value(inner) for _ in range(count)]
        return f"[{items[0][0] if items else inner}]", [value for _, value in items]


def described(kind: str, value: object) -> str:
    """A value as reference.json has it: its type and itself, or its size and digest when long."""
    text = json.dumps(value, ensure_ascii=True)
    if len(text) <= 120:
        return f"{kind} {text}"
    count = f"{len(value)} items" if isinstance(value, list) else f"{len(str(value))} characters"
    return f"{kind} {count} {hashlib.sha256(text.encode()).hexdigest()[:24]}"


def digest(path: Path, *, skip: frozenset[str] = frozenset()) -> FileDigest:
    """Reads a file of the types F32, F16, BF16 and Q8_0; `skip` names keys to leave out.

    Raises ValueError for a key or a tensor that stands there twice, for data that is not aligned,
    overlaps or is cut short.
    """
    reader = _Reader(path.read_bytes())
    if reader.data[:4] != b"GGUF" or struct.unpack_from("<I", reader.data, 4)[0] != 3:
        raise ValueError(f"{path.name} is no GGUF file of version 3")
    reader.at = 8
    tensor_count, key_count = int(reader.number("Q")), int(reader.number("Q"))
    metadata: dict[str, str] = {}
    for _ in range(key_count):
        key = reader.text()
        kind, value = reader.value(int(reader.number("I")))
        if key in metadata:
            raise ValueError(f"{path.name} has {key} twice")
        metadata[key] = described(kind, value)
    table = []
    for _ in range(tensor_count):
        name = reader.text()
        dims = tuple(int(reader.number("Q")) for _ in range(int(reader.number("I"))))
        table.append((name, dims, int(reader.number("I")), int(reader.number("Q"))))
    start = reader.at + -reader.at % 32
    tensors: dict[str, TensorDigest] = {}
    end = 0
    for name, dims, kind_number, offset in sorted(table, key=lambda row: row[3]):
        kind_name, numbers, size = _TYPES[kind_number]
        length = math.prod(dims) // numbers * size
        data = reader.data[start + offset : start + offset + length]
        if name in tensors or offset % 32 or offset < end or len(data) != length:
            raise ValueError(f"{path.name}: {name} stands twice, overlaps or is cut short")
        end = offset + length
        tensors[name] = TensorDigest(
            dims=dims, text=f"{kind_name} {hashlib.sha256(data).hexdigest()[:16]}"
        )
    kept = {k: v for k, v in metadata.items() if not COSMETIC.fullmatch(k) and k not in skip}
    return FileDigest(metadata=kept, tensors=tensors)
