"""The shapes the benchmarks run, and their synthetic artifacts in a scratch folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import profiles
from edge_runtime.artifact import Artifact, ModelShape, TensorInfo
from edge_runtime.artifact.ggml import ValueType
from quantize import synthesize
from quantize.writers import gguf

STORIES_15M = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 288,
    "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6,
    "num_key_value_heads": 6, "vocab_size": 32000, "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
}  # fmt: skip
"""A llama of 15 million parameters, where the overhead of every step shows."""


def shape(name: str) -> ModelShape:
    """A catalogue shape by id, or `15m`."""
    if name == "15m":
        return ModelShape.from_config(STORIES_15M, name="stories-15m")
    return ModelShape.from_config(profiles.models()[name].config, name=name)


def artifact(name: str, level: str, folder: Path, layers: int | None = None) -> Artifact:
    """A synthetic artifact, made once per folder."""
    path = folder / f"{name}-{level}-{layers or 'all'}.gguf"
    if path.exists():
        return Artifact.open(path)
    return synthesize(shape(name), level, path, layers=layers)


def with_vocabulary(source: Artifact, out: Path, *, merges: int = 1) -> Artifact:
    """A copy with a made-up vocabulary of the shape's size, for what needs a tokenizer.

    Its tokens from 2 on are the 256 bytes, as byte-level tokenizers spell them: any text becomes as
    many tokens as it has bytes.
    """
    size = source.shape.vocabulary_tokens
    tokens = [f"t{i:x}" for i in range(size)]
    tokens[2:258] = byte_alphabet()
    metadata = {
        key: value
        for key, value in source.metadata.items()
        if not key.startswith("tokenizer.") and isinstance(value, str | bool | int | float)
    }
    metadata |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tuple(tokens),
        "tokenizer.ggml.token_type": gguf.Array(
            kind=ValueType.INT32, items=[3, 3] + [1] * (size - 2)
        ),
        "tokenizer.ggml.merges": tuple(f"a b{i:x}" for i in range(merges)),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    planned = [
        gguf.PlannedTensor(
            name=tensor.name,
            dims=tensor.dims,
            type=tensor.type,
            slabs=lambda tensor=tensor: _slabs(source.path, tensor),
        )
        for tensor in source.tensors
    ]
    gguf.write(out, metadata, planned)
    return Artifact.open(out)


def byte_alphabet() -> list[str]:
    """The characters that stand for the 256 bytes in byte-level tokenizers, in the bytes' order.

    Those that print stand for themselves; the others for U+0100 and on, in turn.
    """
    printing = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = itertools.count(256)
    return [chr(byte if byte in printing else next(others)) for byte in range(256)]


def _slabs(path: Path, tensor: TensorInfo) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(tensor.offset_bytes)
        left = tensor.size_bytes
        while left:
            piece = file.read(min(left, 1 << 22))
            left -= len(piece)
            yield piece
