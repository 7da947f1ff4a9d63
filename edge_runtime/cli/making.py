"""The artifacts of a comparison: one model's levels, made where they are missing; or files.

A level that cannot be made stays in the table as a failure with its reason and stops no other;
without the reference there is nothing to compare. It refuses to know which levels are meant, and
how anything is measured.
"""

from __future__ import annotations

import datetime as dt
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifact import Artifact
from ..errors import DiskError, EdgeError, UsageError
from ..scores import LevelFailure
from .engines import format_of_level, level_of
from .jobs import job, say
from .model_source import FLOATS, Source, Wanted, find_source, open_model, wanted_levels
from .shelf import digest_of, key_of

if TYPE_CHECKING:
    from ..rounds.program import Entry
    from .shelf import KeptFolder, Shelf

_Make = Callable[[Path, bool, Callable[[float], None]], Artifact]
"""Makes a file, whether or not it replaces one, and tells which share of it is done."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """Which models are meant, and what is made of them."""

    sources: tuple[str, ...]
    levels: tuple[str, ...] | None
    reference: str | None
    imatrix: Path | None
    calibrate: Path | None
    keep: Path | None
    cache_limit_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The rows of a comparison to come: artifacts, and in their places what could not be made.

    `reference` is the index of the reference among the entries.
    """

    rows: tuple[Entry | LevelFailure, ...]
    reference: int

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What can be measured."""
        return tuple(row for row in self.rows if not isinstance(row, LevelFailure))


def source_of(making: Making) -> Source | None:
    """The one model that levels are made of; None where several files are given.

    Raises UsageError for one that no levels can be made of, and for options that say how levels
    are made where none are.
    """
    if len(making.sources) > 1:
        for name, value in (
            ("--levels", making.levels),
            ("--imatrix", making.imatrix),
            ("--calibrate", making.calibrate),
            ("--keep", making.keep),
        ):
            if value is not None:
                raise UsageError(
                    f"{name} is for one model, and {len(making.sources)} are given.",
                    cause="Several models are compared as they are.",
                    way_out="Leave it out, or give only the model that levels are to be made of.",
                )
        return None
    found = find_source(making.sources[0] if making.sources else None, making.reference)
    if isinstance(found, Source):
        return found
    what = "has random weights" if found.synthetic else f"is quantized already ({found.level})"
    raise UsageError(
        f"{found.path.name} {what}.",
        cause="Levels are made of a model that has lost nothing.",
        way_out="Give the checkpoint, an F16, BF16 or F32 file, or several files to compare.",
    )


def make_rows(making: Making, source: Source | None, shelf: Shelf) -> Made:
    """Makes the levels of the source, or opens the files that are given.

    Raises what `Workshop.make` and `finished_files` raise, and UsageError for levels that cannot
    be made of the source.
    """
    from .shelf import KeptFolder

    if source is None:
        return finished_files(making.sources, making.reference)
    if making.keep is not None and making.keep.resolve() == source.path.resolve():
        raise UsageError(
            f"{making.keep} is the model itself.",
            cause="A checkpoint with finished models in it is taken for these.",
            way_out="Name another folder: --keep DIR",
        )
    importance = making.imatrix is not None or making.calibrate is not None
    wanted = wanted_levels(making.levels, source, importance=importance)
    workshop = Workshop(
        source=source,
        place=shelf if making.keep is None else KeptFolder(making.keep),
        shelf=shelf,
        imatrix=making.imatrix,
        calibrate=making.calibrate,
    )
    return workshop.make(wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Where one model's levels are made.

    Artifacts go to `place`, which may be the user's own folder, importance matrices to `shelf`.
    The matrix is the file `imatrix`, or what the model does with the text `calibrate`.
    """

    source: Source
    place: Shelf | KeptFolder
    shelf: Shelf
    imatrix: Path | None = None
    calibrate: Path | None = None

    def make(self, wanted: Sequence[Wanted]) -> Made:
        """Makes the reference and what is missing of the levels; says on stderr what it makes.

        Raises what making the reference raises, or the importance matrix, and UsageError.
        """
        from ..rounds.program import entries_of

        self._check_matrix()
        reference = self._reference()
        matrix = self._matrix(reference) if any(one.weighted for one in wanted) else None
        found: list[Artifact | LevelFailure] = [reference]
        for one in wanted:
            try:
                level = self._level(one, reference, matrix if one.weighted else None)
                if level_of(level) != one.level:
                    say(f"{one.level} became {level_of(level)}: its blocks do not fit every row")
                found.append(level)
            except UsageError:
                raise  # what is wrong with the request is wrong with every level
            except EdgeError as error:
                say(f"{one.label}: {error}")
                found.append(_failure(one.label, error))
        entries: Iterator[Entry] = iter(
            entries_of([made for made in found if isinstance(made, Artifact)])
        )
        rows = (made if isinstance(made, LevelFailure) else next(entries) for made in found)
        return Made(rows=tuple(rows), reference=0)

    def _reference(self) -> Artifact:
        source = self.source
        if source.kind != "checkpoint":
            return Artifact.open(source.path)
        return self._there(
            f"{source.stem}-{source.reference}.gguf",
            key_of(source.key, source.reference),
            self._converting(source.reference),
        )

    def _level(self, one: Wanted, reference: Artifact, matrix: Path | None) -> Artifact:
        """The artifact of a level, quantized from the reference unless it is another format's."""
        from quantize import QuantizeOptions, requantize

        source = self.source
        key = key_of(source.key, source.reference, one.level)
        if format_of_level(one.level) == "onnx":
            bits = one.level.partition(":")[2]
            if source.kind == "checkpoint":
                return self._there(f"{source.stem}-onnx-{bits}", key, self._converting(one.level))
            return self._there(
                f"{source.stem}-{bits}",
                key,
                lambda out, again, tell: requantize(
                    source.path, out, bits, overwrite=again, progress=tell
                ),
            )
        options = QuantizeOptions(imatrix=matrix)
        return self._there(
            f"{source.stem}-{one.label.replace('+', '-')}.gguf",
            key if matrix is None else key_of(key, self._matrix_key()),
            lambda out, again, tell: requantize(
                reference.path, out, one.level, options=options, overwrite=again, progress=tell
            ),
        )

    def _converting(self, level: str) -> _Make:
        from quantize import convert

        return lambda out, again, tell: convert(
            self.source.path, out, level=level, overwrite=again, progress=tell
        )

    def _there(self, name: str, key: str, make: _Make) -> Artifact:
        """The artifact of that file name and key, made unless it lies there whole."""
        path = self.place.place(key, name)
        with self.place.alone(path):
            artifact = _opened(path)
            if artifact is None:
                say(f"making {name}")
                again = os.path.lexists(path)  # what is broken may be replaced, nothing else
                with job(name, self.source.size_bytes) as progress:
                    artifact = self._with_room(lambda: make(path, again, progress))
            self.place.made(path)
        return artifact

    def _with_room(self, make: Callable[[], Artifact]) -> Artifact:
        try:
            return make()
        except DiskError as error:
            reason = error.__cause__
            if isinstance(reason, OSError) and reason.errno not in _FULL:
                raise
            # What earlier comparisons left may be all that is in the way.
            if not self.place.make_room():
                raise
        return make()

    def _check_matrix(self) -> None:
        """Refuses what is no matrix, or no text, before anything is made."""
        from quantize import imatrix

        from ..quality.text import read_text

        if self.imatrix is not None:
            imatrix.read(self.imatrix)
        if self.calibrate is not None:
            read_text(self.calibrate)

    def _matrix_key(self) -> str:
        """What the importance matrix is made of; the user's is what it is."""
        if self.calibrate is None:
            assert self.imatrix is not None
            return digest_of((self.imatrix,))
        return key_of(self.source.key, self.source.reference, digest_of((self.calibrate,)))

    def _matrix(self, reference: Artifact) -> Path:
        """The importance matrix: the user's, or one made of the reference and kept."""
        from quantize import calibrate

        if self.calibrate is None:
            assert self.imatrix is not None
            return self.imatrix
        path = self.shelf.place(self._matrix_key(), f"{self.source.stem}-imatrix.gguf")
        with self.shelf.alone(path):
            if not path.exists():
                say(f"running {reference.path.name} on {self.calibrate.name} for importances")
                with job(path.name, None) as progress:
                    calibrate(reference.path, self.calibrate, path, progress=progress)
        return path


