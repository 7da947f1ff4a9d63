"""Reads an ONNX file up to its weights: inputs, outputs, operators, and where each tensor lies.

Field numbers are those of `onnx.proto` (IR version 3 to 13). The bytes may come from anyone: the
file is walked with bounds checked, external data must lie inside the model's folder, and no weight
is read. This module knows graphs, not what a model is for.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from ...errors import UnsupportedError
from ..gguf_values import opened
from .data import DataFiles, DataNames, Place
from .magic import START_BYTES, check_format
from .ports import MAX_NAME_BYTES, ValueInfo, value_info
from .protobuf import BYTES, VARINT, Field, Wire, signed
from .types import ELEMENT_TYPES, ElementType

_MAX_TEXT_BYTES = 4 * 1024**2
_MAX_DIMS = 64
_MAX_TENSORS = 100_000
_MAX_NODES = 100_000
_MAX_NAMES = 1_000_000
_MAX_ALL_NAMES_BYTES = 32 * 1024**2
_MAX_VALUES = 20_000
_MAX_PAIRS = 1000
_MAX_BRANCHES = 16
_MAX_GRAPH_DEPTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Initializer:
    """A constant tensor: dims as the graph has them, rows first, and where its bytes lie.

    `part` counts the graph's file as 0 and data files from 1; `offset_bytes` is None where the
    values stand one by one in the graph instead of in one piece.
    """

    name: str
    dims: tuple[int, ...]
    type: ElementType
    size_bytes: int
    offset_bytes: int | None
    part: int = 0

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator: what it reads and makes by name, and its whole-number attributes.

    `branches` names what the graphs inside it make, of an `If` in the order of its outputs.
    """

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ints: Mapping[str, int]
    branches: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxGraph:
    """What one ONNX file says. Nodes and tensors of inner graphs are listed with the others.

    `digest` is the SHA-256 of everything but the weights, with the sizes of all files and some of
    the bytes of each data file.
    """

    path: Path
    ir_version: int
    producer: str
    opsets: Mapping[str, int]
    metadata_props: Mapping[str, str]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    initializers: tuple[Initializer, ...]
    nodes: tuple[Node, ...]
    data_files: tuple[Path, ...]
    size_bytes: int
    """The graph's file and its data files together."""
    digest: str

    @property
    def paths(self) -> tuple[Path, ...]:
        """The graph's file, then its data files, as `Initializer.part` counts them."""
        return (self.path, *self.data_files)

    @property
    def operators(self) -> tuple[tuple[str, int], ...]:
        """How often each operator stands in the graph, the most frequent first."""
        return tuple(Counter(node.op for node in self.nodes).most_common())


def read_graph(path: str | os.PathLike[str]) -> OnnxGraph:
    """Reads and checks one ONNX file of any kind, and where its external data lies.

    Raises ModelNotFoundError when it or its data is not there, FormatError when either is
    truncated, malformed or outside the folder, UnsupportedError for another format.
    """
    where = Path(path)
    data = DataFiles(where)
    return _read(where, data)


