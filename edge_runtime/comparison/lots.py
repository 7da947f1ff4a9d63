"""Records of anywhere, divided into tables: what may stand on one does, what may not never does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from ..errors import UsageError
from ..latency import LatencyFailure, LatencyMeasurement
from ..measurement import ArtifactRecord, CellFailure, Measurement, Workload
from ..saved import SavedRecord
from ..scores import Scores
from .levels import levels_of
from .likeness import (
    Facts,
    backend_facts,
    host_facts,
    model_facts,
    refuse_unlike,
    running_facts,
    text_facts,
    time_facts,
)


def alike_lots(records: Sequence[SavedRecord]) -> tuple[tuple[SavedRecord, ...], ...]:
    """Records of anywhere, divided into lots that `compare_records` may take.

    Measurements of one model that were made alike share a lot, and so do those of artifacts that
    were held against one reference. Scores of one text join each lot that has one of their
    artifacts. Scores of another text have a lot of their own, with what was measured of
    their artifacts once more. The order is that of the records. Latencies of plain networks are in
    no lot.
    """
    known = [r for r in records if not isinstance(r, LatencyMeasurement | LatencyFailure)]
    models = _models(known)
    lots: list[_Lot] = []
    for record in known:
        if isinstance(record, Measurement):
            home = next((lot for lot in lots if lot.takes(record, models)), None)
            if home is None:
                lots.append(home := _Lot(record, models))
            home.add(record)
    made = [lot.records for lot in lots]
    for number, record in enumerate(known):
        if not isinstance(record, Measurement):
            _join(made, record, models, _model_at(known, number, models))
    speeds = [lot[:] for lot in made if any(isinstance(record, Measurement) for record in lot)]
    for lot in made:
        if not any(isinstance(record, Measurement) for record in lot):
            lot.extend(_speeds_for(lot, speeds))
    order = {id(record): number for number, record in enumerate(known)}
    return tuple(tuple(sorted(lot, key=lambda record: order[id(record)])) for lot in made)


def runs_of(files: Iterable[Sequence[SavedRecord]]) -> tuple[tuple[SavedRecord, ...], ...]:
    """The records of several files, each once, those of one run together.

    Files that hold the same round of the same thing, measured alike, are of two runs: these rounds
    did not take turns, and are never paired.
    """
    runs: list[tuple[dict[SavedRecord, None], dict[object, Measurement]]] = []
    for records in files:
        rounds: dict[object, Measurement] = {
            (record.artifact.fingerprint, record.workload, record.round, _made(record)): record
            for record in records
            if isinstance(record, Measurement) and record.round is not None
        }
        home = next(
            (run for run in runs if all(run[1].get(at, r) == r for at, r in rounds.items())), None
        )
        if home is None:
            runs.append(home := ({}, {}))
        home[0].update(dict.fromkeys(records))
        home[1].update(rounds)
    return tuple(tuple(run) for run, _ in runs if run)


_Models = Mapping[str | None, Facts]
"""Fingerprint -> what tells its model from others."""


class _Lot:
    """Measurements that were made alike, found out without looking at each of them again."""

    def __init__(self, first: Measurement, models: _Models) -> None:
        self.records: list[SavedRecord] = []
        self._facts = self._facts_of(first, models)
        self._engines: dict[str, Facts] = {}
        self._workloads: dict[str, Workload] = {}

    def takes(self, record: Measurement, models: _Models) -> bool:
        """Whether it was made like those that are here."""
        engine, workload = backend_facts(record), record.workload
        return (
            self._facts == self._facts_of(record, models)
            and self._engines.get(record.artifact.format, engine) == engine
            and self._workloads.get(workload.name, workload) == workload
        )

    def add(self, record: Measurement) -> None:
        """Adds one that it takes."""
        self.records.append(record)
        self._engines[record.artifact.format] = backend_facts(record)
        self._workloads[record.workload.name] = record.workload

    @staticmethod
    def _facts_of(record: Measurement, models: _Models) -> Facts:
        return (*models[record.artifact.fingerprint], *_made(record))


def _made(record: Measurement) -> Facts:
    return (*host_facts(record.host), *running_facts(record), *time_facts(record))


def _models(records: Iterable[SavedRecord]) -> _Models:
    """The model of each artifact, by fingerprint: that of the reference it was held against."""
    found: dict[str | None, Facts] = {}
    for record in records:
        artifact = getattr(record, "artifact", None)
        if isinstance(artifact, ArtifactRecord):
            found.setdefault(artifact.fingerprint, model_facts(artifact))
        if isinstance(record, Scores) and record.reference is not None:
            found[record.artifact.fingerprint] = model_facts(record.reference.artifact)
    return found


def _model_at(records: Sequence[SavedRecord], number: int, models: _Models) -> Facts | None:
    """The model of a record. A level that could not be made has none of its own, but neighbours.

    Of the next record and the one before that have a model it is that of the first made after it.
    """
    record = records[number]
    if (own := _fingerprint(record)) is not None:
        return models[own]
    sides = (islice(records, number, None), reversed(records[:number]))
    near = [next((r for r in side if _fingerprint(r) is not None), None) for side in sides]
    known = [other for other in near if other is not None]
    if not known:
        return None
    # A level is made before anything of its comparison is measured.
    after = min(known, key=lambda other: (other.created < record.created, other.created))
    return models[_fingerprint(after)]


def _join(
    lots: list[list[SavedRecord]], record: SavedRecord, models: _Models, model: Facts | None
) -> None:
    wanted = _fingerprint(record)
    same = [lot for lot in lots if any(models.get(_fingerprint(r)) == model for r in lot)]
    # What has no artifact is missing from every lot of its model.
    fitting = [lot for lot in same if wanted is None or any(_fingerprint(r) == wanted for r in lot)]
    if isinstance(record, Scores | CellFailure):
        # What fits none of these, or was never measured, stands with one that it does fit.
        others = (lot for lot in same if _takes(lot, record))
        fitting = [lot for lot in fitting if _takes(lot, record)] or list(islice(others, 1))
    elif not fitting:
        fitting = same[:1]
    for lot in fitting:
        lot.append(record)
    if not fitting:
        lots.append([record])


def _speeds_for(
    lot: Sequence[SavedRecord], others: Sequence[Sequence[SavedRecord]]
) -> list[SavedRecord]:
    """What was measured of a lot's artifacts, of the first of the others that has any of it."""
    wanted = {_fingerprint(record) for record in lot}
    for other in others:
        found: list[SavedRecord] = [
            record
            for record in other
            if isinstance(record, Measurement | CellFailure) and _fingerprint(record) in wanted
        ]
        if found and _takes(lot, *found):
            return found
    return []


def _fingerprint(record: SavedRecord) -> str | None:
    artifact = getattr(record, "artifact", None)
    return getattr(artifact, "fingerprint", None)


def _takes(lot: Sequence[SavedRecord], *more: SavedRecord) -> bool:
    """Whether a lot stays alike with some more records, none of which takes another's place."""
    texts = [text_facts(record) for record in (*lot, *more) if isinstance(record, Scores)]
    if any(text != texts[0] for text in texts):
        return False
    try:
        refuse_unlike(levels_of((*lot, *more)))
    except UsageError:
        return False
    return True
