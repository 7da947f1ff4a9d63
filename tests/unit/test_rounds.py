"""Comparisons run in turns: their order, what fails, what is kept, and how they go on."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import edge_runtime as edge
from edge_runtime.artifact import Artifact
from edge_runtime.comparison import Quality, Rate
from edge_runtime.errors import (
    BackendError,
    DiskError,
    EdgeError,
    EngineMissingError,
    UnsupportedError,
    UsageError,
)
from edge_runtime.measurement import (
    CellFailure,
    Measurement,
    SessionOptions,
    decode_workload,
    prefill_workload,
)
from edge_runtime.profiler import Cell, Plan, Progress, artifact_record, detect_host
from edge_runtime.profiler.results import read_saved_file
from edge_runtime.profiler.sweep import failed_cell
from edge_runtime.quality.text import Prompts, Text, default_context_tokens
from edge_runtime.rounds import (
    Program,
    Step,
    default_workloads,
    entries_of,
    reference_of,
    run_program,
)
from edge_runtime.rounds import run as running
from edge_runtime.saved import SavedRecord
from edge_runtime.scores import Answers, LevelFailure, Scores
from tests.records import measurement, tg_run
from tests.score_records import ENGINE, answers, drawn_scores
from tests.score_records import reference_of as reference_record

TEXT = Text(name="a.txt", content="some words")
PP, TG = prefill_workload(8), decode_workload(4)
Fault = EdgeError | type[KeyboardInterrupt]


class Bench:
    """Stands in for the children: notes what was asked of whom, and fails as told.

    `faults` are by what is done: a file's name and `score`, `answer` or a workload's name; a round
    after them for that round only.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.faults: dict[str, Fault] = {}
        self.kept: Scores | None = None
        self.paths: list[Path] = []
        self.listen_s = 0.0

    def _do(self, *words: object) -> None:
        what = " ".join(map(str, words))
        self.done.append(what)
        for known, fault in self.faults.items():
            if what == known or what.startswith(f"{known} "):
                raise fault

    def score(self, artifact: Artifact, source: Text | Prompts, **asked: object) -> Scores:
        """What `evaluate.score` does, but for the numbers."""
        on_event = asked["on_event"]
        assert callable(on_event)
        on_event(Progress(stage="loading"))
        against, made = asked["reference"], asked["make_reference"]
        if isinstance(made, Path):
            self.paths.append(made)
            made.write_text(artifact.fingerprint)
        assert against is None or (isinstance(against, Path) and against.exists())
        self._do(artifact.path.stem, "score", *(["alone"] if not against and not made else []))
        of = artifact_record(artifact)
        found = drawn_scores(of, 0.1 if against else None, requested=asked["options"])
        text = replace(
            found.text, sha256=source.sha256, context_tokens=asked["context_tokens"],
            kind="text" if isinstance(source, Text) else "prompts",
            answer_tokens=None if isinstance(source, Text) else asked["answer_tokens"],
        )  # fmt: skip
        if isinstance(against, Path):
            kept = replace(of, fingerprint=against.read_text())
            return replace(found, text=text, reference=reference_record(kept))
        return replace(found, text=text)

    def answer(self, artifact: Artifact, prompts: Prompts, **asked: object) -> Answers:
        self._do(artifact.path.stem, "answer")
        return answers(
            artifact_record(artifact), ["yes"], prompts_sha256=prompts.sha256,
            most_tokens=asked["most_tokens"], requested=asked["options"],
        )  # fmt: skip

    def reference_scores(self, *_: object, **__: object) -> Scores | None:
        return self.kept

    def run_cell(
        self,
        cell: Cell,
        _plan: Plan,
        _power: float | None,
        on_event: Callable[[Cell, Progress], None],
    ) -> Measurement | CellFailure:
        on_event(cell, Progress(stage="running", runs=1, max_runs=5))
        time.sleep(self.listen_s)
        try:
            self._do(cell.artifact.path.stem, cell.workload.name, cell.round)
        except EngineMissingError:
            raise
        except EdgeError as error:
            return failed_cell(cell, error)
        made = measurement((tg_run(4, 10**7),), workload=cell.workload)
        host = replace(made.host, cpu=detect_host().cpu, cores_usable=detect_host().cores_usable)
        return replace(
            made, artifact=artifact_record(cell.artifact), requested=cell.options,
            round=cell.round, host=host,
        )  # fmt: skip


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    for name in ("score", "answer", "reference_scores", "run_cell"):
        monkeypatch.setattr(running, name, getattr(made, name))
    return made


