"""The operators of an ONNX file with their names and places, those of inner graphs too.

`artifact.onnx.graph` has read and checked the file before; this second reading adds what only
somebody needs who writes a file anew: where each operator's message begins, its name, and its
attributes that are no whole numbers. It refuses to know what an operator computes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.artifact.gguf_values import opened
from edge_runtime.artifact.onnx.protobuf import BYTES, FIXED32, VARINT, Field, Wire, signed

_MAX_NAME_BYTES = 16_384
_MAX_DEPTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator; `start` is the byte of the file at which its message begins."""

    start: int
    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ints: Mapping[str, int]
    floats: Mapping[str, float]
    lists: Mapping[str, tuple[int, ...]]

    @property
    def called(self) -> str:
        """Its name, or the first thing it makes where it has none."""
        return self.name or next(iter(self.outputs), "") or self.op


def operators_of(path: Path) -> tuple[Operator, ...]:
    """Every operator of a file that `read_graph` has read; outer ones before those inside them."""
    with opened(path) as file:
        wire = Wire(file, path, "ONNX")
        return tuple(
            operator
            for f in wire.fields(0, wire.size)
            if f.number == 7 and f.wire == BYTES
            for operator in _of_graph(wire, f, 0)
        )


def _of_graph(wire: Wire, message: Field, depth: int) -> Iterator[Operator]:
    if depth > _MAX_DEPTH:
        wire.broken("Its graphs are nested too deep.")
    for f in wire.fields(message.start, message.end):
        if f.number == 1 and f.wire == BYTES:
            yield from _of_node(wire, f, depth)


def _of_node(wire: Wire, message: Field, depth: int) -> Iterator[Operator]:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
    ints: dict[str, int] = {}
    floats: dict[str, float] = {}
    lists: dict[str, tuple[int, ...]] = {}
    inner: list[Field] = []
    for f in wire.fields(message.start, message.end):
        if f.number in texts:
            texts[f.number].append(wire.text(f, _MAX_NAME_BYTES, "a name in an operator"))
        elif f.number == 5 and f.wire == BYTES:
            name = ""
            many: list[int] = []
            for a in wire.fields(f.start, f.end):
                if a.number == 1:
                    name = wire.text(a, _MAX_NAME_BYTES, "the name of an attribute")
                elif a.number == 2 and a.wire == FIXED32:
                    floats[name] = struct.unpack("<f", struct.pack("<I", a.value))[0]
                elif a.number == 3 and a.wire == VARINT:
                    ints[name] = signed(a.value)
                elif a.number == 8:
                    many += wire.numbers(a, 64 * 1024, "an attribute")
                elif a.number in (6, 11) and a.wire == BYTES:
                    inner.append(a)
            if many:
                lists[name] = tuple(many)
    yield Operator(
        start=message.start,
        name=(texts[3] or [""])[0],
        op=(texts[4] or [""])[0],
        domain=(texts[7] or [""])[0],
        inputs=tuple(texts[1]),
        outputs=tuple(texts[2]),
        ints=ints,
        floats=floats,
        lists=lists,
    )
    for graph in inner:
        yield from _of_graph(wire, graph, depth + 1)
