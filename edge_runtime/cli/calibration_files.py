"""The measurements in files that a device's owner brings: what a check saved, or a profile.

Each file says by its content what it is. One that was made as if on a smaller device, or that
holds projections, is refused with its reason; the rest is read as the rooms that wrote it say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..basis import Unavailable
from ..codec import from_jsonable
from ..errors import FormatError, UsageError
from ..feasibility import CheckReport
from ..measurement import BandwidthReading, Measurement
from ..profiler.results import read_saved_file
from .whole_file import read_whole

MAKE_ONE = "Make one on the device: edge check --save device.json"
MOST_FILE_BYTES = 256 << 20
CHECK_SCHEMA = 2

_NOT_READ = Unavailable(
    reason="the files hold no reading of the memory's bandwidth",
    remedy="edge check --save device.json reads it",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedMeasurements:
    """What some files hold together: measurements, and the last bandwidth that a check read."""

    measurements: tuple[Measurement, ...]
    bandwidth: BandwidthReading | Unavailable

    @property
    def created(self) -> str:
        """When the last of them was made."""
        return max((one.created for one in self.measurements), default="")

    @property
    def clock_hz(self) -> float | None:
        """The highest clock that was seen while measuring, None where none was."""
        seen = (
            clock
            for one in self.measurements
            for clock in (one.noise.frequency_hz_start, one.noise.frequency_hz_end)
            if clock
        )
        return max(seen, default=None)


def read_measurements(files: Sequence[Path]) -> SavedMeasurements:
    """Reads files of checks, profiles and comparisons; other records in them do not count.

    Raises DiskError, FormatError for what is none of these, and UsageError for a check that was
    made as if on a smaller device.
    """
    measurements: dict[tuple[str, ...], list[Measurement]] = {}
    bandwidth: BandwidthReading | Unavailable = _NOT_READ
    for path in files:
        report = _check_in(path)
        if report is None:
            found = [one for one in read_saved_file(path) if isinstance(one, Measurement)]
        else:
            found = list(report.measurements)
            if isinstance(report.bandwidth, BandwidthReading):
                bandwidth = report.bandwidth
        if not found:
            raise UsageError(f"{path} holds no measurement.", way_out=MAKE_ONE)
        # The same file given twice, or a check beside the log of its cells, counts once.
        for one in found:
            alike = measurements.setdefault(
                (one.created, one.artifact.fingerprint, one.workload.name), []
            )
            if one not in alike:
                alike.append(one)
    return SavedMeasurements(
        measurements=tuple(one for alike in measurements.values() for one in alike),
        bandwidth=bandwidth,
    )


def _check_in(path: Path) -> CheckReport | None:
    """The check that a file holds, None where it holds no check."""
    content = read_whole(path, MOST_FILE_BYTES, "a saved check", MAKE_ONE)
    if not content.strip():
        raise FormatError(f"{path} is empty.", way_out=MAKE_ONE)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        _refuse_half(path, content)
        return None
    if not isinstance(document, dict):
        return None
    if document.get("kind") == "personal device":
        raise UsageError(f"{path} is a device of one's own already.", way_out=MAKE_ONE)
    if not {"measurements", "host", "bandwidth"} <= set(document):
        return None
    return _checked(path, document)


def _checked(path: Path, document: dict[str, object]) -> CheckReport:
    try:
        report = from_jsonable(CheckReport, document, schema=CHECK_SCHEMA, oldest=1)
    except FormatError as error:
        raise FormatError(
            f"{path}: {error.fact}", cause=error.cause, way_out=error.way_out or MAKE_ONE
        ) from None
    if report.limits is not None:
        raise UsageError(
            f"{path} was made as if on a smaller device.",
            cause="With --limit-memory or --limit-cores the caches and the bandwidth stay the "
            "larger machine's.",
            way_out=MAKE_ONE,
        )
    return report


def _refuse_half(path: Path, content: bytes) -> None:
    """Raises FormatError for a document over several lines that does not end: a check cut off."""
    begun = content.lstrip()
    if begun[:1] == b"{" and begun.split(b"\n", 1)[0].strip() == b"{":
        raise FormatError(
            f"{path} is no whole JSON document.", cause="It may be cut off.", way_out=MAKE_ONE
        )
