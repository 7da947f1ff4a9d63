"""The sweep behind `edge profile`: reading option lists, running the cells, showing where it is.

Progress goes to stderr, between timed runs only and from no thread, so that nothing is drawn while
something is timed. Ctrl-C ends the sweep after telling how to go on.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import typer

from ..errors import UsageError
from ..measurement import CellFailure, KvType, Measurement, SessionOptions, Workload
from ..units import format_rate
from .engines import ENGINES, level_of

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..profiler import Cell, Plan, Progress
    from ..profiler.autotune import ThreadTuning
    from ..report.records import RecordWriter

AUTO = "auto"
_ERASE_LINE = "\r\x1b[K"
_FLASH = {"auto": "auto", "on": "on", "off": "off", "1": "on", "0": "off", "-1": "auto"}


def read_repetitions(text: str) -> tuple[int, int]:
    """Reads `3-10` or `5` as the fewest and the most repetitions. Raises UsageError."""
    first, dash, last = text.partition("-")
    words = (first, last) if dash else (first, first)
    if not all(w.isascii() and w.isdigit() and len(w) < 7 and int(w) > 0 for w in words):
        raise UsageError(f"-r: {text!r} is no number of runs.", way_out="Write 5, or 3-10.")
    return int(words[0]), int(words[1])


def option_axes(
    *,
    threads: str | None,
    gpu_layers: str | None,
    batch: str,
    micro_batch: str,
    kv_types: tuple[str, str],
    flash_attention: str,
) -> Mapping[str, Sequence[object]]:
    """The values of every option that may be swept, by the option's name in SessionOptions."""
    from ..profiler.sweep import parse_numbers, parse_words

    axes: dict[str, Sequence[object]] = {}
    if gpu_layers is not None:
        axes["gpu_layers"] = parse_numbers(gpu_layers, "-ngl")
    axes["batch_tokens"] = _positive(parse_numbers(batch, "-b"), "-b")
    axes["micro_batch_tokens"] = _positive(parse_numbers(micro_batch, "-ub"), "-ub")
    known = get_args(KvType)
    axes["kv_type_k"] = parse_words(kv_types[0], "-ctk", known)
    axes["kv_type_v"] = parse_words(kv_types[1], "-ctv", known)
    words = parse_words(flash_attention, "-fa", tuple(_FLASH))
    axes["flash_attention"] = tuple(dict.fromkeys(_FLASH[word] for word in words))
    if threads is not None and threads != AUTO:
        axes["threads"] = _positive(parse_numbers(threads, "-t"), "-t")
    return axes


def open_artifacts(models: Sequence[str]) -> tuple[Artifact, ...]:
    """The artifacts of some references, or the shipped model where none is given."""
    from ..artifact import Artifact
    from ..sources import resolve

    if not models:
        from .shipped import shipped_model

        return (Artifact.open(shipped_model()),)
    return tuple(Artifact.open(resolve(model)) for model in models)


@dataclass(kw_only=True)
class Sweep:
    """The cells of one call of `edge profile`, their plan, and where their records go."""

    writer: RecordWriter
    results: Path | None
    plan: Plan
    earlier: tuple[Measurement | CellFailure, ...]
    retry_failed: bool
    command: str
    """How the sweep was called, without --save and --resume: what a resuming command repeats."""
    backend: str | None = None
    """The engine asked for by name; None for the one of each model's format."""

    def cells(
        self,
        artifacts: Sequence[Artifact],
        grid: Sequence[SessionOptions],
        workloads: Sequence[Workload],
        *,
        tune_threads: bool,
    ) -> tuple[Cell, ...]:
        """Every cell in the order in which it runs: model, options, workload.

        Models of both formats stand in one sweep, each with its own engine. Those that the engine
        asked for does not run are cells too: running them says so.
        """
        from ..backends import backend
        from ..profiler import Cell

        cells: list[Cell] = []
        for artifact in artifacts:
            engine = self.backend or ENGINES[artifact.format]
            own: Sequence[SessionOptions] = [replace(o, backend=engine) for o in grid]
            if tune_threads and artifact.format in backend(engine).formats:
                own = _tuned(artifact, own)
            cells += (
                Cell(artifact=artifact, options=options, workload=workload)
                for options in own
                for workload in workloads
            )
        return tuple(cells)

    def run(self, cells: Sequence[Cell]) -> None:
        """Runs the cells; ends the program with 4 when one failed and 130 after Ctrl-C."""
        from ..profiler import run_cells
        from ..profiler.results import append_result

        line = _StatusLine(len(cells))
        done = failed = 0
        try:
            sequence = run_cells(
                cells, plan=self.plan, earlier=self.earlier, retry_failed=self.retry_failed,
                on_event=line.show,
            )  # fmt: skip
            for _, record, is_new in sequence:
                line.clear()
                if is_new and self.results is not None:
                    append_result(self.results, record)
                self.writer.write(record)
                line.finished += 1
                done += 1
                failed += isinstance(record, CellFailure)
        except KeyboardInterrupt:
            line.clear()
            typer.echo(self._interrupted(done, len(cells)), err=True)
            raise typer.Exit(130) from None
        finally:
            line.clear()
            self.writer.close()
        if failed:
            typer.echo(f"{failed} of {len(cells)} cells failed; their rows say why.", err=True)
            raise typer.Exit(4)

    def _interrupted(self, done: int, total: int) -> str:
        words = f"Interrupted after {done} of {total} cells"
        if self.results is None:
            return f"{words}; those are shown above. With --save FILE a sweep can be resumed."
        return (
            f"{words}, kept in {self.results}. Go on with: {self.command} --resume {self.results}"
        )


