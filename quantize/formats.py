"""Which format a level belongs to: GGUF by its own name (`Q4_K_M`), ONNX behind `onnx:`.

The doors that both formats share stand here; behind them each format has its own modules, loaded
when they are needed. It refuses to know what a level is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.artifact import Artifact, ModelShape
from edge_runtime.artifact.onnx.folder import is_onnx
from edge_runtime.errors import UsageError

if TYPE_CHECKING:
    from .onnx.algorithms import OnnxQuantizeOptions
    from .onnx.levels import OnnxLevel
    from .options import QuantizeOptions

ONNX_PREFIX = "onnx:"
"""What a command line writes before an ONNX level."""

Progress = Callable[[float], None]


def is_onnx_level(level: str | OnnxLevel) -> bool:
    """Whether a level is ONNX's: one with `onnx:` before its name, in any case, or the record."""
    return not isinstance(level, str) or level.lower().startswith(ONNX_PREFIX)


def convert(
    checkpoint: Path,
    out: Path,
    *,
    level: str | OnnxLevel = "F16",
    pre: str | None = None,
    options: QuantizeOptions | None = None,
    split_bytes: int | None = None,
    overwrite: bool = False,
    verify: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Converts a checkpoint directory at a level and opens what it wrote.

    A GGUF level writes the file `out`, one of ONNX (`onnx:int4`, or an `OnnxLevel`) the folder
    `out`. What each does and raises is said at `conversion.convert` and
    `onnx.conversion.convert_onnx`. `pre`, `options` and `split_bytes` are of GGUF files only;
    with an ONNX level they raise UsageError.
    """
    if not is_onnx_level(level):
        from . import conversion

        return conversion.convert(
            checkpoint,
            out,
            level=str(level),
            pre=pre,
            options=options,
            split_bytes=split_bytes,
            overwrite=overwrite,
            verify=verify,
            threads=threads,
            progress=progress,
        )
    _refuse_ggufs_own(pre=pre, options=options, split_bytes=split_bytes)
    from .onnx.conversion import convert_onnx

    return convert_onnx(
        checkpoint,
        out,
        level=level,
        overwrite=overwrite,
        verify=verify,
        threads=threads,
        progress=progress,
    )


def requantize(
    source: Path,
    out: Path,
    level: str,
    *,
    options: QuantizeOptions | OnnxQuantizeOptions | None = None,
    keep_split: bool = False,
    overwrite: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Quantizes a GGUF file, or an ONNX language model, to a level and opens what it wrote.

    A GGUF source gives the file `out`, an ONNX file or folder the folder `out`. What each does and
    raises is said at `requantization.requantize` and `onnx.requantization.requantize_onnx`; the
    latter also takes models that are none of language. Options of the other format, and
    `keep_split` with an ONNX model, raise UsageError.
    """
    from .options import QuantizeOptions

    source = Path(source)
    if source.is_dir() or is_onnx(source):
        from .onnx.requantization import requantize_onnx

        _refuse_ggufs_own(
            options=options if isinstance(options, QuantizeOptions) else None,
            keep_split=keep_split or None,
        )
        requantize_onnx(
            source,
            out,
            level,
            options=None if isinstance(options, QuantizeOptions) else options,
            overwrite=overwrite,
            verify=verify,
            progress=progress,
        )
        return Artifact.open(out)
    if options is not None and not isinstance(options, QuantizeOptions):
        raise UsageError(
            "These options are of ONNX models.", way_out="Give QuantizeOptions for a GGUF file."
        )
    from . import requantization

    return requantization.requantize(
        source,
        out,
        level,
        options=options,
        keep_split=keep_split,
        overwrite=overwrite,
        verify=verify,
        progress=progress,
    )


def synthesize(
    shape: ModelShape,
    level: str | OnnxLevel,
    out: Path,
    *,
    layers: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Artifact:
    """Writes a model of exactly this shape at a level, with random weights, and opens it.

    A GGUF level writes the file `out`, one of ONNX the folder `out`; either is written over. Dims
    and types are those of the really converted model, with `layers` of only so many layers. The
    same arguments give the same bytes. Raises UnsupportedError for an unknown level or a family
    whose graph is not known, UsageError for an impossible depth and DiskError when it cannot be
    written.
    """
    if is_onnx_level(level):
        from .onnx.synthesis import synthesize_onnx

        return synthesize_onnx(
            shape, level, out, layers=layers, seed=seed, overwrite=True, progress=progress
        )
    from . import synthesis

    return synthesis.synthesize(shape, str(level), out, layers=layers, seed=seed, progress=progress)


def synthetic_bytes(shape: ModelShape, level: str | OnnxLevel, layers: int | None = None) -> int:
    """Returns the size `synthesize` would write: of the GGUF file, or of the graph's data file."""
    if is_onnx_level(level):
        from .onnx.synthesis import synthetic_onnx_bytes

        return synthetic_onnx_bytes(shape, level, layers)
    from . import synthesis

    return synthesis.synthetic_bytes(shape, str(level), layers)


def kept_layers(shape: ModelShape, level: str | OnnxLevel, layers: int) -> tuple[int, ...]:
    """Returns which layers of the whole model one cut to `layers` stands for, ascending.

    With a GGUF level as `synthesis.kept_layers` chooses them; an ONNX graph is cut after its first
    layers. Raises UsageError for an impossible depth.
    """
    if is_onnx_level(level):
        shape.truncated(layers)
        return tuple(range(layers))
    from . import synthesis

    return synthesis.kept_layers(shape, str(level), layers)


def _refuse_ggufs_own(**given: object) -> None:
    """Refuses what only a GGUF file has; nothing here is silently left out."""
    reasons = {
        "pre": "The tokenizer goes along as it is; no pre-tokenizer is named.",
        "options": "They are wishes to llama.cpp's quantizer; an OnnxLevel has its own.",
        "keep_split": "A model's weights lie in one data file.",
        "split_bytes": "A model's weights lie in one data file, whose size nothing limits.",
    }
    for name, value in given.items():
        if value is not None:
            raise UsageError(
                f"ONNX levels take no {name}.", cause=reasons[name], way_out=f"Leave {name} out."
            )