def finished_files(given: Sequence[str], reference: str | None) -> Made:
    """Several model files as they are.

    The reference is the one of that label or file name, else the first of floats, else the one with
    the most bits, which is said. Raises UsageError for an unknown reference, and what opening
    raises.
    """
    from ..rounds.program import entries_of

    entries = entries_of([open_model(text) for text in given])
    return Made(rows=entries, reference=_reference_among(entries, given, reference))


def _reference_among(entries: Sequence[Entry], given: Sequence[str], asked: str | None) -> int:
    from ..rounds.program import reference_of

    if asked is not None:
        if asked in given:
            return given.index(asked)
        for index, entry in enumerate(entries):
            if asked in (entry.label, entry.artifact.path.name, str(entry.artifact.path)):
                return index
        raise UsageError(
            f"--reference: none of the models is {asked}.",
            way_out=f"Choose one of: {', '.join(entry.label for entry in entries)}.",
        )
    found = reference_of([entry.artifact for entry in entries])
    if level_of(entries[found].artifact) not in FLOATS:
        say(
            f"no model is at F32, F16 or BF16: the others are held against {entries[found].label},"
            " which has lost something itself"
        )
    return found


def _opened(path: Path) -> Artifact | None:
    """What lies there whole, or None."""
    try:
        return Artifact.open(path) if path.exists() else None
    except EdgeError:
        return None


def _failure(label: str, error: EdgeError) -> LevelFailure:
    from .. import __version__

    return LevelFailure(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        tool_version=__version__,
        task="make",
        label=label,
        error=type(error).__name__,
        fact=error.fact,
        cause=error.cause,
        way_out=error.way_out,
    )
