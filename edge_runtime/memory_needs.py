"""What memory a model that was not run will need: its file as planned, and each engine's habits.

llama.cpp computes on the mapped file; ONNX Runtime copies every matrix into an order of its own and
keeps the copy. Both are facts of an engine, found by measuring processes, and stated here as
arithmetic on sizes: no process is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from .artifact import ModelShape, TensorInfo, level, types_for
from .measurement import SessionOptions
from .verdict import MemoryFit, Target

PROCESS_BYTES = 96 * 1024**2
"""Interpreter, engine code and tokenizer of a minimal process, where it was not measured."""

ONNX_SESSION_BYTES = 16 * 1024**2
"""What an ONNX Runtime session takes beside weights, cache and activations: 2 to 15 MiB for shapes
of 135M and 0.5B in onnxruntime 1.31.1 (`benchmarks/two_engines.py --memory`)."""

ONNX_HELD: Mapping[str, float] = MappingProxyType({"INT4": 1.24, "INT8": 1.13, "FP16": 2.75})
"""Bytes ONNX Runtime holds on the processor for a stored byte of a type; 1 for every other.

Blocks of integers get a sum each when they are packed: 24 bytes for 20 of int4, 40 for 36 of int8,
of 32 weights. Half precision is turned into floats, and for a moment both are there. Measured with
onnxruntime 1.31.1 on x86-64 at 135M, 0.5B and 1B: 1.20 to 1.30, 1.11 to 1.17, 2.66 to 2.85
(`benchmarks/two_engines.py --memory`)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlannedModel:
    """A model's file before it is made: which tensors it has, stored as what.

    One is itself and equals no other: what was worked out of its tensors is looked up by it.

    `level` is named as a command line does, with `onnx:` before those of ONNX.
    `cache_bytes_per_token` is what a graph's KV cache takes for a token, None for GGUF.
    """

    shape: ModelShape
    level: str
    format: Literal["gguf", "onnx"]
    tensors: tuple[TensorInfo, ...]
    cache_bytes_per_token: int | None = None

    @property
    def weight_bytes(self) -> int:
        """The bytes of all tensor data."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    def kv_bytes(self, context_tokens: int, options: SessionOptions) -> int:
        """The KV cache of one sequence of that many tokens."""
        if self.cache_bytes_per_token is not None:
            return context_tokens * self.cache_bytes_per_token
        return self.shape.kv_bytes(context_tokens, options.kv_type_k, options.kv_type_v)


def planned_gguf(shape: ModelShape, level_name: str) -> PlannedModel:
    """The GGUF file of a shape at a level, by the recipe that writes it.

    Raises UnsupportedError for an unknown level.
    """
    chosen = level(level_name)
    types = types_for(shape, chosen)
    # The layers are alike: few sizes are worked out, and looked up for the rest.
    sizes: dict[tuple[str, tuple[int, ...]], int] = {}
    tensors = []
    for tensor in shape.tensors:
        stored = types[tensor.name]
        key = (stored.name, tensor.dims)
        if key not in sizes:
            sizes[key] = stored.size_bytes(tensor.dims)
        tensors.append(
            TensorInfo(
                name=tensor.name,
                dims=tensor.dims,
                type=stored,
                offset_bytes=0,
                size_bytes=sizes[key],
            )
        )
    return PlannedModel(shape=shape, level=chosen.name, format="gguf", tensors=tuple(tensors))


def memory_fit(
    planned: PlannedModel,
    target: Target,
    options: SessionOptions,
    *,
    available_bytes: int | None,
    process_bytes: int = PROCESS_BYTES,
) -> MemoryFit:
    """What a planned model needs at the target's context.

    With llama.cpp weights count once: where it repacks some, the mapped originals can be dropped.
    With ONNX Runtime it is the packed copies that count, on the processor; the mapped file can be
    dropped as well.
    """
    compute = compute_buffer_bytes(planned.shape, target.context_tokens, options.micro_batch_tokens)
    if planned.format == "onnx":
        compute += ONNX_SESSION_BYTES + held_beyond_file(planned)
    return MemoryFit(
        weights_bytes=planned.weight_bytes,
        kv_bytes=planned.kv_bytes(target.context_tokens, options),
        compute_bytes=compute,
        process_bytes=process_bytes,
        available_bytes=available_bytes,
    )


def held_beyond_file(planned: PlannedModel) -> int:
    """Bytes ONNX Runtime holds for the matrices beyond those the file has for them."""
    return int(
        sum(
            tensor.size_bytes * (ONNX_HELD.get(tensor.type.name, 1.0) - 1.0)
            for tensor in planned.tensors
        )
    )


def compute_buffer_bytes(shape: ModelShape, context_tokens: int, micro_batch_tokens: int) -> int:
    """About what an engine takes for activations when only the last logits are kept, bytes.

    Per token of the micro-batch, in float32: three rows of the feed-forward width, three and a half
    of the hidden width, and one row of the attention mask. Within 12 % of what llama.cpp 0.3.36
    reported for shapes from 135M to 8B, and at least what ONNX Runtime 1.31.1 took for shapes of
    135M and 0.5B; used only where nothing was measured.
    """
    width = 3 * max(shape.intermediate, shape.hidden) + 7 * shape.hidden // 2 + context_tokens
    return 4 * micro_batch_tokens * width
