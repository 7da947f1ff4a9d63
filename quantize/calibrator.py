"""The child process that runs a model over a text and sums what goes into its matrices.

    {"model": ..., "text": ..., "context_tokens": 512, "most_chunks": null, "threads": 2, ...}
    -> {"chunks": 40} {"tokens": 512} ... {"entry": "blk.0.ffn_up.weight", "counts": [20480],
       "sums": "<base64 of float32>"} ... {"done": true}
    or {"refused": "..."}, {"unreachable": "..."}, {"unsound": "..."}, {"tokens_short": 300}

`calibration` prepares the job and words what went wrong. A damaged file may end the process it is
loaded in; that process is this one.
"""

from __future__ import annotations

import base64
import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .activations import ActivationsError, Collector, Ggml, UnreachableError
from .child import Job, Say, serve

_LOGITS_BYTES = 128 * 1024**2
"""What the logits of one call may take: all are asked for, or the last layer would skip tokens."""
_LEAST_STEP_TOKENS = 32
"""Tokens of a call, at least: products of fewer than 16 rows are not counted."""
_MOST_STEP_TOKENS = 512


class _RefusedError(Exception):
    """llama.cpp would not; the message is its own last words."""


def _calibrate(job: Job, say: Say) -> Mapping[str, object]:
    try:
        import llama_cpp

        ggml = Ggml()
    except (UnreachableError, AttributeError) as error:
        return {"unreachable": str(error)}
    log = _Log()
    callback = llama_cpp.llama_log_callback(log)  # kept alive by this frame, like the next one
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    collector = Collector(ggml, output=job["output"])
    evaluated = llama_cpp.ggml_backend_sched_eval_callback(collector)
    try:
        engine = _Engine(llama_cpp, job, evaluated, log)
        tokens = engine.tokens(job["text"])
        wanted = job["context_tokens"]
        if len(tokens) < 2 * wanted:
            return {"tokens_short": len(tokens)}
        chunks = min(len(tokens) // wanted, job["most_chunks"] or len(tokens))
        say({"chunks": chunks})
        for chunk in range(chunks):
            engine.run(tokens[chunk * wanted : (chunk + 1) * wanted], collector, say)
    except UnreachableError as error:
        return {"unreachable": str(error)}
    except ActivationsError as error:
        return {"unsound": str(error)}
    except _RefusedError as error:
        return {"refused": str(error)}
    for name, sums in collector.sums.items():
        data = base64.b64encode(np.ascontiguousarray(sums, "<f4").tobytes()).decode()
        say({"entry": name, "counts": collector.counts[name].tolist(), "sums": data})
    return {"done": True}


class _Engine:
    """A model and a context of llama.cpp, for passages that know nothing of each other."""

    def __init__(self, llama_cpp: Any, job: Job, evaluated: Any, log: _Log) -> None:
        self._lib, self._log = llama_cpp, log
        params = llama_cpp.llama_model_default_params()
        # The weights stay in main memory: a device that is there takes its part of large products
        # by itself, and none is too small.
        params.n_gpu_layers = 0
        # Repacked weights would be for speed; some builds have kernels for them that crash.
        params.use_extra_bufts = False
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(job["model"]), params)
        if not self._model:
            raise _RefusedError(log.reason())
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        size = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        self._step_tokens = _step(job["context_tokens"], size)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = job["context_tokens"]
        settings.n_batch = settings.n_ubatch = self._step_tokens
        settings.n_seq_max = 1
        settings.n_threads = settings.n_threads_batch = job["threads"]
        settings.no_perf = True
        settings.cb_eval = evaluated
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        if not self._context:
            raise _RefusedError(log.reason())

    def tokens(self, path: str) -> list[int]:
        """The tokens of a text file, without the line break at its end, as llama-imatrix has it."""
        data = Path(path).read_bytes().removesuffix(b"\n")
        room = len(data) + 16
        ids = (ctypes.c_int32 * room)()
        count = self._lib.llama_tokenize(self._vocabulary, data, len(data), ids, room, True, False)
        if count < 0:
            raise _RefusedError("It could not tokenize the text.")
        return ids[:count]

    def run(self, tokens: list[int], collector: Collector, say: Say) -> None:
        """Evaluates one passage from an empty context, its first token made the usual one."""
        lib = self._lib
        begin = lib.llama_vocab_bos(self._vocabulary)
        if lib.llama_vocab_get_add_bos(self._vocabulary) and begin >= 0:
            tokens = [begin, *tokens[1:]]
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        batch = lib.llama_batch_init(self._step_tokens, 0, 1)
        try:
            for start in range(0, len(tokens), self._step_tokens):
                part = tokens[start : start + self._step_tokens]
                _fill(batch, part, start)
                code = lib.llama_decode(self._context, batch)
                if collector.problem is not None:
                    raise collector.problem
                if code:
                    raise _RefusedError(self._log.reason() or f"It failed with code {code}.")
                say({"tokens": len(part)})
        finally:
            lib.llama_batch_free(batch)
        if name := collector.broken():
            raise ActivationsError(f"What goes into {name} is infinite or no number.")


def _fill(batch: Any, tokens: list[int], start: int) -> None:
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i] = token, start + i
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        batch.logits[i] = 1


def _step(context_tokens: int, vocabulary_tokens: int) -> int:
    """How many tokens go into one call: even parts of a passage whose logits do not fill memory."""
    room = _LOGITS_BYTES // (4 * max(vocabulary_tokens, 1))
    most = max(_LEAST_STEP_TOKENS, min(_MOST_STEP_TOKENS, room))
    calls = -(-context_tokens // most)
    return -(-context_tokens // calls)


class _Log:
    """The last lines of llama.cpp's log."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __call__(self, _level: int, text: bytes | None, _data: object) -> None:
        self._lines.append((text or b"").decode("utf-8", "replace").strip())
        del self._lines[:-50]

    def reason(self) -> str:
        """The last line that speaks of an error, or the last of all."""
        told = [line for line in self._lines if line]
        for words in ("error", "failed", ""):
            if found := [line for line in told if words in line]:
                return found[-1][:300]
        return ""


if __name__ == "__main__":
    serve(_calibrate)
