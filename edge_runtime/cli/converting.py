"""What `edge convert` does: which format is meant, which options belong to it, the work, the words.

`convert` declares the arguments. Both formats give a `Written`; nothing here knows how either is
made.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import EdgeError, UsageError
from .options import any_level_name, level_name

if TYPE_CHECKING:
    from quantize import OnnxLevel

    from ..artifact import Artifact
    from ..report.written import Written

USUAL_GGUF_LEVEL = "F16"
USUAL_ONNX_LEVEL = "onnx:int4"

UNWEIGHTED = ("F32", "F16", "BF16", "Q8_0")
"""Levels that round every weight by itself."""
_GGUFS_OWN = {
    "--split-max-size": "An ONNX model's weights lie in one data file, however large it is.",
    "--pre": "An ONNX model's tokenizer goes along as it is.",
    "--imatrix": "It is for llama.cpp's quantizer; blocks of ONNX models are rounded without one.",
}
"""Options of GGUF files, and why ONNX models have no use for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked for in either format."""

    checkpoint: str
    level: str
    out: Path | None
    overwrite: bool
    verify: bool
    as_json: bool
    threads: int | None


def wanted_level(to: str | None, level: str | None) -> str:
    """The level that a format and a level mean together: `F16`, or `onnx:int4`.

    The level alone says the format; with `--to onnx` it may go without its `onnx:`. Raises
    UsageError for an unknown one of either, and for two that contradict each other.
    """
    kind = None if to is None else to.lower()
    if kind not in (None, "gguf", "onnx"):
        raise UsageError(
            f"{to!r} is no format to convert to.", way_out="Write --to gguf or --to onnx."
        )
    if level is None:
        return USUAL_ONNX_LEVEL if kind == "onnx" else USUAL_GGUF_LEVEL
    if kind == "onnx":
        return _onnx_level_name(level)
    if kind == "gguf" and level.lower().startswith("onnx:"):
        raise UsageError(
            f"{level} is no level of GGUF files.",
            way_out="Leave --to out, or choose a level such as Q4_K_M.",
        )
    return any_level_name(level)


def _onnx_level_name(level: str) -> str:
    if level.lower().startswith("onnx:"):
        return any_level_name(level)
    try:
        found = level_name(level)
    except UsageError:  # none of GGUF's, so it is meant to be one of ONNX's
        return any_level_name(f"onnx:{level}")
    raise UsageError(
        f"{found} is a level of GGUF files.",
        way_out="For ONNX write --level int4, int8, fp16 or fp32; for GGUF leave --to onnx out.",
    )


def refuse_ggufs_own(level: str, given: Mapping[str, object]) -> None:
    """Raises UsageError for the first option that was given and that ONNX has no use for."""
    for name, value in given.items():
        if value is not None:
            raise UsageError(
                f"{name} does not go with {level}.",
                cause=_GGUFS_OWN[name],
                way_out="Leave it out, or choose a GGUF level such as Q4_K_M.",
            )


def refuse_onnxs_own(level: str, given: Mapping[str, object]) -> None:
    """Raises UsageError for the first option that was given and that GGUF has no use for."""
    for name, value in given.items():
        if value is not None:
            raise UsageError(
                f"{name} does not go with {level}.",
                cause="It is an option of ONNX models; a GGUF level says all of that itself.",
                way_out="Leave it out, or choose an ONNX level such as onnx:int4.",
            )


def onnx_level_with(level: str, given: Mapping[str, object]) -> OnnxLevel:
    """The level with the options that were given on the command line, by their names there.

    Raises UsageError for values that are not offered and options without effect.
    """
    from quantize import onnx_level

    for name, value in given.items():
        offered = (4, 8, 16) if name == "--embedding-bits" else (4, 8)
        if name.endswith("-bits") and value not in (None, *offered):
            words = "4, 8 or 16" if 16 in offered else "4 or 8"
            raise UsageError(f"{name} cannot be {value}.", way_out=f"Choose {words}.")
    chosen = onnx_level(level)
    options = {_field(name): value for name, value in given.items() if value is not None}
    if options and not chosen.quantized:
        raise UsageError(
            f"{next(n for n, v in given.items() if v is not None)} has no effect at {level}.",
            cause="Its matrices are stored as floats, without blocks.",
            way_out="Leave it out, or choose onnx:int4 or onnx:int8.",
        )
    if "algorithm" in options:
        options["algorithm"] = _algorithm(str(options["algorithm"]))
    chosen = chosen.with_options(**options)
    smallest = min(b for b in (chosen.bits, chosen.head_bits, chosen.embedding_bits) if b)
    if chosen.algorithm == "k_quant" and smallest == 8:
        raise UsageError(
            "--algorithm k-quant has no effect with 8 bits.",
            cause="Steps that fine leave nothing to be gained by searching for better ones.",
            way_out="Leave it out, or choose onnx:int4.",
        )
    return chosen


def _field(option: str) -> str:
    if option in ("--symmetric", "--asymmetric"):
        return "symmetric"
    return option.removeprefix("--").replace("-", "_")


def _algorithm(text: str) -> str:
    name = text.lower().replace("-", "_")
    if name not in ("rtn", "k_quant"):
        raise UsageError(
            f"{text!r} is no algorithm.",
            way_out="Write rtn (round to nearest) or k-quant (search for better scales).",
        )
    return name


def write_gguf(
    order: Order, *, pre: str | None, imatrix: Path | None, split_bytes: int | None
) -> None:
    """Writes a GGUF file and tells of it. Raises what `quantize.convert` raises."""
    import quantize

    from ..report.written import Written
    from .jobs import interruptible, job, say
    from .quantizing import warn_of_slow_levels

    if imatrix is not None and order.level in UNWEIGHTED:
        raise UsageError(
            f"An importance matrix has no effect at {order.level}.",
            way_out="Leave --imatrix out.",
        )
    folder, name = _fetched(order.checkpoint)
    target = order.out if order.out is not None else Path(f"{name}-{order.level}.gguf")
    if target.is_dir():
        target /= f"{name}-{order.level}.gguf"
    notes = _departures(folder)
    for note in notes:
        say(note)
    warn_of_slow_levels((order.level,), imatrix)
    started_s = time.monotonic()
    with interruptible(), job(target.name, _weights_bytes(folder)) as progress:
        artifact = quantize.convert(
            folder,
            target,
            level=order.level,
            pre=pre,
            options=quantize.QuantizeOptions(imatrix=imatrix, threads=order.threads)
            if imatrix
            else None,
            split_bytes=split_bytes,
            overwrite=order.overwrite,
            verify=order.verify,
            threads=order.threads,
            progress=progress,
        )
    seconds = time.monotonic() - started_s
    written = Written.of(artifact, seconds, verified=order.verify, level=order.level, notes=notes)
    _show(written, artifact, as_json=order.as_json)


def write_onnx(order: Order, level: OnnxLevel, *, builder: str | None) -> None:
    """Writes an ONNX folder and tells of it. Raises what `quantize.convert` raises."""
    import quantize

    from ..report.written import Written
    from .jobs import interruptible, job, say

    if builder is not None and builder.lower() != "genai":
        raise UsageError(f"{builder!r} is no builder.", way_out="Write --builder genai, or none.")
    make = quantize.convert if builder is None else quantize.build_with_genai
    folder, name = _fetched(order.checkpoint)
    target = order.out if order.out is not None else Path(f"{name}-{order.level.replace(':', '-')}")
    started_s = time.monotonic()
    with interruptible(), job(target.name, _weights_bytes(folder)) as progress:
        artifact = make(
            folder,
            target,
            level=level,
            overwrite=order.overwrite,
            verify=order.verify,
            threads=order.threads,
            progress=progress,
        )
    seconds = time.monotonic() - started_s
    notes = _float_embedding(artifact, level)
    if builder is not None:
        notes = (*notes, *quantize.genai_notes(artifact))
    for note in notes:
        say(note)
    written = Written.of(
        artifact,
        seconds,
        verified=order.verify,
        level=order.level,
        options=_options_in_words(level),
        notes=notes,
    )
    _show(written, artifact, as_json=order.as_json)


def _options_in_words(level: OnnxLevel) -> tuple[str, ...]:
    """How a level was departed from."""
    from quantize import ONNX_LEVELS

    usual = ONNX_LEVELS[level.name]
    words = {
        "block_size": f"blocks of {level.block_size}",
        "symmetric": "asymmetric",
        "algorithm": level.algorithm.replace("_", "-"),
        "head_bits": f"{level.head_bits}-bit head",
        "embedding_bits": f"{level.embedding_bits}-bit embedding",
        "sensitive_bits": f"{level.sensitive_bits}-bit sensitive matrices",
        "accuracy_level": f"accuracy level {level.accuracy_level}",
    }
    return tuple(
        text for name, text in words.items() if getattr(level, name) != getattr(usual, name)
    )


def _fetched(checkpoint: str) -> tuple[Path, str]:
    """A checkpoint's folder, downloaded if need be, and its name."""
    from .. import sources
    from ..artifact.checkpoint import checkpoint_name
    from .jobs import interruptible, told_download

    with interruptible("What was fetched is kept."):
        folder = sources.resolve_checkpoint(checkpoint, on_download=told_download)
    return folder, checkpoint_name(folder)


