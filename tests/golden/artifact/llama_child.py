"""Run as a script with JSON requests on stdin: asks llama.cpp itself, prints JSON answers.

A GGML_ASSERT ends the process that meets it, hence a process of its own. The model file it makes
has a true header and no data: it is sparse, so that 7B shapes cost no disk.
"""

from __future__ import annotations

import ctypes
import json
import math
import re
import struct
import sys
from pathlib import Path

import llama_cpp

TYPE_BYTES = {0: 4, 1: 2}  # F32, F16
ALIGNMENT = 32
KEPT_F32 = (  # by the converter
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "position_embd.weight",
    "token_types.weight",
)  # fmt: skip
CHUNKS: list[bytes] = []


@llama_cpp.llama_log_callback
def keep(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    CHUNKS.append(text)


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: object) -> bytes:
    start = text(key) + struct.pack("<I", kind)
    if kind == 8:
        return start + text(value)
    if kind == 9:
        return start + struct.pack("<IQ", 7, len(value)) + bytes(value)
    return start + struct.pack({4: "<I", 6: "<f", 7: "<?"}[kind], value)


def write_sparse(path: Path, request: dict) -> None:
    pairs = [("general.architecture", 8, request["architecture"]), *request["metadata"]]
    pairs.append(("tokenizer.ggml.model", 8, "no_vocab"))
    tensors = request["tensors"]
    header = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(pairs))]
    header += [pair(*item) for item in pairs]
    offset = 0
    for name, dims in tensors:
        kind = 0 if len(dims) == 1 or name.endswith(KEPT_F32) else 1
        header.append(text(name) + struct.pack("<I", len(dims)))
        header.append(struct.pack(f"<{len(dims)}QIQ", *dims, kind, offset))
        size = math.prod(dims) * TYPE_BYTES[kind]
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    data = b"".join(header)
    data += bytes(-len(data) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(data)
        file.truncate(len(data) + offset)


def quantizer_plan(path: Path, ftype: int) -> dict[str, object] | str:
    """The type the quantizer would give each tensor and their total size, or its last words."""
    CHUNKS.clear()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = ftype
    params.dry_run = True
    params.nthread = 1
    failed = llama_cpp.llama_model_quantize(bytes(path), b"", ctypes.byref(params))
    log = b"".join(CHUNKS).decode("utf-8", "replace")
    if failed:
        return log[-500:]
    # Unchanged tensors have no new type in parentheses.
    lines = re.findall(
        r"\[ *\d+/ *\d+\] +(\S+) +- \[[^\]]*\], type = +(\w+), (?:size = [^\n]*?(?:\((\w+)\))?\n)",
        log,
    )
    total = re.search(r"quant size += +([\d.]+) MiB", log)
    types = {name: (new or old).upper() for name, old, new in lines}
    return {"types": types, "mib": float(total[1])}


def kv_buffer_bytes(path: Path, context: dict) -> dict[str, object]:
    """What the engine allocates for the KV cache of a context, weights left unread."""
    CHUNKS.clear()
    params = llama_cpp.llama_model_default_params()
    params.use_mmap = True
    model = llama_cpp.llama_model_load_from_file(bytes(path), params)
    if not model:
        return {"error": b"".join(CHUNKS).decode("utf-8", "replace")[-500:]}
    wanted = llama_cpp.llama_context_default_params()
    wanted.n_ctx = context["tokens"]
    wanted.n_ubatch = context["micro_batch"]
    wanted.n_seq_max = 1
    wanted.swa_full = context["swa_full"]
    wanted.type_k, wanted.type_v = context["type_k"], context["type_v"]
    wanted.flash_attn_type = 1
    opened = llama_cpp.llama_init_from_model(model, wanted)
    log = b"".join(CHUNKS).decode("utf-8", "replace")
    if not opened:
        return {"error": log[-500:]}
    sizes = re.findall(r"KV buffer size = +([\d.]+) MiB", log)
    answer = {
        "mib": sum(float(size) for size in sizes),
        "buffers": len(sizes),
        "elements": llama_cpp.llama_model_n_params(model),
    }
    llama_cpp.llama_free(opened)
    llama_cpp.llama_model_free(model)
    return answer


def answered(request: dict) -> dict[str, object]:
    path = Path(request["path"])
    write_sparse(path, request)
    try:
        return {
            "plans": {
                name: quantizer_plan(path, ftype) for name, ftype in request.get("levels", [])
            },
            "kv": [kv_buffer_bytes(path, context) for context in request.get("contexts", [])],
        }
    finally:
        path.unlink()


def main() -> None:
    llama_cpp.llama_log_set(keep, None)
    for line in sys.stdin:
        print(json.dumps(answered(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