@pytest.fixture
def models(random_gguf: Path) -> tuple[Artifact, ...]:
    """Three models, a, b and c, which the stand-in never opens."""
    one = Artifact.open(random_gguf)
    shape = replace(one.shape, context_tokens=64)
    return tuple(
        replace(one, path=Path(f"{name}.gguf"), fingerprint=name * 16, shape=shape)
        for name in "abc"
    )


def program(models: tuple[Artifact, ...], **changes: object) -> Program:
    usual = Program(
        entries=entries_of(models), reference=0, workloads=(PP, TG), rounds=2, text=TEXT,
        options=SessionOptions(backend="fake"),
    )  # fmt: skip
    return replace(usual, **changes)  # type: ignore[arg-type]


def records(found: Iterator[tuple[SavedRecord, bool]]) -> list[SavedRecord]:
    return [record for record, _ in found]


def test_the_reference_comes_first_and_every_other_round_runs_backwards(
    bench: Bench, models: tuple[Artifact, ...]
) -> None:
    found = list(run_program(program(models, reference=1)))
    assert bench.done == [
        "b score", "a score", "c score",
        "a pp8 0", "a tg4 0", "b pp8 0", "b tg4 0", "c pp8 0", "c tg4 0",
        "c pp8 1", "c tg4 1", "b pp8 1", "b tg4 1", "a pp8 1", "a tg4 1",
    ]  # fmt: skip
    assert all(is_new for _, is_new in found)
    assert [r.round for r, _ in found if isinstance(r, Measurement)] == [0] * 6 + [1] * 6
    scored = [r for r, _ in found if isinstance(r, Scores)]
    against = [r.reference and r.reference.artifact.fingerprint for r in scored]
    assert against == [None, models[1].fingerprint, models[1].fingerprint]


def test_without_a_text_nothing_is_scored_and_without_rounds_nothing_measured(
    bench: Bench, models: tuple[Artifact, ...]
) -> None:
    assert not records(run_program(program(models, text=None, rounds=0)))
    assert not records(run_program(program(models, quality=False, rounds=0)))
    assert not bench.done


def test_prompts_are_scored_where_there_is_no_text_and_answered_by_all(
    bench: Bench, models: tuple[Artifact, ...]
) -> None:
    prompts = Prompts.of(["Why?"], name="mine")
    found = records(run_program(program(models[:2], text=None, prompts=prompts, rounds=0)))
    assert bench.done == ["a score", "b score", "a answer", "b answer"]
    assert isinstance(found[0], Scores)
    assert (found[0].text.kind, found[0].text.sha256) == ("prompts", prompts.sha256)


@pytest.mark.parametrize("cut", [1, 2, 3, 8, 14])
def test_it_goes_on_where_it_was_interrupted_wherever_that_was(
    bench: Bench, models: tuple[Artifact, ...], cut: int
) -> None:
    whole = records(run_program(program(models)))
    bench.done.clear()
    again = list(run_program(program(models), earlier=whole[:cut]))
    kept = [r for r, is_new in again if not is_new]
    missing = len(whole) - cut
    # While a level is missing its scores, the reference's distributions must be made once more.
    remade = 1 if cut < 3 else 0
    assert kept == whole[remade:cut]
    assert len(bench.done) == missing + remade
    assert len(again) == len(whole)


