"""The work behind `edge quantize` for ONNX models: level after level, each with its own outcome.

A level that fails does not stop the others. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..artifact.onnx.folder import is_onnx, model_in, model_name, models_in
from ..codec import to_jsonable
from ..errors import EdgeError, UsageError
from ..report.plain import safe_json
from ..report.requantized import Stays, WrittenOnnx, render_requantized
from ..report.written import NotWritten
from .jobs import interruptible, job, say
from .pages import show

if TYPE_CHECKING:
    from quantize.onnx.algorithms import OnnxQuantizeOptions
    from quantize.onnx.products import Kept

_LEVEL = re.compile(r"[-_.](onnx[-_])?(fp32|fp16|f32|f16)$", re.IGNORECASE)

Outcome = WrittenOnnx | NotWritten


def onnx_source(source: str, levels: Sequence[str]) -> Path | None:
    """The ONNX file a command line means, None when it means another format.

    A folder that holds a checkpoint as well counts by the levels asked for. Raises as `model_in`.
    """
    from .. import sources

    path = Path(source).expanduser()
    if path.is_dir():
        if not models_in(path) or (sources.is_checkpoint(path) and not _all_onnx(levels)):
            return None
        return model_in(path)
    if is_onnx(path):
        return path
    if not path.exists() and _all_onnx(levels):
        from .jobs import told_download

        found = sources.resolve(source, on_download=told_download)
        return found if is_onnx(found) else None
    return None


def _all_onnx(levels: Sequence[str]) -> bool:
    from quantize.onnx.algorithms import onnx_quantize_level

    try:
        return bool([onnx_quantize_level(level) for level in levels])
    except EdgeError:
        return False


def levels_of(asked: Iterable[str]) -> tuple[str, ...]:
    """The levels asked for, each once. Raises UsageError or UnsupportedError for another one."""
    from quantize.onnx.algorithms import onnx_quantize_level

    return tuple(dict.fromkeys(map(onnx_quantize_level, asked)))


def targets(
    source: Path, levels: Sequence[str], out: Path | None, out_dir: Path | None
) -> dict[str, Path]:
    """The folder for each level. Raises UsageError when one name is given for several."""
    if out is None:
        into = out_dir if out_dir is not None else Path()
        if not into.is_dir():
            raise UsageError(
                f"There is no folder {into}.",
                way_out=f"Make it: mkdir -p {shlex.quote(str(into))}",
            )
        stem = _LEVEL.sub("", model_name(source)) or "model"
        return {level: into / f"{stem}-onnx-{level}" for level in levels}
    if len(levels) > 1 or out_dir is not None:
        raise UsageError(
            f"-o names one folder for {len(levels)} levels."
            if len(levels) > 1
            else "-o and --out-dir both say where to write.",
            way_out="For several levels give --out-dir FOLDER instead.",
        )
    return {levels[0]: out}


def write_onnx_levels(
    source: Path,
    folders: Mapping[str, Path],
    options: OnnxQuantizeOptions,
    *,
    overwrite: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Makes a folder for each level and shows what came of it.

    One level that fails raises its own error; of several, the table says which failed and the exit
    code is 4. Ctrl-C keeps the levels that are finished.
    """
    from quantize.onnx.requantization import plan_onnx, requantize_onnx

    outcomes: list[Outcome] = []

    def write(level: str, folder: Path) -> WrittenOnnx:
        started_s = time.monotonic()
        size = plan_onnx(source, level, options=options).source_bytes
        shown = sys.stderr.isatty()
        with job(folder.name, size) as progress:
            made = requantize_onnx(
                source,
                folder,
                level,
                options=options,
                overwrite=overwrite,
                verify=verify,
                progress=progress,
                stage=(lambda name: say(f"{folder.name}: {name}.")) if shown else None,
            )
        return WrittenOnnx(
            level=made.level,
            algorithm=made.algorithm,
            path=str(folder),
            paths=tuple(map(str, made.paths)),
            size_bytes=made.size_bytes,
            source_bytes=made.source_bytes,
            nodes=made.nodes,
            elements=made.elements,
            stays=_stays(made.kept),
            seconds=time.monotonic() - started_s,
            peak_memory_bytes=made.peak_bytes,
            verified=verify,
        )

    with interruptible("Finished levels are kept, nothing else was left behind."):
        for level, folder in folders.items():
            try:
                outcomes.append(write(level, folder))
            except EdgeError as error:
                if len(folders) == 1:
                    raise
                say(str(error))
                outcomes.append(NotWritten.of(error, level=level, path=str(folder)))
    _tell(source, outcomes, as_json=as_json)


def show_onnx_plans(
    source: Path, levels: Sequence[str], options: OnnxQuantizeOptions, *, as_json: bool
) -> None:
    """Shows what each level would weigh. One level that cannot be made raises its own error."""
    from quantize.onnx.requantization import plan_onnx

    plans: list[Outcome] = []
    with interruptible():
        for level in levels:
            try:
                plan = plan_onnx(source, level, options=options)
            except EdgeError as error:
                if len(levels) == 1:
                    raise
                plans.append(NotWritten.of(error, level=level, path=""))
                continue
            plans.append(
                WrittenOnnx(
                    level=plan.level,
                    algorithm=plan.algorithm,
                    path="",
                    paths=(),
                    size_bytes=plan.total_bytes,
                    source_bytes=plan.source_bytes,
                    nodes=len(plan.matrices) + len(plan.convolutions),
                    elements=plan.elements,
                    stays=_stays(plan.kept),
                )
            )
    _tell(source, plans, as_json=as_json)


def _stays(kept: Iterable[Kept]) -> tuple[Stays, ...]:
    from quantize.onnx.products import reasons

    listed = tuple(kept)
    return tuple(
        Stays(
            reason=reason,
            operators=count,
            elements=sum(k.elements for k in listed if k.reason == reason),
            first=first,
        )
        for reason, count, first in reasons(listed)
    )


def _tell(source: Path, outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    if as_json:
        document = {
            "schema": 1,
            "source": str(source),
            "levels": [to_jsonable(outcome) for outcome in outcomes],
        }
        typer.echo(safe_json(document))
    else:
        show(render_requantized(outcomes))
    if any(isinstance(outcome, NotWritten) for outcome in outcomes):
        raise typer.Exit(EdgeError.exit_code)
