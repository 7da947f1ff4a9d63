"""The weights of an ONNX graph as one sees them: a matrix with its scales is one tensor.

What a tensor is follows from the operators that read it, never from its name. The embedding, the
output matrix, tables of positions and stacks of experts get the names GGUF has for them, so that
what decoding reads is counted the same way for both formats.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..ggml import GGMLType
from ..gguf import TensorInfo
from ..shape import is_expert_stack
from .graph import Initializer, Node, OnnxGraph
from .operators import (
    ANGLES,
    BEFORE_LOGITS,
    EXPERTS,
    PRODUCTS,
    SAME_VALUES,
    TABLE_OPS,
    Quantized,
    quantized_by,
    slots,
)
from .types import block_type, plain_type

EMBEDDING, OUTPUT, POSITIONS = "token_embd.weight", "output.weight", "position_embd.weight"
ROPE_CACHE = "rope_cache."
"""What the names of tables of rotary angles begin with: computed, not trained, a row per token."""

_MAX_TRACED = 64
_MAX_BLOCK = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The tensors of a graph; `tied` is None where embedding or output could not be told.

    `embedding` is the table's (width, tokens). Constants that nobody trained are left out.
    """

    tensors: tuple[TensorInfo, ...]
    level: str
    tied: bool | None
    embedding: tuple[int, int] | None
    position_rows: int | None
    angle_rows: int | None

    def widest_into(self, hidden: int) -> int:
        """The most that a matrix of the layers takes in to give `hidden`; 0 when none does."""
        return max(
            (
                tensor.dims[0]
                for tensor in self.tensors
                if len(tensor.dims) == 2
                and tensor.dims[1] == hidden
                and not _looked_up_or_output(tensor.name)
            ),
            default=0,
        )


def weights_of(graph: OnnxGraph, token_input: str | None) -> Weights:
    """The weights a graph holds, `token_input` being the input that takes token ids."""
    return _Reading(graph, token_input).weights()


