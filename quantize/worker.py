"""The child process around llama.cpp's quantizer: JSON spec on stdin, JSON lines on stdout.

    {"source": ..., "out": ..., "ftype": 15, "threads": 0, "allow_requantize": false}
    -> {"done": 12, "total": 290} ... {"log": "..."} ... {"status": 0}

The quantizer may end the process it runs in; that process is this one. It also ends when its stdin
closes, that is when its parent is gone. Nothing else is known here; `requantization` judges.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import TextIO

BUFFER_BYTES = 64 * 1024**2
"""Rows the quantizer holds at once; its own default of 8 GiB only costs memory."""

_STEP = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


def main() -> int:
    """Quantizes one file as the spec on stdin says. Returns the exit status."""
    # The C library prints; what it prints must not mix with the answers.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # C code never returns to Python's handler
    spec = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, args=(spec["out"],), daemon=True).start()
    _say(channel, {"status": _quantize(channel, spec)})
    return 0


def _quantize(channel: TextIO, spec: dict[str, object]) -> int:
    import llama_cpp

    line = ""

    def log(_level: int, text: bytes | None, _data: object) -> None:
        nonlocal line
        line += (text or b"").decode("utf-8", "replace")
        *whole, line = line.split("\n")
        step = _STEP.search(line)
        for done in whole:
            if found := _STEP.search(done):
                step = found
            elif done.strip():
                _say(channel, {"log": done.strip()[:500]})
        if step is not None:
            _say(channel, {"done": int(step[1]), "total": int(step[2])})

    callback = llama_cpp.llama_log_callback(log)  # kept alive by this frame
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = spec["ftype"]
    params.nthread = spec["threads"]
    params.allow_requantize = spec["allow_requantize"]
    if hasattr(params, "max_buf_size"):  # absent from older bindings
        params.max_buf_size = BUFFER_BYTES
    return int(
        llama_cpp.llama_model_quantize(
            os.fsencode(str(spec["source"])), os.fsencode(str(spec["out"])), ctypes.byref(params)
        )
    )


def _say(channel: TextIO, message: dict[str, object]) -> None:
    channel.write(json.dumps(message) + "\n")
    channel.flush()


def _end_with_parent(out: object) -> None:
    # The bare descriptor: a thread that holds sys.stdin's lock cannot be ended cleanly.
    while os.read(0, 4096):
        pass
    try:
        Path(str(out)).unlink()
    finally:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
