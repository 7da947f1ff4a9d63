"""Opens a model and a context in the engine, or says in one sentence why that did not work.

Options are checked before the engine sees them, because several impossible ones end the process
inside it. What the engine reports of its buffers is read out of its log, in MiB with two decimals:
sizes here are exact to about 5 KiB.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from ...artifact import GGML_TYPES, Artifact
from ...errors import BackendError, EdgeError, MemoryLimitError, UnsupportedError, UsageError
from ...measurement import SessionOptions
from ...memory import Buffer
from ...units import MIB, format_bytes
from ..threads import MAX_THREADS, default_threads
from .library import LOG, WARNING, amx_broken_by, library
from .vocabulary import Vocabulary

DEFAULT_CONTEXT_TOKENS = 4096
"""The context when none is asked for, or the model's own if that is shorter: a model trained for
131072 tokens would otherwise reserve gigabytes for a short question."""

_MAX_CONTEXT_TOKENS = 1 << 24
_FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
_UNQUANTIZED = ("f32", "f16", "bf16")
_BUFFER_LINE = re.compile(r"\s(\S+)\s+(model|KV|compute|output|RS) buffer size\s*=\s*([\d.]+) MiB")
_PURPOSES: dict[str, Literal["model", "kv", "compute", "output", "recurrent"]] = {
    "model": "model", "KV": "kv", "compute": "compute", "output": "output", "RS": "recurrent",
}  # fmt: skip
_OUT_OF_MEMORY = re.compile(
    r"(failed|unable) to (allocate|reserve)|out of memory|bad_alloc|cannot allocate|"
    r"insufficient memory|malloc failed",
    re.IGNORECASE,
)

# The engine's log is one for the whole process: openings take turns, so that each reads its own.
_opening = threading.Lock()


@dataclass(slots=True, kw_only=True)
class Native:
    """One loaded model with its context: bare pointers, freed once, context first."""

    lib: Any
    model: int | None
    context: int | None
    memory: int | None
    vocabulary: Vocabulary
    options: SessionOptions
    buffers: tuple[Buffer, ...]
    abort: ctypes.Array[ctypes.c_char]
    """While its first byte is not zero, the engine stops what it is computing."""
    window_tokens: int
    """The sliding window of the attention, 0 when all of the context is seen."""
    output_rows: int
    """The logits of how many tokens one evaluation may give; beyond it the engine ends the
    process."""

    def free(self) -> None:
        """Frees the context and then the model; safe to call twice."""
        context, self.context = self.context, None
        model, self.model = self.model, None
        self.memory = None
        if context is not None:
            self.lib.llama_free(context)
        if model is not None:
            self.lib.llama_model_free(model)


def open_native(artifact: Artifact, options: SessionOptions) -> Native:
    """Loads the artifact's weights and makes a context with these options.

    Raises what `LlamaCppBackend.open` says.
    """
    lib = library()
    options = _checked(lib, artifact, options)
    with _opening:
        mark = LOG.mark
        model = _load_model(lib, artifact, options, mark)
        context = None
        try:
            native = _with_context(lib, model, artifact, options, mark)
            context = native.context
            return native
        finally:
            if context is None:
                lib.llama_model_free(model)


def widened(native: Native, artifact: Artifact, rows: int) -> Native:
    """The same weights with an empty context that gives the logits of `rows` tokens at once.

    The context there was is freed and must not be used again; when no other can be made, it stays.
    Raises what `LlamaCppBackend.open` says.
    """
    with _opening:
        mark = LOG.mark
        model = cast(int, native.model)
        wide = _with_context(native.lib, model, artifact, native.options, mark, rows=rows)
    weights = tuple(buffer for buffer in native.buffers if buffer.purpose == "model")
    native.model = None
    native.free()
    return replace(wide, buffers=weights + wide.buffers)


def _checked(lib: Any, artifact: Artifact, options: SessionOptions) -> SessionOptions:
    """The options with every default decided. Raises UsageError or MemoryLimitError."""
    _in_range("context_tokens", options.context_tokens, 1, _MAX_CONTEXT_TOKENS)
    _in_range("threads", options.threads, 1, MAX_THREADS)
    _in_range("threads_prefill", options.threads_prefill, 1, MAX_THREADS)
    _in_range("batch_tokens", options.batch_tokens, 1, _MAX_CONTEXT_TOKENS)
    _in_range("micro_batch_tokens", options.micro_batch_tokens, 1, _MAX_CONTEXT_TOKENS)
    _in_range("gpu_layers", options.gpu_layers, -1, 100_000)
    if options.kv_type_v not in _UNQUANTIZED and options.flash_attention == "off":
        raise UsageError(
            f"A V cache of type {options.kv_type_v} needs flash attention, which is off.",
            way_out="Leave flash attention on auto, or keep the V cache at f16.",
        )
    if options.providers:
        raise UsageError(
            "llama.cpp has no execution providers.",
            cause="They are ONNX Runtime's.",
            way_out="Leave --provider out, or name an ONNX model.",
        )
    gpu = bool(lib.llama_supports_gpu_offload())
    if options.gpu_layers and not gpu:
        raise UsageError(
            f"{options.gpu_layers} layers cannot go to a GPU.".replace("-1 layers", "The layers"),
            cause="This build of llama.cpp sees no GPU.",
            way_out="Leave the option out, or build with one, for example: "
            'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall llama-cpp-python',
        )
    layers = artifact.shape.layers + 1  # the output layer counts as one
    wanted = layers if options.gpu_layers in (None, -1) else options.gpu_layers or 0
    threads = options.threads or default_threads()
    context = options.context_tokens or min(
        artifact.shape.context_tokens or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS
    )
    _check_positions(artifact, context)
    _check_cache_fits(artifact, options, context)
    batch = min(options.batch_tokens, context)
    # Pooling happens inside one micro-batch, so a text to embed must fit a single one.
    micro_batch = batch if options.embeddings else min(options.micro_batch_tokens, batch)
    return replace(
        options,
        context_tokens=context,
        threads=threads,
        threads_prefill=options.threads_prefill or threads,
        batch_tokens=batch,
        micro_batch_tokens=micro_batch,
        gpu_layers=min(wanted, layers) if gpu else 0,
        memory_map=options.memory_map and bool(lib.llama_supports_mmap()),
    )


def _in_range(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise UsageError(f"{name} is {value}.", cause=f"It must lie between {low} and {high}.")


def _check_positions(artifact: Artifact, context_tokens: int) -> None:
    """Refuses a context beyond a table of positions: the engine ends the process at its end."""
    most = artifact.shape.position_rows
    if most is not None and context_tokens > most:
        raise UsageError(
            f"{artifact.name} cannot have a context of {context_tokens} tokens.",
            cause=f"Its positions come from a table of {most} rows.",
            way_out=f"Ask for {most} tokens or fewer.",
        )


def _check_cache_fits(artifact: Artifact, options: SessionOptions, context_tokens: int) -> None:
    """Refuses a KV cache larger than the whole memory: asking for it would get us killed."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return  # this system does not tell; the engine's own allocation decides
    try:
        cache = artifact.shape.kv_bytes(
            context_tokens, kv_type_k=options.kv_type_k, kv_type_v=options.kv_type_v
        )
    except EdgeError:
        return  # a shape our arithmetic does not cover; the engine's own allocation decides
    if 0 < total < cache:
        raise MemoryLimitError(
            f"A context of {context_tokens} tokens needs {format_bytes(cache)} of memory.",
            cause=f"This machine has {format_bytes(total)} in all.",
            way_out="Ask for a shorter context, or a quantized cache (q8_0, q4_0).",
        )