class _Reading:
    def __init__(self, graph: OnnxGraph, token_input: str | None) -> None:
        self._graph = graph
        self._token_input = token_input
        self._constants = {tensor.name: tensor for tensor in graph.initializers}
        self._made_by = _producers(graph.nodes)
        self._quantized: dict[str, Quantized] = {}
        self._names: dict[str, str] = {}
        self._upright: set[str] = set()
        """Matrices whose first dim is the length of a row, as a product sees it."""
        for node in graph.nodes:
            for stated in quantized_by(node):
                self._note(stated)
            self._note_orientation(node)
        self._companions = {
            name
            for found in self._quantized.values()
            for name in (found.scales, found.offsets)
            if name
        }

    def weights(self) -> Weights:
        embedding = self._embedding()
        output = self._output()
        tied = None
        if embedding is not None and output is not None:
            tied = self._place(embedding) == self._place(output)
        if output is not None:
            self._names[output.name] = OUTPUT
        if embedding is not None:
            self._names[embedding.name] = EMBEDDING
        if tied and output is not None and embedding is not None:
            # One matrix, read twice: in full by the product, whichever way it is named there.
            self._names[output.name] = self._names[embedding.name] = EMBEDDING
        self._name_tables(embedding)
        self._name_experts()
        tensors = tuple(self._tensors())
        table = None if embedding is None else self._dims(embedding)
        rows = {t.name: t.dims[1] for t in tensors if len(t.dims) == 2}
        angles = [rows[name] for name in rows if name.startswith(ROPE_CACHE)]
        return Weights(
            tensors=tensors,
            level=_level(tensors),
            tied=tied,
            embedding=None if table is None or len(table) != 2 else (table[0], table[1]),
            position_rows=rows.get(POSITIONS),
            angle_rows=max(angles) if angles else None,
        )

    def _note(self, stated: Quantized) -> None:
        for weight in self._sources(stated.value):
            bits = stated.bits if 0 < stated.bits <= 8 else weight.type.bits
            block = stated.block if 0 < stated.block <= _MAX_BLOCK else 0
            dims = stated.dims
            held = weight.size_bytes * 8 // max(bits, 1)
            if dims and not (min(dims) > 0 and math.prod(dims) <= held + block * max(dims)):
                dims = ()  # attributes that the bytes contradict; the engine will say so
            known = self._quantized.get(weight.name)
            if known is not None and known.dims:
                continue  # a product knows more of its weight than a look-up
            self._quantized[weight.name] = Quantized(
                value=weight.name,
                bits=bits,
                block=block,
                dims=dims,
                scales=stated.scales if stated.scales in self._constants else "",
                offsets=stated.offsets if stated.offsets in self._constants else "",
                name=stated.name,
            )

    def _note_orientation(self, node: Node) -> None:
        if node.op in PRODUCTS:
            value = slots(node)(PRODUCTS[node.op])
            turned = node.ints.get("transB", 0) == 1
        elif node.op in TABLE_OPS:
            value, turned = slots(node)(0), True
        else:
            return
        for name, flips in self._traced(value, SAME_VALUES):
            if name in self._constants and turned == (flips % 2 == 1):
                self._upright.add(name)

    def _sources(self, value: str) -> tuple[Initializer, ...]:
        """The initializers a value comes from, past operators that only change how it looks."""
        found: list[Initializer] = []
        for name, _ in self._traced(value, SAME_VALUES):
            if name in self._constants and self._constants[name] not in found:
                found.append(self._constants[name])
        return tuple(found)

    def _traced(self, value: str, through: frozenset[str]) -> Iterator[tuple[str, int]]:
        """`value` and what it is made of, nearest first, and how often that was transposed."""
        pending, seen = [(value, 0)], {value}
        while pending and len(seen) <= _MAX_TRACED:
            name, flips = pending.pop(0)
            yield name, flips
            node = self._made_by.get(name)
            if node is None or node.op not in through:
                continue
            flips += node.op == "Transpose"
            # What stands for an `If` has an input for each branch.
            for source in node.inputs[: _MAX_TRACED if node.op == "Identity" else 1]:
                if source and source not in seen:
                    seen.add(source)
                    pending.append((source, flips))

    def _embedding(self) -> Initializer | None:
        """The table that the token ids choose rows of."""
        if self._token_input is None:
            return None
        for node in self._graph.nodes:
            slot = slots(node)
            if node.op in TABLE_OPS:
                table, ids = slot(0), slot(1)
            elif node.op == "EmbedLayerNormalization":
                table, ids = slot(2), slot(0)
            else:
                continue
            if any(name == self._token_input for name, _ in self._traced(ids, SAME_VALUES)):
                found = [tensor for tensor in self._sources(table) if len(tensor.dims) >= 2]
                if found:
                    return found[0]
        return None

    def _output(self) -> Initializer | None:
        """The matrix of the last product before the logits."""
        names = [value.name for value in self._graph.outputs]
        if not names:
            return None
        start = "logits" if "logits" in names else names[0]
        pending, seen = [start], {start}
        while pending and len(seen) <= _MAX_TRACED:
            node = self._made_by.get(pending.pop(0))
            if node is None:
                continue
            if node.op in PRODUCTS:
                found = self._sources(slots(node)(PRODUCTS[node.op]))
                return found[0] if found else None
            if node.op in BEFORE_LOGITS:
                for source in node.inputs:
                    if source not in self._constants and source not in seen:
                        seen.add(source)
                        pending.append(source)
        return None

    def _name_tables(self, embedding: Initializer | None) -> None:
        """Names what is looked up by position: tables of angles, and a trained one."""
        width = None if embedding is None else self._dims(embedding)[0]
        for node in self._graph.nodes:
            if node.op in ANGLES:
                for at in ANGLES[node.op]:
                    for table in self._sources(slots(node)(at)):
                        self._name_once(table, ROPE_CACHE + table.name)
            elif node.op in TABLE_OPS:
                for table in self._sources(slots(node)(0)):
                    if len(table.dims) != 2 or table.type.kind != "float":
                        continue
                    wide = self._dims(table)[0] == width
                    self._name_once(table, POSITIONS if wide else ROPE_CACHE + table.name)

    def _name_once(self, tensor: Initializer, name: str) -> None:
        free = name != POSITIONS or POSITIONS not in self._names.values()
        if tensor.name not in self._names and len(tensor.dims) == 2 and free:
            self._names[tensor.name] = name

    def _name_experts(self) -> None:
        for node in self._graph.nodes:
            for at in EXPERTS.get(node.op, ()):
                for tensor in self._sources(slots(node)(at)):
                    self._names.setdefault(tensor.name, f"{tensor.name}_exps.weight")

    def _tensors(self) -> Iterator[TensorInfo]:
        seen: set[tuple[object, ...]] = set()
        for tensor in self._graph.initializers:
            if not self._is_weight(tensor) or self._place(tensor) in seen:
                continue
            seen.add(self._place(tensor))
            kind, size = self._stored(tensor)
            yield TensorInfo(
                name=self._names.get(tensor.name, tensor.name),
                dims=self._dims(tensor),
                type=kind,
                offset_bytes=tensor.offset_bytes or 0,
                size_bytes=size,
                part=tensor.part,
            )

    def _is_weight(self, tensor: Initializer) -> bool:
        if tensor.name in self._companions or tensor.elements < 2:
            return False
        if tensor.type.kind == "float" or tensor.name in self._quantized:
            return True
        return tensor.type.kind == "int" and tensor.type.bits <= 8 and len(tensor.dims) > 1

    def _place(self, tensor: Initializer) -> tuple[object, ...]:
        """What tells tensors apart: where their bytes are, for two may have the same."""
        if tensor.offset_bytes is None:
            return (tensor.name,)
        return (tensor.part, tensor.offset_bytes, tensor.size_bytes)

    def _stored(self, tensor: Initializer) -> tuple[GGMLType, int]:
        found = self._quantized.get(tensor.name)
        if found is None:
            return plain_type(tensor.type), tensor.size_bytes
        companions = [self._constants[n] for n in (found.scales, found.offsets) if n]
        size = tensor.size_bytes + sum(companion.size_bytes for companion in companions)
        if not found.block:
            return plain_type(tensor.type), size
        kind = block_type(
            found.name or f"INT{found.bits}",
            bits=found.bits,
            block_elements=found.block,
            scale_bits=self._constants[found.scales].type.bits if found.scales else 0,
            offset_bits=found.bits if found.offsets else 0,
        )
        return kind, size

    def _dims(self, tensor: Initializer) -> tuple[int, ...]:
        """The row length first, in elements also where several share a byte."""
        found = self._quantized.get(tensor.name)
        if found is not None and found.dims:
            return found.dims
        dims = tensor.dims or (1,)
        if tensor.name in self._upright and len(dims) == 2:
            dims = dims[::-1]
        last = dims[-1]
        if found is not None and found.bits < tensor.type.bits:
            last *= tensor.type.bits // found.bits
        return (last, *reversed(dims[:-1]))


