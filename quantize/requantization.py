"""A GGUF artifact becomes a smaller one, by llama.cpp's own quantizer.

What a request would lose or lack is refused by the quantizer's own plan, before it writes; what it
wrote is compared with that plan before it gets its name. Which tensor gets which type is the
quantizer's decision.
"""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge_runtime.artifact import Artifact, Level
from edge_runtime.artifact.split import split_paths, split_prefix
from edge_runtime.errors import BackendError, FormatError, UnsupportedError, UsageError

from . import verification
from .options import QuantizeOptions
from .planning import QuantizePlan, Request, answer, columns, request
from .quantizer import Quantizer
from .writers.gguf import Progress
from .writers.whole_file import check_destination, whole_files

_PART_BYTES = 64 * 1024
"""More than the header of a further part takes: its tensors' names and places."""


def requantize(
    source: Path,
    out: Path,
    level: str,
    *,
    options: QuantizeOptions | None = None,
    keep_split: bool = False,
    overwrite: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Quantizes a GGUF file, or all parts of a split one, to a level and opens the result.

    The result is one file, or with `keep_split` as many parts as the source has, each with the same
    tensors: byte for byte what `llama-quantize` makes of the same request. A source that is
    quantized already loses quality twice and is taken only with leave in `options`.
    `verify` reads all values again and lets llama.cpp decode one token. `progress` is told the part
    of the work done, by bytes; what it raises stops the work at once.

    Nothing is left under the final name unless the file is whole. Raises UsageError for a file that
    is there unless `overwrite`, UnsupportedError for a level or a tensor that needs an importance
    matrix and has none, FormatError for weights or an importance matrix that are no numbers,
    DiskError, BackendError when the quantizer refuses, WorkerError when its process dies, and what
    `verification.verify` raises.
    """
    source, out = Path(source), Path(out)
    asked = request(source, level, options)
    if asked.level.needs_imatrix and asked.imatrix is None:
        raise needs_importance(asked.level)
    if out.exists() and any(out.samefile(path) for path in asked.artifact.paths):
        raise UsageError(f"{out} would overwrite its own source.", way_out="Name another file.")
    outs = split_paths(out, len(asked.artifact.paths) if keep_split else 1)
    for path in outs:
        check_destination(path, overwrite=overwrite)
    with Quantizer() as quantizer:
        plan = answer(asked, quantizer)
        _check_losses(asked, plan)
        _check_patterns(plan)
        _check_importance(asked, plan)
        needed_bytes = plan.total_bytes + (len(outs) - 1) * _PART_BYTES
        with whole_files(outs, needed_bytes, overwrite=overwrite) as temporaries:
            job = dataclasses.replace(
                asked.job(),
                out=split_prefix(temporaries[0]),
                keep_split=len(outs) > 1,
                remove=temporaries,
                output=out,
            )
            quantizer.run(job, _steps(plan, progress))
            _check_result(plan, temporaries)
            if verify:
                verification.verify(temporaries[0])
    if progress is not None:
        progress(1.0)
    return Artifact.open(outs[0])


def check_requantize(
    source: Path,
    outs: Mapping[str, Path],
    *,
    options: QuantizeOptions | None = None,
    overwrite: bool = False,
) -> None:
    """Raises what `requantize` would for levels and their files, but for a missing matrix.

    Measuring an importance matrix takes long: what will be refused afterwards is refused before.
    """
    asked = [request(Path(source), level, options) for level in outs]
    for out in outs.values():
        check_destination(Path(out), overwrite=overwrite)
    with Quantizer() as quantizer:
        for one in asked:
            plan = answer(one, quantizer)
            _check_losses(one, plan)
            _check_patterns(plan)


def needs_importance(recipe: Level) -> UnsupportedError:
    """The refusal of a level whose quality depends on an importance matrix."""
    return UnsupportedError(
        f"{recipe.name} needs an importance matrix.",
        cause="At so few bits llama.cpp's quantizer must know which weights matter.",
        way_out="Give one (--imatrix FILE; edge quantize --calibrate TEXT measures one), or choose"
        " a level without: Q2_K, IQ3_S or larger.",
    )


def _check_losses(asked: Request, plan: QuantizePlan) -> None:
    if asked.options.allow_requantize or not plan.loses_twice:
        return
    again = next(tensor for tensor in plan.tensors if tensor.loses_twice)
    raise UsageError(
        f"{plan.source} is quantized already ({asked.artifact.level}).",
        cause=f"Quantizing it again loses quality twice: {again.name} would go from"
        f" {again.source.name} to {again.type.name}.",
        way_out="Start from an F16, BF16 or F32 file, or allow it: --allow-requantize",
    )


def _check_patterns(plan: QuantizePlan) -> None:
    """Refuses a pattern that would do nothing: it is a slip, and the quantizer overlooks it."""
    if plan.unused_patterns:
        raise UsageError(
            f"No tensor of {plan.source.name} has {plan.unused_patterns[0]!r} in its name.",
            way_out=f"See the names with: edge inspect --tensors {shlex.quote(str(plan.source))}",
        )


def _check_importance(asked: Request, plan: QuantizePlan) -> None:
    """Refuses a matrix that is not of this model's shape, and one that lacks a tensor it needs."""
    entries = {} if asked.imatrix is None else {e.name: e for e in asked.imatrix.entries}
    for tensor in plan.tensors:
        entry = entries.get(tensor.name)
        if entry is None or tensor.type is tensor.source or "token_embd" in tensor.name:
            continue  # the quantizer, too, overlooks a wrong entry for the embedding
        if entry.sums.size != columns(tensor):
            raise FormatError(
                f"{asked.options.imatrix} is not of this model.",
                cause=f"Its entry for {tensor.name} has {entry.sums.size} values; the tensor takes"
                f" {columns(tensor)}.",
                way_out="Give the importance matrix that was made with this model.",
            )
    if plan.unmeasured:
        tensors = {tensor.name: tensor for tensor in plan.tensors}
        first = tensors[plan.unmeasured[0]]
        others = len(plan.unmeasured) - 1
        raise UnsupportedError(
            f"The tensor {first.name} cannot be made {first.type.name} without importance values.",
            cause=(
                "There is no importance matrix" if asked.imatrix is None else "The matrix lacks it"
            )
            + (f", and the same holds for {others} more." if others else "."),
            way_out="Give an importance matrix that holds it (--imatrix FILE, or measure one:"
            " --calibrate TEXT), or a larger type.",
        )


def _steps(plan: QuantizePlan, progress: Progress | None) -> Callable[[int], None] | None:
    """Turns the number of the tensor that is begun into the part of all bytes that is done."""
    if progress is None:
        return None
    told = progress
    before = tuple(itertools.accumulate((t.source_bytes for t in plan.tensors), initial=0))

    def tell(number: int) -> None:
        if 1 <= number < len(before):
            told(before[number - 1] / before[-1])

    return tell


def _check_result(plan: QuantizePlan, written: Sequence[Path]) -> None:
    """Reads what was written back from the disk. Raises BackendError unless it is as planned."""
    artifact = Artifact.open(written[0])
    made = {t.name: (t.dims, t.type) for t in artifact.tensors}
    wanted = {t.name: (t.dims, t.type) for t in plan.tensors}
    size = artifact.size_bytes
    if made != wanted or (len(written) == 1 and size != plan.total_bytes):
        odd = next((name for name in wanted if made.get(name) != wanted[name]), "its size")
        raise BackendError(
            "The quantizer wrote another file than it planned.",
            cause=f"The first difference is {odd}; {plan.total_bytes} bytes were planned,"
            f" {size} written.",
            way_out="Please report it with the name of the model and the level.",
        )
