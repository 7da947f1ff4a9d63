"""The child process around llama.cpp's quantizer, which may end the process it runs in: this one.

    {"source": ..., "out": ..., "remove": [...], "dry_run": false, "ftype": 15, ...}
    -> {"log": "..."} ... {"tensor": 12} ... {"status": 0}

`quantizer` prepares the jobs, and judges the log.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any

from .child import Job, Say, serve

BUFFER_BYTES = 32 * 1024**2
"""Rows the quantizer holds at once; its own default of 8 GiB only costs memory."""

_STEP = re.compile(r"\[\s*(\d+)/\s*\d+\] ")
_NEEDED = ("dry_run", "imatrix", "tt_overrides", "kv_overrides", "max_buf_size")


def _quantize(job: Job, say: Say) -> dict[str, object]:
    import llama_cpp

    known = {field[0] for field in llama_cpp.llama_model_quantize_params._fields_}
    if missing := [name for name in _NEEDED if name not in known]:
        return {"missing": missing}
    callback = llama_cpp.llama_log_callback(_Log(say))  # kept alive by this frame
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

    def __init__(self, say: Say) -> None:
        self._say = say
        self._line = ""
        self._told = ""

    def __call__(self, _level: int, text: bytes | None, _data: object) -> None:
        self._line += (text or b"").decode("utf-8", "replace")
        *whole, self._line = self._line.split("\n")
        for line in [*whole, self._line]:
            step = _STEP.match(line)
            if step is not None and step[1] != self._told:
                self._told = step[1]
                self._say({"tensor": int(step[1])})
        for line in whole:
            # The list of metadata says nothing about the work, and is long.
            if line.strip() and not line.startswith("llama_model_loader: - "):
                self._say({"log": line.strip()[:1000]})


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


if __name__ == "__main__":
    serve(_quantize)
