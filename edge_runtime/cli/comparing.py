"""What `edge compare` does with models: make, score, measure in rounds, and show the table.

Each record is kept as soon as there is one; Ctrl-C shows the rows there are and says how to go on.
`compare` declares the arguments; what a row says, `comparison` and `report` know.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import EdgeError
from ..report.plain import plain
from ..scores import LevelFailure
from .jobs import interruptible, say
from .progress import StepLine

if TYPE_CHECKING:
    from ..measurement import Limits, SessionOptions
    from ..quality.text import Prompts, Text
    from ..rounds.program import Program
    from ..saved import SavedRecord
    from ..verdict import Target
    from .making import Made, Making
    from .shelf import Shelf

_PROMPTS = (
    "Tell me a story about a dog.",
    "What is the capital of France?",
    "Name three things that are red.",
)
"""Answered where answers are asked for and the user gives no prompts."""


_PIPED_COLUMNS = 200
"""Where text goes to a pipe: all columns of the table in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """How they are measured and on what they are scored; None leaves it to what is usual."""

    rounds: int
    prompt_tokens: int | None
    generate_tokens: int | None
    options: SessionOptions
    limits: Limits | None
    stated_power_w: float | None
    quality: bool
    text: Path | None
    prompts: Path | None
    answers: bool
    context_tokens: int | None
    exact: bool
    answer_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """What is shown, in which form, and where records go."""

    form: str
    answers: bool
    target: Target
    memory_bytes: int | None
    results: Path | None = None
    resumes: bool = False
    keep_failed: bool = False
    command: str = ""
    """How this was called, without --save and --resume: what a resuming command repeats."""


def compare_models(making: Making, measuring: Measuring, showing: Showing) -> None:
    """Makes, runs and shows a comparison; ends the program with 4 when a row failed, 130 on Ctrl-C.

    Raises what reading the arguments' files raises, and what making the reference raises.
    """
    from ..sources import cache_directory
    from .making import make_rows, source_of
    from .shelf import Shelf

    given = _given_texts(measuring)
    earlier = _earlier(showing)
    records: list[SavedRecord] = []
    ended: EdgeError | KeyboardInterrupt | None = None
    made = None
    with (
        interruptible(),
        Shelf(cache_directory() / "compared", making.cache_limit_bytes, _tell_waiting) as shelf,
    ):
        try:
            with _results_file(showing):
                source = source_of(making)
                text, prompts = _texts(given, measuring, shipped=bool(source and source.shipped))
                if text is not None and making.calibrate is not None:
                    _require_apart(making.calibrate, text)
                made = make_rows(making, source, shelf)
                program = _program(made, measuring, text, prompts, shelf)
                _run(program, made, earlier, showing, records)
        except KeyboardInterrupt as interrupt:
            ended = interrupt
            _tell_interrupted(len(records), showing)
        except EdgeError as error:
            if not records:
                raise
            ended = error  # such as a full disk: the rows there are, are shown first
        failed = show_records(records, showing, _baseline(made, records)) if records else 0
    if isinstance(ended, EdgeError):
        raise ended
    if ended is not None:
        raise typer.Exit(130)
    if failed:
        typer.echo(f"{failed} {'row has' if failed == 1 else 'rows have'} failures.", err=True)
        raise typer.Exit(EdgeError.exit_code)


def _baseline(made: Made | None, records: Sequence[SavedRecord]) -> str | None:
    """The row that rates are held against: the reference's, once there is a record of it."""
    if made is None:
        return None
    reference = made.entries[made.reference]
    artifacts = (getattr(record, "artifact", None) for record in records)
    known = {artifact.fingerprint for artifact in artifacts if artifact is not None}
    return reference.label if reference.artifact.fingerprint in known else None


def show_records(
    records: Sequence[SavedRecord], showing: Showing, baseline: str | None = None
) -> int:
    """Shows the table of some records; the number of its rows that have failures.

    `baseline` is the row that rates are held against; None leaves it to the records. Raises
    UsageError for records that do not belong on one table.
    """
    from ..comparison import compare_records
    from ..report.answers import render_answers, write_answers
    from ..report.comparison import render_comparison, write_comparison
    from .pages import show

    comparison = compare_records(
        records,
        target=showing.target,
        memory_bytes=showing.memory_bytes,
        baseline=baseline,
    )
    if showing.form == "text":
        show(render_comparison(comparison), piped_columns=_PIPED_COLUMNS)
        if showing.answers:
            typer.echo()
            show(render_answers(comparison), piped_columns=_PIPED_COLUMNS)
    else:
        write_comparison(comparison, showing.form, sys.stdout)
        if showing.answers and showing.form == "md":  # the other forms hold the records themselves
            typer.echo()
            write_answers(comparison, "md", sys.stdout)
    return sum(bool(row.failures) for row in comparison.rows)


def _given_texts(measuring: Measuring) -> tuple[Text | None, Prompts | None]:
    """The user's own text and prompts, read before anything is made."""
    from ..quality.text import read_prompts, read_text

    return (
        None if measuring.text is None else read_text(measuring.text),
        None if measuring.prompts is None else read_prompts(measuring.prompts),
    )


