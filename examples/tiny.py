"""The model the other examples run: the first argument, or the tiny one that ships."""

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

import edge_runtime
import quantize


def model_path() -> str:
    """The path on the command line, else a GGUF made here from the shipped checkpoint."""
    if len(sys.argv) > 1:
        return sys.argv[1]
    checkpoint = Path(edge_runtime.__file__).with_name("tiny_model")
    folder = Path(tempfile.mkdtemp(prefix="edge-runtime-example-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(quantize.convert(checkpoint, folder / "tiny.gguf").path)
