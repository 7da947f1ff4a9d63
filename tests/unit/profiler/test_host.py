"""The machine, read from made-up /proc and /sys trees and from the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.profiler import available_memory_bytes, cgroup, cpu, detect_host, thermal
from edge_runtime.profiler.bandwidth import memory_bandwidth

GIB = 1024**3

XEON_GUEST = """processor\t: 0
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu sse4_2 avx f16c fma avx2 avx512f avx512_vnni avx512vbmi amx_int8 hypervisor

processor\t: 1
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu sse4_2 avx f16c fma avx2 avx512f avx512_vnni avx512vbmi amx_int8 hypervisor
"""
PI5 = "".join(
    f"processor\t: {i}\nBogoMIPS\t: 108.00\n"
    "Features\t: fp asimd evtstrm aes crc32 fphp asimdhp cpuid asimddp\n"
    "CPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\n"
    for i in range(4)
)
PIXEL = "".join(
    f"processor\t: {i}\nFeatures\t: fp asimd asimdhp asimddp i8mm bf16 sve\n"
    f"CPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
    for i, part in enumerate(["0xd46"] * 4 + ["0xd4d"] * 4 + ["0xd4e"])
)
RISCV = "processor\t: 0\nhart\t: 0\nisa\t\t: rv64imafdcv_zicsr_zba\nuarch\t: sifive,u74-mc\n"


def put(root: Path, name: str, content: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return root


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A virtual machine like many rented ones."""
    put(tmp_path, "proc/cpuinfo", XEON_GUEST)
    put(
        tmp_path,
        "proc/meminfo",
        "MemTotal: 8388608 kB\nMemFree: 100 kB\nMemAvailable: 6291456 kB\n",
    )
    put(tmp_path, "proc/sys/kernel/osrelease", "6.1.0-test\n")
    put(tmp_path, "sys/devices/system/cpu/online", "0-1\n")
    for i in range(2):
        put(tmp_path, f"sys/devices/system/cpu/cpu{i}/topology/core_id", "0\n")
        put(tmp_path, f"sys/devices/system/cpu/cpu{i}/topology/physical_package_id", "0\n")
    for index, (level, size) in enumerate([(1, "32K"), (1, "32K"), (2, "2048K"), (3, "300M")]):
        put(tmp_path, f"sys/devices/system/cpu/cpu0/cache/index{index}/level", f"{level}\n")
        put(tmp_path, f"sys/devices/system/cpu/cpu0/cache/index{index}/size", f"{size}\n")
    return tmp_path


def test_a_guest_with_hyperthreads(guest: Path) -> None:
    host = detect_host(root=guest, system="linux")
    assert host.cpu == "Intel(R) Xeon(R) Processor"
    assert host.isa == (
        "sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512vbmi", "avx512_vnni", "amx_int8",
    )  # fmt: skip
    assert (host.cores_physical, host.cores_logical, host.cores_usable) == (1, 2, 2)
    assert host.ram_bytes == 8 * GIB
    assert host.ram_available_bytes == 6 * GIB
    assert host.last_level_cache_bytes == 300 * 1024**2
    assert host.virtualization == "virtual machine"
    assert host.release == "6.1.0-test"


def test_the_hypervisor_is_named_where_dmi_tells(guest: Path) -> None:
    put(guest, "sys/class/dmi/id/sys_vendor", "Amazon EC2\n")
    assert detect_host(root=guest, system="linux").virtualization == "Amazon EC2"


