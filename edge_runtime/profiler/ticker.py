"""A sampler thread on an absolute, jittered schedule that confesses its own lateness and cost.

It calls one cheap reading per tick and keeps the raw answers with their time stamps; parsing waits
until it has stopped. It knows nothing of what it reads.

The schedule is absolute (tick k belongs at start + k periods), so that a late tick does not shift
the ones after it, and each tick is moved by a random share of the period, so that the sampler can
never walk in step with something periodic in the engine.
"""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .. import statistics

PERIOD_S = 0.05
"""20 Hz: a few microseconds of reading per tick stay far below a thousandth of one core."""
JITTER_SHARE = 0.4
"""Each tick falls within +-20 % of the period around its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One raw reading and when it was taken, nanoseconds of `time.perf_counter_ns`."""

    taken_ns: int
    raw: bytes


class Ticker:
    """Runs `read` every `period_s` in a thread between entering and leaving the context."""

    def __init__(
        self, read: Callable[[], bytes], *, period_s: float = PERIOD_S, seed: int = 0
    ) -> None:
        self._read = read
        self._period_s = period_s
        self._jitter = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-ticker", daemon=True)
        self._taken_ns = array("q")
        self._raw: list[bytes] = []
        self._late_ns = array("q")
        self._cpu_ns = 0
        self._wall_ns = 0
        self.failure: str | None = None
        """Why sampling ended early, or None."""

    def __enter__(self) -> Self:
        """Starts sampling."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops sampling and waits for the thread."""
        self._stop.set()
        self._thread.join()

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All readings in order; complete once the context is left."""
        return tuple(
            Sample(taken_ns=t, raw=raw) for t, raw in zip(self._taken_ns, self._raw, strict=False)
        )

    @property
    def lateness_p90_ns(self) -> int | None:
        """How late the wake-ups were at the 90th percentile; None before the first."""
        return round(statistics.percentile(self._late_ns, 90)) if self._late_ns else None

    @property
    def cpu_share(self) -> float | None:
        """CPU time of the sampler over wall time; None until the context is left."""
        return self._cpu_ns / self._wall_ns if self._wall_ns else None

    def _run(self) -> None:
        clock = time.perf_counter_ns
        period_ns = round(self._period_s * 1e9)
        start = clock()
        tick = 0
        try:
            while True:
                offset = 1 + JITTER_SHARE * (self._jitter.random() - 0.5)
                due = start + round((tick + offset) * period_ns)
                if self._stop.wait(max(0.0, (due - clock()) / 1e9)):
                    break
                now = clock()
                self._late_ns.append(max(0, now - due))
                self._raw.append(self._read())
                self._taken_ns.append(now)
                # Ticks already missed are dropped, never caught up on: a burst would disturb.
                tick = max(tick + 1, (now - start) // period_ns)
        except OSError as error:
            self.failure = str(error)
        self._cpu_ns = time.thread_time_ns()
        self._wall_ns = clock() - start
