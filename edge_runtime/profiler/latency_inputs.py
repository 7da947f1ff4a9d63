"""What a model that is none of language is fed: shapes by graph and user, kinds of values.

A dimension that the graph leaves open comes from `--shape`, or from a default where one is sane: a
batch of one, a text of 128 tokens. Which default was taken is said; where none is sane the user is
asked. What fills an input follows from its type, its name and the tables it looks things up in.
This module decides; numbers are made where the engine is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..artifact.onnx.folder import model_config
from ..artifact.onnx.graph import Node, OnnxGraph
from ..artifact.onnx.ports import Dim, ValueInfo
from ..artifact.onnx.types import ELEMENT_TYPES
from ..errors import ArtifactError, MemoryLimitError, UnsupportedError, UsageError
from ..latency import Fill, InputRecord
from ..units import format_bytes

DEFAULT_TOKENS = 128
"""The length of a text when nobody gives one: the prompt of a short turn."""

_FLOATS = ("FP32", "FP16", "FP64", "BFLOAT16")
_WHOLE = ("INT64", "INT32", "INT16", "UINT64", "UINT32", "UINT16")
_BYTES = ("INT8", "UINT8")
_BITS = {kind.name: kind.bits for kind in ELEMENT_TYPES.values()}
_SHAPE = re.compile(r"[0-9]{1,12}(?:[xX\u00d7,][0-9]{1,12})*")
_TEXT_NAMES = re.compile(
    r"(?:input|token|type|position|segment|word)s?_?(?:type_?)?ids?|mask", re.I
)
_LENGTH_NAMES = re.compile(r"seq|token|text|prompt", re.I)
_BATCH_NAMES = re.compile(r"batch|^n$|^b$|^bs$", re.I)
_THROUGH = ("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Clip")
_STORED_THROUGH = ("DequantizeLinear", "Cast", "Identity")


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Reads `name=1x3x224x224`, `name=128` or a bare `1x3x224x224`, whose name is empty here.

    Raises UsageError for what is no shape, and for a name given twice.
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, dims = text.rpartition("=")
        if not _SHAPE.fullmatch(dims):
            raise UsageError(
                f"--shape: {text!r} is no shape.",
                way_out="Write 1x3x224x224, or NAME=1x3x224x224 for one input of several.",
            )
        if name in found:
            raise UsageError(f"--shape: {name or 'the only input'} is given twice.")
        found[name] = tuple(map(int, re.split(r"[^\d]", dims)))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Every input with its shape and filling, and the dimensions that nobody gave, in words."""

    inputs: tuple[InputRecord, ...]
    notes: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """What the inputs take together."""
        return sum(item.elements * _BITS[item.type] // 8 for item in self.inputs)

    def check_memory(self, available_bytes: int) -> None:
        """Refuses inputs that cannot be held. Raises MemoryLimitError."""
        if self.size_bytes > available_bytes:
            raise MemoryLimitError(
                f"The inputs take {format_bytes(self.size_bytes)}.",
                cause=f"{format_bytes(available_bytes)} are free.",
                way_out="Give a smaller --shape.",
            )


def feed(graph: OnnxGraph, shapes: Mapping[str, tuple[int, ...]]) -> Feed:
    """What a graph's inputs hold when these shapes are asked for, by input or open dimension.

    Raises UsageError for a shape that does not fit the graph or is lacking, UnsupportedError for an
    input that cannot be made up.
    """
    for value in graph.inputs:
        _check_kind(graph, value)
    asked = _by_input(graph, shapes)
    sizes = _Sizes(graph, asked)
    rows = _Tables(graph)
    inputs = []
    for value in graph.inputs:
        shape = sizes.shape(value)
        fill, below = _filling(value, rows)
        inputs.append(
            InputRecord(name=value.name, type=value.type, shape=shape, fill=fill, below=below)
        )
    sizes.complain()
    return Feed(inputs=tuple(inputs), notes=sizes.notes())


def _check_kind(graph: OnnxGraph, value: ValueInfo) -> None:
    if value.type in (*_FLOATS, *_WHOLE, *_BYTES, "BOOL"):
        return
    what = {
        "STRING": "strings", "SEQUENCE": "a sequence", "MAP": "a map", "OPTIONAL": "an optional",
        "SPARSE": "a sparse tensor",
    }.get(value.type, value.type)  # fmt: skip
    raise UnsupportedError(
        f"{graph.path.name} cannot be fed with made-up values.",
        cause=f"Its input {value.name[:80]!r} takes {what}.",
        way_out="Measured are models whose inputs are tensors of numbers.",
    )


def _by_input(
    graph: OnnxGraph, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The shapes by the names of inputs and of open dimensions, the bare one given to its input."""
    asked = dict(shapes)
    names = {value.name for value in graph.inputs}
    symbols = {d for value in graph.inputs for d in value.dims if isinstance(d, str)}
    for name, dims in shapes.items():
        if name and name not in names and not (name in symbols and len(dims) == 1):
            raise UsageError(
                f"--shape: {graph.path.name} has no input {name!r}.", cause=_listed(graph)
            )
    if "" in asked:
        bare = asked.pop("")
        left = [v for v in graph.inputs if v.name not in asked]
        if len(left) > 1:
            left = [v for v in left if any(not isinstance(d, int) for d in v.dims)] or left
        if len(left) != 1:
            raise UsageError(
                f"--shape: {graph.path.name} has {len(graph.inputs)} inputs.",
                cause=_listed(graph),
                way_out=f"Say which one it is: --shape {_words(graph.inputs[0].name, bare)}"
                if graph.inputs
                else "Leave it out.",
            )
        asked[left[0].name] = bare
    return asked


class _Sizes:
    """The sizes of open dimensions: given, following from a given shape, or assumed."""

    def __init__(self, graph: OnnxGraph, asked: Mapping[str, tuple[int, ...]]) -> None:
        self._graph = graph
        self._given: dict[str, tuple[int, ...]] = {}
        self._known: dict[str, tuple[int, str]] = {}
        self._assumed: dict[str, int] = {}
        self._missing: list[ValueInfo] = []
        self._text_tokens = _longest_text(graph)
        names = {value.name for value in graph.inputs}
        for name, dims in asked.items():
            if name not in names:
                self._know(name, _positive(name, dims[0]), f"{name}={dims[0]}")
        for value in graph.inputs:
            if value.name in asked:
                self._take(value, asked[value.name])

    def shape(self, value: ValueInfo) -> tuple[int, ...]:
        """The shape of an input; what nobody can know is 1 here and complained of in the end."""
        if value.name in self._given:
            return self._given[value.name]
        return tuple(self._size(value, axis, dim) for axis, dim in enumerate(value.dims))

    def complain(self) -> None:
        """Raises UsageError when a dimension has no sane default."""
        if not self._missing:
            return
        wanted = [
            f"--shape {_words(v.name, tuple(self._proposed(v, i) for i in range(len(v.dims))))}"
            for v in self._missing[:4]
        ]
        raise UsageError(
            f"{self._graph.path.name} leaves the size of its inputs open.",
            cause=_listed(self._graph),
            way_out=f"Give it, for example: {' '.join(wanted)}",
        )

    def notes(self) -> tuple[str, ...]:
        """What was assumed, in one sentence, or nothing."""
        if not self._assumed:
            return ()
        words = ", ".join(f"{name} {size}" for name, size in self._assumed.items())
        return (f"open dimensions that nobody gave: {words} (--shape changes it)",)

    def _take(self, value: ValueInfo, dims: tuple[int, ...]) -> None:
        # A scalar and an input of unknown rank are declared alike; the engine tells them apart.
        if value.dims and len(dims) != len(value.dims):
            raise UsageError(
                f"--shape: {value.name} has {len(value.dims)} dimensions, not {len(dims)}.",
                cause=f"It is declared as {_declared(value)}.",
            )
        words = _words(value.name, dims)
        for declared, size in zip(value.dims, dims, strict=False):
            if isinstance(declared, int) and declared != size:
                raise UsageError(
                    f"--shape: {words} does not fit.",
                    cause=f"The input is declared as {_declared(value)}.",
                )
            if not isinstance(declared, int):
                _positive(value.name, size)
            if isinstance(declared, str):
                self._know(declared, size, words)
        for size in dims[len(value.dims) :]:
            _positive(value.name, size)
        self._given[value.name] = dims

    def _know(self, symbol: str, size: int, words: str) -> None:
        earlier = self._known.setdefault(symbol, (size, words))
        if earlier[0] != size:
            raise UsageError(
                f"--shape: {earlier[1]} and {words} contradict each other.",
                cause=f"The dimension {symbol} is the same in both.",
            )

    def _size(self, value: ValueInfo, axis: int, dim: Dim) -> int:
        if isinstance(dim, int):
            return dim
        if dim is not None and dim in self._known:
            return self._known[dim][0]
        size = self._default(value, axis, dim)
        if size is None:
            if self._missing[-1:] != [value]:
                self._missing.append(value)
            return 1
        self._assumed[dim or f"dimension {axis} of {value.name}"] = size
        if dim is not None:
            self._known[dim] = (size, f"{dim}={size}")
        return size

    def _default(self, value: ValueInfo, axis: int, dim: Dim) -> int | None:
        name = dim if isinstance(dim, str) else ""
        if _BATCH_NAMES.search(name):
            return 1
        text = value.type in (*_WHOLE, "BOOL", "FP32") and _TEXT_NAMES.search(value.name)
        if _LENGTH_NAMES.search(name) or (text and axis == len(value.dims) - 1):
            return self._text_tokens
        if axis == 0 and len(value.dims) > 1:
            return 1
        return None

    def _proposed(self, value: ValueInfo, axis: int) -> int:
        """A size for the command a message proposes: an image's where it looks like one."""
        dim = value.dims[axis]
        if isinstance(dim, int):
            return dim
        if isinstance(dim, str) and dim in self._known:
            return self._known[dim][0]
        default = self._default(value, axis, dim)
        if default is not None:
            return default
        if len(value.dims) == 4:
            channels_last = value.dims[3] in (1, 3, 4)
            return 3 if axis == (3 if channels_last else 1) else 224
        return 80 if len(value.dims) == 3 and axis == 1 else 1000


class _Tables:
    """How many rows the tables have that inputs are indices into."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._users: dict[str, list[Node]] = {}
        self._makers: dict[str, Node] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.inputs):
                self._users.setdefault(name, []).append(node)
            for name in node.outputs:
                self._makers.setdefault(name, node)
        self._dims = {tensor.name: tensor.dims for tensor in graph.initializers}

    def rows(self, name: str) -> int | None:
        """The fewest rows among the tables that an input looks things up in; None without any."""
        found: list[int] = []
        todo, seen = [name], {name}
        while todo:
            value = todo.pop()
            for node in self._users.get(value, ()):
                table = self._looked_up(node, value)
                if table:
                    found.append(table)
                elif node.op in _THROUGH and node.inputs[0] == value:
                    todo += [out for out in node.outputs if out not in seen]
                    seen.update(node.outputs)
        return min(found) if found else None

    def _looked_up(self, node: Node, index: str) -> int | None:
        inputs = node.inputs
        if node.op in ("Gather", "GatherBlockQuantized") and inputs[1:2] == (index,):
            axis = node.ints.get("axis", node.ints.get("gather_axis", 0))
            return self._extent(inputs[0], axis)
        if node.op == "EmbedLayerNormalization" and index in inputs[:2]:
            place = 2 if inputs[0] == index else 4
            return self._extent(inputs[place], 0) if len(inputs) > place else None
        return None

    def _extent(self, name: str, axis: int) -> int | None:
        for _ in range(4):
            dims = self._dims.get(name)
            if dims is not None:
                return dims[axis] if -len(dims) <= axis < len(dims) else None
            maker = self._makers.get(name)
            if maker is None or maker.op not in _STORED_THROUGH or not maker.inputs:
                return None
            name = maker.inputs[0]
        return None


def _filling(value: ValueInfo, tables: _Tables) -> tuple[Fill, int | None]:
    name = value.name.lower()
    if value.type == "BOOL":
        return "true", None
    if "mask" in name:
        return "ones", None
    if value.type in _FLOATS:
        return "normal", None
    if value.type in _BYTES:
        return "bytes", None
    if "position" in name:
        return "positions", None
    if re.search(r"type|segment", name):
        return "zeros", None
    rows = tables.rows(value.name)
    # One is a valid count, length and index nearly everywhere; zero is no length.
    return ("below", rows) if rows else ("ones", None)


def _longest_text(graph: OnnxGraph) -> int:
    """128 tokens, or as many as the model has positions for where a config beside it says fewer."""
    try:
        config = model_config(graph.path) or {}
    except ArtifactError:
        config = {}  # it is no part of what is measured; opening the model as text complains of it
    most = config.get("max_position_embeddings")
    return min(DEFAULT_TOKENS, most) if isinstance(most, int) and most > 0 else DEFAULT_TOKENS


def _positive(name: str, size: int) -> int:
    if size < 1:
        raise UsageError(
            f"--shape: {name} has a dimension of {size}.", cause="Nothing would be computed."
        )
    return size


def _declared(value: ValueInfo) -> str:
    if not value.dims:
        return f"{value.type} without dimensions"
    return f"{value.type} {' x '.join('?' if d is None else str(d) for d in value.dims)}"


def _listed(graph: OnnxGraph) -> str:
    if not graph.inputs:
        return "It has no inputs."
    words = [f"{v.name} ({_declared(v)})" for v in graph.inputs[:6]]
    return f"Its inputs: {', '.join(words)}{', ...' if len(graph.inputs) > 6 else ''}."


def _words(name: str, dims: tuple[int, ...]) -> str:
    return shlex.quote(f"{name}={'x'.join(map(str, dims))}")
