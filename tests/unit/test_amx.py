"""AMX kernels made by a compiler with the tile bug are recognised, others are not accused."""

from pathlib import Path

import pytest

from edge_runtime.backends.llama_cpp.amx import broken_compiler

WITH_AMX = "CPU : AVX512 = 1 | AMX_INT8 = 1 | OPENMP = 1 |"


def library(folder: Path, compiler: bytes) -> Path:
    (folder / "libggml-cpu.so").write_bytes(b"\x7fELF" + b"\0" * 999 + compiler + b"\0" * 50)
    return folder


@pytest.mark.parametrize(
    ("compiler", "broken"),
    [
        (b"GCC: (Debian 12.2.0-14+deb12u1) 12.2.0", "GCC 12.2"),
        (b"GCC: (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0", "GCC 11.4"),
        (b"GCC: (GNU) 10.5.0", "GCC 10.5"),
        (b"GCC: (GNU) 12.4.0", None),
        (b"GCC: (Ubuntu 13.3.0-6ubuntu2~24.04) 13.3.0", None),
        (b"GCC: (GNU) 14.1.0", None),
        (b"clang version 17.0.6", None),
        (b"", None),
    ],
)
def test_the_compiler_decides(tmp_path: Path, compiler: bytes, broken: str | None) -> None:
    assert broken_compiler(WITH_AMX, library(tmp_path, compiler)) == broken


def test_a_build_without_amx_is_never_broken(tmp_path: Path) -> None:
    folder = library(tmp_path, b"GCC: (Debian 12.2.0) 12.2.0")
    assert broken_compiler("CPU : AVX512 = 1 |", folder) is None


def test_no_library_is_no_accusation(tmp_path: Path) -> None:
    assert broken_compiler(WITH_AMX, tmp_path) is None
