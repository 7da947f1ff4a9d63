"""What a number rests on, or why there is none: the two things to know before reading it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Basis(enum.StrEnum):
    """What a number rests on: the first question to ask of it."""

    MEASURED = "MEASURED"
    """Timed here on the real artifact."""
    SYNTHETIC = "SYNTHETIC"
    """Timed here on an artifact of the true shape and types with random weights."""
    PROJECTED = "PROJECTED"
    """Computed from other measurements; nothing of this model ran."""
    ESTIMATED = "ESTIMATED"
    """Computed from a number somebody stated, by a formula that is printed beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """Stands where a reading is missing: why, and what would make it available. Never zero."""

    reason: str
    remedy: str = ""
