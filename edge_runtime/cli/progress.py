"""What is being done, on stderr, while a check works.

Written only between cells and by no thread, so that nothing is drawn while something is timed.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

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
