"""Calls llama.cpp's quantizer with exactly what it is told, for the tests next door.

The low-level API only, nothing of ours: an independent witness. JSON objects in lines on stdin, a
line with the status on stdout for each:

    {"source": ..., "out": ..., "set": {"ftype": 15, "pure": true}, "types": [["ffn_down", 8]],
     "importance": [["blk.0.ffn_up.weight", [0.5, ...]]], "pairs": [["quantize.imatrix.file", "a"]]}
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

import llama_cpp


def quantized(job: dict) -> int:
    params = llama_cpp.llama_model_quantize_default_params()
    for name, value in job.get("set", {}).items():
        setattr(params, name, value)
    if types := job.get("types"):
        overrides = (llama_cpp.llama_model_tensor_override * (len(types) + 1))()
        for i, (pattern, number) in enumerate(types):
            overrides[i].pattern, overrides[i].type = pattern.encode(), number
        params.tt_overrides = overrides
    if importance := job.get("importance"):
        data = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
        for i, (name, values) in enumerate(importance):
            data[i].name, data[i].size = name.encode(), len(values)
            data[i].data = (ctypes.c_float * len(values))(*values)
        params.imatrix = data
    if pairs := job.get("pairs"):
        values = (llama_cpp.llama_model_kv_override * (len(pairs) + 1))()
        for i, (key, value) in enumerate(pairs):
            values[i].key = key.encode()
            if isinstance(value, str):
                values[i].tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR
                values[i].value.val_str = value.encode()
            else:
                values[i].tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT
                values[i].value.val_i64 = value
        params.kv_overrides = values
    source, out = os.fsencode(job["source"]), os.fsencode(job["out"])
    return int(llama_cpp.llama_model_quantize(source, out, ctypes.byref(params)))


if __name__ == "__main__":
    for line in sys.stdin:
        print(quantized(json.loads(line)), flush=True)
