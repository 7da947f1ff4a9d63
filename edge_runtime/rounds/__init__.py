"""Artifacts measured in turns and scored on one text: how a comparison's records come about.

Each round measures every artifact once, each workload in a fresh child process, so that whatever
drifts meanwhile (heat, another program, a neighbour in the cloud) meets all of them alike; rates
are then compared pair by pair within a round. Scores and answers need no rounds: they do not
change. What fails leaves its reason behind, and the others go on. Making artifacts is the caller's:
this room runs files that are there, and what their records mean is said in `comparison`.
"""

from __future__ import annotations

from .course import Step
from .library import compare
from .program import (
    DEFAULT_ROUNDS,
    ROUND_PLAN,
    Entry,
    Program,
    default_workloads,
    entries_of,
    reference_of,
)
from .run import run_program

__all__ = [
    "DEFAULT_ROUNDS",
    "ROUND_PLAN",
    "Entry",
    "Program",
    "Step",
    "compare",
    "default_workloads",
    "entries_of",
    "reference_of",
    "run_program",
]
