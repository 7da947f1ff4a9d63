"""Builds GGUF files byte by byte, so that every field can be made wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.artifact import ModelShape, tensor_type
from edge_runtime.artifact.ggml import ValueType
from edge_runtime.artifact.keys import metadata_of

Pair = tuple[str, int, Any]
Row = tuple[str, Sequence[int], int, int]
FORMATS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 128,
}


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def encode_value(kind: int, value: Any) -> bytes:
    if kind == ValueType.STRING:
        return text(value)
    if kind == ValueType.ARRAY:
        inner, items = value
        head = struct.pack("<IQ", inner, len(items))
        return head + b"".join(encode_value(inner, item) for item in items)
    return struct.pack("<" + FORMATS[kind], value)


def encode_gguf(
    pairs: Sequence[Pair],
    rows: Sequence[Row],
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    alignment: int = 32,
    counts: tuple[int, int] | None = None,
    data_bytes: int = 0,
) -> bytes:
    """A file; `rows` are (name, dims, type number, offset)."""
    tensors, keys = counts or (len(rows), len(pairs))
    out = [magic, struct.pack("<IQQ", version, tensors, keys)]
    for key, kind, value in pairs:
        out.append(text(key) + struct.pack("<I", kind) + encode_value(kind, value))
    for name, dims, kind, offset in rows:
        out.append(text(name) + struct.pack("<I", len(dims)))
        out.append(struct.pack(f"<{len(dims)}QIQ", *dims, kind, offset))
    header = b"".join(out)
    return header + bytes(-len(header) % alignment) + bytes(data_bytes)


def model_pairs(shape: ModelShape) -> list[Pair]:
    pairs: list[Pair] = [
        ("general.architecture", ValueType.STRING, shape.architecture),
        ("general.name", ValueType.STRING, shape.name),
        ("general.file_type", ValueType.UINT32, 0),
        ("tokenizer.ggml.model", ValueType.STRING, "no_vocab"),
    ]
    for key, kind, value in metadata_of(shape):
        pairs.append((key, kind, (ValueType.BOOL, value) if kind == ValueType.ARRAY else value))
    return pairs


def model_rows(shape: ModelShape, type_name: str = "F32") -> tuple[list[Row], int]:
    rows, offset = [], 0
    for tensor in shape.tensors:
        kind = tensor_type(type_name if len(tensor.dims) > 1 else "F32")
        rows.append((tensor.name, tensor.dims, kind.id, offset))
        offset += -(-kind.size_bytes(tensor.dims) // 32) * 32
    return rows, offset


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    return encode_gguf


@pytest.fixture(scope="session")
def tiny() -> ModelShape:
    return ModelShape.from_config(TINY, name="tiny")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes bytes, or `encode_gguf` of the arguments, to a file of that name."""

    def make(*arguments: Any, name: str = "model.gguf", **options: Any) -> Path:
        path = tmp_path / name
        content = arguments[0] if len(arguments) == 1 else encode_gguf(*arguments, **options)
        path.write_bytes(content)
        return path

    return make


@pytest.fixture
def write_model(write: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a whole model file of a shape, with extra pairs."""

    def make(
        shape: ModelShape,
        *extra: Pair,
        type_name: str = "F32",
        name: str = "model.gguf",
        without: str = "",
    ) -> Path:
        rows, size = model_rows(shape, type_name)
        pairs = [pair for pair in model_pairs(shape) if pair[0] != without]
        kept = [p for p in pairs if p[0] not in {e[0] for e in extra}]
        return write([*kept, *extra], rows, data_bytes=size, name=name)

    return make
