"""The child process around llama.cpp's quantizer: JSON jobs on stdin, JSON lines on stdout.

    {"source": ..., "out": ..., "remove": [...], "dry_run": false, "ftype": 15, ...}
    -> {"log": "..."} ... {"tensor": 12} ... {"status": 0}

The quantizer may end the process it runs in; that process is this one. It also ends when its stdin
closes, that is when its parent is gone, and takes what it was writing with it. Nothing else is
known here: the other side prepares the jobs, and judges the log.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import re
import signal
import threading
from pathlib import Path
from typing import Any, NoReturn, TextIO

BUFFER_BYTES = 32 * 1024**2
"""Rows the quantizer holds at once; its own default of 8 GiB only costs memory."""

_STEP = re.compile(r"\[\s*(\d+)/\s*\d+\] ")
_NEEDED = ("dry_run", "imatrix", "tt_overrides", "kv_overrides", "max_buf_size")

Job = dict[str, Any]


def main() -> NoReturn:
    """Does one job after the other until stdin closes, which ends the process."""
    # The C library prints; what it prints must not mix with the answers.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # C code never returns to Python's handler
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    current: list[Job] = []
    threading.Thread(target=_listen, args=(jobs, current), daemon=True).start()
    while True:
        current.append(jobs.get())
        answer = _quantize(channel, current[0])
        current.clear()
        _say(channel, answer)


def _quantize(channel: TextIO, job: Job) -> dict[str, object]:
    import llama_cpp

    known = {field[0] for field in llama_cpp.llama_model_quantize_params._fields_}
    if missing := [name for name in _NEEDED if name not in known]:
        return {"missing": missing}
    callback = llama_cpp.llama_log_callback(_Log(channel))  # kept alive by this frame
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.max_buf_size = BUFFER_BYTES
    for name in ("ftype", "nthread", "allow_requantize", "pure", "keep_split", "dry_run"):
        setattr(params, name, job[name])
    params.quantize_output_tensor = not job["leave_output_tensor"]
    for name in ("output_tensor_type", "token_embedding_type"):
        if job[name] is not None:
            setattr(params, name, job[name])
    # The structure holds pointers only: what they point at must outlive the call.
    kept = [_overrides(llama_cpp, params, job["tensor_types"])]
    kept.append(_pairs(llama_cpp, params, job["pairs"]))
    if job["imatrix"] is not None:
        kept.append(_importance(llama_cpp, params, Path(job["imatrix"])))
    source, out = os.fsencode(job["source"]), os.fsencode(job["out"])
    status = llama_cpp.llama_model_quantize(source, out, ctypes.byref(params))
    del kept
    return {"status": int(status)}


class _Log:
    """Passes the quantizer's log on: whole lines, and each tensor as soon as it is begun."""

    def __init__(self, channel: TextIO) -> None:
        self._channel = channel
        self._line = ""
        self._told = ""

    def __call__(self, _level: int, text: bytes | None, _data: object) -> None:
        self._line += (text or b"").decode("utf-8", "replace")
        *whole, self._line = self._line.split("\n")
        for line in [*whole, self._line]:
            step = _STEP.match(line)
            if step is not None and step[1] != self._told:
                self._told = step[1]
                _say(self._channel, {"tensor": int(step[1])})
        for line in whole:
            # The list of metadata says nothing about the work, and is long.
            if line.strip() and not line.startswith("llama_model_loader: - "):
                _say(self._channel, {"log": line.strip()[:1000]})


def _overrides(llama_cpp: Any, params: Any, types: list[tuple[str, int]]) -> object:
    if not types:
        return None
    array = (llama_cpp.llama_model_tensor_override * (len(types) + 1))()  # ended by zeros
    for item, (pattern, number) in zip(array, types, strict=False):
        item.pattern, item.type = pattern.encode(), number
    params.tt_overrides = array
    return array


def _pairs(llama_cpp: Any, params: Any, pairs: list[tuple[str, str | int]]) -> object:
    if not pairs:
        return None
    array = (llama_cpp.llama_model_kv_override * (len(pairs) + 1))()  # ended by zeros
    for item, (key, value) in zip(array, pairs, strict=False):
        item.key = key.encode()
        if isinstance(value, str):
            item.tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR
            item.value.val_str = value.encode()
        else:
            item.tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT
            item.value.val_i64 = value
    params.kv_overrides = array
    return array


def _importance(llama_cpp: Any, params: Any, path: Path) -> object:
    from .imatrix import read

    entries = read(path).entries
    values = [entry.values for entry in entries]
    array = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))()  # ended by zeros
    for item, entry, numbers in zip(array, entries, values, strict=False):
        item.name, item.size = entry.name.encode(), numbers.size
        item.data = numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params.imatrix = array
    return array, values


def _say(channel: TextIO, message: dict[str, object]) -> None:
    channel.write(json.dumps(message) + "\n")
    channel.flush()


def _listen(jobs: queue.SimpleQueue[Job], current: list[Job]) -> None:
    # The bare descriptor: a thread that holds sys.stdin's lock cannot be ended cleanly.
    data = b""
    while more := os.read(0, 65536):
        *lines, data = (data + more).split(b"\n")
        for line in lines:
            jobs.put(json.loads(line))
    for path in (name for job in current for name in job["remove"]):
        with contextlib.suppress(OSError):
            Path(path).unlink()
    os._exit(1 if current else 0)


if __name__ == "__main__":
    main()
