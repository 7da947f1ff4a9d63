"""The number of threads: short decode runs at each candidate, the engine's default among them.

Another number replaces the default only when its whole interval lies above the default's: within
the noise, the default stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..artifact import Artifact
from ..measurement import Host, Limits, Measurement, SessionOptions, decode_workload
from .host import detect_host
from .measure import measure
from .wire import Plan, Progress

TUNING_PLAN = Plan(min_runs=3, max_runs=5, budget_s=10.0)
TUNING_WORKLOAD = decode_workload(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadTuning:
    """What each number of threads gave. `trials` are in the order of their threads."""

    default_threads: int
    best_threads: int
    trials: tuple[tuple[int, Measurement], ...]

    def rate(self, threads: int) -> float:
        """Mean decode tokens/s with that many threads."""
        found = dict(self.trials)[threads].decode_tokens_per_s
        return found.value if found is not None else 0.0


def thread_candidates(host: Host) -> tuple[int, ...]:
    """Numbers worth trying: powers of two, the physical cores, all usable ones and one fewer."""
    usable = host.cores_usable
    numbers = {usable, usable - 1, host.cores_physical or usable}
    numbers |= {2**power for power in range(usable.bit_length())}
    return tuple(sorted(n for n in numbers if 1 <= n <= usable))


def tune_threads(
    artifact: Artifact,
    options: SessionOptions | None = None,
    *,
    plan: Plan = TUNING_PLAN,
    limits: Limits | None = None,
    on_event: Callable[[int | None, Progress], None] | None = None,
) -> ThreadTuning:
    """Measures the default and every candidate, and chooses. Raises what `measure` raises."""
    base = options or SessionOptions()

    def trial(threads: int | None) -> Measurement:
        def tell(progress: Progress) -> None:
            if on_event is not None:
                on_event(threads, progress)

        wanted = replace(base, threads=threads)
        return measure(artifact, TUNING_WORKLOAD, wanted, plan=plan, limits=limits, on_event=tell)

    first = trial(None)
    default = first.options.threads or detect_host().cores_usable
    trials = {default: first}
    for threads in thread_candidates(first.host):
        if threads not in trials:
            trials[threads] = trial(threads)
    return ThreadTuning(
        default_threads=default,
        best_threads=choose_threads(default, trials),
        trials=tuple(sorted(trials.items())),
    )


def choose_threads(default: int, trials: dict[int, Measurement]) -> int:
    """The fastest number of threads, or the default when nothing beats it beyond the noise."""
    limit = trials[default].decode_tokens_per_s
    best, best_rate = default, 0.0
    for threads, measurement in trials.items():
        rate = measurement.decode_tokens_per_s
        if rate is None or limit is None or threads == default:
            continue
        if rate.low > limit.high and rate.value > best_rate:
            best, best_rate = threads, rate.value
    return best