def _texts(
    given: tuple[Text | None, Prompts | None], measuring: Measuring, *, shipped: bool
) -> tuple[Text | None, Prompts | None]:
    """On what quality is scored, and what is answered."""
    from ..quality.text import Prompts, evaluation_text, held_out_stories

    text, prompts = given
    if measuring.quality and text is None and prompts is None:
        text = held_out_stories() if shipped else evaluation_text()
    if measuring.answers and prompts is None:
        prompts = Prompts.of(_PROMPTS, name="prompts of edge-runtime's own")
    return text, prompts


def _require_apart(calibrate: Path, text: Text) -> None:
    from quantize import check_apart

    from ..quality.text import read_text

    calibration = read_text(calibrate)
    check_apart(calibration.content, text.content, names=(calibrate.name, text.name))


def _earlier(showing: Showing) -> tuple[SavedRecord, ...]:
    from ..profiler.results import read_saved_results

    if showing.results is None or not showing.resumes:
        return ()
    return read_saved_results(showing.results)


@contextlib.contextmanager
def _results_file(showing: Showing) -> Iterator[None]:
    """Makes the file for the records; it goes again when there came to be none."""
    from ..profiler.results import create_results

    if showing.results is None or showing.resumes:
        yield
        return
    create_results(showing.results)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if showing.results.stat().st_size == 0:
                showing.results.unlink()


def _program(
    made: Made, measuring: Measuring, text: Text | None, prompts: Prompts | None, shelf: Shelf
) -> Program:
    """What is to be run of the artifacts."""
    from ..measurement import decode_workload, prefill_workload
    from ..quality.evaluate import DEFAULT_ANSWER_TOKENS
    from ..rounds.program import Program, default_workloads

    prefill, decode = default_workloads([entry.artifact for entry in made.entries])
    if measuring.prompt_tokens is not None:
        prefill = prefill_workload(measuring.prompt_tokens)
    if measuring.generate_tokens is not None:
        decode = decode_workload(measuring.generate_tokens)
    answer_tokens = measuring.answer_tokens or DEFAULT_ANSWER_TOKENS
    scored = text or prompts
    return Program(
        entries=made.entries,
        reference=made.reference,
        workloads=(prefill, decode),
        rounds=measuring.rounds,
        options=measuring.options,
        limits=measuring.limits,
        stated_power_w=measuring.stated_power_w,
        text=text,
        prompts=prompts,
        context_tokens=measuring.context_tokens,
        exact=measuring.exact,
        answer_tokens=answer_tokens,
        reference_file=None
        if scored is None
        else _reference_file(
            made,
            shelf,
            scored.sha256,
            f"{measuring.context_tokens} {measuring.exact} {answer_tokens}",
        ),
    )


def _reference_file(made: Made, shelf: Shelf, *scored: str) -> Path:
    """Where the reference's distributions are kept from one comparison to the next.

    Another version of an engine computes a little otherwise, and has a file of its own.
    """
    from .model_source import program_versions
    from .shelf import digest_of, key_of

    artifact = made.entries[made.reference].artifact
    key = key_of("reference", digest_of(artifact.paths), *program_versions(), *scored)
    return shelf.place(key, "distributions.reference")


def _run(
    program: Program,
    made: Made,
    earlier: Sequence[SavedRecord],
    showing: Showing,
    records: list[SavedRecord],
) -> None:
    """Collects each record once it is kept, a level that could not be made in its place."""
    from ..profiler.results import append_result
    from ..rounds.run import run_program

    line = StepLine()
    labels = {entry.artifact.fingerprint: entry.label for entry in made.entries}
    rows = list(made.rows)

    def keep(record: SavedRecord, *, is_new: bool) -> None:
        if is_new and showing.results is not None:
            append_result(showing.results, record)
        records.append(record)

    def reach(label: str | None) -> None:
        """Keeps the failures above the first record of a row, or with None all that are left."""
        if label is None or any(row.label == label for row in rows):
            while rows:
                row = rows.pop(0)
                if isinstance(row, LevelFailure):
                    keep(row, is_new=not _is_known(row, earlier))
                elif row.label == label:
                    return

    found = run_program(
        program, earlier=earlier, retry_failed=not showing.keep_failed, on_step=line.show
    )
    try:
        with contextlib.closing(found):  # a child must not outlive a disk that is full
            for record, is_new in found:
                line.clear()
                artifact = getattr(record, "artifact", None)
                reach(labels.get(artifact.fingerprint, "") if artifact is not None else "")
                keep(record, is_new=is_new)
        reach(None)
    finally:
        line.clear()


def _is_known(failure: LevelFailure, earlier: Sequence[SavedRecord]) -> bool:
    """Whether a resumed file says so already."""
    return any(
        isinstance(record, LevelFailure)
        and (record.task, record.label, record.fact) == (failure.task, failure.label, failure.fact)
        for record in earlier
    )


def _tell_waiting(name: str) -> None:
    say(f"another program is making {name}: waiting for it")


def _tell_interrupted(done: int, showing: Showing) -> None:
    words = f"Interrupted after {done} {'record' if done == 1 else 'records'}"
    if not done:
        words += "; levels that were made are kept."
    elif showing.results is None:
        words += "; what there is follows. With --save FILE a comparison can be resumed."
    else:
        file = shlex.quote(str(showing.results))
        words += f", kept in {file}. Go on with: {showing.command} --resume {file}"
    typer.echo(f"edge: {plain(words)}", err=True)