def test_a_reference_file_that_fits_is_not_made_again(
    bench: Bench, models: tuple[Artifact, ...], tmp_path: Path
) -> None:
    file = tmp_path / "reference"
    whole = records(run_program(program(models, rounds=0, reference_file=file)))
    assert bench.paths == [file]
    assert file.exists()
    assert isinstance(whole[0], Scores)
    bench.done.clear()
    bench.kept = replace(whole[0], notes=("from the file",))
    again = list(run_program(program(models, rounds=0, reference_file=file), earlier=whole[:1]))
    assert bench.done == ["b score", "c score"]
    assert again[0] == (whole[0], False)
    bench.done.clear()
    first, *_ = run_program(program(models, rounds=0, reference_file=file))
    assert bench.done == ["b score", "c score"]
    assert first == (bench.kept, True)


def test_what_was_held_against_other_distributions_is_scored_again(
    bench: Bench, models: tuple[Artifact, ...], tmp_path: Path
) -> None:
    whole = records(run_program(program(models, rounds=0)))
    for change in (
        {"text": Text(name="a.txt", content="other words")},
        {"context_tokens": 32},
        {"reference": 2},
        {"exact": True},
        {"options": SessionOptions(backend="fake", kv_type_k="q8_0")},
    ):
        bench.done.clear()
        list(run_program(program(models, rounds=0, **change), earlier=whole))
        assert len(bench.done) == 3, change
    newer = replace(ENGINE, version="2")
    bench.done.clear()
    bench.kept = replace(whole[0], engine=newer)  # type: ignore[type-var]
    file = tmp_path / "reference"
    file.write_text(models[0].fingerprint)
    list(run_program(program(models, rounds=0, reference_file=file), earlier=whole[:2]))
    assert bench.done == ["b score", "c score"]


def test_a_failed_score_is_a_row_with_its_reason_and_the_others_go_on(
    bench: Bench, models: tuple[Artifact, ...]
) -> None:
    bench.faults["b score"] = UnsupportedError("Other tokens.", cause="It is.", way_out="Do.")
    found = records(run_program(program(models, rounds=0)))
    assert [type(r) for r in found] == [Scores, LevelFailure, Scores]
    failure = found[1]
    assert isinstance(failure, LevelFailure)
    assert failure.artifact == artifact_record(models[1])
    assert (failure.task, failure.error) == ("score", "UnsupportedError")
    assert (failure.fact, failure.cause, failure.way_out) == ("Other tokens.", "It is.", "Do.")


def test_failures_are_tried_again_unless_told_otherwise(
    bench: Bench, models: tuple[Artifact, ...]
) -> None:
    bench.faults = {"b score": UnsupportedError("No."), "c tg4": BackendError("No.")}
    whole = records(run_program(program(models)))
    assert [r.round for r in whole if isinstance(r, CellFailure)] == [0]
    bench.faults.clear()
    bench.done.clear()
    kept = list(run_program(program(models), earlier=whole, retry_failed=False))
    assert bench.done == []
    assert [r for r, _ in kept] == whole
    list(run_program(program(models), earlier=whole))
    assert bench.done == ["a score", "b score", "c tg4 0", "c tg4 1"]


def test_a_cell_that_was_never_measured_has_no_further_rounds_but_a_slip_has(
    bench: Bench, models: tuple[Artifact, ...]
) -> None:
    bench.faults = {"a pp8": BackendError("Refused."), "b tg4 1": BackendError("Killed.")}
    found = records(run_program(program(models, text=None, rounds=3)))
    assert [d for d in bench.done if d.startswith("a pp8")] == ["a pp8 0"]
    assert [d for d in bench.done if d.startswith("b tg4")] == ["b tg4 0", "b tg4 1", "b tg4 2"]
    assert sum(isinstance(r, CellFailure) for r in found) == 2


def test_without_a_reference_a_text_still_gives_perplexities(
    bench: Bench, models: tuple[Artifact, ...]
) -> None:
    bench.faults["a score"] = DiskError("The disk is full.")
    found = records(run_program(program(models, rounds=0)))
    assert bench.done == ["a score", "b score alone", "c score alone"]
    assert [type(r) for r in found] == [LevelFailure, Scores, Scores]