def _load_model(lib: Any, artifact: Artifact, options: SessionOptions, mark: int) -> int:
    params = lib.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if options.memory_map else lib.LLAMA_LOAD_MODE_NONE
    # Weights in an extra buffer type would go to kernels that end the process: see `amx`.
    params.use_extra_bufts = amx_broken_by() is None
    model = lib.llama_model_load_from_file(os.fsencode(artifact.path), params)
    if not model:
        raise _loading_error(f"llama.cpp cannot load {artifact.path.name}.", mark)
    pointer: int = model
    return pointer


def _with_context(
    lib: Any, model: int, artifact: Artifact, options: SessionOptions, mark: int, *, rows: int = 1
) -> Native:
    if lib.llama_model_has_encoder(model) and lib.llama_model_has_decoder(model):
        raise UnsupportedError(
            f"{artifact.path.name} is an encoder-decoder model.",
            cause="Only models that read and write with the same layers are run here.",
        )
    vocabulary = Vocabulary(lib, lib.llama_model_get_vocab(model))
    abort = ctypes.create_string_buffer(2)
    params = _context_params(lib, model, artifact, options, rows)
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise _loading_error("llama.cpp cannot make a context.", mark)
    lib.llama_set_abort_callback(context, _abort_check(lib), ctypes.cast(abort, ctypes.c_void_p))
    memory = lib.llama_get_memory(context)
    context_tokens = lib.llama_n_ctx(context)
    in_force = replace(
        options,
        # Asked for 100 tokens the engine makes 256: it rounds to multiples of 256, also where the
        # table of positions is shorter.
        context_tokens=min(context_tokens, artifact.shape.position_rows or context_tokens),
        batch_tokens=lib.llama_n_batch(context),
        micro_batch_tokens=lib.llama_n_ubatch(context),
        threads=lib.llama_n_threads(context),
        threads_prefill=lib.llama_n_threads_batch(context),
    )
    return Native(
        lib=lib,
        model=model,
        context=context,
        memory=memory or None,
        vocabulary=vocabulary,
        options=in_force,
        buffers=read_buffers(LOG.since(mark)),
        abort=abort,
        window_tokens=0 if options.swa_full else int(lib.llama_model_n_swa(model)),
        output_rows=lib.llama_n_batch(context) if options.embeddings else rows,
    )


