"""Opens a graph in ONNX Runtime, or says in one sentence why that did not work.

Options are checked before the engine sees them. Threads spin while they wait for each other, as is
fastest on a machine of one's own; `OMP_WAIT_POLICY=passive` lets them sleep, as it does for the
other engine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from ...artifact import Artifact
from ...errors import MemoryLimitError, UnsupportedError, UsageError
from ...measurement import KvType, Placement, SessionOptions
from ...memory import Buffer
from ...units import format_bytes
from ..threads import MAX_THREADS, default_threads
from . import configs, providers
from .binding import Decoder
from .library import QUIET, library, translated
from .signature import Signature, read_signature
from .vocabulary import Vocabulary

DEFAULT_CONTEXT_TOKENS = 4096
"""The context when none is asked for, or the model's own if that is shorter."""

_MAX_CONTEXT_TOKENS = 1 << 24
_UNQUANTIZED = ("f32", "f16", "bf16")
_NO_TOKENIZER = ("", "none", "no_vocab")


@dataclass(slots=True, kw_only=True)
class Native:
    """One loaded graph: the engine's session, what it takes and gives, its memory.

    `decoder` is None for an encoder. `placed` says which provider holds how many nodes.
    """

    session: Any
    signature: Signature
    decoder: Decoder | None
    vocabulary: Vocabulary
    vocabulary_tokens: int
    options: SessionOptions
    buffers: tuple[Buffer, ...]
    placed: tuple[Placement, ...]

    @property
    def is_open(self) -> bool:
        """Whether it was not freed yet."""
        return self.session is not None

    def free(self) -> None:
        """Lets go of the graph and all memory; safe to call twice."""
        decoder, self.decoder = self.decoder, None
        self.session = None
        if decoder is not None:
            decoder.free()


def open_native(artifact: Artifact, options: SessionOptions) -> Native:
    """Loads the artifact's graph and makes a context with these options.

    Raises what `OnnxBackend.open` says.
    """
    options = _checked(artifact, options)
    _check_memory(f"{artifact.name} takes", artifact.size_bytes)
    session = _session(artifact, options)
    file = artifact.path.name
    shape = artifact.shape
    signature = read_signature(
        session,
        file=file,
        names=configs.roles(artifact.path),
        kv_dims=(shape.kv_heads, shape.head_dim),
    )
    if signature.logits and shape.encoder and not signature.hidden:
        raise UnsupportedError(
            f"{file} fills gaps in texts: it continues none and makes no embeddings.",
            cause="It is an encoder with an output matrix, and gives no hidden states.",
            way_out="Use the export of the model without its head (task feature-extraction).",
        )
    if signature.logits and not signature.generates and not signature.hidden:
        raise UnsupportedError(
            f"{file} keeps no cache of keys and values.",
            cause="Every token would evaluate the whole text again.",
            way_out="Use an export with past and present (decoder with past, or genai's builder).",
        )
    placed = providers.placements(session)
    providers.require_used(options, session, placed, file)
    vocabulary = Vocabulary(artifact.path, empty=artifact.tokenizer_model in _NO_TOKENIZER)
    decoder = None
    if signature.generates:
        cache_bytes = sum(p.size_bytes(cast(int, options.context_tokens)) for p in signature.caches)
        _check_memory(f"A context of {options.context_tokens} tokens takes", cache_bytes)
        decoder = Decoder(
            session,
            signature,
            file=file,
            device=providers.memory_device(placed),
            turns_tokens=shape.original_context_tokens,
            window_tokens=shape.sliding_window,
            rounds_together=_quantizes_dynamically(artifact),
        )
        decoder.allocate(
            cast(int, options.context_tokens),
            min(options.micro_batch_tokens, options.batch_tokens),
        )
    in_force = _in_force(options, artifact, signature, decoder, placed)
    _require_cache(options, in_force)
    return Native(
        session=session,
        signature=signature,
        decoder=decoder,
        vocabulary=vocabulary,
        vocabulary_tokens=_vocabulary_tokens(artifact, vocabulary, decoder),
        options=in_force,
        buffers=_buffers(artifact, decoder, placed),
        placed=placed,
    )


def _checked(artifact: Artifact, options: SessionOptions) -> SessionOptions:
    """The options with every default decided. Raises UsageError."""
    _in_range("context_tokens", options.context_tokens, 1, _MAX_CONTEXT_TOKENS)
    _in_range("threads", options.threads, 1, MAX_THREADS)
    _in_range("threads_prefill", options.threads_prefill, 1, MAX_THREADS)
    _in_range("batch_tokens", options.batch_tokens, 1, _MAX_CONTEXT_TOKENS)
    _in_range("micro_batch_tokens", options.micro_batch_tokens, 1, _MAX_CONTEXT_TOKENS)
    _in_range("gpu_layers", options.gpu_layers, -1, 100_000)
    for name, kind in (("K", options.kv_type_k), ("V", options.kv_type_v)):
        if kind not in _UNQUANTIZED:
            raise UsageError(
                f"The {name} cache cannot be {kind}.",
                cause="An ONNX graph declares the type of its own cache.",
                way_out="Leave the option out, or run the model as GGUF.",
            )
    if options.flash_attention != "auto":
        raise UsageError(
            f"Flash attention cannot be turned {options.flash_attention}.",
            cause="An ONNX graph's operators decide how attention is computed.",
            way_out="Leave the option out.",
        )
    if not options.memory_map:
        raise UsageError(
            "The weights cannot be read without mapping them.",
            cause="ONNX Runtime decides itself how it reads a model's files.",
            way_out="Leave the option out.",
        )
    own = artifact.shape.context_tokens
    context = options.context_tokens or min(own or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)
    if own and context > own:
        raise UsageError(
            f"{artifact.name} cannot have a context of {context} tokens.",
            cause=f"It was made for {own}, and a graph's tables of positions end somewhere.",
            way_out=f"Ask for {own} tokens or fewer.",
        )
    batch = min(options.batch_tokens, context)
    threads = options.threads or default_threads()
    return replace(
        options,
        context_tokens=context,
        threads=threads,
        threads_prefill=threads,  # one pool of threads computes both
        batch_tokens=batch,
        micro_batch_tokens=min(options.micro_batch_tokens, batch),
    )


