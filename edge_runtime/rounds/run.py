"""The steps of a program, one after another: what each makes, or why it does not."""

from __future__ import annotations

import contextlib
import datetime as dt
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from ..errors import EdgeError, EngineMissingError, UsageError
from ..measurement import CellFailure, Measurement
from ..profiler import Cell, artifact_record
from ..profiler.measure import tool_version
from ..profiler.sweep import EarlierCells, failed_cell, run_cell
from ..quality.evaluate import answer, reference_scores, score
from ..quality.text import Prompts, Text
from ..saved import SavedRecord
from ..scores import Answers, LevelFailure, Scores
from .course import Course, Step, Task
from .earlier import EarlierScores
from .program import Entry, Program, options_for

Made = TypeVar("Made", Scores, Answers)


def run_program(
    program: Program,
    *,
    earlier: Sequence[SavedRecord] = (),
    retry_failed: bool = True,
    on_step: Callable[[Step], None] | None = None,
) -> Generator[tuple[SavedRecord, bool], None, None]:
    """Runs what is not among the earlier records; yields each with whether it was run just now.

    First the scores, the reference's before the others', then the answers, then the rounds; every
    other round runs backwards, so that what drifts steadily within a round favours none. A record
    stands for a failure too, and is tried again unless `retry_failed` is False. A cell that fails
    before it was ever measured has no further rounds. `on_step` is never called while something is
    timed. However the iteration ends, no child and no temporary file is left; close it where it may
    be left early (`contextlib.closing`).

    Raises UsageError where the request itself is off (a text that is too short for the model), and
    EngineMissingError where no entry's engine is there.
    """
    runner = _Runner(program, earlier, retry_failed=retry_failed, on_step=on_step)
    yield from runner.scores()
    yield from runner.answers()
    yield from runner.rounds()


