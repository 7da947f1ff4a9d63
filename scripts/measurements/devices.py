"""What refusing needs to know of a device: from the collection's `devices.csv`, or the profiles."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from profiles.contradictions import names_of
from profiles.device_files import read_device
from profiles.device_profile import Cluster, DeviceProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """Bounds of a device; None where no source gives them.

    `id` is what the table calls it, "" for what the raw row calls it. `card` is a graphics card by
    itself, which has no processor.
    """

    id: str = ""
    bandwidth_bytes_per_s: float | None = None
    fp16_flop_per_s: float | None = None
    fast_cores: int | None = None
    card: bool = False


def read_devices(path: Path) -> Mapping[str, DeviceFacts]:
    """Reads devices by every name they have, from a `devices.csv` or a folder of profiles.

    Raises ValueError when there is none, or a profile is malformed.
    """
    if path.is_dir():
        profiles = [read_device(file) for file in sorted(path.glob("*.toml"))]
        found = {name: _from_profile(p) for p in profiles for name in names_of(p)}
    else:
        with path.open(encoding="utf-8", newline="") as file:
            found = {row["id"]: _from_csv(row) for row in csv.DictReader(file) if row.get("id")}
    if not found:
        raise ValueError(f"{path} describes no device.")
    return found


def _from_profile(profile: DeviceProfile) -> DeviceFacts:
    gpu = profile.accelerators.get("gpu")
    roofs = [unit.bandwidth_bytes_per_s for unit in profile.accelerators.values()]
    bandwidths = [f.high for f in (profile.memory_bandwidth_bytes_per_s, *roofs) if f]
    return DeviceFacts(
        id=profile.id,
        bandwidth_bytes_per_s=max(bandwidths, default=None),
        fp16_flop_per_s=gpu.fp16_flop_per_s.high if gpu and gpu.fp16_flop_per_s else None,
        fast_cores=_fast_cores(profile.clusters),
        card="cpu" not in profile.accelerators and not profile.clusters,
    )


_SLOW_CORES = re.compile(r"(?i)effic|e-core|cortex-a(5[35]|510|520)")


def _fast_cores(clusters: tuple[Cluster, ...]) -> int | None:
    fast = [cluster.count for cluster in clusters if not _SLOW_CORES.search(cluster.name)]
    return sum(fast) or None


def _from_csv(row: Mapping[str, str]) -> DeviceFacts:
    bandwidth = _number(row.get("mem_bandwidth_gbs"))
    flops = _number(row.get("fp16_tflops"))
    cores = _number(row.get("cpu_cores_big"))
    group = row.get("class", "")
    return DeviceFacts(
        bandwidth_bytes_per_s=bandwidth and bandwidth * 1e9,
        fp16_flop_per_s=flops and flops * 1e12,
        fast_cores=int(cores) if cores else None,
        card=group == "gpu" or (group == "server" and not cores and bool(row.get("gpu"))),
    )


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