def _tuned(artifact: Artifact, grid: Sequence[SessionOptions]) -> tuple[SessionOptions, ...]:
    """The grid with the best number of threads for this artifact, said on stderr."""
    from ..profiler.autotune import tune_threads

    line = _StatusLine(0)

    def tell(threads: int | None, progress: Progress) -> None:
        count = "default" if threads is None else str(threads)
        line.say(f"{artifact.name}: trying {count} threads{_rate(progress)}")

    tuning = tune_threads(artifact, grid[0], on_event=tell)
    line.clear()
    typer.echo(f"{artifact.name}: {tuning_words(tuning)}", err=True)
    return tuple(replace(options, threads=tuning.best_threads) for options in grid)


def tuning_words(tuning: ThreadTuning) -> str:
    """Default against best in one sentence, with every trial."""
    trials = ", ".join(f"{n}: {format_rate(tuning.rate(n))}" for n, _ in tuning.trials)
    default, best = tuning.default_threads, tuning.best_threads
    default_rate, best_rate = tuning.rate(default), tuning.rate(best)
    if best == default:
        verdict = f"the default of {default} threads is the best within the noise"
    else:
        gain = best_rate / default_rate - 1 if default_rate else 0.0
        verdict = (
            f"{best} threads give {format_rate(best_rate)} t/s, the default of {default} gives"
            f" {format_rate(default_rate)} ({gain:+.0%})"
        )
    return f"{verdict} (t/s by threads: {trials})"


class _StatusLine:
    """One line on stderr, rewritten on a terminal, written once per cell elsewhere."""

    def __init__(self, cells: int) -> None:
        self.finished = 0
        self._cells = cells
        self._terminal = sys.stderr.isatty()
        self._shown = ""

    def show(self, cell: Cell, progress: Progress) -> None:
        """Says which cell is at which stage."""
        where = (
            f"[{self.finished + 1}/{self._cells}] {cell.artifact.name} {level_of(cell.artifact)}"
        )
        words = f"{where}, {cell.workload.name}"
        if self._terminal:
            stage = progress.stage
            if stage == "running":
                stage_words = f"run {progress.runs + 1} of at most {progress.max_runs}"
            else:
                stage_words = {"loading": "loading", "warming": "warming up"}[stage]
            words += f": {stage_words}{_rate(progress)}"
        self.say(words)

    def say(self, words: str) -> None:
        """Shows words, once."""
        if words == self._shown:
            return
        self._shown = words
        if self._terminal:
            words = words[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write(f"{_ERASE_LINE}{words}" if self._terminal else f"{words}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Makes room for a line of data."""
        if self._terminal and self._shown:
            sys.stderr.write(_ERASE_LINE)
            sys.stderr.flush()
        self._shown = ""


def _rate(progress: Progress) -> str:
    rate = progress.tokens_per_s
    if rate is None:
        return ""
    spread = f" (± {rate.relative_half_width:.1%})" if progress.runs > 1 else ""
    return f", {format_rate(rate.value)} t/s{spread}"


def _positive(values: tuple[int, ...], option: str) -> tuple[int, ...]:
    if any(value < 1 for value in values):
        raise UsageError(f"{option}: 0 is not possible here.")
    return values
