"""An ONNX file written anew with some operators and tensors changed, and all else as it was.

The message is walked in the source file and copied field by field; long tensors are not copied but
pointed at in the data file of the new folder, wherever they stand, inner graphs included. It
refuses to know what an operator computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.artifact.gguf_values import opened
from edge_runtime.artifact.onnx.protobuf import BYTES, FIXED64, VARINT, Field, Wire

from .onnx import Initializer, Node, node_bytes, pair_bytes, tensor_bytes
from .protobuf import bytes_field, int_field, text_field, varint

_MAX_COPY_BYTES = 192 * 1024**2
_MAX_NAME_BYTES = 16_384
FUSED_DOMAIN = "com.microsoft"

Place = tuple[str, int]
"""A file and the byte at which a tensor begins in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is different in the new file.

    `operators` gives the ones that take the place of the operator whose message begins at a byte,
    none to leave it out; `dropped` are names of constants that nobody reads any more, `moved` says
    where in the new data file the bytes of a tensor are.
    """

    operators: Mapping[int, tuple[Node, ...]]
    dropped: frozenset[str]
    moved: Mapping[Place, int]
    added: Sequence[Initializer]
    metadata: Mapping[str, str] = field(default_factory=dict)


def rewritten(source: Path, changes: Changes, data_name: str) -> bytes:
    """The new file's bytes; `data_name` is the data file beside it.

    Raises FormatError for a file that is damaged.
    """
    with opened(source) as file:
        wire = Wire(file, source, "ONNX")
        return _Rewriting(wire, source, changes, data_name).model()


@dataclass(slots=True)
class _Rewriting:
    wire: Wire
    source: Path
    changes: Changes
    data_name: str

    def model(self) -> bytes:
        """ModelProto."""
        parts: list[bytes] = []
        fused = False
        for f in self.wire.fields(0, self.wire.size):
            if f.number == 7 and f.wire == BYTES:
                parts.append(bytes_field(7, self._graph(f, outermost=True)))
                continue
            if f.number == 14 and f.wire == BYTES and self._text(f, 1) in self.changes.metadata:
                continue
            fused = fused or (f.number == 8 and self._text(f, 1) == FUSED_DOMAIN)
            parts.append(self._copy(f))
        if not fused:
            parts.append(bytes_field(8, text_field(1, FUSED_DOMAIN) + int_field(2, 1)))
        parts += (bytes_field(14, pair_bytes(k, v)) for k, v in self.changes.metadata.items())
        return b"".join(parts)

    def _graph(self, message: Field, *, outermost: bool = False) -> bytes:
        """GraphProto: what is dropped goes from its constants, inputs and declared values."""
        parts: list[bytes] = []
        for f in self.wire.fields(message.start, message.end):
            if f.wire != BYTES:
                parts.append(self._copy(f))
            elif f.number == 1:
                parts += self._node(f)
            elif f.number == 5:
                if self._text(f, 8) not in self.changes.dropped:
                    parts.append(bytes_field(5, self._tensor(f)))
            elif f.number not in (11, 13) or self._text(f, 1) not in self.changes.dropped:
                parts.append(self._copy(f))
        if outermost:
            new = (tensor_bytes(tensor, self.data_name) for tensor in self.changes.added)
            parts += (bytes_field(5, tensor) for tensor in new)
        return b"".join(parts)

    def _node(self, message: Field) -> Iterator[bytes]:
        instead = self.changes.operators.get(message.start)
        if instead is not None:
            for node in instead:
                yield bytes_field(1, node_bytes(node))
            return
        parts: list[bytes] = []
        constant = False
        for f in self.wire.fields(message.start, message.end):
            if f.number == 5 and f.wire == BYTES:
                parts.append(bytes_field(5, self._attribute(f)))
                continue
            if f.number == 4:
                constant = self._word(f) == "Constant"
            parts.append(self._copy(f))
        if constant and self._text(message, 2) in self.changes.dropped:
            return
        yield bytes_field(1, b"".join(parts))

    def _attribute(self, message: Field) -> bytes:
        parts: list[bytes] = []
        for f in self.wire.fields(message.start, message.end):
            if f.wire == BYTES and f.number in (5, 10):
                parts.append(bytes_field(f.number, self._tensor(f)))
            elif f.wire == BYTES and f.number in (6, 11):
                parts.append(bytes_field(f.number, self._graph(f)))
            else:
                parts.append(self._copy(f))
        return b"".join(parts)

    def _tensor(self, message: Field) -> bytes:
        """TensorProto, with its bytes where they now are."""
        fields = tuple(self.wire.fields(message.start, message.end))
        place: Place | None = None
        entries: dict[str, str] = {}
        external = False
        for f in fields:
            if f.number == 9 and f.wire == BYTES:
                place = (str(self.source), f.start)
            elif f.number == 13 and f.wire == BYTES:
                entries[self._text(f, 1)] = self._text(f, 2)
            elif f.number == 14 and f.wire == VARINT:
                external = f.value == 1
        if external:
            path = self.source.parent / entries.get("location", "")
            place = (str(path), int(entries.get("offset", "0")))
        offset = None if place is None else self.changes.moved.get(place)
        if offset is None:
            return b"".join(map(self._copy, fields))
        size = next((str(f.end - f.start) for f in fields if f.number == 9), None)
        length = entries.get("length") if external else size
        pairs = {"location": self.data_name, "offset": str(offset)}
        if length is not None:
            pairs["length"] = length
        return b"".join(
            (
                *(self._copy(f) for f in fields if f.number not in (9, 13, 14)),
                *(bytes_field(13, pair_bytes(k, v)) for k, v in pairs.items()),
                int_field(14, 1),
            )
        )

    def _copy(self, f: Field) -> bytes:
        if f.wire == BYTES:
            return bytes_field(f.number, self.wire.data(f, _MAX_COPY_BYTES, "a field"))
        if f.wire == VARINT:
            return int_field(f.number, f.value)
        width = 8 if f.wire == FIXED64 else 4
        return varint(f.number << 3 | f.wire) + f.value.to_bytes(width, "little")

    def _text(self, message: Field, number: int) -> str:
        """The first text of that number in a message."""
        for f in self.wire.fields(message.start, message.end):
            if f.number == number and f.wire == BYTES:
                return self._word(f)
        return ""

    def _word(self, f: Field) -> str:
        return self.wire.text(f, _MAX_NAME_BYTES, "a name")