class _Runner:
    """Runs the steps of one program and keeps what they need of each other."""

    def __init__(
        self,
        program: Program,
        earlier: Sequence[SavedRecord],
        *,
        retry_failed: bool,
        on_step: Callable[[Step], None] | None,
    ) -> None:
        self._program = program
        self._entries = program.entries
        self._options = tuple(options_for(e.artifact, program.options) for e in self._entries)
        self._earlier = EarlierScores(earlier, failures=not retry_failed)
        cells = [r for r in earlier if isinstance(r, Measurement | CellFailure)]
        self._find_cell = EarlierCells(
            cells, program.plan, failures=not retry_failed, stated_power_w=program.stated_power_w
        )
        self._missing: dict[str, EngineMissingError] = {}
        numbers = range(len(self._entries))
        tasks = [Task(i, "score") for i in numbers if program.source is not None]
        tasks += [Task(i, "answer") for i in numbers if program.prompts is not None]
        tasks += self._cells()
        self._course = Course(tasks, [entry.label for entry in self._entries], on_step)

    def scores(self) -> Iterator[tuple[SavedRecord, bool]]:
        """Every entry's scores, the reference's first; what is known already is not run."""
        if self._program.source is None:
            return
        first = self._program.reference
        others = [i for i in range(len(self._entries)) if i != first]
        known = self._known_scores(first, None)
        if known is not None and all(self._known_scores(i, known) for i in others):
            for i in (first, *others):
                found = known if i == first else self._known_scores(i, known)
                assert found is not None
                yield self._earlier_one(Task(i, "score"), found)
            return
        with self._reference_file() as path:
            reference, is_new = self._reference(path, known)
            yield reference, is_new
            for i in others:
                found = self._known_scores(i, reference)
                if found is not None:
                    yield self._earlier_one(Task(i, "score"), found)
                else:
                    yield self._score(i, path, reference), True

    def answers(self) -> Iterator[tuple[SavedRecord, bool]]:
        """Every entry's answers to the prompts."""
        prompts = self._program.prompts
        if prompts is None:
            return
        for i, entry in enumerate(self._entries):
            found = self._earlier.answers(
                entry.artifact, prompts, self._options[i], self._program.answer_tokens
            )
            if found is not None:
                yield self._earlier_one(Task(i, "answer"), found)
                continue
            yield self._attempt(i, "answer", partial(self._answered, i, prompts)), True

    def rounds(self) -> Iterator[tuple[SavedRecord, bool]]:
        """Every round's cells, each in a fresh child."""
        measured: set[Task] = set()
        hopeless: set[Task] = set()
        workloads = {workload.name: workload for workload in self._program.workloads}
        for task in self._cells():
            kind = replace(task, round=None)
            if kind in hopeless:
                self._course.leave_out(task)
                continue
            cell = Cell(
                artifact=self._entries[task.entry].artifact,
                options=self._options[task.entry],
                workload=workloads[task.task],
                limits=self._program.limits,
                round=task.round,
            )
            found = self._find_cell(cell)
            record = found or self._measure(task, cell)
            if isinstance(record, Measurement):
                measured.add(kind)
            elif kind not in measured:
                hopeless.add(kind)
            if found is not None:
                self._course.leave_out(task)
            yield record, found is None

    def _cells(self) -> list[Task]:
        """The cells in the order they are run."""
        return [
            Task(i, workload.name, number)
            for number in range(self._program.rounds)
            for i in _there_and_back(len(self._entries), number)
            for workload in self._program.workloads
        ]

    def _measure(self, task: Task, cell: Cell) -> Measurement | CellFailure:
        with self._course.step(task):
            try:
                self._require(task.entry)
                return run_cell(
                    cell, self._program.plan, self._program.stated_power_w,
                    lambda _cell, progress: self._course.heard(progress),
                )  # fmt: skip
            except EngineMissingError as error:
                self._note_missing(task.entry, error)
                return failed_cell(cell, error)

    @contextlib.contextmanager
    def _reference_file(self) -> Iterator[Path]:
        """Where the reference's distributions are kept: for long, or while this is entered."""
        kept = self._program.reference_file
        if kept is not None:
            yield kept
            return
        with tempfile.TemporaryDirectory(prefix="edge-reference-") as folder:
            yield Path(folder) / "reference"

    def _reference(
        self, path: Path, known: Scores | LevelFailure | None
    ) -> tuple[Scores | LevelFailure, bool]:
        """The reference's scores and whether they are new; its distributions are then in the file.

        Raises UsageError: what is wrong with the text is wrong for all.
        """
        task = Task(self._program.reference, "score")
        if isinstance(known, LevelFailure):
            self._course.leave_out(task)
            return known, False
        artifact, source = self._entries[task.entry].artifact, self._source
        options, program = self._options[task.entry], self._program
        kept = reference_scores(
            path, artifact, source, options=options,
            context_tokens=program.scored_context_tokens, exact=program.exact,
            answer_tokens=program.answer_tokens,
        )  # fmt: skip
        if kept is not None:
            self._course.leave_out(task)
            return (known, False) if known and known.engine == kept.engine else (kept, True)
        work = partial(self._scored, task.entry, make_reference=path)
        return self._attempt(task.entry, "score", work, refused=UsageError), True

    def _score(
        self, index: int, path: Path, reference: Scores | LevelFailure
    ) -> Scores | LevelFailure:
        """One entry's scores against the reference; without any, its perplexity alone."""
        entry = self._entries[index]
        against: Path | None = path
        if isinstance(reference, LevelFailure):
            against = None
            source = self._source
            if isinstance(source, Prompts) and not source.answered:
                # The answers scored would have been the reference's own.
                self._course.leave_out(Task(index, "score"))
                error = EdgeError(
                    f"{entry.label} has nothing to be scored against.",
                    cause=f"{reference.label} could not be scored: {reference.fact}",
                    way_out=reference.way_out,
                )
                return self._failed(entry, "score", error)
        return self._attempt(index, "score", partial(self._scored, index, reference=against))

    def _scored(
        self, index: int, *, reference: Path | None = None, make_reference: Path | None = None
    ) -> Scores:
        program = self._program
        return score(
            self._entries[index].artifact, self._source, options=self._options[index],
            context_tokens=program.scored_context_tokens, exact=program.exact,
            answer_tokens=program.answer_tokens, reference=reference,
            make_reference=make_reference, on_event=self._course.heard,
        )  # fmt: skip

    def _answered(self, index: int, prompts: Prompts) -> Answers:
        return answer(
            self._entries[index].artifact, prompts, options=self._options[index],
            most_tokens=self._program.answer_tokens, on_event=self._course.heard,
        )  # fmt: skip

    def _attempt(
        self,
        index: int,
        task: Literal["score", "answer"],
        work: Callable[[], Made],
        *,
        refused: type[EdgeError] | None = None,
    ) -> Made | LevelFailure:
        """Runs one step: what it made, or why it did not. Raises errors of the kind `refused`."""
        entry = self._entries[index]
        with self._course.step(Task(index, task)):
            try:
                self._require(index)
                return work()
            except EngineMissingError as error:
                self._note_missing(index, error)
                return self._failed(entry, task, error)
            except EdgeError as error:
                if refused is not None and isinstance(error, refused):
                    raise
                return self._failed(entry, task, error)

    def _require(self, index: int) -> None:
        """Raises what was raised when this entry's engine was found to be missing."""
        missing = self._missing.get(self._options[index].backend)
        if missing is not None:
            raise missing

    def _note_missing(self, index: int, error: EngineMissingError) -> None:
        """Remembers that an engine is missing. Raises the error when now no entry has one."""
        self._missing[self._options[index].backend] = error
        if all(options.backend in self._missing for options in self._options):
            raise error

    @staticmethod
    def _failed(entry: Entry, task: Literal["score", "answer"], error: EdgeError) -> LevelFailure:
        return LevelFailure(
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            tool_version=tool_version(),
            task=task,
            label=entry.label,
            artifact=artifact_record(entry.artifact),
            error=type(error).__name__,
            fact=error.fact,
            cause=error.cause,
            way_out=error.way_out,
        )

    @property
    def _source(self) -> Text | Prompts:
        source = self._program.source
        assert source is not None
        return source

    def _known_scores(
        self, index: int, reference: Scores | LevelFailure | None
    ) -> Scores | LevelFailure | None:
        """An entry's scores of an earlier run; `reference` is the record of the reference's own."""
        program = self._program
        return self._earlier.scores(
            self._entries[index].artifact, self._source, self._options[index],
            context_tokens=program.scored_context_tokens, answer_tokens=program.answer_tokens,
            exact=program.exact, reference=reference,
        )  # fmt: skip

    def _earlier_one(self, task: Task, record: SavedRecord) -> tuple[SavedRecord, bool]:
        self._course.leave_out(task)
        return record, False


def _there_and_back(count: int, number: int) -> Sequence[int]:
    """The order of round `number`: every other one runs backwards."""
    return range(count) if number % 2 == 0 else range(count - 1, -1, -1)
