"""Inputs and outputs of an ONNX graph, as the graph declares them: name, element type, dims.

Field numbers are those of `onnx.proto`. It reads declarations, and knows no weight and no operator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .protobuf import BYTES, VARINT, Field, Wire, signed
from .types import ELEMENT_TYPES

MAX_NAME_BYTES = 16_384
_MAX_DIMS = 64
_SIZE = re.compile(r"[1-9][0-9]{0,8}")
_OTHER_KINDS = {4: "SEQUENCE", 5: "MAP", 8: "SPARSE", 9: "OPTIONAL"}

Dim = int | str | None
"""A fixed size, the name of one that varies, or None where the file says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueInfo:
    """An input or output of the graph: its name, element type and dims as declared."""

    name: str
    type: str
    dims: tuple[Dim, ...]


def value_info(wire: Wire, message: Field) -> ValueInfo:
    """Reads a ValueInfoProto. Raises FormatError when it is malformed."""
    name, kind = "", "none stated"
    dims: tuple[Dim, ...] = ()
    for f in wire.fields(message.start, message.end):
        if f.number == 1:
            name = wire.text(f, MAX_NAME_BYTES, "the name of an input or output")
        elif f.number == 2 and f.wire == BYTES:
            for inner in wire.fields(f.start, f.end):
                if inner.number == 1 and inner.wire == BYTES:
                    kind, dims = _tensor_type(wire, inner)
                else:
                    kind = _OTHER_KINDS.get(inner.number, kind)
    return ValueInfo(name=name, type=kind, dims=dims)


def _tensor_type(wire: Wire, message: Field) -> tuple[str, tuple[Dim, ...]]:
    kind = "none stated"
    dims: list[Dim] = []
    for f in wire.fields(message.start, message.end):
        if f.number == 1 and f.wire == VARINT:
            known = ELEMENT_TYPES.get(f.value)
            kind = known.name if known is not None else f"type {f.value}"
        elif f.number == 2 and f.wire == BYTES:
            for inner in wire.fields(f.start, f.end):
                if inner.number == 1 and inner.wire == BYTES:
                    dims.append(_dim(wire, inner))
                    if len(dims) > _MAX_DIMS:
                        wire.broken(f"An input or output has more than {_MAX_DIMS} dimensions.")
    return kind, tuple(dims)


def _dim(wire: Wire, message: Field) -> Dim:
    found: Dim = None
    for f in wire.fields(message.start, message.end):
        if f.number == 1 and f.wire == VARINT:
            size = signed(f.value)
            found = size if size >= 0 else None
        elif f.number == 2 and f.wire == BYTES:
            text = wire.text(f, MAX_NAME_BYTES, "the name of a dimension")
            # Some exporters write a size as if it were a name.
            found = int(text) if _SIZE.fullmatch(text) else text or None
    return found
