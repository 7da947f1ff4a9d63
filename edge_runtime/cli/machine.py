"""The machine a check runs on, and the report that ties its rows to it."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import __version__
from ..basis import Unavailable
from ..errors import EdgeError
from ..feasibility import CheckReport, FitSummary, Row, with_energy
from ..measurement import BandwidthReading, Gpu, Host, Limits, SessionOptions
from ..verdict import Target

if TYPE_CHECKING:
    from .cells import Bench


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The host with the GPUs the engines' builds can use, and its measured memory bandwidth."""

    host: Host
    bandwidth: BandwidthReading | Unavailable


def look_at_machine(options: SessionOptions, limits: Limits | None = None) -> Machine:
    """Detects the host and measures its memory bandwidth with the threads that will be used.

    The host is the emulated one where there are limits; the bandwidth stays this machine's.
    """
    from ..profiler import detect_host
    from ..profiler.host import memory_bandwidth
    from ..profiler.limits import limited_host

    host = limited_host(detect_host(gpus=usable_gpus(options.backend)), limits)
    bandwidth: BandwidthReading | Unavailable
    try:
        bandwidth = memory_bandwidth(options.threads or host.cores_usable)
    except EdgeError as error:
        bandwidth = Unavailable(reason=error.fact, remedy=error.way_out)
    return Machine(host=host, bandwidth=bandwidth)


def usable_gpus(backend_name: str) -> tuple[Gpu, ...]:
    """GPUs that the engine's build can use, and then those of the other one where it is installed.

    Raises EngineMissingError when the engine of that name is not.
    """
    from ..backends import backend
    from .engines import ENGINES

    found = [*backend(backend_name).gpus()]
    if backend_name in ENGINES.values():
        for other in ENGINES.values():
            if other != backend_name:
                with contextlib.suppress(EdgeError):
                    found += backend(other).gpus()
    return tuple(found)


def report_of(
    bench: Bench,
    machine: Machine,
    target: Target,
    rows: Sequence[Row],
    recommendation: str,
    *,
    fits: tuple[FitSummary, ...] = (),
) -> CheckReport:
    """The report of a finished bench."""
    return CheckReport(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        tool_version=__version__,
        host=machine.host,
        bandwidth=machine.bandwidth,
        target=target,
        rows=with_energy(rows, bench.measurements),
        fits=fits,
        measurements=tuple(bench.measurements),
        failures=tuple(bench.failures),
        elapsed_s=bench.elapsed_s(),
        peak_disk_bytes=bench.peak_disk_bytes,
        recommendation=recommendation,
        limits=bench.limits,
    )