def _producers(nodes: Iterable[Node]) -> dict[str, Node]:
    """What makes each value; of an `If`, whichever of its branches does."""
    found: dict[str, Node] = {}
    for node in nodes:
        for index, name in enumerate(node.outputs):
            maker = node
            if node.branches:
                made = tuple(names[index] for names in node.branches if index < len(names))
                maker = Node(op="Identity", domain="", inputs=made, outputs=(name,), ints={})
            # Branches, listed before the `If`, may call what they make as it does.
            if name:
                found.setdefault(name, maker)
    return found


def _level(tensors: Iterable[TensorInfo]) -> str:
    """The type most weights of the layers have, by the name of the level that makes such files."""
    listed = list(tensors)
    layers = [t for t in listed if len(t.dims) > 1 and not _looked_up_or_output(t.name)]
    chosen = layers or [t for t in listed if not t.name.startswith(ROPE_CACHE)]
    counts: Counter[str] = Counter()
    for tensor in chosen:
        counts[tensor.type.name] += tensor.elements
    if not counts:
        return "none"
    main = counts.most_common(1)[0][0]
    if main == "INT4" and _half_precision(listed):
        return "q4f16"
    return _LEVEL_NAMES.get(main, main.lower())


_LEVEL_NAMES: Mapping[str, str] = {"UINT8": "int8", "UINT4": "int4", "BFLOAT16": "bf16"}


def _looked_up_or_output(name: str) -> bool:
    return name in (EMBEDDING, OUTPUT, POSITIONS) or name.startswith(ROPE_CACHE)


def _half_precision(tensors: Iterable[TensorInfo]) -> bool:
    """Whether what is not quantized, norms above all, is stored in half precision."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.type.name in ("FP16", "FP32", "BFLOAT16") and not is_expert_stack(tensor.name):
            sizes[tensor.type.name] += 1
    return sizes["FP16"] > sizes["FP32"]
