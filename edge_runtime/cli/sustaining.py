"""What `--sustain` and `--cool-down` mean, and how Ctrl-C ends a cell that is kept up for long.

Ten minutes of measuring are not thrown away by one key: the first Ctrl-C while repetitions run asks
the measuring process to begin no more, and what was done is a record. The second drops it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import UsageError
from ..units import format_duration, parse_duration_s

if TYPE_CHECKING:
    from ..profiler import Progress

_SHORTEST_S = 1.0
_LONGEST_S = 24 * 3600.0
_LONGEST_COOLING_S = 3600.0
_MEANINGLESS = {"budget": "--budget", "repetitions": "-r", "precision": "--precision"}
"""Parameters that say when to stop, as typed: --sustain is the one answer to that."""
_ENDING = b"\nEnding after this repetition; Ctrl-C again drops the cell.\n"


def read_sustain(text: str | None, typed: Callable[[str], bool]) -> float | None:
    """How long to keep each cell up, seconds; None where it was not asked for.

    `typed` says whether a parameter stood on the command line. Raises UsageError.
    """
    if text is None:
        return None
    others = [option for name, option in _MEANINGLESS.items() if typed(name)]
    if others:
        raise UsageError(
            f"--sustain and {', '.join(others)} both say when to stop.",
            way_out="Give only one: --sustain keeps a cell up for its time, whatever comes out.",
        )
    seconds = parse_duration_s(text, "--sustain")
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise UsageError(
            f"--sustain: {text} is too {'short' if seconds < _SHORTEST_S else 'long'}.",
            way_out="Ten minutes make most devices as hot as they get: --sustain 10m",
        )
    return seconds


def read_cool_down(text: str) -> float:
    """How long the device may cool before each cell, at most, seconds. Raises UsageError."""
    seconds = parse_duration_s(text, "--cool-down")
    if seconds > _LONGEST_COOLING_S:
        raise UsageError("--cool-down: nobody waits longer than an hour.", way_out="--cool-down 5m")
    return seconds


def left_words(sustain_s: float, progress: Progress) -> str:
    """How long a cell will still be kept up."""
    left = round(max(0.0, sustain_s - progress.elapsed_s))
    return f"{left} s left" if left < 60 else f"{format_duration(left)} left"


class EarlyEnd:
    """Makes the first Ctrl-C while a sustained cell repeats a request, while the context lasts."""

    def __init__(self, *, sustained: bool) -> None:
        self.asked = False
        self._sustained = sustained and threading.current_thread() is threading.main_thread()
        self._worth_keeping = False
        self._before: object = None

    def __enter__(self) -> Self:
        """Takes Ctrl-C over, of a sustained sweep in the main thread."""
        if self._sustained:
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Gives Ctrl-C back."""
        if self._sustained:
            # What signal.signal gave back it takes again; its two types do not say so.
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    def heard(self, progress: Progress) -> bool:
        """Takes note of an event of the measurement; True when it is to end early."""
        self._worth_keeping = self._worth_keeping or progress.runs > 0
        return self.asked

    def next_cell(self) -> None:
        """Takes note that a cell is over: of the next one there is nothing to keep yet."""
        self._worth_keeping = False

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked or not self._worth_keeping:
            raise KeyboardInterrupt
        self.asked = True
        # Not through sys.stderr: the interrupted code may be inside a write of it.
        os.write(2, _ENDING)
