"""The work behind `edge quantize`: level after level, each with its own outcome.

A level that fails does not stop the others. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..artifact import LEVELS
from ..codec import to_jsonable
from ..errors import EdgeError
from ..report.plain import safe_json
from ..report.written import (
    ListedLevel,
    NotWritten,
    Planned,
    Written,
    document,
    render_levels,
    render_outcomes,
    render_plans,
)
from .jobs import interruptible, job, say
from .pages import show

if TYPE_CHECKING:
    from quantize import QuantizeOptions, QuantizePlan

_PART = re.compile(r"-\d{5}-of-\d{5}$")
_SLOW = 20
"""Cost of a level, in units of Q4_0's, from which on somebody would wonder what takes so long."""


def stem_of(name: str) -> str:
    """A file's name without `.gguf`, the number of a part, and the level it ends in."""
    stem = _PART.sub("", re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE))
    for level in sorted(LEVELS, key=len, reverse=True):
        if stem.upper().endswith(level) and stem[-len(level) - 1 : -len(level)] in ("-", ".", "_"):
            return stem[: -len(level) - 1] or stem
    return stem


def write_levels(
    source: Path,
    targets: Mapping[str, Path],
    options: QuantizeOptions,
    *,
    keep_split: bool,
    overwrite: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Makes a file for each level and shows what came of it.

    One level that fails raises its own error; of several, the table says which failed and the exit
    code is 4. Ctrl-C keeps the levels that are finished.
    """
    from quantize import requantize

    source_bytes = _look_at(source, options)
    warn_of_slow_levels(targets, options.imatrix)
    outcomes: list[Written | NotWritten] = []

    def write(level: str, target: Path) -> Written:
        started_s = time.monotonic()
        with job(target.name, source_bytes) as progress:
            artifact = requantize(
                source,
                target,
                level,
                options=options,
                keep_split=keep_split,
                overwrite=overwrite,
                verify=verify,
                progress=progress,
            )
        return Written.of(artifact, time.monotonic() - started_s, verified=verify, level=level)

    with interruptible("Finished levels are kept, nothing else was left behind."):
        for level, target in targets.items():
            try:
                outcomes.append(write(level, target))
            except EdgeError as error:
                if len(targets) == 1:
                    raise
                say(str(error))
                outcomes.append(NotWritten.of(error, level=level, path=str(target)))
    if as_json:
        typer.echo(safe_json(document(outcomes, source=str(source), source_bytes=source_bytes)))
    else:
        show(render_outcomes(outcomes, source_bytes))
    if any(isinstance(outcome, NotWritten) for outcome in outcomes):
        raise typer.Exit(EdgeError.exit_code)


def show_plans(
    source: Path, levels: Sequence[str], options: QuantizeOptions, *, as_json: bool
) -> None:
    """Shows what each level would weigh. One level that cannot be planned raises its own error."""
    import quantize

    source_bytes = _look_at(source, options, warn=False)
    plans: list[Planned | NotWritten] = []
    told: set[str] = set()
    with interruptible():
        for level in levels:
            try:
                plan = quantize.plan(source, level, options=options)
                _tell_unused(plan, told)
                plans.append(_planned(plan))
            except EdgeError as error:
                if len(levels) == 1:
                    raise
                plans.append(NotWritten.of(error, level=level, path=""))
    if as_json:
        typer.echo(safe_json(document(plans, source=str(source), source_bytes=source_bytes)))
    else:
        show(render_plans(plans, source_bytes))
    if any(isinstance(plan, NotWritten) for plan in plans):
        raise typer.Exit(EdgeError.exit_code)


def show_levels(*, as_json: bool) -> None:
    """Shows every level there is."""
    listed = (*_gguf_levels(), *_onnx_levels())
    if as_json:
        typer.echo(safe_json([to_jsonable(level) for level in listed]))
    else:
        show(render_levels(listed))


def _gguf_levels() -> Iterator[ListedLevel]:
    import quantize

    for level in quantize.levels():
        yield ListedLevel(
            name=level.name,
            bits_per_weight=level.bits_per_weight,
            block_elements=level.block_elements,
            block_bytes=level.block_bytes,
            cost=level.cost,
            needs_imatrix=level.needs_imatrix,
            description=level.description,
        )


def _onnx_levels() -> Iterator[ListedLevel]:
    from quantize import ONNX_LEVELS
    from quantize.onnx.algorithms import LEVELS as QUANTIZED
    from quantize.onnx.levels import USES

    for name, level in ONNX_LEVELS.items():
        elements = level.block_size if level.quantized else 1
        scale_bytes = 4 if level.quantized else 0
        size = elements * level.bits // 8 + scale_bytes
        yield ListedLevel(
            name=f"onnx:{name}",
            bits_per_weight=8 * size / elements,
            block_elements=elements,
            block_bytes=size,
            description=USES[name],
        )
    yield ListedLevel(
        name="onnx:int8-dynamic",
        bits_per_weight=8.0,
        block_elements=1,
        block_bytes=1,
        description=QUANTIZED["int8-dynamic"],
    )


def warn_of_slow_levels(levels: Iterable[str], imatrix: Path | None) -> None:
    """Says beforehand which levels take long, unless they will be refused."""
    for name in levels:
        level = LEVELS[name]
        if level.cost >= _SLOW and (imatrix is not None or not level.needs_imatrix):
            say(f"{name} takes about {level.cost} times the processor time of Q4_0.")


def _look_at(source: Path, options: QuantizeOptions, *, warn: bool = True) -> int:
    """The size of the source, after a warning where quality will be lost twice."""
    from quantize.planning import LOSSLESS

    from ..artifact import Artifact

    artifact = Artifact.open(source)
    kinds = {tensor.type.name for tensor in artifact.tensors}
    if warn and options.allow_requantize and not kinds <= LOSSLESS:
        say(
            f"{source.name} is quantized already ({artifact.level}): what it lost stays lost, and"
            " more is lost now. An F16 or BF16 file of the model gives better ones."
        )
    return artifact.size_bytes


def _tell_unused(plan: QuantizePlan, told: set[str]) -> None:
    """Says once what was given and would do nothing."""
    lines = [f"No tensor has {pattern!r} in its name." for pattern in plan.unused_patterns]
    if plan.unused_entries:
        lines.append(
            f"{len(plan.unused_entries)} entries of the importance matrix, such as"
            f" {plan.unused_entries[0]}, have the name of no tensor."
        )
    for line in lines:
        if line not in told:
            say(line)
    told.update(lines)


def _planned(plan: QuantizePlan) -> Planned:
    from ..report.inspection import mix_of

    sizes = ((t.type.name, math.prod(t.dims), t.size_bytes) for t in plan.tensors)
    return Planned(
        level=plan.level,
        size_bytes=plan.total_bytes,
        bits_per_weight=plan.bits_per_weight,
        mix=mix_of(sizes),
        fallbacks=len(plan.fallbacks),
        needs_imatrix=bool(plan.unmeasured),
    )
