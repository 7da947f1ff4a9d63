"""The child process that lets llama.cpp decode one token of a model.

    {"path": "m.gguf", "embeds": false} -> {"finite": true} or {"refused": "..."}

A damaged file may end the process it is loaded in; that process is this one. `verification` judges.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from .child import serve

CONTEXT_TOKENS = 64


def _decode(path: str, *, embeds: bool) -> dict[str, object]:
    import llama_cpp

    lines: list[str] = []

    def log(_level: int, text: bytes | None, _data: object) -> None:
        lines.append((text or b"").decode("utf-8", "replace").strip())
        del lines[:-50]

    callback = llama_cpp.llama_log_callback(log)  # kept alive by this frame
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    params.check_tensors = True  # every value, and every block's scales, must be a finite number
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        return {"refused": _reason(lines)}
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = CONTEXT_TOKENS
    settings.embeddings = embeds
    context = llama_cpp.llama_init_from_model(model, settings)
    if not context:
        return {"refused": _reason(lines)}
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    first = max(llama_cpp.llama_vocab_bos(vocabulary), 0)
    token = (llama_cpp.llama_token * 1)(first)
    if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(token, 1)):
        return {"refused": _reason(lines)}
    return {"finite": _all_finite(llama_cpp, model, context, vocabulary, embeds=embeds)}


def _all_finite(llama_cpp: Any, model: Any, context: Any, vocabulary: Any, *, embeds: bool) -> bool:
    import numpy as np

    if embeds:
        size = llama_cpp.llama_model_n_embd(model)
        values = llama_cpp.llama_get_embeddings_seq(context, 0)
        values = values or llama_cpp.llama_get_embeddings_ith(context, -1)
    else:
        size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        values = llama_cpp.llama_get_logits_ith(context, -1)
    return bool(values) and bool(np.isfinite(np.ctypeslib.as_array(values, (size,))).all())


def _reason(lines: list[str]) -> str:
    told = [line for line in lines if line]
    for words in ("has invalid data", "error", ""):
        if found := [line for line in told if words in line]:
            return found[-1][:300]
    return ""


if __name__ == "__main__":
    serve(lambda job, _say: _decode(job["path"], embeds=job["embeds"]))
