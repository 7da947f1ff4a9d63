"""The work behind `edge quantize --calibrate`: an importance matrix is measured before it is used.

It takes as long as the model takes to read the text, so whatever would be refused afterwards is
refused first, and the matrix is kept. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..units import format_duration
from .converting import UNWEIGHTED
from .jobs import interruptible, job, say
from .quantizing import stem_of

if TYPE_CHECKING:
    from quantize import QuantizeOptions


def check(
    text: Path | None,
    imatrix: Path | None,
    imatrix_out: Path | None,
    levels: Sequence[str],
    *,
    dry_run: bool,
) -> None:
    """Refuses a measurement that contradicts the rest, or that nothing would make use of."""
    if text is None:
        if imatrix_out is not None:
            raise UsageError(
                "--imatrix-out names a file for a matrix that nothing measures.",
                way_out="Say on which text: --calibrate TEXT",
            )
        return
    if imatrix is not None:
        raise UsageError(
            "There is one importance matrix to read and one to measure.",
            way_out="Give --imatrix FILE or --calibrate TEXT.",
        )
    if dry_run:
        raise UsageError(
            "A dry run reads no text.", way_out="Leave out --calibrate: the sizes are the same."
        )
    if all(level in UNWEIGHTED for level in levels):
        raise UsageError(
            f"An importance matrix has no effect at {' and '.join(levels)}.",
            way_out="Leave --calibrate out.",
        )


def matrix_beside(source: Path, targets: Mapping[str, Path]) -> Path:
    """Where a measured importance matrix goes when nobody says: beside the first level."""
    return next(iter(targets.values())).with_name(f"{stem_of(source.name)}-imatrix.gguf")


def calibrated(
    source: Path,
    targets: Mapping[str, Path],
    options: QuantizeOptions,
    text: Path,
    out: Path,
    *,
    overwrite: bool,
) -> QuantizeOptions:
    """The options with an importance matrix measured on `text`, which is kept as `out`.

    What the quantizer will refuse is refused before. Ctrl-C leaves nothing behind.
    """
    import quantize
    from quantize.requantization import check_requantize

    if out.resolve() in (target.resolve() for target in targets.values()):
        raise UsageError(
            f"{out} cannot be both a level and the importance matrix.",
            way_out="Name another file: --imatrix-out FILE",
        )
    if out.exists() and not overwrite:
        raise UsageError(
            f"{out} is there already.",
            cause="It is where the importance matrix would be kept.",
            way_out=f"Use it: --imatrix {shlex.quote(str(out))}, or measure it again: --force",
        )
    check_requantize(source, targets, options=options, overwrite=overwrite)
    started_s = time.monotonic()
    with interruptible(), job(f"reading {text.name}", None) as progress:
        matrix = quantize.calibrate(
            source, text, out, threads=options.threads, overwrite=overwrite, progress=progress
        )
    say(
        f"Importance matrix of {matrix.chunks} passages of {matrix.chunk_tokens} tokens in"
        f" {format_duration(time.monotonic() - started_s)}: {out}"
    )
    unused = sum(int((entry.counts == 0).sum()) for entry in matrix.entries)
    if unused:
        experts = sum(len(entry.counts) for entry in matrix.entries if len(entry.counts) > 1)
        say(
            f"{unused} of {experts} matrices of experts were never used: the inputs of those count"
            " alike. A longer text reaches more."
        )
    return dataclasses.replace(options, imatrix=out)
