"""ONNX models as bytes: the protocol-buffer messages of graph and tensors, nothing of models.

The few messages a graph needs are written field by field as https://onnx.ai/onnx/repo-docs/IR.html
and its onnx.proto3 number them, so that converting needs no other package and holds no copy of
the weights: those lie in another file, of which only places are stated. It refuses to know what
an operator computes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from .protobuf import bytes_field, int_field, ints_field, text_field, varint

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
    name: str = ""


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
            *(bytes_field(1, node_bytes(node)) for node in model.nodes),
            text_field(2, model.name),
            *(bytes_field(5, tensor_bytes(tensor, data_name)) for tensor in model.initializers),
            *(bytes_field(11, _value(value)) for value in model.inputs),
            *(bytes_field(12, _value(value)) for value in model.outputs),
        )
    )
    return b"".join(
        (
            int_field(1, IR_VERSION),
            text_field(2, model.producer),
            text_field(3, model.producer_version),
            bytes_field(7, graph),
            *(
                bytes_field(8, text_field(1, domain) + int_field(2, v))
                for domain, v in OPSETS.items()
            ),
            *(bytes_field(14, pair_bytes(key, value)) for key, value in model.metadata.items()),
        )
    )


def node_bytes(node: Node) -> bytes:
    """An operator as a message."""
    return b"".join(
        (
            *(text_field(1, name) for name in node.inputs),
            *(text_field(2, name) for name in node.outputs),
            text_field(3, node.name or f"{node.outputs[0]}/{node.op}"),
            text_field(4, node.op),
            *(bytes_field(5, _attribute(name, value)) for name, value in node.attributes),
            text_field(7, node.domain) if node.domain else b"",
        )
    )


def _attribute(name: str, value: Attribute) -> bytes:
    """Tells by the value's type which field holds it, and says so in field 20 (its type)."""
    if isinstance(value, float):
        return (
            text_field(1, name) + varint(2 << 3 | 5) + struct.pack("<f", value) + int_field(20, 1)
        )
    if isinstance(value, int):
        return text_field(1, name) + int_field(3, value) + int_field(20, 2)
    if isinstance(value, str):
        return text_field(1, name) + text_field(4, value) + int_field(20, 3)
    return text_field(1, name) + b"".join(int_field(8, item) for item in value) + int_field(20, 7)


def tensor_bytes(tensor: Initializer, data_name: str) -> bytes:
    """A constant tensor as a message; its bytes may lie in the file `data_name`."""
    head = ints_field(1, tensor.dims) + int_field(2, tensor.element) + text_field(8, tensor.name)
    if tensor.offset_bytes is None:
        return head + bytes_field(9, tensor.data)
    place = {
        "location": data_name,
        "offset": str(tensor.offset_bytes),
        "length": str(tensor.size_bytes),
    }
    return (
        head
        + b"".join(bytes_field(13, pair_bytes(k, v)) for k, v in place.items())
        + int_field(14, 1)
    )


def _value(value: Value) -> bytes:
    dims = b"".join(
        bytes_field(1, text_field(2, size) if isinstance(size, str) else int_field(1, size))
        for size in value.dims
    )
    tensor_type = int_field(1, value.element) + bytes_field(2, dims)
    return text_field(1, value.name) + bytes_field(2, bytes_field(1, tensor_type))


def pair_bytes(key: str, value: str) -> bytes:
    """A key and its text as a message."""
    return text_field(1, key) + text_field(2, value)
