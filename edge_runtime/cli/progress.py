"""What is being done, on stderr, while a check or a comparison works.

Written only between cells and by no thread, so that nothing is drawn while something is timed.
"""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..report.plain import plain

if TYPE_CHECKING:
    from ..rounds.course import Step

_ERASE_LINE = "\r\x1b[K"
_BAR_CELLS = 20


class Progress:
    """A context manager whose `say` shows the present step, the time gone and the budget.

    On a terminal one line is rewritten; elsewhere every step is a line.
    """

    def __init__(self, budget_s: float | None) -> None:
        self._budget_s = budget_s
        self._started_s = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def say(self, step: str) -> None:
        """Shows the present step."""
        gone_s = time.monotonic() - self._started_s
        clock = f"{gone_s:3.0f} s"
        if self._terminal and self._budget_s is not None:
            filled = min(_BAR_CELLS, round(_BAR_CELLS * gone_s / self._budget_s))
            clock = f"{'━' * filled}{'╌' * (_BAR_CELLS - filled)} {clock}"
        line = f"{clock}  {step}"
        sys.stderr.write(f"{_ERASE_LINE}{line}" if self._terminal else line + "\n")
        sys.stderr.flush()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._terminal:
            sys.stderr.write(_ERASE_LINE)
            sys.stderr.flush()


class StepLine:
    """Where a comparison is: on a terminal one line with a bar and the time left.

    Elsewhere a line for each artifact that is scored and for each round.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown: object = None

    def show(self, step: Step) -> None:
        """Says which artifact is at what."""
        left = "" if step.left_s is None else f"{_about(step.left_s)} left"
        if not self._terminal:
            topic = step.round if step.round is not None else (step.label, step.task)
            if topic != self._shown:
                self._shown = topic
                words = _step_words(step) if step.round is None else f"round {step.round + 1}"
                sys.stderr.write(f"{words}{f', about {left}' if left else ''}\n")
                sys.stderr.flush()
            return
        share = step.done / step.steps if step.steps else 0.0
        filled = round(_BAR_CELLS * share)
        bar = "━" * filled + "╌" * (_BAR_CELLS - filled)
        detail = f": {step.detail}" if step.detail else ""
        words = "  ".join(filter(None, (f"{bar} {share:4.0%}", left, _step_words(step) + detail)))
        self._shown = words
        sys.stderr.write(f"{_ERASE_LINE}{plain(words)[: shutil.get_terminal_size().columns - 1]}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Makes room for other words."""
        if self._terminal and self._shown:
            sys.stderr.write(_ERASE_LINE)
            sys.stderr.flush()
            self._shown = None


def _about(seconds: float) -> str:
    """A guessed duration, no finer than a guess can be."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _step_words(step: Step) -> str:
    task = {"score": "scoring", "answer": "answers"}.get(step.task, step.task)
    where = "" if step.round is None else f", round {step.round + 1}"
    return plain(f"{step.label} {task}{where}")
