"""A finished ONNX model's products become MatMulNBits, in slabs: memory stays small.

Nothing is loaded whole: weights go from their place in the source, through rounding, to their place
in the new data file; everything else is copied as it is. Knows how a product is rewritten; which
products can be is said by `products`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.artifact.onnx.graph import OnnxGraph
from edge_runtime.errors import FormatError

from ..assembly import SLAB_ELEMENTS
from ..conversion import THREADS
from ..writers.onnx import Element, Node
from ..writers.onnx_folder import DATA_NAME, MODEL_NAME, Progress, write_data
from ..writers.onnx_rewriting import FUSED_DOMAIN, Changes, rewritten
from .algorithms import OnnxQuantizeOptions
from .blocks import BlockFormat
from .outline import Operator
from .products import Matrix, mixed_bits
from .weights import Buffers, StoredTensor, StoredWeights, as_element, slabs_of

_MOVED_BYTES = 1024
"""Tensors from here on go from the graph's file to the data file."""
_COPY_BYTES = 4 * 1024**2
_LEAST_COLUMNS = 512
"""Columns read together: fewer would cost a system call for a handful of bytes."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """A matrix in a file, outputs as rows, read some rows at a time however it is stored."""

    name: str
    path: Path
    offset_bytes: int
    kind: npt.DTypeLike
    rows: int
    columns: int
    upright: bool

    def floats(self, rows: range) -> Floats:
        """Some rows. Raises FormatError for values that are no finite numbers."""
        size = np.dtype(self.kind).itemsize
        with self.path.open("rb", buffering=0) as file:
            if self.upright or len(rows) == self.rows:
                first = rows.start if self.upright else 0
                data = self._read(
                    file, first * self.columns * size, len(rows) * self.columns * size
                )
            else:
                data = b"".join(
                    self._read(file, (at * self.rows + rows.start) * size, len(rows) * size)
                    for at in range(self.columns)
                )
        dims = (len(rows), self.columns) if self.upright else (self.columns, len(rows))
        values = np.frombuffer(data, self.kind).reshape(dims)
        found = np.ascontiguousarray(values if self.upright else values.T, np.float32)
        if not np.isfinite([found.min(initial=0.0), found.max(initial=0.0)]).all():
            raise FormatError(
                f"The tensor {self.name} holds values that are no finite numbers.",
                cause="The model is damaged, or so was what it was made from.",
                way_out="Download or convert it again.",
            )
        return found

    def _read(self, file: FileIO, start: int, count: int) -> bytes:
        file.seek(self.offset_bytes + start)
        data = file.read(count)
        if len(data) != count:
            raise FormatError(f"{self.path.name} became shorter while being read.")
        return data

    def blocks(self, kind: BlockFormat, rows: range) -> Buffers:
        """Some rows as blocks. Raises as `floats` does."""
        return kind.quantize(self.floats(rows))


def write_blocks(
    graph: OnnxGraph,
    operators: Sequence[Operator],
    matrices: Sequence[Matrix],
    folder: Path,
    *,
    bits: int,
    options: OnnxQuantizeOptions,
    metadata: dict[str, str],
    progress: Progress | None = None,
) -> None:
    """Writes the model into a folder with some matrices as blocks of integers.

    Raises FormatError for damaged weights and OSError for a disk that does not take them.
    """
    mixed = options.algorithm == "k_quant_mixed"
    chosen = mixed_bits(matrices, (v.name for v in graph.outputs)) if mixed else {}
    free = _names_free(graph)
    groups: dict[tuple[str, bool], _Group] = {}
    instead: dict[int, tuple[Node, ...]] = {}
    for matrix in matrices:
        if matrix.key not in groups:
            kind = BlockFormat(
                bits=chosen.get(matrix.operator.start, bits),
                block_size=options.block_size,
                symmetric=options.symmetric is not False,
                algorithm="rtn" if options.algorithm == "rtn" else "k_quant",
            )
            groups[matrix.key] = _group(graph, matrix, kind, free)
        instead[matrix.operator.start] = _product(
            matrix, groups[matrix.key], options.accuracy_level, free
        )
    unread, turns = _unread(graph, operators, matrices)
    instead |= dict.fromkeys(turns, ())
    copies = tuple(_copies(graph, unread))
    weights = [group.weights for group in groups.values()] + [copy for copy, _ in copies]
    placed = write_data(folder / DATA_NAME, weights, threads=THREADS, progress=progress)
    offsets = {tensor.name: tensor.offset_bytes or 0 for tensor in placed}
    own = {t.name for group in groups.values() for t in group.weights.tensors}
    changes = Changes(
        operators=instead,
        dropped=unread,
        moved={place: offsets[copy.tensors[0].name] for copy, place in copies},
        added=[tensor for tensor in placed if tensor.name in own],
        metadata=metadata,
    )
    (folder / MODEL_NAME).write_bytes(rewritten(graph.path, changes, DATA_NAME))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """The blocks of one matrix, and how they are made."""

    kind: BlockFormat
    weights: StoredWeights


def _group(
    graph: OnnxGraph, matrix: Matrix, kind: BlockFormat, free: Callable[[str], str]
) -> _Group:
    weight = matrix.weight
    element = Element.FLOAT16 if weight.type.name == "FP16" else Element.FLOAT
    source = _Columns(
        name=weight.name,
        path=graph.paths[weight.part],
        offset_bytes=weight.offset_bytes or 0,
        kind="<f2" if element is Element.FLOAT16 else "<f4",
        rows=matrix.rows,
        columns=matrix.columns,
        upright=matrix.upright,
    )
    name = free(f"{weight.name}_Q{kind.bits}")
    rows, blocks = matrix.rows, kind.count(matrix.columns)
    tensors = [
        StoredTensor(name=name, element=Element.UINT8, dims=kind.data_dims(rows, matrix.columns)),
        StoredTensor(name=free(f"{name}_scales"), element=element, dims=(rows, blocks)),
    ]
    if not kind.symmetric:
        dims = (rows, kind.zero_bytes(matrix.columns))
        tensors.append(StoredTensor(name=free(f"{name}_zeros"), element=Element.UINT8, dims=dims))
    weights = StoredWeights(
        tensors=tuple(tensors),
        slabs=lambda: (
            functools.partial(_slab, source, kind, element, part) for part in _slabs(source)
        ),
    )
    return _Group(kind=kind, weights=weights)


def _slabs(source: _Columns) -> Iterator[range]:
    """A matrix's outputs in pieces; where they are columns, enough of them to read at a time."""
    if source.upright:
        return slabs_of(source)
    step = max(_LEAST_COLUMNS, SLAB_ELEMENTS // max(source.columns, 1))
    return (range(at, min(at + step, source.rows)) for at in range(0, source.rows, step))


def _slab(source: _Columns, kind: BlockFormat, element: Element, rows: range) -> Buffers:
    data, scales, *zeros = source.blocks(kind, rows)
    return (data, as_element(source.name, scales, element), *zeros)


def _product(
    matrix: Matrix, group: _Group, accuracy_level: int, free: Callable[[str], str]
) -> tuple[Node, ...]:
    """MatMulNBits in the place of a product, and what adds its bias."""
    operator = matrix.operator
    y = operator.outputs[0]
    product = free(f"{y}_product") if matrix.bias else y
    ints = {
        "K": matrix.columns,
        "N": matrix.rows,
        "bits": group.kind.bits,
        "block_size": group.kind.block_size,
    }
    if accuracy_level:  # not every provider knows the attribute
        ints["accuracy_level"] = accuracy_level
    nodes = [
        Node(
            op="MatMulNBits",
            inputs=(operator.inputs[0], *(tensor.name for tensor in group.weights.tensors)),
            outputs=(product,),
            domain=FUSED_DOMAIN,
            attributes=tuple(ints.items()),
            name=operator.name,
        )
    ]
    if matrix.bias:
        nodes.append(Node(op="Add", inputs=(product, matrix.bias), outputs=(y,)))
    return tuple(nodes)


def _unread(
    graph: OnnxGraph, operators: Sequence[Operator], matrices: Sequence[Matrix]
) -> tuple[frozenset[str], tuple[int, ...]]:
    """Constants that nobody reads once the products are rewritten, and Transposes likewise."""
    readers = Counter(name for operator in operators for name in operator.inputs)
    readers.update(value.name for value in graph.outputs)
    readers.update(name for node in graph.nodes for names in node.branches for name in names)
    turned: dict[int, Operator] = {}
    for matrix in matrices:
        readers[matrix.operator.inputs[1]] -= 1
        if matrix.turned is not None:
            turned[matrix.turned.start] = matrix.turned
    gone = [operator for operator in turned.values() if not readers[operator.outputs[0]]]
    for operator in gone:
        readers[operator.inputs[0]] -= 1
    weights = {matrix.weight.name for matrix in matrices}
    return (
        frozenset(name for name in weights if not readers[name]),
        tuple(operator.start for operator in gone),
    )


def _copies(
    graph: OnnxGraph, unread: frozenset[str]
) -> Iterator[tuple[StoredWeights, tuple[str, int]]]:
    """Tensors that go to the new data file as they are, and where their bytes were."""
    sizes: dict[tuple[int, int], int] = {}
    for tensor in graph.initializers:
        at = tensor.offset_bytes
        if at is None or tensor.name in unread or not tensor.size_bytes:
            continue
        if tensor.part or tensor.size_bytes >= _MOVED_BYTES:
            # Several tensors may begin at one place; the longest has the bytes of all.
            sizes[tensor.part, at] = max(sizes.get((tensor.part, at), 0), tensor.size_bytes)
    for (part, at), size in sizes.items():
        path = graph.paths[part]
        stored = StoredTensor(name=f"{part}:{at}", element=Element.UINT8, dims=(size,))
        yield StoredWeights(tensors=(stored,), slabs=_chunks(path, at, size)), (str(path), at)


def _chunks(path: Path, start: int, size: int) -> Callable[[], Iterable[Callable[[], Buffers]]]:
    def read(at: int) -> Buffers:
        count = min(_COPY_BYTES, size - at)
        with path.open("rb", buffering=0) as file:
            file.seek(start + at)
            data = file.read(count)
        if len(data) != count:
            raise FormatError(f"{path.name} became shorter while being read.")
        return (np.frombuffer(data, np.uint8),)

    return lambda: (functools.partial(read, at) for at in range(0, size, _COPY_BYTES))


def _names_free(graph: OnnxGraph) -> Callable[[str], str]:
    """Gives a name nobody has yet, as near to the wanted one as can be."""
    taken = {tensor.name for tensor in graph.initializers}
    taken.update(value.name for value in graph.inputs)
    taken.update(name for node in graph.nodes for name in node.outputs)

    def free(wanted: str) -> str:
        name, number = wanted, 1
        while name in taken:
            number += 1
            name = f"{wanted}_{number}"
        taken.add(name)
        return name

    return free
