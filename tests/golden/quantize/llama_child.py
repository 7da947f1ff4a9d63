"""Runs GGUF files through llama.cpp for the tests next door: a JSON job a line, a JSON answer.

A process of its own, because a file llama.cpp dislikes may end it. The low-level API only, nothing
of ours: an independent witness.

    {"path": ..., "tokens": [1, 2, 3], "logits": "out.npy", "exact": true}
    {"path": ..., "tokens": [1, 2, 3], "logits": "out.npy", "exact": true, "embedding": true}
    {"path": ..., "texts": ["..."], "parse_special": true}
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

import llama_cpp
import numpy as np

TAIL: list[str] = []


@llama_cpp.llama_log_callback
def log(level: int, text: bytes, _data: object) -> None:
    if level >= 3:  # warnings and errors
        TAIL.append(text.decode("utf-8", "replace").strip())


def load(job: dict):
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    params.check_tensors = True
    # Plain kernels only: GCC before 13 miscompiles the AMX ones (their tile configuration is lost),
    # and repacked weights are not what is tested here.
    params.use_extra_bufts = False
    params.vocab_only = "texts" in job
    model = llama_cpp.llama_model_load_from_file(os.fsencode(job["path"]), params)
    if not model:
        raise RuntimeError(" | ".join(TAIL[-4:]))
    return model


def evaluate(model, job: dict) -> dict:
    tokens = job["tokens"]
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = max(256, len(tokens) + 8)
    params.n_threads = params.n_threads_batch = 1  # two would spin against other work
    if job.get("exact"):
        params.type_k = params.type_v = 0  # F32
        params.flash_attn_type = 0
    if job.get("embedding"):
        params.embeddings = True
        params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_CLS
        params.n_ubatch = params.n_batch
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError("no context: " + " | ".join(TAIL[-4:]))
    try:
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, 1
        if llama_cpp.llama_decode(context, batch) != 0:
            raise RuntimeError("decode failed")
        llama_cpp.llama_batch_free(batch)
        if job.get("embedding"):
            width = llama_cpp.llama_model_n_embd(model)
            found = llama_cpp.llama_get_embeddings_seq(context, 0)
            np.save(job["logits"], np.ctypeslib.as_array(found, (1, width)))
            return {}
        rows = llama_cpp.llama_get_logits(context)
        logits = np.ctypeslib.as_array(rows, (len(tokens), vocabulary)).copy()
        last = logits[-1]
        for _ in range(job.get("steps", 0)):  # then one token at a time
            token = (llama_cpp.llama_token * 1)(int(last.argmax()) % vocabulary)
            if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(token, 1)) != 0:
                raise RuntimeError("decode failed")
            last = np.ctypeslib.as_array(
                llama_cpp.llama_get_logits_ith(context, -1), (vocabulary,)
            ).copy()
        if "logits" in job:
            np.save(job["logits"], logits)
        return {
            "finite": bool(np.isfinite(logits).all() and np.isfinite(last).all()),
            "spread": float(last.std()),
            "vocabulary": vocabulary,
        }
    finally:
        llama_cpp.llama_free(context)


def tokenize(model, job: dict) -> dict:
    vocab = llama_cpp.llama_model_get_vocab(model)
    answers = []
    for text in job["texts"]:
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 16))()
        count = llama_cpp.llama_tokenize(
            vocab, data, len(data), room, len(room), job["add_special"], True
        )
        answers.append(list(room[:count]))
    template = llama_cpp.llama_model_chat_template(model, None)
    return {
        "tokens": answers,
        "chat_template": template.decode() if template else None,
        "eos": llama_cpp.llama_vocab_eos(vocab),
        "bos": llama_cpp.llama_vocab_bos(vocab),
    }


def main() -> None:
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            model = load(job)
            answer = tokenize(model, job) if "texts" in job else evaluate(model, job)
            llama_cpp.llama_model_free(model)
        except RuntimeError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
