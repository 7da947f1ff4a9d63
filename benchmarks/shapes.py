"""The shapes the benchmarks run, and their synthetic artifacts in a scratch folder."""

from __future__ import annotations

from pathlib import Path

import profiles
from edge_runtime.artifact import Artifact, ModelShape
from quantize import synthesize

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
