"""Writes a model folder: graph, data file in slabs, and the small files beside them.

Memory does not grow with the model: slabs are made ahead on threads, a few at a time, and each goes
straight to its place in the data file. Knows files and offsets; knows no operator.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge_runtime.errors import ArtifactError

from ..onnx.weights import Buffers, StoredWeights
from .folder import unreliable, whole_folder
from .onnx import Initializer, Model, Node, Value, model_bytes

MODEL_NAME = "model.onnx"
DATA_NAME = "model.onnx.data"
_PAGE_BYTES = 4096
"""Large tensors begin at multiples of this, so that they can be mapped into memory."""
_SMALL_ALIGNMENT = 64

Progress = Callable[[float], None]
Check = Callable[[Path], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A model whose weights are still to be made."""

    name: str
    nodes: Sequence[Node]
    constants: Sequence[Initializer]
    weights: Sequence[StoredWeights]
    inputs: Sequence[Value]
    outputs: Sequence[Value]
    metadata: Mapping[str, str]
    version: str


def write_folder(
    out: Path,
    plan: Plan,
    files: Mapping[str, bytes],
    *,
    threads: int = 1,
    overwrite: bool = False,
    check: Check | None = None,
    verify: Check | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes the folder `out`, whole or not at all; `files` are put beside the model as they are.

    `check` and then `verify` are told the folder before it gets its name; an ArtifactError of the
    first is taken for one of the disk, what the second raises is passed on. Raises DiskError when
    it cannot be written, UsageError for what is there already, whatever the slabs raise, and
    ValueError for slabs that do not fill their tensors.
    """
    placed, size = placed_tensors(plan.weights)
    needed = size + sum(len(data) for data in files.values()) + 4 * 1024**2
    with whole_folder(out, needed, holds=MODEL_NAME, overwrite=overwrite) as folder:
        write_data(folder / DATA_NAME, plan.weights, threads=threads, progress=progress)
        model = Model(
            name=plan.name,
            nodes=plan.nodes,
            initializers=(*plan.constants, *placed),
            inputs=plan.inputs,
            outputs=plan.outputs,
            metadata=plan.metadata,
            producer_version=plan.version,
        )
        (folder / MODEL_NAME).write_bytes(model_bytes(model, DATA_NAME))
        for name, data in files.items():
            (folder / name).write_bytes(data)
        if check is not None:
            try:
                check(folder)
            except ArtifactError as error:
                raise unreliable(out, f"{error.fact} {error.cause}".strip()) from error
        if progress is not None:
            progress(1.0)
        if verify is not None:
            verify(folder)


def write_data(
    path: Path,
    weights: Sequence[StoredWeights],
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[Initializer]:
    """Writes a data file, and gives the tensors with their places in it.

    Raises OSError, whatever the slabs raise, and ValueError for slabs that do not fill their
    tensors.
    """
    placed, size = placed_tensors(weights)
    with path.open("wb", buffering=0) as file:
        file.truncate(size)
        _write_data(file, weights, {t.name: t for t in placed}, size, threads, progress)
    return placed


def placed_tensors(weights: Sequence[StoredWeights]) -> tuple[list[Initializer], int]:
    """The tensors with their places in the data file, and the file's size.

    Raises ValueError for a name that is there twice.
    """
    placed: dict[str, Initializer] = {}
    size = 0
    for tensor in (tensor for group in weights for tensor in group.tensors):
        if tensor.name in placed:
            raise ValueError(f"the tensor {tensor.name} is there twice")
        made = Initializer(name=tensor.name, element=tensor.element, dims=tensor.dims)
        if tensor.alias_of is not None:
            offset = placed[tensor.alias_of].offset_bytes
        else:
            alignment = _PAGE_BYTES if made.size_bytes >= _PAGE_BYTES else _SMALL_ALIGNMENT
            offset = -(-size // alignment) * alignment
            size = offset + made.size_bytes
        placed[tensor.name] = Initializer(
            name=tensor.name, element=tensor.element, dims=tensor.dims, offset_bytes=offset
        )
    return list(placed.values()), size


def _write_data(
    file: BinaryIO,
    weights: Sequence[StoredWeights],
    placed: Mapping[str, Initializer],
    size: int,
    threads: int,
    progress: Progress | None,
) -> None:
    at: dict[str, int] = {}
    done, told = 0, 0.0
    for group, buffers in in_order(weights, threads):
        own = [tensor for tensor in group.tensors if tensor.alias_of is None]
        for tensor, buffer in zip(own, buffers, strict=True):
            start = at.get(tensor.name, 0)
            file.seek((placed[tensor.name].offset_bytes or 0) + start)
            view = buffer.reshape(-1).view(np.uint8).data
            at[tensor.name] = start + view.nbytes
            done += view.nbytes
            while view:  # a raw write may take only part of the bytes, near a full disk
                view = view[file.write(view) :]
        if progress is not None and size and done / size - told >= 0.01:
            told = done / size
            progress(told)
    for tensor in (t for group in weights for t in group.tensors if t.alias_of is None):
        wanted, found = placed[tensor.name].size_bytes, at.get(tensor.name, 0)
        if wanted != found:
            raise ValueError(f"{tensor.name}: {found} bytes came, not {wanted}")
    os.fsync(file.fileno())


def in_order(
    weights: Sequence[StoredWeights], threads: int
) -> Iterator[tuple[StoredWeights, Buffers]]:
    """Makes slabs on threads, a few ahead of the one that is taken."""
    ahead = 2 * threads
    waiting: deque[tuple[StoredWeights, Future[Buffers]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for group in weights:
                for slab in group.slabs():
                    waiting.append((group, pool.submit(slab)))
                    if len(waiting) > ahead:
                        first, future = waiting.popleft()
                        yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