def test_arm_numbers_become_names(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", PI5)
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    assert cpu.linux_cpu(tmp_path) == (
        "Raspberry Pi 5 Model B Rev 1.0 (4x Cortex-A76)",
        ("neon", "fp16", "dotprod"),
    )


def test_a_phone_has_several_kinds_of_cores(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", PIXEL)
    name, features = cpu.linux_cpu(tmp_path)
    assert name == "4x Cortex-A510 + 4x Cortex-A715 + 1x Cortex-X3"
    assert features == ("neon", "fp16", "dotprod", "i8mm", "bf16", "sve")


def test_an_unknown_arm_part_keeps_its_number(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", PI5.replace("0xd0b", "0xfff").replace("0x41", "0x99"))
    assert cpu.linux_cpu(tmp_path)[0] == "4x implementer 0x99 part 0xfff"


def test_risc_v_tells_its_vector_unit(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", RISCV)
    assert cpu.linux_cpu(tmp_path) == ("sifive,u74-mc", ("rvv",))
    put(tmp_path, "proc/cpuinfo", RISCV.replace("dcv_", "dc_"))
    assert cpu.linux_cpu(tmp_path)[1] == ()


def test_an_empty_tree_is_no_crash(tmp_path: Path) -> None:
    host = detect_host(root=tmp_path, system="linux")
    assert host.cpu == "unknown processor"
    assert host.cores_physical is host.virtualization is host.last_level_cache_bytes is None


def test_apple_silicon_by_sysctl() -> None:
    values = {
        "machdep.cpu.brand_string": "Apple M2", "hw.optional.arm64": "1",
        "hw.optional.arm.FEAT_DotProd": "1", "hw.optional.arm.FEAT_I8MM": "1",
        "hw.optional.arm.FEAT_SME": "0",
    }  # fmt: skip
    assert cpu.macos_cpu(values.get) == ("Apple M2", ("neon", "dotprod", "i8mm"))


def test_an_intel_mac_by_sysctl() -> None:
    values = {
        "machdep.cpu.brand_string": "Intel Core i7",
        "machdep.cpu.features": "SSE4.2 AVX1.0 F16C FMA",
        "machdep.cpu.leaf7_features": "AVX2 BMI2",
    }  # fmt: skip
    assert cpu.macos_cpu(values.get)[1] == ("sse4_2", "avx", "f16c", "fma", "bmi2", "avx2")


def container_v2(root: Path) -> None:
    put(root, "proc/self/cgroup", "0::/app.slice/job\n")
    put(root, "sys/fs/cgroup/app.slice/memory.max", "2147483648\n")
    put(root, "sys/fs/cgroup/app.slice/memory.current", "1610612736\n")
    put(root, "sys/fs/cgroup/app.slice/memory.stat", "anon 5\ninactive_file 536870912\n")
    put(root, "sys/fs/cgroup/app.slice/job/memory.max", "max\n")
    put(root, "sys/fs/cgroup/app.slice/job/cpu.max", "150000 100000\n")


def test_a_v2_group_limits_memory_and_cores_along_its_whole_path(guest: Path) -> None:
    container_v2(guest)
    host = detect_host(root=guest, system="linux")
    assert host.ram_bytes == 2 * GIB
    # 2 GiB less 1.5 GiB used, of which 0.5 GiB is page cache that can go.
    assert available_memory_bytes(guest) == GIB
    assert cgroup.cpu_quota(guest) == 1.5
    assert host.cores_usable == 1


def test_a_v1_group_inside_a_container_is_found_at_its_mount(guest: Path) -> None:
    put(guest, "proc/self/cgroup", "5:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n")
    put(guest, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{GIB}\n")
    put(guest, "sys/fs/cgroup/memory/memory.usage_in_bytes", f"{GIB // 4}\n")
    put(guest, "sys/fs/cgroup/memory/memory.stat", "inactive_file 0\n")
    put(guest, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n")
    put(guest, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert available_memory_bytes(guest) == 3 * GIB // 4
    assert cgroup.cpu_quota(guest) == 4.0
    assert detect_host(root=guest, system="linux").cores_usable == 2


def test_the_unlimited_of_v1_is_no_limit(guest: Path) -> None:
    put(guest, "proc/self/cgroup", "5:memory:/\n2:cpu:/\n")
    put(guest, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    put(guest, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    put(guest, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cgroup.memory_limits(guest) == ()
    assert cgroup.cpu_quota(guest) is None


def test_less_than_one_core_still_counts_as_one() -> None:
    assert cgroup.usable_cores(8, Path("/nonexistent")) == 8


def test_this_machine_is_described() -> None:
    host = detect_host()
    assert host.cores_usable >= 1
    assert host.ram_bytes > 2**28
    assert host.cpu
    assert 0 < available_memory_bytes() <= host.ram_bytes


def test_the_bandwidth_is_plausible_and_says_what_it_read() -> None:
    reading = memory_bandwidth(1)
    assert reading.bytes_per_s.low <= reading.bytes_per_s.value <= reading.bytes_per_s.high
    # A Raspberry Pi Zero 2 reads about 1.5 GB/s, the fastest core of today below 400.
    assert 5e8 < reading.bytes_per_s.value < 4e11
    assert reading.threads == 1
    assert reading.working_set_bytes >= 32 << 20


def test_the_clock_comes_from_cpufreq_before_cpuinfo(tmp_path: Path) -> None:
    assert thermal.frequency_hz(tmp_path) is None
    put(tmp_path, "proc/cpuinfo", "cpu MHz\t\t: 2100.5\ncpu MHz\t\t: 2099.5\n")
    assert thermal.frequency_hz(tmp_path) == 2.1e9
    put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1400000\n")
    put(tmp_path, "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "1600000\n")
    assert thermal.frequency_hz(tmp_path) == 1.5e9


def test_throttling_is_told_by_a_rising_counter(tmp_path: Path) -> None:
    nothing = thermal.throttle_state(tmp_path)
    assert thermal.throttled_between(nothing, nothing) is None
    name = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    before = thermal.throttle_state(put(tmp_path, name, "7\n"))
    assert thermal.throttled_between(before, thermal.throttle_state(tmp_path)) is False
    assert (
        thermal.throttled_between(before, thermal.throttle_state(put(tmp_path, name, "8"))) is True
    )


@pytest.mark.parametrize(
    ("before", "after", "throttled"),
    [
        ("0", "0", False),
        ("50000", "50000", False),  # it happened once since the boot, not now
        ("0", "40000", True),
        ("50000", "50005", True),
        ("4", "4", True),
    ],
)
def test_the_raspberry_pi_firmware_bits(
    tmp_path: Path, before: str, after: str, throttled: bool
) -> None:
    name = "sys/devices/platform/soc/soc:firmware/get_throttled"
    first = thermal.throttle_state(put(tmp_path, name, f"{before}\n"))
    second = thermal.throttle_state(put(tmp_path, name, f"{after}\n"))
    assert thermal.throttled_between(first, second) is throttled
