"""A written ONNX folder put to the test: every byte of its weights, and one token computed.

The weights are made once more and compared with what the graph, read back, finds in its files: a
wrong place, a wrong size and a disk that lies all show. Then ONNX Runtime loads the model in a
process of its own. What a model says is not judged, only that it says something finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.artifact.onnx.graph import Initializer, OnnxGraph, read_graph
from edge_runtime.errors import DiskError

from ..writers.onnx_folder import MODEL_NAME, in_order
from .trial import run_once
from .weights import StoredWeights

Progress = Callable[[float], None]


def verify(
    folder: Path,
    weights: Sequence[StoredWeights],
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> None:
    """Compares all of a folder's weights with `weights`, made again, and computes one token.

    Raises DiskError for bytes that are not those that were written, and what `run_once` raises.
    """
    compare(read_graph(folder / MODEL_NAME), weights, threads=threads, progress=progress)
    run_once(folder / MODEL_NAME)
    if progress is not None:
        progress(1.0)


def compare(
    graph: OnnxGraph,
    weights: Sequence[StoredWeights],
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> None:
    """Makes weights again, in slabs, and compares each with its bytes in the graph's files.

    Raises DiskError naming the first tensor that differs.
    """
    found = {tensor.name: tensor for tensor in graph.initializers}
    files = [path.open("rb", buffering=0) for path in graph.paths]
    total = sum(tensor.size_bytes for tensor in graph.initializers)
    at: dict[str, int] = {}
    done = 0
    try:
        for group, buffers in in_order(weights, threads):
            own = [tensor for tensor in group.tensors if tensor.alias_of is None]
            for tensor, buffer in zip(own, buffers, strict=True):
                place = _place(found, tensor.name)
                wanted = buffer.reshape(-1).view(np.uint8)
                start = at.get(tensor.name, 0)
                file = files[place.part]
                file.seek((place.offset_bytes or 0) + start)
                if not np.array_equal(_read(file, wanted.size), wanted):
                    raise _differs(tensor.name)
                at[tensor.name] = start + wanted.size
                done += wanted.size
            if progress is not None:
                progress(min(done / max(total, 1), 1.0))
    except OSError as error:
        raise DiskError(
            f"{graph.path.parent.name} cannot be read back.", cause=f"{error.strerror or error}."
        ) from error
    finally:
        for file in files:
            file.close()
    for tensor in (tensor for group in weights for tensor in group.tensors):
        place = _place(found, tensor.name)
        whole = _place(found, tensor.alias_of or tensor.name)
        if place.offset_bytes != whole.offset_bytes or at.get(whole.name, 0) != place.size_bytes:
            raise _differs(tensor.name)


def _place(found: dict[str, Initializer], name: str) -> Initializer:
    if name not in found:
        raise _differs(name)
    return found[name]


def _read(file: FileIO, size: int) -> npt.NDArray[np.uint8]:
    """Some bytes from where a file stands; fewer where it ends."""
    data = np.empty(size, np.uint8)
    view, at = data.data, 0
    while at < size and (more := file.readinto(view[at:])):
        at += more
    return data[:at]


def _differs(name: str) -> DiskError:
    return DiskError(
        f"{name} reads back otherwise than it was written.",
        cause="Its weights were made again, and the bytes in the folder are others.",
        way_out="Check the disk, or choose a directory on another.",
    )
