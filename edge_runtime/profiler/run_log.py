"""The repetitions so far, kept as small as they can be while more of them are timed.

Ten minutes at a thousand tokens a second are 600,000 stamps. As Python numbers they would take
24 MB of the very process whose memory is measured; here they take 5. What is asked between two
repetitions is summed up as they come, so that the thousandth pause is as short as the first.
"""

from __future__ import annotations

from array import array

from ..measurement import Run
from ..units import NS_PER_S

MOST_STAMPS = 5_000_000
"""What one record can hold: 100 MB of JSON. Ten minutes at 8,000 tokens/s stay below it."""


class RunLog:
    """Repetitions in order, and the rate of each."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self._heads: list[tuple[int, int | None, int]] = []
        self._stamps: list[array[int]] = []
        self._prefill_ns = 0
        self._decode_ns = 0
        self._count = 0

    def add(self, run: Run, rate: float) -> None:
        """Keeps one more repetition and the rate that decides when to stop."""
        self.rates.append(rate)
        self._heads.append((run.started_ns, run.prefilled_ns, run.prefill_tokens))
        self._stamps.append(array("q", run.token_ns))
        self._prefill_ns += (run.prefilled_ns or run.started_ns) - run.started_ns
        self._decode_ns += sum(run.step_ns)
        self._count += len(run.token_ns)

    @property
    def least_s(self) -> float:
        """What all repetitions together took, seconds, of the shorter of their phases."""
        return min((ns for ns in (self._prefill_ns, self._decode_ns) if ns), default=0) / NS_PER_S

    @property
    def is_full(self) -> bool:
        """Whether another repetition may be more than one record can hold."""
        longest = max((len(stamps) for stamps in self._stamps[-1:]), default=0)
        return self._count + longest > MOST_STAMPS

    def runs(self) -> tuple[Run, ...]:
        """The repetitions as they were given."""
        return tuple(
            Run(
                started_ns=started,
                prefilled_ns=prefilled,
                prefill_tokens=tokens,
                token_ns=tuple(stamps),
            )
            for (started, prefilled, tokens), stamps in zip(self._heads, self._stamps, strict=True)
        )
