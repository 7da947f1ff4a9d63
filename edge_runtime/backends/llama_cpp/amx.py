"""Whether this build's AMX kernels are broken by the compiler that made them.

GCC before 11.5, 12.4 and 13.3 tells its optimizer that loading a tile configuration reads only the
first 8 of 64 bytes (GCC bug 114098), so the shapes of the tiles are never written and the first
tile instruction ends the process with SIGILL. On processors with AMX the default build of
llama-cpp-python uses those kernels for every prompt. They are avoided by keeping the weights out of
the engine's extra buffer types, which costs speed but not correctness.
"""

from __future__ import annotations

import functools
import mmap
import re
from pathlib import Path

REMEDY = (
    "CFLAGS='-mno-amx-tile -mno-amx-int8 -mno-amx-bf16' CXXFLAGS=\"$CFLAGS\" pip install "
    "--force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python, "
    "or build it with GCC 14."
)

_FIRST_GOOD_MINOR = {11: 5, 12: 4, 13: 3}
"""By major version of GCC, the first minor version with the fix; 14 has it from the start."""

_COMPILER = re.compile(rb"GCC: \([^)\0]{0,100}\) (\d+)\.(\d+)")


@functools.cache
def broken_compiler(system_info: str, libraries: Path) -> str | None:
    """The compiler that broke the AMX kernels of the libraries in a folder, or None.

    `system_info` is what the engine prints of its build; without AMX in it nothing is broken.
    """
    if "AMX_INT8 = 1" not in system_info:
        return None
    for library in sorted(libraries.glob("libggml-cpu*.so")):
        version = _gcc_version(library)
        if version is None:
            continue
        major, minor = version
        if major < min(_FIRST_GOOD_MINOR) or minor < _FIRST_GOOD_MINOR.get(major, 0):
            return f"GCC {major}.{minor}"
    return None


def _gcc_version(library: Path) -> tuple[int, int] | None:
    """The GCC version in the library's comment section; None when another compiler made it."""
    with (
        library.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        match = _COMPILER.search(data)
        return (int(match[1]), int(match[2])) if match else None
