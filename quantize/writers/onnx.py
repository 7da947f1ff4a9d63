"""ONNX models as bytes: the protocol-buffer messages of graph and tensors, nothing of models.

The few messages a graph needs are written field by field as https://onnx.ai/onnx/repo-docs/IR.html
and its onnx.proto3 number them, so that converting needs no other package and holds no copy of
the weights: those lie in another file, of which only places are stated. It refuses to know what
an operator computes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

IR_VERSION = 9
OPSETS: Mapping[str, int] = {"": 21, "com.microsoft": 1}
"""Versions of the operator sets: ONNX's own, and ONNX Runtime's fused operators."""


class Element(IntEnum):
    """Element types by ONNX's numbers."""

    FLOAT = 1
    UINT8 = 2
    INT32 = 6
    INT64 = 7
    FLOAT16 = 10

    @property
    def size_bytes(self) -> int:
        """Bytes of one element."""
        return {"FLOAT": 4, "UINT8": 1, "INT32": 4, "INT64": 8, "FLOAT16": 2}[self.name]


Attribute = int | float | str | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator: an empty name among `inputs` or `outputs` leaves an optional one out."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""
    attributes: tuple[tuple[str, Attribute], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An input or output of the graph; a dimension that varies is a name."""

    name: str
    element: Element
    dims: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Initializer:
    """A constant tensor: its bytes, or the place in the data file where they are."""

    name: str
    element: Element
    dims: tuple[int, ...]
    data: bytes = b""
    offset_bytes: int | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all its elements."""
        count = self.element.size_bytes
        for size in self.dims:
            count *= size
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A graph and what is said of it. An initializer that is an input as well is its default."""

    name: str
    nodes: Sequence[Node]
    initializers: Sequence[Initializer]
    inputs: Sequence[Value]
    outputs: Sequence[Value]
    metadata: Mapping[str, str] = field(default_factory=dict)
    producer: str = "edge-runtime"
    producer_version: str = ""


def model_bytes(model: Model, data_name: str) -> bytes:
    """Returns the model file; `data_name` is the file beside it that holds the tensors' bytes."""
    graph = b"".join(
        (
            *(_bytes(1, _node(node)) for node in model.nodes),
            _text(2, model.name),
            *(_bytes(5, _tensor(tensor, data_name)) for tensor in model.initializers),
            *(_bytes(11, _value(value)) for value in model.inputs),
            *(_bytes(12, _value(value)) for value in model.outputs),
        )
    )
    return b"".join(
        (
            _int(1, IR_VERSION),
            _text(2, model.producer),
            _text(3, model.producer_version),
            _bytes(7, graph),
            *(_bytes(8, _text(1, domain) + _int(2, v)) for domain, v in OPSETS.items()),
            *(_bytes(14, _pair(key, value)) for key, value in model.metadata.items()),
        )
    )


def _node(node: Node) -> bytes:
    return b"".join(
        (
            *(_text(1, name) for name in node.inputs),
            *(_text(2, name) for name in node.outputs),
            _text(3, f"{node.outputs[0]}/{node.op}"),
            _text(4, node.op),
            *(_bytes(5, _attribute(name, value)) for name, value in node.attributes),
            _text(7, node.domain) if node.domain else b"",
        )
    )


def _attribute(name: str, value: Attribute) -> bytes:
    """Tells by the value's type which field holds it, and says so in field 20 (its type)."""
    if isinstance(value, float):
        return _text(1, name) + _varint(2 << 3 | 5) + struct.pack("<f", value) + _int(20, 1)
    if isinstance(value, int):
        return _text(1, name) + _int(3, value) + _int(20, 2)
    if isinstance(value, str):
        return _text(1, name) + _text(4, value) + _int(20, 3)
    return _text(1, name) + b"".join(_int(8, item) for item in value) + _int(20, 7)


def _tensor(tensor: Initializer, data_name: str) -> bytes:
    head = _ints(1, tensor.dims) + _int(2, tensor.element) + _text(8, tensor.name)
    if tensor.offset_bytes is None:
        return head + _bytes(9, tensor.data)
    place = {
        "location": data_name,
        "offset": str(tensor.offset_bytes),
        "length": str(tensor.size_bytes),
    }
    return head + b"".join(_bytes(13, _pair(k, v)) for k, v in place.items()) + _int(14, 1)


def _value(value: Value) -> bytes:
    dims = b"".join(
        _bytes(1, _text(2, size) if isinstance(size, str) else _int(1, size)) for size in value.dims
    )
    tensor_type = _int(1, value.element) + _bytes(2, dims)
    return _text(1, value.name) + _bytes(2, _bytes(1, tensor_type))


def _pair(key: str, value: str) -> bytes:
    return _text(1, key) + _text(2, value)


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode())


def _bytes(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _int(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _ints(number: int, values: Iterable[int]) -> bytes:
    return _bytes(number, b"".join(_varint(value) for value in values))


def _varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF  # negative numbers are written as their two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
