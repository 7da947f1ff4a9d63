"""How far a comparison has come, and how long the rest may take: told, never saved."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..profiler import Progress

_STAGES = {
    "settling": "letting the device cool",
    "idle": "watching the device idle",
    "loading": "loading",
    "tokenizing": "reading the text",
    "warming": "warming up",
    "closing": "closing",
    "tracing": "tracing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where a comparison is: shown, never saved. `done` of `steps`, `left_s` seconds to go.

    `task` is `score`, `answer` or a workload's name. `left_s` is None until there is something to
    go by. `detail` is what the child says of itself.
    """

    done: int
    steps: int
    label: str
    task: str
    round: int | None
    detail: str
    left_s: float | None


@dataclass(frozen=True, slots=True)
class Task:
    """One step: which entry, what of it, in which round."""

    entry: int
    task: str
    round: int | None = None


class Course:
    """How far a program has come, and how long the rest may take."""

    def __init__(
        self,
        tasks: Sequence[Task],
        labels: Sequence[str],
        on_step: Callable[[Step], None] | None,
    ) -> None:
        self._rest = set(tasks)
        self._steps = len(self._rest)
        self._kinds = Counter(replace(task, round=None) for task in self._rest)
        self._labels = labels
        self._on_step = on_step
        self._lasted: dict[Task, list[float]] = {}
        self._began_s = 0.0
        self._left_s: float | None = None
        self._now: Task | None = None

    @contextlib.contextmanager
    def step(self, task: Task) -> Iterator[None]:
        """A step that is really run, from its beginning to its end."""
        self._now, self._began_s = task, time.monotonic()
        self._left_s = self._expected_s()
        self.tell("")
        yield
        kind = replace(task, round=None)
        self._lasted.setdefault(kind, []).append(time.monotonic() - self._began_s)
        self.leave_out(task)

    def leave_out(self, task: Task) -> None:
        """Notes that a step needs no time any more."""
        if task in self._rest:
            self._rest.remove(task)
            self._kinds[replace(task, round=None)] -= 1

    def heard(self, progress: Progress) -> None:
        """Passes on what the child says of itself."""
        self.tell(_words(progress))

    def tell(self, detail: str) -> None:
        """Tells the listener where the program is."""
        if self._on_step is None or self._now is None:
            return
        left = self._left_s
        if left is not None:
            left = max(0.0, left - (time.monotonic() - self._began_s))
        self._on_step(
            Step(
                done=self._steps - len(self._rest), steps=self._steps,
                label=self._labels[self._now.entry], task=self._now.task, round=self._now.round,
                detail=detail, left_s=left,
            )
        )  # fmt: skip

    def _expected_s(self) -> float | None:
        """What the steps left will take: as long as they took before, or others of their kind."""
        every = [lasted for found in self._lasted.values() for lasted in found]
        if not every:
            return None
        of_task: dict[str, list[float]] = {}
        for task, found in self._lasted.items():
            of_task.setdefault(task.task, []).extend(found)
        total = 0.0
        for kind, number in self._kinds.items():
            seen = self._lasted.get(kind) or of_task.get(kind.task) or every
            total += number * sum(seen) / len(seen)
        return total


def _words(progress: Progress) -> str:
    """What a child says of itself, in words."""
    words = _STAGES.get(progress.stage)
    if words is not None:
        return words
    if progress.stage == "running":
        return f"run {progress.runs + 1} of at most {progress.max_runs}"
    return f"{progress.runs} of {progress.max_runs} done"
