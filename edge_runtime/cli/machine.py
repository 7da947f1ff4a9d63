"""The machine a check runs on, and the report that ties its rows to it."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import EdgeError
from ..feasibility import CheckReport, FitSummary, Row
from ..measurement import BandwidthReading, Gpu, Host, SessionOptions, Unavailable
from ..verdict import Target

if TYPE_CHECKING:
    from .cells import Bench


def machine(options: SessionOptions) -> tuple[Host, BandwidthReading | Unavailable]:
    """The host with the GPUs the backend's build can use, and its measured memory bandwidth."""
    from ..profiler import detect_host
    from ..profiler.host import memory_bandwidth

    host = detect_host(gpus=usable_gpus(options.backend))
    try:
        return host, memory_bandwidth(options.threads or host.cores_usable)
    except EdgeError as error:
        return host, Unavailable(reason=str(error))


def usable_gpus(backend_name: str) -> tuple[Gpu, ...]:
    """GPUs of the backend's build. Raises EngineMissingError when it is not installed."""
    from ..backends import backend

    return backend(backend_name).gpus()


def report_of(
    bench: Bench,
    *,
    host: Host,
    bandwidth: BandwidthReading | Unavailable,
    target: Target,
    rows: tuple[Row, ...],
    fits: tuple[FitSummary, ...],
    recommendation: str,
) -> CheckReport:
    """The report of a finished bench."""
    return CheckReport(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        tool_version=__version__,
        host=host,
        bandwidth=bandwidth,
        target=target,
        rows=rows,
        fits=fits,
        measurements=tuple(bench.measurements),
        failures=tuple(bench.failures),
        elapsed_s=bench.elapsed_s(),
        peak_disk_bytes=bench.peak_disk_bytes,
        recommendation=recommendation,
    )
