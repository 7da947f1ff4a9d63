"""The sweep behind `edge profile`: reading option lists, running the cells, showing where it is.

Progress goes to stderr, between timed runs only and from no thread, so that nothing is drawn while
something is timed. Ctrl-C ends the sweep after telling how to go on.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import typer

from ..consumption import LEAST_POWER_W, MOST_POWER_W
from ..errors import UsageError
from ..measurement import CellFailure, KvType, Limits, Measurement, SessionOptions, Workload
from ..report.plain import plain
from ..units import format_rate, parse_duration_s
from .engines import ENGINES, level_of
from .sustaining import EarlyEnd, left_words

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..profiler import Cell, Plan, Progress
    from ..profiler.autotune import ThreadTuning
    from ..report.records import RecordWriter

AUTO = "auto"
_LONGEST_IDLE_S = 3600.0
_STAGES = {
    "settling": "letting the device cool",
    "idle": "watching the device idle",
    "loading": "loading",
    "warming": "warming up",
    "closing": "closing",
    "tracing": "tracing",
}
_ERASE_LINE = "\r\x1b[K"
_FLASH = {"auto": "auto", "on": "on", "off": "off", "1": "on", "0": "off", "-1": "auto"}


def read_repetitions(text: str) -> tuple[int, int]:
    """Reads `3-10` or `5` as the fewest and the most repetitions. Raises UsageError."""
    first, dash, last = text.partition("-")
    words = (first, last) if dash else (first, first)
    if not all(w.isascii() and w.isdigit() and len(w) < 7 and int(w) > 0 for w in words):
        raise UsageError(f"-r: {text!r} is no number of runs.", way_out="Write 5, or 3-10.")
    return int(words[0]), int(words[1])


def read_idle(text: str, *, emulated: bool, run_s: float) -> float:
    """How long to watch the device idle, seconds, before a measurement and after it.

    `auto` takes twice what the slowest sensor of the headline resolves, 10 s to 60 s, and nothing
    where there is no sensor or the device is an emulated one. The headline is that of runs of
    `run_s`. Raises UsageError.
    """
    if text != AUTO:
        seconds = parse_duration_s(text, "--idle")
        if seconds > _LONGEST_IDLE_S:
            raise UsageError("--idle: nobody waits longer than an hour.", way_out="--idle 60s")
        return seconds
    if emulated:
        return 0.0
    from ..profiler.energy.cover import resolved_headline
    from ..profiler.energy.discovery import discover

    found = discover()
    found.close()
    infos = [sensor.info for sensor in found.sensors]
    headline = resolved_headline(infos, run_s)
    windows = [info.window_s for info in infos if info.id in headline]
    return min(max(2 * max(windows), 10.0), 60.0) if windows else 0.0


def read_power(watts: float | None) -> float | None:
    """The stated power. Raises UsageError for one that no device has."""
    if watts is not None and not LEAST_POWER_W <= watts <= MOST_POWER_W:
        raise UsageError(
            f"--estimate-power: {watts:g} W is no power of a device.",
            way_out="State what it draws while the model runs, such as --estimate-power 12",
        )
    return watts


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


def command_without_files(arguments: Sequence[str]) -> str:
    """The command line to repeat, without the file to save to."""
    kept: list[str] = []
    skip = False
    for word in arguments:
        if skip or word.startswith(("--save=", "--resume=")):
            skip = False
        elif word in ("--save", "--resume"):
            skip = True
        else:
            kept.append(word)
    return shlex.join(("edge", *kept))


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
    stated_power_w: float | None = None
    """What the device draws at work, for an estimate where nothing measures energy."""
    tell_energy: bool = False
    """Whether to say why there is no energy: where the records' format does not say it below."""
    limits: Limits | None = None
    """The smaller device to emulate."""

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
                own = _tuned(artifact, own, self.limits)
            cells += (
                Cell(artifact=artifact, options=options, workload=workload, limits=self.limits)
                for options in own
                for workload in workloads
            )
        return tuple(cells)

    def run(self, cells: Sequence[Cell]) -> None:
        """Runs the cells; ends the program with 4 when one failed and 130 after Ctrl-C."""
        from ..report.energy import energy_words, has_figures

        line = _StatusLine(len(cells), self.plan.sustain_s)
        done = failed = 0
        unknown: dict[str, None] = {}
        try:
            for record in self._records(cells, line):
                self.writer.write(record)
                if isinstance(record, Measurement) and self.tell_energy and not has_figures(record):
                    unknown[energy_words(record)] = None
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
            for words in unknown:
                typer.echo(f"energy: {plain(words)}", err=True)
        if failed:
            typer.echo(f"{failed} of {len(cells)} cells failed; their rows say why.", err=True)
            raise typer.Exit(4)

    def _records(
        self, cells: Sequence[Cell], line: _StatusLine
    ) -> Iterator[Measurement | CellFailure]:
        """Each cell's record once it is kept. Raises KeyboardInterrupt after one ended early."""
        from ..profiler import run_cells
        from ..profiler.results import append_result

        with EarlyEnd(sustained=self.plan.sustain_s is not None) as ending:

            def show(cell: Cell, progress: Progress) -> bool:
                line.show(cell, progress)
                return ending.heard(progress)

            sequence = run_cells(
                cells, plan=self.plan, earlier=self.earlier, retry_failed=self.retry_failed,
                stated_power_w=self.stated_power_w, on_event=show,
            )  # fmt: skip
            for _, record, is_new in sequence:
                line.clear()
                if is_new and self.results is not None:
                    append_result(self.results, record)
                ending.next_cell()
                yield record
                if ending.asked:
                    raise KeyboardInterrupt

    def _interrupted(self, done: int, total: int) -> str:
        words = f"Interrupted after {done} of {total} cells"
        if self.results is None:
            return f"{words}; those are shown above. With --save FILE a sweep can be resumed."
        return (
            f"{words}, kept in {self.results}. Go on with: {self.command} --resume {self.results}"
        )


def _tuned(
    artifact: Artifact, grid: Sequence[SessionOptions], limits: Limits | None
) -> tuple[SessionOptions, ...]:
    """The grid with the best number of threads for this artifact, said on stderr."""
    from ..profiler.autotune import tune_threads

    line = _StatusLine(0)

    def tell(threads: int | None, progress: Progress) -> None:
        count = "default" if threads is None else str(threads)
        line.say(f"{artifact.name}: trying {count} threads{_rate(progress)}")

    tuning = tune_threads(artifact, grid[0], limits=limits, on_event=tell)
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

    def __init__(self, cells: int, sustain_s: float | None = None) -> None:
        self.finished = 0
        self._sustain_s = sustain_s
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
            if stage == "running" and self._sustain_s is not None:
                stage_words = left_words(self._sustain_s, progress)
            elif stage == "running":
                stage_words = f"run {progress.runs + 1} of at most {progress.max_runs}"
            else:
                stage_words = _STAGES[stage]
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
