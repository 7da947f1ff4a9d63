"""Which records belong to which row, and which of several on one thing counts.

A results file that was resumed may hold several records of one thing: the last one counts, and a
success is never undone by a failure, whichever came first. Nothing is worked out here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..latency import LatencyFailure, LatencyMeasurement
from ..measurement import ArtifactRecord, CellFailure, Measurement
from ..saved import SavedRecord
from ..scores import Answers, LevelFailure, Scores

Failure = CellFailure | LevelFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The records of one row. `speeds` are in order of workload and round as they first came.

    `artifact` is None for a level that could not even be made.
    """

    label: str
    artifact: ArtifactRecord | None
    speeds: tuple[Measurement, ...]
    scores: Scores | None
    answers: Answers | None
    failures: tuple[Failure, ...]


def row_labels(artifacts: Sequence[ArtifactRecord]) -> tuple[str, ...]:
    """The rows' names of some artifacts: their levels, with the file's name where two are equal.

    ONNX levels are named as a command line does, `onnx:int4`; `+imatrix` says that one was used.
    """
    labels = tuple(_level(artifact) for artifact in artifacts)
    labels = _told_apart(labels, [artifact.file for artifact in artifacts])
    return _told_apart(labels, [artifact.fingerprint[:8] for artifact in artifacts])


def _level(artifact: ArtifactRecord) -> str:
    prefix = "onnx:" if artifact.format == "onnx" else ""
    return f"{prefix}{artifact.level}{'+imatrix' if artifact.imatrix else ''}"


def _told_apart(labels: Sequence[str], by: Sequence[str]) -> tuple[str, ...]:
    times = Counter(labels)
    return tuple(
        label if times[label] == 1 else f"{label} ({more})"
        for label, more in zip(labels, by, strict=True)
    )


def levels_of(records: Iterable[SavedRecord]) -> tuple[Level, ...]:
    """The levels that the records speak of, in order of first appearance.

    A failure to make a level belongs to the row of its name. Records of latency are of no level.
    """
    known = tuple(r for r in records if not isinstance(r, LatencyMeasurement | LatencyFailure))
    artifacts: dict[str, ArtifactRecord] = {}
    for record in known:
        if record.artifact is not None:
            artifacts.setdefault(record.artifact.fingerprint, record.artifact)
    labels = dict(zip(artifacts, row_labels(tuple(artifacts.values())), strict=True))
    of: dict[str, list[SavedRecord]] = {}
    for record in known:
        if record.artifact is not None:
            label = labels[record.artifact.fingerprint]
        else:
            assert isinstance(record, LevelFailure)
            label = record.label
        of.setdefault(label, []).append(record)
    named = {label: artifacts[fingerprint] for fingerprint, label in labels.items()}
    return tuple(_level_of(label, named.get(label), found) for label, found in of.items())


def _level_of(label: str, artifact: ArtifactRecord | None, records: Sequence[SavedRecord]) -> Level:
    speeds: dict[tuple[str, int | None], Measurement] = {}
    cells: dict[tuple[str, int | None], CellFailure] = {}
    tasks: dict[str, LevelFailure] = {}
    done: dict[str, SavedRecord] = {}
    for record in records:
        if isinstance(record, Measurement):
            speeds[record.workload.name, record.round] = record
        elif isinstance(record, CellFailure):
            cells[record.workload.name, record.round] = record
        elif isinstance(record, LevelFailure):
            tasks[record.task] = record
        elif isinstance(record, Scores):
            done["score"] = record
        elif isinstance(record, Answers):
            done["answer"] = record
    scores, answers = done.get("score"), done.get("answer")
    made = artifact is not None
    return Level(
        label=label,
        artifact=artifact,
        speeds=tuple(speeds.values()),
        scores=scores if isinstance(scores, Scores) else None,
        answers=answers if isinstance(answers, Answers) else None,
        failures=(
            *(f for task, f in tasks.items() if task not in done and not (made and task == "make")),
            *(failure for key, failure in cells.items() if key not in speeds),
        ),
    )


def reference_of(levels: Sequence[Level]) -> str | None:
    """The label of the row that the others' scores were held against, if it is among them."""
    for level in levels:
        if level.scores is not None and level.scores.reference is not None:
            wanted = level.scores.reference.artifact.fingerprint
            return next(
                (o.label for o in levels if o.artifact and o.artifact.fingerprint == wanted), None
            )
    return None