def test_without_a_reference_prompts_without_answers_have_nothing_to_be_scored_on(
    bench: Bench, models: tuple[Artifact, ...]
) -> None:
    bench.faults["a score"] = DiskError("The disk is full.", way_out="Free some.")
    asked = program(models, rounds=0, text=None, prompts=Prompts.of(["Why?"]))
    found = [r for r in records(run_program(asked)) if isinstance(r, LevelFailure)]
    assert len(found) == 3
    assert "The disk is full." in found[1].cause
    assert found[1].way_out == "Free some."
    assert bench.done == ["a score", "a answer", "b answer", "c answer"]


def test_a_text_that_no_level_can_be_scored_on_ends_it(
    bench: Bench, models: tuple[Artifact, ...]
) -> None:
    bench.faults["a score"] = UsageError("The text is too short.")
    with pytest.raises(UsageError, match="too short"):
        list(run_program(program(models)))
    assert bench.done == ["a score"]


def test_a_missing_engine_fails_its_own_rows_only(
    bench: Bench, models: tuple[Artifact, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def options_for(artifact: Artifact, options: SessionOptions) -> SessionOptions:
        return replace(options, backend="onnx" if artifact is models[2] else "fake")

    monkeypatch.setattr(running, "options_for", options_for)
    bench.faults["c"] = EngineMissingError("There is no ONNX Runtime.", way_out="pip install it")
    found = records(run_program(program(models)))
    assert [d for d in bench.done if d.startswith("c")] == ["c score"]  # asked for once
    failed = [r for r in found if isinstance(r, LevelFailure | CellFailure)]
    assert {r.error for r in failed} == {"EngineMissingError"}
    assert len(failed) == 3
    bench.faults = {
        "a": EngineMissingError("There is no engine."), "c": EngineMissingError("Nor another."),
    }  # fmt: skip
    with pytest.raises(EngineMissingError):
        list(run_program(program((models[0], models[2]))))


@pytest.mark.parametrize("where", ["b score", "b tg4 0"])
def test_an_interruption_comes_through_and_leaves_no_file(
    bench: Bench,
    models: tuple[Artifact, ...],
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    bench.faults[where] = KeyboardInterrupt
    kept: list[object] = []
    with pytest.raises(KeyboardInterrupt):
        kept.extend(run_program(program(models)))
    assert len(kept) == bench.done.index(where)
    assert bench.paths
    assert not list(folder.iterdir())


def test_it_tells_where_it_is_and_how_long_it_may_take(
    bench: Bench, models: tuple[Artifact, ...]
) -> None:
    bench.listen_s = 0.02
    steps: list[Step] = []
    list(run_program(program(models), on_step=steps.append))
    assert {step.steps for step in steps} == {15}
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[0].label == entries_of(models)[0].label
    assert (steps[0].task, steps[0].left_s) == ("score", None)
    assert "loading" in {step.detail for step in steps}
    assert "run 2 of at most 5" in {step.detail for step in steps}
    left = {step.done: step.left_s for step in steps}
    # Nine cells of 20 ms each are left when three of twelve are done.
    assert left[6] is not None
    assert 9 * 0.02 <= left[6] < 9 * 0.2
    last = left[14]
    assert last is not None
    assert last < left[6]


def test_what_is_known_or_left_out_counts_as_done(
    bench: Bench, models: tuple[Artifact, ...]
) -> None:
    whole = records(run_program(program(models)))
    bench.faults["c tg4 1"] = BackendError("No.")
    steps: list[Step] = []
    list(run_program(program(models), earlier=whole[:-1], on_step=steps.append))
    assert (steps[0].done, steps[0].steps, steps[0].left_s) == (14, 15, None)


def test_one_model_named_twice_is_refused(models: tuple[Artifact, ...]) -> None:
    with pytest.raises(UsageError, match="cannot be told apart"):
        program((models[0], models[1], models[0]))


@pytest.mark.parametrize(
    "change",
    [
        {"entries": ()},
        {"reference": 3},
        {"reference": -1},
        {"rounds": -1},
        {"answer_tokens": 0},
        {"workloads": (TG, TG)},
    ],
)
def test_a_program_that_cannot_be_run_is_refused(
    models: tuple[Artifact, ...], change: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        program(models, **change)


def test_defaults_fit_the_smallest_context(models: tuple[Artifact, ...]) -> None:
    assert [w.name for w in default_workloads(models)] == ["pp64", "tg64"]
    assert program(models).scored_context_tokens == 64
    assert program(models, context_tokens=32).scored_context_tokens == 32
    # A file that does not say what its model has narrows nothing.
    assert [w.name for w in default_workloads([])] == ["pp512", "tg128"]
    assert default_context_tokens() == 512


def test_the_reference_is_the_first_of_full_precision_else_the_widest(
    models: tuple[Artifact, ...],
) -> None:
    q4, f16, bf16, q8 = (
        replace(models[0], level=level) for level in ("Q4_0", "F16", "BF16", "Q8_0")
    )
    assert reference_of((q4, f16, q8)) == 1
    assert reference_of((q4, f16, bf16)) == 2
    half = tuple(replace(t, size_bytes=t.size_bytes // 2) for t in models[0].tensors)
    assert reference_of((replace(q4, tensors=half), q8)) == 1


def test_the_library_compares_in_one_call_and_goes_on_with_its_results(
    make_random_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    paths = [make_random_gguf(f"{name}.gguf", context=c) for name, c in (("a", 64), ("b", 96))]
    text = tmp_path / "mine.txt"
    text.write_text("A text of its own, read by two models of random bytes. " * 6)
    results = tmp_path / "results.jsonl"
    told: list[Step] = []

    def compare(**more: object) -> edge.Comparison:
        return edge.compare(
            paths, text=text, rounds=1, workloads=[decode_workload(4)],
            plan=Plan(warmups=0, min_runs=1, max_runs=1), options=SessionOptions(backend="fake"),
            results=results, on_step=told.append, **more,
        )  # fmt: skip

    first = compare()
    assert [row.label for row in first.rows] == ["F32 (a.gguf)", "F32 (b.gguf)"]
    reference, other = first.rows
    assert reference.is_reference
    assert reference.is_baseline
    assert not other.failures
    assert isinstance(other.quality, Quality)
    assert other.quality.kl is not None
    assert isinstance(other.decode, Rate)
    assert other.decode.ratio is not None
    saved = read_saved_file(results)
    assert saved == first.records
    told.clear()
    again = compare()
    assert not told
    assert again.to_records() == first.to_records()
    assert read_saved_file(results) == saved


def test_the_library_refuses_nothing_to_compare() -> None:
    with pytest.raises(UsageError, match="nothing to compare"):
        edge.compare([])
    with pytest.raises(UsageError, match="One model"):
        edge.compare("tiny-F16.gguf")


def test_the_library_adds_the_reference_it_is_given(
    bench: Bench, models: tuple[Artifact, ...]
) -> None:
    options = SessionOptions(backend="fake")
    edge.compare(models[:2], reference=models[2], text=TEXT, rounds=0, options=options)
    assert bench.done == ["c score", "a score", "b score"]
    bench.done.clear()
    edge.compare(models, reference=models[1], text=TEXT, rounds=0, options=options)
    assert bench.done == ["b score", "a score", "c score"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be signalled")
def test_a_real_child_ends_with_the_interruption(
    random_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    def interrupt(step: Step) -> None:
        if step.detail == "loading":
            os.kill(os.getpid(), signal.SIGINT)

    results = tmp_path / "results.jsonl"
    others = psutil.Process().children()  # of fixtures that live as long as the session
    with pytest.raises(KeyboardInterrupt):
        edge.compare(
            [random_gguf], quality=False, rounds=1, workloads=[decode_workload(4)],
            options=SessionOptions(backend="fake"), results=results, on_step=interrupt,
        )  # fmt: skip
    assert psutil.Process().children() == others
    assert results.read_bytes() == b""
