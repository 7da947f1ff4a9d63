"""What processor this is and which instructions inference kernels can use on it.

Names come from the system; ARM processors only tell numbers, which a short table turns into names.
The features listed are those that select a kernel in ggml or ONNX Runtime, by their usual names.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

_X86 = (
    "sse4_2", "avx", "f16c", "fma", "bmi2", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl",
    "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
)  # fmt: skip

# Linux arch/arm64 hwcap names -> the names kernels are known by.
_ARM = {
    "asimd": "neon", "neon": "neon", "asimdhp": "fp16", "asimddp": "dotprod", "i8mm": "i8mm",
    "bf16": "bf16", "sve": "sve", "sve2": "sve2", "svei8mm": "sve_i8mm", "sme": "sme",
    "sme2": "sme2",
}  # fmt: skip

# (implementer, part) of the MIDR register as /proc/cpuinfo prints them; names as in the Linux
# kernel's arch/arm64/include/asm/cputype.h and util-linux' lscpu-arm.c.
_ARM_PARTS = {
    (0x41, 0xB76): "ARM1176", (0x41, 0xC07): "Cortex-A7", (0x41, 0xC0F): "Cortex-A15",
    (0x41, 0xD03): "Cortex-A53", (0x41, 0xD04): "Cortex-A35", (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57", (0x41, 0xD08): "Cortex-A72", (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0A): "Cortex-A75", (0x41, 0xD0B): "Cortex-A76", (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77", (0x41, 0xD40): "Neoverse-V1", (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE", (0x41, 0xD44): "Cortex-X1", (0x41, 0xD46): "Cortex-A510",
    (0x41, 0xD47): "Cortex-A710", (0x41, 0xD48): "Cortex-X2", (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4B): "Cortex-A78C", (0x41, 0xD4D): "Cortex-A715", (0x41, 0xD4E): "Cortex-X3",
    (0x41, 0xD4F): "Neoverse-V2", (0x41, 0xD80): "Cortex-A520", (0x41, 0xD81): "Cortex-A720",
    (0x41, 0xD82): "Cortex-X4", (0x41, 0xD84): "Neoverse-V3", (0x41, 0xD85): "Cortex-X925",
    (0x41, 0xD87): "Cortex-A725", (0x41, 0xD8E): "Neoverse-N3",
    (0x46, 0x001): "A64FX", (0x48, 0xD01): "Kunpeng-920",
    (0x4E, 0x003): "Denver 2", (0x4E, 0x004): "Carmel", (0x4E, 0x010): "Olympus",
    (0x51, 0x001): "Oryon", (0x51, 0x800): "Kryo 2xx Gold", (0x51, 0x801): "Kryo 2xx Silver",
    (0x51, 0x802): "Kryo 3xx Gold", (0x51, 0x803): "Kryo 3xx Silver",
    (0x51, 0x804): "Kryo 4xx Gold", (0x51, 0x805): "Kryo 4xx Silver",
    (0x61, 0x022): "Apple M1 Icestorm", (0x61, 0x023): "Apple M1 Firestorm",
    (0x61, 0x032): "Apple M2 Blizzard", (0x61, 0x033): "Apple M2 Avalanche",
    (0xC0, 0xAC3): "Ampere-1", (0xC0, 0xAC4): "Ampere-1a",
}  # fmt: skip
_IMPLEMENTERS = {
    0x41: "ARM", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA", 0x51: "Qualcomm",
    0x53: "Samsung", 0x61: "Apple", 0xC0: "Ampere",
}  # fmt: skip

Sysctl = Callable[[str], str | None]

_APPLE = {
    "FEAT_FP16": "fp16", "FEAT_DotProd": "dotprod", "FEAT_I8MM": "i8mm", "FEAT_BF16": "bf16",
    "FEAT_SME": "sme", "FEAT_SME2": "sme2",
}  # fmt: skip
# winnt.h, PF_* numbers of IsProcessorFeaturePresent.
_WINDOWS = {
    38: "sse4_2", 39: "avx", 40: "avx2", 41: "avx512f", 19: "neon", 43: "dotprod", 46: "sve",
    47: "sve2", 66: "i8mm",
}  # fmt: skip


def linux_cpu(root: Path) -> tuple[str, tuple[str, ...]]:
    """The processor's name and features from `/proc/cpuinfo` and the device tree."""
    text = _text(root / "proc/cpuinfo")
    words = set((_field(text, "flags") or _field(text, "Features")).split())
    if _field(text, "flags"):
        return _field(text, "model name") or "x86 processor", tuple(f for f in _X86 if f in words)
    found = {name for word, name in _ARM.items() if word in words}
    features = tuple(name for name in dict.fromkeys(_ARM.values()) if name in found)
    name = _arm_cores(text)
    board = _text(root / "proc/device-tree/model").strip("\0\n ")
    if not name:
        name = _field(text, "model name") or _field(text, "uarch") or _field(text, "Hardware")
        isa = _field(text, "isa")
        if isa:
            # RISC-V: single-letter extensions follow the width, longer ones an underscore.
            letters = re.match(r"rv\d+([a-z]+)", isa.split("_")[0])
            features = ("rvv",) if letters and "v" in letters[1] else ()
            name = name or isa.split("_")[0]
    if board:
        name = f"{board} ({name})" if name else board
    return name or "unknown processor", features


def _arm_cores(text: str) -> str:
    """Words such as `4x Cortex-X1 + 4x Cortex-A55`, big cores as the kernel numbers them."""
    implementers = re.findall(r"(?m)^CPU implementer\s*:\s*(0x[0-9a-fA-F]+)", text)
    parts = re.findall(r"(?m)^CPU part\s*:\s*(0x[0-9a-fA-F]+)", text)
    names: Counter[str] = Counter()
    for implementer, part in zip(implementers, parts, strict=False):
        key = int(implementer, 16), int(part, 16)
        maker = _IMPLEMENTERS.get(key[0], f"implementer {implementer}")
        names[_ARM_PARTS.get(key, f"{maker} part {part}")] += 1
    return " + ".join(f"{count}x {name}" for name, count in names.items())


def macos_cpu(sysctl: Sysctl) -> tuple[str, tuple[str, ...]]:
    """The processor's name and features from sysctl."""
    name = sysctl("machdep.cpu.brand_string") or "Apple processor"
    if sysctl("hw.optional.arm64") == "1":
        features = [
            feature for key, feature in _APPLE.items() if sysctl(f"hw.optional.arm.{key}") == "1"
        ]
        return name, ("neon", *features)
    words = " ".join(
        sysctl(key) or "" for key in ("machdep.cpu.features", "machdep.cpu.leaf7_features")
    ).lower()
    known = set(words.replace(".", "_").replace("avx1_0", "avx").split())
    return name, tuple(f for f in _X86 if f in known)


def read_sysctl(name: str) -> str | None:
    """One value of macOS' sysctl, or None."""
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def windows_cpu() -> tuple[str, tuple[str, ...]]:
    """The processor's name from the registry and its features from the kernel."""
    if sys.platform == "win32":
        import winreg

        name = "unknown processor"
        key = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        with (
            contextlib.suppress(OSError),
            winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as handle,
        ):
            name = str(winreg.QueryValueEx(handle, "ProcessorNameString")[0]).strip()
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return name, tuple(word for number, word in _WINDOWS.items() if present(number))
    return "unknown processor", ()


def _field(text: str, key: str) -> str:
    match = re.search(rf"(?m)^{re.escape(key)}\s*:[ \t]*(.+)$", text)
    return match[1].strip() if match else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