def _in_range(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise UsageError(f"{name} is {value}.", cause=f"It must lie between {low} and {high}.")


def _check_memory(what: str, size_bytes: int) -> None:
    """Refuses what is larger than the whole memory: asking for it would get us killed."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return  # this system does not tell; the engine's own allocation decides
    if 0 < total < size_bytes:
        raise MemoryLimitError(
            f"{what} {format_bytes(size_bytes)} of memory.",
            cause=f"This machine has {format_bytes(total)} in all.",
            way_out="Choose a smaller level, a smaller model or a shorter context.",
        )


def session_settings(threads: int) -> Any:
    """The engine's settings for a session with that many threads."""
    settings = library().SessionOptions()
    settings.log_severity_level = QUIET
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    # Every token has a mask of another length: a plan of memory per length helps nobody.
    settings.enable_mem_pattern = False
    spins = os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive"
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return settings


def _session(artifact: Artifact, options: SessionOptions) -> Any:
    ort = library()
    names = providers.wanted(options)
    settings = session_settings(cast(int, options.threads))
    others = providers.attach(settings, names)
    try:
        # Without "fallback": it would print, and try the same file again.
        return ort.InferenceSession(
            str(artifact.path), settings, providers=others or None, enable_fallback=0
        )
    except Exception as error:  # the engine raises its own types, none of which is exported
        raise translated(error, f"ONNX Runtime cannot load {artifact.path.name}.") from error


def _quantizes_dynamically(artifact: Artifact) -> bool:
    """Whether activations are quantized with one scale for all tokens of a batch."""
    operators = artifact.metadata.get("operators")
    counted = operators if isinstance(operators, Mapping) else {}
    return any(name in counted for name in ("DynamicQuantizeLinear", "DynamicQuantizeMatMul"))


def _vocabulary_tokens(artifact: Artifact, vocabulary: Vocabulary, decoder: Decoder | None) -> int:
    if decoder is not None:
        return decoder.vocabulary_tokens
    return artifact.shape.vocabulary_tokens or vocabulary.tokens or artifact.vocabulary_tokens


def _in_force(
    options: SessionOptions,
    artifact: Artifact,
    signature: Signature,
    decoder: Decoder | None,
    placed: tuple[Placement, ...],
) -> SessionOptions:
    kinds = [cast(KvType, part.kv_type) for part in signature.caches] or ["f32", "f32"]
    return replace(
        options,
        backend="onnx",
        micro_batch_tokens=decoder.batch_tokens if decoder else options.micro_batch_tokens,
        kv_type_k=kinds[0],
        kv_type_v=kinds[1] if len(kinds) > 1 else kinds[0],
        gpu_layers=0 if providers.on_processor(placed) else artifact.shape.layers,
        providers=tuple(placement.provider for placement in placed),
    )


def _require_cache(asked: SessionOptions, in_force: SessionOptions) -> None:
    """Refuses a type of the cache that the graph does not have; f16, the default, asks nothing."""
    for name, wanted, found in (
        ("K", asked.kv_type_k, in_force.kv_type_k),
        ("V", asked.kv_type_v, in_force.kv_type_v),
    ):
        if wanted not in ("f16", found):
            raise UsageError(
                f"The {name} cache cannot be {wanted}.",
                cause=f"The graph keeps it as {found}.",
                way_out="Leave the option out.",
            )


def _buffers(
    artifact: Artifact, decoder: Decoder | None, placed: tuple[Placement, ...]
) -> tuple[Buffer, ...]:
    """What is known of memory: the weights' files, our own cache, inputs and outputs.

    The engine does not tell what it takes for intermediate results.
    """
    main = placed[0].provider.removesuffix("ExecutionProvider") if placed else "CPU"

    def buffer(purpose: Literal["model", "kv", "compute", "output"], size: int) -> Buffer:
        return Buffer(device=main, purpose=purpose, size_bytes=size)

    if decoder is None:
        return buffer("model", artifact.size_bytes), buffer("kv", 0), buffer("compute", 0)
    return (
        buffer("model", artifact.size_bytes),
        buffer("kv", decoder.cache_bytes),
        buffer("compute", decoder.input_bytes),
        buffer("output", decoder.logits_bytes),
    )
