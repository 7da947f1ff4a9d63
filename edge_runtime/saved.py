"""Every kind of record that is saved, and which of them a JSON value is.

The kinds live where they are described; this module only tells them apart.
"""

from __future__ import annotations

from .errors import FormatError
from .latency import LatencyFailure, LatencyMeasurement, read_latency
from .measurement import CellFailure, Measurement, read_record
from .scores import Answers, LevelFailure, Scores, is_score_record, read_score_record

DOCUMENT_SCHEMA = 1
"""The number of the document that holds a comparison and its `records`; see `edge compare`."""

SavedRecord = (
    Measurement
    | CellFailure
    | LatencyMeasurement
    | LatencyFailure
    | Scores
    | Answers
    | LevelFailure
)


def read_saved(data: object) -> SavedRecord:
    """Reads the record that the data is. Raises FormatError."""
    if isinstance(data, dict) and data.get("basis") == "PROJECTED" and "rows" in data:
        raise FormatError(
            "It holds projections, and no measurement.",
            way_out="On the device: edge check --save or edge profile --save measures.",
        )
    if is_score_record(data):
        return read_score_record(data)
    if isinstance(data, dict) and str(data.get("kind", "")).startswith("latency"):
        return read_latency(data)
    return read_record(data)
