"""Making and measuring the cells of a check: the scratch folder, the time budget, the disk limit.

A cell is one artifact under one workload. Synthetic artifacts are made here, measured in a child
process and removed again, whatever happens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ..errors import DiskError, EdgeError
from ..measurement import Limits, SessionOptions, Workload
from ..units import GIB, format_bytes
from .engines import format_of_level, level_of, options_for

if TYPE_CHECKING:
    from ..artifact import Artifact, ModelShape
    from ..measurement import Measurement
    from ..profiler import Plan

DISK_LIMIT_BYTES = 2 * GIB
"""A check never has more than this on the disk at once."""

DISK_RESERVE_BYTES = 256 * 1024**2
"""What a check leaves free for everything else."""

_SCRATCH_PREFIX = "scratch-"


@dataclass(kw_only=True, slots=True)
class Bench:
    """Where cells are made and measured. Holds the scratch folder and what was used of it.

    `say` is told, in words, what is being done. Not for timed work: it is called between cells.
    """

    scratch: Path
    options: SessionOptions
    say: Callable[[str], None]
    backend: str | None = None
    """The engine asked for by name; None for the one of each model's format."""
    limits: Limits | None = None
    """The smaller device to emulate."""
    started_s: float = field(default_factory=time.monotonic)
    peak_disk_bytes: int = 0
    measurements: list[Measurement] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def elapsed_s(self) -> float:
        """Seconds since the bench was opened."""
        return time.monotonic() - self.started_s

    @contextlib.contextmanager
    def synthetic(
        self, shape: ModelShape, level: str, *, layers: int | None = None
    ) -> Iterator[Artifact]:
        """A synthetic artifact for as long as the block runs; removed after it.

        Raises DiskError when it is larger than the limit or than the disk can give.
        """
        from quantize import synthesize, synthetic_bytes

        size = synthetic_bytes(shape, level, layers=layers)
        free = shutil.disk_usage(self.scratch).free
        if size > DISK_LIMIT_BYTES or size + DISK_RESERVE_BYTES > free:
            raise DiskError(
                f"A synthetic {shape.name} at {level} takes {format_bytes(size)} of disk.",
                cause=f"{format_bytes(free)} are free in {self.scratch}, "
                f"and a check stays below {format_bytes(DISK_LIMIT_BYTES)}.",
                way_out="Free some space, or set EDGE_CACHE_DIR to a folder on a larger disk.",
            )
        # A folder of its own: an ONNX model is called what its folder is.
        folder = self.scratch / f"{level.replace(':', '-')}-{layers or shape.layers}"
        suffix = ".gguf" if format_of_level(level) == "gguf" else ""
        path = folder / f"{shape.name}{suffix}"
        try:
            folder.mkdir()
            self.say(f"making {shape.name} {level}")
            artifact = synthesize(shape, level, path, layers=layers)
            self.peak_disk_bytes = max(self.peak_disk_bytes, size)
            yield artifact
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def measure(
        self, artifact: Artifact, workload: Workload, plan: Plan, *, context_tokens: int
    ) -> Measurement:
        """Measures one cell in its own child process and keeps the record.

        The context is opened at `context_tokens`, or larger when the workload needs it, so that the
        engine's buffers are those of the asked context. Raises what `measure` raises, and
        UsageError when the engine asked for does not run the artifact.
        """
        from ..profiler import measure

        self.say(f"measuring {artifact.shape.name} {level_of(artifact)}, {workload.name}")
        options = dataclasses.replace(
            options_for(artifact.format, self.options, self.backend),
            context_tokens=max(context_tokens, workload.total_tokens),
        )
        measurement = measure(artifact, workload, options, plan=plan, limits=self.limits)
        self.measurements.append(measurement)
        return measurement

    def try_cell(self, what: str, cell: Callable[[], None]) -> None:
        """Runs a cell whose failure leaves a line behind instead of ending the check."""
        try:
            cell()
        except EdgeError as error:
            self.failures.append(f"{what}: {error}")


@contextlib.contextmanager
def open_bench(
    options: SessionOptions,
    say: Callable[[str], None],
    backend: str | None = None,
    limits: Limits | None = None,
) -> Iterator[Bench]:
    """A bench with a scratch folder of its own, removed on leaving, also when terminated."""
    from ..sources import cache_directory

    root = cache_directory() / "scratch"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH_PREFIX}{os.getpid()}-", dir=root))
    except OSError as error:
        raise DiskError(
            f"The scratch folder {root} cannot be used.",
            cause=f"{error.strerror or error}.",
            way_out="Set EDGE_CACHE_DIR to a folder that can be written.",
        ) from error
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield Bench(scratch=scratch, options=options, say=say, backend=backend, limits=limits)
    finally:
        signal.signal(signal.SIGTERM, previous)
        shutil.rmtree(scratch, ignore_errors=True)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    # SIGTERM would end the process without running `finally`: gigabytes would stay behind.
    raise SystemExit(143)


def _remove_abandoned(root: Path) -> None:
    """Removes the scratch folders of checks that were killed and could not clean up."""
    from ..profiler.host import is_running

    for folder in root.glob(f"{_SCRATCH_PREFIX}*"):
        pid = folder.name.removeprefix(_SCRATCH_PREFIX).split("-")[0]
        if pid.isdigit() and not is_running(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