def _departures(folder: Path) -> tuple[str, ...]:
    """Where llama.cpp departs from the config; none where converting will refuse it anyway."""
    from ..artifact.checkpoint import read_config
    from ..artifact.departures import departures

    try:
        return departures(read_config(folder))
    except EdgeError:
        return ()


def _float_embedding(artifact: Artifact, level: OnnxLevel) -> tuple[str, ...]:
    """A note on an embedding that a level of blocks left as floats."""
    from ..units import format_bytes

    for tensor in artifact.tensors:
        rows = tensor.dims[0]
        divides = not level.quantized or rows % level.block_size == 0
        if tensor.name == "token_embd.weight" and not divides:
            size = format_bytes(tensor.size_bytes)
            note = (
                f"The embedding stays {tensor.type.name.lower()} ({size}): its rows of {rows} do"
                f" not divide into blocks of {level.block_size}."
            )
            return (note,)
    return ()


def _weights_bytes(folder: Path) -> int:
    """What is to be read, for the rate shown; a checkpoint that is none is refused elsewhere."""
    try:
        return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    except OSError:
        return 0


def _show(written: Written, artifact: Artifact, *, as_json: bool) -> None:
    from ..codec import to_jsonable
    from ..report.plain import plain, safe_json
    from ..report.written import summary

    if as_json:
        typer.echo(safe_json(to_jsonable(written)))
        return
    typer.echo(summary(written))
    path = plain(shlex.quote(written.path))
    if artifact.shape.encoder:
        typer.echo(f"Next: edge inspect {path}")
        typer.echo("It makes embeddings: edge_runtime.load(..., embeddings=True).embed(text)")
    else:
        typer.echo(f"Next: edge run {path}\n      edge check {path}")