def _context_params(
    lib: Any, model: int, artifact: Artifact, options: SessionOptions, rows: int
) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = options.context_tokens
    params.n_batch = options.batch_tokens
    params.n_ubatch = options.micro_batch_tokens
    params.n_seq_max = 1
    params.n_threads = options.threads
    params.n_threads_batch = options.threads_prefill
    params.flash_attn_type = _FLASH_ATTENTION[options.flash_attention]
    params.type_k = GGML_TYPES[options.kv_type_k.upper()].id
    params.type_v = GGML_TYPES[options.kv_type_v.upper()].id
    params.swa_full = options.swa_full
    params.no_perf = True
    if options.embeddings:
        # Without pooling of its own a model gets the mean over its tokens.
        if _own_pooling(lib, model, artifact) in (None, lib.LLAMA_POOLING_TYPE_NONE):
            params.pooling_type = lib.LLAMA_POOLING_TYPE_MEAN
    else:
        # Mostly only the last token's logits are read. The default plans the largest graph for
        # logits of every token of a batch: 297 MiB more for a vocabulary of 152k.
        params.n_outputs_max = rows
    return params


def _own_pooling(lib: Any, model: int, artifact: Artifact) -> int | None:
    text = ctypes.create_string_buffer(32)
    key = f"{artifact.shape.architecture}.pooling_type".encode()
    if lib.llama_model_meta_val_str(model, key, text, len(text)) < 0:
        return None
    return int(text.value) if text.value.isdigit() else None


_abort_check_cache: Any = None


def _abort_check(lib: Any) -> Any:
    """A native `bool f(const char *)` that is true while the text it points at is not empty.

    The engine asks after every node of the graph, hundreds of times per token: a Python callback
    would take the interpreter's lock each time. The C library's `strlen` is such a function:
    its result is 0 for an empty text and 1 for a text of one byte.
    """
    global _abort_check_cache
    if _abort_check_cache is None:
        system = ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)
        address = ctypes.cast(system.strlen, ctypes.c_void_p).value
        _abort_check_cache = lib.ggml_abort_callback(address)
    return _abort_check_cache


def read_buffers(lines: tuple[str, ...]) -> tuple[Buffer, ...]:
    """The buffers the engine says it allocated, in the order of its log.

    Sizes are logged in MiB with two decimals. A device's compute buffer is planned more than once;
    its last line counts.
    """
    found: list[Buffer] = []
    for line in lines:
        match = _BUFFER_LINE.search(line)
        if match is None:
            continue
        buffer = Buffer(
            device=match[1], purpose=_PURPOSES[match[2]], size_bytes=round(float(match[3]) * MIB)
        )
        if buffer.purpose == "compute":
            found = [b for b in found if (b.device, b.purpose) != (buffer.device, "compute")]
        found.append(buffer)
    return tuple(found)


def _loading_error(fact: str, mark: int) -> EdgeError:
    cause = LOG.complaint(mark)
    lines = "\n".join(LOG.since(mark, level=WARNING))
    if _OUT_OF_MEMORY.search(lines):
        return MemoryLimitError(
            fact,
            cause=cause or "Memory does not suffice.",
            way_out="Choose a smaller level or a shorter context, or close other programs.",
        )
    if "unknown model architecture" in lines:
        return UnsupportedError(
            fact,
            cause=cause,
            way_out="Try a newer engine: pip install --upgrade llama-cpp-python",
        )
    return BackendError(fact, cause=cause or "It gave no reason.")
