"""The machine: processor, cores, memory, caches, virtualization, and what it can really give now.

Linux is read below an injectable root; macOS and Windows through sysctl, the registry and psutil.
What a system does not tell is None. Control-group limits and processor affinity are part of the
machine as far as this process is concerned.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from ..measurement import Gpu, Host
from . import cgroup, cpu
from .bandwidth import memory_bandwidth

__all__ = ["available_memory_bytes", "detect_host", "memory_bandwidth"]

_ROOT = Path("/")
# Words in the DMI tables of a machine -> the hypervisor they give away.
_HYPERVISORS = (
    ("qemu", "KVM or QEMU"), ("kvm", "KVM or QEMU"), ("vmware", "VMware"),
    ("virtualbox", "VirtualBox"), ("innotek", "VirtualBox"), ("xen", "Xen"),
    ("amazon ec2", "Amazon EC2"), ("google compute engine", "Google Compute Engine"),
    ("virtual machine", "Hyper-V"), ("parallels", "Parallels"),
)  # fmt: skip


def detect_host(
    gpus: tuple[Gpu, ...] = (), *, root: Path = _ROOT, system: str = sys.platform
) -> Host:
    """The machine this process runs on. `gpus` are what the engine's build can use."""
    if system == "linux":
        return _linux_host(gpus, root)
    return _other_host(gpus, system)


def available_memory_bytes(root: Path = _ROOT) -> int:
    """What new memory could really be had now: the system's estimate or the control group's rest.

    Linux' `MemAvailable` counts page cache that can be given back; elsewhere psutil's `available`.
    """
    if root == _ROOT and sys.platform != "linux":
        import psutil

        return int(psutil.virtual_memory().available)
    free = _meminfo(root, "MemAvailable")
    if free is None:
        free = _meminfo(root, "MemFree") or 0
    return min([free, *(limit.free_bytes for limit in cgroup.memory_limits(root))])


def is_running(pid: int) -> bool:
    """Whether a process of that number exists; where asking could harm it, yes."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _linux_host(gpus: tuple[Gpu, ...], root: Path) -> Host:
    name, features = cpu.linux_cpu(root)
    logical = _logical_cores(root)
    usable = logical
    if root == _ROOT:
        usable = min(logical, len(os.sched_getaffinity(0)))
    total = _meminfo(root, "MemTotal") or 0
    limits = [limit.limit_bytes for limit in cgroup.memory_limits(root)]
    return Host(
        system="Linux",
        release=_text(root / "proc/sys/kernel/osrelease") or platform.release(),
        machine=platform.machine(),
        cpu=name,
        cores_physical=_physical_cores(root),
        cores_logical=logical,
        cores_usable=cgroup.usable_cores(usable, root),
        isa=features,
        ram_bytes=min([total, *limits]),
        ram_available_bytes=available_memory_bytes(root),
        virtualization=_virtualization(root),
        last_level_cache_bytes=_last_level_cache(root),
        gpus=gpus,
    )


def _other_host(gpus: tuple[Gpu, ...], system: str) -> Host:
    import psutil

    cache = None
    if system == "darwin":
        name, features = cpu.macos_cpu(cpu.read_sysctl)
        largest = cpu.read_sysctl("hw.l3cachesize") or cpu.read_sysctl("hw.perflevel0.l2cachesize")
        cache = int(largest) if largest and largest.isdigit() and int(largest) else None
        virtual = "virtual machine" if cpu.read_sysctl("kern.hv_vmm_present") == "1" else None
    elif system == "win32":
        name, features = cpu.windows_cpu()
        virtual = None
    else:
        name, features, virtual = platform.processor() or "unknown processor", (), None
    logical = psutil.cpu_count() or 1
    try:
        usable = len(psutil.Process().cpu_affinity())
    except AttributeError:
        usable = logical
    return Host(
        system=platform.system(),
        release=platform.release(),
        machine=platform.machine(),
        cpu=name,
        cores_physical=psutil.cpu_count(logical=False),
        cores_logical=logical,
        cores_usable=min(logical, usable),
        isa=features,
        ram_bytes=int(psutil.virtual_memory().total),
        ram_available_bytes=int(psutil.virtual_memory().available),
        virtualization=virtual,
        last_level_cache_bytes=cache,
        gpus=gpus,
    )


def _logical_cores(root: Path) -> int:
    """Processors that are online: `0-3,6` counts five."""
    count = 0
    for part in _text(root / "sys/devices/system/cpu/online").split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            count += int(last or first) - int(first) + 1
    return count or _text(root / "proc/cpuinfo").count("processor\t:") or os.cpu_count() or 1


def _physical_cores(root: Path) -> int | None:
    cores = set()
    for folder in root.glob("sys/devices/system/cpu/cpu[0-9]*/topology"):
        core = _text(folder / "core_id")
        if core:
            cores.add((_text(folder / "physical_package_id"), _text(folder / "die_id"), core))
    return len(cores) or None


def _last_level_cache(root: Path) -> int | None:
    """The size of the last cache the first processor sees; one instance where there are several."""
    best: tuple[int, int] | None = None
    for folder in root.glob("sys/devices/system/cpu/cpu0/cache/index[0-9]*"):
        level, size = _text(folder / "level"), _text(folder / "size")
        units = {"K": 1024, "M": 1024**2, "G": 1024**3}
        if level.isdigit() and size[:-1].isdigit() and size[-1] in units:
            best = max(best or (0, 0), (int(level), int(size[:-1]) * units[size[-1]]))
    return best[1] if best else None


def _virtualization(root: Path) -> str | None:
    if "microsoft" in _text(root / "proc/version").lower():
        return "WSL"
    dmi = " ".join(
        _text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name")
    ).lower()
    for word, name in _HYPERVISORS:
        if word in dmi:
            return name
    kind = _text(root / "sys/hypervisor/type")
    if kind:
        return kind
    return "virtual machine" if " hypervisor" in _text(root / "proc/cpuinfo") else None


def _meminfo(root: Path, key: str) -> int | None:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