def read_data_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The files an ONNX model keeps its weights in, as it names them; they need not be there.

    Raises what `read_graph` raises of the graph's own file, and for names outside its folder.
    """
    where = Path(path)
    data = DataNames(where)
    _read(where, data)
    return tuple(file.location for file in data.files)


def _read(path: Path, data: DataFiles) -> OnnxGraph:
    with opened(path) as file:
        check_format(path, file.read(START_BYTES))
        wire = Wire(file, path, "ONNX")
        reader = _Reader(wire, data)
        reader.model()
        digest = hashlib.sha256(wire.digest().encode())
        for place in data.files:
            digest.update(f"{place.location}\0{place.size_bytes}\0".encode() + data.sample(place))
        return reader.graph(digest.hexdigest())


@dataclass(slots=True)
class _Reader:
    """What was read so far of one file."""

    wire: Wire
    data: DataFiles
    ir_version: int = 0
    producer: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    inputs: list[ValueInfo] = field(default_factory=list)
    outputs: list[ValueInfo] = field(default_factory=list)
    initializers: list[Initializer] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    names: int = 0
    name_bytes: int = 0

    def model(self) -> None:
        """ModelProto."""
        wire, graphs = self.wire, 0
        for f in wire.fields(0, wire.size):
            if f.number == 1 and f.wire == VARINT:
                self.ir_version = signed(f.value)
            elif f.number in (2, 3):
                words = wire.text(f, MAX_NAME_BYTES, "the producer's name")
                self.producer = f"{self.producer} {words}".strip()
            elif f.number == 7 and f.wire == BYTES:
                graphs += 1
                self._graph(f, 0)
            elif f.number == 8:
                self._opset(f)
            elif f.number == 14:
                self._property(f)
            elif f.wire == BYTES and f.number == 6:
                wire.skip(f)  # documentation
        if graphs != 1:
            found = "no graph" if not graphs else f"{graphs} graphs"
            wire.broken(f"It holds {found}; a model has one.")

    def graph(self, digest: str) -> OnnxGraph:
        """The record of all that was read."""
        return OnnxGraph(
            path=self.wire.path,
            ir_version=self.ir_version,
            producer=self.producer,
            opsets=MappingProxyType(self.opsets),
            metadata_props=MappingProxyType(self.properties),
            inputs=self._without_constants(),
            outputs=tuple(self.outputs),
            initializers=tuple(self.initializers),
            nodes=tuple(self.nodes),
            data_files=tuple(place.path for place in self.data.files),
            size_bytes=self.wire.size + sum(place.size_bytes for place in self.data.files),
            digest=digest,
        )

    def _without_constants(self) -> tuple[ValueInfo, ...]:
        # Before IR version 4 every initializer was listed as an input too.
        constants = {tensor.name for tensor in self.initializers}
        return tuple(value for value in self.inputs if value.name not in constants)

    def _graph(self, message: Field, depth: int) -> tuple[str, ...]:
        """GraphProto; inner ones add their nodes and tensors. Gives the names of its outputs."""
        wire = self.wire
        if depth > _MAX_GRAPH_DEPTH:
            wire.broken("Its graphs are nested too deep.")
        made: list[str] = []
        for f in wire.fields(message.start, message.end):
            if f.wire != BYTES:
                continue
            if f.number == 1:
                self._node(f, depth)
            elif f.number == 5:
                self._initializer(f, "")
            elif f.number in (11, 12):
                value = value_info(wire, f)
                if f.number == 12:
                    made.append(value.name)
                if depth == 0:
                    listed = self.inputs if f.number == 11 else self.outputs
                    listed.append(value)
                    self._bounded(len(listed), _MAX_VALUES, "inputs or outputs")
            elif f.number == 15:
                raise UnsupportedError(
                    f"{wire.path.name} holds sparse tensors, which are not read."
                )
        return tuple(made)

    def _node(self, message: Field, depth: int) -> None:
        wire = self.wire
        inputs: list[str] = []
        outputs: list[str] = []
        op = domain = ""
        attributes: list[Field] = []
        for f in wire.fields(message.start, message.end):
            if f.number == 1:
                inputs.append(wire.text(f, MAX_NAME_BYTES, "the name of an input"))
            elif f.number == 2:
                outputs.append(wire.text(f, MAX_NAME_BYTES, "the name of an output"))
            elif f.number == 4:
                op = wire.text(f, MAX_NAME_BYTES, "the name of an operator")
            elif f.number == 7:
                domain = wire.text(f, MAX_NAME_BYTES, "the domain of an operator")
            elif f.number == 5 and f.wire == BYTES:
                attributes.append(f)
                self._bounded(len(attributes), _MAX_PAIRS, "attributes of one operator")
        self.names += len(inputs) + len(outputs) + len(attributes)
        self._bounded(self.names, _MAX_NAMES, "names in its operators")
        self.name_bytes += sum(map(len, (*inputs, *outputs)))
        self._bounded(self.name_bytes, _MAX_ALL_NAMES_BYTES, "characters in names and properties")
        ints: dict[str, int] = {}
        branches: list[tuple[str, ...]] = []
        for attribute in attributes:
            self._attribute(attribute, ints, branches, outputs[0] if outputs else "", op, depth)
        self.nodes.append(
            Node(
                op=op,
                domain=domain,
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                ints=ints,
                branches=tuple(branches),
            )
        )
        self._bounded(len(self.nodes), _MAX_NODES, "operators")

    def _attribute(
        self,
        message: Field,
        ints: dict[str, int],
        branches: list[tuple[str, ...]],
        output: str,
        op: str,
        depth: int,
    ) -> None:
        wire = self.wire
        name, value = "", None
        for f in wire.fields(message.start, message.end):
            if f.number == 1:
                name = wire.text(f, MAX_NAME_BYTES, "the name of an attribute")
            elif f.number == 3 and f.wire == VARINT:
                value = signed(f.value)
            elif f.wire != BYTES:
                continue
            elif f.number == 5 and op == "Constant":
                self._initializer(f, output)
            elif f.number in (6, 11):
                branches.append(self._graph(f, depth + 1))
                self._bounded(len(branches), _MAX_BRANCHES, "graphs in one operator")
            elif f.number in (4, 5, 7, 8, 10):
                wire.skip(f)
        if value is not None:
            ints[name] = value

    def _initializer(self, message: Field, name: str) -> None:
        """TensorProto: a weight, or the value of a Constant, named by what that makes."""
        wire = self.wire
        dims: list[int] = []
        number, external = 0, False
        entries: dict[str, str] = {}
        raw: Field | None = None
        for f in wire.fields(message.start, message.end):
            if f.number == 1:
                dims += wire.numbers(f, _MAX_DIMS, "the dims of a tensor")
                self._bounded(len(dims), _MAX_DIMS, "dimensions in one tensor")
            elif f.number == 2 and f.wire == VARINT:
                number = f.value
            elif f.number == 8 and not name:
                name = wire.text(f, MAX_NAME_BYTES, "the name of a tensor")
            elif f.number == 9 and f.wire == BYTES:
                raw = f
                wire.skip(f)
            elif f.number == 13 and f.wire == BYTES:
                key, value = self._pair(f)
                entries[key] = value
                self._bounded(len(entries), 64, "external data entries in one tensor")
            elif f.number == 14 and f.wire == VARINT:
                external = f.value == 1
            elif f.wire == BYTES and f.number in (4, 5, 6, 7, 10, 11):
                wire.skip(f)
        kind = ELEMENT_TYPES.get(number)
        if kind is None:
            raise UnsupportedError(
                f"{wire.path.name}: the tensor {name[:80]!r} is of the unknown type {number}."
            )
        if any(dim < 0 for dim in dims) or math.prod(dims) >= 2**56:
            wire.broken(f"The tensor {name[:80]!r} has the impossible dimensions {dims[:8]}.")
        size = kind.size_bytes(math.prod(dims))
        if external:
            place: Place | None = self.data.place(name, entries, size)
        else:
            place = self._inline(name, raw, size, kind)
        self.initializers.append(
            Initializer(
                name=name,
                dims=tuple(dims),
                type=kind,
                size_bytes=size,
                offset_bytes=None if place is None else place.offset_bytes,
                part=0 if place is None else place.part,
            )
        )
        self._bounded(len(self.initializers), _MAX_TENSORS, "tensors")

    def _inline(self, name: str, raw: Field | None, size: int, kind: ElementType) -> Place | None:
        if raw is None or not kind.bits:
            return None
        found = raw.end - raw.start
        if found != size:
            self.wire.broken(
                f"The tensor {name[:80]!r} holds {found} bytes; its type and dims want {size}."
            )
        return Place(part=0, offset_bytes=raw.start)

    def _opset(self, message: Field) -> None:
        domain, version = "", 0
        if message.wire != BYTES:
            self._wrong("An operator set")
        for f in self.wire.fields(message.start, message.end):
            if f.number == 1:
                domain = self.wire.text(f, MAX_NAME_BYTES, "the domain of an operator set")
            elif f.number == 2 and f.wire == VARINT:
                version = signed(f.value)
        self.opsets[domain or "ai.onnx"] = version
        self._bounded(len(self.opsets), _MAX_PAIRS, "operator sets")

    def _property(self, message: Field) -> None:
        if message.wire != BYTES:
            self._wrong("A metadata property")
        key, value = self._pair(message)
        self.properties[key] = value
        self._bounded(len(self.properties), _MAX_PAIRS, "metadata properties")
        self.name_bytes += len(value)
        self._bounded(self.name_bytes, _MAX_ALL_NAMES_BYTES, "characters in names and properties")

    def _pair(self, message: Field) -> tuple[str, str]:
        key = value = ""
        for f in self.wire.fields(message.start, message.end):
            if f.number == 1:
                key = self.wire.text(f, MAX_NAME_BYTES, "a metadata key")
            elif f.number == 2:
                value = self.wire.text(f, _MAX_TEXT_BYTES, f"the value of {key[:80]!r}")
        return key, value

    def _bounded(self, count: int, most: int, what: str) -> None:
        if count > most:
            self.wire.broken(f"It has more than {most:,} {what}.")

    def _wrong(self, what: str) -> NoReturn:
        self.wire.broken(f"{what} is a number.")
